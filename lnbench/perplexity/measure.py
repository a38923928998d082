"""Measure a perplexity matrix on a model that is loaded."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import nn
from tqdm import tqdm

from lnbench.choices import override, plan
from lnbench.errors import LnbenchError, unknown
from lnbench.files import versions
from lnbench.host import get_host
from lnbench.model.architectures import POST, site_choice
from lnbench.model.sites import Sites, evaluating, locate
from lnbench.neurons import NeuronSet, draw_random
from lnbench.override_values import Override
from lnbench.parameters import format_choice
from lnbench.perplexity.changes import SliceNats, baseline, cells_and_selectivity
from lnbench.perplexity.checkpoint import UNCHANGED, Passes, of_control
from lnbench.perplexity.losses import block_nats
from lnbench.perplexity.matrix import PerplexityMatrix
from lnbench.perplexity.notes import notes_of
from lnbench.perplexity.slices import Slice
from lnbench.statistics import Statistics, describe_model
from lnbench.statistics.batching import fitting_batch_size

_VERSIONS = ("lnbench_version", "transformers_version", "torch_version")
_DESCRIBED = ("weights", "config", "adapter", "dtype", "tokenizer")


@dataclass(frozen=True)
class _Change:
    """What one pass over all slices is run under."""

    name: str
    override: Override
    statistics: Statistics | None


def measure(
    model: nn.Module,
    tokenizer: Any,
    neurons: NeuronSet,
    statistics: Mapping[str, Statistics],
    slices: Mapping[str, Slice],
    *,
    intervention: str = "zero",
    site: str = POST,
    changed: Sequence[str] | None = None,
    controls: int = 3,
    batch_size: int | None = None,
    path: Path | None = None,
    progress: bool = False,
    described: Mapping[str, Any] | None = None,
    about: Mapping[str, Any] | None = None,
) -> PerplexityMatrix:
    """Change each language's neurons in turn, and measure how much likelier or less likely each slice becomes.

    The unchanged model reads every slice once. Languages without neurons are not measured: their row is 0.

    Args:
        model: A supported Hugging Face causal LM.
        tokenizer: Its tokenizer.
        neurons: Whose neurons are which.
        statistics: Language → Statistics at the site that values are read from. One may be missing if the intervention
            reads none; the share of values outside the observed range is then not known.
        slices: Language → its text, see :func:`lnbench.perplexity.slices.cut`; the columns, in this order.
        intervention: Name or ``name:key=value``.
        site: ``post``, ``pre`` or ``paper``: where values are written; ``paper`` writes ``post``.
        changed: Languages whose neurons are changed; all of ``neurons`` by default.
        controls: Draws of as many random neurons in each layer, none of them the language's own, unless the others of
            a layer are too few; a note says so.
        batch_size: Blocks in a forward pass; as many as fit the memory if None.
        path: File that keeps every pass that is done; the same call continues from it.
        progress: Show a progress bar.
        described: What :func:`~lnbench.statistics.describe_model` says of the two, if that is known already.
        about: Further fields of the matrix: ``model``, ``selector``, ``command``, ``adapter``.

    Raises:
        LnbenchError: unknown language, intervention or architecture; neurons of another model; a file of another
            request; a loss that is not finite.
    """
    sites = locate(model)
    described = described or describe_model(model, tokenizer)
    neurons.check(described["model"], sites.layers, sites.width)
    languages = list(changed) if changed is not None else neurons.languages
    if not slices or not languages:
        raise LnbenchError("there is nothing to measure: name a language whose neurons are changed and one to be read")
    if batch_size is not None and batch_size < 1:
        raise LnbenchError(f"batch_size={batch_size}: a forward pass takes one block at least")
    for language in languages:
        if language not in neurons:
            raise unknown("language", language, neurons.languages, "These neurons have no others")
    accounts = {language: text.account() for language, text in slices.items()}
    passes = Passes(
        {
            "model": {name: described[name] for name in _DESCRIBED},
            "neurons": neurons.fingerprint,
            "statistics": {language: one.fingerprint for language, one in sorted(statistics.items())},
            "intervention": get_host().canonical("intervention", intervention),
            "site": site,
            "text": {language: account.fingerprint for language, account in accounts.items()},
        },
        path,
    )
    changes = list(_changes(sites, neurons, statistics, intervention, languages, controls))
    _run(sites, slices, changes, passes, site_choice(site).write, batch_size, progress)
    read = {language: _reading(text, languages, controls, passes) for language, text in slices.items()}
    cells, selectivity = cells_and_selectivity(read, languages)
    matrix = PerplexityMatrix.model_validate(
        {
            "model": described["model"],
            "selector": format_choice(**neurons.selector) if neurons.selector else "unknown",
            "command": None,
            **{name: described[name] for name in ("revision", "dtype", "quantization", "weights")},
            "intervention": intervention,
            "site": site,
            "changed": languages,
            "read": list(slices),
            "length": _longest(slices),
            "slices": accounts,
            "neurons": {language: neurons.count(language) for language in languages},
            "shared": _shared(neurons, languages),
            "neuron_set": neurons.fingerprint,
            "statistics": {language: one.fingerprint for language, one in statistics.items() if language in languages},
            "baseline": {language: baseline(nats) for language, nats in read.items()},
            "cells": cells,
            "selectivity": selectivity,
            **{name: versions()[name] for name in _VERSIONS},
            "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
            **(about or {}),
        }
    )
    notes = [*notes_of(matrix), *(_crowded(neurons, languages) if controls else ())]
    return matrix.model_copy(update={"notes": notes})


def _crowded(neurons: NeuronSet, languages: Sequence[str]) -> Iterator[str]:
    """Say which controls cannot do without the language's own neurons."""
    for language in languages:
        counts = neurons.per_layer(language)
        if own := int((2 * counts - neurons.width).clamp_min(0).sum()):
            yield (
                f"{language} has more than half of a layer: {own} of its {neurons.count(language)} neurons are in "
                "every draw of random ones as well"
            )


