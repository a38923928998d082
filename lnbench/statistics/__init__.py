"""Statistics of neuron activations: collected in one pass, queried for any quantile, stored as safetensors."""

from __future__ import annotations

from lnbench.model.describe import describe_model
from lnbench.statistics.collect import collect_statistics
from lnbench.statistics.language_statistics import Statistics
from lnbench.statistics.site_values import LEVELS, SiteValues

__all__ = ["LEVELS", "SiteValues", "Statistics", "collect_statistics", "describe_model"]
