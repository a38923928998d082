"""What fine-tuning changed: which neurons' weights, by how much, and whether a selector still finds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import Any, NamedTuple, get_args

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.utils.integrations import dequantize_module_weight
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lnbench.choices import needs_of, select
from lnbench.errors import LnbenchError
from lnbench.finetuning.projections import ExpertsPlace, Projection, ProjectionPlace, all_places
from lnbench.finetuning.targets import Factor, layer_of
from lnbench.finetuning.trained_neurons import RANDOM
from lnbench.host import get_host
from lnbench.model.architectures import BANK_SITES, POST, units_at
from lnbench.model.banks import Bank
from lnbench.model.describe import describe_base, describe_model
from lnbench.model.experts import ExpertsBank
from lnbench.model.locate import locate
from lnbench.model.sites import Sites
from lnbench.neurons import NeuronSet
from lnbench.statistics.cached import collect_cached
from lnbench.statistics.corpus_statistics import ReadingOnce


class NeuronChange(NamedTuple):
    """One neuron, the relative change of its weights, and whether it is one of the chosen neurons."""

    layer: int
    neuron: int
    change: float
    chosen: bool


@dataclass(frozen=True)
class WeightDrift:
    """How far a LoRA adapter moves the weights.

    A neuron's weights are its rows of the gate and up projections and its column of the down projection, as far as
    these change in its layer; its *change* is the norm of their update divided by their own norm before. All tensors
    of numbers are float64.
    """

    projections: tuple[Projection, ...]
    """The feed-forward projections that change in some layer."""
    updates: Tensor
    """``[layers, width]``: squared norm of each neuron's update."""
    change: Tensor
    """``[layers, width]``: each neuron's change."""
    attention: Tensor
    """``[layers]``: norm of the update of the attention's projections, divided by their own."""
    chosen: Tensor | None
    """``BoolTensor[layers, width]``, the neurons that it was restricted to, where they are known."""

    @property
    def share_on_chosen(self) -> float | None:
        """The part of the neurons' squared update that falls on the chosen ones; None if there is no update."""
        if self.chosen is None or not self.updates.any():
            return None
        inside, outside = float(self.updates[self.chosen].sum()), float(self.updates[~self.chosen].sum())
        return inside / (inside + outside)

    def top(self, count: int = 20) -> list[NeuronChange]:
        """Return the most changed neurons, the largest change first; neurons that did not change are left out."""
        width = self.change.shape[1]
        order = self.change.flatten().argsort(descending=True, stable=True)[:count].tolist()
        return [
            NeuronChange(
                layer,
                neuron,
                float(self.change[layer, neuron]),
                self.chosen is not None and bool(self.chosen[layer, neuron]),
            )
            for layer, neuron in (divmod(number, width) for number in order)
            if self.change[layer, neuron] > 0
        ]


def weight_drift(adapted: nn.Module, neurons: NeuronSet | None = None) -> WeightDrift:
    """Measure what a model's active LoRA adapter changes. No large matrix is built: norms come from the factors.

    Args:
        adapted: A PEFT model with a plain LoRA adapter, of lnbench or of anyone's.
        neurons: The neurons that it was restricted to (``neurons.json`` in its folder).

    Raises:
        LnbenchError: no LoRA adapter, a variant of LoRA, or neurons of another model.
    """
    sites = locate(adapted)
    if not any(isinstance(module, LoraLayer) for module in sites.model.modules()):
        raise LnbenchError("this model has no LoRA adapter to inspect; pass the adapter's folder as peft=")
    if neurons is not None:
        _check_site(neurons)
        neurons.check(neurons.model, sites.layers, sites.widths)
    updates = torch.zeros(sites.layers, sites.width, dtype=torch.float64)
    norms = torch.zeros_like(updates)
    changed: list[Projection] = []
    for bank in sites.banks:
        own = slice(bank.start, bank.start + bank.width)
        for projection, place in all_places(sites.model, bank).items():
            layer = layer_of(sites.model, place.path)
            if layer is None:
                continue
            update = place.of_neurons(_update_norms(layer, place.factor), bank.width)
            if update.any():
                updates[bank.layer, own] += update
                norms[bank.layer, own] += _weight_norms(sites, bank, projection, place)
                changed.append(projection)
    chosen = None
    if neurons is not None:
        chosen = torch.zeros(sites.layers, sites.width, dtype=torch.bool)
        for layer, indices in neurons.union(neurons.languages).items():
            chosen[layer, indices] = True
    change = (updates / norms.clamp_min(torch.finfo(norms.dtype).tiny)).sqrt()
    return WeightDrift(
        tuple(name for name in get_args(Projection) if name in changed),
        updates,
        change,
        _attention_change(sites),
        chosen,
    )


