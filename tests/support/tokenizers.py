"""Byte-level tokenizers that differ in what real ones differ in: merges, special tokens, whether BOS is added."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from tokenizers import Tokenizer, decoders, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

_BYTES = sorted(pre_tokenizers.ByteLevel.alphabet())


def byte_tokenizer(
    *,
    merged: Sequence[str] = (),
    bos: bool = True,
    eos: bool = True,
    pad: bool = True,
    adds_bos: bool = True,
    split: bool = True,
) -> PreTrainedTokenizerFast:
    """Return a tokenizer of one token per byte, but for the texts in ``merged``, which are one token each.

    Args:
        merged: Texts of ASCII letters (``Ġ`` for a space). All of one but its last letter is a token, too.
        bos: Whether it has ``<bos>``.
        eos: Whether it has ``<eos>``.
        pad: Whether it has ``<pad>``.
        adds_bos: Whether it puts BOS before a text.
        split: Whether words are tokenised apart.
    """
    special = [name for name, has in (("<pad>", pad), ("<bos>", bos), ("<eos>", eos)) if has]
    vocabulary = {token: number for number, token in enumerate([*special, *_BYTES, *merged])}
    merges = [(text[:-1], text[-1]) for text in merged]
    backend = Tokenizer(models.BPE(vocab=vocabulary, merges=merges))
    backend.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=split)
    backend.decoder = decoders.ByteLevel()
    if special:
        backend.add_special_tokens(special)
    if bos and adds_bos:
        backend.post_processor = processors.TemplateProcessing(
            single="<bos> $A", special_tokens=[("<bos>", vocabulary["<bos>"])]
        )
    names: dict[str, Any] = {f"{name[1:-1]}_token": name for name in special}
    return PreTrainedTokenizerFast(tokenizer_object=backend, **names)
