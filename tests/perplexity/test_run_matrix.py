"""``lnbench ppl``: from a request to files, what is printed, and the files themselves."""

from __future__ import annotations

import os
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
from safetensors import safe_open
from typer.testing import CliRunner

from lnbench.cli import app
from lnbench.console import console
from lnbench.files import read_json, write_json
from lnbench.locks import exclusive_lock
from lnbench.neurons import NeuronSet
from lnbench.perplexity import checkpoint as passes
from lnbench.perplexity.matrix import Contrast, PerplexityMatrix
from lnbench.perplexity.request import PerplexityRequest
from lnbench.perplexity.run_matrix import load, run
from lnbench.statistics import Statistics
from lnbench.tables.perplexity import matrix_tables
from lnbench.tables.render import terminal as rendered
from tests.support.messages import lacks, refused


@pytest.fixture(scope="module")
def done(tmp_path_factory: pytest.TempPathFactory, tiny_model: str) -> tuple[PerplexityMatrix, Path]:
    """A finished request and its folder."""
    out = tmp_path_factory.mktemp("ppl")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LNBENCH_CACHE", str(tmp_path_factory.getbasetemp() / "cache"))
        patch.setenv("LNBENCH_DISABLE_PLUGINS", "1")
        request = PerplexityRequest(
            model=tiny_model,
            selector="act_prob:fraction=0.15",
            languages="en+hi",
            read="hi+en+zh",
            tokens=300,
            length=32,
            corpus_tokens=400,
            controls=1,
            batch_size=4,
        )
        return run(request, out, progress=False), out


def test_what_is_written(done: tuple[PerplexityMatrix, Path], tiny_model: str) -> None:
    matrix, out = done
    assert PerplexityMatrix.load(out / "perplexity.json") == matrix
    assert (matrix.changed, matrix.read) == (["en", "hi"], ["hi", "en", "zh"])
    assert matrix.model == Path(tiny_model).name
    assert (matrix.selector, matrix.intervention) == ("act_prob:fraction=0.15", "zero")
    assert {text.overlap for text in matrix.slices.values()} == {0}
    neurons = NeuronSet.load(out / "neurons" / "act_prob_fraction_0.15.json")
    assert neurons.fingerprint == matrix.neuron_set
    with safe_open(out / passes.FILE, framework="np") as file:
        kept = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for language, text in matrix.slices.items():
        assert kept[f"tokens/{language}"].sum() == text.tokens
        assert kept[f"bytes/{language}"].sum() == text.bytes
    added = kept["en/zh"].sum() - kept["unchanged/zh"].sum()
    assert matrix.cell("en", "zh").delta_nats == pytest.approx(added / kept["tokens/zh"].sum())
    assert len(kept) == 3 * (2 + 1 + 2 * 2)


def test_the_command_repeats_it(done: tuple[PerplexityMatrix, Path], tmp_path: Path) -> None:
    matrix, _ = done
    assert matrix.command is not None
    program, *words = shlex.split(matrix.command)
    assert program == "lnbench"
    assert words[-2] == "--out"
    result = CliRunner().invoke(app, [*words[:-1], str(tmp_path)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    assert PerplexityMatrix.load(tmp_path / "perplexity.json").cells == matrix.cells
    printed = re.sub(r"\s+", " ", result.output)
    assert not lacks(printed, "nats per token", "zero", "act_prob:fraction=0.15", "Rows:", "columns:")
    assert str(tmp_path / "perplexity.json") in result.output


def test_several_interventions_have_a_folder_each(request_of: Any, tmp_path: Path) -> None:
    words = request_of(tokens=100, controls=0).command.split()[1:]
    words += ["--intervention", "zero", "--intervention", "constant:value=0.5"]
    result = CliRunner().invoke(app, [*words, "--out", str(tmp_path)], catch_exceptions=False)
    assert result.exit_code == 0, result.output
    first, second = (
        PerplexityMatrix.load(tmp_path / name / "perplexity.json") for name in ("zero", "constant_value_0.5")
    )
    assert first.baseline == second.baseline
    assert first.cells != second.cells


def test_a_folder_is_used_by_one_and_for_one_request(
    done: tuple[PerplexityMatrix, Path], request_of: Any, tmp_path: Path
) -> None:
    with exclusive_lock(tmp_path), refused(tmp_path, os.getpid()):
        run(request_of(), tmp_path, progress=False)
    with refused(done[1], "text", "--out"):
        run(request_of(tokens=200), done[1], progress=False)


def test_a_neuron_set_and_statistics_from_files(
    done: tuple[PerplexityMatrix, Path], request_of: Any, tmp_path: Path
) -> None:
    file = str(next((done[1] / "neurons").iterdir()))
    lm = load(request_of())
    for language in ("en", "hi"):
        lm.artifacts.statistics(lm.experiment, language).save(tmp_path / "stats")
    given = {"neurons": file, "languages": (), "statistics": str(tmp_path / "stats"), "controls": 0}
    found = run(request_of(**given), tmp_path / "out", progress=False)
    assert (found.changed, found.read, found.selector) == (["en", "hi"], ["en", "hi"], file)
    assert found.cell("en", "hi").delta_nats == done[0].cell("en", "hi").delta_nats
    assert {text.overlap for text in found.slices.values()} == {0}
    assert found.statistics == {
        language: Statistics.load(tmp_path / "stats", language).fingerprint for language in ("en", "hi")
    }
    # Neurons that were selected from something else: nobody knows from which text.
    other = NeuronSet("tiny-llama", 3, 24, {"en": {0: [1]}})
    other.save(tmp_path / "other.json")
    unknown = run(request_of(**given | {"neurons": str(tmp_path / "other.json")}), tmp_path / "other", progress=False)
    assert unknown.slices["en"].overlap is None
    assert any(not lacks(note, "en", "Statistics") for note in unknown.notes)


def test_one_text_for_both_is_told(request_of: Any, tiny_corpus: str, tmp_path: Path) -> None:
    found = run(request_of(corpus=tiny_corpus, corpus_tokens=10_000, controls=0), tmp_path, progress=False)
    assert {text.overlap for text in found.slices.values()} == {1}
    assert any(not lacks(note, "en", "Statistics", "100%") for note in found.notes)
    assert any("no control" in note for note in found.notes)


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"intervention": "none"}, ["intervention='none'"]),
        ({"intervention": "p200"}, ["percent=200"]),
        ({"tokens": 0}, ["tokens=0"]),
        ({"batch_size": 0}, ["batch_size=0"]),
        ({"languages": "en+en"}, ["languages='en+en'"]),
        ({"site": "middle"}, ["site='middle'"]),
        ({"selectr": "lape"}, ["selectr"]),
    ],
)
def test_requests_that_do_not_fit(request_of: Any, given: dict[str, Any], named: list[str]) -> None:
    with refused(*named):
        request_of(**given)


