"""Two models, adapters or runs side by side: what is paired with what, and what is said where nothing can be."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from lnbench.cli.commands.leaderboard import app
from lnbench.leaderboard import compare_sides, read_runs
from lnbench.significance import compare, holm
from lnbench.tables.versus import versus_tables
from tests.support.messages import lacks, refused
from tests.support.runs import RIGHT, Run

_HALF = [1.0, 0.0] * 6


def two_models(run: Run, **other: Any) -> None:
    for language in ("hi", "en"):
        run.add("none", {"acc": RIGHT, "bits_per_byte": [1.0 + n / 9 for n in range(12)]}, language=language)
        run.add("none", {"acc": [0.0] * 9 + [1.0] * 3, "bits_per_byte": [1.5 + n / 7 for n in range(12)]}, **other,
                language=language)  # fmt: skip
    run.add("zero", {"acc": _HALF})
    run.add("zero", {"acc": [0.0] * 12}, **other)


@pytest.mark.parametrize(
    ("other", "name"),
    [
        ({"model": "org/big", "weights": "v"}, "big"),
        ({"finetune": "tuned", "adapter": "/home/me/adapters/one", "weights": "v"}, "tuned"),
        ({"finetune": "tuned", "adapter": "/home/me/adapters/one", "weights": "v"}, "one"),
    ],
)
def test_numbers_are_those_of_the_paired_tests(run: Run, other: dict[str, Any], name: str) -> None:
    two_models(run, **other)
    compared = compare_sides(read_runs([run.folder]), "m", name)
    by_metric: dict[str, list[Any]] = {}
    for match in compared.matches:
        by_metric.setdefault(str(match.first.record.metric), []).append(match)
    assert {metric: len(own) for metric, own in by_metric.items()} == {"acc": 3, "bits_per_byte": 2}
    for own in by_metric.values():
        expected = [compare(match.first.values, match.second.values, family=len(own)) for match in own]
        assert [match.comparison for match in own] == expected
        assert [match.p_holm for match in own] == pytest.approx(holm([one.p_value or 0 for one in expected]))
    back = compare_sides(read_runs([run.folder]), name, "m")
    deltas = [match.comparison.delta for match in compared.matches if match.comparison]
    assert [-match.comparison.delta for match in back.matches if match.comparison] == pytest.approx(deltas)
    tables = versus_tables(compared)
    assert [table.columns[:3] for table in tables] == [["m", name, "difference"]] * 2
    assert [len(table.rows) for table in tables] == [3, 2]
    assert tables[0].rows[0].cells[2].marks == "*"


def test_two_runs_are_compared_model_by_model(tmp_path: Path) -> None:
    runs = [Run(tmp_path / name) for name in ("before", "after")]
    for number, run in enumerate(runs):
        for model in ("m", "n"):
            cell = f"{number}{model}".encode().hex().zfill(16)
            run.add("none", {"acc": RIGHT if number else _HALF}, model=model, weights=model, cell=cell)
    compared = compare_sides(read_runs([run.folder for run in runs]), str(runs[0].folder), "after")
    assert [match.first.record.model for match in compared.matches] == ["m", "n"]
    (table,) = versus_tables(compared)
    assert (table.columns[:2], table.labels[-1]) == (["before", "after"], "model")
    assert {match.comparison.delta for match in compared.matches if match.comparison} == {0.5}


def test_other_documents_are_said_and_not_paired(run: Run) -> None:
    run.add("none", {"acc": RIGHT})
    run.add("none", {"acc": _HALF}, model="n", weights="v", documents="ABCDEFGHIJKL")
    run.add("zero", {"acc": _HALF}, model="n", weights="v")
    (table,) = versus_tables(compare_sides(read_runs([run.folder]), "m", "n"))
    assert table.columns == ["m", "n"]
    assert [cell.value for cell in table.rows[0].cells] == [1.0, 0.5]
    assert not lacks(" ".join(table.notes), "12", "0 in common", "1 result")


def test_where_some_are_paired_the_others_have_no_difference(run: Run) -> None:
    for language, documents in (("hi", None), ("en", "ABCDEFGHIJKL")):
        run.add("none", {"acc": RIGHT}, language=language)
        run.add("none", {"acc": _HALF}, language=language, model="n", weights="v", documents=documents)
    (table,) = versus_tables(compare_sides(read_runs([run.folder]), "m", "n"))
    assert {row.labels[0]: row.cells[2].value for row in table.rows} == {"hi": -0.5, "en": None}


@settings(max_examples=15)
@given(st.lists(st.tuples(st.sampled_from("mn"), st.sampled_from(["none", "zero", "p10"]), st.sampled_from("xy"))))
def test_what_is_matched_is_what_both_have(tmp_path_factory: Any, cells: list[tuple[str, str, str]]) -> None:
    run = Run(tmp_path_factory.mktemp("run"))
    distinct = set(cells)
    for model, intervention, language in sorted(distinct):
        run.add(intervention, {"acc": RIGHT}, model=model, weights=model, language=language, task=f"quiz_{language}")
    shared = {
        rest for model, *rest_ in distinct for rest in [tuple(rest_)] if ("n", *rest) in distinct and model == "m"
    }
    results = read_runs([run.folder]) if distinct else []
    if not shared:
        with refused():
            compare_sides(results, "m", "n")
        return
    compared = compare_sides(results, "m", "n")
    found = {(match.first.record.intervention, match.first.record.language) for match in compared.matches}
    assert found == shared
    counts = [sum(model == own for model, *_ in distinct) - len(shared) for own in "mn"]
    assert list(compared.alone) == counts


def test_names_that_say_too_little_or_too_much_are_refused(run: Run) -> None:
    two_models(run, model="n", weights="v")
    run.add("none", {"acc": RIGHT}, model="n", weights="u", dtype="bfloat16")
    run.add("none", {"acc": RIGHT}, finetune="m", adapter="adapters/m", weights="t")
    results = read_runs([run.folder])
    with refused("x", "m", "n", "--compare"):
        compare_sides(results, "x", "n")
    with refused("model:m", "adapter:m"):
        compare_sides(results, "m", "n")
    with refused("n", "dtype", "bfloat16"):
        compare_sides(results, "model:m", "n")
    with refused("model:m"):
        compare_sides(results, "model:m", "model:m")


@pytest.mark.parametrize("format_", ["terminal", "latex", "markdown", "csv"])
def test_the_command_prints_it(run: Run, format_: str) -> None:
    two_models(run, model="org/big", weights="v")
    words = [str(run.folder), "--compare", "m", "org/big", "--format", format_]
    shown = CliRunner().invoke(app, words, catch_exceptions=False).stdout
    assert not lacks(shown, "difference", "big", "lape", "zero")
    refusal = CliRunner().invoke(app, [*words, "--rows"])
    assert not lacks(str(refusal.exception), "--compare", "--rows")
