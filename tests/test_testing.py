"""The conformance suite: each of its checks finds a plugin that breaks the contract, and passes one that keeps it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import pytest
import torch
from pydantic import Field
from pydantic.dataclasses import dataclass

from lnbench import LayerOverride, LnbenchError, NeuronSet, Override, OverrideContext, Statistics
from lnbench.hookspecs import Needs
from lnbench.host import get_host
from lnbench.testing import (
    CHECKS,
    LANGUAGES,
    Candidate,
    check_intervention,
    check_selector,
    conformance,
    tiny_model,
    tiny_statistics,
)

Compared = Mapping[str, Statistics]


def everything(statistics: Compared, **options: Any) -> NeuronSet:
    masks = {language: own.exists for language, own in statistics.items()}
    return NeuronSet.from_masks(next(iter(statistics.values())).model, masks, **options)


@dataclass
class Sound:
    """Every unit: nothing is wrong with it."""

    share: float = Field(default=0.5, allow_inf_nan=False, description="nothing")

    def select(self, statistics: Compared) -> NeuronSet:
        return everything(statistics)


class Forgetful:
    def select(self, statistics: Compared) -> NeuronSet:
        return everything({"en": statistics["en"]})


class Restless:
    def select(self, statistics: Compared) -> NeuronSet:
        return NeuronSet.from_masks(
            "m", {language: torch.rand(own.mean.shape) > 0.5 for language, own in statistics.items()}
        )


class Changing:
    def select(self, statistics: Compared) -> NeuronSet:
        next(iter(statistics.values())).mean.zero_()
        return everything(statistics)


class Ordered:
    def select(self, statistics: Compared) -> NeuronSet:
        first = next(iter(statistics))
        return NeuronSet.from_masks("m", {k: torch.full_like(own.exists, k == first) for k, own in statistics.items()})


class Crashing:
    def select(self, statistics: Compared) -> NeuronSet:
        if len(statistics) < 2 or next(iter(statistics.values())).site != "post":
            raise ValueError("too few")
        return everything(statistics)


class Wordy:
    def select(self, statistics: Compared) -> NeuronSet:
        if len(statistics) < 2:
            raise LnbenchError("too few:\nread the manual")
        return everything(statistics)


class Pickled:
    def select(self, statistics: Compared) -> NeuronSet:
        return everything(statistics, derived={"best": torch.tensor(1.0)})


class Careless:
    needs = Needs(batch_levels=(0.9,))

    def select(self, statistics: Compared) -> NeuronSet:
        return everything(statistics)


@dataclass
class Undocumented(Sound):
    strength: float = 0.5


@dataclass
class Doubling(Sound):
    """Every unit, with a parameter that is another one than was given."""

    def __post_init__(self) -> None:
        self.share *= 2


class Everywhere:
    def override(self, context: OverrideContext) -> Override:
        return Override({layer: LayerOverride(torch.arange(24), torch.zeros(24)) for layer in range(3)})


class Outside:
    def override(self, context: OverrideContext) -> Override:
        return Override({7: LayerOverride(torch.tensor([0]), torch.zeros(1))})


class OfNeuronsOnly:
    def override(self, context: OverrideContext) -> Override:
        if context.required_statistics("of_neurons_only").site != "post":
            raise ValueError("not here")
        return Override.setting(context.neurons, torch.zeros(3, 24))


class FirstOfCompared:
    def override(self, context: OverrideContext) -> Override:
        number = float(context.languages.index("zh"))
        return Override.of(context.neurons, {k: torch.full((len(v),), number) for k, v in context.neurons.items()})


class Trusting:
    def override(self, context: OverrideContext) -> Override:
        return Override.setting(context.neurons, context.statistics.mean)  # type: ignore[union-attr]


class Blind:
    needs: ClassVar[Needs] = Needs(sites=("residual",))

    def override(self, context: OverrideContext) -> Override:
        return Override()


class Dividing:
    def override(self, context: OverrideContext) -> Override:
        statistics = context.required_statistics("dividing")

        def scaled(old: torch.Tensor, spread: float = float(statistics.std.max())) -> torch.Tensor:
            return old / torch.tensor(spread)

        return Override({layer: LayerOverride(own, None, scaled) for layer, own in context.neurons.items()})


BROKEN = [
    ("selector", Forgetful, "selects"),
    ("selector", Restless, "selects"),
    ("selector", Changing, "selects"),
    ("selector", Ordered, "order of languages"),
    ("selector", Crashing, "every site"),
    ("selector", Crashing, "degenerate Statistics"),
    ("selector", Wordy, "degenerate Statistics"),
    ("selector", Careless, "missing measures"),
    ("selector", Pickled, "written and read"),
    ("selector", Undocumented, "documentation"),
    ("selector", Restless, "documentation"),
    ("selector", Undocumented, "bad values of parameters"),
    ("selector", Doubling, "parameters as text"),
    ("intervention", Everywhere, "overrides"),
    ("intervention", Outside, "overrides"),
    ("intervention", OfNeuronsOnly, "every site"),
    ("intervention", FirstOfCompared, "order of languages"),
    ("intervention", Trusting, "missing context"),
    ("intervention", Blind, "missing sites"),
    ("intervention", Dividing, "degenerate Statistics"),
]


@pytest.mark.parametrize(("kind", "factory", "check"), BROKEN)
def test_what_breaks_the_contract_is_found_by_its_check(kind: str, factory: Any, check: str) -> None:
    with pytest.raises((AssertionError, LnbenchError, TypeError)):
        CHECKS[kind][check](Candidate(kind, factory))


def test_each_check_has_found_something() -> None:
    found = {(kind, check) for kind, _, check in BROKEN}
    shared = {check for kind, check in found} & CHECKS["selector"].keys() & CHECKS["intervention"].keys()
    assert found | {("intervention", check) for check in shared} == {
        (kind, check) for kind, checks in CHECKS.items() for check in checks
    }


@conformance("selector", Sound, share=0.25)
def test_a_sound_plugin_passes(check: Any, request: pytest.FixtureRequest) -> None:
    assert request.node.callspec.id in CHECKS["selector"]
    check()


def test_one_call_checks_a_contract() -> None:
    assert check_selector(Sound).languages == sorted(LANGUAGES)
    assert check_intervention(get_host().factory("intervention", "zero")).neurons > 0
    for check, factory in ((check_selector, Restless), (check_intervention, Everywhere)):
        with pytest.raises(AssertionError):
            check(factory)  # type: ignore[operator]


def test_statistics_of_a_tiny_model_differ_by_language() -> None:
    statistics = tiny_statistics(tiny_model(), site="pre")
    assert {own.site for own in statistics.values()} == {"pre"}
    assert len({own.fingerprint for own in statistics.values()}) == len(LANGUAGES)