def test_errors_of_a_run(request_of: Any, tmp_path: Path) -> None:
    with refused("ta", "en, hi, ur, vi, zh"):
        run(request_of(read="ta"), tmp_path / "a")
    with refused("1000", "512", "--length"):
        run(request_of(length=1000), tmp_path / "b")
    with refused("zh", "en, hi"):
        run(request_of(changed="zh"), tmp_path / "c")
    result = CliRunner().invoke(app, ["ppl", "--batch-size", "many", "--out", str(tmp_path)])
    assert "--batch-size='many'" in str(result.exception)


# The file


def test_files_that_are_no_matrix(done: tuple[PerplexityMatrix, Path], tmp_path: Path) -> None:
    path = tmp_path / "perplexity.json"
    found = read_json(done[1] / "perplexity.json")
    for change, named in (
        ({"format": "other/1"}, ["lnbench.perplexity/1"]),
        ({"cells": found["cells"][1:]}, ["cells", "changed", "read"]),
        ({"baseline": 3}, ["baseline"]),
    ):
        write_json(path, found | change)
        with refused(path, *named):
            PerplexityMatrix.load(path)
    with refused("ta", "hi, en, zh"):
        done[0].cell("en", "ta")


# What is printed


def printed(matrix: PerplexityMatrix) -> str:
    terminal = console()
    with terminal.capture() as captured:
        terminal.print(rendered(*matrix_tables(matrix)))
    return re.sub(r"\s+", " ", captured.get())


def with_rows(matrix: PerplexityMatrix, **changes: dict[str, Any]) -> PerplexityMatrix:
    """The matrix with other rows of selectivity."""
    rows = [row.model_copy(update=changes[row.changed]) for row in matrix.selectivity]
    return matrix.model_copy(update={"selectivity": rows})


def test_the_table_says_whose_neurons_are_shared(done: tuple[PerplexityMatrix, Path]) -> None:
    cells = [
        cell.model_copy(update={"delta_nats": nats, "delta_bits_per_byte": nats / 10, "p_holm": 0.01})
        for cell, nats in zip(done[0].cells, (0.5, 0.2, 0.1, -0.1, -0.2, -0.3), strict=True)
    ]
    shared = {"en": {"hi": 3, "zh": 12}, "hi": {"en": 0, "zh": 0}}
    matrix = done[0].model_copy(update={"cells": cells, "neurons": {"en": 30, "hi": 20}, "shared": shared})
    harmed = {"dominant": False, "most_harmed": "hi", "bits_per_byte": None}
    text = printed(with_rows(matrix, en=harmed | {"own": 0.2}, hi=harmed | {"own": -0.1}))
    english, hindi = text.partition("neurons of en")[2].split("neurons of hi", maxsplit=1)
    assert not lacks(english, "hi (+0.500 nats per token)", "en (+0.200)", "30 neurons", "12", "zh", "3")
    assert not lacks(hindi, "20 neurons")
    per_byte = Contrast(own=0.09, others=0, difference=0, low=0, high=0, dominant=False, most_harmed="hi")
    both = with_rows(matrix, en=harmed | {"own": 0.2, "bits_per_byte": per_byte}, hi={"dominant": True})
    assert not lacks(printed(both), "hi (+0.050 bits per byte)", "en (+0.090)")


def test_the_table_in_both_units(done: tuple[PerplexityMatrix, Path]) -> None:
    text = printed(done[0])
    for cell in done[0].cells:
        assert f"{cell.delta_nats:+.3f}" in text
        assert f"{cell.delta_bits_per_byte:+.3f}" in text
    assert f"{done[0].selectivity[0].bits_per_byte.difference:+.3f} [" in text  # type: ignore[union-attr]


def test_too_few_blocks_to_find_anything_are_told(request_of: Any, tmp_path: Path) -> None:
    """Five blocks: p cannot be below 2 / 2⁵, which Holm multiplies by the four cells."""
    few = run(request_of(tokens=150, controls=0), tmp_path / "few", progress=False)
    assert any(not lacks(note, "en", "5 blocks", "4 cells") for note in few.notes)
    enough = run(request_of(tokens=250, controls=0), tmp_path / "enough", progress=False)
    assert not any("4 cells" in note for note in enough.notes)
