"""How many neurons each language has, and in which layers."""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lnbench.neurons import NeuronSet


class LayerCounts(NamedTuple):
    """Neurons by language and layer.

    ``counts`` is ``LongTensor[languages, layers]``; ``share``, ``DoubleTensor[languages, layers]``, is counts / width:
    the share of the layer that belongs to the language.
    """

    languages: list[str]
    counts: Tensor
    share: Tensor


def neurons_per_language(neurons: NeuronSet) -> dict[str, int]:
    """Language → number of its neurons."""
    return {language: neurons.count(language) for language in neurons}


def neurons_per_layer(neurons: NeuronSet) -> LayerCounts:
    """Neurons by language and layer; no rows for a set without languages."""
    rows = [neurons.per_layer(language) for language in neurons]
    counts = torch.stack(rows) if rows else torch.empty(0, neurons.layers, dtype=torch.long)
    return LayerCounts(neurons.languages, counts, counts.double() / neurons.width)
