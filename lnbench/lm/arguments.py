"""Arguments as the command lines of lm_eval and lnbench take them."""

from __future__ import annotations

import ast
import json
import re
import shlex
from collections.abc import Collection, Mapping, Sequence
from pathlib import Path
from typing import Any

from lnbench.settings import Settings, default_of, option_of

_SEPARATORS = re.compile(r"""[,"'{}()\s]""")


def shell_line(words: Sequence[str]) -> str:
    """Return a command as one line for a shell; the user's home folder, which records must not name, as ``$HOME``."""
    # Between single quotes a shell expands nothing, so what is before and behind it is quoted by itself.
    parts = ([shlex.quote(part) if part else "" for part in _home().split(word)] if word else ["''"] for word in words)
    return " ".join('"$HOME"'.join(own) for own in parts)


def without_home(text: str) -> str:
    """Return a text in which the user's home folder, which records must not name, is ``~``."""
    return _home().sub("~", text)


def _home() -> re.Pattern[str]:
    """Return what finds the home folder as the beginning of a path; nothing, where it is the root of all folders."""
    home = str(Path.home())
    return re.compile(rf"(?<![\w./~-]){re.escape(home)}(?=[/:,;'\"\s]|$)" if len(home) > 1 else r"(?!)")


def format_model_args(arguments: Mapping[str, Any]) -> str:
    """Return ``key=value,key=value`` where lm_eval reads the same values back from it, else a JSON object.

    The corpus pattern's ``{lang}`` is written ``*``, since lm_eval takes a word with a brace for JSON.
    """
    written = {key: value.replace("{lang}", "*") if key == "corpus" else value for key, value in arguments.items()}
    if all(map(_is_plain, written.values())):
        return ",".join(f"{key}={value}" for key, value in written.items())
    return json.dumps(written, ensure_ascii=False)


def option_words(settings: Settings, leave_out: Collection[str] = ()) -> list[str]:
    """Return the options of lnbench's command line for all fields that are not at their default."""
    words = []
    for name, value in settings.model_dump(mode="json", exclude_defaults=True, exclude=set(leave_out)).items():
        if value == default_of(type(settings), name):
            continue
        option = f"--{option_of(type(settings), name).name}"
        if isinstance(value, dict) and option == "--set":
            for key, setting in value.items():
                words += [option, f"{key}={setting if isinstance(setting, str) else json.dumps(setting)}"]
        elif isinstance(value, dict):
            words += [option, format_model_args(value)]
        elif value is True:
            words += [option]
        else:
            words += [option, "+".join(map(str, value)) if isinstance(value, list) else str(value)]
    return words


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
