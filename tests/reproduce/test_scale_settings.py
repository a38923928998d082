"""A scale's numbers and a preset's choices, and what is put in their place."""

from __future__ import annotations

from typing import Any

import pytest

from lnbench.finetuning.presets import settings_of
from lnbench.host import get_host
from lnbench.reproduce.scale_settings import PRESETS, Preset, Scale, read_settings
from lnbench.settings import parse_pairs
from tests.support.messages import refused

SCALES: tuple[Scale, ...] = ("paper", "small")


@pytest.mark.parametrize("preset", PRESETS)
@pytest.mark.parametrize("scale", SCALES)
def test_every_scale_and_preset_is_whole(scale: Scale, preset: Preset) -> None:
    found = read_settings(scale, preset)
    for selector in found.selectors.values():
        assert get_host().resolve("selector", selector)
    for task in ("xnli", "xquad"):
        assert settings_of(f"{task}-paper", getattr(found, task).settings)
    assert (found.site == "paper") == (preset == "paper")
    assert (found.quantize == "nf4") == (scale == "paper")


def test_the_papers_scale_has_the_papers_numbers() -> None:
    found = read_settings("paper", "corrected")
    assert (found.tokens, found.length, found.controls) == (100_000_000, 512, 0)
    assert found.corpus == "wikimedia/wikipedia:20231101.{lang}"
    xnli, xquad = (settings_of(f"{task}-paper", getattr(found, task).settings) for task in ("xnli", "xquad"))
    assert (xnli.lr, xnli.examples, xnli.epochs, xnli.batch_size, xnli.max_length) == (1e-5, 100_000, 2, 8, 256)
    assert (xquad.lr, xquad.epochs, xquad.batch_size, xquad.max_length) == (5e-5, 10, 4, 512)


def test_what_is_given_takes_the_place_of_what_is_there() -> None:
    found = read_settings(
        "small", "corrected", {"tokens": 5, "xnli.limit": 3, "xnli.settings.max_steps": 7, "site": "pre"}
    )
    assert (found.tokens, found.xnli.limit, found.xnli.settings["max_steps"], found.site) == (5, 3, 7, "pre")
    assert found.xquad.limit != 3
    assert found.flat()["xnli.settings.max_steps"] == 7
    assert read_settings("small", "corrected").tokens != 5


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"tokenz": 5}, ["tokenz", "corpus, tokens", "xnli.limit"]),
        ({"xnli": 5}, ["'xnli'", "xnli.limit"]),
        ({"xnli.steps": 5}, ["xnli.steps", "xnli.limit"]),
        ({"tokens.more": 5}, ["tokens.more", "xnli.limit"]),
        ({"tokens": "many"}, ["--set tokens='many'"]),
        ({"site": "elsewhere"}, ["--set site='elsewhere'"]),
    ],
)
def test_what_does_not_fit_is_told(given: dict[str, Any], named: list[str]) -> None:
    with refused(*named):
        read_settings("small", "corrected", given)


def test_pairs_of_the_command_line() -> None:
    assert parse_pairs(["tokens=16_000"]) == {"tokens": 16000}
    assert parse_pairs(["selectors.lape=lape:bar=0.5", "a=b"]) == {"selectors.lape": "lape:bar=0.5", "a": "b"}
    for wrong, named in (("tokens", "KEY=VALUE"), ("=3", "KEY=VALUE"), ("a={", "YAML")):
        with refused(named, error=ValueError):
            parse_pairs([wrong])
