"""How much text there is to read."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from itertools import islice
from typing import Any

from lnbench.estimates.sizes import Work
from lnbench.statistics.corpus_statistics import Reading

_SAMPLED = 20
"""Documents of a text that are tokenised to know how long it is."""
_PACKED, _UNPACKED = (".gz", ".parquet"), 3.0
"""Files that hold about so many times their size in text."""


def of_readings(doing: str, readings: Mapping[str, Reading], *, parts: int = 1) -> Work:
    """Return the work of counting languages' Statistics, as far as it is known before their text is looked at.

    Args:
        doing: For a sentence.
        readings: Language → what is read.
        parts: Machines that share each language.
    """
    first = next(iter(readings.values()))
    halves = 2 if first.until_stable else 1
    return Work(
        doing,
        read=sum(reading.tokens or 0 for reading in readings.values()) // parts,
        length=first.length,
        rows=first.size or 1,
        counted=len(readings) * halves,
    )


def read_of(work: Work, readings: Mapping[str, Reading], tokenizer: Any, *, parts: int = 1) -> Work | None:
    """Return the work with the tokens that the texts have; None where that cannot be known without reading them.

    Args:
        work: Of :func:`of_readings`.
        readings: Language → what is read.
        tokenizer: The model's.
        parts: Machines that share each language.
    """
    tokens = [tokens_of(language, reading, tokenizer) for language, reading in readings.items()]
    known = [each for each in tokens if each is not None]
    return replace(work, read=sum(known) // parts) if len(known) == len(tokens) else None


def tokens_of(language: str, reading: Reading, tokenizer: Any) -> int | None:
    """Return how many tokens a language's text has, by its size and its first documents; at most the budget."""
    files = (corpus := reading.open(language)).files
    if files is None:
        return reading.tokens
    documents = corpus.count()
    begun = list(islice(replace(corpus, shuffle=False), _SAMPLED))
    tokens = sum(len(tokenizer.encode(document, add_special_tokens=False)) for document in begun)
    if documents is not None:
        text = documents * tokens / max(1, len(begun))
    else:
        unpacked = sum(file.stat().st_size * (_UNPACKED if file.suffix in _PACKED else 1) for file in files)
        text = unpacked * tokens / max(1, sum(len(document.encode()) for document in begun))
    return min(round(text), reading.tokens or round(text))
