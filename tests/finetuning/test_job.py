"""A request for an adapter: done once, resumed, never mixed up; and the command line."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path
from typing import Any

import lm_eval
import pytest
import torch
from lm_eval.tasks import TaskManager
from peft import PeftModel
from pydantic.dataclasses import dataclass
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM, AutoTokenizer, Trainer, TrainerCallback

from lnbench.errors import LnbenchError
from lnbench.files import read_json, tasks_dir
from lnbench.finetuning.job import FinetuneJob
from lnbench.hookspecs import hookimpl
from lnbench.host import get_host
from lnbench.locks import exclusive_lock
from lnbench.neurons import NeuronSet
from lnbench.statistics.corpus_statistics import Reading, collect_corpus
from tests.support.messages import refused

pytestmark = pytest.mark.slow


def weights(folder: Path) -> dict[str, torch.Tensor]:
    return dict(load_file(folder / "adapter_model.safetensors"))


def same(one: Path, other: Path) -> bool:
    first, second = weights(one), weights(other)
    return first.keys() == second.keys() and all(torch.equal(value, second[name]) for name, value in first.items())


def test_a_finished_adapter_is_returned_at_once(job_fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    job = FinetuneJob(**job_fields)
    folder = job.run()
    assert folder == job_fields["out"]
    assert not list(folder.glob("checkpoint-*"))
    found = read_json(folder / "training.json")
    assert (found["format"], found["finished"]) == ("lnbench.training/1", True)
    assert found["request"] == job.request()
    assert found["neurons"] == NeuronSet.load(job_fields["neurons"]).fingerprint
    assert found["request"]["finetuner"]["parameters"]["languages"] == "en"
    assert found["data"]["training"] == 30
    assert found["model"]["dtype"] == "float32"
    monkeypatch.setattr("lnbench.lm.LNBenchLM.__init__", None)
    assert FinetuneJob(**job_fields).run() == folder


def test_the_adapter_is_an_ordinary_one(job_fields: dict[str, Any], tiny_model: str) -> None:
    folder = FinetuneJob(**job_fields).run()
    model = PeftModel.from_pretrained(AutoModelForCausalLM.from_pretrained(tiny_model), folder)
    assert any(torch.count_nonzero(one) for name, one in model.named_parameters() if "lora_B" in name)


def test_the_same_request_gives_the_same_adapter(job_fields: dict[str, Any], tmp_path: Path) -> None:
    first = FinetuneJob(**job_fields).run()
    torch.manual_seed(99)
    second = FinetuneJob(**job_fields | {"out": tmp_path / "second"})
    assert second.key == FinetuneJob(**job_fields).key
    assert same(first, second.run())
    other = job_fields | {"out": tmp_path / "third", "settings": job_fields["settings"] | {"seed": 5}}
    assert not same(first, FinetuneJob(**other).run())


def test_another_request_into_the_same_folder_is_refused(job_fields: dict[str, Any]) -> None:
    FinetuneJob(**job_fields).run()
    changes: list[tuple[dict[str, Any], str]] = [
        ({"languages": "en+hi"}, "finetuner.parameters.languages: en → en+hi"),
        ({"data": "squad"}, "data: xnli → squad"),
        ({"settings": job_fields["settings"] | {"lr": 0.5}}, "settings.lr: 0.01 → 0.5"),
        ({"quantize": "nf4"}, "model_args.load_in_4bit: None → True"),
    ]
    for change, message in changes:
        with refused(job_fields["out"], message):
            FinetuneJob(**job_fields | change).run()


def test_a_request_that_failed_before_training_can_be_corrected(job_fields: dict[str, Any]) -> None:
    with refused("nosuch", "xnli"):
        FinetuneJob(**job_fields | {"data": "nosuch"}).run()
    FinetuneJob(**job_fields).run()


def test_a_neuron_file_that_changed_is_another_request(job_fields: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "neurons.json"
    shutil.copy(job_fields["neurons"], file)
    job = FinetuneJob(**job_fields | {"neurons": file})
    job.run()
    assert job.run()
    mask = torch.zeros(3, 24, dtype=torch.bool)
    mask[0, 0] = True
    NeuronSet.from_masks("tiny-llama", {"en": mask}).save(file)
    with refused("neurons"):
        job.run()


def test_weights_and_data_that_changed_are_another_request(
    job_fields: dict[str, Any], training_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = Path(shutil.copytree(job_fields["model"], tmp_path / Path(job_fields["model"]).name))
    fields = job_fields | {"model": str(model)}
    FinetuneJob(**fields).run()
    other = shutil.copytree(training_folder, tmp_path / "data")
    monkeypatch.setenv("LNBENCH_DATA", str(other))
    assert FinetuneJob(**fields).run()
    with (other / "xnli" / "en.train.jsonl").open("a") as file:
        file.write("\n")
    with refused("data_files.en.train.jsonl"):
        FinetuneJob(**fields).run()
    monkeypatch.setenv("LNBENCH_DATA", str(training_folder))
    weights = load_file(model / "model.safetensors")
    save_file({name: one + 1 for name, one in weights.items()}, model / "model.safetensors", metadata={"format": "pt"})
    with refused("model_content"):
        FinetuneJob(**fields).run()


def test_two_processes_do_not_share_a_folder(job_fields: dict[str, Any]) -> None:
    with exclusive_lock(job_fields["out"]), refused(job_fields["out"], os.getpid()):
        FinetuneJob(**job_fields).run()


class Tracker(TrainerCallback):  # type: ignore[misc]
    """Writes where TensorBoard's would."""

    def on_train_end(self, args: Any, state: Any, control: Any, **_: Any) -> None:
        (Path(args.output_dir) / "runs").mkdir()


