"""The control of vectors: random ones of the same length."""

from __future__ import annotations

from collections.abc import Iterator
from functools import partial
from typing import Any

import pytest
import torch

import lnbench
from lnbench.choices import plan
from lnbench.controls import drawn_by
from lnbench.hookspecs import OverrideContext
from lnbench.host import get_host
from lnbench.neurons import NeuronSet
from lnbench.override_values import LayerOverride, Override
from tests.support.messages import refused

VECTORS = {0: torch.tensor([3.0, 4.0]), 2: torch.tensor([0.0, 0.0, 2.0])}
NEURONS = {0: torch.tensor([1, 5]), 2: torch.tensor([0, 2, 4])}


def along(old: torch.Tensor, direction: torch.Tensor) -> torch.Tensor:
    return old + direction


class Steer:
    """Add known vectors, all in one part or in two, or by a function."""

    how = "add"

    def override(self, context: OverrideContext) -> Override:
        if self.how == "function":
            return Override(
                {
                    layer: LayerOverride(NEURONS[layer], operation=partial(along, direction=v))
                    for layer, v in VECTORS.items()
                }
            )
        if self.how == "two parts":
            own = NEURONS[2]
            return Override(
                {2: [LayerOverride(own[:2], VECTORS[2][:2], "add"), LayerOverride(own[2:], VECTORS[2][2:], "add")]}
            )
        return Override({layer: LayerOverride(NEURONS[layer], v, self.how) for layer, v in VECTORS.items()})


@pytest.fixture(autouse=True)
def steering() -> Iterator[type[Steer]]:
    class Plugin:
        @lnbench.hookimpl
        def lnbench_register_interventions(self, register: Any) -> None:
            register("steer", Steer)

    plugin = Plugin()
    get_host().register(plugin)
    try:
        yield Steer
    finally:
        get_host().unregister(plugin)
        Steer.how = "add"


def turned(choice: str = "random_direction:like=steer", target: str = "hi") -> dict[int, torch.Tensor]:
    made = plan(NEURONS, choice, target=target)
    vectors: dict[int, list[torch.Tensor]] = {}
    for layer, part in made.parts:
        values = part.values if part.values is not None else part.operation.keywords["direction"]
        vectors.setdefault(layer, []).append(values)
    return {layer: torch.cat(values) for layer, values in vectors.items()}


@pytest.mark.parametrize("how", ["add", "function"])
def test_directions_are_random_and_as_long(how: str) -> None:
    Steer.how = how
    found = turned()
    for layer, vector in VECTORS.items():
        assert found[layer].norm() == pytest.approx(vector.norm())
        assert not torch.allclose(found[layer], vector)
    again, other, elsewhere = turned(), turned("random_direction:like=steer:seed=1"), turned(target="zh")
    assert all(torch.equal(found[layer], again[layer]) for layer in VECTORS)
    assert not any(torch.equal(found[layer], drawn[layer]) for layer in VECTORS for drawn in (other, elsewhere))


def test_the_parts_of_a_layer_are_one_vector() -> None:
    Steer.how = "two parts"
    found = turned()[2]
    assert found.norm() == pytest.approx(2.0)
    assert (found != 0).all()


@pytest.mark.parametrize("how", ["set", "scale"])
def test_what_adds_no_vector_is_refused(how: str) -> None:
    Steer.how = how
    with refused("'steer'", how, "random_active"):
        turned()


def test_it_is_chosen_like_other_controls() -> None:
    neurons = NeuronSet("m", 3, 6, {"hi": NEURONS})
    assert drawn_by("random_direction", 2, neurons, "steer", {}) == (neurons, "random_direction:like=steer:seed=2")
    assert get_host().control_of("random_direction:like=steer", 0, "random_direction") is None
