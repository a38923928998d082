"""Read text until two halves of it choose the same neurons: Statistics that know when they have seen enough."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from lnbench.analysis.stability import compare_halves
from lnbench.choices import select
from lnbench.errors import LnbenchError
from lnbench.formats import FormatFile
from lnbench.model.architectures import POST
from lnbench.settings import UntilStable
from lnbench.statistics.corpus_statistics import Reading
from lnbench.statistics.halves import Halves

log = logging.getLogger(__name__)
FIRST = 8_192
"""Tokens per language, both halves together, after which the halves are compared first; each time twice as many."""


class StabilityPoint(BaseModel):
    """How far the neurons of two halves agree after so much text."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    tokens: dict[str, int] = Field(min_length=1, description="language: tokens counted, both halves together")
    jaccard: dict[str, dict[str, float | None]] = Field(
        description="selector: language: Jaccard index of the halves' neurons; null where neither has any"
    )

    @property
    def least(self) -> float:
        """The smallest of the Jaccard indices; 1 where there are no neurons at all."""
        return min((value for each in self.jaccard.values() for value in each.values() if value is not None), default=1)


class StabilityCurve(FormatFile):
    """How far the neurons of two halves of a text agree, by tokens read, and why reading stopped."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    kind: ClassVar[str] = "curve of stability"
    usual_name: ClassVar[str] = "stability-curve.json"

    format: Literal["lnbench.stability-curve/1"] = Field(
        default="lnbench.stability-curve/1", description="name and version"
    )
    model: str | None = Field(default=None, description="as it was named; not in older files")
    request: str = Field(description="fingerprint of the model, the text and what was asked for")
    stable: float = Field(description="Jaccard index to reach, in every language and by every selector")
    points: list[StabilityPoint] = Field(description="by tokens read, ascending")
    stopped: Literal["stable", "text", ""] = Field(
        default="", description="why reading stopped: both halves agree, or there is no more text in the budget"
    )

    @property
    def selectors(self) -> list[str]:
        """The selectors that were compared, as they were asked for."""
        return list(dict.fromkeys(selector for point in self.points for selector in point.jaccard))

    @property
    def languages(self) -> list[str]:
        """The languages, in their order."""
        return list(dict.fromkeys(code for point in self.points for each in point.jaccard.values() for code in each))

    def of(self, selector: str, language: str) -> list[tuple[int, float | None]]:
        """Return the points of one selector and language: tokens counted, and the Jaccard index."""
        return [
            (point.tokens[language], point.jaccard.get(selector, {}).get(language))
            for point in self.points
            if language in point.tokens
        ]

    def why(self) -> str:
        """Return one sentence on why reading stopped."""
        last = self.points[-1]
        read = max(last.tokens.values())
        if self.stopped == "stable":
            return (
                f"two halves of {read:,} tokens per language choose the same neurons: Jaccard index of at least "
                f"{last.least:.2f} in every language, {self.stable:g} asked for"
            )
        return (
            f"the text, or its budget, ended at {read:,} tokens before two halves of it choose the same neurons: "
            f"Jaccard index of {last.least:.2f} in the least stable language, {self.stable:g} asked for"
        )


def collect_until_stable(
    model: nn.Module,
    tokenizer: Any,
    folder: Path,
    readings: Mapping[str, Reading],
    *,
    site: str = POST,
    say: Callable[[str], None] = log.info,
    first: int = FIRST,
    **options: Any,
) -> StabilityCurve:
    """Fill a Statistics folder with as much text as the neurons need, see :class:`~lnbench.settings.UntilStable`.

    Every language is read in two halves, each of every other document, to 8,192 tokens, and then to twice as many as
    before, until every selector chooses neurons of the asked-for Jaccard index on the two, in every language. The
    halves' counts add up to the Statistics. After an interruption the same call continues, to the same numbers.

    Args:
        model: A supported Hugging Face causal LM.
        tokenizer: Its tokenizer.
        folder: Where the Statistics and the curve go.
        readings: Language → what is read at most, each with the same ``until_stable``.
        site: Site that selectors read, shown first.
        say: Called with a line on each comparison and each finished language.
        first: Tokens per language before the first comparison.
        options: Of :func:`~lnbench.statistics.corpus_statistics.count_corpus`.

    Raises:
        LnbenchError: as :func:`~lnbench.statistics.statistics_folder.collect_folder` and
            :func:`~lnbench.choices.select`.
    """
    asked = next(iter(readings.values())).until_stable
    if asked is None:
        raise LnbenchError("readings without until_stable are collected by collect_folder")
    with Halves.locked(model, tokenizer, folder, readings, site=site, options=options) as halves:
        curve = _begun(folder, asked, halves.request).model_copy(update={"model": halves.described["model"]})
        if curve.stopped and halves.finished():
            say(f"{', '.join(readings)}: already in {folder}; {curve.why()}")
            return curve
        for tokens in _schedule(first, len(curve.points)):
            if curve.stopped:
                break
            ended = halves.count_to(tokens)
            point = _compared(asked, halves)
            stopped: Any = "stable" if point.least >= asked.stable else "text" if ended else ""
            curve = curve.model_copy(update={"points": [*curve.points, point], "stopped": stopped})
            curve.save(folder / StabilityCurve.usual_name)
            say(f"{max(point.tokens.values()):,} tokens per language: Jaccard index of the halves ≥ {point.least:.3f}")
        say(curve.why())
        halves.merge({"reason": curve.stopped, "jaccard": curve.points[-1].least, "asked": asked.stable}, say)
    return curve


def _schedule(first: int, done: int) -> Iterator[int]:
    """Yield the tokens at which halves are compared, after those comparisons that were made already."""
    tokens = first * 2**done
    while True:
        yield tokens
        tokens *= 2


def _begun(folder: Path, asked: UntilStable, request: str) -> StabilityCurve:
    """Return the curve that an earlier attempt at the same has left, or an empty one."""
    path = folder / StabilityCurve.usual_name
    if path.exists():
        try:
            kept = StabilityCurve.load(path)
            if kept.request == request:
                return kept
            log.warning("%s is of another request; starting again", path)
        except LnbenchError as error:
            log.warning("%s; starting again", error)
    return StabilityCurve(request=request, stable=asked.stable, points=[])


def _compared(asked: UntilStable, halves: Halves) -> StabilityPoint:
    first, second = halves.statistics()
    jaccard: dict[str, dict[str, float | None]] = {}
    for selector in asked.selectors:
        rows = compare_halves({selector: (select(selector, first), select(selector, second))})
        jaccard[selector] = {row.language: row.jaccard for row in rows}
    return StabilityPoint(
        tokens={language: first[language].tokens + second[language].tokens for language in first}, jaccard=jaccard
    )
