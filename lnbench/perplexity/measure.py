"""Measure a perplexity matrix on a model that is loaded."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import groupby
from pathlib import Path
from typing import Any

import numpy as np
from torch import nn

from lnbench.choices import check_units, of_language, plan
from lnbench.controls import drawn_by
from lnbench.errors import LnbenchError
from lnbench.files import versions
from lnbench.host import get_host
from lnbench.interruption import reached
from lnbench.model.architectures import POST, in_units, site_choice
from lnbench.model.locate import locate
from lnbench.model.self_check import SELF_CHECK
from lnbench.model.sites import Sites, evaluating
from lnbench.neurons import NeuronSet
from lnbench.override_values import Override
from lnbench.overrides import apply
from lnbench.parameters import format_choice
from lnbench.perplexity.changes import SliceNats, baseline, cells_and_selectivity, diagonal
from lnbench.perplexity.checkpoint import Passes
from lnbench.perplexity.losses import block_divergences, block_nats, final_states
from lnbench.perplexity.matrix import PerplexityMatrix
from lnbench.perplexity.notes import notes_of
from lnbench.perplexity.slices import AHEAD, Slice
from lnbench.progress import Bar
from lnbench.settings import ControlsRead
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
    controls: int = 5,
    control: str = "random",
    controls_read: ControlsRead = "all",
    compared: Mapping[str, Statistics] | None = None,
    source: str | None = None,
    statistics_of: Callable[[str], Statistics] | None = None,
    kl_tokens: int = 0,
    batch_size: int | None = None,
    path: Path | None = None,
    unchanged: Path | None = None,
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
        controls: Draws of the control, such as as many random neurons in each layer.
        control: What draws them: ``random``, ``random_active`` …
        controls_read: Which texts the draws read: ``all``; or each language's ``own`` alone, all that ρ needs.
        compared: Language → Statistics, for a control that reads those of all languages; ``statistics`` by default.
        source: The language that an answer would be in, for interventions between two; those changed are targets.
        statistics_of: Returns any language's Statistics, for interventions that read others than the target's; by
            default those of ``compared``.
        kl_tokens: Predicted tokens of each text, at least, on which next-token distributions are compared; 0: none.
        batch_size: Blocks in a forward pass; as many as fit the memory if None.
        path: File that keeps every pass that is done; the same call continues from it.
        unchanged: Such a file of other neurons, whose passes of the unchanged model over the same text are taken.
        progress: Show a progress bar.
        described: What :func:`~lnbench.statistics.describe_model` says of the two, if that is known already.
        about: Further fields of the matrix: ``model``, ``selector``, ``command``, ``adapter``.

    Raises:
        LnbenchError: unknown language, intervention or architecture; neurons of another model; a file of another
            request; a loss that is not finite.
    """
    sites = locate(model)
    described = described or describe_model(model, tokenizer)
    check_units(neurons, site_choice(site).read)
    neurons.check(described["model"], sites.layers, sites.layout(neurons.site).widths)
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
    others: dict[str, Statistics] = {}
    changes: list[_Change] = [(_UNCHANGED, Override(), None)]
    draws = [drawn_by(control, seed, neurons, intervention, compared or statistics) for seed in range(controls)]
    named = [_control(control, seed, drawn) for seed, (drawn, _) in enumerate(draws)]
    for language in measured:
        own = [(language, neurons, intervention)]
        drawn = [(f"{language}{name}", *chosen) for name, chosen in zip(named, draws, strict=True)]
        context = {
            "target": language,
            "source": source,
            "languages": tuple(neurons.languages),
            "statistics_of": partial(_noted, others, statistics_of or partial(of_language, compared or statistics)),
        }
        changes += _changes([*own, *drawn], statistics.get(language), context)
    read_of_others = {code: own.fingerprint for code, own in sorted(others.items()) if code not in statistics}
    passes = Passes(
        {
            "model": {name: described[name] for name in _IDENTIFYING},
            "neurons": neurons.fingerprint,
            "statistics": {language: own.fingerprint for language, own in sorted(statistics.items())},
            "intervention": get_host().canonical("intervention", intervention),
            "site": site,
            **({"labels": labels} if labels != "next" else {}),
            **({"source": source} if source is not None else {}),
            **({"other_statistics": read_of_others} if read_of_others else {}),
            "text": {language: account.fingerprint for language, account in accounts.items()},
        },
        path,
    )
    if unchanged is not None:
        passes.take(unchanged, f"{_UNCHANGED}/")
    for read, text in slices.items():
        passes.nats |= {f"tokens/{read}": text.tokens, f"bytes/{read}": text.sizes}
    drawn_for = {f"{language}{name}": language for language in measured for name in named}
    todo = [
        (change, text)
        for change in changes
        for read, text in slices.items()
        if f"{change[0]}/{read}" not in passes.nats
        and (controls_read == "all" or drawn_for.get(change[0], read) == read)
    ]
    first_blocks = {read: _first_blocks(text, kl_tokens) for read, text in slices.items()}
    diverging = [
        (change, text)
        for read, text in slices.items()
        for change in changes
        if change[0] in measured
        and first_blocks[read]
        and _divergence(first_blocks, change[0], read) not in passes.divergences
    ]
    if todo or diverging:
        size = fitting_batch_size(sites, length) if batch_size is None else batch_size
        write = site_choice(site).write
        _run(sites, todo, passes, write, size, progress)
        _run_divergences(sites, diverging, first_blocks, passes, write, size)
    nats = {
        read: SliceNats(
            tokens=text.tokens,
            sizes=text.sizes,
            unchanged=passes.nats[f"{_UNCHANGED}/{read}"],
            changed={language: passes.nats[f"{language}/{read}"] for language in measured},
            controls={
                language: [passes.nats[f"{language}{name}/{read}"] for name in named]
                for language in measured
                if controls_read == "all" or language == read
            },
            outside={language: passes.outside.get(f"{language}/{read}") for language in measured},
            divergence={
                language: np.array(passes.divergences[_divergence(first_blocks, language, read)])
                for language in measured
                if first_blocks[read]
            },
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
            "source": source,
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
            "diagonal": diagonal(nats, languages),
            "control": control,
            "controls_read": controls_read,
            "kl_tokens": kl_tokens,
            "finished_at": datetime.now(UTC).isoformat(timespec="seconds"),
        }
    )
    return matrix.model_copy(update={"notes": list(notes_of(matrix, neurons))})


