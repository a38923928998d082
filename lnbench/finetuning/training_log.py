"""Loss and accuracy while training: lines of JSON, and a picture of them."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import jsonlines
from transformers import TrainerCallback

from lnbench.errors import LnbenchError
from lnbench.files import atomic_path

_NAMES = {
    "step": "step",
    "epoch": "epoch",
    "loss": "loss",
    "learning_rate": "lr",
    "grad_norm": "grad_norm",
    "eval_loss": "validation_loss",
    "eval_accuracy": "validation_accuracy",
}
"""Trainer's names, and those in the file."""


class LogFile(TrainerCallback):  # type: ignore[misc]
    """Appends what Trainer logs to a file, one JSON object per line.

    After an interruption the file is rewritten up to the checkpoint that training resumes from, so that it has every
    step once.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []

    def on_train_begin(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
        """Write what was logged before training starts; called by Trainer."""
        self.rows = [row for logged in state.log_history if (row := _row(logged))]
        with atomic_path(self.path) as temporary, jsonlines.open(temporary, "w") as file:
            file.write_all(self.rows)

    def on_log(self, _: Any, state: Any, *__: Any, **___: Any) -> None:
        """Append what Trainer logged; called by Trainer.

        Raises:
            LnbenchError: the loss is not a number, or the disk is full.
        """
        row = _row(state.log_history[-1])
        if not row:
            return
        if not all(math.isfinite(value) for value in row.values()):
            raise LnbenchError(
                f"training failed at step {row['step']}: loss or gradient is not a finite number; a lower lr usually "
                "helps"
            )
        self.rows.append(row)
        try:
            with jsonlines.open(self.path, "a") as file:
                file.write(row)
        except OSError as error:
            raise LnbenchError(f"cannot write {self.path}: {error.strerror or error}") from error


def _row(logged: Mapping[str, Any]) -> dict[str, Any]:
    """Return one line; empty for Trainer's closing summary, which measures nothing."""
    row = {ours: logged[name] for name, ours in _NAMES.items() if name in logged}
    return row if row.keys() & {"loss", "validation_loss"} else {}


_PANELS = {
    "loss (nats)": {"loss": "training", "validation_loss": "validation"},
    "accuracy": {"validation_accuracy": "validation"},
}


def plot(rows: Sequence[Mapping[str, Any]], path: Path) -> None:
    """Draw loss and accuracy over steps.

    Args:
        rows: Lines of the log.
        path: Picture to write, PNG.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(8, 3), layout="constrained")
    panels = zip(_PANELS.items(), figure.subplots(1, len(_PANELS)), strict=True)
    for (title, lines), axes in panels:
        for name, label in lines.items():
            points = [(row["step"], row[name]) for row in rows if name in row]
            axes.plot(*zip(*points, strict=True) if points else ((), ()), marker=".", label=label)
        axes.set(xlabel="step", ylabel=title)
        axes.legend()
    with atomic_path(path) as temporary:
        figure.savefig(temporary, format="png", dpi=150)
