"""What a newcomer met on a walk through the pages: claims without grounds, a machine's paths, a lost order."""

from __future__ import annotations

import re
from itertools import pairwise
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import torch

from lnbench import NeuronSet
from lnbench.analysis.overlap import by_chance
from lnbench.choices import select
from lnbench.model.describe import model_name
from lnbench.sweeps.cells import OUR_TASKS
from lnbench.tables.findings import UNITS, own_text_harmed_most, shared_neurons
from lnbench.tables.neurons import overlap_table
from lnbench.tables.words import without_folders
from lnbench.testing import tiny_model, tiny_statistics
from tests.support import docs_pages as docs
from tests.support.messages import lacks
from tests.support.report import matrix as matrix_of_report

NAMES = {
    "/home/somebody/.cache/lnbench/models/0123456789ab-1/gemma-3-270m": "gemma-3-270m",
    "/home/somebody/models/mine/": "mine",
    "../models/mine": "mine",
    "./mine": "mine",
    "~/mine": "mine",
    "/x/hub/models--Qwen--Qwen3-0.6B-Base/snapshots/0a1b2c3d": "Qwen/Qwen3-0.6B-Base",
    "Qwen/Qwen3-0.6B-Base": "Qwen/Qwen3-0.6B-Base",
    "gpt2": "gpt2",
    "": "SimpleNamespace",
}


@pytest.mark.parametrize(("source", "name"), NAMES.items())
def test_a_models_name_is_no_path(source: str, name: str) -> None:
    model: Any = SimpleNamespace(config=SimpleNamespace(_name_or_path=source))
    assert model_name(model) == name


COMMANDS = {
    f"lm_eval --model_args pretrained=gemma-3-270m --include_path {OUR_TASKS} --tasks x": (
        f"lm_eval --model_args pretrained=gemma-3-270m --include_path {OUR_TASKS} --tasks x"
    ),
    "lnbench ppl --model /home/me/m/tiny --out 'runs/a b'": "lnbench ppl --model tiny --out 'runs/a b'",
    "--model_args pretrained=/home/me/tiny,neurons=/tmp/a/lape.json,peft=adapters/x": (
        "--model_args pretrained=tiny,neurons=lape.json,peft=adapters/x"
    ),
    """--model_args '{"corpus": "/data/text/{lang}.jsonl.gz"}'""": """--model_args '{"corpus": "{lang}.jsonl.gz"}'""",
    "--corpus wikimedia/wikipedia:20231101.{lang}": "--corpus wikimedia/wikipedia:20231101.{lang}",
    "see https://example.org/a/b.html, 3/4 of it": "see https://example.org/a/b.html, 3/4 of it",
}


@pytest.mark.parametrize(("command", "shown"), COMMANDS.items())
def test_a_page_shows_commands_without_the_machines_folders(command: str, shown: str) -> None:
    assert without_folders(command) == shown


@pytest.mark.parametrize("order", [("zh", "en", "hi"), ("hi", "zh", "en"), ("en", "hi", "zh")])
def test_the_order_of_languages_is_the_users(order: tuple[str, ...], tmp_path: Any) -> None:
    statistics = tiny_statistics(tiny_model(), order)
    neurons = select("act_prob:fraction=0.2", statistics)
    neurons.save(tmp_path / "neurons.json")
    again = NeuronSet.load(tmp_path / "neurons.json")
    table = overlap_table(again)
    assert table.columns == list(order)
    assert [row.labels for row in table.rows] == [[language] for language in order]
    assert again == neurons
    assert again.languages == sorted(order)


def test_overlap_is_shown_beside_chance() -> None:
    generator = torch.Generator().manual_seed(0)
    masks = {code: torch.rand(3, 40, generator=generator) < share for code, share in (("hi", 0.3), ("en", 0.1))}
    neurons = NeuronSet.from_masks("tiny", masks)
    (first, second) = overlap_table(neurons).rows
    english, hindi = (NeuronSet.from_masks("tiny", {"x": masks[code]}) for code in ("en", "hi"))
    chance = by_chance(hindi, english, "x")
    for cell in (first.cells[1], second.cells[0]):
        index = cell.bracketed
        assert index is not None and index.bracketed is not None
        assert cell.value == int((masks["hi"] & masks["en"]).sum())
        assert index.value == pytest.approx(float(neurons.overlap().jaccard[0, 1]))
        assert index.bracketed.value == pytest.approx(chance.jaccard)
    assert first.cells[0].bracketed is None
    nothing = overlap_table(NeuronSet("tiny", 3, 40, {"hi": {}, "en": {}})).rows[0].cells[1].bracketed
    assert nothing is not None and nothing.bracketed is not None and nothing.bracketed.value == 0