def test_what_trackers_write_is_kept(job_fields: dict[str, Any], monkeypatch: pytest.MonkeyPatch) -> None:
    train = Trainer.train
    monkeypatch.setattr(Trainer, "train", lambda self, *a, **o: (self.add_callback(Tracker()), train(self, *a, **o))[1])
    folder = FinetuneJob(**job_fields).run()
    assert (folder / "runs").is_dir()
    assert not list(folder.glob("checkpoint-*"))


def test_somebody_elses_folder_is_left_alone(job_fields: dict[str, Any]) -> None:
    out = job_fields["out"]
    out.mkdir()
    (out / "thesis.tex").write_text("…")
    with refused(out):
        FinetuneJob(**job_fields).run()
    assert [path.name for path in out.iterdir()] == ["thesis.tex"]


def test_data_that_changed_under_an_interrupted_training(
    job_fields: dict[str, Any], training_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("lnbench.finetuning.training_rows.files_of", lambda _: [])  # as of rows from the hub
    with monkeypatch.context() as patch:
        patch.setattr(Trainer, "train", interrupted)
        with refused("interrupted"):
            FinetuneJob(**job_fields).run()
    other = shutil.copytree(training_folder, tmp_path / "other")
    file = other / "xnli" / "en.train.jsonl"
    file.write_text(file.read_text().replace("yes", "no"))
    monkeypatch.setenv("LNBENCH_DATA", str(other))
    with refused("data", "fingerprint"):
        FinetuneJob(**job_fields).run()


def interrupted(*_: Any, **__: Any) -> None:
    raise LnbenchError("interrupted")


@pytest.mark.processes
def test_a_killed_process_is_taken_up_where_it_stopped(
    job_fields: dict[str, Any], tmp_path: Path, training_folder: Path
) -> None:
    settings = job_fields["settings"] | {"max_steps": 40, "save_steps": 5, "answer": "head"}
    undisturbed = FinetuneJob(**job_fields | {"settings": settings}).run()
    out = tmp_path / "killed"
    command = [sys.executable, "-m", "lnbench.cli", "finetune", job_fields["finetuner"], "--out", str(out)]
    for name in ("model", "neurons", "languages", "data"):
        command += [f"--{name}", str(job_fields[name])]
    for name, value in settings.items():
        command += ["--set", f"{name}={value}"]
    process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=os.environ)
    deadline = time.monotonic() + 240
    while not (out / "checkpoint-10" / "complete.json").exists():
        assert process.poll() is None, "it ended before it could be killed"
        assert time.monotonic() < deadline
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not read_json(out / "training.json")["finished"]
    FinetuneJob(**job_fields | {"settings": settings, "out": out}).run()
    assert same(undisturbed, out)
    heads = [load_file(folder / "head.safetensors") for folder in (undisturbed, out)]
    assert all(torch.equal(heads[0][name], heads[1][name]) for name in ("weight", "bias"))


