"""Every built-in selector and intervention passes the conformance suite."""

from __future__ import annotations

from functools import partial
from typing import Any

import pytest

from lnbench.host import get_host
from lnbench.testing import CHECKS, Candidate
from tests.support.messages import refused

GIVEN: dict[str, dict[str, dict[str, Any]]] = {
    "selector": {
        "act_prob": {"preset": "paper"},
        "average_precision": {"count": 5},
        "language_dimensions": {"count": 4},
        "removal_impact": {"fraction": 0.5},
        "top": {"of": "mean_difference", "count": 3},
    },
    "intervention": {
        "all_of": {"parts": ["zero:layers=0", "scale:factor=2:layers=1-2"]},
        "diffmean": {"layer": 1},
        "fallback": {"languages": ["en", "zh"]},
        "language_mean": {"of": "en"},
        "random_direction": {"like": "diffmean:layer=1"},
        "scale": {"factor": 2.0},
        "p{percent}": {"percent": 10},
    },
}
"""Parameters that must be given, whose defaults are for larger models, or that need more of Statistics."""


def candidates(kind: str) -> list[Candidate]:
    entries = [
        entry for entry in get_host().describe() if entry.kind == kind and entry.source.distribution == "lnbench"
    ]
    assert set(GIVEN[kind]) <= {entry.name for entry in entries}
    return [Candidate(kind, entry.factory, GIVEN[kind].get(entry.name, {}), entry.name) for entry in entries]


@pytest.mark.parametrize(
    "check",
    [
        pytest.param(partial(check, candidate), id=f"{candidate.kind} {candidate.name}: {name}")
        for kind, checks in CHECKS.items()
        for candidate in candidates(kind)
        for name, check in checks.items()
    ],
)
def test_every_built_in(check: Any) -> None:
    check()


@pytest.mark.parametrize("candidate", [*candidates("selector"), *candidates("intervention")], ids=lambda own: own.name)
def test_unknown_and_missing_parameters_are_named(candidate: Candidate) -> None:
    with refused("no_such_parameter", candidate.name):
        candidate.build(no_such_parameter=1)
    for name, parameter in candidate.entry.parameters.items():
        if parameter.required:
            others = {key: value for key, value in candidate.parameters.items() if key != name}
            with refused(name, candidate.name):
                candidate.entry.build(others)
