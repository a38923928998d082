"""Every command in the documentation is run, or stands in one table with the reason why not."""

from __future__ import annotations

import importlib.util
import re
import shlex
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from lnbench.host import get_host
from tests.support import docs_pages as docs
from tests.support.docs_commands import NOT_RUN, RUN, commands, looked_at, save_blocks
from tests.support.docs_world import World, substitutes

pytestmark = pytest.mark.slow

WITH_COMMANDS = [page for page in docs.PAGES if commands(page)]


@pytest.fixture
def here(world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    substitutes(world, monkeypatch)


@pytest.fixture
def example_plugin() -> Iterator[None]:
    """The plugin of the pages, as if it had been installed."""
    file = Path(__file__).parents[1] / "plugin_package" / "lnbench_example_plugin.py"
    spec = importlib.util.spec_from_file_location("lnbench_example_plugin", file)
    assert spec and spec.loader
    plugin = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(plugin)
    get_host().register(plugin)
    yield
    get_host().unregister(plugin)


@pytest.mark.parametrize("page", WITH_COMMANDS, ids=docs.name)
@pytest.mark.usefixtures("here", "example_plugin")
def test_every_command_runs(page: Path, world: World, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = world.page(docs.name(page))
    monkeypatch.chdir(folder)
    save_blocks(page, folder)
    for words in commands(page):
        if row := looked_at(words):
            row.look(words)
            continue
        assert words[0] in RUN, f"{page.name}: nothing is known of {shlex.join(words)}"
        world.run_once(words)


def test_every_row_of_the_table_is_needed() -> None:
    every = [shlex.join(words) for page in docs.PAGES for words in commands(page)]
    assert [row.begins for row in NOT_RUN if not any(re.match(row.begins, text) for text in every)] == []


@pytest.mark.parametrize("page", [page for page in docs.PAGES if docs.blocks(page, "bash")], ids=docs.name)
def test_scripts_for_a_cluster_are_whole(page: Path) -> None:
    for script in docs.blocks(page, "bash"):
        subprocess.run(["bash", "-n", "-c", script], check=True)
