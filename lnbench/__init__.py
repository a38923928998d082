"""lnbench: language-specific neurons of multilingual LLMs, found, overridden and measured through lm-eval.

The names below are imported when first used, so that ``import lnbench`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

from lnbench._version import __version__

if TYPE_CHECKING:
    from lnbench.analysis.side_by_side import generate_side_by_side
    from lnbench.analysis.top_examples import top_examples
    from lnbench.choices import override, select
    from lnbench.corpora.corpus import open_corpus
    from lnbench.corpora.packing import blocks
    from lnbench.errors import LnbenchError
    from lnbench.files import tasks_dir as tasks
    from lnbench.hookspecs import OverrideContext, hookimpl
    from lnbench.leaderboard import load_leaderboard
    from lnbench.model.load import load_model
    from lnbench.neurons import NeuronSet
    from lnbench.override_values import LayerOverride, Override
    from lnbench.statistics import Statistics, collect_statistics
    from lnbench.statistics.cached import statistics
    from lnbench.sweeps.records import load as load_records

_HOMES = {
    "LayerOverride": "lnbench.override_values",
    "LnbenchError": "lnbench.errors",
    "NeuronSet": "lnbench.neurons",
    "Override": "lnbench.override_values",
    "OverrideContext": "lnbench.hookspecs",
    "Statistics": "lnbench.statistics",
    "blocks": "lnbench.corpora.packing",
    "collect_statistics": "lnbench.statistics",
    "generate_side_by_side": "lnbench.analysis.side_by_side",
    "hookimpl": "lnbench.hookspecs",
    "load_leaderboard": "lnbench.leaderboard",
    "load_model": "lnbench.model.load",
    "load_records": "lnbench.sweeps.records",
    "open_corpus": "lnbench.corpora.corpus",
    "override": "lnbench.choices",
    "select": "lnbench.choices",
    "tasks": "lnbench.files",
    "top_examples": "lnbench.analysis.top_examples",
}
_CALLED = {"load_records": "load", "tasks": "tasks_dir"}
"""What is called something else in its module."""
_PACKAGES = ("demo", "figures", "statistics")
"""Packages that are used by their names, as ``lnbench.figures.neurons_per_layer(…)``."""

__all__ = [
    "LayerOverride",
    "LnbenchError",
    "NeuronSet",
    "Override",
    "OverrideContext",
    "Statistics",
    "__version__",
    "blocks",
    "collect_statistics",
    "generate_side_by_side",
    "hookimpl",
    "load_leaderboard",
    "load_model",
    "load_records",
    "open_corpus",
    "override",
    "select",
    "statistics",
    "tasks",
    "top_examples",
]


def __getattr__(name: str) -> Any:
    if name in _PACKAGES:
        return import_module(f"lnbench.{name}")
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), _CALLED.get(name, name))
    raise AttributeError(f"module 'lnbench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__, *_PACKAGES})
