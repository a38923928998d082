"""What a selection owes to chance and what it has in common: ties at its cut, and neurons of all languages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

import torch
from pydantic import BaseModel, ConfigDict, Field
from torch import Tensor

MOST_TIED = 0.1
"""Share of a language's neurons that may be taken out of equals before there is a warning."""
MOST_COMMON = 0.5
"""Share of a language's neurons that may be those of all languages before there is a warning."""

LEAST_OWN = 0.2
"""Share of a language's neurons that must be no other language's, or there is a warning."""


class LanguageAccount(BaseModel):
    """How one language's neurons were chosen."""

    model_config = ConfigDict(extra="ignore", frozen=True, use_attribute_docstrings=True)

    tied: int | None = None
    """Neurons with the lowest score that was selected, selected or not; None where the selector declares no scores."""
    tied_selected: int | None = None
    """How many of those were selected: where they are fewer, the selector's order of equals decided."""
    share_tied: float | None = Field(default=None, ge=0, le=1)
    """Share of the selected neurons that were taken out of equals, of which others were not; None without scores."""
    share_own: float | None = Field(default=None, ge=0, le=1)
    """Share of the selected neurons that no other language has; None of one language alone, or without neurons."""
    share_common: float | None = Field(default=None, ge=0, le=1)
    """Share of the selected neurons that all languages have; None of one language alone, or without neurons."""


class SelectionAccount(BaseModel):
    """What ties and shared neurons make of a selection."""

    model_config = ConfigDict(extra="ignore", frozen=True, use_attribute_docstrings=True)

    languages: dict[str, LanguageAccount]
    """Of each language."""
    common: int | None = None
    """Neurons that all languages have; None of one language alone."""

    def warnings(self, selector: str) -> Iterator[str]:
        """Yield what to keep in mind with these neurons of ``selector``."""
        yield from selection_warnings(
            selector,
            {code: own.share_tied for code, own in self.languages.items()},
            {code: own.share_common for code, own in self.languages.items()},
            {code: own.share_own for code, own in self.languages.items()},
        )


def selection_warnings(
    selector: str,
    tied: Mapping[str, float | None],
    common: Mapping[str, float | None],
    own: Mapping[str, float | None],
) -> Iterator[str]:
    """Yield what to keep in mind with a selection.

    Args:
        selector: As it was written.
        tied: Language → share of its neurons that were taken out of equals.
        common: Language → share of its neurons that all languages have.
        own: Language → share of its neurons that no other language has.
    """
    if over := _above(tied, MOST_TIED):
        yield (
            f"{selector} cannot rank: of the neurons of {_with_shares(over)} were taken out of equal scores, by their "
            "order. Other neurons would be as good; select fewer, or by another selector."
        )
    if over := _above(common, MOST_COMMON):
        yield (
            f"{selector} selects neurons that are not about a language: of those of {_with_shares(over)} are common to "
            "all languages. What overriding them does is no effect of a language's own neurons."
        )
    under = {code: share for code, share in sorted(own.items()) if share is not None and code not in over}
    if under := {code: share for code, share in under.items() if is_shared(share)}:
        yield (
            f"{selector} selects sets that are not one language's: only {_with_shares(under)} of the neurons are no "
            "other language's. What overriding them does, it does to those languages too."
        )


def is_shared(own: float | None) -> bool:
    """Return whether a set is not one language's: nearly all its neurons are other languages' too."""
    return own is not None and own < LEAST_OWN


def _above(shares: Mapping[str, float | None], limit: float) -> dict[str, float]:
    return {code: share for code, share in sorted(shares.items()) if share is not None and share > limit}


def _with_shares(shares: Mapping[str, float]) -> str:
    return ", ".join(f"{code} {share:.0%}" for code, share in shares.items())


def account_of(masks: Mapping[str, Tensor], scores: Mapping[str, Tensor] | None) -> SelectionAccount:
    """Return the account of a selection.

    Args:
        masks: Language → ``BoolTensor[layers, width]``, what was selected.
        scores: Language → ``[layers, width]``, what was ranked by, higher first; ``-inf`` or NaN what could not be
            selected at all. None where the selector does not say.
    """
    everywhere = torch.stack(list(masks.values())).all(0) if len(masks) > 1 else None
    common = None if everywhere is None else int(everywhere.sum())
    having = torch.stack([mask.long() for mask in masks.values()]).sum(0)
    languages = {}
    for code, mask in masks.items():
        count = int(mask.sum())
        shared = None if common is None or not count else common / count
        own = None if shared is None else int((mask & (having == 1)).sum()) / count
        ties = _ties(mask, scores[code]) if scores is not None and code in scores and count else {}
        languages[code] = LanguageAccount(share_common=shared, share_own=own, **ties)
    return SelectionAccount(languages=languages, common=common)


def _ties(mask: Tensor, scores: Tensor) -> dict[str, Any]:
    equal = scores == scores[mask].min()
    tied, selected = int(equal.sum()), int((equal & mask).sum())
    return {
        "tied": tied,
        "tied_selected": selected,
        "share_tied": selected / int(mask.sum()) if selected < tied else 0.0,
    }
