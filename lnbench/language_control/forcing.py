"""Which language an answer is in, beside the one that was to be forced: scores of one answer.

Source: Gurgurov et al. 2026, *CLaS-Bench*, https://arxiv.org/abs/2601.08331. There, as here, an answer's language is
the likeliest label of the whole answer, its line breaks read as spaces; the identifier is fastText's ``lid.176`` here
and NLLB's ``lid218e`` there. The scores by line, the share in the source language, length and repetition are ours.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

import regex

from lnbench.corpora.identification import UNKNOWN, identified, primary_of

NEXT_QUESTION = "\nQ:"
"""Where a base model invents the next question, its answer ends."""
_VARIANTS = {"wuu": "zh", "yue": "zh", "nn": "no", "nb": "no", "arz": "ar", "azb": "az", "pnb": "pa", "fil": "tl"}
"""Labels that count as another language, as in the published table."""
_LETTER = regex.compile(r"\p{L}")
_WORD = regex.compile(r"[\p{Han}\p{Hiragana}\p{Katakana}\p{Thai}\p{Lao}\p{Khmer}\p{Myanmar}]|[\p{L}\p{M}\p{N}]+")
"""A word between spaces or marks; in scripts without spaces, a character."""


def text_of(answer: str) -> str:
    """Return an answer up to where a base model invents the next question, without white space around it."""
    return answer.split(NEXT_QUESTION)[0].strip()


def language_of(text: str) -> str:
    """Return the language that a text most likely is in, by its ISO 639 code; :data:`UNKNOWN` if it has no letter."""
    if not _LETTER.search(text):
        return UNKNOWN
    label, _ = identified(text)
    return _VARIANTS.get(label, label)


def is_in(text: str, language: str) -> bool:
    """Return whether a text is in a language, given by any code that BCP 47 has of it."""
    return language_of(text) == _label_of(language)


def _label_of(language: str) -> str:
    code = primary_of(language)
    return _VARIANTS.get(code, code)


def lines_of(answer: str) -> list[str]:
    """Return the lines of an answer that have a letter."""
    return [line.strip() for line in text_of(answer).splitlines() if _LETTER.search(line)]


def distinct(answer: str, n: int) -> float | None:
    """Return the share of different ones among an answer's n-grams of words; None if it has fewer words.

    Source: Li et al. 2016, https://aclanthology.org/N16-1014 (distinct-n).
    """
    words = _WORD.findall(text_of(answer).lower())
    grams = list(zip(*(words[start:] for start in range(n)), strict=False))
    return len(set(grams)) / len(grams) if grams else None


def scores(answer: str, target: str, source: str) -> dict[str, float | None]:
    """Return the scores of one answer that should be in ``target``, to a question in ``source``.

    Returns:
        ``lfs``: whether it is in the target language. ``line_lfs``: the share of its lines that are; 0 without a line.
        ``source_share``: whether it is in the source language; 0 where that is the target. ``unknown``: whether it has
        no letter. ``length``: its characters. ``distinct_1``, ``distinct_2``: see :func:`distinct`.
    """
    text, lines = text_of(answer), lines_of(answer)
    found = language_of(text)
    return {
        "lfs": float(found == _label_of(target)),
        "line_lfs": sum(is_in(line, target) for line in lines) / len(lines) if lines else 0.0,
        "source_share": float(primary_of(source) != primary_of(target) and found == _label_of(source)),
        "unknown": float(found == UNKNOWN),
        "length": float(len(text)),
        "distinct_1": distinct(text, 1),
        "distinct_2": distinct(text, 2),
    }


class GeneratedAnswer(str):
    """An answer with its likelihood under the unchanged model, as lnbench's model returns it to a task.

    Attributes:
        nats_per_token: Its negative log-likelihood after its prompt; None where it has no token.
    """

    nats_per_token: float | None

    def __new__(cls, text: str, nats_per_token: float | None = None) -> GeneratedAnswer:
        """Return the text, with its likelihood; a copy is made of the text alone."""
        answer = super().__new__(cls, text)
        answer.nats_per_token = nats_per_token
        return answer


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float | None]:
    """Score one answer of a task: see :func:`scores`; and ``perplexity``, in nats per token until it is aggregated.

    Another model than lnbench's returns no likelihoods, and the task then has no perplexity.
    """
    (answer,) = results
    own = scores(answer, doc["target"], doc["source"])
    return own | ({"perplexity": answer.nats_per_token} if isinstance(answer, GeneratedAnswer) else {})


def language_of_answer(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Score one answer of a task: ``answer_language``, 1 if it is in the row's ``language`` and 0 if not."""
    (answer,) = results
    return {"answer_language": float(is_in(text_of(answer), doc["language"]))}


def mean_of_known(items: Sequence[float | None]) -> float:
    """Return the mean of the values that are known; NaN if none is."""
    known = [item for item in items if item is not None]
    return fmean(known) if known else math.nan


def perplexity(items: Sequence[float | None]) -> float:
    """Return the geometric mean of the answers' perplexities, from their nats per token."""
    return math.exp(mean_of_known(items))
