"""The built-in selectors, interventions, fine-tuners and architectures: registered like anyone's, through the hooks."""

from __future__ import annotations

BUILTINS: tuple[str, ...] = (
    "lnbench.plugins.selectors",
    "lnbench.plugins.interventions",
    "lnbench.plugins.finetuners",
    "lnbench.plugins.architectures",
)
"""Modules with hook implementations, in the order in which their names are listed."""
