"""The selector bench: its steps, and on a tiny model what its rows say against the matrices behind them."""

from __future__ import annotations

from itertools import product
from pathlib import Path
from statistics import fmean
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from lnbench.cli import app
from lnbench.host import get_host
from lnbench.neurons import NeuronSet
from lnbench.parameters import parse_choice
from lnbench.perplexity.matrix import FILE, PerplexityMatrix
from lnbench.reproduce import catalogue
from lnbench.reproduce.bench import EQUAL, OWN, WHOLE_SITE, entries_of
from lnbench.reproduce.catalogue import BenchSpec
from lnbench.reproduce.plan import Plan, plan
from lnbench.reproduce.reproduction_request import ReproductionRequest
from lnbench.reproduce.scale_settings import read_settings
from lnbench.specificity import matched_specificity
from lnbench.tables.reproduction import Reproduction, StoredRow
from tests.support import docs_pages
from tests.support.messages import refused

LANGUAGES = ("en", "hi", "zh")
SMALL = {"bench.counted": 600, "length": 64, "bench.count": 2, "bench.tokens": 126, "bench.length": 63}
SELECTORS = {
    "lape": {"choice": "lape:bar=0.3:top_fraction=0.5"},
    "mean_difference": {"choice": "mean_difference:fraction=0.2"},
    "of_two": {"choice": "top:of=mean_difference:count=2"},
    "removal_impact": {"choice": "removal_impact:share=0.5", "ranked": False},
    "directions": {
        "choice": "all",
        "site": "residual",
        "ranked": False,
        "control": "random_direction",
        "interventions": {"silence": "project_out", "raise": "diffmean:layer=1:strength=1"},
    },
}


RANKED = {"lape", "mean_difference", "of_two"}


def spec() -> BenchSpec:
    found = catalogue.spec("selector-bench")
    assert isinstance(found, BenchSpec)
    return found


def planned(**changes: Any) -> Plan:
    return plan(ReproductionRequest(names=("selector-bench",), out=Path("runs/bench"), model="gemma-3-270m", **changes))


def test_every_selector_that_is_no_control_is_in_it() -> None:
    host = get_host()
    controls = {name for name in host.names("selector") if host.declares("selector", name, "is_control")}
    benched = {parse_choice(selector.choice)[0] for selector in spec().selectors.values()}
    assert benched | controls | {"top"} == set(host.names("selector"))


def test_a_dry_run_counts_its_cells_and_needs_no_model() -> None:
    found = planned(scale="small")
    entries = entries_of(spec(), read_settings("small", "corrected").bench.count)
    zero, swap = len(entries) * 25, len(entries) * 20
    assert f"{2 * len(entries)} perplexity matrices of {zero + swap:,} cells" in found.amount()
    assert sum(step.tokens for step in found.steps if step.kind == "statistics") == 5 * found.settings.bench.counted
    commands = [command for step in found.steps for command in step.commands()]
    assert len({command.partition("--out")[2] for command in commands}) == len(commands) - 1  # both shards go into one
    assert found.steps[0].commands()[0].startswith("lnbench stats ")


def test_all_is_all_of_the_paper() -> None:
    assert "selector-bench" not in {item.name for item in plan(ReproductionRequest(names=("all",))).items}


def test_the_shipped_sweep_has_the_same_selectors() -> None:
    sweep = yaml.safe_load((docs_pages.DOCS / "examples" / "selector-bench.yaml").read_text(encoding="utf-8"))
    of_neurons = [
        entry
        for entry in entries_of(spec(), read_settings("small", "corrected").bench.count)
        if entry.benched.site == "post"
    ]
    assert sweep["selectors"] == [entry.selector for entry in of_neurons]
    assert sweep["control"] == spec().control
    assert sweep["interventions"] == ["none", *spec().interventions.values()]


def test_the_source_must_be_among_the_languages(tiny_corpus: str) -> None:
    with refused("selector bench", "en", "hi, zh"):
        planned(scale="small", corpus=tiny_corpus, languages=("hi", "zh"))


