"""lnbench: language-specific neurons of multilingual LLMs, found, overridden and measured through lm-eval.

The names below are imported when first used, so that ``import lnbench`` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from lnbench.corpora import blocks, open_corpus
    from lnbench.errors import LnbenchError
    from lnbench.host import hookimpl
    from lnbench.neurons import NeuronSet
    from lnbench.overrides import LayerOverride, Override, override
    from lnbench.selection import select
    from lnbench.statistics import Statistics, collect_statistics

__version__ = "0.1.0"

_HOMES = {
    "LayerOverride": "lnbench.overrides",
    "LnbenchError": "lnbench.errors",
    "NeuronSet": "lnbench.neurons",
    "Override": "lnbench.overrides",
    "Statistics": "lnbench.statistics",
    "blocks": "lnbench.corpora",
    "collect_statistics": "lnbench.statistics",
    "hookimpl": "lnbench.host",
    "open_corpus": "lnbench.corpora",
    "override": "lnbench.overrides",
    "select": "lnbench.selection",
}

__all__ = [
    "LayerOverride",
    "LnbenchError",
    "NeuronSet",
    "Override",
    "Statistics",
    "blocks",
    "collect_statistics",
    "hookimpl",
    "open_corpus",
    "override",
    "select",
]


def __getattr__(name: str) -> Any:
    if name in _HOMES:
        return getattr(import_module(_HOMES[name]), name)
    raise AttributeError(f"module 'lnbench' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])
