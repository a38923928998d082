"""From nats per block to changes in perplexity, with bootstrap intervals. Pure numbers: no models, no files."""

from __future__ import annotations

import math
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lnbench.perplexity.matrix import Baseline, Contrast, Diagonal, MatrixCell, Selectivity
from lnbench.significance import compare_with_draws, holm, sign_flip_tests, widened_tail
from lnbench.specificity import langspec_f1, matched_specificity

RESAMPLES = 5_000
_CHUNK = 2**20
"""Weights drawn at a time."""
_SEED = 0
_Floats = NDArray[np.float64]


@dataclass(frozen=True)
class SliceNats:
    """One language's slice as it was read: sums over its blocks."""

    tokens: _Floats
    """``[blocks]``: counted tokens."""
    sizes: _Floats
    """``[blocks]``: their UTF-8 bytes."""
    unchanged: _Floats
    """``[blocks]``: nats by the unchanged model."""
    changed: Mapping[str, _Floats]
    """Language i → ``[blocks]``: nats with i's neurons changed. Languages without neurons are left out."""
    controls: Mapping[str, Sequence[_Floats]]
    """Language i → draws of as many random neurons, ``[blocks]`` each."""
    outside: Mapping[str, float | None]
    """Language i → share of the values written that lie outside the observed range."""
    divergence: Mapping[str, _Floats] = field(default_factory=dict)
    """Language i → ``[first blocks]``: nats of KL divergence of the next-token distributions, where it was measured."""

    @cached_property
    def added(self) -> dict[str, _Floats]:
        """Language i → ``[blocks]``: nats that changing i's neurons adds."""
        return {changed: nats - self.unchanged for changed, nats in self.changed.items()}


@dataclass(frozen=True)
class _Sums:
    """Sums over all blocks of a slice, and over those of each bootstrap resample: ``[1 + resamples]`` each."""

    blocks: int
    tokens: _Floats
    sizes: _Floats
    unchanged: _Floats
    added: Mapping[str, _Floats]
    """Language i → nats that changing i's neurons adds."""

    @classmethod
    def of(cls, language: str, nats: SliceNats) -> _Sums:
        values = np.vstack([nats.tokens, nats.sizes, nats.unchanged, *nats.added.values()])
        sums = np.hstack([values.sum(axis=1, keepdims=True), resampled_sums(values, language)])
        return cls(len(nats.tokens), sums[0], sums[1], sums[2], dict(zip(nats.added, sums[3:], strict=True)))

    @property
    def has_bytes(self) -> bool:
        """Whether its text has bytes to divide by."""
        return bool(self.sizes[0] > 0)

    def added_by(self, changed: str) -> _Floats:
        """Return the nats that changing a language's neurons adds: none where it has no neurons."""
        return self.added.get(changed, np.zeros_like(self.tokens))


def cells_and_selectivity(
    slices: Mapping[str, SliceNats], languages: Sequence[str]
) -> tuple[list[MatrixCell], list[Selectivity]]:
    """Return a matrix's cells row by row, and the selectivity of each language that is both changed and read.

    The resamples of a slice are the same for the unchanged model, for every language that is changed, and for the
    selectivity.

    Args:
        slices: Language j → its slice, in the order of the columns.
        languages: Languages i, in the order of the rows.
    """
    sums = {read: _Sums.of(read, nats) for read, nats in slices.items()}
    family = sum(len(nats.added) for nats in slices.values())
    p_values = {
        (changed, read): p_value
        for read, nats in slices.items()
        if nats.added
        for changed, p_value in zip(
            nats.added, sign_flip_tests(np.stack([*nats.added.values()]), family=family), strict=True
        )
    }
    corrected = dict(zip(p_values, holm(list(p_values.values())), strict=True))
    against = {
        (changed, read): _against_controls(changed, nats) for read, nats in slices.items() for changed in languages
    }
    tested = {
        place: found["control_p_value"] for place, found in against.items() if found.get("control_p_value") is not None
    }
    for place, p_value in zip(tested, holm(list(tested.values())), strict=True):
        against[place]["control_p_holm"] = p_value
    cells = [
        MatrixCell(
            changed=changed,
            read=read,
            outside_range=nats.outside.get(changed),
            p_value=p_values.get((changed, read), 1.0),
            p_holm=corrected.get((changed, read), 1.0),
            **_deltas(changed, sums[read]),
            **against[changed, read],
            **_divergence(changed, read, nats),
        )
        for changed in languages
        for read, nats in slices.items()
    ]
    return cells, [_selectivity(changed, sums) for changed in languages if changed in slices]


