"""Accuracy and bits per byte of a continuation after its own text and after others."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import Any


def process_results(doc: Mapping[str, Any], results: Sequence[tuple[float, bool]]) -> dict[str, float]:
    """Score one row from the continuation's log-likelihood after each text.

    Returns:
        ``acc``: 1 if the continuation is likeliest after its own text, else 0.
        ``bits_per_byte``: its negative log-likelihood after its own text in bits, over its bytes in UTF-8 (the space
        before it is scored but not counted).
    """
    likelihoods = [likelihood for likelihood, _ in results]
    label = doc["label"]
    size = len(doc["continuation"].encode())
    return {
        "acc": float(likelihoods.index(max(likelihoods)) == label),
        "bits_per_byte": -likelihoods[label] / math.log(2) / size,
    }
