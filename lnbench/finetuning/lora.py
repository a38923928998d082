"""LoRA on the attention and on selected neurons: build the adapter, count it, save it as an ordinary PEFT adapter."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lnbench.errors import LnbenchError
from lnbench.finetuning.masked_linear import RestrictedFactor
from lnbench.finetuning.projections import Factor, Projection, place, places
from lnbench.model.describe import model_name
from lnbench.model.locate import locate
from lnbench.model.sites import Sites
from lnbench.neurons import NeuronSet

NEURONS = "neurons.json"
"""The file in an adapter's folder that says which neurons were trained."""

ADAPTER = "default"
_CONFIG = "adapter_config.json"


class Counts(NamedTuple):
    """How many parameters train, and how many of them are rows or columns of single neurons."""

    trainable: int
    of_neurons: int


def build_adapter(
    model: nn.Module,
    neurons: NeuronSet | None = None,
    *,
    rank: int = 8,
    alpha: int = 16,
    dropout: float = 0.0,
    attention: bool = True,
    output_projection: bool = True,
    projections: Sequence[Projection] = ("gate",),
    seed: int = 0,
) -> PeftModel:
    """Put a trainable LoRA adapter (Hu et al. 2022) on ``model``, which is changed in place and otherwise frozen.

    The result is a PEFT model that any training loop takes. Of the feed-forward projections only the rows (of ``down``
    the columns) that belong to ``neurons`` are parameters: the others have no gradient and no optimiser state. Its
    ``state_dict`` and ``save_pretrained`` give an ordinary LoRA adapter of full size, and loading one into it (a
    Trainer's checkpoint) takes the neurons' part back, exactly.

    Args:
        model: A supported Hugging Face causal LM, in any precision, NF4 included.
        neurons: Trained are the neurons of all its languages together, see
            :func:`lnbench.finetuning.trained_neurons.chosen_neurons`. None, or a set without neurons:
            the attention alone.
        rank: Rank of the update.
        alpha: The update is scaled by ``alpha / rank``.
        dropout: Dropout on the update's input.
        attention: Whether the query, key, value and output projections are trained too.
        output_projection: Whether the last of these four is, beside the others.
        projections: Which feed-forward projections are trained: ``gate``, ``up``, ``down``.
        seed: Seed of the first factor; the second starts at zero. The global random state is left alone.

    Raises:
        LnbenchError: an unsupported or already adapted model, neurons of another model, nothing to train.
    """
    if isinstance(model, PeftModel):
        raise LnbenchError("this model has an adapter already; merge it first: model.merge_and_unload()")
    sites = locate(model)
    kept = kept_rows(sites, neurons, projections)
    targets = [*(_attention(sites, output_projection) if attention else ()), *kept]
    if not targets:
        raise LnbenchError("nothing to train: no neurons are chosen, and attention=False leaves the attention frozen")
    transposed = {isinstance(sites.model.get_submodule(name), Conv1D) for name in targets}
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=rank,
        lora_alpha=alpha,
        lora_dropout=dropout,
        target_modules=targets,
        fan_in_fan_out=transposed == {True},
    )
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        adapted = get_peft_model(sites.model, config, ADAPTER)
    if missed := [name for name in targets if not isinstance(sites.model.get_submodule(name), LoraLayer)]:
        adapted.unload()
        raise LnbenchError(
            f"PEFT takes {missed[0]} of this {type(sites.model).__name__} for a part of its experts, and does not "
            "adapt it; fine-tune the attention alone"
        )
    _restrict(sites, kept)
    return adapted


def _attention(sites: Sites, output_projection: bool) -> list[str]:
    # The output projection is the last of a block's, as a row of the table and every model's code have it.
    names = [name for names in sites.attention for name in (names if output_projection else names[:-1])]
    if not names:
        raise LnbenchError(
            f"this {type(sites.model).__name__} has no linear maps outside its feed-forwards; fine-tune with "
            "attention=False"
        )
    return list(dict.fromkeys(names))


