"""Measure a perplexity matrix on a model that is loaded."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from torch import nn
from tqdm import tqdm

from lnbench.choices import plan
from lnbench.errors import LnbenchError
from lnbench.files import versions
from lnbench.host import get_host
from lnbench.interruption import reached
from lnbench.model.architectures import POST, site_choice
from lnbench.model.locate import locate
from lnbench.model.self_check import SELF_CHECK
from lnbench.model.sites import Sites, evaluating
from lnbench.neurons import NeuronSet, draw_random
from lnbench.override_values import Override
from lnbench.overrides import apply
from lnbench.parameters import format_choice
from lnbench.perplexity.changes import SliceNats, baseline, cells_and_selectivity
from lnbench.perplexity.checkpoint import Passes
from lnbench.perplexity.losses import block_nats
from lnbench.perplexity.matrix import PerplexityMatrix
from lnbench.perplexity.notes import notes_of
from lnbench.perplexity.slices import AHEAD, Slice
from lnbench.statistics import Statistics, describe_model
from lnbench.statistics.batching import fitting_batch_size

_IDENTIFYING = ("weights", "config", "adapter", "dtype", "tokenizer")
_UNCHANGED = "unchanged"
_Change = tuple[str, Override, Statistics | None]
"""Name of a pass, what it is run under, and whose observed range the values written are compared with."""


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
    neurons.check(described["model"], sites.layers, sites.widths)
    languages = list(changed) if changed is not None else neurons.languages
    if not slices or not languages:
        raise LnbenchError("there is nothing to measure: name a language whose neurons are changed and one to be read")
    if batch_size is not None and batch_size < 1:
        raise LnbenchError(f"batch_size={batch_size}: a forward pass takes one block at least")
    counts = {language: neurons.count(language) for language in languages}
    measured = [language for language in languages if counts[language]]
    accounts = {language: text.account() for language, text in slices.items()}
    length = max(len(block) for text in slices.values() for block in text.blocks)
    (ahead,) = {text.ahead for text in slices.values()}
    labels = next(name for name, distance in AHEAD.items() if distance == ahead)
    passes = Passes(
        {
            "model": {name: described[name] for name in _IDENTIFYING},
            "neurons": neurons.fingerprint,
            "statistics": {language: own.fingerprint for language, own in sorted(statistics.items())},
            "intervention": get_host().canonical("intervention", intervention),
            "site": site,
            **({"labels": labels} if labels != "next" else {}),
            "text": {language: account.fingerprint for language, account in accounts.items()},
        },
        path,
    )
    for read, text in slices.items():
        passes.nats |= {f"tokens/{read}": text.tokens, f"bytes/{read}": text.sizes}
    changes: list[_Change] = [(_UNCHANGED, Override(), None)]
    for language in measured:
        changes += _changes(neurons, language, intervention, statistics.get(language), controls)
    todo = [
        (change, text)
        for change in changes
        for read, text in slices.items()
        if f"{change[0]}/{read}" not in passes.nats
    ]
    if todo:
        size = fitting_batch_size(sites, length) if batch_size is None else batch_size
        _run(sites, todo, passes, site_choice(site).write, size, progress)
    nats = {
        read: SliceNats(
            tokens=text.tokens,
            sizes=text.sizes,
            unchanged=passes.nats[f"{_UNCHANGED}/{read}"],
            changed={language: passes.nats[f"{language}/{read}"] for language in measured},
            controls={
                language: [passes.nats[f"{_control(language, draw)}/{read}"] for draw in range(controls)]
                for language in measured
            },
            outside={language: passes.outside.get(f"{language}/{read}") for language in measured},
        )
        for read, text in slices.items()
    }
    cells, selectivity = cells_and_selectivity(nats, languages)
    fields: dict[str, Any] = {
        **described,
        SELF_CHECK: sites.check.summary(),
        "selector": format_choice(**neurons.selector) if neurons.selector else "unknown",
        "adapter": None,
        "command": None,
        **(about or {}),
    }
    matrix = PerplexityMatrix.model_validate(
        {
            **fields,
            **versions(),
            "intervention": intervention,
            "site": site,
            "changed": languages,
            "read": list(slices),
            "length": length,
            "labels": labels,
            "slices": accounts,
            "neurons": counts,
            "shared": _shared(neurons, languages),
            "neuron_set": neurons.fingerprint,
            "statistics": {language: own.fingerprint for language, own in statistics.items() if language in languages},
            "baseline": {language: baseline(own) for language, own in nats.items()},
            "cells": cells,
            "selectivity": selectivity,
            "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
    )
    return matrix.model_copy(update={"notes": list(notes_of(matrix, neurons))})


def _control(language: str, draw: int) -> str:
    """Name the pass under a draw of as many random neurons as ``language`` has."""
    return f"{language}#{draw}"


def _changes(
    neurons: NeuronSet, language: str, intervention: str, statistics: Statistics | None, controls: int
) -> Iterator[_Change]:
    """Yield the override of a language's neurons, and those of its controls."""
    own = neurons[language]
    chosen = {language: own}
    for draw in range(controls):
        mask = draw_random(language, neurons.per_layer(language), neurons.mask(language), draw, neurons.widths)
        chosen[_control(language, draw)] = {layer: mask[layer].nonzero().squeeze(1) for layer in own}
    for name, indices in chosen.items():
        change = plan(indices, intervention, statistics)
        if change.neurons == 0:
            raise LnbenchError(f"intervention {intervention!r} changes none of the neurons of {language!r}")
        yield name, change, statistics


def _run(
    sites: Sites, todo: Sequence[tuple[_Change, Slice]], passes: Passes, site: str, batch_size: int, progress: bool
) -> None:
    """Run passes, and keep each as it ends."""
    total = sum(int(text.tokens.sum()) for _, text in todo)
    bar = tqdm(total=total, desc="perplexity", unit="tok", unit_scale=True, disable=not progress)
    with bar, evaluating(sites.model):
        for (name, change, statistics), text in todo:
            bar.set_postfix_str(f"neurons of {name}, text of {text.language}", refresh=False)
            with apply(sites.model, change, statistics=statistics, site=site, sites=sites) as applied:
                nats = block_nats(sites, text, batch_size, applied=applied, on_tokens=bar.update)
            done = f"{name}/{text.language}"
            passes.nats[done] = nats
            if not math.isnan(applied.outside_range):
                passes.outside[done] = applied.outside_range
            passes.save()
            reached(f"{len(passes.nats)} passes over texts")


def _shared(neurons: NeuronSet, languages: Sequence[str]) -> dict[str, dict[str, int]]:
    names, counts, _ = neurons.overlap()
    rows = dict(zip(names, counts.tolist(), strict=True))
    return {
        language: {other: count for other, count in zip(names, rows[language], strict=True) if other != language}
        for language in languages
    }
