"""What the demo shows while it runs is right in whatever order its cells end, and each line is shown once."""

from __future__ import annotations

import io
from collections.abc import Sequence
from itertools import product
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from rich.console import Console

from lnbench.live_findings import LiveFindings, is_telling
from lnbench.neurons import NeuronSet
from lnbench.sweeps.cells import Cell, Loading
from lnbench.sweeps.records import Record
from lnbench.sweeps.spec import Invocation

NAMES, COUNTS = {"hi": "Hindi", "ur": "Urdu"}, {"hi": 3, "ur": 5}
TASK, GENERATION = "quiz_{lang}", "write_{lang}"
NEURONS = NeuronSet("m", 1, 10, {language: {0: list(range(count))} for language, count in COUNTS.items()})
TELLING = [("-", None, "none"), ("lape", None, "zero"), ("random", "lape", "zero")]
CHANGES = {TASK: [*TELLING, ("lape", None, "p10"), ("random", "lape", "p10")], GENERATION: TELLING}


def cell_of(task: str, language: str, selector: str, control_of: str | None, intervention: str) -> Cell:
    name = task.replace("{lang}", language)
    return Cell(
        *(Loading("m", {}), Invocation()),
        task=name,
        languages=(language,),
        intervention=intervention,
        selector=selector,
        control_of=control_of,
        key=f"{name} {selector} {intervention}",
    )


CELLS = [cell_of(task, language, *change) for task, language in product(CHANGES, NAMES) for change in CHANGES[task]]
VALUES = {
    cell.key: (number % 10) / 10 if cell.task.startswith("write") else 1 + number**2 / 100
    for number, cell in enumerate(CELLS)
}
"""Of generation, shares of ten."""
RECORDS = {
    cell.key: Record.model_validate(
        {
            **cell.described,
            "task": cell.task,
            "language": cell.languages[0],
            "value": VALUES[cell.key],
            "metric": "answer_language" if cell.task.startswith("write") else "bits_per_byte",
            "n": 10,
            "seconds": len(cell.task) / 2,
        }
    )
    for cell in CELLS
}


def view(written: io.StringIO) -> LiveFindings:
    return LiveFindings("lape", "zero", NEURONS, list(NAMES), GENERATION, Console(file=written, width=300))


def seconds_left(ended: Sequence[Cell], left: Sequence[Cell]) -> float:
    """Each cell as long as the mean of those of its task, else of all."""
    total = 0.0
    for cell in left:
        alike = [RECORDS[one.key].seconds or 0.0 for one in ended if one.task[:4] == cell.task[:4]]
        total += fmean(alike or [RECORDS[one.key].seconds or 0.0 for one in ended])
    return total


@settings(max_examples=10, deadline=None)
@given(st.permutations(CELLS))
def test_every_order_of_cells_shows_the_same_findings_once(todo: list[Cell]) -> None:
    written = io.StringIO()
    with view(written) as shown:
        for done, cell in enumerate(todo, start=1):
            shown(cell, [RECORDS[cell.key]], todo[done:])
            assert shown.time_left() == pytest.approx(seconds_left(todo[:done], todo[done:]))
    lines = written.getvalue().splitlines()
    assert len(lines) == len(set(lines))
    for language, name in NAMES.items():
        own = {cell.key.partition(" ")[::2]: VALUES[cell.key] for cell in CELLS if cell.languages == (language,)}
        plain, zero, random = (own[f"quiz_{language}", change] for change in ("- none", "lape zero", "random zero"))
        (finding,) = [line for line in lines if line.startswith(f"Setting {name}'s")]
        assert f"{COUNTS[language]} neurons to zero: {zero - plain:+.2f} bits per byte in {name}, " in finding
        assert finding.endswith(f": {random - plain:+.2f}")
        shares = [round(10 * own[f"write_{language}", change]) for change in ("lape zero", "- none", "random zero")]
        (generated,) = [line for line in lines if line.startswith("  ") and name in line]
        assert [int(word) for word in generated.replace("10", "").split() if word.isdigit()] == shares, generated
    table = shown.table()
    assert table.columns == list(NAMES)
    filled = {
        (*row.labels, code): cell.value for row in table.rows for code, cell in zip(NAMES, row.cells, strict=True)
    }
    assert len(filled) == len(NAMES) * len(CHANGES[TASK])
    assert filled["lape", "zero", "hi"] == VALUES["quiz_hi lape zero"]
    assert filled["random like lape", "p10", "ur"] == VALUES["quiz_ur random p10"]


def test_a_cell_that_failed_is_said_and_takes_no_other_with_it() -> None:
    written = io.StringIO()
    shown = view(written)
    for cell in CELLS:
        failed = cell.selector == "lape" and cell.languages == ("ur",)
        shown(cell, [cell.failure("no neurons")] if failed else [RECORDS[cell.key]], [])
    lines = written.getvalue().splitlines()
    assert sum("Setting Hindi's" in line for line in lines) == 1
    assert [("no neurons" in line) for line in lines if "Urdu" in line] == [True]


def test_what_tells_is_the_unchanged_model_and_the_neurons_with_their_control() -> None:
    telling = [cell for cell in CELLS if is_telling(cell, "lape", "zero")]
    assert {(cell.selector, cell.control_of, cell.intervention) for cell in telling} == set(TELLING)
