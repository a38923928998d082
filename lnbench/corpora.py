"""Corpora: language → text → token blocks.

A corpus pattern is a path with ``{lang}`` (``data/{lang}.jsonl.gz``) or a dataset of the Hugging Face hub
(``wikimedia/wikipedia:20231101.{lang}``: repository, colon, configuration), which is streamed. ``*`` may stand for
``{lang}``, as lm-eval's command line takes no braces, and a folder for its files named by language.
"""

from __future__ import annotations

import glob
import gzip
import json
import random
import re
import zlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from itertools import islice
from pathlib import Path
from typing import TYPE_CHECKING, Any

from lnbench import files
from lnbench.errors import LnbenchError

if TYPE_CHECKING:
    from torch import Tensor

_PLACE = "{lang}"
_LANGUAGE = r"[A-Za-z0-9_\-]+"
_HUB = re.compile(r"(?P<repo>[\w.{}\-]+(/[\w.{}\-]+)?):(?P<config>[^/\\]+)")

#: Documents held at a time for shuffling: a corpus of no more is shuffled wholly, a longer one within a moving window.
SHUFFLE_WINDOW = 50_000
_HUB_SHUFFLE_WINDOW = 10_000
_TOKENIZER_BATCH = 64


@dataclass
class Corpus:
    """The documents of one language: iterate over it, as often as wanted, for texts that are never blank.

    Attributes:
        pattern: The corpus pattern.
        language: The language, as it stands in file names and configurations.
        seed: Seed of the order. Equal seeds give equal orders.
        shuffle: Whether the order is shuffled at all.
        skipped: Blank documents that the latest iteration has passed over.
    """

    pattern: str
    language: str
    seed: int = 0
    shuffle: bool = True
    skipped: int = field(default=0, init=False, compare=False)

    def __post_init__(self) -> None:
        self.pattern = expand(self.pattern)

    @cached_property
    def fingerprint(self) -> str:
        """A short hash of the content and its order."""
        order = self.seed if self.shuffle else None
        return files.fingerprint({"content": fingerprint(self.pattern, self.language), "order": order})

    def __iter__(self) -> Iterator[str]:
        """The documents.

        Raises:
            LnbenchError: the text cannot be read, or there is none.
        """
        self.skipped = 0
        found = False
        for text in self._documents():
            if text.strip():
                found = True
                yield text
            else:
                self.skipped += 1
        if not found:
            raise LnbenchError(f"the corpus {self.pattern} has no text for {self.language}")

    def _documents(self) -> Iterator[str]:
        if _is_hub(self.pattern):
            return _read_hub(self.pattern, self.language, self.seed if self.shuffle else None)
        path = _file(self.pattern, self.language)
        documents = _guarded(path, _READERS[_suffix(self.pattern)](path))
        return _shuffled(documents, self.seed) if self.shuffle else documents


def expand(pattern: str) -> str:
    """A pattern with its ``{lang}`` written out: for ``*``, and for a folder of files named by language.

    Raises:
        LnbenchError: the folder holds no such files, or files of several kinds.
    """
    if _PLACE in pattern:
        return pattern
    if Path(pattern).expanduser().is_dir():
        inside = [f"{pattern.rstrip('/')}/{_PLACE}{suffix}" for suffix in _READERS]
        found = [one for one in inside if _matching(one)]
        if len(found) != 1:
            kinds = ", ".join(_suffix(one) for one in found) or "no files"
            raise LnbenchError(
                f"the corpus folder {pattern} should hold files {{lang}}{' or {lang}'.join(_READERS)} of one kind; it "
                f"has {kinds}"
            )
        return found[0]
    return pattern.replace("*", _PLACE)


def open_corpus(pattern: str, language: str, *, seed: int = 0, shuffle: bool = True) -> Corpus:
    """The documents of ``language`` in a corpus.

    Files hold one document a line, ``.jsonl`` and ``.jsonl.gz`` as objects with ``text``, ``.txt`` and ``.txt.gz`` as
    they are; or one a row, ``.parquet`` in a column ``text``. A path without ``{lang}`` is the language's own file.

    Raises:
        LnbenchError: the pattern names no file of the language, or is of an unknown kind.
    """
    corpus = Corpus(pattern, language, seed, shuffle)
    if not _is_hub(corpus.pattern):
        _file(corpus.pattern, language)
    return corpus


def languages_of(pattern: str) -> list[str]:
    """The languages that a corpus has files for, sorted.

    Raises:
        LnbenchError: no file matches, or the languages cannot be told from the pattern and must be named.
    """
    pattern = expand(pattern)
    if _is_hub(pattern):
        raise LnbenchError(f"the languages of the hub dataset {pattern} cannot be listed: name them with languages=")
    _suffix(pattern)
    if _PLACE not in pattern:
        raise LnbenchError(f"the corpus {pattern} has no {{lang}} in it: name its language with languages=")
    languages = _matching(pattern)
    if not languages:
        raise LnbenchError(f"no file matches the corpus pattern {pattern}")
    return languages