@pytest.mark.parametrize("unit", UNITS)
@pytest.mark.parametrize(("p_holm", "told"), [(0.01, True), (0.2, False), (1.0, False), (0.05, False)])
def test_nothing_is_claimed_where_nothing_can_be_told(unit: str, p_holm: float, told: bool) -> None:
    matrix = matrix_of_report()
    cells = [cell.model_copy(update={"p_holm": p_holm}) for cell in matrix.cells]
    matrix = matrix.model_copy(update={"cells": cells})
    judged = [code for code in matrix.changed if code in matrix.read and matrix.neurons[code]]
    sentence = own_text_harmed_most(matrix, unit)
    assert ("cannot be told" in sentence) is not told
    assert not lacks(sentence, *judged) or told
    assert all(("significantly" in line) is not told for line in shared_neurons(matrix))


def test_a_claim_counts_what_can_be_told_alone() -> None:
    matrix = matrix_of_report()
    judged = [code for code in matrix.changed if code in matrix.read and matrix.neurons[code]]
    sure = judged[0]
    cells = [cell.model_copy(update={"p_holm": 0.01 if cell.changed == sure else 0.5}) for cell in matrix.cells]
    sentence = own_text_harmed_most(matrix.model_copy(update={"cells": cells}), "nats")
    assert "of 1 language" in sentence
    assert not lacks(sentence, *judged[1:])


COMPARE_TWO = re.compile(r"--languages \w\w\+\w\w(?!\+)|languages=\w\w\+\w\w(?!\+)")


@pytest.mark.parametrize("page", [page for page in docs.PAGES if "howto" in page.parts], ids=docs.name)
def test_pages_that_compare_two_languages_say_what_that_means(page: Path) -> None:
    selecting = [block for block in docs.blocks(page, "sh") for line in block.splitlines() if COMPARE_TWO.search(line)]
    if any("finetune masked_lora" not in block for block in selecting):
        text = docs.prose(page)
        assert re.search(r"set (also )?depends on the\s+languages", text), (
            f"{docs.name(page)} begins with two languages"
        )


def test_the_python_of_lm_eval_works_anywhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from lm_eval.tasks import TaskManager

    class OursAlone(TaskManager):  # type: ignore[misc]
        def __init__(self, **given: Any) -> None:
            super().__init__(**given, include_defaults=False)

    (source,) = [block for block in docs.blocks("howto/lm-eval.md", "python") if "simple_evaluate" in block]
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("lm_eval.tasks.TaskManager", OursAlone)
    seen: dict[str, Any] = {}
    monkeypatch.setattr("lm_eval.simple_evaluate", lambda **given: seen.update(given))
    exec(source, {})
    manager = seen["task_manager"]
    assert isinstance(manager, TaskManager)
    assert set(seen["tasks"]) <= set(manager.all_tasks)


def test_the_diagram_of_the_home_page_fits() -> None:
    """A line of code has room for about 80 characters beside navigation and contents at 1280 pixels."""
    lines = [line for line in docs.read("index.md").splitlines() if line.startswith("    ")]
    assert "text in several languages" in lines[0]
    assert max(map(len, lines)) < 80


def test_the_tutorial_writes_only_what_git_ignores() -> None:
    ignored = (docs.ROOT / ".gitignore").read_text().split()
    lines = [words for block in docs.blocks("tutorial.md", "sh") for words in [block.replace("\\\n", " ").split()]]
    written = [word for words in lines for before, word in pairwise(words) if before in ("--out", "-o")]
    assert written
    assert [folder for folder in written if f"{folder.partition('/')[0]}/" not in ignored] == []
