"""From text to table and figure on a tiny model, through the command line."""

from __future__ import annotations

import csv
import json
import shlex
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from lnbench.cli import app
from lnbench.perplexity.matrix import FILE as MATRIX
from lnbench.perplexity.matrix import PerplexityMatrix
from lnbench.reproduce import catalogue
from lnbench.sweeps.records import load
from lnbench.tables.findings import UNITS, own_text_harmed_most, shared_neurons
from lnbench.tables.reproduction import Reproduction, StoredTable, StoredValue
from tests.support.messages import lacks, refused
from tests.support.reproduce import TINY, words

pytestmark = [pytest.mark.slow, pytest.mark.usefixtures("environment")]


@pytest.fixture
def environment(data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("LNBENCH_DATA", str(data))


@pytest.fixture
def undrawn(monkeypatch: pytest.MonkeyPatch) -> None:
    """Figures take most of the time, and are drawn for other tests."""
    monkeypatch.setattr("lnbench.figures.save", lambda *_, **__: [])


def invoke(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["reproduce", *arguments], catch_exceptions=False)


@pytest.fixture(scope="session")
def options(tiny_model: str) -> list[str]:
    return ["--model", tiny_model, "--scale", "small", "--languages", "en+hi", *words(TINY)]


@pytest.fixture(scope="session")
def out(
    options: list[str], data: Path, tmp_path_factory: pytest.TempPathFactory, request: pytest.FixtureRequest
) -> Path:
    """The folder in which a table, a matrix and the overlap of selectors were measured, with a control."""
    folder = tmp_path_factory.mktemp("reproduced")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LNBENCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        patch.setenv("LNBENCH_DISABLE_PLUGINS", "1")
        patch.setenv("LNBENCH_DATA", str(data))
        patch.setattr("torch.utils.collect_env.get_pretty_env_info", lambda: "a test")
        found = invoke("table1", "figure1", "figure18", *options, "--controls", "1", "--out", str(folder))
    assert found.exit_code == 0, found.output
    return folder


def values(table: StoredTable) -> list[StoredValue]:
    return [cell for row in table.rows for cell in row.cells if cell is not None]


def test_a_table_in_the_papers_layout(out: Path, tiny_model: str) -> None:
    found = Reproduction.load(out / "table1")
    (table,) = found.tables
    assert table.columns == ["No Int", "Int", "Int P90", "Int 0", "Int P10"]
    name = Path(tiny_model).name
    assert [row.labels for row in table.rows] == [[name, "LAPE", "hi"], [name, "Act Prob 90p", "hi"]]
    assert [cell.published for cell in values(table)][:5] == [75.0, 75.2, 74.9, 74.4, 75.1]
    for cell in values(table):
        assert cell.measured in (0.0, 50.0, 100.0)
        assert cell.difference == pytest.approx(cell.measured - (cell.published or 0))
        assert cell.n == 2
        assert cell.ci_low is not None
        assert cell.ci_high is not None
        assert cell.ci_low <= cell.measured <= cell.ci_high
    assert [cell.control is None for cell in table.rows[0].cells if cell] == [True, False, False, False, False]
    assert (found.preset, found.scale, found.models) == ("corrected", "small", [Path(tiny_model).name])


def test_the_table_has_what_the_sweep_recorded(out: Path) -> None:
    found = Reproduction.load(out / "table1")
    (run,) = found.runs
    records = {
        (record.selector, record.intervention): record.value
        for record in load((out / "table1" / run).resolve())
        if record.control_of is None and record.metric == "acc"
    }
    assert len(records) == 1 + 2 * 4
    neurons = {"LAPE": "lape", "Act Prob 90p": "act_prob"}
    headings = dict(zip(found.tables[0].columns, ("none", "mean", "p90", "zero", "p10"), strict=True))
    for row in found.tables[0].rows:
        for heading, cell in zip(found.tables[0].columns, row.cells, strict=True):
            file = next((key for key, _ in records if Path(key).stem == neurons[row.labels[1]]), "-")
            key = ("-" if heading == "No Int" else file, headings[heading])
            assert cell is not None
            assert cell.measured == 100 * (records[key] or 0.0)


def test_caveats_and_conclusions_say_what_two_documents_can(out: Path) -> None:
    found = Reproduction.load(out / "table1")
    assert {one.verdict for one in found.conclusions} == {"undecided"}
    said = " ".join(found.caveats)
    for fact in ("Llama 3.1", "limit 2", "400 tokens", "from chance", "in Hindi"):
        assert fact in said
    assert "no control" not in said


def test_tables_as_markdown_and_csv(out: Path) -> None:
    text = (out / "table1" / "table.md").read_text(encoding="utf-8")
    assert "| model | neurons | EL | value | No Int | Int | Int P90 | Int 0 | Int P10 |" in text
    assert "| published | 75.0 | 75.2 | 74.9 | 74.4 | 75.1 |" in text
    with (out / "table1" / "table.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [float(row["published"]) for row in rows][:5] == [75.0, 75.2, 74.9, 74.4, 75.1]
    assert len(rows) == 10
    latex = (out / "table1" / "table.tex").read_text(encoding="utf-8")
    assert " &  &  & published & 75.0 & 75.2 & 74.9 & 74.4 & 75.1 \\\\" in latex
    assert latex.count("\\begin{tabular}") == 1


def test_a_matrix_with_sentences_and_figures(out: Path) -> None:
    found = Reproduction.load(out / "figure1")
    *_, overlap = found.tables
    assert [table.columns for table in found.tables] == [["en", "hi"]] * 4
    assert [row.cells[number].measured for number, row in enumerate(overlap.rows) if row.cells[number]] == [100, 100]
    (run,) = found.runs
    matrix = PerplexityMatrix.load((out / "figure1" / run).resolve() / MATRIX)
    for table, metric in zip(found.tables, ("delta_bits_per_byte", "delta_nats", "delta_perplexity"), strict=False):
        assert [cell.measured for cell in values(table)] == [getattr(cell, metric) for cell in matrix.cells]
    assert "rows: whose neurons; columns: whose text" in found.tables[0].title
    assert found.findings == [*(own_text_harmed_most(matrix, unit) for unit in UNITS), *shared_neurons(matrix)]
    for name in ("figure1", "figure18"):
        for file in Reproduction.load(out / name).figures:
            assert (out / name / file).stat().st_size


def test_the_same_command_measures_nothing_again(out: Path, options: list[str]) -> None:
    before = {path: path.stat().st_mtime_ns for path in out.rglob("*.jsonl")}
    found = invoke("table1", *options, "--controls", "1", "--out", str(out))
    assert not lacks(found.output, "17 cells, 17")
    assert {path: path.stat().st_mtime_ns for path in out.rglob("*.jsonl")} == before


def test_the_printed_commands_find_their_work_done(out: Path, options: list[str]) -> None:
    """They ask for the very same Statistics, neurons, adapter and matrix."""
    printed = invoke("table1", "figure1", *options, "--controls", "1", "--out", str(out), "--dry-run").output
    lines = [line for line in printed.splitlines() if line.startswith("lnbench ")]
    assert {line.split()[1] for line in lines} == {"stats", "select", "finetune", "ppl"}
    files = {path: path.read_bytes() for path in out.rglob("*") if path.suffix in (".json", ".safetensors")}
    for line in lines:
        assert CliRunner().invoke(app, shlex.split(line)[1:], catch_exceptions=False).exit_code == 0, line
    kept = {path: path.read_bytes() for path in files}
    assert [path for path in files if kept[path] != files[path] and path.name != MATRIX] == []


@pytest.mark.usefixtures("undrawn")
def test_written_answers_have_two_metrics(options: list[str], tmp_path: Path) -> None:
    found = invoke("table2", "table6", *options, "--out", str(tmp_path))
    assert found.exit_code == 0
    (table,) = Reproduction.load(tmp_path / "table2").tables
    first = values(table)[0]
    assert first.metric == "exact_match"
    assert first.bracketed is not None
    assert (first.published, first.bracketed.metric, first.bracketed.published) == (38, "f1", 64.1)
    assert first.cell.text("published") == "38.0 (64.1)"
    read, written = Reproduction.load(tmp_path / "table6").tables
    assert [row.labels[-1] for row in read.rows] == ["en", "hi"]
    assert values(read)[0].published == -0.2621
    assert not written.table.has_published
    before, after = (min(cell.measured or 0 for cell in values(table)) for table in (read, written))
    assert before < -0.28 < after  # SiLU's lowest value is -0.278.


@pytest.mark.usefixtures("undrawn")
def test_a_failed_cell_is_told_in_its_place(options: list[str], tmp_path: Path) -> None:
    wrong = ["--set", "xquad.gen_kwargs.max_gen_toks=no_number"]
    found = invoke("table2", *options, *wrong, "--out", str(tmp_path))
    assert found.exit_code == 1
    saved = Reproduction.load(tmp_path / "table2")
    cells = values(saved.tables[0])
    assert {cell.measured for cell in cells} == {None}
    assert all("failed: " in (cell.note or "") for cell in cells)
    assert "failed" in saved.caveats[-1]


def test_a_damaged_file_is_told(tmp_path: Path) -> None:
    for text, named in (("{}", "lnbench.reproduction/1"), ('{"format": "lnbench.reproduction/1"}', "name")):
        (tmp_path / "reproduction.json").write_text(text, encoding="utf-8")
        with refused(tmp_path / "reproduction.json", named):
            Reproduction.load(tmp_path)


def test_the_list_names_every_spec() -> None:
    listed = invoke("list").output
    assert "paper-vs-corrected" in listed
    (table,) = json.loads(invoke("list", "--format", "json").stdout)
    assert [row["labels"]["name"] for row in table["rows"]] == list(catalogue.specs())


@pytest.mark.usefixtures("undrawn")
def test_a_comparison_of_both_presets(options: list[str], out: Path) -> None:
    found = invoke("paper-vs-corrected", *options, "--controls", "1", "--out", str(out))
    assert found.exit_code == 0
    saved = Reproduction.load(out / "paper-vs-corrected")
    assert saved.preset is None
    assert [row.labels[-1] for row in saved.tables[0].rows] == ["corrected", "paper"] * 2
    assert {one.preset for one in saved.conclusions} == {"corrected", "paper"}
    assert len({one.name for one in saved.conclusions}) == len(saved.conclusions) / 2 == 3
    manifest: Any = json.loads((next(out.glob("*-paper")) / "statistics" / "manifest.json").read_text())
    assert {one["site"] for one in manifest["languages"].values()} == {"pre"}
