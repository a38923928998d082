"""Exact match and F1 for extractive question answering, normalised by language as MLQA's evaluation does.

Source: Lewis et al. 2020, https://aclanthology.org/2020.acl-main.653; the rules are in :mod:`lnbench.answer_rules`.
Scores lie between 0 and 1 here, not 0 and 100. Two answers of which nothing is left have an F1 of 1, as in SQuAD 2.0,
so that no exact match has an F1 of 0.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any

from lnbench.answer_rules import rules_of

_END = "\x03"


def exact_match(prediction: Sequence[str], gold: Sequence[str]) -> float:
    """1 if the two token lists are equal, else 0."""
    return float(list(prediction) == list(gold))


def f1(prediction: Sequence[str], gold: Sequence[str]) -> float:
    """The harmonic mean of precision and recall over the two bags of tokens."""
    if not prediction or not gold:
        return exact_match(prediction, gold)
    common = (Counter(prediction) & Counter(gold)).total()
    return 2 * common / (len(prediction) + len(gold))


def golds(doc: Mapping[str, Any]) -> list[str]:
    """All gold answers of a row (``doc_to_target``)."""
    return list(doc["answers"]["text"])


def process_results(doc: Mapping[str, Any], results: Sequence[str]) -> dict[str, float]:
    """Both metrics of one generated answer: the best over all gold answers.

    Where the row's ``end_token`` is true, both answers have one more token in common, as in the paper's code.
    """
    rules = rules_of(doc)
    end = [_END] if doc.get("end_token") else []
    prediction = rules.split(results[0]) + end
    answers = [rules.split(gold) + end for gold in golds(doc)]
    return {metric.__name__: max(metric(prediction, gold) for gold in answers) for metric in (exact_match, f1)}
