"""How many blocks a forward pass takes: as many as the memory holds, and no more than help."""

from __future__ import annotations

import logging
import os
from typing import Any

import torch

from lnbench.architectures import Sites
from lnbench.statistics.account import Account
from lnbench.statistics.collect import input_device, observing

log = logging.getLogger(__name__)

_ENOUGH = {"cpu": 1024}
_ENOUGH_ON_ACCELERATOR = 16_384
"""Tokens a forward pass beyond which a device does not get faster."""
_SHARE = {"cpu": 0.25}
_SHARE_OF_ACCELERATOR = 0.8
"""Of the free memory that may be filled."""


def fitting_batch_size(sites: Sites, length: int) -> int:
    """Blocks of ``length`` tokens that fit into the memory of the model's device, at least 1; the log says how many."""
    device = input_device(sites.model)
    free = _free(device)
    wanted = max(1, _ENOUGH.get(device.type, _ENOUGH_ON_ACCELERATOR) // length)
    each = _estimated(sites, length) if device.type == "cpu" else _measured(sites, length, device)
    size = max(1, min(wanted, int(free * _SHARE.get(device.type, _SHARE_OF_ACCELERATOR) / each)))
    log.info("%d blocks of %d tokens a forward pass (%s, %.1f GiB free)", size, length, device, free / 2**30)
    return size


def _free(device: torch.device) -> int:
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    if device.type == "cpu" and hasattr(os, "sysconf"):
        return os.sysconf("SC_AVPHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    return 8 * 2**30


def _estimated(sites: Sites, length: int) -> float:
    """Bytes that a block takes in one layer, of which there is one at a time: as a process without memory is killed."""
    model: Any = sites.model
    config = model.config.get_text_config()
    # The feed-forward's few tensors, attention's, and the scores of all heads; in 4 bytes, whatever the weights are in.
    numbers = 4 * sites.width + 16 * config.hidden_size + 2 * config.num_attention_heads * length
    return float(4 * length * numbers)


def _measured(sites: Sites, length: int, device: torch.device) -> float:
    """Bytes that one more block takes, counting included."""
    peaks = []
    for blocks in (1, 2):
        torch.cuda.reset_peak_memory_stats(device)
        before = torch.cuda.memory_allocated(device)
        with observing(sites, Account(sites.layers, sites.width), "any", skip=0) as read:
            read(torch.zeros(blocks, length, dtype=torch.long))
        peaks.append(torch.cuda.max_memory_allocated(device) - before)
    return float(max(peaks[1] - peaks[0], peaks[1] / 4, 1))
