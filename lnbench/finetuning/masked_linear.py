"""LoRA factors of which selected rows, columns or entries alone are parameters."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from lnbench.errors import LnbenchError


def _full(entries: Tensor, kept: Tensor, dim: int, size: int) -> Tensor:
    """Return the matrix of ``size`` rows (``dim`` 0) or columns (1): ``entries`` at ``kept`` and zero elsewhere."""
    shape = list(entries.shape)
    shape[dim] = size
    return entries.new_zeros(shape).index_copy(dim, kept, entries)


class _Product(torch.autograd.Function):
    """``x`` times the full matrix, of which nothing but the kept rows or columns outlives the forward pass."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, entries: Tensor, kept: Tensor, dim: int, size: int) -> Tensor:
        ctx.dim, ctx.width = dim, x.shape[-1]
        ctx.save_for_backward(x.index_select(-1, kept) if dim else x, entries, kept)
        return nn.functional.linear(x, _full(entries, kept, dim, size))

    @staticmethod
    @once_differentiable  # type: ignore[untyped-decorator]
    def backward(ctx: Any, grad: Tensor) -> tuple[Tensor | None, Tensor | None, None, None, None]:
        x, entries, kept = ctx.saved_tensors
        if ctx.dim == 0:
            grad = grad.index_select(-1, kept)
        of_entries = of_x = None
        if ctx.needs_input_grad[1]:
            of_entries = torch.einsum("...o,...i->oi", grad, x)
        if ctx.needs_input_grad[0]:
            of_x = grad @ entries
            if ctx.dim == 1:
                of_x = _full(of_x, kept, of_x.ndim - 1, ctx.width)
        return of_x, of_entries, None, None, None


class _Restricted(nn.Module):
    """A LoRA factor, some of whose entries alone are parameters; saved and loaded it is one of full size."""

    entries: nn.Parameter
    kept: Tensor
    out_features: int
    in_features: int

    @property
    def weight(self) -> Tensor:
        """The full matrix, ``[out, in]``."""
        raise NotImplementedError

    def _of(self, full: Tensor) -> Tensor:
        """Return the entries of a full matrix."""
        raise NotImplementedError

    def _without(self, full: Tensor) -> Tensor:
        """Return a full matrix with zeros in place of the entries."""
        raise NotImplementedError

    def _save_to_state_dict(self, destination: Any, prefix: str, keep_vars: bool) -> None:
        destination[prefix + "weight"] = self.weight if keep_vars else self.weight.detach()

    def _load_from_state_dict(self, state_dict: Any, prefix: str, *arguments: Any) -> None:
        missing_keys, _, error_msgs = arguments[-3:]
        full = state_dict.get(prefix + "weight")
        if full is None:
            missing_keys.append(prefix + "weight")
            return
        if tuple(full.shape) != (self.out_features, self.in_features):
            error_msgs.append(f"{prefix}weight is {tuple(full.shape)}, not {(self.out_features, self.in_features)}")
            return
        if self._without(full).count_nonzero():
            raise LnbenchError(
                f"{prefix}weight changes neurons outside the {len(self.kept)} that this adapter is restricted to: it "
                "was trained on others; pass the neurons and projections that it was trained with"
            )
        with torch.no_grad():
            self.entries.copy_(self._of(full))


class RestrictedEntries(_Restricted):
    """The matrix of a factor that holds every expert's, zero outside some entries, which alone are parameters.

    PEFT reads the ``weight`` of such a factor and does not call it.

    Args:
        weight: The full matrix to start from, ``[out, in]``.
        kept: ``LongTensor[n, rank]``, numbers of the entries in the flattened matrix.
    """

    def __init__(self, weight: Tensor, kept: Tensor) -> None:
        super().__init__()
        self.out_features, self.in_features = weight.shape
        self.register_buffer("kept", kept.to(weight.device), persistent=False)
        self.entries = nn.Parameter(self._of(weight.detach()))

    @property
    def weight(self) -> Tensor:
        """The full matrix, ``[out, in]``."""
        flat = self.entries.new_zeros(self.out_features * self.in_features)
        return flat.index_copy(0, self.kept.flatten(), self.entries.flatten()).view(self.out_features, -1)

    def _of(self, full: Tensor) -> Tensor:
        return full.flatten()[self.kept.to(full.device)]

    def _without(self, full: Tensor) -> Tensor:
        return full.flatten().index_fill(0, self.kept.to(full.device).flatten(), 0)

    def extra_repr(self) -> str:
        """Return what ``print(model)`` shows."""
        return f"in_features={self.in_features}, out_features={self.out_features}, rows={len(self.kept)}"


class RestrictedFactor(_Restricted):
    """A linear map whose matrix is zero outside some rows (or columns), which alone are parameters.

    PEFT reads a factor's ``weight`` and calls it, so this takes the place of the ``nn.Linear`` in ``lora_B`` or
    ``lora_A``. Saved and loaded it is an ordinary ``weight`` of full size, as in any PEFT adapter.

    Args:
        weight: The full matrix to start from, ``[out, in]``.
        kept: ``LongTensor[n]`` of the rows or columns that train.
        dim: 0 if ``kept`` are rows, 1 if they are columns.
    """

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
        return _full(self.entries, self.kept, self.dim, self._size)

    @property
    def _size(self) -> int:
        return self.in_features if self.dim else self.out_features

    def forward(self, x: Tensor) -> Tensor:
        """Return ``[..., in]`` to ``[..., out]``, by the very product that the full matrix would take part in.

        For the backward pass it keeps no matrix of full size, and none that other rows or columns would need.
        """
        entries: Tensor = self.entries
        if torch.is_autocast_enabled(x.device.type):
            # As autocast does for a plain linear map; it does not look into a function of one's own.
            x, entries = (tensor.to(torch.get_autocast_dtype(x.device.type)) for tensor in (x, entries))
        product: Tensor = _Product.apply(x, entries, self.kept, self.dim, self._size)  # type: ignore[no-untyped-call]
        return product

    def _of(self, full: Tensor) -> Tensor:
        return full.index_select(self.dim, self.kept.to(full.device))

    def _without(self, full: Tensor) -> Tensor:
        return full.index_fill(self.dim, self.kept.to(full.device), 0)

    def extra_repr(self) -> str:
        """Return what ``print(model)`` shows."""
        what = "columns" if self.dim else "rows"
        return f"in_features={self.in_features}, out_features={self.out_features}, {what}={len(self.kept)}"
