"""Corpus files of every kind, read one document at a time."""

from __future__ import annotations

import bz2
import csv
import gzip
import io
import json
import lzma
import sys
import zlib
from collections.abc import Callable, Generator, Iterable, Iterator
from itertools import islice
from pathlib import Path
from typing import IO, Any

from lnbench.errors import LnbenchError

TEXT = "text"
"""The column, or entry of an object, that is read where no other is named."""
_BOM = "\N{ZERO WIDTH NO-BREAK SPACE}"
_UTF_16 = (b"\xff\xfe", b"\xfe\xff")
_SHOWN = 12
"""Columns that a message lists."""


class BadLine(str):
    """A document that could not be read: an empty text, with the reason."""

    __slots__ = ("reason",)
    reason: str

    @classmethod
    def of(cls, reason: str) -> BadLine:
        """Return one for a reason, file and line included."""
        line = cls()
        line.reason = reason
        return line


def read_file(path: Path, suffix: str, column: str = TEXT) -> Iterator[str]:
    """Yield the documents of a file: blank ones too, null as a blank one, a :class:`BadLine` for what is none.

    Args:
        path: The file.
        suffix: A key of :data:`READERS`.
        column: Column, or entry of an object, that holds the text; lines of text have none.

    Raises:
        LnbenchError: the file is unreadable, truncated, not of its kind, or has no such column.
    """
    try:
        yield from READERS[suffix](path, column)
    except (EOFError, zlib.error, gzip.BadGzipFile, lzma.LZMAError) as error:
        raise LnbenchError(f"{path} is truncated or is not {_compression(path)} data ({error})") from error
    except OSError as error:
        raise LnbenchError(f"cannot read {path}: {error.strerror or error}") from error


def _compression(path: Path) -> str:
    return {".gz": "gzip", ".bz2": "bzip2", ".xz": "xz", ".zst": "Zstandard"}.get(path.suffix, "such")


class _Zstandard(io.RawIOBase):
    """A stream of a file's frames, which raises EOFError where the last one has no end."""

    def __init__(self, path: Path) -> None:
        self._chunks = self._decompressed(path)
        self._left = b""

    def readable(self) -> bool:
        return True

    def readinto(self, buffer: Any) -> int:
        while not self._left and (chunk := next(self._chunks, None)) is not None:
            self._left = chunk
        taken, self._left = self._left[: len(buffer)], self._left[len(buffer) :]
        buffer[: len(taken)] = taken
        return len(taken)

    def close(self) -> None:
        self._chunks.close()
        super().close()

    @staticmethod
    def _decompressed(path: Path) -> Generator[bytes]:
        import zstandard

        frame = None
        with path.open("rb") as file:
            while piece := file.read(1 << 18):
                while piece:
                    frame = frame or zstandard.ZstdDecompressor().decompressobj()
                    try:
                        yield frame.decompress(piece)
                    except zstandard.ZstdError as error:
                        raise EOFError(str(error)) from error
                    piece = frame.unused_data
                    if frame.eof:
                        frame = None
        if frame is not None:
            raise EOFError("the last frame has no end")


def _open_zst(path: Path, _mode: str) -> Any:
    return io.BufferedReader(_Zstandard(path), 1 << 18)


_OPENERS: dict[str, Callable[[Path, Any], Any]] = {
    "": Path.open,
    ".gz": gzip.open,
    ".bz2": bz2.open,
    ".xz": lzma.open,
    ".zst": _open_zst,
}
"""Suffix → how a file that is compressed in this way is opened."""


def _open(path: Path) -> IO[bytes]:
    opened: IO[bytes] = _OPENERS.get(path.suffix, Path.open)(path, "rb")
    return opened


def _lines(path: Path) -> Iterator[tuple[str, bytes]]:
    """Yield where each line is, and the line without its end, nor the mark at the start of a file."""
    with _open(path) as file:
        for number, line in enumerate(file, start=1):
            if number == 1 and line.startswith(_UTF_16):
                raise LnbenchError(f"{path} is UTF-16, not UTF-8: convert it with iconv -f UTF-16 -t UTF-8")
            if number == 1:
                line = line.removeprefix(_BOM.encode())
            yield f"{path}, line {number}", line.rstrip(b"\r\n")


def _decoded(where: str, line: bytes) -> str:
    """Return a line's text; a :class:`BadLine` where it is none."""
    if line and not line.strip(b"\0"):
        return BadLine.of(f"{where}: {len(line):,} NUL bytes, as a crash of the machine leaves: cut them off")
    try:
        text = line.decode()
    except UnicodeDecodeError as error:
        byte = line[error.start]
        return BadLine.of(
            f"{where}: not valid UTF-8 (byte 0x{byte:02X} at column {error.start + 1}; in Latin-1 it is "
            f"{chr(byte)!r}): if the file is Latin-1, convert it with iconv -f LATIN1 -t UTF-8"
        )
    if text.startswith(_BOM):
        return BadLine.of(f"{where}: a byte order mark (U+FEFF) inside the file, as joined files have: take it out")
    return text


def _old_mac(where: str) -> BadLine:
    return BadLine.of(f"{where}: lines that end with CR alone, as on old Macs: convert the file with tr '\\r' '\\n'")


def _read_txt(path: Path, _column: str) -> Iterator[str]:
    for where, line in _lines(path):
        text = _decoded(where, line)
        yield _old_mac(where) if "\r" in text else text


