"""The numeric check of every model at load: writing a neuron does what the weights behind it say, and nothing else."""

from __future__ import annotations

import logging
from dataclasses import dataclass
from functools import partial
from typing import Any, Final

import torch
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lnbench.errors import LnbenchError
from lnbench.model.architectures import POST
from lnbench.model.bank_check import LARGE, POSITION, BankCheck, tolerance_of
from lnbench.model.banks import HOW_TO_ADD, Bank
from lnbench.model.experts import ExpertsBank
from lnbench.model.experts_check import ExpertsProbe
from lnbench.model.sites import Sites
from lnbench.model.taps import Handle, tap_module

log = logging.getLogger(__name__)
SELF_CHECK: Final = "self_check"
"""Its name in a provenance."""
_COMPARED = 0
"""A row that is not written, by which a norm's scales are known."""
_NORMED = 2
"""Tolerances where a norm's scales have to be estimated from rounded values."""


@dataclass(frozen=True)
class SelfCheck:
    """The outcome of the check of one model."""

    banks: tuple[BankCheck, ...]
    logits: float
    """Largest change of the logits by all writes together."""
    earlier: float
    """Largest change of the logits at earlier tokens: 0 in a causal model."""
    sites: tuple[str, ...] = ()
    """The other sites whose writes had their effect too, see :mod:`lnbench.model.place_check`."""

    @property
    def largest_error(self) -> float:
        """The largest error of any bank, relative to its effect."""
        return max((bank.error / bank.effect for bank in self.banks if bank.effect), default=0.0)

    def summary(self) -> dict[str, Any]:
        """Return what is recorded in the provenance."""
        summary = {"banks": len(self.banks), "largest_error": self.largest_error, "logits_change": self.logits}
        return summary | ({"sites": list(self.sites)} if self.sites else {})


@dataclass
class _Seen:
    """What one bank's modules saw in a forward pass, at its last visit."""

    post: Tensor | None = None
    written: Tensor | None = None
    up: Tensor | None = None
    read: Tensor | None = None
    given: Tensor | None = None
    step: float = 0.0
    neuron: int = 0


class _Probe:
    """What is seen of one bank that every token runs, in the forward passes of the check."""

    def __init__(self, sites: Sites, bank: Bank) -> None:
        self.sites, self.bank, self.seen = sites, bank, _Seen()

    @property
    def given(self) -> Tensor | None:
        """The down projection's output, at the last visit."""
        return self.seen.given

    def watch_reading(self, hooks: Handle) -> None:
        """Keep what is read."""
        self.sites.observe_bank(self.bank, partial(_note, self.seen), hooks)
        _watch(self.sites.model, self.bank, self.seen, hooks)

    def choose(self, tokens: tuple[int, ...], kind: str) -> None:
        """Choose what to write."""
        _choose(self.sites.model.get_submodule(self.bank.after), self.bank, self.seen, tokens, kind)

    def watch_writing(self, hooks: Handle) -> None:
        """Write it, and keep what that does."""
        self.sites.tap_bank(self.bank, POST, partial(_write, self.seen), hooks)
        _watch(self.sites.model, self.bank, self.seen, hooks)

    def compare(self) -> BankCheck:
        """Return what the write did."""
        return _compare(self.sites.model, self.bank, self.seen)


def _probe(sites: Sites, bank: Bank | ExpertsBank) -> _Probe | ExpertsProbe:
    return ExpertsProbe(sites.model, bank) if isinstance(bank, ExpertsBank) else _Probe(sites, bank)


