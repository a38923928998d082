"""What a machine has free; and the refusal of what it cannot hold, with the setting that makes it fit."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from shutil import disk_usage
from typing import Any

import torch

from lnbench.errors import LnbenchError
from lnbench.estimates.sizes import BYTES_PER_TOKEN, LoadedAs, ModelSize, Work, size_of
from lnbench.statistics.batching import free_memory


@dataclass(frozen=True)
class Room:
    """What a machine has free, in bytes.

    Args:
        device: What the model runs on.
        memory: Of that device.
        together: Of all devices and the host, over which ``parallelize=True`` spreads a model.
        disk: Returns what is free where a folder is, or is to be.
    """

    device: str
    memory: float
    together: float
    disk: Callable[[Path], float]

    @classmethod
    def here(cls, device: str | None = None) -> Room:
        """Return what this machine has; a GPU where there is one, unless a device is named."""
        named = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        devices = [torch.device("cuda", number) for number in range(torch.cuda.device_count())]
        free = {each: float(free_memory(each)) for each in [*devices, torch.device("cpu")]}
        own = torch.device("cuda", named.index or 0) if named.type == "cuda" else named
        return cls(str(own), free.get(own, math.inf), sum(free.values()), _free_on_disk)

    def of(self, loading: LoadedAs) -> float:
        """Return the memory that a model can fill that is loaded so."""
        return self.together if loading.parallelize else self.memory


def _free_on_disk(folder: Path) -> float:
    existing = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    return float(disk_usage(existing).free)


@dataclass(frozen=True)
class Remedy:
    """A setting that makes something smaller.

    Args:
        name: How it is written.
        applied: Returns how the model is loaded, and the work, under it.
    """

    name: str
    applied: Callable[[LoadedAs, Work], tuple[LoadedAs, Work]]


REMEDIES: tuple[Remedy, ...] = (
    Remedy("kl_tokens=0", lambda loading, work: (loading, replace(work, states=0))),
    Remedy("batch_size=1", lambda loading, work: (loading, replace(work, rows=1))),
    Remedy("gradient_checkpointing=True", lambda loading, work: (loading, replace(work, checkpointing=True))),
    Remedy("dtype=bfloat16", lambda loading, work: (replace(loading, dtype="bfloat16"), work)),
    Remedy("parallelize=True", lambda loading, work: (replace(loading, parallelize=True), work)),
    Remedy("load_in_4bit=True", lambda loading, work: (replace(loading, dtype="bfloat16", four_bit=True), work)),
)
"""In the order in which they are tried: those first that change numbers and time least."""
OPTIONS = {
    "out": "--out",
    "tokens": "--tokens",
    "kl_tokens=0": "--kl-tokens 0",
    "batch_size=1": "--batch-size 1",
    "gradient_checkpointing=True": "--set gradient_checkpointing=True",
    "dtype=bfloat16": "--model-args dtype=bfloat16",
    "parallelize=True": "--model-args parallelize=True",
    "load_in_4bit=True": "--model-args load_in_4bit=True",
}
"""What commands call the remedies, the folder that is written, and the amount of text."""


def check(
    pretrained: Any,
    arguments: Mapping[str, Any],
    work: Work,
    folder: Path,
    *,
    device: str | None = None,
    names: Mapping[str, str] | None = None,
    room: Room | None = None,
) -> ModelSize | None:
    """Return a model's size if the work fits this machine, as far as its configuration tells; nothing is loaded.

    Args:
        pretrained: Packaged model, hub name or folder.
        arguments: How it is loaded.
        work: What is about to be done.
        folder: Where it writes.
        device: What it runs on.
        names: Remedy or ``tokens`` or ``out`` → what the command calls it; those that it does not have as ``""``.
        room: What there is; of this machine by default.

    Raises:
        LnbenchError: it cannot fit; the message names the setting that makes it fit.
    """
    size = size_of(pretrained, arguments)
    if size is not None:
        loading = LoadedAs.of(arguments, device)
        fit(size, loading, work, room or Room.here(loading.device), folder, names)
    return size


def fit(
    size: ModelSize,
    loading: LoadedAs,
    work: Work,
    room: Room,
    folder: Path,
    names: Mapping[str, str] | None = None,
) -> None:
    """Refuse work that needs more memory or disk than there is.

    Raises:
        LnbenchError: see :func:`check`.
    """
    called = {**OPTIONS, **(names or {})}
    needed, free = _total(size, loading, work), room.of(loading)
    if needed > free:
        parts = work.memory(size, loading)
        raise LnbenchError(
            f"{work.doing} needs {gib(needed)} of memory on {room.device}, which has {gib(free)} free "
            f"({', '.join(f'{name} {gib(value)}' for name, value in parts.items())}): "
            + _what_helps(size, loading, work, room, called)
        )
    written, left = work.disk(size), room.disk(folder)
    if written > left:
        raise LnbenchError(
            f"{work.doing} needs {gib(written)} of disk in {folder}, which has {gib(left)} free: "
            f"make room, or choose a folder on another disk with {called['out']}"
        )


def _total(size: ModelSize, loading: LoadedAs, work: Work) -> float:
    return sum(work.memory(size, loading).values())


def _what_helps(size: ModelSize, loading: LoadedAs, work: Work, room: Room, called: Mapping[str, str]) -> str:
    """Return a clause on the settings under which it fits: one where one is enough, else as many as it takes."""
    now = _total(size, loading, work)
    if work.text and called["tokens"]:
        others = now - BYTES_PER_TOKEN * work.text
        if others < room.of(loading):
            share = (room.of(loading) - others) / (BYTES_PER_TOKEN * work.text)
            return f"read less text, with {called['tokens']} at most {share:.0%} of what it is"
    offered = [remedy for remedy in REMEDIES if called[remedy.name]]
    for remedy in offered:
        changed = remedy.applied(loading, work)
        if (total := _total(size, *changed)) <= room.of(changed[0]):
            return f"set {called[remedy.name]} ({gib(total)})"
    taken: list[str] = []
    together = (loading, work)
    for remedy in offered:
        changed = remedy.applied(*together)
        if _total(size, *changed) < _total(size, *together) or room.of(changed[0]) > room.of(together[0]):
            together = changed
            taken = [
                name for name in taken if not (remedy.name == "load_in_4bit=True" and name == called["dtype=bfloat16"])
            ]
            taken.append(called[remedy.name])
        if (total := _total(size, *together)) <= room.of(together[0]):
            return f"set {' and '.join(taken)} ({gib(total)})"
    return (
        f"no setting makes it fit ({gib(_total(size, *together))} at least): take a smaller model or a larger machine"
    )


def gib(amount: float) -> str:
    """Return an amount of memory in GiB, or in MiB where it is small."""
    return f"{amount / 2**30:,.1f} GiB" if amount >= 2**30 / 10 else f"{amount / 2**20:,.1f} MiB"
