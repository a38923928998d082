"""Sweeps in this process: what is measured, what is kept, what fails, and what is loaded how often."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from lm_eval.tasks import TaskManager
from peft import LoraConfig, get_peft_model
from rich.console import Console
from transformers import AutoModelForCausalLM

from lnbench.files import versions
from lnbench.finetuning.job import FinetuneJob
from lnbench.leaderboard import build, read_runs
from lnbench.lm import LNBenchLM
from lnbench.model.packaged import content_of
from lnbench.plugins.executors.local import Local
from lnbench.sweeps import run_sweep as running
from lnbench.sweeps.folder import OTHER
from lnbench.sweeps.jobs import Process
from lnbench.sweeps.records import Record, load
from tests.support.messages import lacks
from tests.support.sweeps import comparable, spec_of, sweep

pytestmark = pytest.mark.slow


def by_cell(out: Path) -> dict[tuple[str, str, str], Record]:
    return {(one.language, one.selector, one.intervention): one for one in load(out) if one.metric in ("acc", None)}


def test_records_say_what_lm_eval_says(undisturbed: Path) -> None:
    records = load(undisturbed)
    assert len(records) == 10 * 2
    assert {record.metric for record in records} == {"acc", "bits_per_byte"}
    for record in records:
        results = json.loads((undisturbed / str(record.results)).read_text())
        found = results["results"][record.task]
        assert (record.value, record.stderr) == (found[f"{record.metric},none"], found[f"{record.metric}_stderr,none"])
        rows = [json.loads(line) for line in (undisturbed / str(record.samples)).read_text().splitlines()]
        assert len(rows) == record.n == 2
        assert sum(row[record.metric] for row in rows) / 2 == pytest.approx(record.value, abs=1e-12)
        info = results["config"]["lnbench"]
        if record.intervention == "none":
            assert (record.selector, record.neuron_set, record.neurons, record.statistics) == ("-", None, None, None)
        else:
            assert record.neuron_set == info["neuron_set"]["fingerprint"]
            assert record.neurons == info["neuron_set"]["neurons"][record.language]
            assert record.statistics == info["statistics_fingerprints"][record.language]
            assert info["applied"][record.language]["tokens_overridden"] > 0
    controls = [record for record in records if record.control_of]
    assert {record.control_of for record in controls} == {"act_prob:fraction=0.15"}
    assert len(controls) == 2 * 2 * 2
    assert {path.name for path in (undisturbed / "cells").iterdir()} == {
        str(one.results).split("/")[1] for one in records
    }


def test_records_call_the_model_by_name(undisturbed: Path, tiny_model: str, shared_cache: Path) -> None:
    model, rows = Path(tiny_model), build(read_runs([undisturbed]))
    for record in [*load(undisturbed), *rows]:
        held = record.model_dump(exclude={"command"})  # which has to find the weights
        assert (record.model, record.model_files) == (model.name, content_of(tiny_model))
        assert not [value for value in held.values() if str(model.parent).strip("/").replace("/", "__") in str(value)]
        assert not [value for value in held.values() if str(model.parent) in str(value)]
    manifests = [*(shared_cache / "statistics").rglob("manifest.json"), *(shared_cache / "neurons").glob("*.json")]
    assert manifests
    assert str(model.parent) not in "".join(file.read_text(encoding="utf-8") for file in manifests)


def test_controls_are_as_many_random_neurons(undisturbed: Path) -> None:
    found = by_cell(undisturbed)
    for (language, selector, intervention), record in found.items():
        if record.control_of:
            counts = [
                json.loads((undisturbed / str(one.results)).read_text())["config"]["lnbench"]["neuron_set"]["neurons"]
                for one in (record, found[language, record.control_of, intervention])
            ]
            assert counts[0] == counts[1]
            assert record.task == found[language, "-", "none"].task
            assert record.stderr is not None and record.n == found[language, "-", "none"].n
            assert selector.startswith("random:like=")


def test_everything_is_loaded_once(given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    counts: dict[str, int] = {}

    def counted(owner: Any, name: str, label: str) -> None:
        original = getattr(owner, name)

        def wrapper(self: Any, *arguments: Any, **options: Any) -> Any:
            counts[label] = counts.get(label, 0) + 1
            return original(self, *arguments, **options)

        monkeypatch.setattr(owner, name, wrapper)

    counted(LNBenchLM, "__init__", "model")
    counted(TaskManager, "load", "task")
    counted(LNBenchLM, "_pair", "pair")
    outcome = sweep(spec_of(given), tmp_path / "out")
    assert outcome.failed == {}
    assert counts == {"model": 1, "task": 2, "pair": 2 * 2 * 2}


def test_a_changed_spec_keeps_what_applies(given: dict[str, Any], undisturbed: Path, tmp_path: Path) -> None:
    out = tmp_path / "out"
    assert sweep(spec_of(given, interventions=["none", "p10"], controls=0), out).measured == 4
    assert sweep(spec_of(given, interventions=["none", "zero"], controls=0), out).measured == 2
    assert {record.intervention for record in load(out)} == {"none", "zero"}
    assert {record.intervention for record in load(out / OTHER)} == {"p10"}
    last = sweep(spec_of(given), out)
    assert (last.cells, last.measured) == (10, 4), "the controls"
    assert comparable(out) == comparable(undisturbed)
    assert (out / OTHER).read_bytes() == b""
    assert sweep(spec_of(given), out).measured == 0


def test_a_failing_cell_is_recorded_and_tried_again(
    given: dict[str, Any], undisturbed: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = LNBenchLM.loglikelihood

    def no_hindi(self: Any, requests: Any, **options: Any) -> Any:
        if requests[0].task_name.endswith("_hi"):
            raise ValueError("no\nHindi")
        return answer(self, requests, **options)

    spec = spec_of(given)
    with monkeypatch.context() as patch:
        patch.setattr(LNBenchLM, "loglikelihood", no_hindi)
        for measured in (10, 5):
            outcome = sweep(spec, tmp_path)
            assert (outcome.cells, outcome.measured, len(outcome.failed)) == (10, measured, 5)
    failed = [record for record in load(tmp_path) if record.failed]
    assert {(record.language, record.metric, record.value, record.error) for record in failed} == {
        ("hi", None, None, "ValueError: no Hindi")
    }
    assert len(failed) == 5
    assert sweep(spec, tmp_path).failed == {}
    assert comparable(tmp_path) == comparable(undisturbed)


def write_task(folder: Path) -> None:
    """A task that says nothing of a language."""
    (folder / "task.yaml").write_text(
        "task: own_task\ncustom_dataset: !function rows.rows\noutput_type: loglikelihood\ntest_split: test\n"
        "doc_to_text: '{{question}}'\ndoc_to_target: '{{answer}}'\nmetric_list: [{metric: acc}]\n"
        "metadata: {version: 1}\n"
    )
    (folder / "rows.py").write_text(
        "import datasets\ndef rows(**_):\n    rows = [{'question': 'A river', 'answer': ' runs'}] * 2\n"
        "    return datasets.DatasetDict(test=datasets.Dataset.from_list(rows))\n"
    )


def test_a_task_of_no_language_takes_the_cells(given: dict[str, Any], tmp_path: Path) -> None:
    write_task(tmp_path)
    spec = spec_of(given, tasks=["own_task"], include_path=str(tmp_path), interventions=["none", "zero"], controls=0)
    assert sweep(spec, tmp_path / "out").failed == {}
    found = by_cell(tmp_path / "out")
    assert set(found) == {
        *((language, "-", "none") for language in ("en", "hi")),
        *((language, "act_prob:fraction=0.15", "zero") for language in ("en", "hi")),
    }
    assert found["en", "-", "none"].cell == found["hi", "-", "none"].cell
    for language in ("en", "hi"):
        path = tmp_path / "out" / str(found[language, "act_prob:fraction=0.15", "zero"].results)
        assert set(json.loads(path.read_text())["config"]["lnbench"]["applied"]) == {language}


def test_out_of_memory_is_tried_with_smaller_batches(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = LNBenchLM.loglikelihood
    tried: list[int] = []

    def small(self: Any, *arguments: Any, **options: Any) -> Any:
        tried.append(self.batch_size)
        if self.batch_size > fits:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return answer(self, *arguments, **options)

    monkeypatch.setattr(LNBenchLM, "loglikelihood", small)
    fits = 1
    spec = spec_of(given, interventions=["none"], languages=["en"])
    assert sweep(spec, tmp_path / "fits").failed == {}
    assert tried == [4, 2, 1]
    record = load(tmp_path / "fits")[0]
    assert record.batch_size == 1
    assert record.command.endswith("--batch_size 1")
    fits, tried[:] = 0, []
    outcome = sweep(spec, tmp_path / "never")
    assert tried == [4, 2, 1]
    assert [record.error for record in load(tmp_path / "never")] == ["OutOfMemoryError: CUDA out of memory"]
    assert len(outcome.failed) == 1


def test_half_of_the_size_that_was_found_is_tried_and_remembered(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    answer = LNBenchLM._loglikelihood_tokens
    tried: list[Any] = []

    def small(self: Any, *arguments: Any, **options: Any) -> Any:
        tried.append(self.batch_size)
        if self.batch_size == "auto":
            self._detect_batch_size(arguments[0], 0)
            raise torch.OutOfMemoryError("CUDA out of memory")
        return answer(self, *arguments, **options)

    monkeypatch.setattr(LNBenchLM, "_detect_batch_size", lambda *_: 6)
    monkeypatch.setattr(LNBenchLM, "_loglikelihood_tokens", small)
    assert sweep(spec_of(given, interventions=["none"], batch_size="auto"), tmp_path).failed == {}
    assert tried == ["auto", 3, 3]


def test_a_model_that_cannot_be_loaded_is_tried_once(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    loads: list[Any] = []
    load_model = LNBenchLM.__init__

    def counted(self: Any, *arguments: Any, **options: Any) -> None:
        loads.append(options["pretrained"])
        load_model(self, *arguments, **options)

    monkeypatch.setattr(LNBenchLM, "__init__", counted)
    broken = tmp_path / "broken"
    broken.mkdir()
    (broken / "config.json").write_text("{")
    spec = spec_of(given, models=[str(broken), given["pretrained"]], interventions=["none"])
    outcome = sweep(spec, tmp_path)
    assert loads == [str(broken), given["pretrained"]]
    assert len(outcome.failed) == 2
    assert {record.model: record.failed for record in load(tmp_path)} == {
        "broken": True,
        Path(given["pretrained"]).name: False,
    }


def save_adapter(pretrained: str, folder: Path) -> Path:
    """A LoRA adapter that changes what the model says."""
    torch.manual_seed(0)
    model = get_peft_model(
        AutoModelForCausalLM.from_pretrained(pretrained),
        LoraConfig(r=2, target_modules=["q_proj"], init_lora_weights=False),
    )
    model.save_pretrained(folder)
    return folder


def test_adapters_and_fine_tunings_become_cells(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given_adapter = save_adapter(given["pretrained"], tmp_path / "adapter")
    trained: list[Path] = []

    def train(job: FinetuneJob, **_: Any) -> Path:
        trained.append(job.out)
        return save_adapter(job.model, job.out)

    monkeypatch.setattr(FinetuneJob, "run", train)
    spec = spec_of(
        given,
        languages=["hi"],
        interventions=["none", "zero"],
        controls=0,
        adapters={"given": str(given_adapter)},
        finetune={"trained": {"finetuner": "lora", "data": "xnli"}},
    )
    out = tmp_path / "out"
    assert sweep(spec, out).failed == {}
    found = {(one.finetune, one.intervention): one for one in load(out) if one.metric == "bits_per_byte"}
    assert set(found) == {(name, one) for name in ("none", "given", "trained") for one in ("none", "zero")}
    assert {Path(str(found["trained", one].adapter)) for one in ("none", "zero")} == set(trained)
    assert trained[0].parent == out / "finetune"
    assert f"peft={given_adapter}" in found["given", "zero"].command
    assert found["given", "none"].value == found["trained", "none"].value != found["none", "none"].value
    keys = {record.cell for record in load(out)}
    assert {cell.key for cell in running.planned(spec, out)} == keys


def test_a_failing_fine_tuning_fails_alone(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def train(_: FinetuneJob, **__: Any) -> Path:
        raise ValueError("no\ndata")

    monkeypatch.setattr(FinetuneJob, "run", train)
    spec = spec_of(
        given, languages=["hi"], interventions=["none"], finetune={"trained": {"finetuner": "lora", "data": "xnli"}}
    )
    outcome = sweep(spec, tmp_path)
    assert (outcome.cells, len(outcome.failed)) == (2, 1)
    assert {record.finetune: record.error for record in load(tmp_path)} == {
        "none": None,
        "trained": "fine-tuning trained failed: ValueError: no data",
    }


def test_a_language_that_is_added_needs_no_new_baseline(given: dict[str, Any], tmp_path: Path) -> None:
    options = {"tasks": ["lnbench_demo_nli_en"], "interventions": ["none"]}
    assert sweep(spec_of(given, **options, languages=["hi"]), tmp_path).measured == 1
    for languages in (["en", "hi"], ["en"], ["vi", "en", "hi"]):
        assert sweep(spec_of(given, **options, languages=languages), tmp_path).measured == 0
        records = load(tmp_path)
        assert [record.language for record in records if record.metric == "acc"] == languages
        assert {record.lines for record in records} == {len(records)}


def test_a_task_without_a_metric_fails(given: dict[str, Any], tmp_path: Path) -> None:
    write_task(tmp_path)
    file = tmp_path / "task.yaml"
    file.write_text(file.read_text().replace("{metric: acc}", "{metric: bypass}"))
    spec = spec_of(given, tasks=["own_task"], include_path=str(tmp_path), interventions=["none"], languages=["hi"])
    (told,) = sweep(spec, tmp_path / "out").failed.values()
    assert "own_task" in told


def test_prompts_are_made_for_each_way_of_loading(given: dict[str, Any], tmp_path: Path) -> None:
    worker = Process().worker(tmp_path)
    plain = {"pretrained": given["pretrained"]}
    specs = [spec_of(given, models=[plain | options]) for options in ({}, {}, {"add_bos_token": True})]
    cells = [running.planned(spec, tmp_path)[0] for spec in specs]
    first, same, other = (worker._manager(cell) for cell in cells)
    assert first is same is not other
    assert other.metadata == plain | {"add_bos_token": True}


def test_the_progress_tells_cells_time_and_last_result(
    given: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    spec = spec_of(given, interventions=["none"])
    with monkeypatch.context() as patch:
        patch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
        running.run(spec, tmp_path, Local(), Console(stderr=True, width=200))
    told = capsys.readouterr().err
    assert not lacks(told, "2 cells", "0")
    assert "2 of 2" in told
    assert "hi - none: acc" in told
    running.run(spec, tmp_path / "plain", Local(), Console(stderr=True, width=200))
    assert " of 2" not in capsys.readouterr().err, "no bar where there is no terminal"


def test_versions_are_those_installed() -> None:
    assert versions()["torch_version"].partition("+")[0] == str(torch.__version__).partition("+")[0]
