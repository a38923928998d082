"""What selectors share: numbers of several languages, contrasts between them, and the best of a ranking."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import torch
from torch import Tensor

from lnbench.errors import LnbenchError
from lnbench.statistics.language_statistics import Statistics, check_same_model
from lnbench.statistics.site_values import LEVELS

_BY_MEANS = "a selector that reads means or distributions: mean_difference, dln"
Rate = Literal["all", "routed"]
"""What an expert's activation rates are shares of: all tokens, or those that are routed to it."""
Side = Literal["above", "below", "both"]
"""Which end of a contrast is ranked first: the highest, the lowest, or the farthest from 0."""
_DIGITS = 1e12
"""Numbers that are equal by their formula differ in their last bits; rounded by this they are equal again."""


def check_several(statistics: Mapping[str, Statistics], selector: str) -> tuple[str, int, int]:
    """Return model, layers and width of Statistics that ``selector`` compares.

    Raises:
        LnbenchError: fewer than two languages, or Statistics of different models or sites.
    """
    shape = check_same_model(statistics)
    if len(statistics) < 2:
        raise LnbenchError(
            f"{selector} compares languages, so it needs Statistics of at least two; act_prob:against=none takes one "
            "at a time"
        )
    return shape


def check_site(statistics: Mapping[str, Statistics], selector: str, site: str) -> None:
    """Refuse Statistics that show another site than the one that ``selector`` reads its measure at.

    Raises:
        LnbenchError: they do.
    """
    for language, own in statistics.items():
        if own.site != site:
            raise LnbenchError(
                f"{selector} reads its measure at the site {site!r}, and the Statistics of {language!r} show "
                f"{own.site!r}: pass site={site}, or {selector}:site={own.site} where it has that site"
            )


def existing(statistics: Mapping[str, Statistics]) -> Tensor:
    """Return ``BoolTensor[layers, width]``: false where a layer has fewer units than the widest."""
    return next(iter(statistics.values())).exists


def eligible(statistics: Mapping[str, Statistics], rate: Rate = "all", floor: int = 0) -> Tensor:
    """Return ``BoolTensor[layers, width]``: the units that a selector compares.

    Args:
        statistics: Of the languages compared.
        rate: With ``routed``, an expert's neurons only where every language has enough tokens there.
        floor: Least number of tokens that every language routes to the expert.
    """
    exists = existing(statistics)
    if rate == "all":
        return exists
    fewest = torch.stack([own.routed_tokens for own in statistics.values()]).amin(0)
    return exists & ((fewest >= floor) | ~of_experts(statistics))


def compared(statistics: Mapping[str, Statistics], rate: Rate, floor: int) -> Tensor:
    """Return what :func:`eligible` does, and raise where that is nothing.

    Raises:
        LnbenchError: no unit can be compared.
    """
    units = eligible(statistics, rate, floor)
    if not units.any():
        raise LnbenchError(
            f"no language routes {floor} tokens to each of the same experts, so rate=routed compares nothing; lower "
            "the floor, or collect more text"
        )
    return units


def of_experts(statistics: Mapping[str, Statistics]) -> Tensor:
    """Return ``BoolTensor[layers, width]``: true at the neurons of experts, of which each token runs some."""
    return next(iter(statistics.values())).of_experts


def shares_of_routed(
    statistics: Mapping[str, Statistics], shares: Mapping[str, Tensor], floor: int
) -> dict[str, Tensor]:
    """Return shares of all tokens as shares of those routed to a neuron's expert, ``[layers, width]`` per language.

    Args:
        statistics: Of the languages compared.
        shares: Language → ``[layers, width]``, share of all tokens.
        floor: See :func:`eligible`; the shares of what is not are NaN.
    """
    units = compared(statistics, "routed", floor)
    return {
        language: torch.where(units, own.double() / statistics[language].routed_share, torch.nan)
        for language, own in shares.items()
    }


def positive_rates(
    statistics: Mapping[str, Statistics],
    selector: str,
    instead: str = _BY_MEANS,
    *,
    rate: Rate = "all",
    floor: int = 0,
) -> Tensor:
    """Return the activation probabilities of all languages, ``[layers, width, languages]`` float64.

    Args:
        statistics: Of the languages compared.
        selector: Its name, for messages.
        instead: What to choose in its place where nothing is told apart, likewise.
        rate: Of ``all`` tokens, or of those that are ``routed`` to the neuron's expert.
        floor: See :func:`eligible`; the rates of what is not are 0.

    Raises:
        LnbenchError: every value is positive in every language, so that they tell nothing apart.
    """
    if rate == "routed":
        rates = torch.stack([own.routed_rate for own in statistics.values()], dim=-1)
        rates = torch.where(eligible(statistics, rate, floor).unsqueeze(-1), rates, 0.0)
    else:
        rates = torch.stack([own.positive_rate.double() for own in statistics.values()], dim=-1)
    first = next(iter(statistics.values()))
    # A norm is positive but for what was written to 0.
    if first.unit_size > 1 or bool((rates[existing(statistics)] == 1).all()):
        site = first.site
        raise LnbenchError(
            f"{selector} compares how often values are positive, and at the site {site!r} every value is positive in "
            f"every language; choose another site, or {instead}"
        )
    return rates


