"""Training on 4-bit weights on a CPU."""

from __future__ import annotations

from torch import nn

from lnbench.errors import LnbenchError


def keep_trainable(model: nn.Module) -> None:
    """Keep bitsandbytes from repacking a model's 4-bit weights for fast inference, which it does on some CPUs.

    It does so in the first forward pass in evaluation mode, for good, and what it computes from repacked weights has
    no gradient. Call this before any forward pass.

    Raises:
        LnbenchError: it is too late.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            if getattr(module.weight.quant_state, "packing_format_for_cpu", False):
                raise LnbenchError(
                    "bitsandbytes repacked the 4-bit weights in an earlier forward pass, so they have no gradient; "
                    "reload the model"
                )
            module.support_avx512bf16_for_cpu = False