# What can be asked for


def test_a_preset_brings_rank_and_settings_and_what_is_given_wins(job_fields: dict[str, Any]) -> None:
    fields = {**job_fields, "finetuner": "masked_lora", "preset": "xquad-paper", "settings": {"lr": 0.1}}
    request = FinetuneJob(**fields).request()
    assert {name: request["finetuner"]["parameters"][name] for name in ("rank", "alpha")} == {"rank": 64, "alpha": 128}
    assert (request["settings"]["lr"], request["settings"]["batch_size"]) == (0.1, 4)
    assert "rank=2" in FinetuneJob(**fields | {"finetuner": "masked_lora:rank=2"}).choice
    assert FinetuneJob(**fields | {"finetuner": "masked_lora:rank=2"}).choice.count("rank") == 1


def test_a_preset_brings_its_data(job_fields: dict[str, Any]) -> None:
    def data(given: str | None, preset: str | None) -> str:
        return str(FinetuneJob(**job_fields | {"data": given, "preset": preset}).request()["data"])

    assert [data(None, preset) for preset in (None, "xnli-paper", "xquad-paper")] == ["xnli", "xnli", "xquad"]
    assert data("squad", "xquad-paper") == "squad"


def test_a_selector_in_place_of_a_file(job_fields: dict[str, Any], tiny_corpus: str) -> None:
    fields = job_fields | {"neurons": None, "selector": "act_prob:fraction=0.1", "corpus": tiny_corpus}
    folder = FinetuneJob(**fields).run()
    assert NeuronSet.load(folder / "neurons.json").count("en") == 7


@pytest.mark.parametrize(
    ("change", "named"),
    [
        ({"finetuner": "full"}, ["full", "lora, masked_lora"]),
        ({"finetuner": "lora"}, ["'lora'", "languages"]),
        ({"selector": "lape"}, ["neurons", "selector"]),
        ({"model_args": {"peft": "x"}}, ["peft="]),
        ({"quantize": "int3"}, ["quantize='int3'"]),
        ({"colour": "red"}, ["colour"]),
        ({"preset": "paper"}, ["paper", "xnli-paper"]),
        ({"settings": {"lrr": 1}}, ["lrr"]),
    ],
)
def test_wrong_requests_are_refused_before_anything_is_loaded(
    job_fields: dict[str, Any], change: dict[str, Any], named: list[str]
) -> None:
    with refused(*named):
        FinetuneJob(**job_fields | change)


