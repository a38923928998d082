"""The YAML of a sweep: what it may say, and what it is told otherwise."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
import yaml

from lnbench.finetuning.job import FinetuneJob
from lnbench.lm.experiment import Experiment
from lnbench.sweeps.spec import Sweep, field_for, load, parse, schema
from tests.support import docs_pages as docs
from tests.support.messages import refused

LEAST: dict[str, Any] = {"languages": ["hi"], "tasks": ["xnli_{lang}"]}


def test_the_least_a_spec_says() -> None:
    spec = parse(LEAST)
    assert [model.pretrained for model in spec.models] == ["gemma-3-270m"]
    assert spec.controls == 3
    assert "none" in spec.interventions


def test_short_and_long_forms() -> None:
    spec = parse(
        {**LEAST, "models": ["a", {"pretrained": "b", "dtype": "bfloat16"}], "adapters": {"x": "f", "y": {"path": "g"}}}
    )
    assert [(model.pretrained, model.options) for model in spec.models] == [("a", {}), ("b", {"dtype": "bfloat16"})]
    assert [adapter.path for adapter in spec.adapters.values()] == ["f", "g"]


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"langages": ["en"]}, ["langages", "models, base"]),
        ({"languages": ["en", "en"]}, ["languages: en"]),
        ({"languages": []}, ["languages=[]"]),
        ({"tasks": [{"en": "t"}]}, ["tasks", "'hi'"]),
        ({"limit": 0}, ["limit=0"]),
        ({"limit": 2.5}, ["limit"]),
        ({"batch_size": "large"}, ["batch_size='large'"]),
        ({"controls": -1}, ["controls=-1"]),
        ({"selectors": []}, ["interventions", "selectors", "neurons"]),
        ({"base": False}, ["base: false", "adapters", "finetune"]),
        ({"adapters": {"none": "folder"}}, ["adapters", "'none'"]),
        ({"adapters": {"a/b": "folder"}}, ["adapters.a/b"]),
        ({"adapters": {"a": {"path": "folder", "model": "other"}}}, ["adapters.a.model", "'other'"]),
        ({"adapters": {"a": "x"}, "finetune": {"a": {}}}, ["adapters", "finetune", "'a'"]),
        ({"site": "middle"}, ["site='middle'"]),
        ({"models": [{"pretrained": "m", "batch_size": 1}]}, ["models.0", "'batch_size'"]),
        ({"models": [{"pretrained": "m", "languages": "en+hi"}]}, ["models.0", "'compare'"]),
    ],
)
def test_what_is_wrong_is_said_in_one_line(change: dict[str, Any], named: list[str]) -> None:
    with refused(*named) as error:
        parse({**LEAST, **change}, "sweep.yaml")
    message = str(error.value)
    assert message.startswith("sweep.yaml: ") and "\n" not in message


@pytest.mark.parametrize("content", ["- a\n- b\n", "a: [1", "!!python/object/apply:os.system ['true']", ""])
def test_files_that_are_no_spec(content: str, tmp_path: Path) -> None:
    (tmp_path / "sweep.yaml").write_text(content)
    with refused(tmp_path / "sweep.yaml"):
        load(tmp_path / "sweep.yaml")
    with refused(tmp_path / "absent.yaml"):
        load(tmp_path / "absent.yaml")


def test_the_published_schema_is_current() -> None:
    assert json.loads(docs.read("sweep.schema.json")) == schema()


def test_every_field_is_documented_and_has_a_description() -> None:
    for name, field in Sweep.model_fields.items():
        assert field.description
        assert docs.row("reference/sweep-file.md", name)


def test_the_examples_are_those_on_the_page_and_valid() -> None:
    files = {name: docs.DOCS / "examples" / f"{name}.yaml" for name in ("sweep", "finetune")}
    assert [yaml.safe_load(shown) for shown in docs.blocks("topics/sweeps.md", "yaml")] == [
        yaml.safe_load(file.read_text()) for file in files.values()
    ]
    assert load(files["sweep"]).interventions[0] == "none"
    finetune = load(files["finetune"]).finetune["hindi"]
    assert FinetuneJob(out=Path("out"), model="m", **finetune).training.answer == "head"


def test_every_argument_of_an_experiment_has_its_field() -> None:
    assert {field_for(name) for name in Experiment.model_fields} <= set(Sweep.model_fields)
    assert field_for("dtype") is None