def _read_jsonl(path: Path, column: str) -> Iterator[str]:
    for where, line in _lines(path):
        if line.strip():
            text = _decoded(where, line)
            made = text if isinstance(text, BadLine) else _of_json(where, text, column)
            yield _old_mac(where) if isinstance(made, BadLine) and "\r" in text else made


def _of_json(where: str, line: str, column: str) -> str:
    """Return the text of one JSON object; a :class:`BadLine` where there is none."""
    try:
        value = json.loads(line)
    except json.JSONDecodeError as error:
        cut = " (it may be cut off)" if error.pos >= len(line.rstrip()) or "Unterminated" in error.msg else ""
        return BadLine.of(f"{where}: not JSON: {error.msg} at column {error.pos + 1}{cut}")
    except RecursionError:
        return BadLine.of(f"{where}: JSON that is nested too deeply")
    except ValueError as error:
        return BadLine.of(f"{where}: not JSON that can be read: {error}")
    return _text_of(where, value, column)


def _text_of(where: str, value: object, column: str) -> str:
    if not isinstance(value, dict):
        return BadLine.of(f'{where}: {_kind(value)}, not an object with "{column}"')
    if column not in value:
        return BadLine.of(
            f'{where}: an object without "{column}"; it has: {_listed(value)} (--text-column names another)'
        )
    text = value[column]
    if text is None:
        return ""
    if not isinstance(text, str):
        return BadLine.of(f'{where}: "{column}" is {_kind(text)}, not a text')
    # JSON can spell halves of characters, which no tokenizer takes.
    if half := next((character for character in text if "\ud800" <= character <= "\udfff"), None):
        return BadLine.of(f'{where}: "{column}" holds half of a character (a lone surrogate, \\u{ord(half):04x})')
    return text


_KINDS: dict[type, str] = {type(None): "null", bool: "true or false", list: "a list", dict: "an object", str: "a text"}


def _kind(value: object) -> str:
    return _KINDS.get(type(value), "a number")


def _listed(names: Iterable[object]) -> str:
    # A stranger's names may hold line breaks, which would break the message.
    first = [text if (text := str(name)).isprintable() else repr(text) for name in islice(names, _SHOWN + 1)]
    return ", ".join(first[:_SHOWN]) + (" …" if len(first) > _SHOWN else "") if first else "nothing"


def _no_column(path: Path, column: str, columns: Iterable[str]) -> LnbenchError:
    return LnbenchError(f"{path} has no column {column}; it has: {_listed(columns)} (--text-column names another)")


def _read_json(path: Path, column: str) -> Iterator[str]:
    """Read lines of JSON, or one list of objects."""
    with _open(path) as file:
        start = file.read(64).removeprefix(_BOM.encode()).lstrip()
    if not start.startswith(b"["):
        yield from _read_jsonl(path, column)
        return
    with _open(path) as file:
        content = file.read()
    try:
        values = json.loads(content.decode("utf-8-sig"))
    except (ValueError, RecursionError) as error:
        raise LnbenchError(f"{path} begins as a list of JSON and is not one: {error}") from error
    for number, value in enumerate(values, start=1):
        yield _text_of(f"{path}, entry {number}", value, column)


def _read_csv(path: Path, column: str, delimiter: str = ",") -> Iterator[str]:
    # A field of a book is longer than the module expects.
    csv.field_size_limit(min(sys.maxsize, 2**31 - 1))
    lines = (line.decode("utf-8", "surrogateescape") + "\n" for _, line in _lines(path))
    rows = csv.reader(lines, delimiter=delimiter, strict=True)
    try:
        header = next(rows, [])
        if header and column not in header:
            raise _no_column(path, column, header)
        for row in rows:
            if not row:
                continue
            where = f"{path}, line {rows.line_num}"
            if len(row) != len(header):
                yield BadLine.of(f"{where}: {len(row)} fields, where the header has {len(header)}")
                continue
            text = row[header.index(column)]
            # Line breaks inside quotes are text; the rest is as for lines.
            checked = _decoded(where, text.replace("\r", "").encode("utf-8", "surrogateescape"))
            yield checked if isinstance(checked, BadLine) else text
    except csv.Error as error:
        raise LnbenchError(f"{path}, line {rows.line_num}: not {delimiter!r}-separated values ({error})") from error


def _read_tsv(path: Path, column: str) -> Iterator[str]:
    return _read_csv(path, column, "\t")


def _read_parquet(path: Path, column: str) -> Iterator[str]:
    import pyarrow  # type: ignore[import-untyped]
    import pyarrow.parquet  # type: ignore[import-untyped]

    try:
        with pyarrow.parquet.ParquetFile(path) as table:
            names = table.schema_arrow.names
            if column not in names:
                raise _no_column(path, column, names)
            for batch in table.iter_batches(columns=[column], batch_size=1024):
                yield from (text or "" for text in batch.column(0).cast(pyarrow.string()).to_pylist())
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise LnbenchError(f"{path} is not a readable Parquet file with a column {column} of text ({error})") from error


_OF_LINES: dict[str, Callable[[Path, str], Iterator[str]]] = {
    ".jsonl": _read_jsonl,
    ".ndjson": _read_jsonl,
    ".json": _read_json,
    ".txt": _read_txt,
    ".csv": _read_csv,
    ".tsv": _read_tsv,
}

#: Suffix → how such a file is read.
READERS: dict[str, Callable[[Path, str], Iterator[str]]] = {
    **{kind + compression: reader for kind, reader in _OF_LINES.items() for compression in _OPENERS},
    ".parquet": _read_parquet,
}