def diagonal(slices: Mapping[str, SliceNats], languages: Sequence[str]) -> Diagonal | None:
    """Return the means of selectivity over the languages that have neurons and are read; None where nothing compares.

    Args:
        slices: Language j → its slice.
        languages: Languages i, in the order of the rows.
    """
    rows = [changed for changed in languages if changed in slices and changed in slices[changed].changed]
    if not rows or len(slices) < 2:
        return None
    sums = {read: _Sums.of(read, nats) for read, nats in slices.items()}
    blocks = min(own.blocks for own in sums.values())
    has_bytes = all(own.has_bytes for own in sums.values())
    change = _in_bits if has_bytes else _in_nats
    mean = np.mean([_own_less_others(changed, change(changed, sums)) for changed in rows], axis=0)
    low, high = _interval(mean[1:], blocks)
    scores = [score for changed in rows if (score := _f1(changed, sums)) is not None]
    return Diagonal(
        unit="bits_per_byte" if has_bytes else "nats",
        languages=len(rows),
        difference=float(mean[0]),
        low=low,
        high=high,
        **_f1_fields(np.mean(scores, axis=0) if scores else None, blocks),
    )


def _in_nats(changed: str, sums: Mapping[str, _Sums]) -> dict[str, _Floats]:
    """Return language j → change in nats per token, and the same in each resample."""
    return {read: own.added_by(changed) / own.tokens for read, own in sums.items()}


def _in_bits(changed: str, sums: Mapping[str, _Sums]) -> dict[str, _Floats]:
    """Return language j → change in bits per byte, and the same in each resample."""
    return {read: _bits(own.added_by(changed), own.sizes) for read, own in sums.items()}


def _own_less_others(changed: str, deltas: Mapping[str, _Floats]) -> _Floats:
    others = np.mean([values for read, values in deltas.items() if read != changed], axis=0)
    difference: _Floats = deltas[changed] - others
    return difference


def _f1(changed: str, sums: Mapping[str, _Sums]) -> _Floats | None:
    """Return LangSpec-F1 of the likelihood per byte, and the same in each resample; None where there is none."""
    if len(sums) < 2 or changed not in sums[changed].added or not all(own.has_bytes for own in sums.values()):
        return None
    with np.errstate(over="ignore", under="ignore"):
        before = {read: np.exp2(-_bits(own.unchanged, own.sizes)) for read, own in sums.items()}
        after = {read: np.exp2(-_bits(own.unchanged + own.added_by(changed), own.sizes)) for read, own in sums.items()}
    drops = {read: np.maximum(0.0, before[read] - after[read]) for read in sums}
    others = np.mean([drop for read, drop in drops.items() if read != changed], axis=0)
    return langspec_f1(drops[changed], others, before[changed])


def _f1_fields(values: _Floats | None, blocks: int) -> dict[str, Any]:
    if values is None:
        return {}
    low, high = _interval(values[1:], blocks)
    return {"f1": float(values[0]), "f1_low": low, "f1_high": high}


def _divergence(changed: str, read: str, nats: SliceNats) -> dict[str, Any]:
    """Return a cell's KL divergence per token, with its bootstrap interval over blocks."""
    if changed not in nats.divergence:
        return {}
    divergence = nats.divergence[changed]
    values = np.vstack([divergence, nats.tokens[: len(divergence)]])
    total, tokens = np.hstack([values.sum(axis=1, keepdims=True), resampled_sums(values, read)])
    low, high = _interval(total[1:] / tokens[1:], len(divergence))
    return {"kl": float(total[0] / tokens[0]), "kl_low": low, "kl_high": high}


