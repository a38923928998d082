"""Models and adapters of the hub."""

from __future__ import annotations

from pathlib import Path

import huggingface_hub.constants as constants
import pytest
import torch
from peft import LoraConfig, get_peft_model

from lnbench.lm import LNBenchLM
from tests.support.hub import Fault, Hub
from tests.support.messages import refused
from tests.support.tiny import build, save_tiny


def weights(lm: LNBenchLM) -> torch.Tensor:
    return lm.model.get_input_embeddings().weight.detach()


def test_a_model_by_name_and_revision(hub: Hub, repo: str, tmp_path: Path) -> None:
    first = hub.commit("models", repo, Path(save_tiny(tmp_path / "first")))
    second = hub.commit("models", repo, Path(save_tiny(tmp_path / "second", seed=1)))
    newest, pinned = LNBenchLM(repo, device="cpu"), LNBenchLM(repo, device="cpu", revision=first)
    assert not torch.equal(weights(newest), weights(pinned))
    assert (newest.described["revision"], pinned.described["revision"]) == (second, first)
    assert newest.described["model"] == repo


def test_a_filled_cache_needs_no_network(hub: Hub, repo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.commit("models", repo, Path(save_tiny(tmp_path / "model")))
    online = weights(LNBenchLM(repo, device="cpu"))
    asked = len(hub.asked)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert torch.equal(weights(LNBenchLM(repo, device="cpu")), online)
    assert len(hub.asked) == asked


@pytest.mark.parametrize(
    "fault",
    [Fault("safetensors", 429, 2), Fault("safetensors", 503), Fault(r"resolve/.*safetensors", 0)],
    ids=["429", "503", "a download cut off"],
)
def test_a_passing_fault_loses_nothing(fault: Fault, hub: Hub, repo: str, tmp_path: Path) -> None:
    hub.commit("models", repo, Path(save_tiny(tmp_path / "model")))
    hub.faults.append(fault)
    assert weights(LNBenchLM(repo, device="cpu")).shape[0] > 0
    assert fault.times == 0


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault("somebody/", 401, 99, "GatedRepo"), "hf auth login"),
        (Fault("somebody/", 403, 99, "GatedRepo"), "hf auth login"),
        (None, "check the name"),
    ],
    ids=["401", "403", "unknown"],
)
def test_what_cannot_be_had_is_named(fault: Fault | None, said: str, hub: Hub, repo: str) -> None:
    if fault is not None:
        hub.faults.append(fault)
    with refused(repo, said):
        LNBenchLM(repo, device="cpu")


def test_a_revision_that_is_not_there(hub: Hub, repo: str, tmp_path: Path) -> None:
    hub.commit("models", repo, Path(save_tiny(tmp_path / "model")))
    with refused(repo, "no such revision"):
        LNBenchLM(repo, device="cpu", revision="0" * 40)


def test_without_a_network_and_without_a_copy(hub: Hub, repo: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    with refused(repo, "not in the cache"):
        LNBenchLM(repo, device="cpu")


def test_an_adapter_by_name_and_revision(hub: Hub, repo: str, tmp_path: Path) -> None:
    hub.commit("models", repo, Path(save_tiny(tmp_path / "model")))
    adapter, commits = f"{repo}-adapter", []
    for seed in range(2):
        model = build("llama")
        torch.manual_seed(seed)
        adapted = get_peft_model(model, LoraConfig(target_modules=["q_proj"], init_lora_weights=False))
        adapted.save_pretrained(tmp_path / f"adapter{seed}")
        commits.append(hub.commit("models", adapter, tmp_path / f"adapter{seed}"))

    def update(lm: LNBenchLM) -> torch.Tensor:
        return next(value for name, value in lm.model.named_parameters() if "lora_B" in name).detach()

    newest = update(LNBenchLM(repo, device="cpu", peft=adapter))
    older = update(LNBenchLM(repo, device="cpu", peft=f"{adapter}@{commits[0]}"))
    assert not torch.equal(newest, older)
    assert torch.equal(newest, update(LNBenchLM(repo, device="cpu", peft=f"{adapter}@{commits[1]}")))
