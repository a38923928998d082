"""The built-in selectors, interventions and architectures, registered through the same hooks as anyone's."""

from __future__ import annotations

BUILTINS: tuple[str, ...] = (
    "lnbench.plugins.selectors",
    "lnbench.plugins.interventions",
    "lnbench.plugins.architectures",
)
"""Modules with hook implementations, in the order in which their names are listed."""
