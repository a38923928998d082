"""CLaS-Bench's steering score: how often answers are in the target language, and how relevant they are, in one number.

Source: Gurgurov et al. 2026, https://arxiv.org/abs/2601.08331. As published, success and rating are means over all
answers of a pair, target, source, or of all of them, and the score is the harmonic mean of the two. Pairs whose source
is their target are counted there, and left out here unless they are asked for. The intervals are ours.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

BEST_RATING = 2
_DRAWS = 2_000
Interval = tuple[float, float]
Pair = tuple[str, str]
"""Source, target."""


@dataclass(frozen=True)
class RatedAnswer:
    """What is known of one answer."""

    question: str
    """The same in all languages."""
    source: str
    target: str
    success: float
    """1 if it is in the target language, else 0."""
    rating: int | None = None
    """0, 1 or 2; None where nobody rated it, or what the judge wrote holds no rating."""
    judged: bool = False
    """Whether a judge was asked."""


@dataclass(frozen=True)
class Steering:
    """The scores of some answers, between 0 and 1; each 95 % interval is over draws of questions."""

    n: int
    lfs: float
    """Language forcing success: the share of answers in the target language."""
    lfs_interval: Interval | None
    relevance: float | None
    """Mean rating / 2; None where no answer has one."""
    relevance_interval: Interval | None
    score: float | None
    """Harmonic mean of both."""
    score_interval: Interval | None
    unparsable: int
    """Answers whose rating could not be read, which are left out of the mean rating."""


def harmonic_mean(first: float, second: float) -> float:
    """Return the harmonic mean of two numbers from 0 on; 0 if one is 0."""
    return 2 * first * second / (first + second) if first and second else 0.0


def summarise(answers: Sequence[RatedAnswer], seed: int = 0) -> Steering:
    """Return the scores of some answers.

    Args:
        answers: At least one.
        seed: Of the draws of questions, each with all its answers: answers to one question are no independent ones.
    """
    questions = sorted({answer.question for answer in answers})
    place = {question: number for number, question in enumerate(questions)}
    # Per question: answers, successes, ratings, their sum.
    sums = np.zeros((len(questions), 4))
    for answer in answers:
        rated = answer.rating is not None
        sums[place[answer.question]] += (1, answer.success, rated, answer.rating or 0)
    lfs, relevance, score = _scores(sums.sum(0, keepdims=True))
    draws = np.random.default_rng(seed).multinomial(len(questions), np.full(len(questions), 1 / len(questions)), _DRAWS)
    bounds = [_interval(values) if len(questions) > 1 else None for values in _scores(draws @ sums)]
    known = sums[:, 2].any()
    return Steering(
        n=len(answers),
        lfs=float(lfs[0]),
        lfs_interval=bounds[0],
        relevance=float(relevance[0]) if known else None,
        relevance_interval=bounds[1],
        score=float(score[0]) if known else None,
        score_interval=bounds[2],
        unparsable=sum(answer.judged and answer.rating is None for answer in answers),
    )


def by_group(
    answers: Iterable[RatedAnswer], group: Callable[[RatedAnswer], Pair], *, diagonal: bool = False
) -> dict[Pair, Steering]:
    """Return the scores of each group of answers, in the order in which groups first occur.

    Args:
        answers: In any order.
        group: Returns the group of an answer: :func:`pair_of`, :func:`target_of`, :func:`source_of`, :func:`overall`.
        diagonal: Whether pairs whose source is their target are counted.
    """
    groups: dict[Pair, list[RatedAnswer]] = {}
    for answer in answers:
        if diagonal or answer.source != answer.target:
            groups.setdefault(group(answer), []).append(answer)
    return {name: summarise(members) for name, members in groups.items()}


ALL = "all"


def pair_of(answer: RatedAnswer) -> Pair:
    """Return source and target."""
    return answer.source, answer.target


def target_of(answer: RatedAnswer) -> Pair:
    """Return the target, from all sources."""
    return ALL, answer.target


def source_of(answer: RatedAnswer) -> Pair:
    """Return the source, to all targets."""
    return answer.source, ALL


def overall(_: RatedAnswer) -> Pair:
    """Return the group of all answers."""
    return ALL, ALL


def _scores(sums: NDArray[np.float64]) -> tuple[NDArray[np.float64], ...]:
    """Return success, relevance and score of each row of sums; NaN where nothing is known."""
    count, successes, rated, ratings = sums.T
    with np.errstate(invalid="ignore", divide="ignore"):
        lfs, relevance = successes / count, ratings / rated / BEST_RATING
        both = lfs + relevance
        return lfs, relevance, np.where(both == 0, 0.0, 2 * lfs * relevance / both)


def _interval(values: NDArray[np.float64]) -> Interval | None:
    known = values[np.isfinite(values)]
    return (float(np.quantile(known, 0.025)), float(np.quantile(known, 0.975))) if len(known) else None
