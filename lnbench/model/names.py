"""Names of models as results show them: a name, never the folder of somebody's machine that holds the weights."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

_SNAPSHOT = re.compile(r"/models--(?P<name>[^/]+)/snapshots/[^/]+/?$")
"""Where the hub's cache keeps a model."""
_ABSOLUTE = re.compile(r"(?<![\w.$~:/*-])/[^\s'\",=:;|]+/[^\s'\",=:;|]*")


def name_of(source: str) -> str:
    """Return the name of what a model is loaded from: itself, where it is a packaged name or one of the hub.

    Of a folder it is the last part of its path; of the hub's cache, the name on the hub.
    """
    path = Path(source).expanduser()
    if source and path.is_dir() and not _SNAPSHOT.search(path.as_posix()):
        return path.resolve().name or source
    return name_in_file(source)


def name_in_file(recorded: str) -> str:
    """Return the name of a model that a file mentions, which may be of another machine: no folder is looked at."""
    if snapshot := _SNAPSHOT.search(recorded):
        return snapshot["name"].replace("--", "/", 1)
    return PurePosixPath(recorded).name or recorded if is_path(recorded) else recorded


def is_path(source: str) -> bool:
    """Return whether this can only be a path: a name on the hub has one slash at most, and does not begin with it."""
    return source.startswith(("/", ".", "~")) or source.strip("/").count("/") > 1


def without_folders(text: str) -> str:
    """Return a text in which each absolute path is its last part: a command or an error as a page shows it."""
    return _ABSOLUTE.sub(lambda path: path[0].rstrip("/").rpartition("/")[2], text)
