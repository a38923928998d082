"""Statistics of neuron activations: collected in one pass, queried for any quantile, stored as safetensors."""

from __future__ import annotations

from lnbench.statistics.collect import collect_statistics
from lnbench.statistics.describe import describe_model
from lnbench.statistics.values import LEVELS, SiteValues, Statistics

__all__ = ["LEVELS", "SiteValues", "Statistics", "collect_statistics", "describe_model"]
