"""The conformance checks: the built-ins pass, plugins that break the contract do not."""

from __future__ import annotations

import pytest
import torch

from lnbench import LayerOverride, LnbenchError, NeuronSet, Override
from lnbench.host import get_host
from lnbench.testing import LANGUAGES, check_intervention, check_selector, tiny_model, tiny_statistics

HOST = get_host()


@pytest.mark.parametrize("choice", ["lape", "act_prob", "act_prob:preset=paper:fraction=0.1", "random:fraction=0.1"])
def test_built_in_selectors_keep_the_contract(choice):
    assert check_selector(lambda: HOST.resolve("selector", choice)).languages == sorted(LANGUAGES)


@pytest.mark.parametrize("choice", ["none", "zero", "mean", "constant:value=1", "p10", "p2.5"])
def test_built_in_interventions_keep_the_contract(choice):
    change = check_intervention(lambda: HOST.resolve("intervention", choice))
    assert (change.neurons == 0) == (choice == "none")


class Forgetful:
    def select(self, statistics):
        own = statistics["en"]
        return NeuronSet.from_masks(own.model, {"en": own.mean > 0})


class Restless:
    def select(self, statistics):
        return NeuronSet.from_masks(
            "m", {language: torch.rand(own.mean.shape) > 0.5 for language, own in statistics.items()}
        )


class Everywhere:
    def override(self, context):
        return Override({layer: LayerOverride(torch.arange(24), torch.zeros(24)) for layer in range(3)})


class Outside:
    def override(self, context):
        return Override({7: LayerOverride(torch.tensor([0]), torch.zeros(1))})


@pytest.mark.parametrize(
    ("check", "factory", "error"),
    [
        (check_selector, Forgetful, AssertionError),
        (check_selector, Restless, AssertionError),
        (check_intervention, Everywhere, AssertionError),
        (check_intervention, Outside, (AssertionError, LnbenchError)),
    ],
)
def test_what_breaks_the_contract_is_found(check, factory, error):
    with pytest.raises(error):
        check(factory)


def test_statistics_of_a_tiny_model_differ_by_language():
    statistics = tiny_statistics(tiny_model(), site="pre")
    assert {own.site for own in statistics.values()} == {"pre"}
    assert len({own.fingerprint for own in statistics.values()}) == len(LANGUAGES)
