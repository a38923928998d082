"""``training.json``: what an adapter's folder says of how it was made."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lnbench.files import write_json
from lnbench.formats import read_format

FORMAT = "lnbench.training/1"
FILE = "training.json"
CHECKPOINTS = "checkpoint-*"
"""Folders beside it, during training."""
_ABOUT_WEIGHTS = ("dtype", "revision", "gguf_file", "load_in_4bit")


def read(folder: Path) -> dict[str, Any] | None:
    """Return the record of a folder; None if nothing was trained there yet.

    Raises:
        LnbenchError: the file is damaged or something else.
    """
    path = folder / FILE
    if not path.exists():
        return None
    return read_format(path, FORMAT, "record of training")


def update(folder: Path, **parts: Any) -> None:
    """Write parts of the record; its others stay as they are."""
    write_json(folder / FILE, {"format": FORMAT, **(read(folder) or {}), **parts})


def base_model(record: Mapping[str, Any] | None) -> tuple[str | None, dict[str, Any]]:
    """Return the base model that a record names, and those of its model arguments that say how weights are read.

    A record can come from a stranger, so no other argument is taken from it: ``trust_remote_code`` would run code.
    """
    request = (record or {}).get("request") or {}
    arguments = request.get("model_args") or {}
    kept = {name: arguments[name] for name in arguments if name in _ABOUT_WEIGHTS or name.startswith("bnb_4bit_")}
    return request.get("model"), kept


def differences(before: Any, now: Any, name: str = "") -> list[str]:
    """Return what differs between two pieces of JSON, as ``name: before → now``."""
    if isinstance(before, dict) and isinstance(now, dict):
        keys = dict.fromkeys([*before, *now])
        parts = [differences(before.get(key), now.get(key), f"{name}.{key}".lstrip(".")) for key in keys]
        return [line for part in parts for line in part]
    return [] if before == now else [f"{name}: {before} → {now}"]
