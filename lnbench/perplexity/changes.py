"""From nats per block to changes in perplexity, with bootstrap intervals. Pure numbers: no models, no files."""

from __future__ import annotations

import math
import zlib
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lnbench.perplexity.matrix import Baseline, Cell, Contrast, Selectivity
from lnbench.significance import exchange_test, holm, widened_tail

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


def cells_and_selectivity(
    slices: Mapping[str, SliceNats], languages: Sequence[str]
) -> tuple[list[Cell], list[Selectivity]]:
    """Return a matrix's cells row by row, and the selectivity of each language that is both changed and read.

    The resamples of a slice are the same for the unchanged model, for every language that is changed, and for the
    selectivity.

    Args:
        slices: Language j → its slice, in the order of the columns.
        languages: Languages i, in the order of the rows.
    """
    resampled = {read: _Resampled.of(read, nats) for read, nats in slices.items()}
    p_values = _p_values(slices)
    rows = {
        changed: [
            _cell(changed, read, nats, resampled[read], p_values[changed, read])
            if changed in nats.changed
            else _unchanged(changed, read)
            for read, nats in slices.items()
        ]
        for changed in languages
    }
    selectivity = [_selectivity(changed, row, resampled) for changed, row in rows.items() if changed in slices]
    return [cell for row in rows.values() for cell in row], selectivity


def _p_values(slices: Mapping[str, SliceNats]) -> dict[tuple[str, str], tuple[float, float]]:
    """Return ``(i, j)`` → p-value as it is, and corrected, of every cell that was measured."""
    raw = {
        (changed, read): exchange_test(np.vstack([nats, own.unchanged]))
        for read, own in slices.items()
        for changed, nats in own.changed.items()
    }
    return dict(zip(raw, zip(raw.values(), holm(list(raw.values())), strict=True), strict=True))


@dataclass(frozen=True)
class _Resampled:
    """Sums over the blocks of each bootstrap resample, ``[resamples]`` each."""

    tokens: _Floats
    sizes: _Floats
    unchanged: _Floats
    added: Mapping[str, _Floats]
    """Language i → nats that changing its neurons adds."""
    blocks: int

    @classmethod
    def of(cls, language: str, one: SliceNats) -> _Resampled:
        added = {changed: nats - one.unchanged for changed, nats in one.changed.items()}
        sums = resampled_sums(np.vstack([one.tokens, one.sizes, one.unchanged, *added.values()]), language)
        return cls(sums[0], sums[1], sums[2], dict(zip(added, sums[3:], strict=True)), len(one.tokens))


