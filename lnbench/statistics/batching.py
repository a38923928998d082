"""Blocks per forward pass: as many as the memory holds, and no more than make it faster."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import psutil
import torch

from lnbench.model.sites import Sites, input_device, transformer_body

log = logging.getLogger(__name__)


_LIMITS = {"cpu": (1024, 0.25)}
_LIMITS_OF_ACCELERATORS = (16_384, 0.8)
"""Tokens per forward pass beyond which it does not get faster, and the share of the free memory that may be filled."""
KEPT_PER_NEURON = 4096
"""Bytes per neuron that counting keeps."""


def fitting_batch_size(sites: Sites, length: int) -> int:
    """Return how many blocks of ``length`` tokens fit into the memory of the model's device, at least 1; and log it."""
    device = input_device(sites.model)
    # Two histograms' worth: the counts, and what laying them out takes for a moment.
    free = free_memory(device) - 2 * sites.layers * sites.width * KEPT_PER_NEURON
    tokens, share = _LIMITS.get(device.type, _LIMITS_OF_ACCELERATORS)
    block_bytes = _measured(sites, length, device) if device.type == "cuda" else _estimated(sites, length)
    size = max(1, min(tokens // length, int(free * share / block_bytes)))
    log.info("%d blocks of %d tokens per forward pass (%s, %.1f GiB free)", size, length, device, free / 2**30)
    return size


def free_memory(device: torch.device) -> int:
    """Return the bytes that are free on a device; a container's limit counts."""
    if device.type == "cuda":
        return int(torch.cuda.mem_get_info(device)[0])
    return min(psutil.virtual_memory().available, _free_in_container())


def _free_in_container() -> int:
    """Return what a container's limit leaves (cgroup v2), or more than any machine has."""
    limit, used = (Path(f"/sys/fs/cgroup/memory.{name}") for name in ("max", "current"))
    try:
        return int(limit.read_text()) - int(used.read_text())
    except (OSError, ValueError):
        return 2**62


def _estimated(sites: Sites, length: int) -> float:
    model: Any = sites.model
    config = model.config.get_text_config()
    return bytes_per_block(length, sites.width, config.hidden_size, config.num_attention_heads)


def bytes_per_block(length: int, width: int, hidden: int, heads: int) -> float:
    """Return the bytes of a block in one layer, of which there is one at a time: a process without memory is killed.

    Args:
        length: Tokens of the block.
        width: Neurons of the layer.
        hidden: Hidden features.
        heads: Attention heads.
    """
    # The feed-forward's few tensors, attention's, and the scores of all heads; in 4 bytes, whatever the weights are in.
    return float(4 * length * (4 * width + 16 * hidden + 2 * heads * length))


def _measured(sites: Sites, length: int, device: torch.device) -> float:
    """Return the bytes that one more block takes."""
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
