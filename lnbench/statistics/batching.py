"""How many blocks a forward pass takes: as many as the memory holds, and no more than help."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any, NamedTuple

import psutil
import torch

from lnbench.model.sites import Sites, input_device, transformer_body

log = logging.getLogger(__name__)


class _Limits(NamedTuple):
    """How far a kind of device is filled."""

    enough: int
    """Tokens a forward pass beyond which it does not get faster."""
    share: float
    """Of the free memory that may be filled."""


_CPU, _ACCELERATOR = _Limits(1024, 0.25), _Limits(16_384, 0.8)
_KEPT = 4096
"""Bytes that counting keeps for a neuron."""


def fitting_batch_size(sites: Sites, length: int) -> int:
    """Blocks of ``length`` tokens that fit into the memory of the model's device, at least 1; the log says how many."""
    device = input_device(sites.model)
    # Two histograms' worth: the counts, and what laying them out takes for a moment.
    free = _free(device) - 2 * sites.layers * sites.width * _KEPT
    limits = _CPU if device.type == "cpu" else _ACCELERATOR
    wanted = max(1, limits.enough // length)
    each = _measured(sites, length, device) if device.type == "cuda" else _estimated(sites, length)
    size = max(1, min(wanted, int(free * limits.share / each)))
    log.info("%d blocks of %d tokens a forward pass (%s, %.1f GiB free)", size, length, device, free / 2**30)
    return size


def _free(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min(psutil.virtual_memory().available, _free_in_container())


def _free_in_container() -> int:
    """What a container's limit leaves (cgroup v2); no limit where there is none."""
    limit, used = (Path(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    try:
        return int(limit.read_text()) - int(used.read_text())
    except (OSError, ValueError):
        return 2**62


def _estimated(sites: Sites, length: int) -> float:
    """Bytes that a block takes in one layer, of which there is one at a time: a process without memory is killed."""
    model: Any = sites.model
    config = model.config.get_text_config()
    # The feed-forward's few tensors, attention's, and the scores of all heads; in 4 bytes, whatever the weights are in.
    numbers = 4 * sites.width + 16 * config.hidden_size + 2 * config.num_attention_heads * length
    return float(4 * length * numbers)


def _measured(sites: Sites, length: int, device: torch.device) -> float:
    """Bytes that one more block takes."""
    body, peaks = transformer_body(sites.model), [0]
    for blocks in (1, 2):
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        try:
            with torch.inference_mode():
                body(input_ids=torch.zeros(blocks, length, dtype=torch.long, device=device), use_cache=False)
        except torch.OutOfMemoryError:
            break
        peaks.append(torch.cuda.max_memory_allocated(device) - before)
    # What counting adds: the activations of a layer once more, in one piece.
    counting = 8 * length * sites.width
    return float(max(peaks[-1] - peaks[-2] if len(peaks) > 2 else peaks[-1], 1) + counting)
