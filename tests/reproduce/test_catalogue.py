"""What ships as data: specs, and the paper's numbers."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from lnbench.reproduce import catalogue
from lnbench.reproduce.catalogue import CellsSpec, FigureSpec, PublishedKey
from lnbench.reproduce.measurements import Measurements, cells_table
from lnbench.tables.render import markdown
from tests.support.messages import lacks

PAPER = Path(__file__).resolve().parents[3] / "shared" / "paper.txt"
TABLES = ["table4", "table5", "table6", "table7", "table8"]


def test_every_table_and_figure_of_the_paper_has_a_spec() -> None:
    wanted = [*(f"table{n}" for n in range(1, 9)), *(f"figure{n}" for n in range(1, 25)), "paper-vs-corrected"]
    wanted.append("selector-bench")
    assert list(catalogue.specs()) == wanted
    for spec in catalogue.specs().values():
        assert catalogue.describe(spec).startswith(spec.title)


def test_the_figures_show_every_model_and_selection() -> None:
    wanted = {(model, name) for model in catalogue.models() for name in catalogue.selections()}
    for drawing in ("matrix", "per_language", "overlap", "per_layer", "selectors"):
        specs = [spec for spec in catalogue.specs().values() if isinstance(spec, FigureSpec)]
        figures = [spec for spec in specs if spec.drawing == drawing]
        shown = [(model, name) for spec in figures for model in spec.models for name in spec.selections]
        assert len(shown) == len(set(shown))
        assert set(shown) == wanted
        assert {spec.intervention for spec in figures} == ({"zero"} if drawing == "matrix" else {None})


@pytest.mark.parametrize(("table", "count"), list(zip(TABLES, (108, 216, 70, 90, 6), strict=True)))
def test_published_numbers_are_all_there(table: str, count: int) -> None:
    numbers = catalogue.published(table)
    assert len(numbers) == count
    assert {model for model, *_ in numbers} <= set(catalogue.models())
    assert all(-2 < value <= 100 for value in numbers.values())


@pytest.mark.parametrize("table", ["table4", "table5"])
def test_without_intervention_the_selector_does_not_matter(table: str) -> None:
    numbers = catalogue.published(table)
    for (model, _, finetune, language, intervention, metric), value in numbers.items():
        if intervention == "none":
            other = numbers[PublishedKey(model, "act_prob", finetune, language, "none", metric)]
            # The paper rounds one of them otherwise: 73.5 and 73.6.
            assert other == pytest.approx(value, abs=0.11)


def test_the_repaired_misprint_is_said_where_it_is_shown() -> None:
    table8 = catalogue.spec("table8")
    assert isinstance(table8, CellsSpec)
    number = catalogue.published("table8")[PublishedKey("mistral-nemo-12b", "", "rand", "hi", "none", "acc")]
    assert not lacks(table8.note or "", "vi", "hi", f"{number:g}", "Mistral Nemo")
    table = cells_table(table8, (), Measurements(()))
    assert table.notes == [table8.note]
    assert table8.note in markdown(table.table)


@pytest.mark.parametrize("name", [f"table{number}" for number in (1, 2, 3, 4, 5, 7, 8)])
def test_every_cell_of_a_table_has_its_published_number(name: str) -> None:
    spec = catalogue.spec(name)
    assert isinstance(spec, CellsSpec)
    numbers = catalogue.published(spec.published)
    metric = "acc" if spec.task == "xnli" else "exact_match"
    for model in spec.models:
        for selector in spec.selectors:
            for language in spec.languages:
                for label in spec.finetune:
                    named = label.replace("{lang}", language)
                    for one in spec.columns:
                        keys = [PublishedKey(model, chosen, named, language, one, metric) for chosen in (selector, "")]
                        assert any(key in numbers for key in keys), keys


@pytest.mark.data
@pytest.mark.skipif(not PAPER.exists(), reason="needs the paper's text beside the checkout")
@pytest.mark.parametrize(
    ("heading", "table", "skipped"),
    [
        ("No Int | Int | Int P75", "table4", 0),
        ("No Int | Int | Int P75", "table5", 1),
        ("| Model | Lang | Act", "table6", 0),
        ("| FTL | EL | No Int", "table7", 1),
        ("| Model | FTL | EL", "table8", 0),
    ],
)
def test_the_transcription_is_the_papers(heading: str, table: str, skipped: int) -> None:
    """The numbers stand in the file in the order in which they stand in the text."""
    lines = PAPER.read_text(encoding="utf-8").splitlines()
    start = [number for number, line in enumerate(lines) if heading in line][skipped]
    cells = [cell.strip() for line in lines[start + 1 : start + 90] for cell in line.split("|")]
    printed = [
        float(value)
        for cell in cells
        if re.fullmatch(r"-?\d+(\.\d+)?( \(\d+\.\d+\))?", cell)
        for value in re.findall(r"-?\d+(?:\.\d+)?", cell)
    ]
    numbers = list(catalogue.published(table).values())
    assert numbers == printed[: len(numbers)]


@pytest.mark.data
@pytest.mark.skipif(not PAPER.exists(), reason="needs the paper's text beside the checkout")
def test_the_short_tables_are_parts_of_the_long_ones() -> None:
    """Tables 1, 2 and 3 are read from tables 4, 5 and 7: the paper has the same numbers in both."""
    lines = PAPER.read_text(encoding="utf-8").splitlines()
    starts = [number for number, line in enumerate(lines) if line.startswith("| EL | No Int | Int |")]
    for start, name in zip(starts, ("table1", "table2"), strict=True):
        spec = catalogue.spec(name)
        assert isinstance(spec, CellsSpec)
        numbers, found = catalogue.published(spec.published), []
        for line in lines[start + 1 : start + 18]:
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            if cells[0] in spec.languages:
                found += [float(cell.partition(" ")[0]) for cell in cells[1:6]]
        metric = "acc" if spec.task == "xnli" else "exact_match"
        wanted = [
            numbers[PublishedKey(model, selector, "english", language, one, metric)]
            for model in spec.models
            for selector in spec.selectors
            for language in spec.languages
            for one in spec.columns
        ]
        assert found == wanted
