"""Statistics of neuron activations: collected in one pass, queried for any quantile, stored as safetensors.

The package can be called: ``lnbench.statistics(model, tokenizer, corpus, languages)``, see
:func:`lnbench.statistics.cached.statistics`.
"""

from __future__ import annotations

import sys
from types import ModuleType
from typing import Any

from lnbench.model.describe import describe_model
from lnbench.statistics.collect import collect_statistics
from lnbench.statistics.language_statistics import Statistics
from lnbench.statistics.site_values import LEVELS, SiteValues

__all__ = ["LEVELS", "SiteValues", "Statistics", "collect_statistics", "describe_model"]


class _StatisticsPackage(ModuleType):
    """This package, which is a function too."""

    def __call__(self, *arguments: Any, **options: Any) -> dict[str, Statistics]:
        """Do what :func:`lnbench.statistics.cached.statistics` does."""
        from lnbench.statistics.cached import statistics

        return statistics(*arguments, **options)


# Importing any module in here makes lnbench.statistics this package, whatever was there before. So the package itself
# is what can be called: there is one object under the name at all times, and plugins import from it as they did.
sys.modules[__name__].__class__ = _StatisticsPackage