def choose_languages(pattern: str, languages: Sequence[str] | None = None) -> list[str]:
    """``languages`` if the corpus can serve them, and all that it has without them.

    Raises:
        LnbenchError: several languages are asked of a pattern without ``{lang}``, or a file is missing.
    """
    if languages is None:
        return languages_of(pattern)
    pattern = expand(pattern)
    if len(set(languages)) > 1 and _PLACE not in pattern:
        raise LnbenchError(
            f"the corpus {pattern} has no {{lang}} in it, so it cannot serve several languages ({', '.join(languages)})"
        )
    return [open_corpus(pattern, language).language for language in languages]


def fingerprint(pattern: str, language: str) -> str:
    """A short hash of the text of ``language``, whatever its order and wherever it lies.

    For a file, of its bytes. For a hub dataset, of repository, configuration and revision; the revision is unknown
    where the hub cannot be reached.

    Raises:
        LnbenchError: the file is missing or unreadable.
    """
    pattern = expand(pattern)
    if _is_hub(pattern):
        repo, config = _hub_parts(pattern, language)
        return files.fingerprint({"repo": repo, "config": config, "revision": _hub_revision(repo)})
    path = _file(pattern, language)
    try:
        return files.fingerprint({"sha256": files.file_sha256(path)})
    except OSError as error:
        raise LnbenchError(f"cannot read {path}: {error.strerror or error}") from error


def blocks(
    texts: Iterable[str],
    tokenizer: Any,
    length: int = 512,
    batch_size: int = 8,
    tokens: int | None = None,
    drop_last: bool = False,
) -> Iterator[Tensor]:
    """Pack texts into blocks of tokens, without any padding.

    Documents are tokenised without special tokens and joined to one stream, with EOS between two of them where the
    tokenizer has one. The stream is cut into blocks; each starts with BOS where the tokenizer has one.

    Args:
        texts: The documents, e.g. :func:`open_corpus`; blank ones are passed over.
        tokenizer: A Hugging Face tokenizer.
        length: Positions in a block, BOS included; at least 2.
        batch_size: Blocks in a batch. It does not change the stream.
        tokens: Stop after as many tokens of the stream (EOS counts, BOS does not); all by default.
        drop_last: Drop the rest of the stream that does not fill a block.

    Yields:
        ``LongTensor[batch_size, length]``; the last full blocks may be a smaller batch, and the rest of the stream is a
        shorter block ``LongTensor[1, n]``, unless n would be below 2.

    Raises:
        LnbenchError: an argument is out of range, or there is not enough text for one block.
    """
    for name, value, least in (("length", length, 2), ("batch_size", batch_size, 1), ("tokens", tokens, 1)):
        if value is not None and value < least:
            raise LnbenchError(f"{name} must be at least {least}, not {value}")
    rows = _rows(_stream(texts, tokenizer), tokenizer.bos_token_id, length, tokens, 2 if not drop_last else length)
    return _batches(rows, batch_size)


def _stream(texts: Iterable[str], tokenizer: Any) -> Iterator[list[int]]:
    """The tokens of each document, those that separate it from the one before included."""
    separator: list[int] = []
    wanted = (text for text in texts if text.strip())
    while batch := list(islice(wanted, _TOKENIZER_BATCH)):
        for ids in tokenizer(batch, add_special_tokens=False, return_attention_mask=False, verbose=False)["input_ids"]:
            if ids:
                yield separator + ids
                separator = [] if tokenizer.eos_token_id is None else [tokenizer.eos_token_id]


def _rows(
    stream: Iterable[list[int]], bos: int | None, length: int, tokens: int | None, shortest: int
) -> Iterator[list[int]]:
    """Cut the stream into rows of ``length``, and a last one if it has at least ``shortest`` positions."""
    head = [] if bos is None else [bos]
    body = length - len(head)
    rest: list[int] = []
    seen = 0
    for ids in stream:
        taken = ids if tokens is None else ids[: tokens - seen]
        seen += len(taken)
        rest += taken
        whole = len(rest) // body * body
        for start in range(0, whole, body):
            yield head + rest[start : start + body]
        rest = rest[whole:]
        if seen == tokens:
            break
    if rest and len(head) + len(rest) >= shortest:
        yield head + rest
    elif seen < body:
        raise LnbenchError(f"the text comes to {seen} tokens, too few for one block")