def resampled_sums(values: _Floats, language: str) -> _Floats:
    """Return ``[rows, resamples]``: sums of ``values`` ``[rows, blocks]`` over bootstrap resamples of the blocks.

    Which blocks are drawn depends on ``language`` and on the number of blocks alone.
    """
    random = np.random.default_rng([_SEED, zlib.crc32(language.encode())])
    blocks = values.shape[1]
    sums = np.empty((len(values), RESAMPLES))
    drawn_at_once = max(1, _CHUNK // blocks)
    for start in range(0, RESAMPLES, drawn_at_once):
        count = min(drawn_at_once, RESAMPLES - start)
        weights = random.multinomial(blocks, np.full(blocks, 1 / blocks), size=count)
        sums[:, start : start + count] = values @ weights.T
    return sums


def baseline(nats: SliceNats) -> Baseline:
    """Return one language's text as the unchanged model reads it."""
    total, tokens = nats.unchanged.sum(), nats.tokens.sum()
    with np.errstate(over="ignore"):
        perplexity = np.exp(total / tokens)
    return Baseline(
        nats_per_token=float(total / tokens),
        perplexity=_finite(perplexity),
        bits_per_byte=_finite(_bits(total, nats.sizes.sum())),
    )


def _deltas(changed: str, sums: _Sums) -> dict[str, Any]:
    """Return a cell's changes in three units, with their intervals."""
    added = sums.added_by(changed)
    with np.errstate(over="ignore", invalid="ignore"):
        perplexity = np.exp((sums.unchanged + added) / sums.tokens) - np.exp(sums.unchanged / sums.tokens)
    deltas: dict[str, float | None] = {}
    for name, values in {
        "delta_nats": added / sums.tokens,
        "delta_perplexity": perplexity,
        "delta_bits_per_byte": _bits(added, sums.sizes),
    }.items():
        low, high = _interval(values[1:], sums.blocks)
        deltas |= {name: _finite(values[0]), f"{name}_low": low, f"{name}_high": high}
    return deltas


def _against_controls(changed: str, nats: SliceNats) -> dict[str, Any]:
    draws = nats.controls.get(changed)
    if not draws:
        return {}
    tokens = nats.tokens.sum()
    delta = nats.added[changed].sum() / tokens
    controls = [float((draw - nats.unchanged).sum() / tokens) for draw in draws]
    low, high = min(controls), max(controls)
    rho = matched_specificity(float(delta), controls)
    # Per block, so that the mean over blocks is the change per token of all of them.
    per_token = len(nats.tokens) / tokens
    tested = compare_with_draws(per_token * (np.stack([*draws]) - nats.unchanged), per_token * nats.added[changed])
    return {
        "control_delta_nats": math.fsum(controls) / len(controls),
        "control_min": low,
        "control_max": high,
        "n_controls": len(controls),
        "control_draws": controls,
        "exceeds_controls": bool(delta > high if delta > 0 else delta < min(low, 0)),
        "control_p_value": tested.p_value,
        "rho": rho.value,
        "rho_low": rho.low,
        "rho_high": rho.high,
    }


def _selectivity(changed: str, sums: Mapping[str, _Sums]) -> Selectivity:
    blocks = min(own.blocks for own in sums.values())
    nats, bits = _in_nats(changed, sums), _in_bits(changed, sums)
    has_bytes = all(own.has_bytes for own in sums.values())
    per_byte = Contrast(**_contrast(changed, bits, blocks)) if has_bytes else None
    f1 = _f1_fields(_f1(changed, sums), blocks)
    return Selectivity(changed=changed, bits_per_byte=per_byte, **f1, **_contrast(changed, nats, blocks))


def _contrast(changed: str, deltas: Mapping[str, _Floats], blocks: int) -> dict[str, Any]:
    """Return the contrast of one row.

    Args:
        changed: Language i.
        deltas: Language j → ``[1 + resamples]``: the change of its text, and the same in each resample.
        blocks: Of the shortest slice.
    """
    measured = {read: float(values[0]) for read, values in deltas.items()}
    own, others = measured[changed], [read for read in deltas if read != changed]
    most = max(measured, key=lambda read: (measured[read], read == changed))
    mean = low = high = None
    if others:
        mean = math.fsum(measured[read] for read in others) / len(others)
        low, high = _interval(deltas[changed][1:] - np.mean([deltas[read][1:] for read in others], axis=0), blocks)
    return {
        "own": own,
        "others": mean,
        "difference": None if mean is None else own - mean,
        "low": low,
        "high": high,
        "dominant": own > 0 and most == changed,
        "most_harmed": most,
    }


def _interval(values: _Floats, blocks: int) -> tuple[float | None, float | None]:
    """Return the percentile interval, widened where blocks are few.

    None for one block, without spread, or if a value is infinite.
    """
    if blocks < 2 or not np.isfinite(values).all() or np.ptp(values) == 0:
        return None, None
    tail = widened_tail(blocks)
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def _bits(nats: Any, size: Any) -> Any:
    with np.errstate(divide="ignore", invalid="ignore"):
        return nats / (math.log(2) * size)


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None
