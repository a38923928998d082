"""The conformance suite: what every selector and every intervention must do, one check each."""

from __future__ import annotations

import json
import math
import tempfile
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any, Literal, get_origin

import torch

from lnbench.choices import needs_of, select
from lnbench.errors import LnbenchError
from lnbench.hookspecs import Needs
from lnbench.host import needs_of_intervention, whole_site_of
from lnbench.neurons import NeuronSet
from lnbench.override_values import Override
from lnbench.parameters import Parameter, format_choice, members, parse_choice
from lnbench.statistics import Statistics
from lnbench.testing.checks import (
    SOURCE,
    TARGET,
    Candidate,
    Pair,
    check_planned,
    check_selected,
    equal_languages,
    refusal,
    statistics_of,
)
from lnbench.testing.tiny import SITES

Check = Callable[[Candidate], None]


def conformance(kind: str, factory: Any, **parameters: Any) -> Any:
    """Return the decorator that makes one test of each check of the suite, which the function calls: ``check()``.

    Args:
        kind: ``selector`` or ``intervention``.
        factory: What the plugin registers.
        parameters: Its parameters; those that must be given, and such as suit a model of 3 layers of 24 neurons.
    """
    import pytest

    candidate = Candidate(kind, factory, parameters)
    checks = [pytest.param(partial(check, candidate), id=name) for name, check in CHECKS[kind].items()]
    return pytest.mark.parametrize("check", checks)


# Selectors


def _statistics(candidate: Candidate, *, dead: bool = False) -> dict[str, Statistics]:
    """Return Statistics with all that a selector needs, seen at the first site that it works at.

    Raises:
        AssertionError: it works at none.
    """
    collected = statistics_of(needs_of(candidate.made))
    refusals = []
    for site in SITES:
        seen = {language: own.at(site) for language, own in collected.items()}
        neurons, refused = refusal(partial(select, candidate.made, seen))
        if neurons is not None:
            found = statistics_of(needs_of(candidate.made), dead=dead)
            return {language: own.at(site) for language, own in found.items()}
        refusals.append(f"{site}: {refused}")
    raise AssertionError("it works at no site: " + "; ".join(refusals))


def _selects(candidate: Candidate) -> None:
    """Neurons, or none, for every language; the same again; the Statistics are left as they are."""
    check_selected(candidate.made, candidate.made, _statistics(candidate))


def _order_of_languages(candidate: Candidate) -> None:
    """The order in which languages are handed over does not matter."""
    statistics = _statistics(candidate)
    neurons = select(candidate.made, statistics)
    turned = select(candidate.made, dict(reversed(statistics.items())))
    for language in neurons:
        assert torch.equal(neurons.mask(language), turned.mask(language)), f"{language} depends on the order"


def _sites(candidate: Candidate) -> None:
    """At every site units of its shape, or one line that names the site."""
    collected = statistics_of(needs_of(candidate.made))
    for site in SITES:
        seen = {language: own.at(site) for language, own in collected.items()}
        neurons, _ = refusal(partial(select, candidate.made, seen), site)
        if neurons is not None and neurons.site == site:
            assert neurons.widths == seen[TARGET].widths, f"at site {site!r}: {neurons!r}"


def _degenerate_statistics(candidate: Candidate) -> None:
    """No language, one language, languages with the same text, and units that are always 0: a set, or one line."""
    statistics = _statistics(candidate)
    refusal(partial(select, candidate.made, {}), allowed=False)
    for changed in (
        {TARGET: statistics[TARGET]},
        equal_languages(statistics),
        _statistics(candidate, dead=True),
    ):
        neurons, _ = refusal(partial(select, candidate.made, changed))
        assert neurons is None or set(neurons) == set(changed), (
            "a selector returns neurons, or none, for every language"
        )


def _missing_measures(candidate: Candidate) -> None:
    """Where Statistics lack a measure, level or site that it needs, one line names it and the command that adds it."""
    needs, statistics = needs_of(candidate.made), _statistics(candidate)
    for measure in needs.measures:
        without = statistics_of(Needs(sites=needs.sites))
        lacking = {language: own.at(statistics[language].site) for language, own in without.items()}
        named = ("lnbench stats --measure", measure.partition(":")[0])
        refusal(partial(select, candidate.made, lacking), *named, allowed=False)
    if needs.batch_levels:
        lacking = {language: replace(own, batch_quantiles={}) for language, own in statistics.items()}
        refusal(partial(select, candidate.made, lacking), "lnbench stats --batch-level", allowed=False)
    for site in needs.sites:
        lacking = {language: _without(own, site) for language, own in statistics.items() if own.site != site}
        if lacking and site not in ("post", "pre"):
            refusal(partial(select, candidate.made, lacking), "lnbench stats", f"--also-site {site}", allowed=False)


def _without(statistics: Statistics, site: str) -> Statistics:
    kept = {name: values for name, values in statistics.sites.items() if name != site}
    return replace(statistics, sites=kept)


def _written_and_read(candidate: Candidate) -> None:
    """What it selects is the same after it was written to a file."""
    neurons = select(candidate.made, _statistics(candidate))
    with tempfile.TemporaryDirectory() as folder:
        neurons.save(Path(folder, "neurons.json"))
        assert NeuronSet.load(Path(folder, "neurons.json")) == neurons


# Interventions


def _site_of(candidate: Candidate) -> str:
    return whole_site_of(candidate.made) or "post"


def _overrides(candidate: Candidate) -> None:
    """An Override of the given units, the same again, under which the model gives finite numbers."""
    check_planned(candidate.made, candidate.made, _site_of(candidate))


def _overrides_at_sites(candidate: Candidate) -> None:
    """At every site an Override that can be applied there, or one line."""
    for site in SITES:
        refusal(partial(check_planned, candidate.made, candidate.made, site))


