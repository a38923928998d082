"""Run text through a model's transformer body once, and count the activations of every neuron."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from lnbench.errors import LnbenchError
from lnbench.hookspecs import Step
from lnbench.model.architectures import BANK_SITES, EXPERTS, NEURON_SITES, POST, UP, units_at
from lnbench.model.banks import Observer
from lnbench.model.describe import describe_model
from lnbench.model.experts_taps import ExpertsObserver, Rows
from lnbench.model.forward_passes import eager
from lnbench.model.locate import locate
from lnbench.model.self_check import SELF_CHECK
from lnbench.model.sites import Sites, evaluating, input_device, transformer_body
from lnbench.progress import Bar
from lnbench.statistics.accumulator import Accumulator
from lnbench.statistics.gradients import Differentiate, differentiating
from lnbench.statistics.language_statistics import Statistics
from lnbench.statistics.layer_accumulator import CALIBRATION, Activation

Block = Tensor | tuple[Tensor, Tensor]
Read = Callable[[Block], int]
log = logging.getLogger(__name__)
_TOLERATED, _FEW = 0.01, 0.01
"""Rank error above which quantiles are worth a warning, five times what text of one kind leaves; and the share of
neurons whose values may well crowd in a few places."""
_TOLERATED_OF_EXPERTS = 0.05
"""The same of experts, whose values are counted in fewer bins."""
_CHECKED_EVERY = 8
"""Batches between two looks at whether all numbers are finite: on a GPU, each look waits for it."""


def collect_statistics(
    model: nn.Module,
    blocks: Iterable[Block],
    *,
    language: str,
    sites: Sequence[str] = (POST,),
    measures: Sequence[Any] = (),
    skip: int = 1,
    site: str | None = None,
    batch_levels: Sequence[float] = (),
    provenance: dict[str, Any] | None = None,
    total: int | None = None,
    progress: bool = False,
) -> Statistics:
    """Observe every neuron while ``model`` reads one language's text. One pass; the output head is not run.

    Args:
        model: A supported Hugging Face causal LM.
        blocks: ``LongTensor[batch, length]`` each, or ``(input_ids, attention_mask)`` with 0 for padding.
        language: The text's language code.
        sites: The sites to count, such as ``residual``; the returned Statistics show the first. ``post`` and ``pre``
            are always counted.
        measures: Further measures, each a name or ``name:key=value``, or an object; see ``Statistics.measures``.
        skip: Positions at the start of every block that are not counted. The default leaves out BOS, whose
            activations are outliers.
        site: The same as ``sites=(site,)``.
        batch_levels: Levels at which to also keep the mean over batches of each batch's quantile (the published
            estimate; slow).
        provenance: What to record beside the model's own description, e.g. the corpus fingerprint.
        total: Tokens expected, for the progress bar.
        progress: Show a progress bar on stderr.

    Raises:
        LnbenchError: unsupported model, no such site in it, no token counted, activations that are not finite numbers.
    """
    shown = (site,) if site is not None else tuple(sites)
    if not shown:
        raise LnbenchError("no site given: name at least one in sites=")
    located = locate(model)
    counts = accumulator_of(located, shown, batch_levels)
    counts.measures.start(measures, located)
    bar = Bar(total=total, desc=f"statistics {language}", unit="tok", disable=not progress)
    with observing(located, counts, language, skip=skip) as read, bar:
        for block in blocks:
            bar.update(read(block))
    provenance = describe_model(model) | {SELF_CHECK: located.check.summary()} | (provenance or {})
    return statistics_of(counts, located.activations, language, site=shown[0], provenance=provenance)


def accumulator_of(located: Sites, sites: Sequence[str], batch_levels: Sequence[float] = ()) -> Accumulator:
    """Return the empty counts of a model's neurons, and of further sites.

    Raises:
        LnbenchError: the model has no such site.
    """
    layouts = {name: located.layout(name) for name in sites}
    others = {name: layout for name, layout in layouts.items() if name not in NEURON_SITES}
    return Accumulator(
        located.layers, located.widths, batch_levels, located.visits, experts=located.layouts, others=others
    )


def statistics_of(
    counts: Accumulator, activations: Sequence[Activation], language: str, *, site: str, provenance: dict[str, Any]
) -> Statistics:
    """Finish counts. Warns where the text has drifted away from what the bins were laid out for.

    Args:
        counts: What was counted.
        activations: The non-linearity of each layer.
        language: Language code.
        site: Site shown first.
        provenance: What the counts come from.

    Raises:
        LnbenchError: nothing was counted.
    """
    if counts.tokens == 0:
        raise LnbenchError(
            f"no token of language {language!r} was counted: its text is empty, or its blocks have no positions left "
            "after the skipped ones"
        )
    values = counts.finish(activations)
    neurons = [values[name].rank_error for name in NEURON_SITES]
    errors = {"neurons": torch.stack(neurons)} | {
        f"{units_at(name)} at site {name!r}": of_site.rank_error[None]
        for name, of_site in values.items()
        if name not in NEURON_SITES
    }
    for units, error in errors.items():
        tolerated = _tolerated(counts, error) if units == "neurons" else _TOLERATED
        many = int((error > tolerated).any(0).sum())
        if many > _FEW * error[0].numel() and counts.tokens > CALIBRATION:
            log.warning(
                "%s: quantiles of %d of %d %s may be off by up to %.3f of the tokens: their values crowd in a few "
                "places, or are not like those of the first %d tokens. Shuffle a corpus that is sorted by topic",
                *(language, many, error[0].numel(), units, float(error.nan_to_num(0).max()), CALIBRATION),
            )
    batch_means, measures = counts.batch_means(), counts.measures.tensors()
    routed = counts.routed if counts.experts else None
    return Statistics(
        *(language, counts.tokens, site, values, provenance, batch_means, measures),
        experts=counts.experts,
        routed=routed,
    )


def _tolerated(counts: Accumulator, error: Tensor) -> Tensor:
    """Return the rank error above which quantiles are worth a warning, ``[layers, width]``."""
    tolerated = torch.full_like(error[0], _TOLERATED)
    for layout, experts in zip(counts.experts, counts.of_experts, strict=True):
        for expert, own in layout.parts():
            # Few bins, or so few tokens that each is a large share.
            counted = experts[expert]
            binned = counted is not None and counted.tokens > counted.calibration
            tolerated[layout.layer, own] = _TOLERATED_OF_EXPERTS if binned else 1.0
    return tolerated


@contextmanager
def observing(sites: Sites, counts: Accumulator, language: str, *, skip: int) -> Iterator[Read]:
    """Observe all non-linearities; yield a function that runs one block through the body and returns tokens counted.

    Args:
        sites: Of the model, see :func:`lnbench.model.locate.locate`.
        counts: Where to count.
        language: The text's language, for messages.
        skip: Positions at the start of every row that are not counted.

    Raises:
        LnbenchError: from the function and at the end of the block, when a layer did not run once per forward pass or
            gave numbers that are not finite.
    """
    if sites.experts and (measured := counts.measures.reading((*BANK_SITES, UP))):
        raise LnbenchError(
            f"measures of neurons ({', '.join(measured)}) are not defined for experts, of which each token runs only "
            f"some; layer {sites.experts[0].layer} of this {type(sites.model).__name__} holds some. Measures at the "
            "sites attention and residual are, as head_importance"
        )
    if EXPERTS in counts.measures.differentiated:
        raise LnbenchError(
            "what is read at the site experts are routing weights, and what is written the router's logits, so "
            "measures with gradients are not defined there; measure at attention or residual"
        )
    body, device = transformer_body(sites.model), input_device(sites.model)
    rows: dict[torch.device, Tensor] = {}
    counted_at: dict[torch.device, Tensor] = {}
    """Device → ``BoolTensor[batch · length]``, true at the tokens that count."""
    shape: list[torch.Size] = []

    def counted_rows(layer: int, values: Tensor) -> Tensor:
        if len(values) != shape[0].numel():
            raise LnbenchError(
                f"layer {layer} read {len(values)} positions of a block of {tuple(shape[0])} tokens, so which token a "
                "value belongs to is not known; choose blocks of another length (some models pad to a multiple)"
            )
        if values.device not in rows:
            rows[values.device] = rows[torch.device("cpu")].to(values.device)
        return rows[values.device]

    def mask_on(device: torch.device) -> Tensor:
        if device not in counted_at:
            counted_at[device] = counted_at[torch.device("cpu")].to(device)
        return counted_at[device]

    def show(site: str, layer: int, values: Tensor) -> None:
        if counts.measures.wants(site):
            counted = mask_on(values.device).view(shape[0])
            counts.measures.observe(Step(site, layer, values.view(*shape[0], -1), counted))

    def hook(layer: int) -> Observer:
        def observe(pre: Tensor, post: Tensor) -> None:
            pre, post = (values.reshape(-1, counts.dense[layer]) for values in (pre, post))
            of_text = counted_rows(layer, pre)
            with torch.inference_mode():
                pre, post = pre.detach(), post.detach()
                counts.add(layer, pre, post, of_text)
                for site, values in zip(NEURON_SITES, (pre, post), strict=True):
                    show(site, layer, values)

        return observe

    def hook_at(site: str, layer: int) -> Callable[[Tensor], None]:
        def observe(values: Tensor) -> None:
            values = values.reshape(-1, values.shape[-1])
            of_text = counted_rows(layer, values)
            with torch.inference_mode():
                values = values.detach()
                if site in counts.others:
                    counts.add_at(site, layer, values, of_text)
                show(site, layer, values)

        return observe

    def hook_experts(bank: int) -> ExpertsObserver:
        def observe(pre: Tensor, post: Tensor, routed: Rows) -> None:
            counts.add_experts(bank, pre.detach(), post.detach(), routed, mask_on(pre.device))

        return observe

    def ran(bank: int) -> None:
        counts.seen[bank] += len(rows[torch.device("cpu")])

    def read(block: Block) -> int:
        ids, mask = block if isinstance(block, tuple) else (block, None)
        counted = _counted(ids, mask, skip)
        if len(counted) == 0:
            return 0
        rows.clear()
        counted_at.clear()
        rows[torch.device("cpu")] = counted
        mask_of_counted = torch.zeros(ids.numel(), dtype=torch.bool).index_fill_(0, counted, True)
        counted_at[torch.device("cpu")] = mask_of_counted
        shape[:] = [ids.shape]
        if differentiate is not None:
            for step in differentiate(ids, mask, mask_of_counted.view(ids.shape)):
                counts.measures.observe(step)
        else:
            attention_mask = mask.to(device) if mask is not None else None
            body(input_ids=ids.to(device), attention_mask=attention_mask, use_cache=False)
        counts.tokens += len(counted)
        counts.batches += 1
        counts.check(language, numbers=counts.batches % _CHECKED_EVERY == 0)
        return len(counted)

    differentiate: Differentiate | None = None
    differentiated = counts.measures.differentiated
    # What is made in inference mode cannot be differentiated.
    mode = torch.no_grad() if differentiated else torch.inference_mode()
    layouts = {site: sites.layout(site) for site in dict.fromkeys([*counts.others, *counts.measures.tapped])}
    with evaluating(sites.model), ExitStack() as hooks, eager(), mode:
        for layer in range(sites.layers):
            hooks.enter_context(sites.observe(layer, hook(layer)))
            for site, layout in layouts.items():
                if layout.widths[layer]:
                    hooks.enter_context(sites.observe_at(site, layer, hook_at(site, layer)))
        if differentiated:
            differentiate = hooks.enter_context(differentiating(sites, differentiated))
        for number, bank in enumerate(sites.experts):
            hooks.enter_context(sites.observe_experts(bank, hook_experts(number), partial(ran, number)))
        yield read
        counts.check(language)


def _counted(ids: Tensor, mask: Tensor | None, skip: int) -> Tensor:
    """Return the flat positions of the tokens that count: real, and past the first ``skip`` real ones of their row."""
    real = torch.ones_like(ids, dtype=torch.bool) if mask is None else mask.bool()
    return (real & (real.cumsum(1) > skip)).flatten().nonzero().squeeze(1).cpu()
