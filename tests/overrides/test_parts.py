"""Several parts per layer, at several sites, with every operation; and overrides between two languages."""

from __future__ import annotations

import functools
import warnings
from contextlib import ExitStack
from typing import Any

import pytest
import torch

from lnbench import LayerOverride, NeuronSet, Override, OverrideContext, override
from lnbench.choices import plan
from lnbench.model.locate import locate
from lnbench.testing import tiny_model, tiny_statistics
from tests.support.messages import refused

MODEL = tiny_model()
IDS = torch.arange(3, 43).view(2, 20)
ONE, TWO, THREE = torch.tensor([1, 5]), torch.tensor([0, 9, 20]), torch.tensor([7])


def run(change: Override | None = None, **options: Any) -> dict[str, list[torch.Tensor]]:
    """Each layer's values before and behind the non-linearity, as the model computes with them."""
    seen: dict[str, list[torch.Tensor]] = {"pre": [], "post": []}

    def keep(_module: Any, args: Any, output: torch.Tensor) -> None:
        seen["pre"].append(args[0].clone())
        seen["post"].append(output.clone())

    with torch.no_grad(), override(MODEL, change or Override({}), **options), ExitStack() as hooks:
        for module in locate(MODEL).activations:
            hooks.callback(module.register_forward_hook(keep).remove)
        MODEL(IDS)
    return seen


def double(old: torch.Tensor) -> torch.Tensor:
    return 2 * old.abs()


OPERATIONS = [
    (LayerOverride(TWO, torch.tensor([0.1, 0.2, 0.3])), lambda old: torch.tensor([0.1, 0.2, 0.3]).expand_as(old)),
    (LayerOverride(TWO, torch.full((3,), -2.0), "scale"), lambda old: -2 * old),
    (LayerOverride(TWO, torch.full((3,), 0.5), "add"), lambda old: old + 0.5),
    (LayerOverride(TWO, torch.tensor([[-0.1] * 3, [0.2] * 3]), "clamp"), lambda old: old.clamp(-0.1, 0.2)),
    (LayerOverride(TWO, None, double), double),
]


@pytest.mark.parametrize(("part", "expected"), OPERATIONS, ids=lambda each: str(getattr(each, "operation", ""))[:12])
@pytest.mark.parametrize("together", [False, True], ids=["alone", "beside others"])
def test_every_operation_changes_its_own_neurons(part: LayerOverride, expected: Any, together: bool) -> None:
    others = [LayerOverride(ONE, torch.tensor([3.0, 4.0])), LayerOverride(THREE, torch.tensor([2.0]), "scale")]
    plain, changed = run(), run(Override({0: [*others, part] if together else part}))
    old, new = plain["post"][0], changed["post"][0]
    torch.testing.assert_close(new[..., TWO], expected(old[..., TWO]))
    if together:
        assert torch.equal(new[..., ONE], torch.tensor([3.0, 4.0]).expand_as(new[..., ONE]))
        torch.testing.assert_close(new[..., THREE], 2 * old[..., THREE])
    touched = torch.cat([TWO, ONE, THREE]) if together else TWO
    rest = torch.ones(old.shape[-1], dtype=torch.bool).index_fill(0, touched, False)
    assert torch.equal(new[..., rest], old[..., rest])


def test_parts_of_one_layer_at_two_sites() -> None:
    change = Override(
        {
            1: [
                LayerOverride(ONE, torch.tensor([0.5, -0.5]), site="pre"),
                LayerOverride(torch.tensor([5, 6]), torch.tensor([9.0, 8.0])),
            ]
        }
    )
    seen = run(change)
    assert seen["pre"][1][..., 1].unique().tolist() == [0.5]
    torch.testing.assert_close(seen["post"][1][0, 0, 1], torch.nn.functional.silu(torch.tensor(0.5)))
    assert seen["post"][1][..., 5].unique().tolist() == [9.0]
    with refused("layer 1", "pre"):
        run(change, site="pre")
    with refused("middle", "pre, post"):
        run(Override({0: LayerOverride(ONE, torch.zeros(2), site="middle")}))


def test_each_neuron_is_changed_once() -> None:
    parts = [LayerOverride(ONE, torch.zeros(2)), LayerOverride(torch.tensor([5]), torch.ones(1), "scale")]
    with refused("layer 2"):
        Override({2: parts})


