"""What ``lnbench plugins new`` writes: it is sound as it is, and works once it is installed."""

from __future__ import annotations

import os
import subprocess
import sys
import tomllib
import venv
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

import lnbench
from lnbench.cli.commands.plugins import app
from lnbench.new_plugin import write_package
from tests.support.messages import refused

ROOT = Path(lnbench.__file__).parents[1]


@pytest.mark.parametrize("kind", ["selector", "intervention"])
def test_what_is_written(kind: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    done = CliRunner().invoke(app, ["new", "My-own.units", "--kind", kind])
    assert done.exit_code == 0, done.output
    package = tmp_path / "My-own.units"
    project = tomllib.loads((package / "pyproject.toml").read_text())
    assert project["project"]["name"] == "My-own.units"
    assert project["project"]["entry-points"]["lnbench"] == {"my_own_units": "my_own_units"}
    workflow = yaml.safe_load((package / ".github/workflows/ci.yml").read_text())
    steps = workflow["jobs"]["test"]["steps"]
    assert [step["run"] for step in steps if "run" in step] == ['pip install -e ".[test]"', "pytest"]
    assert steps[1]["with"]["python-version"] == "${{ matrix.python }}"
    for file in package.rglob("*.py"):
        compile(file.read_text(), file, "exec")
    lint = [sys.executable, "-m", "ruff", "check", "--no-cache", "--select", "E,F,W,I,UP,B", str(package)]
    assert subprocess.run(lint, check=False, capture_output=True, cwd=package).returncode == 0
    assert "{{ module" not in "".join(file.read_text() for file in package.rglob("*") if file.is_file())


@pytest.mark.parametrize(
    ("name", "kind", "named"),
    [
        ("lape", "selector", ["selector", "lape"]),
        ("zero", "intervention", ["intervention", "zero"]),
        ("torch", "selector", ["module", "torch"]),
        ("my neurons", "selector", ["my neurons", "letters"]),
        ("../escape", "selector", ["../escape"]),
        ("class", "selector", ["class"]),
        ("9lives", "selector", ["9lives"]),
        ("own", "finetuner", ["finetuner", "selector", "intervention"]),
    ],
)
def test_what_cannot_be_made_is_named(name: str, kind: str, named: list[str], tmp_path: Path) -> None:
    with refused(*named):
        write_package(name, kind, tmp_path / "new")  # type: ignore[arg-type]
    assert not (tmp_path / "new").exists()


def test_nothing_is_written_over(tmp_path: Path) -> None:
    (tmp_path / "kept.txt").write_text("mine")
    with refused(tmp_path, "--out"):
        write_package("own-units", "selector", tmp_path)
    assert [file.name for file in tmp_path.iterdir()] == ["kept.txt"]


@pytest.mark.processes
def test_installed_in_an_environment_of_its_own_it_passes_its_tests_and_is_used(
    tmp_path: Path, tiny_model: str, tiny_corpus: str
) -> None:
    write_package("own-units", "selector", tmp_path / "own-units")
    write_package("own-damp", "intervention", tmp_path / "own-damp")
    venv.create(tmp_path / "venv", with_pip=False, symlinks=True)
    python = str(tmp_path / "venv/bin/python")
    (own,) = (tmp_path / "venv").glob("lib/python*/site-packages")
    (other,) = {path for path in map(Path, sys.path) if path.name == "site-packages" and (path / "torch").is_dir()}
    hook = (ROOT / "lnbench" / "lnbench_lm_eval.pth").read_text(encoding="utf-8")
    (own / "lnbench.pth").write_text(f"{ROOT}\n{other}\n{hook}")
    install = [sys.executable, "-m", "pip", "--python", python, "install", "--quiet", "--disable-pip-version-check"]
    offline = ["--no-deps", "--no-build-isolation", "--no-index"]
    for name in ("own-units", "own-damp"):
        wheels = tmp_path / "wheels" / name
        subprocess.run(
            [sys.executable, "-m", "pip", "wheel", "-q", *offline, "-w", str(wheels), str(tmp_path / name)], check=True
        )
        subprocess.run([*install, *offline, *map(str, wheels.glob("*.whl"))], check=True)
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("LNBENCH_", "PYTHON", "PYTEST"))}
    environment = kept | {"LNBENCH_CACHE": str(tmp_path / "cache")}

    def run(*words: str, folder: Path = tmp_path) -> str:
        done = subprocess.run(
            [python, *words], env=environment, cwd=folder, capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, f"{done.stdout}\n{done.stderr}"
        return done.stdout

    for name in ("own-units", "own-damp"):
        assert " passed" in run("-m", "pytest", "-q", "-p", "no:xdist", folder=tmp_path / name)
    arguments = {
        "pretrained": tiny_model,
        "selector": "own_units:fraction=0.05",
        "intervention": "own_damp:factor=3",
        "corpus": tiny_corpus.replace("{lang}", "*"),
        "corpus_tokens": "400",
        "languages": "en+hi",
    }
    options = ["--include_path", str(ROOT / "tasks"), "--tasks", "lnbench_demo_continuation_en", "--limit", "2"]
    model = ["--model", "lnbench", "--model_args", ",".join(f"{name}={value}" for name, value in arguments.items())]
    run("-m", "lm_eval", *model, *options, "--device", "cpu", "--output_path", str(tmp_path / "results"))
    (results,) = (tmp_path / "results").rglob("results_*.json")
    text = results.read_text(encoding="utf-8")
    assert '"fraction": 0.05' in text
    assert '"factor": 3.0' in text
