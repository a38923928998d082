"""What the built-in interventions write."""

from __future__ import annotations

import pytest
import torch

from lnbench.choices import plan
from lnbench.host import get_host
from lnbench.override_values import Override
from tests.support.messages import refused
from tests.support.samples import normal, statistics_of

LAYERS, WIDTH = 4, 25
STATISTICS = statistics_of(normal(300, LAYERS, WIDTH))
NEURONS = {
    layer: torch.randperm(WIDTH, generator=torch.Generator().manual_seed(layer))[: 3 + layer] for layer in (0, 2, 3)
}


def check(change: Override, values: torch.Tensor) -> None:
    assert list(change.layers) == list(NEURONS)
    for layer, indices in NEURONS.items():
        part = change.layers[layer]
        assert part.operation == "set"
        assert torch.equal(part.indices, indices)
        assert torch.equal(part.values, values[layer][indices])


def test_none_changes_nothing():
    assert plan(NEURONS, "none", STATISTICS).layers == {}
    assert plan(NEURONS, "none", None).neurons == 0


@pytest.mark.parametrize("site", ["post", "pre"])
def test_mean_and_percentiles_are_those_of_the_site_that_is_read(site):
    statistics = STATISTICS.at(site)
    check(plan(NEURONS, "mean", statistics), statistics.mean)
    for percent in range(1, 100):
        check(plan(NEURONS, f"p{percent}", statistics), statistics.quantile(percent / 100))
    sample = normal(300, LAYERS, WIDTH)
    sample = torch.nn.functional.silu(sample) if site == "post" else sample
    written = plan(NEURONS, "p10", statistics).layers[2].values
    torch.testing.assert_close(written, sample[:, 2].quantile(0.1, dim=0)[NEURONS[2]])


@pytest.mark.parametrize(
    ("choice", "value"),
    [("zero", 0.0), ("constant", 0.0), ("constant:value=-10", -10.0), ("constant:value=1e-3", 1e-3)],
)
@pytest.mark.parametrize("statistics", [STATISTICS, None], ids=["statistics", "none"])
def test_constants_need_no_statistics(choice, value, statistics):
    check(plan(NEURONS, choice, statistics), torch.full((LAYERS, WIDTH), value))


@pytest.mark.parametrize("choice", ["mean", "p5", "p95"])
def test_others_do(choice):
    with refused(choice, "statistics="):
        plan(NEURONS, choice, None)


@pytest.mark.parametrize(
    ("choice", "named"),
    [
        ("p101", ["percent=101"]),
        ("px", ["'px'", "p{percent}"]),
        ("p10:percent=20", ["'percent'"]),
        ("zero:value=1", ["'value'"]),
        ("constant:value=much", ["value='much'"]),
        ("constant:value=nan", ["finite"]),
        ("constant:value=inf", ["finite"]),
        ("medium", ["medium", "zero, constant", "mean", "none", "p{percent}, median, max"]),
    ],
)
def test_bad_choices(choice, named):
    with refused(*named):
        plan(NEURONS, choice, STATISTICS)


@pytest.mark.parametrize("percent", [-1, 101, float("nan")])
def test_a_percentile_lies_between_0_and_100(percent):
    factory = get_host().factory("intervention", "p10").func
    with refused("percent", error=ValueError):
        factory(percent=percent)


@pytest.mark.parametrize("percent", [0, 2.5, 99.75, 100])
def test_any_percentile_is_a_name(percent):
    check(plan(NEURONS, f"p{percent}", STATISTICS), STATISTICS.quantile(percent / 100))


@pytest.mark.parametrize("choice", ["mean", "p10"])
@pytest.mark.parametrize(
    "neurons",
    [{LAYERS: torch.tensor([0])}, {-1: torch.tensor([0])}, {0: torch.tensor([WIDTH])}, {1: torch.tensor([-1])}],
)
def test_statistics_of_another_shape(choice, neurons):
    ((layer, indices),) = neurons.items()
    with refused(f"({layer}, {int(indices)})", "4", "25"):
        plan(neurons, choice, STATISTICS)


@pytest.mark.parametrize("choice", ["mean", "p10", "zero"])
def test_no_neurons_are_no_error(choice):
    nothing = torch.empty(0, dtype=torch.long)
    assert plan({}, choice, STATISTICS).neurons == plan({1: nothing}, choice, STATISTICS).neurons == 0


def test_what_is_written_is_a_copy():
    change = plan(NEURONS, "mean", STATISTICS)
    change.layers[0].values.fill_(99)
    assert not (STATISTICS.mean == 99).any()
