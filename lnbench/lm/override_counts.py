"""What was done to the requests, for the results JSON."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

from lnbench.overrides import Applied


@dataclass
class OverrideCounts:
    """The overrides of one language's requests, added up."""

    neurons: int = 0
    layers: int = 0
    tokens: int = 0
    values: int = 0
    outside: float = 0.0
    cached_answers: int = 0

    def add(self, applied: Applied) -> None:
        """Add one context's account."""
        self.neurons, self.layers = applied.neurons, applied.layers
        written = applied.tokens * applied.neurons
        self.tokens += applied.tokens
        if not math.isnan(applied.outside_range):
            self.values += written
            self.outside += applied.outside_range * written

    def summary(self) -> dict[str, Any]:
        """Return the account as it appears in the results."""
        return {
            "neurons": self.neurons,
            "layers": self.layers,
            "tokens_overridden": self.tokens,
            "share_outside_observed_range": self.outside / self.values if self.values else None,
            "answers_from_cache": self.cached_answers,
        }
