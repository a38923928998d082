"""What the model wrote, on the first screen: from any task whose answers are written."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from lnbench import report
from lnbench.report.inputs import find
from lnbench.report.written import Written, written
from lnbench.tables.headline import headline
from tests.support.html_reader import read
from tests.support.messages import lacks
from tests.support.report import DOCUMENTS, Sweep, control

PLAIN, OTHER, ENGLISH = "नई दिल्ली है", "मुंबई है", ", New Delhi, is a city"


def write(sweep: Sweep, cell: int, answers: list[str], **scores: list[float]) -> None:
    """Make one cell's documents prompts that were continued."""
    path = sweep.folder / "cells" / f"{cell:016x}" / "samples.jsonl"
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    for number, line in enumerate(lines):
        line["arguments"] = {"gen_args_0": {"arg_0": f"भारत की राजधानी {number}", "arg_1": {"until": ["\n"]}}}
        line["filtered_resps"], line["target"] = [answers[number]], ""
        line |= {"metrics": [*line["metrics"], *scores]} | {name: values[number] for name, values in scores.items()}
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def found(sweep: Sweep) -> Written | None:
    sources = find([sweep.folder])
    return written(sources, headline(sources.shown_rows).rows)


@pytest.fixture
def generated(sweep: Sweep) -> Sweep:
    """The second document leaves Hindi under zero-ablation; a third intervention changes the first document."""
    sweep.add("none", "hi", task="open")
    sweep.add("zero", "hi", task="open", wrong=13)
    sweep.add("zero", "hi", task="open", **control(0))
    sweep.add("mean", "hi", task="open")
    same, kept = [PLAIN] * DOCUMENTS, [1.0] * DOCUMENTS
    left = [OTHER, ENGLISH, *same[2:]]
    write(sweep, 1, same, answer_language=kept)
    write(sweep, 2, left, answer_language=[1.0, 0.0, *kept[2:]])
    write(sweep, 3, same, answer_language=kept)
    write(sweep, 4, [OTHER, *same[1:]], answer_language=kept)
    return sweep


def test_the_answer_that_left_its_language_is_shown(generated: Sweep) -> None:
    shown = found(generated)
    assert shown is not None
    assert (shown.prompt, shown.language_name) == ("भारत की राजधानी 1", "Hindi")
    assert [(line.whose, line.text) for line in shown.lines] == [
        ("The model as it is", PLAIN),
        ("Setting Hindi's neurons to zero", ENGLISH),
        ("As many random neurons", PLAIN),
    ]


def test_without_a_metric_of_languages_a_changed_answer_is_shown(sweep: Sweep) -> None:
    sweep.add("none", "hi")
    sweep.add("zero", "hi")
    write(sweep, 1, [PLAIN] * DOCUMENTS)
    write(sweep, 2, [PLAIN, PLAIN, f"{OTHER} " * 50, *[PLAIN] * (DOCUMENTS - 3)])
    shown = found(sweep)
    assert shown is not None and shown.prompt.endswith("2") and len(shown.lines) == 2
    assert shown.lines[1].text.endswith("…") and len(shown.lines[1].text) < 120


@pytest.mark.parametrize("answers", [[PLAIN] * DOCUMENTS, [""] * DOCUMENTS])
def test_nothing_is_shown_where_no_answer_is_another(answers: list[str], sweep: Sweep) -> None:
    sweep.add("none", "hi")
    sweep.add("zero", "hi")
    for cell in (1, 2):
        write(sweep, cell, answers)
    assert found(sweep) is None


def test_choices_are_not_written(sweep: Sweep) -> None:
    sweep.add("none", "hi")
    sweep.add("zero", "hi", wrong=13)
    assert found(sweep) is None


@pytest.mark.usefixtures("undrawn")
def test_it_is_on_the_first_screen(generated: Sweep, tmp_path: Path) -> None:
    first = read(report.build([generated.folder], tmp_path / "out")).one("section", id="findings")
    (table,) = first.all("table", **{"class": "written"})
    assert not lacks(table.one("caption").text, "A prompt in Hindi", "भारत की राजधानी 1")
    assert table.rows() == [
        ["The model as it is", PLAIN],
        ["Setting Hindi's neurons to zero", ENGLISH],
        ["As many random neurons", PLAIN],
    ]
