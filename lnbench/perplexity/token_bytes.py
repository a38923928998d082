"""How many bytes of text a token encodes, from how its tokenizer spells it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")


def byte_lengths(tokenizer: Any, tokens: Iterable[int]) -> dict[int, int]:
    """Return UTF-8 bytes of each token, also of one that holds a part of a character only; 0 for special tokens.

    Byte-level tokenizers (GPT-2's kind) spell each byte as one character. Others (SentencePiece's kind) spell text as
    it is, except ``▁`` in place of a space and ``<0xE4>`` for a byte of a character that they do not have.

    Args:
        tokenizer: A Hugging Face tokenizer.
        tokens: Token ids.
    """
    # The first of the character's three bytes, as byte-level tokenizers spell it.
    is_byte_level = "ä" in "".join(tokenizer.tokenize("中"))
    special, added = set(tokenizer.all_special_ids), tokenizer.added_tokens_decoder
    lengths, ids = {}, list(tokens)
    for token, spelled in zip(ids, tokenizer.convert_ids_to_tokens(ids), strict=True):
        if token in special:
            lengths[token] = 0
        elif token in added:
            lengths[token] = len(added[token].content.encode())
        elif is_byte_level:
            lengths[token] = len(spelled)
        else:
            lengths[token] = 1 if _BYTE.fullmatch(spelled) else len(spelled.replace("▁", " ").encode())
    return lengths
