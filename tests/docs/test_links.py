"""Nothing in the documentation points nowhere: links, and names of commands, tasks, arguments and files."""

from __future__ import annotations

import inspect
import re
from itertools import pairwise
from pathlib import Path

import pytest
from lm_eval.models.huggingface import HFLM

from lnbench.finetuning.job import QUANTIZATIONS
from lnbench.lm.experiment import Experiment
from tests.docs.test_complete import COMMANDS, TASKS
from tests.support import docs_pages as docs
from tests.support.docs_commands import parses

every_page = pytest.mark.parametrize("page", [*docs.PAGES, *docs.PROJECT_PAGES], ids=docs.name)
OWN_TASKS = ("my_task_hi",)
"""Tasks that a page writes itself."""


@every_page
def test_links_resolve(page: Path) -> None:
    for link in docs.links(page):
        path, _, anchor = link.partition("#")
        target = (page.parent / path).resolve() if path else page
        assert target.exists(), link
        assert not anchor or anchor in docs.anchors(target), link


def test_the_readme_leads_to_the_documentation() -> None:
    linked = set(docs.links(docs.README))
    guides = [page for page in docs.PAGES[1:] if page.parent.name != "reference"]
    missing = [docs.name(page) for page in guides if f"docs/{docs.name(page)}" not in linked]
    assert missing == []


@every_page
def test_commands_parse(page: Path) -> None:
    for words in docs.commands(page, "lnbench"):
        if "--help" not in words and "--version" not in words:
            parses(words)


@every_page
def test_evaluations_name_tasks_and_arguments_that_exist(page: Path) -> None:
    known = {*Experiment.model_fields, *inspect.signature(HFLM).parameters, *QUANTIZATIONS["nf4"]}
    for words in docs.commands(page, "lm_eval", "lnbench"):
        given = dict(pairwise(words))
        if "--tasks" not in given:
            continue
        assert words[0] == "lnbench" or given["--include_path"] == "$(lnbench tasks)"
        assert [task for task in given["--tasks"].split(",") if task not in (*TASKS, *OWN_TASKS)] == []
        text = given.get("--model_args", "")
        if not text.startswith("{"):
            pairs = dict(part.split("=", 1) for part in text.split(",") if part)
            assert set(pairs) <= known
            assert words[0] == "lnbench" or "{" not in text


@every_page
def test_commands_named_in_running_text_exist(page: Path) -> None:
    for code in docs.inline(page):
        if re.fullmatch(r"lnbench( [a-z]+)+", code):
            assert [command for command in COMMANDS if f"{command} ".startswith(f"{code} ")], code


@every_page
def test_files_of_the_project_that_are_named_exist(page: Path) -> None:
    for code in docs.inline(page):
        if re.fullmatch(r"(tests|docs|lnbench|tasks)/[\w./-]+(\.\w+|/)", code):
            assert (docs.ROOT / code).exists(), code


def test_what_errors_and_comments_name_exists() -> None:
    for file in (docs.ROOT / "lnbench").rglob("*.py"):
        for name in re.findall(r"docs/[\w/-]+\.md", file.read_text(encoding="utf-8")):
            assert (docs.ROOT / name).exists(), f"{file}: {name}"