@pytest.fixture(scope="module")
def out(tiny_model: str, tiny_corpus: str, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("bench")
    small = spec().model_copy(
        update={"selectors": {name: catalogue.BenchedSelector(**about) for name, about in SELECTORS.items()}}
    )
    options = [word for key, value in SMALL.items() for word in ("--set", f"{key}={value}")]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(catalogue, "specs", lambda: {"selector-bench": small})
        patch.setenv("LNBENCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        given = ["--model", tiny_model, "--scale", "small", "--corpus", tiny_corpus, "--languages", "+".join(LANGUAGES)]
        # Drawing takes most of the time, and is for a test of its own.
        patch.setattr("lnbench.figures.save", lambda *_, **__: [])
        for _ in range(2):  # the second call finds all of it done
            found = CliRunner().invoke(
                app, ["reproduce", "selector-bench", *given, *options, "--out", str(folder)], catch_exceptions=False
            )
            assert found.exit_code == 0, found.output
    return folder


@pytest.mark.slow
def test_rows_are_means_of_the_matrices(out: Path) -> None:
    found = Reproduction.load(out / "selector-bench" / "reproduction.json")
    equal, own, overlaps = found.tables
    (bench,) = out.glob("*/selector-bench")
    assert [row.labels[0] for row in overlaps.rows] == [row.labels[0] for row in equal.rows]
    assert {row.labels[0] for row in equal.rows} == RANKED
    assert {row.labels[0] for row in own.rows} == set(SELECTORS)
    rows = [(EQUAL, row) for row in equal.rows]
    rows += [(WHOLE_SITE if row.labels[0] == "directions" else OWN, row) for row in own.rows]
    for (size, row), (role, first) in product(rows, (("silence", 1), ("raise", 6))):
        name = row.labels[0]
        matrix = PerplexityMatrix.load(bench / "perplexity" / f"{name}-{size.replace(' ', '_')}-{role}" / FILE)
        checked(row, first, matrix, role, draws=3 if role == "silence" and not (name in RANKED and size == OWN) else 0)
    for _, row in rows:
        assert row.cells[0] is not None and row.cells[0].measured is not None and row.cells[0].measured > 0
        if row.labels[0] != "directions":
            assert (bench / "neurons" / f"{row.labels[0]}-own.json").exists()
    names = [row.labels[0] for row in equal.rows]
    sets = {name: NeuronSet.load(bench / "neurons" / f"{name}-equal.json") for name in names}
    for row, one in zip(overlaps.rows, names, strict=True):
        for cell, other in zip(row.cells, names, strict=True):
            if one == other:
                assert cell is None
                continue
            expected = fmean(found.jaccard for found in sets[one].compare(sets[other]).values())
            assert cell is not None and cell.measured == pytest.approx(expected)
    assert {found.count(language) for found in sets.values() for language in LANGUAGES} == {SMALL["bench.count"]}


def checked(row: StoredRow, first: int, matrix: PerplexityMatrix, role: str, draws: int) -> None:
    """Compare a row's cells of one role with the matrix."""
    changed = [*LANGUAGES] if role == "silence" else ["hi", "zh"]
    assert (matrix.changed, matrix.source) == (changed, None if role == "silence" else "en")
    difference, own, rho, beyond = row.cells[first : first + 4]
    bits = {
        cell[:2]: cell[2] for cell in ((each.changed, each.read, each.delta_bits_per_byte) for each in matrix.cells)
    }
    selective = [
        bits[language, language] - fmean(bits[language, other] for other in LANGUAGES if other != language)
        for language in changed
    ]
    cells = [matrix.cell(language, language) for language in changed]
    assert difference is not None and difference.measured == pytest.approx(fmean(selective))
    assert own is not None and own.measured == pytest.approx(fmean(cell.delta_nats for cell in cells))
    assert {cell.n_controls for cell in cells} == {draws}
    assert {cell.n_controls for cell in matrix.cells if cell.changed != cell.read} == {0}
    if not draws:
        assert rho is None and beyond is None
        return
    means = [fmean(cell.control_draws[draw] for cell in cells) for draw in range(draws)]
    expected = matched_specificity(fmean(cell.delta_nats for cell in cells), means)
    assert rho is not None and (rho.measured, rho.ci_low, rho.ci_high) == pytest.approx(tuple(expected))
    assert beyond is not None and beyond.measured == sum(bool(cell.exceeds_controls) for cell in cells)


@pytest.mark.slow
def test_unchanged_passes_are_the_same_in_all_matrices(out: Path) -> None:
    files = sorted(out.glob("*/selector-bench/perplexity/*/perplexity.json"))
    matrices = {file.parent.name: PerplexityMatrix.load(file) for file in files}
    assert len(matrices) == 2 * (len(SELECTORS) + len(RANKED))
    baselines = [matrix.baseline for matrix in matrices.values()]
    assert all(baseline == baselines[0] for baseline in baselines)
    # Both sizes are the same set: what one has measured, the other takes.
    for role in ("silence", "raise"):
        equal, own = (matrices[f"of_two-{size}-{role}"] for size in (EQUAL, OWN))
        assert [cell.delta_nats for cell in own.cells] == [cell.delta_nats for cell in equal.cells]
        assert {cell.n_controls for cell in own.cells} == {0}
