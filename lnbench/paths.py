"""Folders that ship with the package."""

from __future__ import annotations

from pathlib import Path

from lnbench.errors import LnbenchError


def tasks_dir() -> Path:
    """The folder of lnbench's lm-eval tasks, for ``--include_path``.

    It lies inside the package in a wheel, and beside it in a source checkout.

    Raises:
        LnbenchError: it is in neither place: the installation is incomplete.
    """
    package = Path(__file__).parent
    for folder in (package / "tasks", package.parent / "tasks"):
        if (folder / "xnli").is_dir():
            return folder
    raise LnbenchError(f"lnbench's tasks are not beside {package}; install lnbench again")
