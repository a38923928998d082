"""``lnbench figures``: whatever there are numbers of is drawn."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from typer.testing import CliRunner

from lnbench.cli import app
from lnbench.figures.drawable import figures_of
from lnbench.leaderboard import Row
from lnbench.leaderboard import rows as leaderboard
from lnbench.neurons import NeuronSet
from lnbench.perplexity.matrix import PerplexityMatrix
from lnbench.statistics import Statistics
from tests.support.figure_data import curve_of, dose_rows, pair_rows
from tests.support.messages import refused


@pytest.fixture
def folder(
    tmp_path: Path,
    lape: NeuronSet,
    act_prob: NeuronSet,
    matrix: PerplexityMatrix,
    rows: list[Row],
    stats: dict[str, Statistics],
) -> Path:
    """A run with everything in it, and files that are none of lnbench's."""
    lape.save(tmp_path / "neurons" / "lape.json")
    act_prob.save(tmp_path / "neurons" / "act_prob.json")
    matrix.save(tmp_path / "perplexity.json")
    leaderboard.save([*rows, *(row.model_copy(update={"metric": "f1"}) for row in rows)], tmp_path / "leaderboard.json")
    for one in stats.values():
        one.save(tmp_path / "statistics")
    curve_of().save(tmp_path / "statistics" / "stability-curve.json")
    (tmp_path / "results.json").write_text(json.dumps({"results": {}}), encoding="utf-8")
    (tmp_path / "broken.json").write_text("{", encoding="utf-8")
    return tmp_path


def test_a_folder_gives_all_that_it_has_numbers_of(folder: Path) -> None:
    assert sorted(figure.name for figure in figures_of([folder])) == [
        "activation_statistics-post",
        "activation_statistics-pre",
        "interventions-task_lang-acc",
        "interventions-task_lang-f1",
        "language_overlap-act_prob",
        "language_overlap-lape_bar_0_9",
        "layer_profile-act_prob",
        "layer_profile-lape_bar_0_9",
        "neurons_per_language",
        "neurons_per_layer-act_prob",
        "neurons_per_layer-lape_bar_0_9",
        "own_language-task_lang-acc-lape-zero",
        "perplexity_matrix-bits_per_byte-lape-zero",
        "perplexity_matrix-nats-lape-zero",
        "perplexity_matrix-perplexity-lape-zero",
        "selector_overlap-act_prob-lape_bar_0_9",
        "stability_curve-tiny",
    ]


def test_rows_of_pairs_and_of_doses_are_drawn_once_each(tmp_path: Path) -> None:
    leaderboard.save([*pair_rows(), *dose_rows()], tmp_path / "leaderboard.json")
    assert sorted(figure.name for figure in figures_of([tmp_path])) == [
        "dose_response-task_lang-acc-lape-top_fraction",
        "interventions-task_lang-acc",
        "interventions-task_source_lang-acc",
        "own_language-task_lang-acc-lape_top_fraction_0_05-p10",
        "pairs-task_source_lang-acc-swap-lape",
    ]


def test_the_same_file_twice_counts_once(folder: Path) -> None:
    assert len(figures_of([folder, folder / "neurons" / "lape.json"])) == len(figures_of([folder]))


def test_a_set_in_several_files_is_drawn_once(folder: Path, lape: NeuronSet) -> None:
    before = figures_of([folder])
    lape.save(folder / "other" / "lape.json")
    lape.save(folder / "other" / "copy.json")
    after = figures_of([folder])
    assert [figure.name for figure in after] == [figure.name for figure in before]
    rows = [[figure.rows for figure in drawn if figure.name == "neurons_per_language"] for drawn in (before, after)]
    assert rows[0] == rows[1]  # it is called as before, without its folder


@pytest.mark.parametrize("name", ["late.json", "late"])
def test_a_named_file_says_its_format_anywhere(tmp_path: Path, lape: NeuronSet, name: str) -> None:
    lape.save(tmp_path / "lape.json")
    document = json.loads((tmp_path / "lape.json").read_text(encoding="utf-8"))
    kind = document.pop("format")
    late = tmp_path / "late" / name
    late.parent.mkdir()
    late.write_text(json.dumps(document, indent=40) + "\n", encoding="utf-8")
    with refused(late):
        figures_of([late])
    late.write_text(json.dumps(document | {"format": kind}, indent=40), encoding="utf-8")
    assert late.read_bytes().index(b'"format"') > 400
    assert [figure.name for figure in figures_of([late])] == [
        figure.name for figure in figures_of([tmp_path / "lape.json"])
    ]


@pytest.mark.parametrize("text", ["{", '{"a": 1}\n{"a": 2}\n', "[1]", "", '{"format": []}'])
def test_a_named_file_of_another_kind_is_passed_over(folder: Path, text: str) -> None:
    other = folder / "other.json"
    other.write_text(text, encoding="utf-8")
    lape = folder / "neurons" / "lape.json"
    assert len(figures_of([other, lape])) == len(figures_of([lape]))


def test_figures_of_one_name_get_numbers(folder: Path, lape: NeuronSet) -> None:
    more = {code: lape[code] for code in lape} | {"zh": {1: [5]}}
    NeuronSet(lape.model, lape.layers, lape.width, more, lape.selector).save(folder / "other" / "lape.json")
    drawn = figures_of([folder / "neurons" / "lape.json", folder / "other" / "lape.json"])
    assert [figure.name for figure in drawn if "per_layer" in figure.name] == [
        "neurons_per_layer-lape_bar_0_9",
        "neurons_per_layer-lape_bar_0_9-2",
    ]
    (per_language,) = (figure for figure in drawn if figure.name == "neurons_per_language")
    assert {row[0] for row in per_language.rows} == {str(folder / name / "lape") for name in ("neurons", "other")}


def test_nothing_to_draw(folder: Path) -> None:
    with refused(folder / "results.json", "NeuronSets"):
        figures_of([folder / "results.json"])
    with refused("/nowhere"):
        figures_of([Path("/nowhere")])


def test_the_command_writes_and_names_them(folder: Path, tmp_path: Path) -> None:
    out = tmp_path / "drawn"
    arguments = ["figures", str(folder / "neurons"), "-o", str(out), "--format", "svg"]
    printed = CliRunner().invoke(app, arguments, catch_exceptions=False).output
    files = {path.name for path in out.iterdir()}
    assert len(files) == 16 and {Path(name).suffix for name in files} == {".svg", ".csv"}
    assert all(name in printed for name in files)
    assert "act_prob and lape:bar=0.9, tiny" in printed