def self_check(sites: Sites, inputs: dict[str, Any], bare: Tensor) -> SelfCheck:
    """Check every bank by two forward passes; by more where a write cannot be told from rounding.

    Args:
        sites: Of the model.
        inputs: Arguments of a short forward pass.
        bare: The logits of it without hooks.

    Raises:
        LnbenchError: hooks alone change something, a write has another effect than predicted or none, or reaches
            another text; with the numbers.
    """
    probes = [_probe(sites, bank) for bank in sites.banks]
    kind = type(sites.model).__name__
    with Handle() as hooks:
        for probe in probes:
            probe.watch_reading(hooks)
        read_only = sites.model(**inputs).logits
    for probe in probes:
        if probe.given is not None and not torch.isfinite(probe.given).all():
            raise LnbenchError(
                f"layer {probe.bank.layer} ({probe.bank.path}) of this {kind} gives numbers that are not finite "
                "on a short text; load the model in float32 or bfloat16"
            )
    if not torch.isfinite(bare).all():
        raise LnbenchError(
            f"this {kind} gives logits that are not finite numbers on a short text; load it with dtype=float32 or "
            "dtype=bfloat16"
        )
    if not torch.equal(read_only, bare):
        raise LnbenchError(
            f"reading the neurons of this {kind} changes its logits by "
            f"{float((read_only - bare).abs().max()):.3g}: its forward passes are not deterministic, or hooks disturb "
            "them, so nothing can be measured on it"
        )
    tokens = tuple(inputs["input_ids"].shape)
    for probe in probes:
        probe.choose(tokens, kind)
    checks, written = _write_and_compare(sites, inputs, probes)
    failed = [str(check) for check in checks if not check.passed]
    if failed:
        raise LnbenchError(
            f"writing a neuron of this {kind} does not have the effect that its weights predict: "
            f"{'; '.join(failed[:3])}{f' and {len(failed) - 3} more' if len(failed) > 3 else ''}. {HOW_TO_ADD}"
        )
    change = (written - bare).abs().amax(dim=(1, 2))
    # How many tokens an expert is given decides how its products are added up: other texts' differ in the last places.
    noise = float(bare.abs().max()) * torch.finfo(bare.dtype).eps ** 0.5 if sites.experts else 0.0
    if change[1:].max() > noise:
        raise LnbenchError(
            f"writing neurons at a token of one text changes the logits of another by {float(change[1:].max()):.3g} in "
            f"this {kind}: its activations are not one row per token, so texts cannot be told apart"
        )
    if not change[0] > noise:
        raise LnbenchError(f"writing neurons in all layers of this {kind} does not change its logits. {HOW_TO_ADD}")
    earlier = float((written - bare)[0, :POSITION].abs().max())
    earlier = earlier if earlier > noise else 0.0
    if earlier > 0:
        log.warning(
            "this %s is not causal: a write at one token changes the logits of earlier ones, by %.3g. Likelihoods and "
            "perplexities of such a model are not those of a language model; if it is an encoder that can be a decoder "
            "too, set is_decoder=True in its configuration",
            *(kind, earlier),
        )
    return SelfCheck(tuple(checks), float(change.max()), earlier)


def _write_and_compare(
    sites: Sites, inputs: dict[str, Any], probes: list[_Probe | ExpertsProbe]
) -> tuple[list[BankCheck], Tensor]:
    """Write a neuron of each bank in one forward pass; return what each write did, and the pass's logits.

    Writes in earlier layers change what a later layer's neuron is multiplied by. Where little is left of it, the write
    is repeated without those before it.
    """
    with Handle() as hooks:
        for probe in probes:
            probe.watch_writing(hooks)
        written: Tensor = sites.model(**inputs).logits
    checks = [probe.compare() for probe in probes]
    unseen = [number for number, check in enumerate(checks) if check.effect < LARGE * check.tolerance]
    if 0 < len(unseen) < len(probes):
        again, _ = _write_and_compare(sites, inputs, [probes[number] for number in unseen])
        for number, check in zip(unseen, again, strict=True):
            checks[number] = check
    return checks, written


def _watch(model: nn.Module, bank: Bank, own: _Seen, hooks: Handle) -> None:
    if bank.up is not None:
        up = bank.up
        hooks.add(
            tap_module(model.get_submodule(up.module), "output", lambda out: setattr(own, "up", up.of(out, bank.width)))
        )

    def keep(_module: nn.Module, args: tuple[Any, ...], output: Tensor) -> None:
        own.read, own.given = args[0].clone(), output.clone()

    hooks.add(model.get_submodule(bank.after).register_forward_hook(keep))


def _note(own: _Seen, _pre: Tensor, post: Tensor) -> None:
    own.post = post.clone()


def _choose(after: nn.Module, bank: Bank, own: _Seen, tokens: tuple[int, ...], kind: str) -> None:
    """Choose the neuron to write, and how far: one whose effect is large enough to be seen."""
    if own.post is None or own.read is None or own.given is None:
        raise LnbenchError(f"layer {bank.layer} ({bank.path}) of this {kind} did not run in a second forward pass")
    if own.post.shape[-1] != bank.width or own.read.shape[-1] != bank.width:
        raise LnbenchError(
            f"layer {bank.layer} ({bank.path}) of this {kind} has a width of {bank.width}, but {own.post.shape[-1]} "
            f"values after its non-linearity and {own.read.shape[-1]} before its down projection. {HOW_TO_ADD}"
        )
    if own.post.numel() != tokens[0] * tokens[1] * bank.width:
        raise LnbenchError(
            f"layer {bank.layer} ({bank.path}) of this {kind} has activations of shape {tuple(own.post.shape)} for "
            f"{tokens[0]} × {tokens[1]} tokens of width {bank.width}: its positions are not the text's tokens"
        )
    effects = torch.ones(bank.width)
    if own.up is not None:
        effects = _rows(bank, own.up)[POSITION].abs().float().cpu()
    if (weight := weight_of(after)) is not None:
        effects = effects * (weight.square().sum(0).sqrt().float().cpu())
    if bank.normed:
        # A norm makes up for any size: what counts is the neuron's share of the product, and a row to compare it with.
        product = _rows(bank, own.post).float() * (1 if own.up is None else _rows(bank, own.up).float())
        effects = effects * product[_COMPARED].abs().cpu()
    own.neuron = int(effects.argmax()) if len(set(effects.tolist())) > 1 else (7919 * (bank.layer + 1)) % bank.width
    # As far as moves the output by as much as its largest value.
    reach = float(column_of(after, own.neuron, own.read).abs().max())
    if bank.up is not None and own.up is not None:
        reach *= float(_rows(bank, own.up)[POSITION, own.neuron].abs())
    own.step = max(float(own.given.float().abs().max()), 1e-3) / max(reach, 1e-6)
    if bank.normed:
        factor = 1.0 if own.up is None else float(_rows(bank, own.up)[POSITION, own.neuron].abs())
        own.step = 4 * float(product.abs().max()) / max(factor, 1e-6)


