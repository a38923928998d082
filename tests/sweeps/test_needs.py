"""A sweep collects what its selectors and interventions need; a folder of Statistics that lacks it is refused."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from transformers import AutoModelForCausalLM

from lnbench.sweeps.records import FILE, load
from lnbench.testing import tiny_statistics
from tests.support.messages import lacks
from tests.support.sweeps import spec_of, sweep

pytestmark = pytest.mark.slow

SMALL: dict[str, Any] = {"compare": ["en", "hi"], "languages": ["hi"], "controls": 0, "limit": 1}


def test_measures_and_sites_are_collected(given: dict[str, Any], tmp_path: Path) -> None:
    selectors = ["attribution:fraction=0.1", "average_precision:count=5", "removal_impact:fraction=0.5"]
    spec = spec_of(given, **SMALL, selectors=selectors, interventions=["none", "zero"])
    outcome = sweep(spec, tmp_path / "measures")
    assert not outcome.failed
    assert {record.selector for record in load(tmp_path / "measures" / FILE)} >= set(selectors)
    pairs = {name: value for name, value in SMALL.items() if name != "languages"}
    directions = spec_of(given, **pairs, languages=[], pairs=["en→hi"], interventions=["none", "diffmean:layer=1"])
    assert not sweep(directions, tmp_path / "sites").failed


def test_a_folder_that_lacks_them_is_refused_with_the_command(given: dict[str, Any], tmp_path: Path) -> None:
    model = AutoModelForCausalLM.from_pretrained(given["pretrained"])
    for statistics in tiny_statistics(model, ("en", "hi")).values():
        statistics.save(tmp_path / "stats")
    own = {"statistics": str(tmp_path / "stats"), "interventions": ["none", "zero"]}
    failed = sweep(spec_of(given, **SMALL, **own, selectors=["attribution:fraction=0.1"]), tmp_path / "out").failed
    assert len(failed) == 1
    assert not lacks(failed.popitem()[1], "attribution", "lnbench stats --measure")