def upper_bar(rates: Tensor, exists: Tensor, level: float, routed: Tensor | None = None) -> Tensor:
    """Return the ``level``-quantile of all activation probabilities: the r-th smallest, r = round(level · count).

    Args:
        rates: ``[layers, width, languages]``.
        exists: ``BoolTensor[layers, width]``, the units among which it is taken.
        level: Between 0 and 1.
        routed: ``BoolTensor[layers, width]``, the neurons of experts. An expert that k of E tokens run has rates that
            are lower by k / E, so these have a bar of their own.

    Returns:
        One number; ``[layers, width, 1]`` where some of the units are experts' and some are not.
    """

    def of(units: Tensor) -> Tensor:
        known = rates[units].flatten()
        bar: Tensor = known.kthvalue(max(1, round(level * len(known)))).values
        return bar

    kinds = [exists] if routed is None else [exists & ~routed, exists & routed]
    kinds = [kind for kind in kinds if kind.any()] or [exists]
    if len(kinds) == 1:
        return of(kinds[0])
    return torch.where(kinds[1], of(kinds[1]), of(kinds[0])).unsqueeze(-1)


def mean_magnitude(statistics: Statistics) -> Tensor:
    """Return the mean absolute value of every unit, ``[layers, width]`` float64, by its kept quantile function."""
    quantiles = statistics.values.quantiles.double()
    low, high = quantiles[:-1], quantiles[1:]
    # Between two levels values are spread evenly; where they have two signs, both triangles count.
    reach = (low.abs() + high.abs()).clamp_min(torch.finfo(torch.float64).tiny)
    between = torch.where(low * high < 0, (low.square() + high.square()) / (2 * reach), reach / 2)
    return (LEVELS.diff().view(-1, 1, 1) * between).sum(0)


def contrasts(values: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return each language's values less their mean over the other languages, equal to 12 decimals where equal.

    Args:
        values: Language → ``[layers, width]``; two languages at least.
    """
    every = torch.stack([own.double() for own in values.values()])
    # In order of size, so that the sum does not depend on the order of the languages.
    total = every.sort(0).values.sum(0)
    return {language: rounded(own.double() - (total - own) / (len(every) - 1)) for language, own in values.items()}


def rounded(values: Tensor) -> Tensor:
    """Return numbers to 12 decimals, so that those that are equal by their formula are equal."""
    return values.mul(_DIGITS).round().div(_DIGITS)


def ranked_by(values: Tensor, side: Side) -> Tensor:
    """Return what the highest of is the end of ``values`` that ``side`` names."""
    return {"above": values, "below": -values, "both": values.abs()}[side]


def best(scores: Tensor, count: int) -> Tensor:
    """Return ``BoolTensor`` of the shape of ``scores``: the ``count`` highest, in order of layer and index where equal.

    Scores of ``-inf`` are never taken.
    """
    # A number that is not known, as the mean of an expert that no token is routed to, ranks nothing.
    flat = scores.flatten().masked_fill(scores.flatten().isnan(), -torch.inf)
    count = min(count, int((flat > -torch.inf).sum()))
    mask = torch.zeros(len(flat), dtype=torch.bool)
    mask[flat.argsort(descending=True, stable=True)[:count]] = True
    return mask.view(scores.shape)


def of_languages(languages: Iterable[str], chosen: Tensor, above: Tensor) -> dict[str, Tensor]:
    """Return language → which of the ``chosen`` units are its own: those that it lifts ``above`` the bar.

    Args:
        languages: In the order of the last dimension of ``above``.
        chosen: ``BoolTensor[layers, width]``.
        above: ``BoolTensor[layers, width, languages]``.
    """
    return {language: chosen & own for language, own in zip(languages, above.unbind(-1), strict=True)}


def scores_above(languages: Iterable[str], scores: Tensor, above: Tensor) -> dict[str, Tensor]:
    """Return language → ``scores`` of the units that it lifts ``above`` the bar, ``-inf`` of the others.

    Args:
        languages: In the order of the last dimension of ``above``.
        scores: ``[layers, width]``.
        above: ``BoolTensor[layers, width, languages]``.
    """
    of_each = zip(languages, above.unbind(-1), strict=True)
    return {language: torch.where(own, scores, -torch.inf) for language, own in of_each}


def best_of_each(
    scores: Mapping[str, Tensor], fraction: float, exists: Tensor
) -> tuple[dict[str, Tensor], dict[str, Tensor]]:
    """Return each language's units of highest score, and the scores with ``-inf`` where there is no unit.

    Args:
        scores: Language → ``[layers, width]``.
        fraction: Share of all units.
        exists: ``BoolTensor[layers, width]``.
    """
    known = {language: own.masked_fill(~exists | own.isnan(), -torch.inf) for language, own in scores.items()}
    count = round(fraction * int(exists.sum()))
    return {language: best(own, count) for language, own in known.items()}, known


def classes_of(masks: Mapping[str, Tensor]) -> dict[str, dict[int, Any]]:
    """Return name of a class → layer → indices, from masks ``BoolTensor[layers, width]``."""
    return {
        name: {layer: row.nonzero().flatten() for layer, row in enumerate(mask) if row.any()}
        for name, mask in masks.items()
    }
