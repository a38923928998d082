"""Gradients at the sites, against finite differences of the loss; and that none is taken unless a measure asks."""

from __future__ import annotations

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from pydantic.dataclasses import dataclass
from torch import Tensor

from lnbench import LayerOverride, Override, collect_statistics, hookimpl, override
from lnbench.host import get_host
from lnbench.model.locate import locate
from lnbench.plugins.measures.attribution import Attribution
from lnbench.statistics.gradients import differentiating
from tests.support.messages import refused
from tests.support.overrides import LEFT, RIGHT, tiny
from tests.support.tiny import LAYERS, VOCABULARY, WIDTH, build

BLOCKS = [torch.randint(3, VOCABULARY, (2, 9), generator=torch.Generator().manual_seed(seed)) for seed in range(3)]
OWN_MODULE, PLAIN, FUSED, NO_MODULE = "llama", "gpt2", "phi3", "opt"


def loss(model, ids: Tensor, mask: Tensor) -> float:
    """The summed negative log-likelihood of the real tokens that follow real ones, in float64, token by token."""
    logits = model(input_ids=ids, attention_mask=mask).logits.double().log_softmax(-1)
    return -sum(
        float(logits[row, place, ids[row, place + 1]])
        for row in range(len(ids))
        for place in range(ids.shape[1] - 1)
        if mask[row, place] and mask[row, place + 1]
    )


@pytest.mark.parametrize("site", ["post", "pre"])
@pytest.mark.parametrize(
    ("model_type", "step"),
    # RMS norms are taken in float32 whatever the model is in, so that smaller steps are noise; ReLU has kinks.
    [(OWN_MODULE, 5e-3), (FUSED, 5e-3), (PLAIN, 1e-4), (NO_MODULE, 1e-4)],
)
@pytest.mark.parametrize(("ids", "mask"), [LEFT, RIGHT], ids=["left", "right"])
def test_the_gradient_of_every_neuron_is_the_change_of_the_loss(model_type, step, site, ids, mask):
    model = tiny(model_type, torch.float64)
    with torch.no_grad(), differentiating(locate(model), [site]) as differentiate:
        steps = {one.layer: one for one in differentiate(ids, mask, mask.bool())}
    assert sorted(steps) == list(range(LAYERS))
    for layer, index in [(0, 3), (1, 0), (2, WIDTH - 1)]:
        assert steps[layer].predicted.tolist() == (mask.sum(1) - 1).tolist()
        changed = []
        for sign in (1, -1):
            part = LayerOverride(torch.tensor([index]), torch.tensor([sign * step], dtype=torch.float64), "add")
            with torch.no_grad(), override(model, Override({layer: part}), site=site):
                changed.append(loss(model, ids, mask))
        expected = (changed[0] - changed[1]) / (2 * step)
        found = float(steps[layer].gradient[..., index][mask.bool()].sum())
        assert found == pytest.approx(expected, rel=5e-3, abs=2e-3)


@settings(max_examples=10, deadline=None)
@given(rows=st.lists(st.integers(3, 9), min_size=1, max_size=3), seed=st.integers(0, 99))
def test_a_batch_is_its_rows(rows, seed):
    """Attributions of padded rows in one batch are the sum over the rows by themselves."""
    model = tiny(OWN_MODULE)
    ids = torch.randint(3, VOCABULARY, (len(rows), 9), generator=torch.Generator().manual_seed(seed))
    mask = (torch.arange(9) < torch.tensor(rows)[:, None]).long()
    together = collect_statistics(model, [(ids * mask, mask)], language="en", measures=("attribution",))
    alone = [ids[number : number + 1, :length] for number, length in enumerate(rows)]
    apart = collect_statistics(model, alone, language="en", measures=("attribution",))
    for name, tensor in together.measure("attribution").items():
        torch.testing.assert_close(apart.measure("attribution")[name], tensor, rtol=1e-4, atol=1e-6)
    assert together.measure("attribution")["tokens"].tolist() == [sum(rows) - len(rows)] * LAYERS


@pytest.mark.parametrize("model_type", [OWN_MODULE, NO_MODULE])
def test_attribution_is_activation_times_gradient(model_type):
    model = tiny(model_type)
    plain = collect_statistics(model, BLOCKS, language="en")
    measured = collect_statistics(model, BLOCKS, language="en", measures=("attribution:threshold=0.05",))
    sums, above = torch.zeros(LAYERS, WIDTH, dtype=torch.float64), torch.zeros(LAYERS, WIDTH, dtype=torch.int64)
    for block in BLOCKS:
        for row in block:
            taken = {}
            modules = locate(model).activations

            def keep(layer, inner, taken=taken):
                def forward(x):
                    taken[layer] = inner(x)
                    taken[layer].retain_grad()
                    return taken[layer]

                return forward

            for layer, module in enumerate(modules):
                module.forward = keep(layer, module.forward)
            try:
                (model(row[None], labels=row[None]).loss * (len(row) - 1)).backward()
            finally:
                for module in modules:
                    del module.forward
                model.zero_grad()
            for layer, values in taken.items():
                product = (values * values.grad).detach().reshape(len(row), WIDTH)[1:].double().abs()
                sums[layer] += product.sum(0)
                above[layer] += (product > 0.05).sum(0)
    found = measured.measure("attribution:threshold=0.05")
    torch.testing.assert_close(found["sums"], sums, rtol=1e-3, atol=1e-5)
    assert (found["above"] - above).abs().max() <= 1
    assert found["tokens"].tolist() == [sum(block.numel() - len(block) for block in BLOCKS)] * LAYERS
    # The pass that differentiates counts what a plain one does.
    for name, tensor in plain.values.tensors().items():
        torch.testing.assert_close(measured.values.tensors()[name], tensor, rtol=1e-5, atol=1e-6)


def test_weights_have_no_gradient_and_train_as_before():
    model = build(OWN_MODULE)
    trained = [
        parameter.requires_grad_(number % 2 == 0).requires_grad for number, parameter in enumerate(model.parameters())
    ]
    collect_statistics(model, BLOCKS, language="en", measures=("attribution", "attribution:site=pre"))
    assert [parameter.requires_grad for parameter in model.parameters()] == trained
    assert all(parameter.grad is None for parameter in model.parameters())


def test_without_such_a_measure_neither_head_nor_gradients_are_run():
    model = build(OWN_MODULE)
    seen = []
    model.lm_head.register_forward_hook(lambda *_: seen.append("head"))
    locate(model)
    seen.clear()
    locate(model).activations[0].register_forward_hook(lambda *_: seen.append(torch.is_grad_enabled()))
    collect_statistics(model, BLOCKS[:1], language="en", measures=("document_means",))
    assert set(seen) == {False}
    seen.clear()
    collect_statistics(model, BLOCKS[:1], language="en", measures=("attribution",))
    assert {True, "head"} <= set(seen)


@dataclass
class Elsewhere(Attribution):
    @property
    def sites(self):
        return ("nowhere",)


class Plugin:
    @hookimpl
    def lnbench_register_measures(self, register):
        register("elsewhere", Elsewhere)


def test_a_site_that_the_architecture_lacks():
    plugin = Plugin()
    get_host().register(plugin)
    try:
        with refused("elsewhere", "nowhere", "pre", "post"):
            collect_statistics(tiny(OWN_MODULE), BLOCKS[:1], language="en", measures=("elsewhere",))
    finally:
        get_host().unregister(plugin)
