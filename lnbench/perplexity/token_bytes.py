"""How many bytes of text a token encodes, from how its tokenizer spells it."""

from __future__ import annotations

import re
from collections.abc import Iterable
from typing import Any

_BYTE = re.compile(r"<0x[0-9A-F]{2}>")
_PROBE, _SPELT_BY_BYTES = "中", "ä"
"""A character, and how the first of its three bytes is spelled by tokenizers that spell every byte as a character."""


def byte_lengths(tokenizer: Any, tokens: Iterable[int]) -> dict[int, int]:
    """Return UTF-8 bytes of each token, also of one that holds a part of a character only; 0 for special tokens.

    Byte-level tokenizers (GPT-2's kind) spell each byte as one character. Others (SentencePiece's kind) spell text as
    it is, except ``▁`` in place of a space and ``<0xE4>`` for a byte of a character that they do not have.

    Args:
        tokenizer: A Hugging Face tokenizer.
        tokens: Token ids.
    """
    by_bytes = _SPELT_BY_BYTES in "".join(tokenizer.tokenize(_PROBE))
    special, added = set(tokenizer.all_special_ids), tokenizer.added_tokens_decoder
    found, asked = {}, list(tokens)
    for token, spelled in zip(asked, tokenizer.convert_ids_to_tokens(asked), strict=True):
        if token in special:
            found[token] = 0
        elif token in added:
            found[token] = len(added[token].content.encode())
        elif by_bytes:
            found[token] = len(spelled)
        else:
            found[token] = 1 if _BYTE.fullmatch(spelled) else len(spelled.replace("▁", " ").encode())
    return found
