"""What ``import lnbench`` offers: three lines from a model to its neurons, whatever was imported before."""

from __future__ import annotations

import pkgutil
import subprocess
import sys
from importlib import import_module
from pathlib import Path
from typing import Any

import pytest

import lnbench
from lnbench.lm import LNBenchLM
from tests.support.messages import refused

_LANGUAGES = ["hi", "en"]


@pytest.fixture(scope="module")
def loaded(tiny_model: str) -> tuple[Any, Any]:
    return lnbench.load_model(tiny_model)


def test_three_lines(loaded: Any, tiny_corpus: str, tiny_model: str) -> None:
    model, tokenizer = loaded
    statistics = lnbench.statistics(model, tokenizer, tiny_corpus, _LANGUAGES, tokens=300)
    neurons = lnbench.select("act_prob:fraction=0.15", statistics)
    assert (list(statistics), neurons.languages, neurons.model) == (_LANGUAGES, ["en", "hi"], "tiny-llama")
    assert {own.tokens for own in statistics.values()} == {300}
    assert not model.training
    assert repr(loaded) == "LoadedModel('tiny-llama', 3 layers × 24 neurons, float32)"
    assert (lnbench.tasks() / "demo").is_dir()


def test_statistics_are_those_of_lm_eval_and_collected_once(
    loaded: Any, tiny_corpus: str, tiny_model: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    model, tokenizer = loaded
    lm = LNBenchLM(tiny_model, corpus=tiny_corpus, languages="hi+en", corpus_tokens=200, corpus_length=32)
    given = {"tokens": 200, "length": 32}
    collected = lnbench.statistics(model, tokenizer, Path(tiny_corpus), "hi+en", **given)
    monkeypatch.setattr("lnbench.statistics.cached.collect_corpus", None)
    for language, own in collected.items():
        assert own.fingerprint == lm.artifacts.statistics(lm.experiment, language).fingerprint
    again = lnbench.statistics(model, tokenizer, tiny_corpus, _LANGUAGES, site="pre", **given)
    assert [own.site for own in again.values()] == ["pre", "pre"]
    assert again["hi"].at("post").fingerprint == collected["hi"].fingerprint


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"languages": "en+xx"}, ["xx"]),
        ({"languages": "en+en"}, ["languages"]),
        ({"token": 5}, ["token"]),
        ({"site": "middle"}, ["site", "middle"]),
        ({"tokens": 0}, ["tokens"]),
    ],
)
def test_what_does_not_exist_is_refused(loaded: Any, tiny_corpus: str, given: dict[str, Any], named: list[str]) -> None:
    with refused(*named):
        lnbench.statistics(*loaded, tiny_corpus, **given)


def test_a_folder_without_a_model_is_refused(tmp_path: Path) -> None:
    with refused(tmp_path):
        lnbench.load_model(str(tmp_path))


_EVERY_MODULE = """
import sys, pkgutil, importlib
import lnbench
for module in pkgutil.walk_packages(lnbench.__path__, "lnbench."):
    if "__main__" not in module.name and "gpu" not in module.name and "_lm_eval_hook" not in module.name:
        importlib.import_module(module.name)
assert callable(lnbench.statistics), lnbench.statistics
assert lnbench.statistics.store.save and lnbench.statistics.Statistics
from lnbench import statistics, tasks
assert callable(statistics) and tasks().is_dir()
try:
    lnbench.statistics(1, 2, "nowhere/{lang}.txt", ["hi"])
except lnbench.LnbenchError as error:
    assert "nowhere" in str(error)
"""


@pytest.mark.processes
def test_statistics_can_be_called_after_every_module_was_imported() -> None:
    subprocess.run([sys.executable, "-c", _EVERY_MODULE], check=True)


def test_importing_every_module_of_a_package_leaves_it_callable() -> None:
    for name in lnbench._PACKAGES:
        package = getattr(lnbench, name)
        for module in pkgutil.iter_modules(package.__path__):
            if module.name != "gpu_kernels":
                import_module(f"{package.__name__}.{module.name}")
        assert getattr(lnbench, name) is sys.modules[f"lnbench.{name}"]
    assert callable(lnbench.statistics)


def test_every_name_is_there() -> None:
    assert all(getattr(lnbench, name) is not None for name in [*lnbench.__all__, *lnbench._PACKAGES])
    assert {*lnbench.__all__, *lnbench._PACKAGES} <= set(dir(lnbench))