def kept_rows(
    sites: Sites, neurons: NeuronSet | None, projections: Sequence[Projection]
) -> dict[str, tuple[Factor, Tensor]]:
    """Return module name → the factor to restrict and its rows or columns, for the layers that have neurons."""
    if neurons is None:
        return {}
    neurons.check(model_name(sites.model), sites.layers, sites.widths)
    kept: dict[str, tuple[Factor, Tensor]] = {}
    chosen = neurons.union(neurons.languages)
    names = {module: name for name, module in sites.model.named_modules()}
    for experts in sites.experts:
        if len(experts.own(chosen.get(experts.layer, torch.empty(0, dtype=torch.long)))):
            raise LnbenchError(
                f"neurons of experts are chosen (layer {experts.layer}, {experts.path}), which cannot be fine-tuned: "
                "PEFT's LoRA cannot be restricted to rows of matrices that hold all experts; choose others, or the "
                "attention alone"
            )
    for bank in sites.dense:
        own = bank.own(chosen[bank.layer]) if bank.layer in chosen else torch.empty(0, dtype=torch.long)
        for projection in dict.fromkeys(projections):
            where = place(bank, projection)
            # Layers that share a module share its neurons' weights: those of either are trained.
            name = names[sites.model.get_submodule(where.path)]
            before = kept[name][1] if name in kept else own.new_empty(0)
            kept[name] = (where.factor, torch.unique(torch.cat([before, where.rows(own)])))
    return {name: part for name, part in kept.items() if len(part[1])}


def _restrict(sites: Sites, kept: dict[str, tuple[Factor, Tensor]]) -> None:
    for name, (factor, indices) in kept.items():
        factors = getattr(sites.model.get_submodule(name), factor)
        dim = 0 if factor == "lora_B" else 1
        weight = factors[ADAPTER].weight
        if len(indices) < weight.shape[dim]:
            factors[ADAPTER] = RestrictedFactor(weight, indices, dim)


def count_parameters(adapted: nn.Module) -> Counts:
    """Count an adapter's trainable parameters.

    A neuron's own are those of its row of ``lora_B`` (gate, up) or column of ``lora_A`` (down). The other factor of
    such a projection, shared by its neurons, counts among the rest.
    """
    trainable = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    sites = locate(adapted)
    # A fused projection is the place of two.
    factors = {
        (sites.model.get_submodule(place.path), place.factor) for bank in sites.dense for place in places(bank).values()
    }
    of_neurons = sum(
        parameter.numel()
        for module, factor in factors
        if isinstance(module, LoraLayer)
        for parameter in _of_neurons(module, factor)
        if parameter.requires_grad
    )
    return Counts(trainable, of_neurons)


def _of_neurons(module: nn.Module, factor: Factor) -> Iterator[nn.Parameter]:
    """Yield the parameters of single neurons: the other factor's where this one only says which rows are theirs."""
    own = list(getattr(module, factor).parameters())
    if any(parameter.requires_grad for parameter in own):
        yield from own
    else:
        yield from getattr(module, "lora_A" if factor == "lora_B" else "lora_B").parameters()


def save_adapter(adapted: PeftModel, folder: str | Path, neurons: NeuronSet | None = None) -> Path:
    """Write an ordinary PEFT adapter, and beside it the trained neurons as ``neurons.json``.

    ``PeftModel.from_pretrained`` and lm-eval's ``--model_args peft=…`` read it without lnbench.

    Raises:
        LnbenchError: the disk is full or the folder cannot be written; files of an earlier adapter stay whole.
    """
    folder = Path(folder)
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with tempfile.TemporaryDirectory(prefix=".adapter-", dir=folder) as temporary:
            # Without the argument PEFT may ask a model hub whether the vocabulary has grown.
            adapted.save_pretrained(temporary, save_embedding_layers=False)
            for name in (SAFETENSORS_WEIGHTS_NAME, _CONFIG):
                (Path(temporary) / name).replace(folder / name)
    except (OSError, SafetensorError) as error:
        raise LnbenchError(f"cannot write the adapter to {folder}: {error}") from error
    if neurons is None:
        (folder / NEURONS).unlink(missing_ok=True)
    else:
        neurons.save(folder / NEURONS)
    return folder
