"""The built-in architectures, registered through the same hook as a plugin's."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from lnbench.hookspecs import hookimpl
from lnbench.model.architectures import ARCHITECTURES


@hookimpl
def lnbench_register_architectures(register: Callable[[str, Any], None]) -> None:
    for model_type, row in ARCHITECTURES.items():
        register(model_type, row)
