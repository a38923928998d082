"""The examples in the documentation work."""

from __future__ import annotations

import re
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
import torch

import lnbench
from docs.generator import pages
from lnbench.choices import plan
from lnbench.host import get_host
from lnbench.model.locate import locate
from tests.support import docs_pages as docs
from tests.support.samples import normal, statistics_of

PACKAGE = Path(lnbench.__file__).parent
WRITTEN = [page for page in docs.PAGES if docs.name(page) not in pages()]
"""Pages that are not generated."""


def loaded(source: str, name: str, monkeypatch: pytest.MonkeyPatch, folder: Path) -> ModuleType:
    """A module of the documentation, imported from a file."""
    (folder / f"{name}.py").write_text(source, encoding="utf-8")
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.delitem(sys.modules, name, raising=False)
    return import_module(name)


@pytest.fixture
def stats() -> dict[str, Any]:
    return {
        language: statistics_of(normal(200, 3, 24, seed=seed), language=language)
        for seed, language in enumerate(("en", "hi"))
    }


def python(page: str | Path, containing: str) -> str:
    (found,) = [block for block in docs.blocks(page, "python") if containing in block]
    return found


def test_the_readmes_plugin(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stats: dict[str, Any], tiny_model: str
) -> None:
    from transformers import AutoModelForCausalLM

    source = python(docs.README, "lnbench_register_interventions")
    assert len([line for line in source.splitlines() if line.strip()]) <= 15
    plugin = loaded(source, "damp", monkeypatch, tmp_path)
    host = get_host()
    host.register(plugin)
    try:
        (choice,) = re.findall(r"`intervention=(damp:[^`]+)`", docs.read(docs.README))
        found = lnbench.select("act_prob:fraction=0.1", stats)
        change = plan(found["hi"], choice, stats["hi"])
        assert change.neurons == 7
        for part in change.layers.values():
            assert part.operation == "scale"
            assert torch.equal(part.values, torch.full(part.indices.shape, 0.2))
        model = AutoModelForCausalLM.from_pretrained(tiny_model)
        with lnbench.override(model, found["hi"], choice, statistics=stats["hi"]) as applied, torch.no_grad():
            model(torch.tensor([[5, 6, 7]]))
        assert (applied.neurons, applied.tokens) == (7, 3)
    finally:
        host.unregister(plugin)


def test_the_two_files_of_the_plugin_page_are_the_tested_package() -> None:
    package = Path(__file__).parents[1] / "plugin_package"
    for language, file in (("toml", "pyproject.toml"), ("python", "lnbench_example_plugin.py")):
        assert (package / file).read_text(encoding="utf-8") in docs.blocks("howto/plugins.md", language)


def test_the_plugin_pages_example_selects_and_overrides(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, stats: dict[str, Any]
) -> None:
    plugin = loaded(python("howto/plugins.md", "class MostActive"), "documented_plugin", monkeypatch, tmp_path)
    host = get_host()
    host.register(plugin)
    try:
        found = lnbench.select("most_active:fraction=0.05", stats)
        assert {language: found.count(language) for language in found} == {"en": 4, "hi": 4}
        assert plan(found["hi"], "amplify:factor=3").neurons == 4
    finally:
        host.unregister(plugin)


def test_the_plugin_pages_architecture(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, tiny_model: str) -> None:
    from transformers import AutoModelForCausalLM

    plugin = loaded(python("howto/plugins.md", "Architecture("), "documented_architecture", monkeypatch, tmp_path)
    host = get_host()
    host.register(plugin)
    try:
        model = AutoModelForCausalLM.from_pretrained(tiny_model)
        model.config.model_type = "my_model_type"
        assert (locate(model).layers, locate(model).width) == (3, 24)
    finally:
        host.unregister(plugin)


def test_the_readmes_python(
    tiny_model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr("lnbench.model.packaged.resolve", lambda name: tiny_model)
    source = python(docs.README, "collect_statistics")
    # One neuron in a hundred of so tiny a model is none for most languages.
    exec(source.replace("top_fraction=0.01", "top_fraction=1").replace("tokens=5000", "tokens=1500"), {})
    neurons, tokens, outside = capsys.readouterr().out.split()
    assert int(neurons) > 0
    assert int(tokens) > 0
    assert float(outside) == 0


@pytest.mark.parametrize("page", WRITTEN, ids=docs.name)
def test_python_names_only_what_lnbench_has(page: Path) -> None:
    for source in docs.blocks(page, "python"):
        compile(source, page.name, "exec")
        for name in re.findall(r"(?<![\w.])lnbench\.(\w+)", source):
            assert hasattr(lnbench, name) or (PACKAGE / name).exists() or (PACKAGE / f"{name}.py").exists(), name


def test_the_json_examples_load(tmp_path: Path) -> None:
    (source,) = docs.blocks("reference/files.md", "json")
    file = tmp_path / "neurons.json"
    file.write_text(source, encoding="utf-8")
    assert lnbench.NeuronSet.load(file).count("hi") == 3
