"""Arguments as lm_eval's command line takes them."""

from __future__ import annotations

import ast
import json
import re
from collections.abc import Mapping
from typing import Any

_SEPARATORS = re.compile(r"""[,"'{}()\s]""")


def format_model_args(arguments: Mapping[str, Any]) -> str:
    """Return ``key=value,key=value`` where lm_eval reads the same values back from it, else a JSON object.

    The corpus pattern's ``{lang}`` is written ``*``, since lm_eval takes a word with a brace for JSON.
    """
    given = {key: value.replace("{lang}", "*") if key == "corpus" else value for key, value in arguments.items()}
    if all(_is_plain(value) for value in given.values()):
        return ",".join(f"{key}={value}" for key, value in given.items())
    return json.dumps(given, ensure_ascii=False)


def _is_plain(value: Any) -> bool:
    if not isinstance(value, str):
        return isinstance(value, bool | int | float)
    return bool(value) and not _SEPARATORS.search(value) and not _is_literal(value)


def _is_literal(text: str) -> bool:
    """Return whether lm_eval would take a text for something else."""
    if text.lower() in ("true", "false"):
        return True
    try:
        float(text)
    except ValueError:
        try:
            ast.literal_eval(text)
        except (ValueError, SyntaxError):
            return False
    return True
