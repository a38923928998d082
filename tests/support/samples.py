"""Statistics made of numbers that a test knows, without a model."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor

from lnbench.statistics import LEVELS, SiteValues, Statistics
from lnbench.statistics.layer_accumulator import LayerAccumulator

Activation = Callable[[Tensor], Tensor]


def statistics_of(
    pre: Tensor,
    activation: Activation = torch.nn.functional.silu,
    *,
    language: str = "en",
    model: str = "tiny",
    site: str = "post",
    chunk: int = 500,
) -> Statistics:
    """The Statistics of pre-activations ``[tokens, layers, width]``, counted as a model's would be."""
    layers = [accumulated(pre[:, layer], activation, chunk).finish(activation) for layer in range(pre.shape[1])]
    sites = {
        name: SiteValues(
            **{
                part: torch.stack([layer[number].tensors()[part] for layer in layers], dim=-2)
                for part in layers[0][number].tensors()
            }
        )
        for number, name in enumerate(("pre", "post"))
    }
    return Statistics(language, len(pre), site, sites, {"model": model})


def accumulated(pre: Tensor, activation: Activation, chunk: int = 500) -> LayerAccumulator:
    """The account of one layer's pre-activations ``[tokens, width]``."""
    account = LayerAccumulator(pre.shape[1], pre.device)
    for part in pre.split(chunk):
        account.add(part, activation(part))
    return account


def with_rates(
    rates: object, *, language: str = "en", model: str = "tiny", tokens: int = 100, site: str = "post"
) -> Statistics:
    """Statistics of which only the activation probabilities ``[layers, width]`` matter."""
    rate = torch.as_tensor(rates, dtype=torch.float64)
    zero = torch.zeros(rate.shape)
    values = SiteValues(rate, zero, zero, zero, zero, torch.zeros(len(LEVELS), *rate.shape), zero)
    return Statistics(language, tokens, site, {site: values}, {"model": model})


def rank_error(sample: Tensor, value: Tensor, q: float, slack: float = 0.0) -> float:
    """How far ``value`` ``[width]`` is from a ``q``-quantile of ``sample`` ``[tokens, width]``, in ranks.

    Ties are an interval of ranks; so is all that lies within ``slack`` of the value.
    """
    return float(rank_errors(sample, value, q, slack).max())


def rank_errors(sample: Tensor, value: Tensor, q: float, slack: float = 0.0) -> Tensor:
    """:func:`rank_error` of every neuron, ``[width]``."""
    below = (sample < value - slack).double().mean(0)
    upto = (sample <= value + slack).double().mean(0)
    return torch.maximum(below - q, q - upto).clamp_min(0)


def normal(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))
