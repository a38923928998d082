"""Specs as steps: how many cells, shared by which tables, and as which commands."""

from __future__ import annotations

import shlex
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from lm_eval.utils import simple_parse_args_string

from lnbench import content_hash
from lnbench.lm.experiment import Experiment
from lnbench.reproduce import catalogue
from lnbench.reproduce.plan import Plan, plan
from lnbench.reproduce.reproduction_request import ReproductionRequest
from lnbench.reproduce.scale_settings import Preset
from lnbench.reproduce.steps import Adapter, PlannedStep, StepKind
from lnbench.statistics import store
from tests.support import docs_pages
from tests.support.messages import refused

PRESET_FRAMES = [("corrected", "plain", "xquad_pair"), ("paper", "english", "xquad_pair_english")]
OUT = Path("runs/reproduced")


def planned(*names: str, **changes: Any) -> Plan:
    return plan(ReproductionRequest(names=names, out=OUT, **changes))


def commands(found: Plan, program: str = "lm_eval") -> list[str]:
    return [line for step in found.steps for line in step.commands() if line.startswith(f"{program} ")]


def steps(found: Plan, kind: StepKind) -> list[PlannedStep]:
    return [step for step in found.steps if step.kind == kind]


def adapters(found: Plan) -> list[Adapter]:
    return [step.adapter for step in found.steps if step.adapter]


def selected(found: Plan) -> dict[str, tuple[str, ...]]:
    """Selection → the languages that it compares."""
    return {step.out.stem: step.languages for step in steps(found, "neurons")}


def arguments_of(command: str) -> dict[str, Any]:
    """The model arguments as lm_eval reads them; it takes the word none for nothing."""
    found = simple_parse_args_string(shlex.split(command)[4])
    return {name: "none" if value is None else value for name, value in found.items()}


@pytest.mark.parametrize(
    ("names", "count"),
    [
        (["table1"], 54),
        (["table4"], 102),
        (["table1", "table4"], 102),
        (["table2"], 54),
        (["table2", "table5"], 102),
        (["table3"], 45),
        (["table3", "table7"], 90),
        (["table8"], 6),
        (["table6", "figure1", "figure2"], 0),
        (["table1", "table2", "table3", "table4", "table5", "table7", "table8"], 300),
    ],
)
def test_the_cells_are_as_many_as_in_the_paper(names: list[str], count: int) -> None:
    found = planned(*names)
    cells = commands(found)
    assert len(cells) == len(set(cells)) == count
    assert found.amount().startswith(f"{count} distinct cells, ")


def options_of(command: str) -> dict[str, str]:
    words = shlex.split(command)
    return {name: value for name, value in pairwise(words) if name.startswith("--")}


def test_the_paper_preset_reads_text_as_its_code_does() -> None:
    (stats, *_) = commands(planned("table6", preset="paper"), "lnbench")
    wanted = {"mode": "pack", "bos": "document", "length": "512", "skip": "0", "batch-size": "4", "batch-level": "0.9"}
    assert options_of(stats).items() >= {f"--{name}": value for name, value in wanted.items()}.items()
    corrected = options_of(commands(planned("table6"), "lnbench")[0])
    assert "--batch-size" not in corrected
    assert corrected["--bos"] == "block"


@pytest.mark.parametrize("figure", ["figure1", *(f"figure{number}" for number in range(20, 25))])
def test_the_paper_preset_measures_the_papers_perplexity(figure: str) -> None:
    (matrix,) = [
        line for line in commands(planned(figure, preset="paper"), "lnbench") if line.startswith("lnbench ppl")
    ]
    assert options_of(matrix).items() >= {"--labels": "paper", "--bos": "document"}.items()
    (matrix,) = commands(planned(figure), "lnbench ppl")
    assert "--labels" not in matrix


@pytest.mark.parametrize("table", ["table2", "table5"])
@pytest.mark.parametrize(("preset", "frame", "data"), PRESET_FRAMES)
def test_xquad_is_trained_and_asked_in_one_frame(table: str, preset: Preset, frame: str, data: str) -> None:
    found = planned(table, preset=preset)
    cells = [options_of(line) for line in commands(found)]
    assert {cell["--tasks"] for cell in cells} == {f"lnbench_xquad_pair_{lang}" for lang in ("vi", "hi", "zh")}
    metadata = [simple_parse_args_string(cell["--metadata"]) for cell in cells]
    assert {named["xquad_frame"] for named in metadata} == {frame}
    assert {named.get("xquad_end_token", False) for named in metadata} == {preset == "paper"}
    for adapter in adapters(found):
        job = adapter.training.job
        assert (job.rows, job.training.loss) == (data, "all" if preset == "paper" else "answer")
        assert ("output_projection=false" in job.finetuner) == (preset == "paper")
        assert (job.training.bf16, job.training.too_long, job.training.drop_from) == (True, "drop", 511)
    for adapter in adapters(planned("table1", preset=preset)):
        assert "output_projection" not in adapter.training.job.finetuner
        assert (adapter.training.job.training.drop_from, adapter.training.job.training.loss) == (256, "answer")


def test_a_plan_leaves_no_trace(tmp_path: Path) -> None:
    """Files that a plan only names count as missing again where work is about to begin."""
    missing = str(tmp_path / "neurons.json")
    with content_hash.planning():
        assert content_hash.of_file(missing) == missing
        assert store.planned_languages(missing) is None
    for look in (content_hash.of_file, store.planned_languages):
        with refused(missing):
            look(missing)


def test_a_short_table_is_a_part_of_the_long_one() -> None:
    for short, long in (("table1", "table4"), ("table2", "table5"), ("table3", "table7")):
        parts = {step.out for step in steps(planned(short), "sweep")}
        assert parts < {step.out for step in steps(planned(long), "sweep")}


