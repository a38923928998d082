"""What files hold now, as short fingerprints: cells are keyed by contents, so that a rewritten file is noticed."""

from __future__ import annotations

import hashlib
from functools import cache
from pathlib import Path

from lnbench.errors import LnbenchError
from lnbench.files import file_sha256, fingerprint
from lnbench.models import PACKAGED
from lnbench.statistics import store

_WHOLE_BYTES = 1 << 22
_SAMPLES, _SAMPLE_BYTES = 64, 1 << 14
_TASK_FILES = (".yaml", ".yml", ".py", ".json", ".jsonl")


def forget() -> None:
    """Look at every file anew: what they held when a sweep was planned is not what they hold for the next."""
    for function in (of_file, of_model, of_statistics, of_tasks):
        function.cache_clear()


@cache
def of_file(path: str) -> str:
    """A file's content.

    Raises:
        LnbenchError: it cannot be read.
    """
    try:
        return file_sha256(path)[:16]
    except OSError as error:
        raise LnbenchError(f"cannot read {path}: {error.strerror or error}") from error


@cache
def of_model(name: str) -> str:
    """A packaged model's checksum, the files of a local folder, or a hub name itself."""
    if name in PACKAGED:
        return PACKAGED[name].sha256[:16]
    folder = Path(name).expanduser()
    if not folder.is_dir():
        return name
    files = [path for path in folder.iterdir() if path.is_file() and not path.name.startswith(".")]
    return fingerprint([(path.name, _sampled(path)) for path in sorted(files)])


@cache
def of_statistics(folder: str) -> str:
    """A Statistics folder's manifest.

    Raises:
        LnbenchError: there is none.
    """
    return of_file(str(Path(folder) / store.MANIFEST))


@cache
def of_tasks(folder: str) -> str:
    """The configurations, code and data rows in a folder of tasks.

    Raises:
        LnbenchError: it is no folder.
    """
    root = Path(folder)
    if not root.is_dir():
        raise LnbenchError(f"include_path: {folder} is no folder")
    files = sorted(path for path in root.rglob("*") if path.suffix in _TASK_FILES)
    return fingerprint([(str(path.relative_to(root)), _sampled(path)) for path in files])


def _sampled(path: Path) -> str:
    """A file's size and bytes; of a large one, bytes spread over it, which any other training changes."""
    size = path.stat().st_size
    if size <= _WHOLE_BYTES:
        return of_file(str(path))
    digest = hashlib.sha256(str(size).encode())
    with path.open("rb") as file:
        for number in range(_SAMPLES):
            file.seek(number * (size - _SAMPLE_BYTES) // (_SAMPLES - 1))
            digest.update(file.read(_SAMPLE_BYTES))
    return digest.hexdigest()[:16]
