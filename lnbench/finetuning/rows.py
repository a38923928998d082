"""Neurons' own weights trained directly: rows of gate and up, columns of down, with everything else bit-identical.

A change of n rows is a matrix of rank n at most, so it is written as LoRA of rank n and scale 1 without loss: one
factor says which rows they are and is frozen, the other one is the change of these rows itself, and trains. So it is an
ordinary PEFT adapter, which PEFT loads and merges without lnbench.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from torch import nn
from transformers.pytorch_utils import Conv1D

from lnbench.errors import LnbenchError
from lnbench.finetuning.lora import ADAPTER, kept_rows
from lnbench.finetuning.projections import Projection, places
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
    gated = all("up" in places(bank) for bank in sites.dense)
    everything: tuple[Projection, ...] = ("gate", "up", "down") if gated else ("gate", "down")
    kept = kept_rows(sites, neurons, projections or everything)
    if not kept:
        raise LnbenchError("nothing to train: no neurons are chosen")
    sizes = {name: len(indices) for name, (_, indices) in kept.items()}
    transposed = {isinstance(sites.model.get_submodule(name), Conv1D) for name in kept}
    config = LoraConfig(
        task_type="CAUSAL_LM",
        r=max(sizes.values()),
        lora_alpha=max(sizes.values()),
        rank_pattern=sizes,
        alpha_pattern=sizes,
        target_modules=list(kept),
        fan_in_fan_out=transposed == {True},
    )
    adapted = get_peft_model(sites.model, config, ADAPTER)
    for name, (factor, indices) in kept.items():
        module: Any = sites.model.get_submodule(name)
        rows, change = (
            getattr(module, which)[ADAPTER].weight for which in (factor, "lora_A" if factor == "lora_B" else "lora_B")
        )
        with torch.no_grad():
            change.zero_()
            rows.zero_()
            numbers = torch.arange(len(indices), device=rows.device)
            at = indices.to(rows.device)
            rows[(at, numbers) if factor == "lora_B" else (numbers, at)] = 1
        rows.requires_grad_(False)
    return adapted