@pytest.mark.parametrize("preset", ["corrected", "paper"])
@pytest.mark.parametrize("changes", [{}, {"model": "gemma-3-270m", "scale": "small", "controls": 1}])
def test_every_step_is_a_command_that_parses(preset: Any, changes: dict[str, Any]) -> None:
    found = planned("all", preset=preset, **changes)
    line = docs_pages.commandline()
    for step in found.steps:
        assert step.doing
        for command in step.commands():
            words = shlex.split(command)
            if words[0] == "lnbench":
                line.main(words[1:], prog_name="lnbench", standalone_mode=False)
                continue
            given = arguments_of(command)
            ours = {name: value for name, value in given.items() if name in Experiment.model_fields}
            is_paper = Path(given["peft"]).parts[2].endswith("-paper") and ours["intervention"] != "none"
            assert Experiment(**ours).site == ("paper" if is_paper else "post")


def test_lape_neurons_are_those_of_the_languages_own_set() -> None:
    for line in commands(planned("table4")):
        arguments = arguments_of(line)
        if arguments["intervention"] != "none":
            language, file = arguments["language"], Path(arguments["neurons"]).stem
            assert file == "act_prob" or file == {"vi": "lape-set1", "hi": "lape-set6", "ur": "lape-set6"}[language]


def test_the_neurons_that_are_fine_tuned_are_the_selectors() -> None:
    trained = adapters(planned("table7"))
    assert len({adapter.out for adapter in trained}) == len(trained) == 15
    assert {(adapter.selection, adapter.languages) for adapter in trained if adapter.selection == "lape-set1"} == {
        ("lape-set1", "en"),
        ("lape-set1", "vi"),
        ("lape-set1", "en+vi"),
    }
    random = adapters(planned("table8", model="x/y"))
    assert [adapter.languages for adapter in random] == ["random-like-vi", "random-like-hi", "random-like-ur"]


def test_the_papers_scale_quantises_and_the_small_one_does_not() -> None:
    for line in commands(planned("table1")):
        assert "load_in_4bit=True,bnb_4bit_quant_type=nf4,bnb_4bit_use_double_quant=True" in line
    assert not [line for line in commands(planned("table1", model="x/y", scale="small")) if "4bit" in line]


def test_languages_take_the_place_of_the_papers_sets() -> None:
    found = planned("table4", "figure1", "figure20", model="x/y", scale="small", languages=("en", "hi", "zh"))
    assert selected(found) == {"lape": ("en", "hi", "zh"), "act_prob": ("en", "hi", "zh")}
    (counting,) = steps(found, "statistics")
    assert counting.languages == ("en", "hi", "zh")
    assert {line.rpartition("lnbench_xnli_pair_")[2][:2] for line in commands(found)} == {"hi"}
    assert len(commands(found, "lnbench ppl")) == 1


def test_the_embedded_text_leaves_some_languages_of_each_set(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LNBENCH_DATA", raising=False)
    found = planned("table4", model="x/y", scale="small")
    assert selected(found)["lape-set1"] == ("en", "vi", "zh")
    assert selected(found)["lape-set6"] == ("en", "hi", "ur")
    assert len(commands(found)) == 51


def test_the_corpus_of_the_data_folder_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LNBENCH_DATA", str(tmp_path))
    assert "demo" in planned("figure1", model="x/y", scale="small").corpus
    (tmp_path / "corpus").mkdir()
    for language in ("en", "fr", "hi", "bn"):
        (tmp_path / "corpus" / f"{language}.jsonl.gz").touch()
    found = planned("figure1", model="x/y", scale="small")
    assert found.corpus == str(tmp_path / "corpus" / "{lang}.jsonl.gz")
    assert selected(found) == {"lape-set1": ("en", "fr")}
    assert planned("figure1", model="x/y", scale="small", corpus="a/b:{lang}").corpus == "a/b:{lang}"


def test_a_model_stands_beside_its_own_numbers() -> None:
    def beside(model: str) -> set[str]:
        return {part.at.beside for item in planned("table4", model=model).items for part in item.parts}

    assert beside("gemma-3-270m") == {"llama-3.1-8b"}
    assert beside("/models/mistral-nemo-base-2407") == {"mistral-nemo-12b"}
    assert {part.at.beside for item in planned("table4").items for part in item.parts} == {*catalogue.models()}


def test_a_comparison_measures_its_tables_under_both_presets() -> None:
    found = planned("paper-vs-corrected", model="x/y")
    assert len(commands(found)) == 2 * 27
    assert len(commands(planned("paper-vs-corrected", model="x/y", tables=("table3", "table8")))) == 2 * (45 + 3)
    assert {step.at.folder.name for step in found.steps} == {"y", "y-paper"}


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"names": ("table9",)}, ["table9", "table1, table2"]),
        ({"names": ("table1",), "languages": ("en", "zh")}, ["table1", "--languages"]),
        ({"names": ("table1",), "scale": "small", "languages": ("en", "xx")}, ["xx", "en, hi, ur, vi, zh"]),
        (
            {"names": ("paper-vs-corrected",), "tables": ("table6",)},
            ["paper-vs-corrected", "1 to 5, 7 and 8", "table6"],
        ),
        ({"names": ("table1",), "settings": {"foo": 1}}, ["foo", "corpus, tokens"]),
    ],
)
def test_what_cannot_be_done_is_told(
    changes: dict[str, Any], named: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("LNBENCH_DATA", raising=False)
    with refused(*named):
        plan(ReproductionRequest(out=OUT, **changes))