def test_wrong_neurons(job_fields: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with monkeypatch.context() as patch, refused("sw", "en, hi"):
        patch.setattr("lnbench.finetuning.data.prepare", None)
        FinetuneJob(**job_fields | {"languages": "sw"}).run()
    mask = torch.ones(2, 8, dtype=torch.bool)
    NeuronSet.from_masks("other", {"en": mask}).save(tmp_path / "other.json")
    with refused("other", Path(job_fields["model"]).name):
        FinetuneJob(**job_fields | {"neurons": tmp_path / "other.json", "out": tmp_path / "x"}).run()


def test_neurons_of_another_model_of_the_same_shape(job_fields: dict[str, Any], tmp_path: Path) -> None:
    file = tmp_path / "other.json"
    NeuronSet.from_masks("org/other", {"en": torch.ones(3, 24, dtype=torch.bool)}).save(file)
    fields = job_fields | {"neurons": file}
    with pytest.warns(UserWarning, match="other|renamed"), refused("org/other", "--other-model"):
        FinetuneJob(**fields).run()
    with pytest.warns(UserWarning, match="other|renamed"):
        assert FinetuneJob(**fields | {"other_model": True}).run()


@pytest.mark.parametrize("changed", [False, True])
def test_statistics_of_the_same_weights_under_another_name(
    job_fields: dict[str, Any], tiny_corpus: str, tmp_path: Path, changed: bool
) -> None:
    model = AutoModelForCausalLM.from_pretrained(job_fields["model"])
    if changed:
        model.model.norm.weight.data += 1
    for language in ("en", "hi"):
        reading = Reading(corpus=tiny_corpus, tokens=300)
        found = collect_corpus(model, AutoTokenizer.from_pretrained(job_fields["model"]), language, reading)
        found = replace(found, provenance=found.provenance | {"model": "renamed"})
        found.save(tmp_path / "stats")
    fields = job_fields | {"neurons": None, "selector": "act_prob:fraction=0.1", "statistics": tmp_path / "stats"}
    if changed:
        with refused("renamed", "--other-model"):
            FinetuneJob(**fields).run()
    else:
        assert FinetuneJob(**fields).run()


@dataclass
class Nothing:
    """A fine-tuner of somebody else's that trains nothing."""

    size: int = 1

    def train(self, model: Any, tokenizer: Any, neurons: Any, data: Any, output_dir: Path) -> Path:
        (output_dir / "mine").mkdir()
        (output_dir / "mine" / "size.txt").write_text(f"{self.size} {len(data.training)}")
        return output_dir / "mine"


class Plugin:
    @hookimpl
    def lnbench_register_finetuners(self, register: Any) -> None:
        register("nothing", Nothing)


def test_a_plugins_fine_tuner(job_fields: dict[str, Any]) -> None:
    plugin = Plugin()
    get_host().register(plugin)
    try:
        job = FinetuneJob(**job_fields | {"finetuner": "nothing:size=3", "languages": None, "preset": "xnli-paper"})
        assert (job.run() / "size.txt").read_text() == "3 30"
        assert job.run() == job_fields["out"] / "mine"
    finally:
        get_host().unregister(plugin)


# Evaluation


@pytest.mark.parametrize("pooling", ["last", "paper"])
def test_adapter_and_head_through_lm_eval(
    job_fields: dict[str, Any], tiny_model: str, tiny_corpus: str, pooling: str
) -> None:
    settings = {"answer": "head", "pooling": pooling, "max_steps": 60, "lr": 0.02, "batch_size": 8}
    folder = FinetuneJob(**job_fields | {"settings": job_fields["settings"] | settings}).run()
    accuracy = read_json(folder / "training.json")["results"]["after"]["accuracy"]
    manager = TaskManager(include_path=str(tasks_dir()), include_defaults=False)

    def evaluate(**arguments: Any) -> dict[str, Any]:
        given = {"pretrained": tiny_model, "peft": str(folder), "head": str(folder), **arguments}
        found = lm_eval.simple_evaluate(
            "lnbench",
            model_args=given,
            tasks=["lnbench_xnli_pair_en"],
            task_manager=manager,
            device="cpu",
            batch_size=4,
        )
        assert found is not None
        return dict(found)

    none = evaluate()
    assert accuracy > 0.7
    assert none["results"]["lnbench_xnli_pair_en"]["acc,none"] > 0.7
    assert (
        none["results"]["lnbench_xnli_pair_en"]["acc_stderr,none"] > 0
        or none["results"]["lnbench_xnli_pair_en"]["acc,none"] == 1
    )
    for sample in none["samples"]["lnbench_xnli_pair_en"]:
        likelihoods = torch.tensor([float(answer[0][0]) for answer in sample["resps"]])
        torch.testing.assert_close(likelihoods.exp().sum(), torch.tensor(1.0))
    zeroed = evaluate(intervention="zero", neurons=str(job_fields["neurons"]), corpus=tiny_corpus, corpus_tokens=400)
    applied = zeroed["config"]["lnbench"]["applied"]["en"]
    assert applied["neurons"] == 15
    assert applied["tokens_overridden"] > 0
    assert zeroed["samples"]["lnbench_xnli_pair_en"][0]["resps"] != none["samples"]["lnbench_xnli_pair_en"][0]["resps"]
