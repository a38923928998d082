"""Data that tasks of lm-eval read from this machine: YAML names the files, and results depend on what these hold."""

from __future__ import annotations

import glob
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import yaml

from lnbench import content_hash

_NAMES_DATA = ("dataset_path", "data_files", "data_dir")


class _Loader(yaml.SafeLoader):
    """Reads lm-eval's YAML; its own tags, as ``!function``, name code in the folder and no data."""


_Loader.add_multi_constructor("!", lambda _loader, _suffix, _node: None)


@content_hash.remembered
def content_of_data(folder: str) -> tuple[tuple[str, str], ...]:
    """Return the local files and folders that the tasks of a folder name as data, and what these hold.

    Raises:
        LnbenchError: one cannot be read.
    """
    named = {path for file in sorted(Path(folder).rglob("*.yaml")) for path in _data_of(file)}
    return tuple(sorted((path, content_hash.of_path(path) or "") for path in named))


def _data_of(file: Path) -> Iterator[str]:
    try:
        content = yaml.load(file.read_text(encoding="utf-8"), _Loader)
    except (OSError, ValueError, yaml.YAMLError):
        return  # lm-eval says what is wrong with it.
    for value in _values(content):
        for path in glob.glob(str(Path(value).expanduser()), recursive=True):  # noqa: PTH207 (it may be absolute)
            if value not in (".", "..", "/", ""):
                yield path


def _values(content: Any, named: bool = False) -> Iterator[str]:
    """Yield the texts below the keys that name data."""
    if isinstance(content, dict):
        for key, value in content.items():
            yield from _values(value, named or key in _NAMES_DATA)
    elif isinstance(content, list):
        for value in content:
            yield from _values(value, named)
    elif named and isinstance(content, str):
        yield content
