"""The Language Confusion Benchmark's metrics for lm-eval; the rules are in :mod:`lnbench.language_control.lcb`."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from statistics import fmean
from typing import Any

from lnbench.language_control.english_words import english_words, list_of_words
from lnbench.language_control.lcb import WORD_LANGUAGES, look_at
from lnbench.lm import compat

# Importing lnbench's model does it too; here it is for others, as hf.
compat.apply()


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float | None]:
    """Score one answer.

    Returns:
        ``lpr``, ``line_acc`` and, in languages that have it, ``wpr``: None where the benchmark leaves the answer out.
        ``skipped``: whether it does. ``line_pass``: whether the answer is neither skipped nor has a wrong line.
    """
    language = doc["language"]
    answer = look_at(results[0], language, english_words(list_of_words()))
    passes = answer.lines > 0 and not answer.wrong_lines
    scores = {
        "lpr": float(passes) if answer.lines else None,
        "line_acc": 1 - answer.wrong_lines / answer.lines if answer.lines else None,
        "skipped": float(not answer.lines),
        "line_pass": float(passes),
    }
    if language in WORD_LANGUAGES:
        scores["wpr"] = float(not answer.has_english) if passes else None
    return scores


def over_answered(items: Sequence[float | None]) -> float:
    """Return the mean of the answers that count; 1 where none does, as published."""
    counted = [item for item in items if item is not None]
    return fmean(counted) if counted else 1.0
