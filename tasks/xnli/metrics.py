"""Accuracy over choices, and bits per byte of the right one."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def process_results(doc: Mapping[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """Score one row from the log-likelihood of each choice.

    Returns:
        ``acc``: 1 if the right choice is the likeliest, else 0.
        ``bits_per_byte``: the right choice's negative log-likelihood in bits, over its bytes in UTF-8 (the space
        before it is scored but not counted). It moves with every change of the likelihoods, where ``acc`` stays as it
        is while the ranking does.
    """
    likelihoods = [likelihood for likelihood, _ in results]
    label = doc["label"]
    size = len(doc["choices"][label].encode())
    return {
        "acc": float(likelihoods.index(max(likelihoods)) == label),
        "bits_per_byte": -likelihoods[label] / math.log(2) / size,
    }
