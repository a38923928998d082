"""How long a piece of work takes, from a probe of a few tokens."""

from __future__ import annotations

import sys
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch

from lnbench.console import duration
from lnbench.estimates.room import Room, gib
from lnbench.estimates.sizes import BACKWARD, LoadedAs, ModelSize, Work
from lnbench.model.sites import evaluating, input_device, transformer_body, unwrap

SHORT = 60.0
"""Seconds that need no estimate."""
_SLOWEST = {"cpu": 5e9}
_SLOWEST_ACCELERATOR = 5e12
"""Operations per second of the slowest machines: what is short on these is not probed."""
_PROBED = {"cpu": 64}
_PROBED_ACCELERATOR = 2048
"""Tokens of a probe."""
_LEAST, _MOST_CALLS = 0.3, 200
"""Seconds that calls are timed for, so that other work on the machine weighs as it does on average; and how many."""


@dataclass(frozen=True)
class Speed:
    """Seconds per token of the body, and per position of the output head."""

    read: float
    scored: float

    def seconds(self, work: Work) -> float:
        """Return how long a piece of work takes."""
        factor = BACKWARD + work.checkpointing
        return self.read * (work.read + factor * work.trained) + self.scored * work.scored


def may_be_long(size: ModelSize, work: Work, device: str) -> bool:
    """Return whether work could take longer than a minute on the slowest machine; if not, nothing is probed."""
    return work.operations(size) / _SLOWEST.get(device.partition(":")[0], _SLOWEST_ACCELERATOR) > SHORT


def probe(model: Any) -> Speed:
    """Return the speed of a loaded model, from two forward passes over some tokens."""
    own: Any = unwrap(model)
    body, device = transformer_body(own), input_device(own)
    ids = torch.full((1, _PROBED.get(device.type, _PROBED_ACCELERATOR)), 1, dtype=torch.long, device=device)
    with torch.inference_mode(), evaluating(own):
        read = _timed(lambda: body(input_ids=ids, use_cache=False), device) / ids.shape[1]
        few = ids[:, :32]
        whole = _timed(lambda: own(input_ids=few, use_cache=False), device) / few.shape[1]
        of_few = _timed(lambda: body(input_ids=few, use_cache=False), device) / few.shape[1]
    return Speed(read, max(0.0, whole - of_few))


def probe_shape(size: ModelSize, loading: LoadedAs) -> Speed:
    """Return the speed of a model that is not loaded, from products of matrices of its shape."""
    device = torch.device(loading.device or ("cuda" if torch.cuda.is_available() else "cpu"))
    dtype = getattr(torch, size.dtype if loading.dtype == "auto" else loading.dtype, torch.float32)
    tokens = _PROBED.get(device.type, _PROBED_ACCELERATOR)
    values = torch.ones(tokens, size.hidden, dtype=dtype, device=device)
    weights = torch.ones(size.hidden, max(size.width, size.hidden), dtype=dtype, device=device)
    per_weight = _timed(lambda: values @ weights, device) / tokens / weights.numel()
    return Speed(per_weight * size.body, per_weight * size.hidden * size.vocabulary)


def _timed(run: Callable[[], Any], device: torch.device) -> float:
    """Return the seconds of a call: the mean of some, after the first, which is slow."""

    def done() -> float:
        run()
        if device.type == "cuda":
            torch.cuda.synchronize(device)
        return time.perf_counter()

    started, calls = done(), 0
    while (ended := done()) - started < _LEAST and calls < _MOST_CALLS:
        calls += 1
    return (ended - started) / (calls + 1)


def sentence(size: ModelSize, loading: LoadedAs, work: Work, seconds: float, room: Room) -> str:
    """Return one line on what a piece of work needs."""
    parts = [
        f"about {duration(seconds)}",
        f"{gib(sum(work.memory(size, loading).values()))} of {gib(room.of(loading))} memory ({room.device})",
    ]
    if written := work.disk(size):
        parts.append(f"{gib(written)} of disk")
    return f"{work.doing}: {', '.join(parts)}"


def announce(model: Any, work: Work | None, arguments: Mapping[str, Any] | None = None) -> None:
    """Print on stderr what a loaded model will need for a piece of work, if that takes longer than a minute.

    Args:
        model: A causal LM, in any wrapper.
        work: What is about to be done; None: how much it is is not known.
        arguments: How the model was loaded: arguments of lm-eval's ``hf``.
    """
    if work is not None and (line := foretold(model, work, LoadedAs.of(arguments or {}))) is not None:
        print(line, file=sys.stderr, flush=True)


def foretold(model: Any, work: Work, loading: LoadedAs, room: Room | None = None) -> str | None:
    """Return a line on what a loaded model will need for a piece of work; None where it takes less than a minute.

    Nothing is probed where that is so on the slowest machine, too.

    Args:
        model: A causal LM, in any wrapper.
        work: What is about to be done.
        loading: How it was loaded.
        room: What there is; of this machine by default.
    """
    size, device = ModelSize.of(model), str(input_device(unwrap(model)))
    if not may_be_long(size, work, device):
        return None
    seconds = probe(model).seconds(work)
    return None if seconds <= SHORT else sentence(size, loading, work, seconds, room or Room.here(device))
