"""The command line: every command on tiny input, help with an example, and errors of one line."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path

import pytest
import torch
from typer.testing import CliRunner

from lnbench.cli import app, main
from lnbench.files import read_json
from lnbench.lm.command_line import complete
from lnbench.neurons import NeuronSet
from lnbench.paths import tasks_dir

COMMANDS = [
    *(["demo"], ["stats"], ["stats", "show"], ["select"], ["tasks"], ["plugins"], ["doctor"]),
    *(["neurons", command] for command in ("show", "overlap", "import", "export")),
]


def run(*arguments: str) -> str:
    result = CliRunner().invoke(app, list(arguments), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


@pytest.mark.parametrize("command", COMMANDS, ids=" ".join)
def test_every_command_has_help_with_an_example(command: list[str]) -> None:
    assert "Example:" in run(*command, "--help")


def test_help_imports_nothing_heavy() -> None:
    code = (
        "import sys; from lnbench.cli import app\n"
        "try: app(['--help'])\n"
        "except SystemExit: pass\n"
        "heavy = {'torch', 'transformers', 'lm_eval', 'datasets', 'numpy', 'pydantic'} & set(sys.modules)\n"
        "sys.exit(', '.join(heavy) or 0)"
    )
    found = subprocess.run([sys.executable, "-c", code], check=False, capture_output=True, text=True)
    assert found.returncode == 0, found.stderr


@pytest.fixture(scope="module")
def work(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("work")


def test_from_statistics_to_exported_neurons(work: Path, tiny_model: str, tiny_corpus: str) -> None:
    stats, neurons = str(work / "stats"), str(work / "neurons.json")
    collected = run(
        *("stats", "--model", tiny_model, "--corpus", tiny_corpus, "--languages", "hi+zh+en"),
        *("--tokens", "300", "--length", "64", "--out", stats),
    )
    assert "hi: 300 tokens" in collected
    shown = run("stats", "show", stats)
    assert all(word in shown for word in ("hi", "zh", "pre", "post", "P95"))
    run("select", "lape:top_fraction=0.3", "--statistics", stats, "--out", neurons)
    found = NeuronSet.load(neurons)
    assert found.selector == {"name": "lape", "parameters": {"top_fraction": 0.3, "bar": 0.95}}
    assert "layer" in run("neurons", "show", neurons)
    assert "hi" in run("neurons", "overlap", neurons)
    other = str(work / "random.json")
    run("select", f"random:like={neurons}:seed=3", "--statistics", stats, "--out", other)
    assert "Jaccard" in run("neurons", "overlap", neurons, other)
    exported = work / "neurons.pth"
    run("neurons", "export", neurons, str(exported))
    back = str(work / "back.json")
    run(
        *("neurons", "import", str(exported), "--languages", "+".join(found.languages)),
        *("--model", found.model, "--width", str(found.width), "--out", back),
    )
    returned = NeuronSet.load(back)
    for language in found.languages:
        assert torch.equal(found.mask(language), returned.mask(language))


def test_demo_on_a_tiny_model(work: Path, tiny_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("lnbench.demo.run.SELECTORS", ("lape:top_fraction=0.4", "act_prob:fraction=0.1"))
    out = work / "demo"
    run("demo", "--model", tiny_model, "--out", str(out), "--limit", "3", "--tokens", "1200", "--languages", "hi+zh")
    leaderboard = read_json(out / "leaderboard.json")
    assert leaderboard["format"] == "lnbench.leaderboard/1"
    rows = leaderboard["rows"]
    cells = {(row["selector"], row["intervention"], row["language"]) for row in rows}
    selectors = {selector for selector, _, _ in cells}
    assert selectors == {"-", "lape", "act_prob", "random-like-lape", "random-like-act_prob"}
    assert {intervention for _, intervention, _ in cells} == {"none", "mean", "p90", "zero", "p10"}
    wanted = {"model", "selector", "finetune", "intervention", "language", "task", "metric", "value", "stderr", "n"}
    wanted |= {"baseline", "delta", "ci_low", "ci_high", "p_value", "command"}
    assert wanted <= set(rows[0])
    assert all((row["delta"] is None) == (row["intervention"] == "none") for row in rows)
    assert len(list((out / "cells").rglob("results_*.json"))) == len(cells)
    assert len(list((out / "cells").rglob("samples_*.jsonl"))) == len(cells)


def test_tasks_prints_a_folder() -> None:
    assert Path(run("tasks").strip()) == tasks_dir()


def test_plugins_lists_parameters_and_origin() -> None:
    printed = run("plugins")
    assert all(word in printed for word in ("lape", "act_prob", "p1 … p99", "top_fraction", "0.01", "lnbench", "llama"))


def test_doctor_names_versions() -> None:
    printed = CliRunner().invoke(app, ["doctor"]).output
    assert all(word in printed for word in ("torch", "lm_eval", "tasks and groups"))


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["select", "lapse", "--statistics", "{stats}", "--out", "x.json"], "unknown selector 'lapse'"),
        (["select", "lape", "--statistics", "/nowhere", "--out", "x.json"], "no such Statistics folder"),
        (["stats"], "--out"),
        (["stats", "--corpus", "/nowhere/{lang}.jsonl", "--out", "x"], "/nowhere"),
        (["neurons", "show", "/nowhere.json"], "/nowhere.json"),
        (["demo", "--languages", "xx"], "xx"),
    ],
)
def test_errors_are_one_line_and_exit_code_two(
    arguments: list[str],
    message: str,
    work: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.setattr(sys, "argv", ["lnbench", *(part.replace("{stats}", str(work / "stats")) for part in arguments)])
    with pytest.raises(SystemExit) as exit_:
        main()
    assert exit_.value.code == 2
    printed = capsys.readouterr().err.strip()
    assert message in printed
    assert len(printed.splitlines()) == 1


def test_eval_adds_what_is_missing_and_nothing_else() -> None:
    tasks = str(tasks_dir())
    assert complete(["--tasks", "a"]) == ["run", "--model", "lnbench", "--include_path", tasks, "--tasks", "a"]
    assert complete(["run", "--model", "hf", "--include_path=x"]) == ["run", "--model", "hf", "--include_path=x"]
    assert "corpus=d/*.txt" in complete(["--model_args", "corpus=d/{lang}.txt"])
    assert complete(["--model_args", '{"corpus": "{lang}"}'])[-1] == '{"corpus": "{lang}"}'
    assert complete(["--help"]) == ["run", "--help"]