def _control(control: str, seed: int, drawn: NeuronSet) -> str:
    """Name a draw in the names of passes, behind the language; as before there was a choice of controls, if random."""
    return f"#{seed}" if control == "random" else f"#{seed} {control} {drawn.fingerprint}"


def _divergence(first_blocks: Mapping[str, int], changed: str, read: str) -> str:
    return f"{changed}/{read}/{first_blocks[read]} blocks"


def _first_blocks(text: Slice, tokens: int) -> int:
    """Return how many first blocks of a text have so many predicted tokens; all of them where it has fewer."""
    enough = np.flatnonzero(text.tokens.cumsum() >= tokens)
    return 0 if not tokens else int(enough[0]) + 1 if len(enough) else len(text.blocks)


def _noted(read: dict[str, Statistics], statistics_of: Callable[[str], Statistics], language: str) -> Statistics:
    """Return a language's Statistics, and keep in ``read`` that they were asked for."""
    read[language] = statistics_of(language)
    return read[language]


def _changes(
    chosen: Iterable[tuple[str, NeuronSet, str]], statistics: Statistics | None, context: Mapping[str, Any]
) -> Iterator[_Change]:
    """Yield the overrides of a language's neurons and of its controls, from names, NeuronSets and interventions."""
    target = context["target"]
    for name, neurons, intervention in chosen:
        change = plan(neurons[target], intervention, statistics, neurons_of=neurons.__getitem__, **context)
        if change.neurons == 0:
            raise LnbenchError(f"intervention {intervention!r} changes none of the neurons of {target!r}")
        yield name, change, statistics


def _run(
    sites: Sites, todo: Sequence[tuple[_Change, Slice]], passes: Passes, site: str, batch_size: int, progress: bool
) -> None:
    """Run passes, and keep each as it ends."""
    total = sum(int(text.tokens.sum()) for _, text in todo)
    bar = Bar(total=total, desc="perplexity", unit="tok", unit_scale=True, disable=not progress)
    with bar, evaluating(sites.model):
        for (name, change, statistics), text in todo:
            bar.set_postfix_str(in_units(f"neurons of {name}, text of {text.language}", site), refresh=False)
            with apply(sites.model, change, statistics=statistics, site=site, sites=sites) as applied:
                nats = block_nats(sites, text, batch_size, applied=applied, on_tokens=bar.update)
            done = f"{name}/{text.language}"
            passes.nats[done] = nats
            if not math.isnan(applied.outside_range):
                passes.outside[done] = applied.outside_range
            passes.save()
            reached(f"{len(passes.nats)} passes over texts")


def _run_divergences(
    sites: Sites,
    todo: Sequence[tuple[_Change, Slice]],
    first_blocks: Mapping[str, int],
    passes: Passes,
    site: str,
    batch_size: int,
) -> None:
    """Compare next-token distributions with the unchanged model's; ``todo`` has the changes text by text."""
    with evaluating(sites.model):
        for _, group in groupby(todo, key=lambda each: each[1].language):
            together = list(group)
            text = together[0][1]
            unchanged = final_states(sites, text, first_blocks[text.language], batch_size)
            for (name, change, statistics), _ in together:
                with apply(sites.model, change, statistics=statistics, site=site, sites=sites) as applied:
                    nats = block_divergences(sites, text, unchanged, batch_size, applied=applied)
                passes.divergences[_divergence(first_blocks, name, text.language)] = nats.tolist()
                passes.save()
                reached(f"{len(passes.nats)} passes over texts")


def _shared(neurons: NeuronSet, languages: Sequence[str]) -> dict[str, dict[str, int]]:
    names, counts, _ = neurons.overlap()
    rows = dict(zip(names, counts.tolist(), strict=True))
    return {
        language: {other: count for other, count in zip(names, rows[language], strict=True) if other != language}
        for language in languages
    }
