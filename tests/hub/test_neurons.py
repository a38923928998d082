"""NeuronSets of the hub: pushed with a card, pulled by name and revision, named in place of a file."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

import huggingface_hub.constants as constants
import pytest
import yaml
from typer.testing import CliRunner

from lnbench import hub_neurons
from lnbench.cli.commands.neurons import app
from lnbench.lm.experiment import Experiment
from lnbench.model_arguments import check_model_args
from lnbench.neurons import NeuronSet
from lnbench.neurons_card import card, push
from lnbench.sweeps.run_sweep import planned
from tests.support.hub import Fault, Hub
from tests.support.messages import lacks, refused
from tests.support.sweeps import spec_of

SELECTOR = {"name": "lape", "parameters": {"top_fraction": 0.02, "bar": 0.95}}


def neurons(index: int = 1, **options: Any) -> NeuronSet:
    found = {"hi": {0: [index, 3], 2: [2]}, "zh": {1: [0]}, "en": {}}
    return NeuronSet("google/gemma-3-270m", 3, 8, found, SELECTOR, "abc123", chat=True, **options)


def put(own: NeuronSet, repo: str, folder: Path) -> str:
    """Push a set without its card; a large file is beside it, as a card's figure is."""
    own.save(folder / "put.json")
    files = {hub_neurons.FILE: (folder / "put.json").read_bytes(), "figure.png": b"\x89PNG\0"}
    return hub_neurons.upload(repo, files, "a set")


def test_what_is_pushed_is_pulled_by_name_and_revision(hub: Hub, repo: str, tmp_path: Path) -> None:
    first = put(neurons(1), repo, tmp_path)
    second = put(neurons(5), repo, tmp_path)
    assert [commit for commit, _ in hub.commits["datasets", repo]][1:] == [first, second]
    assert NeuronSet.load(f"hub:{repo}") == NeuronSet.load(f"hub:{repo}@{second}") == neurons(5)
    pinned = NeuronSet.load(f"hub:{repo}@{first}")
    assert pinned == neurons(1) and pinned.chat is True
    asked = len(hub.asked)
    NeuronSet.load(f"hub:{repo}")
    assert len(hub.asked) == asked, "asked once per process"


def test_the_commands(hub: Hub, repo: str, tmp_path: Path) -> None:
    neurons().save(tmp_path / "own.json")
    run = CliRunner().invoke
    pushed = run(app, ["push", str(tmp_path / "own.json"), repo, "--license", "cc0-1.0", "--private"])
    assert pushed.exit_code == 0, pushed.output
    (commit,) = re.findall(rf"hub:{repo}@([0-9a-f]{{40}})", pushed.output)
    for words in ([repo], [f"{repo}@{commit}"], [repo, "--revision", commit]):
        out = tmp_path / "pulled.json"
        pulled = run(app, ["pull", *words, "--out", str(out)])
        assert pulled.exit_code == 0, pulled.output
        assert not lacks(pulled.output, "google/gemma-3-270m", "hi 3", "zh 1", commit)
        assert NeuronSet.load(out) == neurons()
        out.unlink()
    shown = run(app, ["show", f"hub:{repo}"])
    assert shown.exit_code == 0 and "lape" in shown.output