def resampled_sums(values: _Floats, language: str) -> _Floats:
    """Return ``[rows, resamples]``: sums of ``values`` ``[rows, blocks]`` over bootstrap resamples of the blocks.

    Which blocks are drawn depends on ``language`` and on the number of blocks alone.
    """
    random = np.random.default_rng([_SEED, zlib.crc32(language.encode())])
    blocks = values.shape[1]
    sums = np.empty((len(values), RESAMPLES))
    each = max(1, _CHUNK // blocks)
    for start in range(0, RESAMPLES, each):
        count = min(each, RESAMPLES - start)
        weights = random.multinomial(blocks, np.full(blocks, 1 / blocks), size=count)
        sums[:, start : start + count] = values @ weights.T
    return sums


def baseline(one: SliceNats) -> Baseline:
    """Return one language's text as the unchanged model reads it."""
    nats, tokens, size = one.unchanged.sum(), one.tokens.sum(), one.sizes.sum()
    with np.errstate(over="ignore"):
        perplexity = np.exp(nats / tokens)
    return Baseline(
        nats_per_token=float(nats / tokens), perplexity=_finite(perplexity), bits_per_byte=_finite(_bits(nats, size))
    )


def _cell(changed: str, read: str, one: SliceNats, resampled: _Resampled, p_values: tuple[float, float]) -> Cell:
    added = one.changed[changed] - one.unchanged
    tokens, size, before = one.tokens.sum(), one.sizes.sum(), one.unchanged.sum()
    sums = resampled.added[changed]
    delta = float(added.sum() / tokens)
    measured: dict[str, tuple[float, _Floats]] = {
        "delta_nats": (delta, sums / resampled.tokens),
        "delta_perplexity": (
            _perplexity_change(before, added.sum(), tokens),
            _perplexity_change(resampled.unchanged, sums, resampled.tokens),
        ),
        "delta_bits_per_byte": (_bits(added.sum(), size), _bits(sums, resampled.sizes)),
    }
    controls = [float((draw - one.unchanged).sum() / tokens) for draw in one.controls.get(changed, ())]
    fields = {
        "changed": changed,
        "read": read,
        "outside_range": one.outside.get(changed),
        "p_value": p_values[0],
        "p_holm": p_values[1],
        **dict(_with_intervals(measured, resampled)),
        **(_against(delta, controls) if controls else {}),
    }
    return Cell.model_validate(fields)


def _with_intervals(
    measured: Mapping[str, tuple[float, _Floats]], resampled: _Resampled
) -> Iterator[tuple[str, float | None]]:
    for name, (value, values) in measured.items():
        low, high = _interval(values, resampled.blocks)
        yield from ((name, _finite(value)), (f"{name}_low", low), (f"{name}_high", high))


def _against(delta: float, controls: Sequence[float]) -> dict[str, Any]:
    low, high = min(controls), max(controls)
    return {
        "control_delta_nats": math.fsum(controls) / len(controls),
        "control_min": low,
        "control_max": high,
        "n_controls": len(controls),
        "exceeds_controls": delta > high if delta > 0 else delta < min(low, 0),
    }


def _unchanged(changed: str, read: str) -> Cell:
    """Return the cell of a language without neurons: nothing is changed, so nothing need be measured."""
    units = ("delta_nats", "delta_perplexity", "delta_bits_per_byte")
    zeros = {f"{unit}{end}": 0.0 for unit in units for end in ("", "_low", "_high")}
    return Cell.model_validate(
        {"changed": changed, "read": read, "outside_range": None, "p_value": 1.0, "p_holm": 1.0, **zeros}
    )


def _selectivity(changed: str, row: Sequence[Cell], resampled: Mapping[str, _Resampled]) -> Selectivity:
    blocks = min(resampled[cell.read].blocks for cell in row)
    nats = {cell.read: cell.delta_nats for cell in row}
    added = {read: one.added.get(changed, np.zeros(RESAMPLES)) for read, one in resampled.items()}
    found = _contrast(changed, nats, {read: added[read] / one.tokens for read, one in resampled.items()}, blocks)
    bits = {cell.read: cell.delta_bits_per_byte for cell in row if cell.delta_bits_per_byte is not None}
    per_byte = None
    if len(bits) == len(row):
        draws = {read: _bits(added[read], one.sizes) for read, one in resampled.items()}
        per_byte = _contrast(changed, bits, draws, blocks)
    return Selectivity(changed=changed, bits_per_byte=per_byte, **found.model_dump())


def _contrast(changed: str, deltas: Mapping[str, float], draws: Mapping[str, _Floats], blocks: int) -> Contrast:
    """Return the contrast of one row.

    Args:
        changed: Language i.
        deltas: Language j → the change of its text.
        draws: The same in each resample, ``[resamples]``.
        blocks: Of the shortest slice.
    """
    own, others = deltas[changed], [read for read in deltas if read != changed]
    most = max(deltas, key=lambda read: (deltas[read], read == changed))
    mean = low = high = None
    if others:
        mean = math.fsum(deltas[read] for read in others) / len(others)
        low, high = _interval(draws[changed] - np.mean([draws[read] for read in others], axis=0), blocks)
    return Contrast(
        own=own,
        others=mean,
        difference=None if mean is None else own - mean,
        low=low,
        high=high,
        dominant=own > 0 and most == changed,
        most_harmed=most,
    )


def _interval(values: _Floats, blocks: int) -> tuple[float | None, float | None]:
    """Return the percentile interval, widened where blocks are few; None for one block, or if a value is infinite."""
    if blocks < 2 or not np.isfinite(values).all():
        return None, None
    tail = widened_tail(blocks)
    low, high = np.quantile(values, [tail, 1 - tail])
    return float(low), float(high)


def _perplexity_change(before: Any, added: Any, tokens: Any) -> Any:
    with np.errstate(over="ignore", invalid="ignore"):
        return np.exp((before + added) / tokens) - np.exp(before / tokens)


def _bits(nats: Any, size: Any) -> Any:
    with np.errstate(divide="ignore", invalid="ignore"):
        return nats / (math.log(2) * size)


def _finite(value: Any) -> float | None:
    return float(value) if math.isfinite(value) else None
