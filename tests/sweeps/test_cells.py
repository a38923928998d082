"""Spec → cells: which there are, what their commands say, and what their keys depend on."""

from __future__ import annotations

import shlex
from pathlib import Path
from typing import Any

import pytest

from lnbench.errors import LnbenchError
from lnbench.lm.arguments import format_model_args
from lnbench.neurons import NeuronSet
from lnbench.sweeps.cells import Cell
from lnbench.sweeps.run_sweep import planned
from tests.support.sweeps import spec_of


def cells_of(given: dict[str, Any], **changes: Any) -> list[Cell]:
    return planned(spec_of(given, **changes), Path("out"))


def arguments(cell: Cell) -> dict[str, str]:
    words = shlex.split(cell.command)
    return dict(part.split("=", 1) for part in words[words.index("--model_args") + 1].split(","))


def test_the_grid(given: dict[str, Any]) -> None:
    cells = cells_of(given, selectors=["lape", "act_prob"], controls=2)
    assert len(cells) == 2 * (1 + 2 * 2 * (1 + 2))
    assert len({cell.key for cell in cells}) == len({cell.slug for cell in cells}) == len(cells)
    controls = [cell for cell in cells if cell.control_of]
    assert {(cell.control_of, cell.control_seed) for cell in controls} == {
        (selector, seed) for selector in ("lape", "act_prob") for seed in (0, 1)
    }
    assert all(
        arguments(cell)["selector"] == f"random:like={cell.control_of}:seed={cell.control_seed}" for cell in controls
    )


def test_cells_that_cannot_differ_are_one(given: dict[str, Any]) -> None:
    cells = cells_of(given, tasks=["lnbench_demo_nli_en"], selectors=["lape", "lape:top_fraction=0.01"], controls=0)
    baseline = [cell for cell in cells if cell.intervention == "none"]
    assert [cell.languages for cell in baseline] == [("en", "hi")]
    assert len(cells) == 1 + 2 * 2
    assert {arguments(cell).get("language") for cell in cells} == {None, "en", "hi"}


def test_tasks_by_language(given: dict[str, Any]) -> None:
    cells = cells_of(given, tasks=[{"en": "belebele_eng_Latn", "hi": "belebele_hin_Deva"}], interventions=["none"])
    assert [(cell.languages, cell.task) for cell in cells] == [
        (("en",), "belebele_eng_Latn"),
        (("hi",), "belebele_hin_Deva"),
    ]
    assert all("--include_path" not in cell.command for cell in cells)


def test_models_are_taken_one_after_the_other(given: dict[str, Any]) -> None:
    cells = cells_of(given, models=[given["pretrained"], "other/model", {"pretrained": "third", "dtype": "bfloat16"}])
    models = [cell.loading.model for cell in cells]
    assert [models.index(model) for model in (given["pretrained"], "other/model", "third")] == [0, 10, 20]
    assert models == sorted(models, key=models.index)
    assert "pretrained=third,dtype=bfloat16," in cells[-1].command


def test_options_stand_in_the_command(given: dict[str, Any], tmp_path: Path) -> None:
    options = {
        "num_fewshot": 3,
        "seeds": [7],
        "apply_chat_template": True,
        "gen_kwargs": {"temperature": 0.5},
        "metadata": {"xquad_part": "last20"},
        "system_instruction": "Be brief.",
        "include_path": str(tmp_path),
        "tasks": ["own_{lang}", "lnbench_demo_qa_{lang}"],
    }
    own, ours = cells_of(given, **options, interventions=["none"])[:2]
    words = shlex.split(own.command)
    for option, value in {
        "--num_fewshot": "3",
        "--seed": "7",
        "--limit": "2",
        "--batch_size": "4",
        "--gen_kwargs": "temperature=0.5",
        "--metadata": "xquad_part=last20",
        "--system_instruction": "Be brief.",
        "--include_path": str(tmp_path),
    }.items():
        assert words[words.index(option) + 1] == value
    assert "--apply_chat_template" in words
    assert str(tmp_path) not in ours.command


def test_keys_follow_contents_and_not_names(given: dict[str, Any], tmp_path: Path) -> None:
    def keys(**changes: Any) -> set[str]:
        return {cell.key for cell in cells_of(given, **changes)}

    before = keys()
    assert keys(batch_size="auto", device="cpu") == before
    assert not keys(limit=3) & before
    assert not keys(num_fewshot=1) & before
    assert len(keys(corpus_tokens=500) & before) == len(keys(site="pre") & before) == 2, "the baselines stay"
    assert keys(interventions=["none", "zero"]) < before
    assert keys(selectors=["act_prob:fraction=0.15", "lape"]) > before

    file = tmp_path / "neurons.json"
    for indices in ([1], [2]):
        NeuronSet("m", 3, 24, {"en": {0: indices}, "hi": {0: indices}}).save(file)
        by_file = keys(selectors=[], neurons=[str(file)])
        assert len(by_file & before) == 2
        assert not (by_file - before) & (before - by_file)
        before |= by_file
    assert len(before) == 10 + 2 * 8


