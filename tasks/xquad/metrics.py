"""Exact match and F1 for extractive question answering, normalised by language as MLQA's evaluation does.

Source: Lewis et al. 2020, https://aclanthology.org/2020.acl-main.653, and its ``mlqa_evaluation_v1.py``: lower-case,
remove punctuation, remove articles, split into tokens. Scores lie between 0 and 1 here, not 0 and 100. Two things go
beyond it: Urdu, which has no articles and is split at spaces; and two answers of which nothing is left have an F1 of 1,
as in SQuAD 2.0, so that no exact match has an F1 of 0.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections import Counter
from collections.abc import Mapping, Sequence
from functools import cache
from typing import Any

from lnbench.errors import unknown


def _words(words: str) -> str:
    return rf"\b(?:{'|'.join(words.split())})\b"


ARTICLES = {
    "ar": "ال",
    "de": _words("ein eine einen einem eines einer der die das den dem des"),
    "en": _words("a an the"),
    "es": _words("un una unos unas el la los las"),
    "hi": "",
    "ur": "",
    "vi": _words("của là cái chiếc những"),
    "zh": "",
}
"""Language → regular expression of what is removed; the languages that can be scored."""

_TOKEN = r"\S+"
TOKENS = {"zh": r"[\u4e00-\u9fa5]|[^\s\u4e00-\u9fa5]+"}
"""Language → regular expression of a token, where tokens are not separated by spaces."""


@cache
def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")


def tokens(text: str, language: str) -> list[str]:
    """The normalised tokens of an answer.

    Raises:
        LnbenchError: the language has no rules here.
    """
    if language not in ARTICLES:
        raise unknown("question-answering language", language, ARTICLES, "Add it to ARTICLES in tasks/xquad/metrics.py")
    text = "".join(character for character in text.lower() if not _is_punctuation(character))
    if articles := ARTICLES[language]:
        text = re.sub(articles, " ", text)
    return re.findall(TOKENS.get(language, _TOKEN), text)


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
    """Both metrics of one generated answer: the best over all gold answers."""
    language = doc["language"]
    prediction = tokens(results[0], language)
    answers = [tokens(gold, language) for gold in golds(doc)]
    return {metric.__name__: max(metric(prediction, gold) for gold in answers) for metric in (exact_match, f1)}
