"""Accuracy and bits per byte of a true continuation among wrong ones."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def process_results(doc: Mapping[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """Score one row from the log-likelihood of each choice.

    Returns:
        ``acc``: 1 if the true continuation is the likeliest choice, else 0.
        ``bits_per_byte``: its negative log-likelihood in bits, over the bytes of its text in UTF-8 (the space before it
        is scored but not counted).
    """
    likelihoods = [likelihood for likelihood, _ in results]
    label = doc["label"]
    size = len(doc["choices"][label].encode())
    return {
        "acc": float(likelihoods.index(max(likelihoods)) == label),
        "bits_per_byte": -likelihoods[label] / math.log(2) / size,
    }