def _check_site(neurons: NeuronSet) -> None:
    if neurons.site not in BANK_SITES:
        raise LnbenchError(
            f"this adapter was restricted to {units_at(neurons.site)} (site {neurons.site!r}), and changes are "
            "measured neuron by neuron; leave neurons out, and see the change of the attention"
        )


def _weight_norms(
    sites: Sites, bank: Bank | ExpertsBank, projection: Projection, place: ProjectionPlace | ExpertsPlace
) -> Tensor:
    """Return each neuron's squared norm of its weights in one projection, ``[width]``."""
    dim = 0 if projection == "down" else 1
    if isinstance(bank, Bank):
        weight = _weight(sites.model.get_submodule(place.path))
        return place.of_neurons(weight.square().sum(dim).cpu(), bank.width)
    matrix = {"gate": bank.before, "up": bank.up, "down": bank.down}[projection]
    assert matrix is not None
    weights = matrix.laid_out(attrgetter(matrix.parameter)(sites.model).detach().double(), bank.experts)
    return weights.square().sum(dim + 1).flatten().cpu()


def _attention_change(sites: Sites) -> Tensor:
    change = torch.zeros(sites.layers, dtype=torch.float64)
    for layer, names in enumerate(sites.attention):
        modules = [sites.model.get_submodule(name) for name in names]
        update = sum(
            float(_update_norms(module, "lora_B").sum()) for module in modules if isinstance(module, LoraLayer)
        )
        if update:
            change[layer] = (update / sum(float(_weight(module).square().sum()) for module in modules)) ** 0.5
    return change


def _update_norms(module: LoraLayer, factor: Factor) -> Tensor:
    """Return squared norms of rows (``lora_B``) or columns of ``scaling · B A``: of row i, ``bᵢ (A Aᵀ) bᵢᵀ``.

    They are ``[n]``; of a parameter of experts ``[experts, n]``.
    """
    if module.merged or module.lora_variant or any(module.lora_bias.values()) or len(module.active_adapters) != 1:
        raise LnbenchError("only one plain LoRA adapter that is not merged can be inspected")
    (name,) = module.active_adapters
    first, second = (factors[name].weight.detach().double().cpu() for factors in (module.lora_A, module.lora_B))
    if (experts := getattr(module, "num_experts", 1)) > 1:
        first = first.reshape(experts, -1, first.shape[-1])
        second = second.reshape(len(second), -1, experts).permute(2, 0, 1)
    outer, inner = (second, first @ first.mT) if factor == "lora_B" else (first.mT, second.mT @ second)
    norms = torch.einsum("...nr,...rs,...ns->...n", outer, inner, outer).clamp_min(0)
    scaling: float = module.scaling[name]
    return norms * scaling**2


def _weight(module: Any) -> Tensor:
    """Return a projection's base weight as ``[out, in]``, dequantised."""
    base = module.get_base_layer() if isinstance(module, LoraLayer) else module
    if getattr(getattr(base.weight, "quant_state", None), "packing_format_for_cpu", False):
        raise LnbenchError(
            "this model's 4-bit weights were repacked for inference by a forward pass, so they cannot be read: reload "
            "the model and measure the weights first"
        )
    weight: Tensor = dequantize_module_weight(base).detach().double()
    return weight.T if isinstance(base, Conv1D) else weight


class SelectionDrift(NamedTuple):
    """The neurons that one selector finds on one corpus before and after fine-tuning."""

    before: NeuronSet
    after: NeuronSet


def own_selector(trained: NeuronSet | None) -> dict[str, Any] | None:
    """Return the selector that chose the trained neurons; None if that is not known, or not here, or was chance."""
    selector = trained.selector if trained is not None else None
    if selector is None or selector["name"] == RANDOM:
        return None
    try:
        get_host().resolve("selector", selector)
    except LnbenchError:
        return None
    return selector


def selection_drift(
    adapted: PeftModel,
    tokenizer: Any,
    corpus: str,
    languages: Sequence[str],
    *,
    selector: Any,
    tokens: int,
) -> SelectionDrift:
    """Take Statistics of languages without and with the adapter on the same text, and select neurons from both.

    Statistics are those of the cache, if it has them; what is read of the text is read once for both.

    Raises:
        LnbenchError: no adapter, and as :func:`lnbench.statistics.corpus_statistics.collect_corpus` and
            :func:`lnbench.select`.
    """
    chosen = get_host().resolve("selector", selector)
    needs = needs_of(chosen)
    reading = ReadingOnce(
        corpus=corpus,
        tokens=tokens,
        length=128,
        batch_levels=needs.batch_levels,
        measures=needs.measures,
        sites=needs.sites,
    )

    def selected(described: dict[str, Any]) -> NeuronSet:
        read = {name: collect_cached(adapted, tokenizer, name, reading, described).at(POST) for name in languages}
        return select(chosen, read)

    with adapted.disable_adapter():
        before = selected(describe_base(adapted, tokenizer))
    return SelectionDrift(before, selected(describe_model(adapted, tokenizer)))
