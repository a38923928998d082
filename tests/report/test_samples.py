"""lm-eval's samples of every kind of task, side by side."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest

from lnbench.report.inputs import find
from lnbench.report.page import language_tag, visible
from lnbench.report.samples import Answer, SampleDocument, SampleGroup, sample_groups
from tests.support.messages import refused
from tests.support.report import DOCUMENTS, Sweep, control


def group_of(sweep: Sweep) -> SampleGroup:
    (found,) = sample_groups(find([sweep.folder]))
    return found


def rewrite(sweep: Sweep, cell: int, **changes: Any) -> None:
    """Change the samples of one cell."""
    path = sweep.folder / "cells" / f"{cell:016x}" / "samples.jsonl"
    lines = [json.loads(line) | changes for line in path.read_text(encoding="utf-8").splitlines()]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")


def test_a_choice_is_the_likeliest(sweep: Sweep) -> None:
    sweep.add("none", "en")
    sweep.add("zero", "en", wrong=1)
    first, second, *_ = group_of(sweep).documents
    assert first.text == "The lamp in the harbour burns all night?"
    assert first.choices == ["The lamp in the harbour burns all night 0", "another", "a third"]
    assert first.expected == first.choices[0]
    assert [(one.change, one.exact, one.text, one.right, one.changed) for one in first.answers] == [
        ("no intervention", "none", first.choices[0], True, False),
        ("zero-ablation, LAPE, top 1\u00a0%", "zero, lape", "another", False, True),
    ]
    assert (first.changed, second.changed) == (True, False)


def test_choices_of_contexts(sweep: Sweep) -> None:
    sweep.add("none", "en")
    asked = {f"gen_args_{place}": {"arg_0": f"context {place}", "arg_1": " goes on"} for place in range(3)}
    rewrite(sweep, 1, arguments=asked, target="goes on")
    document = group_of(sweep).documents[0]
    assert (document.text, document.choices) == ("… goes on", ["context 0", "context 1", "context 2"])
    assert (document.expected, document.answers[0].text) == ("", "context 0")


def test_generated_text(sweep: Sweep) -> None:
    sweep.add("none", "en")
    sweep.add("zero", "en", wrong=14)
    for cell, answer in ((1, "Paris"), (2, "London")):
        asked = {"gen_args_0": {"arg_0": "Which city?", "arg_1": {"until": ["\n"]}}}
        rewrite(sweep, cell, arguments=asked, filtered_resps=[answer], target=["Paris", "paris"])
    document = group_of(sweep).documents[0]
    assert (document.text, document.choices, document.expected) == ("Which city?", [], "Paris / paris")
    assert [(one.text, one.right) for one in document.answers] == [("Paris", True), ("London", False)]


@pytest.mark.parametrize(
    ("kept", "shown"),
    [
        ("['Paris', 'paris']", "Paris / paris"),
        (["Paris", "Paris"], "Paris"),
        ("{'text': ['Paris'], 'answer_start': [], 'id': 7}", "text: Paris\nid: 7"),
        ("[sic] as it was written", "[sic] as it was written"),
        ("(", "("),
        ("[1", "[1"),
        (3, "3"),
    ],
)
def test_answers_are_text_and_not_python(kept: Any, shown: str, sweep: Sweep) -> None:
    sweep.add("none", "en")
    asked = {"gen_args_0": {"arg_0": "Which city?", "arg_1": {"until": ["\n"]}}}
    rewrite(sweep, 1, arguments=asked, filtered_resps=["['a', 'list']"], target=kept)
    document = group_of(sweep).documents[0]
    assert document.expected == shown
    assert document.answers[0].text == "['a', 'list']", "what a model wrote is never read as anything"


def test_a_likelihood_alone_is_no_answer(sweep: Sweep) -> None:
    sweep.add("none", "en")
    rewrite(sweep, 1, arguments={"gen_args_0": {"arg_0": "A text."}}, filtered_resps=[["-12.5", "False"]])
    document = group_of(sweep).documents[0]
    assert (document.text, document.answers[0].text, document.changed) == ("A text.", "", False)


def test_controls_are_left_out_and_tasks_kept_apart(sweep: Sweep) -> None:
    for language in ("en", "hi"):
        sweep.add("zero", language)
        sweep.add("zero", language, **control(0))
        sweep.add("none", language)
    found = sample_groups(find([sweep.folder]))
    assert [(group.title, group.exact, group.task, group.total) for group in found] == [
        ("quiz, English: m float32", "quiz_en", "quiz", DOCUMENTS),
        ("quiz, Hindi: m float32", "quiz_hi", "quiz", DOCUMENTS),
    ]
    assert [[one.exact for one in group.documents[0].answers] for group in found] == [["none", "zero, lape"]] * 2


def test_the_end_of_a_long_text_is_kept(sweep: Sweep) -> None:
    sweep.add("none", "en")
    rewrite(sweep, 1, arguments={"gen_args_0": {"arg_0": "x" * 5000 + " Question?", "arg_1": {}}}, filtered_resps=["a"])
    shown = group_of(sweep).documents[0].text
    assert shown.startswith("[3,510 characters left out] …x")
    assert shown.endswith(" Question?")


def document(number: int, changed: bool = False) -> SampleDocument:
    return SampleDocument(number, "x" * 1000, (), "", [Answer("none", "none", "a", True, changed, "acc 1")])


def test_changed_answers_are_kept_when_there_is_no_room() -> None:
    group = SampleGroup("some", "t_en", "t", "en", [document(number, number % 10 == 9) for number in range(50)], 50)
    size = group.documents[0].size
    assert group.within(50 * size) == group
    assert [shown.number for shown in group.within(7 * size).documents] == [0, 1, 9, 19, 29, 39, 49]
    assert [shown.number for shown in group.within(3 * size).documents] == [9, 19, 29]
    assert group.within(size - 1).documents == []
    assert group.within(size - 1).total == 50


@pytest.mark.parametrize(
    ("given", "shown"),
    [
        ("a\x00b\x1b[0m\x7f\x9b", "a␀b␛[0m\ufffd\ufffd"),
        ("\ud800x", "\ufffdx"),
        ("tab\tand\nline\u2028 हिन्दी", "tab\tand\nline\u2028 हिन्दी"),
    ],
)
def test_what_a_page_cannot_hold_is_made_visible(given: str, shown: str) -> None:
    assert visible(given) == shown
    shown.encode()


@pytest.mark.parametrize(
    ("language", "tag"), [("hi", "hi"), ("zh-Hant", "zh-Hant"), ("ur", "ur"), ('"><script>', None), ("", None)]
)
def test_a_language_is_tagged_where_it_is_one(language: str, tag: str | None) -> None:
    assert language_tag(language) == tag


def test_samples_that_are_no_samples_are_named(sweep: Sweep, tmp_path: Path) -> None:
    sweep.add("none", "en")
    path = sweep.folder / "cells" / f"{1:016x}" / "samples.jsonl"
    path.write_text("{", encoding="utf-8")
    with refused(path, error=ValueError):
        sample_groups(find([sweep.folder]))