def _write(own: _Seen, post: Tensor) -> Tensor:
    own.post = post.clone()
    own.written = post.clone()
    # Batches may be folded into one axis.
    flat = own.written.reshape(-1, post.shape[-1])
    flat[POSITION, own.neuron] += own.step
    own.written = flat.reshape(post.shape)
    return own.written


def _compare(model: nn.Module, bank: Bank, own: _Seen) -> BankCheck:
    assert own.post is not None and own.written is not None and own.read is not None and own.given is not None
    width, after = bank.width, model.get_submodule(bank.after)
    read = _rows(bank, own.read)
    given = _rows(bank, own.given).float()
    post, written = (values.reshape(-1, width) for values in (own.post, own.written))
    up = _rows(bank, own.up) if bank.up is not None and own.up is not None else None
    place, neuron = POSITION, own.neuron
    expected = written if up is None else written * up
    largest = float(read.abs().max())
    tolerance = tolerance_of(rounding_of(after, read.dtype), width)
    if bank.normed:
        return _compare_normed(bank, own, read, expected, tolerance)
    if bank.summed:
        # What the factor is cannot be read off one projection: the neuron's own share of the product is.
        others = torch.zeros(())
        factor = read[place, neuron] / written[place, neuron]
        before = read.clone()
        before[place, neuron] = factor * post[place, neuron]
    else:
        others = (read - expected).abs().float().max()
        factor = torch.ones((), dtype=read.dtype) if up is None else up[place, neuron]
        before = post if up is None else post * up
    moved = float(written[place, neuron]) - float(post[place, neuron])
    column = column_of(after, neuron, read)
    predicted = column * moved * float(factor)
    unchanged = after(before.to(read.dtype)).float()
    actual = given - unchanged
    wanted = torch.zeros_like(actual)
    wanted[place] = predicted
    scale = max(float(given.abs().max()), float(unchanged.abs().max()), float(predicted.abs().max()), 1e-30)
    error = float((actual - wanted).abs().max())
    return BankCheck(
        bank.layer,
        bank.path,
        neuron,
        error / scale,
        float(predicted.abs().max()) / scale,
        float(others) / max(largest, 1e-30),
        tolerance,
    )


def _rows(bank: Bank, values: Tensor) -> Tensor:
    """Return values as ``[tokens, …]``, text by text."""
    turned = values.transpose(0, 1) if bank.length_first else values
    return turned.reshape(-1, values.shape[-1])


def _compare_normed(bank: Bank, own: _Seen, read: Tensor, expected: Tensor, tolerance: float) -> BankCheck:
    """Compare where a norm lies before the down projection: it reads the product, scaled by token and by coordinate."""
    first = _COMPARED
    usable = expected[first].abs() > 1e-2 * expected[first].abs().max()
    read, expected = read[:, usable].float(), expected[:, usable].float()
    scales = read[first] / expected[first]
    scaled = expected * scales
    of_token = (read * scaled).sum(1, keepdim=True) / scaled.square().sum(1, keepdim=True).clamp_min(1e-30)
    largest = float(read.abs().max())
    error = float((read - of_token * scaled).abs().max()) / largest
    effect = float(read[POSITION].abs().max()) / largest
    return BankCheck(bank.layer, bank.path, own.neuron, error, effect, 0.0, _NORMED * tolerance)


def rounding_of(after: nn.Module, dtype: torch.dtype) -> float:
    """Return the relative rounding of a linear map's output: quantised ones compute in bfloat16 at best."""
    tensors = (*after.parameters(), *after.buffers())
    quantised = any(not tensor.is_floating_point() or tensor.element_size() < 2 for tensor in tensors)
    return max(torch.finfo(dtype).eps, torch.finfo(torch.bfloat16).eps if quantised else 0.0)


def column_of(after: Any, neuron: int, like: Tensor) -> Tensor:
    """Return one column of a linear map: of its weight; by applying it where that is quantised, adapted or not here."""
    weight = weight_of(after)
    if weight is not None:
        return weight[:, neuron].float()
    basis = torch.zeros(2, like.shape[-1], dtype=like.dtype, device=like.device)
    basis[0, neuron] = 1
    values: Tensor = after(basis).float()
    return values[0] - values[1]


def weight_of(after: nn.Module) -> Tensor | None:
    """Return a linear map's weight ``[out, in]``; None where it is quantised, adapted or not here."""
    weight = getattr(after, "weight", None)
    if type(after) not in (nn.Linear, Conv1D) or not isinstance(weight, Tensor) or weight.is_meta:
        return None
    return weight.detach() if isinstance(after, nn.Linear) else weight.detach().T