def test_the_card_says_what_is_in_it(hub: Hub, repo: str) -> None:
    push(neurons(), repo, licence="cc0-1.0")
    folder = hub.commits["datasets", repo][-1][1]
    assert (folder / "neurons_per_layer.png").read_bytes().startswith(b"\x89PNG")
    text = (folder / "README.md").read_text(encoding="utf-8")
    metadata = yaml.safe_load(text.split("---\n")[1])
    assert metadata["license"] == "cc0-1.0" and metadata["base_model"] == "google/gemma-3-270m"
    assert not lacks(text, "google/gemma-3-270m", "lape:top_fraction=0.02", "abc123", "3 layers × 8", "chat format")
    assert not lacks(text, "neurons_per_layer.png", f"neurons=hub:{repo}", f"lnbench neurons pull {repo}")
    rows = [[cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("|")]
    assert ["2", "·", "1", "·"] in rows and ["all", "0", "3", "1"] in rows


def test_a_card_holds_what_is_not_known_and_cannot_be_broken() -> None:
    odd = NeuronSet("/home/me/a | b\n---\n<script>`x`", 1, 2, {"hi": {0: [1]}}, site="residual")
    text = card(odd, "a/b")
    metadata = yaml.safe_load(text.split("\n---\n")[0].removeprefix("---\n"))
    assert "base_model" not in metadata and metadata["license"] == "cc-by-4.0"
    assert "not record" in text and "<script>" not in text.split("\n---\n", 1)[1]
    assert len([line for line in text.splitlines() if line.startswith("| model")]) == 1


def test_a_name_of_the_hub_is_a_model_argument_and_a_sweeps_neurons(
    hub: Hub, repo: str, tmp_path: Path, given: dict[str, Any]
) -> None:
    named, of_content = f"hub:{repo}", []
    for index in (1, 5, 5):
        put(NeuronSet("m", 3, 24, {"en": {0: [index]}, "hi": {0: [2]}}), repo, tmp_path)
        hub_neurons.download.cache_clear()
        of_content.append({cell.key for cell in planned(spec_of(given, selectors=[], neurons=[named]), tmp_path)})
    assert of_content[0] != of_content[1] == of_content[2], "cells follow what the repository holds"
    check_model_args({"neurons": named, "intervention": "zero"})
    Experiment(neurons=named, intervention="zero").check_files()
    with refused("no such", "neurons.json"):
        check_model_args({"neurons": "neurons.json", "intervention": "zero"})


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault("somebody/", 401, 99, "GatedRepo"), "hf auth login"),
        (Fault("somebody/", 403, 99, "GatedRepo"), "hf auth login"),
        (Fault("somebody/", 401, 99), "hf auth login"),
        (Fault("somebody/", 429, 99), "429"),
        (Fault("somebody/", 500, 99), "again"),
        (None, "check the name"),
    ],
    ids=["gated", "gated, 403", "401", "429", "500", "unknown"],
)
def test_what_cannot_be_pulled_is_named_in_a_line(fault: Fault | None, said: str, hub: Hub, repo: str) -> None:
    if fault is not None:
        hub.faults.append(fault)
    with refused(repo, said) as caught:
        NeuronSet.load(f"hub:{repo}")
    assert "\n" not in str(caught.value)


def test_a_revision_or_a_file_that_is_not_there(hub: Hub, repo: str, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    (tmp_path / "other" / "README.md").write_text("no neurons")
    hub.commit("datasets", repo, tmp_path / "other")
    with refused(repo, "neurons.json", "no such file"):
        NeuronSet.load(f"hub:{repo}")
    with refused(repo, "0" * 40, "no such revision"):
        NeuronSet.load(f"hub:{repo}@{'0' * 40}")


def test_without_a_network(hub: Hub, repo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commit = put(neurons(), repo, tmp_path)
    NeuronSet.load(f"hub:{repo}@{commit}")
    hub_neurons.download.cache_clear()
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert NeuronSet.load(f"hub:{repo}@{commit}") == neurons()
    with refused(f"{repo}-other", "cache"):
        NeuronSet.load(f"hub:{repo}-other")


@pytest.mark.parametrize(
    ("fault", "said"),
    [
        (Fault("/api/repos/create", 401, 99), "hf auth login"),
        (Fault("/api/repos/create", 403, 99), "write access"),
        (Fault("/commit/", 403, 99), "write access"),
        (Fault("/preupload/", 429, 99), "429"),
        (Fault("/api/repos/create", 429, 99), "429"),
    ],
)
def test_what_cannot_be_pushed_is_named_in_a_line(fault: Fault, said: str, hub: Hub, repo: str, tmp_path: Path) -> None:
    hub.faults.append(fault)
    with refused("push", repo, said) as caught:
        put(neurons(), repo, tmp_path)
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("where", ["/api/repos/create", "/preupload/", "/commit/", "/lfs/", "objects/batch"])
def test_a_passing_fault_is_tried_again(where: str, hub: Hub, repo: str, tmp_path: Path) -> None:
    fault = Fault(where, 503)
    hub.faults.append(fault)
    put(neurons(), repo, tmp_path)
    assert fault.times == 0
    assert NeuronSet.load(f"hub:{repo}") == neurons()


def test_who_may_write(hub: Hub, repo: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    hub.tokens = {"hf_right"}
    monkeypatch.delenv("HF_TOKEN", raising=False)
    with refused(repo, "HF_TOKEN"):
        put(neurons(), repo, tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_wrong")
    with refused(repo, "write access"):
        put(neurons(), repo, tmp_path)
    monkeypatch.setenv("HF_TOKEN", "hf_right")
    assert put(neurons(), repo, tmp_path)


@pytest.mark.parametrize(
    ("name", "options", "named"),
    [
        ("neurons", {}, ["neurons", "owner/name"]),
        ("a/b/c", {}, ["a/b/c", "owner/name"]),
        ("a/b@main", {}, ["a/b", "@main"]),
        ("a/b", {"licence": "CC BY\n4"}, ["licence", "cc-by-4.0"]),
    ],
)
def test_bad_names_are_refused_before_anything_is_sent(
    name: str, options: dict[str, Any], named: list[str], hub: Hub
) -> None:
    with refused(*named):
        push(neurons(), name, **options)
    assert not hub.asked
    with refused("a/b", "v1", "v2"):
        hub_neurons.repository("a/b@v1", "v2")
