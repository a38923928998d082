"""The processes that ``torchrun`` or ``accelerate launch`` started together."""

from __future__ import annotations

import os
from datetime import timedelta

import torch.distributed

_PATIENCE = timedelta(weeks=52)
"""Some processes may have hours to go when others are done: after an interruption they start from different places."""


def rank_of_world() -> tuple[int, int]:
    """This process's number, from 0, and how many there are; ``(0, 1)`` for one that was started alone."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world > 1 and not torch.distributed.is_initialized():
        # On GPUs accelerate has done this when the model was loaded.
        torch.distributed.init_process_group("gloo", timeout=_PATIENCE)
    return int(os.environ.get("RANK", "0")) if world > 1 else 0, world


def wait_for_all() -> None:
    """Return once every process has come here."""
    torch.distributed.barrier()
