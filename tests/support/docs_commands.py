"""The shell commands of the documentation, and what is done with each: run, or looked at for a reason."""

from __future__ import annotations

import re
import shlex
import subprocess
import tomllib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path

from tests.support import docs_pages as docs

RUN = ("lnbench", "lm_eval")
"""Programs whose commands are run."""
_OUTPUT = ("--out", "-o", "--output_path", "--per-model")
_SAVED = {
    ("howto/own-task.md", 0): "my_tasks/my_task_hi.yaml",
    ("howto/own-task.md", 2): "my_sweep.yaml",
}
"""YAML blocks that a page tells the reader to save, and under which name."""
_ASSIGNMENT = re.compile(r"[A-Z_]+=\S*")


@dataclass(frozen=True)
class LookedAt:
    """Commands that a test cannot run, and how they are looked at in its place."""

    begins: str
    """A regular expression that the command begins with."""
    reason: str
    look: Callable[[Sequence[str]], None]


def commands(page: Path) -> list[list[str]]:
    """The commands of a page's ``sh`` blocks, in order, as lists of words."""
    lines = [line for block in docs.blocks(page, "sh") for line in block.replace("\\\n", " ").splitlines()]
    return [words for line in lines if (words := docs.words_of(line))]


def save_blocks(page: Path, folder: Path) -> None:
    """Save what a page tells the reader to save, below ``folder``."""
    for (owner, number), file in _SAVED.items():
        if owner == docs.name(page):
            (folder / file).write_text(docs.blocks(page, "yaml")[number], encoding="utf-8")


def paths_read(words: Sequence[str]) -> list[str]:
    """The paths that a command may read: all that its words are made of, but for its name and where it writes."""
    named = 2 if words[0] == "lnbench" else 1
    kept = [word for before, word in pairwise(words[named - 1 :]) if before not in _OUTPUT]
    return [part for word in kept for part in re.split(r"[=,:\[\]]", word) if part]


def looked_at(words: Sequence[str]) -> LookedAt | None:
    """The row of the table that a command falls under."""
    text = shlex.join(words)
    return next((row for row in NOT_RUN if re.match(row.begins, text)), None)


def _of_make(words: Sequence[str]) -> None:
    makefile = (docs.ROOT / "Makefile").read_text(encoding="utf-8")
    targets = set(re.findall(r"^([\w-]+):", makefile, re.MULTILINE))
    assert [word for word in words[1:] if "=" not in word and word not in targets] == []


def _of_pip(words: Sequence[str]) -> None:
    project = tomllib.loads((docs.ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    known = project["optional-dependencies"]
    wanted = re.findall(r"\[(\w+)\]", " ".join(words))
    assert [extra for extra in wanted if extra not in known] == []
    for option, value in pairwise(words):
        assert option not in ("-c", "--constraint") or (docs.ROOT / value).exists()


def _of_a_script(words: Sequence[str]) -> None:
    words = [word for word in words if not _ASSIGNMENT.fullmatch(word)]
    assert words[:2] == ["python", "-m"]
    source = (docs.ROOT / f"{words[2].replace('.', '/')}.py").read_text(encoding="utf-8")
    assert [word for word in words if word.startswith("--") and f'"{word}"' not in source] == []


def _of_several_processes(words: Sequence[str]) -> None:
    started = list(words[list(words).index("-m") + 1 :])
    parses(["lnbench" if started[0] == "lnbench.cli" else started[0], *started[1:]])


def parses(words: Sequence[str]) -> None:
    """Raises where our command line does not know a command or an option; lm_eval's is left to lm_eval."""
    if words[0] == "lnbench":
        docs.commandline().main(list(words[1:]), prog_name="lnbench", standalone_mode=False)


def _of_pytest(words: Sequence[str]) -> None:
    project = tomllib.loads((docs.ROOT / "pyproject.toml").read_text(encoding="utf-8"))
    marks = [mark.partition(":")[0] for mark in project["tool"]["pytest"]["ini_options"]["markers"]]
    assert [value for option, value in pairwise(words[2:]) if option == "-m" and value not in marks] == []


def _of_the_shell(words: Sequence[str]) -> None:
    subprocess.run(["bash", "-n", "-c", shlex.join(words)], check=True)


NOT_RUN = [
    LookedAt("make ", "installs into .venv, or runs for minutes", _of_make),
    LookedAt("pip ", "changes the environment", _of_pip),
    LookedAt(r"(\w+=\w+ )?python -m tests\.benchmarks\.", "measures for minutes", _of_a_script),
    LookedAt("(torchrun|accelerate launch) ", "starts several processes", _of_several_processes),
    LookedAt("lnbench sweep .*--executor (ray|slurm)", "needs a cluster, as tests/sweeps/test_ray.py has", parses),
    LookedAt("lnbench clas score ", "needs a run over pairs, as tests/tasks/test_clas.py makes", parses),
    LookedAt(
        "lnbench neurons (push|pull) ", "needs the hub, which tests/hub/test_neurons.py has a stand-in of", parses
    ),
    LookedAt("lnbench leaderboard .*--compare ", "needs runs of two models, as tests/leaderboard has", parses),
    LookedAt(
        "lnbench reproduce selector-bench .*small$", "runs 44 matrices, as tests/reproduce/test_bench.py few", parses
    ),
    LookedAt("apt-get ", "changes the machine", _of_the_shell),
    LookedAt("python -m pytest ", "runs tests", _of_pytest),
    LookedAt("export ", "sets variables of the shell", _of_the_shell),
]
