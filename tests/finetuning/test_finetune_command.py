"""``lnbench finetune``: it trains, says how to use what it made, and looks into it."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

from lnbench.cli import app
from lnbench.errors import LnbenchError
from lnbench.files import read_json, write_json
from lnbench.finetuning.job import FinetuneJob
from tests.support.messages import lacks

pytestmark = pytest.mark.slow


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return re.sub(r"\s+", " ", result.output)


def test_the_command_line(job_fields: dict[str, Any], tiny_corpus: str) -> None:
    out = str(job_fields["out"])
    words = ["--model", job_fields["model"], "--neurons", str(job_fields["neurons"]), "--languages", "en+hi"]
    for name, value in (job_fields["settings"] | {"answer": "head"}).items():
        words += ["--set", f"{name}={value}"]
    printed = run("finetune", "masked_lora:rank=2", *words, "--preset", "xnli-paper", "--out", out)
    assert not lacks(
        printed, "parameters", "51", f"--model_args pretrained={job_fields['model']},peft={out},head={out}"
    )
    found = read_json(job_fields["out"] / "training.json")["request"]
    assert found["finetuner"]["parameters"]["rank"] == 2
    assert found["settings"]["max_steps"] == 4
    inspected = run("finetune", "inspect", out, "--top", "3")
    assert "--selector" in inspected
    compared = run("finetune", "inspect", out, "--selector", "act_prob:fraction=0.2", "--corpus", tiny_corpus)
    assert not lacks(compared, "before", "after") and "--selector" not in compared


def test_inspecting_selects_as_the_neurons_were(job_fields: dict[str, Any], tiny_corpus: str) -> None:
    fields = job_fields | {"neurons": None, "selector": "act_prob:fraction=0.1", "corpus": tiny_corpus}
    out = str(FinetuneJob(**fields).run())
    inspected = run("finetune", "inspect", out, "--corpus", tiny_corpus)
    assert re.search(r" en 7 \d+ \d+ [\d.]+ 7 7 ", inspected)


def test_a_strangers_record_names_the_weights_and_nothing_else(
    job_fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    out = FinetuneJob(**job_fields).run()
    found = read_json(out / "training.json")
    found["request"]["model_args"] = {
        "dtype": "float32",
        "bnb_4bit_quant_type": "nf4",
        "trust_remote_code": True,
        "device_map": "auto",
    }
    write_json(out / "training.json", found)
    given: dict[str, Any] = {}

    def load(_self: Any, pretrained: str, **arguments: Any) -> None:
        given.update(arguments, pretrained=pretrained)
        raise LnbenchError("enough")

    monkeypatch.setattr("lnbench.lm.LNBenchLM.__init__", load)
    assert CliRunner().invoke(app, ["finetune", "inspect", str(out)]).exit_code
    read = {"dtype": "float32", "bnb_4bit_quant_type": "nf4"}
    assert given == read | {"pretrained": job_fields["model"], "peft": str(out)}
    del found["request"]["model_args"]
    write_json(out / "training.json", found)
    given.clear()
    own = ["--model-args", "trust_remote_code=False"]
    assert CliRunner().invoke(app, ["finetune", "inspect", str(out), *own]).exit_code
    assert given == {"pretrained": job_fields["model"], "peft": str(out), "trust_remote_code": False}


def test_the_command_line_says_what_is_wrong(job_fields: dict[str, Any], tmp_path: Path) -> None:
    def fail(*arguments: str) -> str:
        result = CliRunner().invoke(app, ["finetune", *arguments])
        return str(result.exception)

    assert not lacks(fail("full", "--out", str(tmp_path / "x")), "full", "lora, masked_lora")
    assert not lacks(fail("lora", "--out", str(tmp_path / "x"), "--set", "lr"), "--set", "KEY=VALUE", "'lr'")
    (tmp_path / "empty").mkdir()
    assert not lacks(fail("inspect", str(tmp_path / "empty")), tmp_path / "empty", "--model")


@pytest.mark.parametrize("name", ["FINETUNER", "masked_lora", "inspect"])
def test_help_with_an_example(name: str) -> None:
    assert f"lnbench finetune {name} [OPTIONS]" in run("finetune", name, "--help")
    assert "Example:" in run("finetune", name, "--help")
