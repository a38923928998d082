"""A restricted factor is the full matrix's product, without the memory that the full matrix would take."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.autograd.graph import saved_tensors_hooks

from lnbench.finetuning.masked_linear import RestrictedFactor

OUT, IN = 40, 30


def pair_of(dim: int, kept: list[int], dtype: torch.dtype) -> tuple[RestrictedFactor, torch.Tensor]:
    """A factor, and the full matrix that it stands for."""
    torch.manual_seed(len(kept))
    indices = torch.tensor(kept, dtype=torch.long)
    factor = RestrictedFactor(torch.randn(OUT, IN, dtype=dtype), indices, dim)
    return factor, factor.weight.detach().requires_grad_()


@settings(max_examples=40, deadline=None)
@given(
    dim=st.sampled_from([0, 1]),
    kept=st.lists(st.integers(0, IN - 1), max_size=9, unique=True),
    shape=st.sampled_from([(), (1,), (3,), (2, 5), (0, 4)]),
    dtype=st.sampled_from([torch.float32, torch.float64, torch.bfloat16]),
    autocast=st.booleans(),
    frozen_input=st.booleans(),
)
def test_products_and_gradients_are_those_of_the_full_matrix(
    dim: int, kept: list[int], shape: tuple[int, ...], dtype: torch.dtype, autocast: bool, frozen_input: bool
) -> None:
    autocast = autocast and dtype == torch.float32
    factor, full = pair_of(dim, kept, dtype)
    xs = [torch.randn(*shape, IN, dtype=dtype, generator=torch.Generator().manual_seed(1)) for _ in range(2)]
    xs = [x.requires_grad_(not frozen_input) for x in xs]
    with torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast):
        own, wanted = factor(xs[0]), torch.nn.functional.linear(xs[1], full)
    assert own.dtype == wanted.dtype
    assert torch.equal(own, wanted)
    for product in (own, wanted):
        (product.float() ** 2).sum().backward()
    assert factor.entries.grad is not None
    assert full.grad is not None
    coarse = autocast or dtype == torch.bfloat16
    close = {"rtol": 0.05, "atol": 0.3} if coarse else {"rtol": 1e-4, "atol": 1e-4}
    torch.testing.assert_close(factor.entries.grad, full.grad.index_select(dim, factor.kept), **close)
    assert (xs[0].grad is None) == frozen_input
    if xs[0].grad is not None:
        torch.testing.assert_close(xs[0].grad, xs[1].grad, **close)


@pytest.mark.parametrize("autocast", [False, True])
@pytest.mark.parametrize("dim", [0, 1])
def test_the_backward_pass_needs_nothing_of_full_size(dim: int, autocast: bool) -> None:
    factor, _ = pair_of(dim, [3, 7], torch.float32)
    x = torch.randn(5, IN, requires_grad=True)
    saved: list[torch.Size] = []
    with (
        saved_tensors_hooks(lambda one: saved.append(one.shape) or one, lambda one: one),
        torch.autocast("cpu", dtype=torch.bfloat16, enabled=autocast),
    ):
        product = factor(x)
    product.sum().backward()
    of_x, entries = ((5, 2), (OUT, 2)) if dim else ((5, IN), (2, IN))
    assert sorted(map(tuple, saved)) == sorted([of_x, entries, (2,)])
