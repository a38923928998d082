"""Names of models: no result holds the folder of somebody's machine, and two models never share a name."""

from __future__ import annotations

import json
import shlex
import subprocess
from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from lnbench.leaderboard.merged_records import models_apart
from lnbench.lm.arguments import shell_line, without_home
from lnbench.model.names import name_in_file, name_of
from lnbench.neurons import NeuronSet
from lnbench.sweeps.records import Record
from tests.support.samples import normal, statistics_of

_PART = st.builds(str.__add__, st.sampled_from("aZ0"), st.text("aZ0._-", max_size=6))
_RECORD = {"cell": "0" * 16, "intervention": "none", "language": "hi", "task": "t", "command": "lm_eval"}


@settings(max_examples=20)
@given(st.lists(_PART, min_size=1, max_size=4), st.sampled_from(["/", "~/", "./", "../"]), st.sampled_from(["", "/"]))
def test_of_a_path_the_last_part_is_kept(parts: list[str], root: str, end: str) -> None:
    assert name_in_file(root + "/".join(parts) + end) == parts[-1]


@settings(max_examples=20)
@given(_PART, _PART)
def test_names_on_the_hub_are_kept(owner: str, name: str) -> None:
    assert (name_in_file(name), name_in_file(f"{owner}/{name}")) == (name, f"{owner}/{name}")
    snapshot = f"/home/me/.cache/huggingface/hub/models--{owner}--{name}/snapshots/0a1b2c3d"
    assert "--" in f"{owner}-" or name_in_file(snapshot) == f"{owner}/{name}"


def test_a_relative_folder_is_one_where_it_exists(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "models" / "mine").mkdir(parents=True)
    monkeypatch.chdir(tmp_path)
    assert (name_of("models/mine"), name_of("models/theirs")) == ("mine", "models/theirs")


def test_old_files_with_paths_are_read(tmp_path: Path) -> None:
    neurons = NeuronSet("tiny", 2, 4, {"hi": {0: [1]}})
    neurons.save(tmp_path / "set.json")
    document = json.loads((tmp_path / "set.json").read_text(encoding="utf-8"))
    (tmp_path / "old.json").write_text(json.dumps(document | {"model": "/home/me/models/tiny"}), encoding="utf-8")
    assert NeuronSet.load(tmp_path / "old.json") == neurons
    statistics = statistics_of(normal(20, 2, 4), language="hi")
    object.__setattr__(statistics, "provenance", {"model": "/home/me/models/tiny"})
    assert statistics.model == "tiny"
    record = Record.model_validate_json(json.dumps({**_RECORD, "model": "/home/me/models/tiny"}))
    assert record.model == "tiny"
    assert record.model_files != Record.model_validate({**_RECORD, "model": "/home/you/tiny"}).model_files


def _record(model: str, files: str | None, weights: str | None, finetune: str = "none") -> Record:
    return Record.model_validate(
        {**_RECORD, "model": model, "model_files": files, "weights": weights, "finetune": finetune}
    )


def test_folders_of_the_same_weights_are_one_model_and_others_two() -> None:
    of_one, moved, other = (_record("m", files, weights) for files, weights in (("aa", "w"), ("bb", "w"), ("cc", "v")))
    named = models_apart([of_one, moved])
    assert {own["model"] for own in named.values()} == {"m"}
    assert len({own["model_files"] for own in named.values()}) == 1
    named = models_apart([of_one, moved, other, _record("m", "cc", "adapted", "lora")])
    assert named["m", "aa"] == named["m", "bb"]
    assert sorted({str(own["model"]) for own in named.values()}) == ["m (aa)", "m (cc)"]
    on_the_hub = _record("m", None, "u")
    assert models_apart([on_the_hub, other])["m", None] == {"model": "m", "model_files": None}


@settings(max_examples=150)
@example([("b", "x", "u"), ("b", "x", "w"), ("b", "y", "u"), ("b", None, "w")])
@given(st.lists(st.tuples(st.sampled_from("ab"), st.sampled_from(["x", "y", None]), st.sampled_from("uvw"))))
def test_models_share_a_name_only_if_they_share_weights_or_files(models: list[tuple[str, str | None, str]]) -> None:
    records = [_record(*model) for model in models]
    named = models_apart(records)
    for first in records:
        for second in records:
            same = named[first.model, first.model_files] == named[second.model, second.model_files]
            alike = first.model == second.model and (
                first.model_files == second.model_files or first.weights == second.weights
            )
            assert same or not alike
            names = [str(named[one.model, one.model_files]["model"]) for one in (first, second)]
            assert (names[0] == names[1]) == same


@pytest.mark.parametrize("home", ["/home/me", "/root", "/home/me and you"])
def test_a_command_names_no_home_and_means_the_same_to_a_shell(home: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", home)
    words = ["printf", "%s\\n", f"pretrained={home}/m,dtype=float32", f'{{"a": "{home}/b c"}}', f"{home}2/x", "", home]
    line = shell_line(words)
    assert home not in line.replace(f"{home}2", "")
    shown = subprocess.run(["sh", "-c", line], capture_output=True, text=True, check=True).stdout
    assert shown.split("\n")[:-1] == words[2:]
    assert without_home(f"{home}/m and {home}2/m") == f"~/m and {home}2/m"


def test_without_the_home_in_it_a_command_is_quoted_as_ever() -> None:
    words = ["lm_eval", "--model_args", "a=b c", "it's"]
    assert shell_line(words) == shlex.join(words)
