"""Averages of activations over all neurons, against the activations themselves."""

from __future__ import annotations

import pytest
import torch

from lnbench import analysis
from tests.support.messages import refused
from tests.support.samples import normal, statistics_of

PRE = {"en": normal(400, 2, 6, seed=1), "hi": normal(400, 2, 6, seed=2) - 0.5}


@pytest.mark.parametrize("site", ["post", "pre", None])
def test_averages(site: str | None) -> None:
    found = analysis.activation_averages({code: statistics_of(pre, language=code) for code, pre in PRE.items()}, site)
    assert list(found) == ["en", "hi"]
    for code, pre in PRE.items():
        values = pre if site == "pre" else torch.nn.functional.silu(pre)
        assert list(found[code]) == ["mean", "P5", "P10", "P25", "P75", "P90", "P95"]
        assert found[code].pop("mean") == pytest.approx(float(values.mean()), abs=1e-5)
        for name, value in found[code].items():
            exact = values.double().quantile(int(name[1:]) / 100, dim=0).mean()
            assert value == pytest.approx(float(exact), abs=0.01)


def test_an_unknown_site_is_named() -> None:
    with refused("middle", "pre, post"):
        analysis.activation_averages({"en": statistics_of(PRE["en"])}, "middle")
