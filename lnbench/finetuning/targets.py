"""What an adapter trains of each weight: rows or columns of a linear map's update, or of every expert's."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from functools import cache
from typing import Any, Literal, NamedTuple

import torch
from peft import LoraConfig, PeftModel, get_peft_model
from peft.tuners.lora import LoraLayer, ParamWrapper
from peft.utils.transformers_weight_conversion import (
    convert_peft_config_for_transformers,
    get_model_conversion_mapping,
)
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from lnbench.errors import LnbenchError
from lnbench.finetuning.masked_linear import RestrictedEntries, RestrictedFactor

ADAPTER = "default"
Factor = Literal["lora_A", "lora_B"]


class Target(NamedTuple):
    """What is trained of one weight."""

    factor: Factor
    """The LoRA factor that has a row (``lora_B``) or a column (``lora_A``) for each of :attr:`rows`."""
    rows: Tensor
    """``LongTensor[n]``: rows of the update, or columns."""
    experts: Tensor | None = None
    """``LongTensor[n]``, the expert of each, where one parameter holds every expert's matrix; None: a linear map."""

    def joined(self, other: Target) -> Target:
        """Return the rows of both, each once, in order."""
        if self.experts is None or other.experts is None:
            return self._replace(rows=torch.unique(torch.cat([self.rows, other.rows])))
        pairs = [torch.stack([part.experts, part.rows]) for part in (self, other) if part.experts is not None]
        experts, rows = torch.unique(torch.cat(pairs, 1), dim=1)
        return self._replace(rows=rows, experts=experts)

    @property
    def most(self) -> int:
        """The number of rows; of experts, of the one that has most."""
        return len(self.rows) if self.experts is None else int(self.experts.bincount().max())

    @property
    def number(self) -> Tensor:
        """``LongTensor[n]``: which of its expert's rows each is, of those here."""
        count = torch.arange(len(self.rows))
        if self.experts is None:
            return count
        experts = self.experts.contiguous()
        return count - torch.searchsorted(experts, experts)

    def restrict(self, layer: LoraLayer) -> None:
        """Leave nothing of a layer's factor as parameters but these rows."""
        factors = getattr(layer, self.factor)
        weight, dim = factors[ADAPTER].weight, 0 if self.factor == "lora_B" else 1
        if self.experts is None:
            if len(self.rows) < weight.shape[dim]:
                factors[ADAPTER] = RestrictedFactor(weight, self.rows, dim)
        elif len(self.rows) < weight.shape[dim] * layer.num_experts:
            factors[ADAPTER] = RestrictedEntries(weight, self._entries(weight, layer.num_experts))

    def select(self, layer: LoraLayer) -> None:
        """Make a layer's factor say which rows these are, for good, and the other one the change of each, which trains.

        A rank is one row's: of experts, the one that is the expert's ``number``-th.
        """
        other: Factor = "lora_A" if self.factor == "lora_B" else "lora_B"
        says, changes = (getattr(layer, factor)[ADAPTER].weight for factor in (self.factor, other))
        experts = 1 if self.experts is None else layer.num_experts
        of_expert = torch.zeros_like(self.rows) if self.experts is None else self.experts
        of_a = of_expert * (layer.r[ADAPTER]) + self.number
        of_b = self.number * experts + of_expert
        mine, its = (of_b, of_a) if self.factor == "lora_B" else (of_a, of_b)
        with torch.no_grad():
            changes.zero_()
            says.zero_()
            says[(self.rows, mine) if self.factor == "lora_B" else (mine, self.rows)] = 1
        says.requires_grad_(False)
        if len(its) < changes.shape[0 if other == "lora_A" else 1]:
            # Ranks that are no row's.
            getattr(layer, other)[ADAPTER] = RestrictedFactor(changes, its.sort().values, 0 if other == "lora_A" else 1)

    def _entries(self, weight: Tensor, experts: int) -> Tensor:
        """Return where in a factor each row's own numbers are, ``LongTensor[n, rank]`` of the flattened factor.

        PEFT lays ``lora_B`` out as ``[out, rank · experts]``, experts innermost, and ``lora_A`` as
        ``[experts · rank, in]``, experts outermost.
        """
        assert self.experts is not None
        if self.factor == "lora_B":
            columns = torch.arange(weight.shape[1] // experts) * experts
            return (self.rows * weight.shape[1] + self.experts)[:, None] + columns
        rank = weight.shape[0] // experts
        return ((self.experts * rank)[:, None] + torch.arange(rank)) * weight.shape[1] + self.rows[:, None]


def add_adapter(model: Any, targets: Mapping[str, Target | None], **entries: Any) -> PeftModel:
    """Put a LoRA adapter on linear maps, and on parameters that hold the matrices of all experts.

    Args:
        model: A causal LM.
        targets: Name of a linear map, or of a parameter of experts → what trains of it; None: all.
        entries: Of PEFT's configuration; ``ranks`` (name → rank) for ranks that differ.

    Raises:
        LnbenchError: PEFT cannot adapt one of them.
    """
    ranks: Mapping[str, int] = entries.pop("ranks", {})
    of_experts = [name for name, target in targets.items() if target is not None and target.experts is not None]
    modules = [name for name in targets if name not in of_experts]
    # PEFT takes these names for those of experts in checkpoints of earlier versions of transformers.
    renamed = _taken_for_experts(model, modules)
    parameters = [*of_experts, *(f"{name}.weight" for name in renamed)]
    _check_parameters(model, parameters, entries)
    adapted_names = {name: f"{name}.weight" if name in renamed else name for name in ranks}
    pattern = {adapted_names[name]: rank for name, rank in ranks.items()}
    modules = [name for name in modules if name not in renamed]
    config = LoraConfig(
        task_type="CAUSAL_LM",
        target_modules=modules,
        target_parameters=parameters or None,
        fan_in_fan_out=bool(modules) and all(isinstance(model.get_submodule(name), Conv1D) for name in modules),
        rank_pattern=pattern,
        alpha_pattern=dict(pattern),
        **entries,
    )
    adapted: PeftModel = get_peft_model(model, config, ADAPTER)
    return adapted


def _taken_for_experts(model: nn.Module, names: Iterable[str]) -> list[str]:
    conversions = get_model_conversion_mapping(model)

    @cache
    def is_taken(leaf: str) -> bool:
        config = LoraConfig(target_modules=[leaf])
        try:
            convert_peft_config_for_transformers(config, model=model, conversions=conversions)
        except ValueError:
            return True
        return leaf not in config.target_modules

    return [name for name in names if is_taken(name.rpartition(".")[2])]


def _check_parameters(model: nn.Module, parameters: list[str], entries: Mapping[str, Any]) -> None:
    if parameters and entries.get("lora_dropout"):
        raise LnbenchError(
            f"{parameters[0]} of this {type(model).__name__} is adapted as a parameter, whose input PEFT cannot drop "
            "out; pass dropout=0"
        )
    for name in parameters:
        path, _, own = name.rpartition(".")
        weight = getattr(model.get_submodule(path), own)
        if not weight.is_floating_point():
            raise LnbenchError(
                f"{name} of this {type(model).__name__} is quantised ({weight.dtype}) and adapted as a parameter, "
                "which needs weights of 16 or 32 bits; load the model without quantisation, or fine-tune the attention "
                "alone"
            )


def layer_of(model: nn.Module, name: str) -> Any:
    """Return PEFT's layer around a linear map, or around a parameter of experts; None where there is none."""
    try:
        layer: Any = model.get_submodule(name)
    except AttributeError:
        path, _, own = name.rpartition(".")
        layer = model.get_submodule(path)
        while isinstance(layer, ParamWrapper) and layer.parameter_name != own:
            layer = layer.base_layer
    return layer if isinstance(layer, LoraLayer) else None