def _batches(rows: Iterable[list[int]], size: int) -> Iterator[Tensor]:
    import torch

    batch: list[list[int]] = []
    for row in rows:
        if batch and (len(batch) == size or len(row) != len(batch[0])):
            yield torch.tensor(batch)
            batch = []
        batch.append(row)
    if batch:
        yield torch.tensor(batch)


def _shuffled(documents: Iterable[str], seed: int) -> Iterator[str]:
    # Of Python's generators only random() is promised to give the same numbers in every version.
    draw = random.Random(seed).random
    window: list[str] = []
    for document in documents:
        if len(window) < SHUFFLE_WINDOW:
            window.append(document)
        else:
            chosen = int(draw() * SHUFFLE_WINDOW)
            yield window[chosen]
            window[chosen] = document
    while window:
        chosen = int(draw() * len(window))
        window[chosen], window[-1] = window[-1], window[chosen]
        yield window.pop()


def _is_hub(pattern: str) -> bool:
    return not pattern.endswith(tuple(_READERS)) and _HUB.fullmatch(pattern) is not None


def _suffix(pattern: str) -> str:
    for suffix in sorted(_READERS, key=len, reverse=True):
        if pattern.endswith(suffix):
            return suffix
    raise LnbenchError(
        f"the corpus {pattern} is neither a file of a known kind ({' '.join(_READERS)}) nor a hub dataset "
        "(repository:configuration)"
    )


def _matching(pattern: str) -> list[str]:
    """The languages for which a file exists, sorted."""
    first, *others = str(Path(pattern).expanduser()).split(_PLACE)
    middle = [re.escape(others[0]), *("(?P=lang)" + re.escape(part) for part in others[1:])]
    expression = re.compile(f"{re.escape(first)}(?P<lang>{_LANGUAGE}){''.join(middle)}")
    found = glob.glob("*".join(map(glob.escape, [first, *others])))  # noqa: PTH207 (a pattern may be absolute)
    return sorted(match["lang"] for path in found if (match := expression.fullmatch(path)) and Path(path).is_file())


def _file(pattern: str, language: str) -> Path:
    _suffix(pattern)
    if not re.fullmatch(_LANGUAGE, language):
        raise LnbenchError(f"{language!r} is not the name of a language: letters, digits, - and _ only")
    path = Path(pattern.replace(_PLACE, language)).expanduser()
    if path.is_file():
        return path
    if _PLACE not in pattern:
        raise LnbenchError(f"no such corpus file: {pattern}")
    languages = ", ".join(_matching(pattern)) or "none"
    raise LnbenchError(f"the corpus {pattern} has no file for {language}; it has: {languages}")


def _guarded(path: Path, documents: Iterator[str]) -> Iterator[str]:
    """Pass documents on, and say what is wrong with the file when that fails."""
    try:
        yield from documents
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
            for batch in table.iter_batches(columns=["text"]):
                yield from (str(text or "") for text in batch.column(0).cast(pyarrow.string()).to_pylist())
    except (pyarrow.ArrowException, UnicodeDecodeError) as error:
        raise LnbenchError(f"{path} is not a readable Parquet file with a column text ({error})") from error


_READERS: dict[str, Callable[[Path], Iterator[str]]] = {
    ".jsonl": _read_jsonl,
    ".jsonl.gz": _read_jsonl,
    ".txt": _read_lines,
    ".txt.gz": _read_lines,
    ".parquet": _read_parquet,
}


def _hub_parts(pattern: str, language: str) -> tuple[str, str]:
    repo, _, config = pattern.replace(_PLACE, language).partition(":")
    return repo, config


def _hub_revision(repo: str) -> str | None:
    """The commit that the hub's dataset is at, or None where the hub cannot be reached."""
    from huggingface_hub import HfApi

    try:
        return HfApi().dataset_info(repo, timeout=10).sha
    except Exception:  # Offline, private, misspelt: the attempt to read the text says which.
        return None


def _read_hub(pattern: str, language: str, seed: int | None) -> Iterator[str]:
    from datasets import load_dataset

    repo, config = _hub_parts(pattern, language)
    try:
        data = load_dataset(repo, config, split="train", streaming=True, revision=_hub_revision(repo))
        rows = iter(data if seed is None else data.shuffle(seed=seed, buffer_size=_HUB_SHUFFLE_WINDOW))
        while (row := next(rows, None)) is not None:
            yield row["text"]
    except Exception as error:  # Half a dozen libraries raise their own kinds here.
        raise LnbenchError(
            f"cannot read {config} of the hub dataset {repo} ({_first_line(error)}); files can be named instead, "
            "as in data/{lang}.jsonl"
        ) from error


def _first_line(error: Exception) -> str:
    return (str(error).splitlines() or [type(error).__name__])[0]
