"""Neurons' own weights trained directly: rows of gate and up, columns of down, with everything else bit-identical.

A change of n rows is a matrix of rank n at most, so it is written as LoRA of rank n and scale 1 without loss: one
factor says which rows they are and is frozen, the other one is the change of these rows itself, and trains. So it is an
ordinary PEFT adapter, which PEFT loads and merges without lnbench.
"""

from __future__ import annotations

from collections.abc import Sequence

from peft import PeftModel
from torch import nn

from lnbench.errors import LnbenchError
from lnbench.finetuning.chosen_targets import chosen_targets
from lnbench.finetuning.projections import Projection
from lnbench.finetuning.targets import add_adapter, layer_of
from lnbench.model.locate import locate
from lnbench.neurons import NeuronSet


def build_rows(model: nn.Module, neurons: NeuronSet, *, projections: Sequence[Projection] = ()) -> PeftModel:
    """Make the selected neurons' rows and columns trainable in ``model``, which is changed in place and else frozen.

    Args:
        model: A supported Hugging Face causal LM, in any precision, NF4 included.
        neurons: Trained are the neurons of all its languages together.
        projections: ``gate``, ``up``, ``down``; by default all that the model has.

    Raises:
        LnbenchError: an unsupported or already adapted model, neurons of another model, nothing to train.
    """
    if isinstance(model, PeftModel):
        raise LnbenchError("this model has an adapter already; merge it first: model.merge_and_unload()")
    sites = locate(model)
    targets = chosen_targets(sites, neurons, projections)
    if not targets:
        raise LnbenchError("nothing to train: no neurons are chosen")
    ranks = {name: target.most for name, target in targets.items()}
    most = max(ranks.values())
    adapted = add_adapter(sites.model, targets, r=most, lora_alpha=most, ranks=ranks)
    for name, target in targets.items():
        target.select(layer_of(sites.model, name))
    return adapted
