"""Neurons and a little training for tests of adapters."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from transformers import AutoModelForCausalLM, BitsAndBytesConfig
from transformers.pytorch_utils import Conv1D

from lnbench import NeuronSet
from lnbench.finetuning.projections import place
from lnbench.model.describe import model_name
from lnbench.model.locate import locate
from tests.support.known_rows import ARCHITECTURES

ALL = ("gate", "up", "down")
IDS = torch.tensor([[1, 5, 9, 30, 77, 4], [1, 200, 3, 8, 8, 150]])


def neurons_of(model: nn.Module, share: float = 0.25, seed: int = 0, language: str = "hi") -> NeuronSet:
    """Random neurons of a model; one layer has none."""
    sites = locate(model)
    generator = torch.Generator().manual_seed(seed)
    mask = torch.rand(sites.layers, sites.width, generator=generator) < share
    mask[seed % sites.layers] = False
    return NeuronSet.from_masks(model_name(model), {language: mask})


def projections_of(model_type: str, wanted: Sequence[str] = ALL) -> list[Any]:
    """Those of the ``wanted`` projections that an architecture has."""
    row = ARCHITECTURES[model_type]
    return [one for one in wanted if one != "up" or row.up or row.fused]


def train(adapted: nn.Module, steps: int = 3, rate: float = 0.05) -> torch.optim.Optimizer:
    """A few steps of AdamW with weight decay, which would move any row that it knew of."""
    optimizer = torch.optim.AdamW((p for p in adapted.parameters() if p.requires_grad), lr=rate, weight_decay=0.1)
    torch.manual_seed(0)
    adapted.train()
    for _ in range(steps):
        ids = IDS.to(adapted.device)
        loss = adapted(input_ids=ids, labels=ids).loss
        loss.backward()
        optimizer.step()
        optimizer.zero_grad()
    adapted.eval()
    return optimizer


def matrix(module: nn.Module) -> Tensor:
    """A projection's weight, ``[out, in]``."""
    weight = module.weight.detach().clone()
    return weight.T if isinstance(module, Conv1D) else weight


def rows_of(model: nn.Module, projection: Any) -> list[Tensor]:
    """Per layer, each neuron's part of a projection, one a row."""
    sites = locate(model)
    rows = []
    for bank in sites.banks:
        one = place(bank, projection)
        weight = matrix(sites.model.get_submodule(one.path))
        rows.append((weight.T if one.dim else weight)[one.rows(torch.arange(bank.width))])
    return rows


def logits(model: nn.Module, ids: Tensor = IDS) -> Tensor:
    with torch.no_grad():
        return model(ids.to(model.device)).logits


def quantised(folder: Path, device: str = "cpu") -> nn.Module:
    """A saved model in NF4 with double quantisation and bfloat16 compute."""
    config = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    return AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=config, dtype=torch.bfloat16, device_map=device
    )
