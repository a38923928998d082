"""The model through lm-eval itself: simple_evaluate, its cache, and its command line."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import lm_eval
import pytest
from lm_eval.tasks import TaskManager

from lnbench.files import tasks_dir
from lnbench.lm import LNBenchLM, command_line

pytestmark = pytest.mark.slow

MODEL_ARGS = "corpus_tokens=400,selector=act_prob:fraction=0.15"
TASKS = ["lnbench_demo_continuation_hi", "lnbench_demo_nli_zh", "lnbench_demo_qa_en"]


@pytest.fixture(scope="module")
def manager() -> TaskManager:
    return TaskManager(include_path=str(tasks_dir()))


def evaluate(
    manager: TaskManager, model: str, arguments: str, tasks: list[str] = TASKS, **options: Any
) -> dict[str, Any]:
    defaults = {"limit": 3, "bootstrap_iters": 0, "batch_size": 4, "device": "cpu"}
    found = lm_eval.simple_evaluate(
        model, model_args=arguments, tasks=tasks, task_manager=manager, **(defaults | options)
    )
    assert found is not None
    return dict(found)


def responses(results: dict[str, Any]) -> dict[str, Any]:
    return {task: [sample["resps"] for sample in samples] for task, samples in results["samples"].items()}


@pytest.fixture
def arguments(tiny_model: str, tiny_corpus: str) -> str:
    return f"pretrained={tiny_model},corpus={tiny_corpus},{MODEL_ARGS}"


def test_without_intervention_results_are_those_of_hf(manager: TaskManager, tiny_model: str) -> None:
    ours = evaluate(manager, "lnbench", f"pretrained={tiny_model}")
    theirs = evaluate(manager, "hf", f"pretrained={tiny_model}")
    assert responses(ours) == responses(theirs)
    assert ours["results"] == theirs["results"]


def test_one_invocation_overrides_each_task_with_its_own_language(manager: TaskManager, arguments: str) -> None:
    together = evaluate(manager, "lnbench", f"{arguments},intervention=zero")
    assert set(together["config"]["lnbench"]["applied"]) == {"hi", "zh", "en"}
    for task in TASKS:
        alone = evaluate(manager, "lnbench", f"{arguments},intervention=zero,language={task[-2:]}", [task])
        assert responses(alone)[task] == responses(together)[task]


def write_task(folder: Path) -> None:
    """A task whose language stands in its metadata alone."""
    folder.mkdir(exist_ok=True)
    (folder / "task.yaml").write_text(
        "task: no_language_in_this_name\n"
        "custom_dataset: !function rows.rows\n"
        "output_type: loglikelihood\n"
        "test_split: test\n"
        "doc_to_text: '{{question}}'\n"
        "doc_to_target: '{{answer}}'\n"
        "metric_list: [{metric: perplexity}]\n"
        "metadata: {version: 1, language: zh}\n"
    )
    (folder / "rows.py").write_text(
        "import datasets\n"
        "def rows(**_):\n"
        "    rows = [{'question': 'A river', 'answer': ' runs'}]\n"
        "    return datasets.DatasetDict(test=datasets.Dataset.from_list(rows))\n"
    )


def test_the_language_in_a_tasks_metadata_counts(arguments: str, tmp_path: Path) -> None:
    write_task(tmp_path)
    found = evaluate(
        TaskManager(include_path=str(tmp_path), include_defaults=False),
        "lnbench",
        f"{arguments},intervention=zero",
        ["no_language_in_this_name"],
    )
    assert set(found["config"]["lnbench"]["applied"]) == {"zh"}


def test_cached_answers_never_serve_another_experiment(manager: TaskManager, arguments: str, tmp_path: Path) -> None:
    cache = str(tmp_path / "answers")
    configurations = {
        "none": "intervention=none",
        "zero": "intervention=zero",
        "p10": "intervention=p10",
        "other language": "intervention=zero,language=vi",
        "pre": "intervention=p10,site=pre",
        "prompt": "intervention=zero,positions=prompt",
    }
    fresh = {
        name: responses(evaluate(manager, "lnbench", f"{arguments},{one}")) for name, one in configurations.items()
    }
    for _ in range(2):
        for name, one in configurations.items():
            cached = evaluate(manager, "lnbench", f"{arguments},{one}", use_cache=cache)
            assert responses(cached) == fresh[name], name
    applied = cached["config"]["lnbench"]["applied"]
    assert all(one["tokens_overridden"] == 0 and one["answers_from_cache"] > 0 for one in applied.values())


def test_cached_answers_spare_the_model(manager: TaskManager, arguments: str, tmp_path: Path, monkeypatch: Any) -> None:
    cache = str(tmp_path / "answers")
    first = evaluate(manager, "lnbench", f"{arguments},intervention=zero", use_cache=cache)
    monkeypatch.setattr(LNBenchLM, "_overriding", None)
    second = evaluate(manager, "lnbench", f"{arguments},intervention=zero", use_cache=cache)
    assert responses(first) == responses(second)


def test_a_cache_that_hf_filled_is_left_to_hf(
    manager: TaskManager, arguments: str, tiny_model: str, tmp_path: Path
) -> None:
    cache = str(tmp_path / "answers")
    hf = responses(evaluate(manager, "hf", f"pretrained={tiny_model}", use_cache=cache))
    zeroed = responses(evaluate(manager, "lnbench", f"{arguments},intervention=zero", use_cache=cache))
    assert zeroed != hf
    assert responses(evaluate(manager, "hf", f"pretrained={tiny_model}", use_cache=cache)) == hf


@pytest.fixture
def environment(own_cache: Path) -> dict[str, str]:
    return os.environ | {"LNBENCH_CACHE": str(own_cache), "HF_HUB_OFFLINE": "1", "PYTHONWARNINGS": "ignore"}


def _knows_lnbench() -> bool:
    code = (
        "import lm_eval.models\n"
        "from lm_eval.api.registry import model_registry\n"
        "raise SystemExit('lnbench' not in model_registry)"
    )
    return subprocess.run([sys.executable, "-c", code], check=False, cwd="/").returncode == 0


installed = pytest.mark.skipif(not _knows_lnbench(), reason="lnbench is on the path but not installed by pip")
BIN = Path(sys.executable).parent


def run(words: list[str], environment: dict[str, str], folder: Path) -> str:
    """What a command prints to stdout."""
    done = subprocess.run(words, check=False, capture_output=True, text=True, env=environment, cwd=folder, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


@pytest.mark.processes
@installed
@pytest.mark.parametrize(
    "program",
    [
        [str(BIN / "lm_eval")],
        [str(BIN / "lm-eval")],
        [sys.executable, "-m", "lm_eval"],
        [str(BIN / "accelerate"), "launch", "--num_processes", "1", "--cpu", "-m", "lm_eval"],
        [str(BIN / "lnbench"), "eval"],
    ],
    ids=["lm_eval", "lm-eval", "python -m lm_eval", "accelerate launch", "lnbench eval"],
)
def test_the_command_works_as_typed(
    program: list[str], arguments: str, environment: dict[str, str], tmp_path: Path
) -> None:
    ours = program[-1] == "eval"
    tasks = run([str(BIN / "lnbench"), "tasks"], environment, tmp_path).strip()
    model = [] if ours else ["--model", "lnbench", "--include_path", tasks]
    words = f"{arguments},intervention=p10"
    words = words if ours else words.replace("{lang}", "*")
    command = [*program, *model, "--model_args", words, "--tasks", "lnbench_demo", "--limit", "1"]
    command += ["--batch_size", "4", "--output_path", str(tmp_path), "--log_samples"]
    printed = run(command, environment, tmp_path)
    assert "lnbench_demo_continuation_hi" in printed
    results = json.loads(next(tmp_path.rglob("results_*.json")).read_text())
    applied = results["config"]["lnbench"]["applied"]
    assert set(applied) == {"en", "hi", "ur", "vi", "zh"}
    assert all(one["tokens_overridden"] > 0 for one in applied.values())


@pytest.mark.processes
@installed
def test_json_model_args_take_a_pattern_with_braces(
    arguments: str, environment: dict[str, str], tmp_path: Path
) -> None:
    given = dict(part.split("=", 1) for part in f"{arguments},intervention=p10".split(","))
    command = [str(BIN / "lm_eval"), "--model", "lnbench", "--model_args", json.dumps(given)]
    command += ["--include_path", str(tasks_dir()), "--tasks", "lnbench_demo_nli_hi", "--limit", "1"]
    run([*command, "--output_path", str(tmp_path / "out")], environment, tmp_path)
    (results,) = (tmp_path / "out").rglob("results_*.json")
    config = json.loads(results.read_text(encoding="utf-8"))["config"]
    assert "{lang}" in given["corpus"]
    assert config["model_args"]["corpus"] == given["corpus"]
    assert config["lnbench"]["applied"]["hi"]["tokens_overridden"] > 0


@pytest.mark.processes
def test_the_users_tasks_stand_beside_ours(arguments: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "argv", [])
    monkeypatch.chdir(tmp_path)
    construct = TaskManager.__init__
    write_task(tmp_path / "mine")
    chosen = {"no_language_in_this_name", "lnbench_demo_nli_hi"}
    words = ["--include_path", "mine", "--tasks", ",".join(chosen), "--limit", "1", "--output_path", str(tmp_path)]
    command_line.run(["--model_args", f"{arguments},intervention=zero", "--device", "cpu", *words])
    assert set(json.loads(next(tmp_path.rglob("results_*.json")).read_text())["results"]) == chosen
    assert TaskManager.__init__ is construct