def test_a_function_keeps_the_shape() -> None:
    with refused("(2, 20, 1)", "(2, 20, 2)"):
        run(Override({0: LayerOverride(ONE, None, lambda old: old[..., :1])}))


def test_padding_is_left_alone_and_the_share_outside_the_range_is_counted() -> None:
    statistics = tiny_statistics(MODEL)["en"]
    change = Override({0: [LayerOverride(ONE, torch.full((2,), 1e3)), LayerOverride(THREE, None, lambda old: 0 * old)]})
    mask = torch.ones_like(IDS)
    mask[1, 10:] = 0
    with torch.no_grad(), override(MODEL, change, statistics=statistics) as applied:
        MODEL(IDS, attention_mask=mask)
    assert applied.tokens == 30
    assert applied.outside_range == pytest.approx(2 / 3)


def test_fingerprints_of_single_parts_are_those_of_version_0_1() -> None:
    indices, values = torch.tensor([4, 2, 9]), torch.tensor([0.5, -1.25, 3.0])
    known = {"set": "eaac3ce4c9d9588e", "scale": "0b088fc0100378d2", "add": "33ea571a4bc9e0b7"}
    for operation, fingerprint in known.items():
        assert Override({2: LayerOverride(indices, values, operation)}).fingerprint == fingerprint
        assert Override({2: [LayerOverride(indices, values, operation)]}).fingerprint == fingerprint
    with pytest.warns(DeprecationWarning, match="'shift'.*'add'"):
        assert Override({2: LayerOverride(indices, values, "shift")}).fingerprint == known["add"]


def scaled(old: torch.Tensor, by: float) -> torch.Tensor:
    return old * by


def of_closure(by: Any) -> Any:
    return lambda old: old * by


def test_fingerprints_tell_functions_and_what_they_hold_apart() -> None:
    functions = [
        double,
        functools.partial(scaled, by=2.0),
        functools.partial(scaled, by=3.0),
        of_closure(2.0),
        of_closure(torch.tensor([2.0, 1.0])),
        of_closure(torch.tensor([2.0, 3.0])),
        lambda old: old + 1,
        lambda old: old + 2,
    ]
    prints = {Override({0: LayerOverride(ONE, None, function)}).fingerprint for function in functions}
    sited = Override({0: LayerOverride(ONE, None, double, site="pre")}).fingerprint
    assert len(prints | {sited}) == len(functions) + 1
    assert Override({0: LayerOverride(ONE, None, of_closure(2.0))}).fingerprint in prints


class Swap:
    """Silence the source's neurons and set the target's to their mean."""

    def __init__(self) -> None:
        self.context: OverrideContext | None = None

    def override(self, context: OverrideContext) -> Override:
        self.context = context
        assert context.source is not None
        return Override.setting(context.neurons_of(context.source), context.statistics_of(context.source).mean)


def test_an_override_between_two_languages() -> None:
    statistics = tiny_statistics(MODEL)
    neurons = NeuronSet("tiny", 3, 24, {"en": {0: [1, 2]}, "hi": {1: [3]}, "zh": {}})
    swap = Swap()
    with override(MODEL, neurons, swap, source="en", target="hi", statistics=statistics) as applied:
        assert applied.neurons == 2
    context = swap.context
    assert context is not None
    assert (context.source, context.target, context.languages) == ("en", "hi", ("en", "hi", "zh"))
    assert context.statistics is not None
    assert context.statistics.fingerprint == statistics["hi"].fingerprint
    assert context.neurons[1].tolist() == [3]
    with refused("xx", "en, hi, zh"):
        context.statistics_of("xx")
    with refused("xx", "en, hi, zh"):
        context.neurons_of("xx")
    with refused("target="), override(MODEL, neurons, "zero"):
        pass
    with override(MODEL, neurons, "mean", statistics=statistics["hi"]) as applied:
        assert applied.neurons == 1
    for known_to_none in (OverrideContext({}).neurons_of, OverrideContext({}).statistics_of):
        with refused("'en'"):
            known_to_none("en")


class Older:
    """An intervention of contract 1."""

    def override(self, neurons: Any, statistics: Any) -> Override:
        return Override({layer: LayerOverride(units, torch.zeros(units.shape)) for layer, units in neurons.items()})


def test_the_older_signature_works_with_one_warning() -> None:
    with pytest.warns(DeprecationWarning, match="Older.*context"):
        assert plan({0: ONE}, Older(), None).neurons == 2
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert plan({0: ONE}, Older(), None).neurons == 2
