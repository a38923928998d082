"""Every command of every page from the wheel, in another folder: some here, all of them by ``make test-docs``."""

from __future__ import annotations

import re
import shlex
import subprocess
from pathlib import Path

import pytest

from lnbench.model.packaged import DEFAULT_MODEL
from tests.support import docs_pages as docs
from tests.support.docs_commands import RUN, commands, looked_at, save_blocks
from tests.support.docs_world import save_model
from tests.support.wheel_world import CHECKOUT, CLAIMS, WheelWorld

pytestmark = pytest.mark.slow

STREAMED = "wikimedia/"
"""Commands that name it stream from the hub."""
PAGES = [page for page in docs.PAGES if any(words[0] in RUN for words in commands(page))]


def run_of(page: Path) -> list[list[str]]:
    """The commands of a page that are run."""
    return [words for words in commands(page) if not looked_at(words) and STREAMED not in shlex.join(words)]


@pytest.fixture(scope="module")
def wheel_world(tmp_path_factory: pytest.TempPathFactory) -> WheelWorld:
    folder = tmp_path_factory.mktemp("wheel")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("LNBENCH_CACHE", str(folder / "cache"))
        # One name for the model that all pages' names lead to: what one page prepares serves the next.
        return WheelWorld(folder, save_model(folder / DEFAULT_MODEL))


@pytest.mark.processes
def test_a_first_try_from_the_wheel(wheel_world: WheelWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    """What the how-to on one's own corpus writes, and an evaluation: a few commands, as each starts a Python."""
    here = wheel_world.page("first-try")
    monkeypatch.chdir(here)
    which = subprocess.run(
        ["bash", "-c", "lnbench tasks"], env=wheel_world.environment, capture_output=True, text=True, check=True
    )
    assert not Path(which.stdout.strip()).is_relative_to(CHECKOUT)
    assert Path(which.stdout.strip(), "xnli", "hi.yaml").is_file()
    for words in run_of(docs.DOCS / "howto/own-corpus.md"):
        if words[0] == "lnbench" and "--out" in words:
            wheel_world.run(words)
    wheel_world.run(shlex.split("lnbench eval --model_args intervention=p10 --tasks lnbench_demo_continuation_hi"))


@pytest.mark.wheel
@pytest.mark.parametrize("page", PAGES, ids=docs.name)
def test_every_command_from_the_wheel(page: Path, wheel_world: WheelWorld, monkeypatch: pytest.MonkeyPatch) -> None:
    here = wheel_world.page(docs.name(page))
    monkeypatch.chdir(here)
    save_blocks(page, here)
    for words in run_of(page):
        wheel_world.run_once(words)


def test_every_claim_is_of_a_command() -> None:
    every = [shlex.join(words) for page in PAGES for words in run_of(page)]
    assert [begins for begins in CLAIMS if not any(re.match(begins, text) for text in every)] == []
