"""What is checked of a plugin, whatever its kind; and the checks of a selector's and an intervention's own contract."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from functools import cache, partial
from typing import Any, TypeVar

import torch

from lnbench.choices import of_language, override, plan, select
from lnbench.errors import LnbenchError, PluginError
from lnbench.hookspecs import Needs
from lnbench.host import PluginSource, Registered, whole_site_of
from lnbench.neurons import NeuronSet
from lnbench.override_values import Override
from lnbench.statistics import Statistics
from lnbench.testing.tiny import SITES, dead_model, tiny_model, tiny_statistics

Result = TypeVar("Result")
TARGET, SOURCE = "hi", "en"
"""The languages of a pair, among those of :func:`~lnbench.testing.tiny_statistics`."""


@dataclass(frozen=True)
class Candidate:
    """What is checked: a factory, as a plugin registers it, with the parameters that it is made with."""

    kind: str
    factory: Any
    parameters: Mapping[str, Any] = field(default_factory=dict)
    name: str = "candidate"

    @property
    def entry(self) -> Registered:
        """The factory as it is registered."""
        return Registered(self.kind, self.name, self.factory, PluginSource(self.name, self.name))

    def build(self, **changes: Any) -> tuple[dict[str, Any], Any]:
        """Return the arguments with every default, and the object that the factory makes of them."""
        return self.entry.build({**self.parameters, **changes})

    @property
    def made(self) -> Any:
        """A new object."""
        return self.build()[1]


def refusal(call: Callable[[], Result], *named: str, allowed: bool = True) -> tuple[Result | None, str]:
    """Return what ``call`` returns and no text, or None and its refusal, which must be a line that names ``named``.

    Args:
        call: What is tried.
        named: What a refusal must name.
        allowed: Whether it may succeed at all.

    Raises:
        AssertionError: it fails otherwise than by an :class:`lnbench.LnbenchError` of its own of one line; or it
            succeeds, and must not.
    """
    try:
        result = call()
    except PluginError as error:
        raise AssertionError(f"it fails by an error that says nothing to a user: {error}") from error
    except LnbenchError as error:
        text = str(error)
        assert "\n" not in text.strip(), f"an error is one line: {text}"
        assert not (lacking := [name for name in named if name not in text]), f"{lacking} are not named in: {text}"
        return None, text
    assert allowed, f"it is not refused, and returned {result!r}"
    return result, ""


@cache
def model() -> Any:
    """Return the tiny model of all checks."""
    return tiny_model()


@cache
def statistics_of(needs: Needs = Needs(), *, dead: bool = False) -> dict[str, Statistics]:  # noqa: B008 - frozen
    """Return language → Statistics of the tiny model, or of the dead one, at every site, with what ``needs`` names."""
    return tiny_statistics(dead_model() if dead else model(), selector=_Needing(needs), sites=SITES)


class _Needing:
    """A selector that needs something, and selects nothing."""

    def __init__(self, needs: Needs) -> None:
        self.needs = needs

    def select(self, statistics: Mapping[str, Statistics]) -> NeuronSet:
        """Return no neurons."""
        first = next(iter(statistics.values()))
        return NeuronSet(first.model, first.layers, first.width, {})


def check_selector(factory: Callable[..., Any], **parameters: Any) -> NeuronSet:
    """Check that a selector keeps its contract on a tiny model, and return what it selects.

    Args:
        factory: What the plugin registers.
        parameters: Its parameters.

    Raises:
        LnbenchError: it fails, or does not return a NeuronSet of the model's shape.
        AssertionError: it leaves out a language, changes the Statistics, or selects other neurons the second time.
    """
    selector = factory(**parameters)
    return check_selected(selector, factory(**parameters), tiny_statistics(tiny_model(), selector=selector))


def check_selected(selector: Any, again: Any, statistics: Mapping[str, Statistics]) -> NeuronSet:
    """Check what a selector, and the same made again, select of some Statistics; as :func:`check_selector`."""
    before = {language: own.fingerprint for language, own in statistics.items()}
    neurons = select(selector, statistics)
    assert set(neurons) == set(statistics), "a selector returns neurons, or none, for every language"
    assert before == {language: own.fingerprint for language, own in statistics.items()}, "Statistics are not changed"
    assert select(again, statistics) == neurons, "the same Statistics give the same neurons"
    return neurons


def check_intervention(factory: Callable[..., Any], **parameters: Any) -> Override:
    """Check that an intervention keeps its contract on a tiny model, and return its Override.

    Args:
        factory: What the plugin registers.
        parameters: Its parameters.

    Raises:
        LnbenchError: it fails, or returns something else than an Override of the model's neurons.
        AssertionError: it changes neurons that it was not given, or gives other values the second time.
    """
    return check_planned(factory(**parameters), factory(**parameters), "post")


def check_planned(intervention: Any, again: Any, site: str) -> Override:
    """Check what an intervention, and the same made again, do to units of a site; as :func:`check_intervention`."""
    pair = Pair(site)
    change = pair.plan(intervention)
    assert change.fingerprint == pair.plan(again).fingerprint, "the same neurons and Statistics give the same values"
    whole, allowed = whole_site_of(intervention), pair.neurons.union(pair.asked)
    for layer, part in change.parts:
        own = allowed.get(layer, torch.empty(0, dtype=torch.long))
        given = part.site is not None and part.site == whole
        assert given or torch.isin(part.indices.cpu(), own).all(), f"layer {layer}: neurons that were not given"
    with override(model(), change, statistics=pair.statistics[TARGET], site=site) as applied, torch.no_grad():
        logits = model()(torch.arange(3, 35).view(2, 16)).logits
    assert torch.isfinite(logits).all(), "the overridden model gives numbers that are not finite"
    assert applied.neurons == change.neurons
    return change


class Pair:
    """What an intervention is handed: Statistics of several languages and random units at a site, source and target.

    Args:
        site: The site.
        dead: Whether all values are 0.
        equal: Whether all languages have the target's Statistics.
    """

    def __init__(self, site: str = "post", *, dead: bool = False, equal: bool = False) -> None:
        self.statistics = {language: own.at(site) for language, own in statistics_of(dead=dead).items()}
        if equal:
            self.statistics = equal_languages(self.statistics)
        drawn = select("random:fraction=0.3", self.statistics)
        masks = {language: drawn.mask(language) for language in drawn}
        common = torch.stack([*masks.values()]).all(0)
        self.neurons = NeuronSet.from_masks(
            drawn.model, {k: mask & ~common for k, mask in masks.items()}, **drawn.units
        )
        self.asked = {TARGET}
        """Languages whose units were asked for."""

    def _neurons_of(self, language: str) -> Mapping[int, torch.Tensor]:
        self.asked.add(language)
        return self.neurons[language]

    def plan(self, intervention: Any, **changes: Any) -> Override:
        """Return the Override of the target's units; ``changes`` replace what the context holds."""
        context: dict[str, Any] = {
            "neurons": self.neurons[TARGET],
            "statistics": self.statistics[TARGET],
            "target": TARGET,
            "source": SOURCE,
            "languages": tuple(self.statistics),
            "neurons_of": self._neurons_of,
            "statistics_of": partial(of_language, self.statistics),
        } | changes
        neurons, statistics = context.pop("neurons"), context.pop("statistics")
        return plan(neurons, intervention, statistics, **context)


def equal_languages(statistics: Mapping[str, Statistics]) -> dict[str, Statistics]:
    """Return the target's Statistics for every language, as if all had the same text."""
    return {language: replace(statistics[TARGET], language=language) for language in statistics}
