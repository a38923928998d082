"""LoRA on the attention and on selected neurons: build the adapter, count it, save it as an ordinary PEFT adapter."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import torch
from peft import PeftModel
from peft.tuners.lora import LoraLayer
from peft.utils import SAFETENSORS_WEIGHTS_NAME
from safetensors import SafetensorError
from torch import nn

from lnbench.errors import LnbenchError
from lnbench.finetuning.chosen_targets import chosen_targets
from lnbench.finetuning.masked_linear import RestrictedFactor
from lnbench.finetuning.projections import Projection, all_places
from lnbench.finetuning.targets import Factor, Target, add_adapter, layer_of
from lnbench.model.architectures import ATTENTION
from lnbench.model.describe import model_name
from lnbench.model.locate import locate
from lnbench.model.sites import Sites, unwrap
from lnbench.neurons import NeuronSet

NEURONS = "neurons.json"
"""The file in an adapter's folder that says which neurons were trained."""

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
    the columns) that belong to ``neurons`` are parameters: the others have no gradient and no optimiser state. So it is
    with the matrices of each expert; and where ``neurons`` are heads (site ``attention``), with the columns of the
    output projection that read them. Its
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
        attention: Whether the query, key, value and output projections are trained too; where heads are chosen,
            theirs alone is.
        output_projection: Whether the last of these four is, beside the others.
        projections: Which feed-forward projections are trained: ``gate``, ``up``, ``down``.
        seed: Seed of the first factor; the second starts at zero. The global random state is left alone.

    Raises:
        LnbenchError: an unsupported or already adapted model, neurons of another model, nothing to train.
    """
    if isinstance(model, PeftModel):
        raise LnbenchError("this model has an adapter already; merge it first: model.merge_and_unload()")
    sites = locate(model)
    whole = attention and not (neurons is not None and neurons.site == ATTENTION)
    targets: dict[str, Target | None] = dict.fromkeys(_attention(sites, output_projection) if whole else ())
    targets |= chosen_targets(sites, neurons, projections)
    if not targets:
        raise LnbenchError("nothing to train: no neurons are chosen, and attention=False leaves the attention frozen")
    with torch.random.fork_rng(devices=[]):
        torch.default_generator.manual_seed(seed)
        adapted = add_adapter(sites.model, targets, r=rank, lora_alpha=alpha, lora_dropout=dropout)
    for name, target in targets.items():
        if target is not None:
            target.restrict(layer_of(sites.model, name))
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


def count_parameters(adapted: nn.Module) -> Counts:
    """Count an adapter's trainable parameters.

    A neuron's own are those of its row of ``lora_B`` (gate, up) or column of ``lora_A`` (down). The other factor of
    such a projection, shared by its neurons, counts among the rest.
    """
    trainable = sum(parameter.numel() for parameter in adapted.parameters() if parameter.requires_grad)
    sites = locate(adapted)
    # A fused projection is the place of two.
    factors = {(where.path, where.factor) for bank in sites.banks for where in all_places(sites.model, bank).values()}
    layers = [(layer_of(sites.model, name), factor) for name, factor in sorted(factors)]
    # The attention's output projection is most often adapted as a whole.
    heads = [layer_of(sites.model, place.module) for place in sites.places if place.site == ATTENTION]
    layers += [(layer, "lora_A") for layer in heads if layer is not None and _is_masked(layer)]
    of_neurons = sum(
        parameter.numel()
        for layer, factor in layers
        if layer is not None
        for parameter in _of_neurons(layer, factor)
        if parameter.requires_grad
    )
    return Counts(trainable, of_neurons)


def _is_masked(layer: LoraLayer) -> bool:
    return all(isinstance(own, RestrictedFactor) or not own.weight.requires_grad for own in layer.lora_A.values())


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
            for config in adapted.peft_config.values():
                # An adapter is passed on: it names the model, not the folder of this machine that holds it.
                config.base_model_name_or_path = model_name(unwrap(adapted))
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