def _values(change: Override) -> Iterator[tuple[Any, ...]]:
    """Yield what each part writes to activations of 1, with where it writes."""
    for layer, part in change.parts:
        size = 1 if part.values is None or part.values.ndim < 2 or part.operation == "clamp" else part.values.shape[-1]
        old = torch.ones(part.indices.numel() * size)
        yield (
            layer,
            part.site,
            part.indices.tolist(),
            part.of_coordinates(size).new(old, part.of_coordinates(size).values),
        )


def _order_of_compared(candidate: Candidate) -> None:
    """The order of the compared languages does not matter."""
    pair = Pair(_site_of(candidate))
    there = pair.plan(candidate.made)
    back = pair.plan(candidate.made, languages=tuple(reversed(pair.statistics)))
    for one, other in zip(_values(there), _values(back), strict=True):
        assert one[:-1] == other[:-1] and torch.allclose(one[-1], other[-1]), "it depends on the order of languages"


def _missing_context(candidate: Candidate) -> None:
    """Without Statistics, a target, a source, other languages, or units: an Override, or one line."""
    pair = Pair(_site_of(candidate))
    try_with: Mapping[str, Mapping[str, Any]] = {
        "Statistics": {"statistics": None},
        "Statistics of others": {"statistics_of": partial(_no, "Statistics")},
        "neurons of others": {"neurons_of": partial(_no, "neurons")},
        "a target": {"target": None},
        "a source": {"source": None},
        "two languages": {"source": TARGET},
        "other languages": {"languages": (TARGET,), "source": SOURCE},
        "a known source": {"source": "xx"},
        "units": {"neurons": {}},
    }
    for missing, changes in try_with.items():
        try:
            refusal(partial(pair.plan, candidate.made, **changes))
        except AssertionError as error:
            raise AssertionError(f"without {missing}: {error}") from error


def _no(what: str, language: str) -> Any:
    raise LnbenchError(f"the {what} of {language!r} are not known")


def _needs_of_pair(candidate: Candidate) -> None:
    """A site that it reads beside that of the units, and that was not counted, is named with what collects it."""
    pair = Pair("post")
    for site in needs_of_intervention(candidate.made).sites:
        lacking = {language: _without(own, site) for language, own in pair.statistics.items()}
        changes = {"statistics": lacking[TARGET], "statistics_of": lacking.__getitem__}
        refusal(partial(pair.plan, candidate.made, **changes), "lnbench stats", f"--also-site {site}", allowed=False)


def _degenerate_values(candidate: Candidate) -> None:
    """Languages with the same text or units, units that are always 0: an Override of finite numbers, or one line."""
    pair = Pair(_site_of(candidate))
    for attempt in (
        partial(Pair(_site_of(candidate), equal=True).plan, candidate.made),
        partial(Pair(_site_of(candidate), dead=True).plan, candidate.made),
        partial(pair.plan, candidate.made, neurons_of=lambda _: pair.neurons[TARGET]),
    ):
        change, _ = refusal(attempt)
        for *_, new in _values(change) if change is not None else ():
            assert torch.isfinite(new).all(), "it writes a number that is not finite"


# Both


def _documentation(candidate: Candidate) -> None:
    """A sentence says what it does, and one each what its parameters are: ``lnbench plugins`` prints them."""
    assert candidate.entry.doc, "its class has a docstring that begins with a sentence"
    documented = candidate.entry.factory.__doc__ or ""
    for name, parameter in candidate.entry.parameters.items():
        said = parameter.description or name in documented
        assert said, f"the parameter {name!r} has a description: Field(description=…), or a line of the docstring"


def _bad_values(candidate: Candidate) -> None:
    """A value that is no number where one is expected, NaN, or none of the choices, is refused by name."""
    for name, parameter in candidate.entry.parameters.items():
        for bad in _bad(parameter):
            refusal(partial(candidate.build, **{name: bad}), name, allowed=False)


def _bad(parameter: Parameter) -> Iterator[str]:
    kinds = [kind for kind in members(parameter.annotation) if kind is not type(None)]
    if kinds and all(kind in (int, float, bool) or get_origin(kind) is Literal for kind in kinds):
        yield "no_such_value"
    if kinds and all(kind in (int, float) for kind in kinds):
        yield "nan"


def _parameters_as_text(candidate: Candidate) -> None:
    """Its parameters are the same after they were written, as users write them and as JSON."""
    arguments, _ = candidate.build()
    name, read = parse_choice(format_choice("candidate", arguments))
    assert name == "candidate"
    assert candidate.entry.build(read)[0] == arguments, "parameters are written as text and read back"
    assert candidate.entry.build(json.loads(json.dumps(arguments)))[0] == arguments, "parameters are JSON"
    assert not any(isinstance(value, float) and math.isnan(value) for value in arguments.values())


_BOTH: dict[str, Check] = {
    "documentation": _documentation,
    "bad values of parameters": _bad_values,
    "parameters as text": _parameters_as_text,
}
CHECKS: dict[str, dict[str, Check]] = {
    "selector": {
        "selects": _selects,
        "order of languages": _order_of_languages,
        "every site": _sites,
        "degenerate Statistics": _degenerate_statistics,
        "missing measures": _missing_measures,
        "written and read": _written_and_read,
        **_BOTH,
    },
    "intervention": {
        "overrides": _overrides,
        "every site": _overrides_at_sites,
        "order of languages": _order_of_compared,
        "missing context": _missing_context,
        "missing sites": _needs_of_pair,
        "degenerate Statistics": _degenerate_values,
        **_BOTH,
    },
}
"""Kind → name of a check → the check, which raises where a plugin fails it."""
