"""A LoRA factor that holds selected rows or columns alone."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from lnbench.errors import LnbenchError


class RestrictedFactor(nn.Module):
    """A linear map whose matrix is zero outside some rows (or columns), which alone are parameters.

    PEFT reads a factor's ``weight`` and calls it, so this takes the place of the ``nn.Linear`` in ``lora_B`` or
    ``lora_A``. Saved and loaded it is an ordinary ``weight`` of full size, as in any PEFT adapter.

    Args:
        weight: The full matrix to start from, ``[out, in]``.
        kept: ``LongTensor[n]`` of the rows or columns that train.
        dim: 0 if ``kept`` are rows, 1 if they are columns.
    """

    kept: Tensor

    def __init__(self, weight: Tensor, kept: Tensor, dim: int) -> None:
        super().__init__()
        kept = kept.to(weight.device)
        self.dim = dim
        self.out_features, self.in_features = weight.shape
        self.entries = nn.Parameter(weight.detach().index_select(dim, kept))
        self.register_buffer("kept", kept, persistent=False)

    @property
    def weight(self) -> Tensor:
        """The full matrix, ``[out, in]``."""
        full = self.entries.new_zeros(self.out_features, self.in_features)
        return full.index_copy(self.dim, self.kept, self.entries)

    def forward(self, x: Tensor) -> Tensor:
        """``[..., in]`` to ``[..., out]``, by the very product that the full matrix would take part in."""
        return nn.functional.linear(x, self.weight)

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        destination[prefix + "weight"] = self.weight if keep_vars else self.weight.detach()

    def _load_from_state_dict(
        self,
        state_dict: Any,
        prefix: str,
        local_metadata: Any,
        strict: bool,
        missing_keys: list[str],
        unexpected_keys: list[str],
        error_msgs: list[str],
    ) -> None:
        full = state_dict.get(prefix + "weight")
        if full is None:
            missing_keys.append(prefix + "weight")
            return
        if tuple(full.shape) != (self.out_features, self.in_features):
            error_msgs.append(f"{prefix}weight is {tuple(full.shape)}, not {(self.out_features, self.in_features)}")
            return
        kept = self.kept.to(full.device)
        if full.index_fill(self.dim, kept, 0).count_nonzero():
            raise LnbenchError(
                f"{prefix}weight changes neurons outside the {len(kept)} that this adapter is restricted to: it was "
                "trained on others; pass the neurons and projections that it was trained with"
            )
        with torch.no_grad():
            self.entries.copy_(full.index_select(self.dim, kept))

    def extra_repr(self) -> str:
        """What ``print(model)`` shows."""
        what = "columns" if self.dim else "rows"
        return f"in_features={self.in_features}, out_features={self.out_features}, {what}={len(self.kept)}"