def test_keys_follow_files_that_choices_and_tasks_read(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, data, own = tmp_path / "n.json", tmp_path / "data", tmp_path / "own"
    NeuronSet("m", 3, 24, {"en": {0: [1]}, "hi": {0: [1]}}).save(file)
    (data / "xnli").mkdir(parents=True)
    own.mkdir()
    (own / "task.yaml").write_text("task: lnbench_xnli_en\noutput_type: multiple_choice\n")
    monkeypatch.setenv("LNBENCH_DATA", str(data))

    def keys(**changes: Any) -> dict[str, str]:
        spec = {"selectors": [f"random:like={file}"], "tasks": ["lnbench_xnli_{lang}"], "include_path": str(own)}
        found = cells_of(given, **spec | {"interventions": ["none", "zero"]} | changes)
        return {f"{'+'.join(cell.languages)} {cell.intervention}": cell.key for cell in found}

    def changed(before: dict[str, str]) -> set[str]:
        return {name for name, key in keys().items() if key != before[name]}

    before = keys()
    NeuronSet("m", 3, 24, {"en": {0: [2]}, "hi": {0: [2]}}).save(file)
    assert changed(before) == {"en zero", "hi zero"}
    before = keys()
    (data / "xnli" / "hi.test.jsonl").write_text("{}")
    assert changed(before) == {"hi none", "hi zero"}, "the user's own task reads something else"
    before = keys()
    (own / "rows.csv").write_text("a,b")
    assert changed(before) == {"en none", "en zero"}
    before = keys()
    (own / "runs").mkdir()
    for name in ("records.jsonl", "results.json"):
        (own / "runs" / name).touch()
    assert changed(before) == set(), "a sweep that was run there is no task"
    commands = {
        cell.task: cell.command for cell in cells_of(given, tasks=["lnbench_xnli_{lang}"], include_path=str(own))
    }
    assert f"--include_path {own} " in commands["lnbench_xnli_en"]
    assert f"--include_path {own} " not in commands["lnbench_xnli_hi"]


def test_setups_are_told_apart(given: dict[str, Any]) -> None:
    def setups(**changes: Any) -> set[tuple[str, str | None]]:
        return {(cell.setup, cell.override_setup) for cell in cells_of(given, **changes)}

    first = setups()
    assert len(first) == 2, "a cell and its controls share one"
    assert setups(limit=3, batch_size=1, controls=2, interventions=["none", "p90"], languages=["en"]) == first
    for change in ({"site": "pre"}, {"positions": "prompt"}, {"compare": ["en", "hi"]}, {"corpus_tokens": 500}):
        assert len(setups(**change) & first) == 1, "the baseline's"
    options = {"pretrained": given["pretrained"], "add_bos_token": True}
    for change in ({"models": [options]}, {"num_fewshot": 1}, {"gen_kwargs": {"temperature": 0.5}}):
        assert not {setup for setup, _ in setups(**change)} & {setup for setup, _ in first}


@pytest.mark.parametrize(
    "change",
    [
        {"selectors": ["nonsense"]},
        {"interventions": ["nonsense"]},
        {"languages": ["en", "xx"]},
        {"compare": ["hi", "zh"]},
        {"statistics": "absent"},
        {"neurons": ["absent.json"]},
        {"corpus": "absent/{lang}.txt"},
        {"include_path": "absent", "tasks": ["own_{lang}"]},
        {"include_path": "absent"},
        {"finetune": {"a": {"nonsense": 1}}},
        {"finetune": {"a": {"finetuner": "lora", "out": "x"}}},
    ],
    ids=lambda change: str(change)[:40],
)
def test_what_cannot_be_planned(given: dict[str, Any], change: dict[str, Any]) -> None:
    with pytest.raises(LnbenchError):
        cells_of(given, **change)


@pytest.mark.parametrize(
    "arguments",
    [
        {"pretrained": "a/b", "intervention": "p10", "languages": "en+hi"},
        {"selector": "random:like=[act_prob:fraction=0.004]:seed=0", "dtype": "bfloat16", "load_in_4bit": True},
        {"pretrained": "a,b", "x": 1},
        {"revision": "1234", "y": 0.5},
        {"revision": "true"},
        {"pretrained": "a b", "nested": {"a": [1, None]}},
        {"pretrained": "it's {x}"},
        {"empty": ""},
    ],
)
def test_lm_eval_reads_back_what_is_format_model_args(arguments: dict[str, Any]) -> None:
    import argparse

    from lm_eval._cli.utils import MergeDictAction

    parser = argparse.ArgumentParser()
    parser.add_argument("--model_args", nargs="+", action=MergeDictAction)
    assert parser.parse_args(["--model_args", format_model_args(arguments)]).model_args == arguments


def test_a_corpus_pattern_is_written_with_a_star() -> None:
    assert format_model_args({"corpus": "data/{lang}.txt"}) == "corpus=data/*.txt"


def test_a_sweeps_control_is_a_choice(given: dict[str, Any]) -> None:
    cells = cells_of(given, selectors=["lape"], controls=2, control="random_active:strata=2", languages=["hi"])
    controls = [cell for cell in cells if cell.control_of]
    assert {cell.control_kind for cell in controls} == {"random_active:strata=2"}
    assert {arguments(cell)["selector"] for cell in controls} == {
        f"random_active:strata=2:like=lape:seed={seed}" for seed in range(2)
    }
    random = cells_of(given, selectors=["lape"], controls=2, languages=["hi"])
    own = {cell.key for cell in random if not cell.control_of}
    assert own == {cell.key for cell in cells if not cell.control_of}
    assert not {cell.key for cell in random if cell.control_of} & {cell.key for cell in controls}
    setups = {cell.override_setup for cell in (*random, *cells) if cell.intervention != "none"}
    assert len(setups) == 1
    with pytest.raises(LnbenchError, match="random_active"):
        cells_of(given, selectors=["lape"], control="lape")
