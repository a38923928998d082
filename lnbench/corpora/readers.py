"""Corpus files of every kind, read one document at a time."""

from __future__ import annotations

import gzip
import json
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from lnbench.errors import LnbenchError


def read_file(path: Path, suffix: str) -> Iterator[str]:
    """Yield the documents of a file, blank ones included; ``suffix`` is a key of :data:`READERS`.

    Raises:
        LnbenchError: the file is unreadable, truncated, or not of its kind; the line is named.
    """
    try:
        yield from READERS[suffix](path)
    except (EOFError, zlib.error, gzip.BadGzipFile) as error:
        raise LnbenchError(f"{path} is truncated or is not gzip data ({error})") from error
    except OSError as error:
        raise LnbenchError(f"cannot read {path}: {error.strerror or error}") from error


def _read_lines(path: Path) -> Iterator[str]:
    opener: Callable[..., Any] = gzip.open if path.suffix == ".gz" else open
    with opener(path, "rb") as file:
        for number, line in enumerate(file, start=1):
            try:
                yield line.decode("utf-8-sig" if number == 1 else "utf-8").rstrip("\r\n")
            except UnicodeDecodeError as error:
                raise LnbenchError(f"{path}, line {number}: not valid UTF-8") from error


def _read_jsonl(path: Path) -> Iterator[str]:
    for number, line in enumerate(_read_lines(path), start=1):
        if not line.strip():
            continue
        try:
            text = json.loads(line)["text"]
            text.encode()  # JSON can spell halves of characters, which no tokenizer takes.
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise LnbenchError(f'{path}, line {number}: not a JSON object with a valid "text"') from error
        yield text


def _read_parquet(path: Path) -> Iterator[str]:
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            if "text" not in table.schema_arrow.names:
                raise LnbenchError(f"{path} has no column text; it has: {', '.join(table.schema_arrow.names)}")
            for batch in table.iter_batches(columns=["text"], batch_size=1024):
                yield from (str(text or "") for text in batch.column(0).cast(pyarrow.string()).to_pylist())
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise LnbenchError(f"{path} is not a readable Parquet file with a column text ({error})") from error


#: Suffix → how such a file is read.
READERS: dict[str, Callable[[Path], Iterator[str]]] = {
    ".jsonl": _read_jsonl,
    ".jsonl.gz": _read_jsonl,
    ".txt": _read_lines,
    ".txt.gz": _read_lines,
    ".parquet": _read_parquet,
}
