"""Texts, files of every kind and word-level tokenizers for the corpus tests."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
from collections.abc import Callable
from pathlib import Path

import zstandard
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import PreTrainedTokenizerFast

TEXTS = ["नमस्ते दुनिया", "second text", "третий текст", "第四", "five\u2028still five"]
BOS, EOS, PAD = 0, 1, 2


def write_parquet(path: Path, texts: list[str]) -> None:
    import pyarrow
    import pyarrow.parquet

    pyarrow.parquet.write_table(pyarrow.table({"text": texts, "id": list(range(len(texts)))}), path)


def as_jsonl(texts: list[str]) -> bytes:
    return "".join(json.dumps({"text": text}) + "\n" for text in texts).encode()


def as_lines(texts: list[str]) -> bytes:
    return "".join(text + "\r\n" for text in texts).encode("utf-8-sig")


def as_table(texts: list[str], delimiter: str) -> bytes:
    table = io.StringIO()
    csv.writer(table, delimiter=delimiter).writerows([("id", "text"), *enumerate(texts)])
    return table.getvalue().encode()


CONTENTS = {
    ".jsonl": as_jsonl,
    ".ndjson": as_jsonl,
    ".json": as_jsonl,
    ".txt": as_lines,
    ".csv": lambda texts: as_table(texts, ","),
    ".tsv": lambda texts: as_table(texts, "\t"),
}
COMPRESSIONS = {
    "": bytes,
    ".gz": gzip.compress,
    ".bz2": bz2.compress,
    ".xz": lzma.compress,
    ".zst": lambda content: zstandard.ZstdCompressor().compress(content),
}


def _writer(kind: str, compression: str) -> Callable[[Path, list[str]], object]:
    return lambda path, texts: path.write_bytes(COMPRESSIONS[compression](CONTENTS[kind](texts)))


WRITERS = {kind + compression: _writer(kind, compression) for kind in CONTENTS for compression in COMPRESSIONS}
WRITERS[".parquet"] = write_parquet


def make_tokenizer(bos: bool = True, eos: bool = True) -> PreTrainedTokenizerFast:
    words = ["<bos>", "<eos>", "<unk>", *"abcdefgh"]
    backend = Tokenizer(models.WordLevel({word: number for number, word in enumerate(words)}, unk_token="<unk>"))
    backend.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    if bos:
        backend.post_processor = processors.TemplateProcessing(single="<bos> $A", special_tokens=[("<bos>", 0)])
    special = {"unk_token": "<unk>"} | ({"bos_token": "<bos>"} if bos else {}) | ({"eos_token": "<eos>"} if eos else {})
    return PreTrainedTokenizerFast(tokenizer_object=backend, **special)


TOKENIZERS = {(bos, eos): make_tokenizer(bos, eos) for bos in (True, False) for eos in (True, False)}