def _changes(
    sites: Sites,
    neurons: NeuronSet,
    statistics: Mapping[str, Statistics],
    intervention: str,
    languages: Sequence[str],
    controls: int,
) -> Iterator[_Change]:
    """Return each language's neurons, and their controls."""
    for language in languages:
        if neurons.count(language) == 0:
            continue
        own, known = neurons[language], statistics.get(language)
        chosen = {language: own}
        for draw in range(controls):
            mask = draw_random(language, neurons.per_layer(language), neurons.mask(language), draw)
            chosen[of_control(language, draw)] = {layer: mask[layer].nonzero().squeeze(1) for layer in own}
        for name, some in chosen.items():
            change = plan(some, intervention, known)
            change.check(sites.layers, sites.width)
            if change.neurons == 0:
                raise LnbenchError(f"intervention {intervention!r} changes none of the neurons of {language!r}")
            yield _Change(name, change, known)


def _run(
    sites: Sites,
    slices: Mapping[str, Slice],
    changes: Sequence[_Change],
    passes: Passes,
    site: str,
    batch_size: int | None,
    progress: bool,
) -> None:
    """Run every pass that is not done yet."""
    for text in slices.values():
        passes.add_slice(text)
    todo = [
        (change, text)
        for change in [_Change(UNCHANGED, Override(), None), *changes]
        for text in slices.values()
        if (change.name, text.language) not in passes
    ]
    if not todo:
        return
    size = fitting_batch_size(sites, _longest(slices)) if batch_size is None else batch_size
    total = sum(int(text.tokens.sum()) for _, text in todo)
    bar = tqdm(total=total, desc="perplexity", unit="tok", unit_scale=True, disable=not progress)
    with bar, evaluating(sites.model):
        for change, text in todo:
            bar.set_postfix_str(f"neurons of {change.name}, text of {text.language}", refresh=False)
            with override(
                sites.model, change.override, statistics=change.statistics, site=site, sites=sites
            ) as applied:
                nats = block_nats(sites, text, size, applied=applied, on_tokens=bar.update)
            outside = None if math.isnan(applied.outside_range) else applied.outside_range
            passes.add(change.name, text.language, nats, outside)


def _reading(text: Slice, languages: Sequence[str], controls: int, passes: Passes) -> SliceNats:
    """Return what was found of one slice."""
    read = text.language
    measured = [language for language in languages if (language, read) in passes]
    return SliceNats(
        tokens=text.tokens,
        sizes=text.sizes,
        unchanged=passes.nats(UNCHANGED, read),
        changed={language: passes.nats(language, read) for language in measured},
        controls={
            language: [passes.nats(of_control(language, draw), read) for draw in range(controls)]
            for language in measured
        },
        outside={language: passes.outside(language, read) for language in measured},
    )


def _longest(slices: Mapping[str, Slice]) -> int:
    """Return the number of tokens of the longest block."""
    return max(len(block) for text in slices.values() for block in text.blocks)


def _shared(neurons: NeuronSet, languages: Sequence[str]) -> dict[str, dict[str, int]]:
    names, counts, _ = neurons.overlap()
    return {
        language: {
            other: int(counts[names.index(language), column]) for column, other in enumerate(names) if other != language
        }
        for language in languages
    }
