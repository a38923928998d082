"""Neurons in common, of two languages or of two selections, and how many chance would give them.

Notation: A and B are two sets of neurons of one model of width d; a(l) and b(l) are their numbers in layer l. If B were
b(l) random neurons of each layer l, it would share Σ_l a(l) · b(l) / d neurons with A on average: the mean of a
hypergeometric distribution per layer. So layers in which both have many neurons are no evidence of anything.
"""

from __future__ import annotations

from typing import NamedTuple

import torch
from torch import Tensor

from lnbench.neurons import NeuronSet


class LanguageOverlap(NamedTuple):
    """What every two of K languages have in common; all ``[K, K]``, row i and column j of ``languages``.

    Attributes:
        languages: The K languages.
        counts: |A_i ∩ A_j|; each language's own number on the diagonal.
        share: |A_i ∩ A_j| / |A_i|, the share of i's neurons that are j's too; NaN where i has none.
        jaccard: |A_i ∩ A_j| / |A_i ∪ A_j|; 0 where both are empty.
        expected: What ``counts`` would be by chance; see the module's head. Of no use on the diagonal.
        excess: counts − expected.
        alone: ``LongTensor[K]``: neurons of i that are no other language's.
    """

    languages: list[str]
    counts: Tensor
    share: Tensor
    jaccard: Tensor
    expected: Tensor
    excess: Tensor
    alone: Tensor

    @property
    def expected_share(self) -> Tensor:
        """Return ``expected`` / |A_i|, the ``share`` expected by chance; NaN where i has no neurons."""
        return self.expected / self.counts.diagonal()[:, None]


class Chance(NamedTuple):
    """What two selections of one language's neurons would share by chance; see the module's head.

    ``jaccard`` is shared / (|A| + |B| − shared), 0 where both are empty.
    """

    shared: float
    jaccard: float


def language_overlap(neurons: NeuronSet) -> LanguageOverlap:
    """Return what every two languages of a set have in common."""
    languages, counts, jaccard = neurons.overlap()
    masks = torch.zeros(len(languages), neurons.layers, neurons.width, dtype=torch.bool)
    for row, language in enumerate(languages):
        masks[row] = neurons.mask(language)
    layers = masks.sum(2).double()
    expected = (layers / torch.tensor(neurons.widths).clamp_min(1)) @ layers.T
    share = counts.double() / counts.diagonal()[:, None]
    alone = (masks & (masks.sum(0) == 1)).sum((1, 2))
    return LanguageOverlap(languages, counts, share, jaccard, expected, counts - expected, alone)


def by_chance(first: NeuronSet, second: NeuronSet, language: str) -> Chance:
    """Return what two selections of one language's neurons, in models of one shape, would share by chance."""
    own, other = (neurons.per_layer(language).double() for neurons in (first, second))
    shared = float((own * other / torch.tensor(first.widths).clamp_min(1)).sum())
    either = float(own.sum() + other.sum()) - shared
    return Chance(shared, shared / either if either else 0.0)
