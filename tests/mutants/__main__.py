"""Run the tests on every mutant: ``python -m tests.mutants [--only TEXT]`` (``make test-mutants``).

Every mutant is put into a copy of the checkout, one at a time. Those that the tests don't see are listed; the exit code
is 1 where less than nine in ten are seen, or a text is no longer in its file.
"""

from __future__ import annotations

import argparse
import os
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

from tests.mutants.mutants import MUTANTS

CHECKOUT = Path(__file__).resolve().parents[2]
LEAST_SEEN = 0.9
MOST_SECONDS = 180
"""For the tests of one mutant; one that hangs is seen."""


def mutants(only: str = "") -> Iterator[tuple[str, str, str, Sequence[str]]]:
    """Yield file, text, text in its place and tests of each mutant."""
    for file, (tests, changes) in MUTANTS.items():
        for text, other in changes:
            if only in f"{file}: {text} → {other}":
                yield file, text, other, tests


def passes(folder: Path, tests: Sequence[str], seconds: float = MOST_SECONDS) -> bool:
    """Return whether tests pass in a copy; in a process of their own, which has the libraries from this one."""
    child = os.fork()
    if child == 0:
        os.chdir(folder)
        sys.path[:] = [str(folder), *(path for path in sys.path if Path(path or ".").resolve() != CHECKOUT)]
        for name in [name for name in sys.modules if name.partition(".")[0] in ("lnbench", "tests", "docs")]:
            del sys.modules[name]
        os.environ["PYTHONPATH"] = str(folder)
        sys.dont_write_bytecode = True
        with Path(os.devnull).open("w") as nowhere:
            os.dup2(nowhere.fileno(), 1)
            os.dup2(nowhere.fileno(), 2)
        import pytest

        options = [
            "-x",
            "-q",
            "-n",
            "0",
            "-p",
            "no:cacheprovider",
            "--hypothesis-profile=ci",
            "-m",
            "not gemma and not wheel",
        ]
        os._exit(int(pytest.main([*options, *tests])))
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        done, status = os.waitpid(child, os.WNOHANG)
        if done:
            return os.waitstatus_to_exitcode(status) == 0
        time.sleep(0.05)
    os.kill(child, 9)
    os.waitpid(child, 0)
    return False


def main() -> int:
    """Run the check."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--only", default="", help="mutants that have this text in their line")
    only = parser.parse_args().only
    chosen = list(mutants(only))
    unseen, stale = [], []
    import hypothesis
    import peft
    import transformers.models.llama.modeling_llama  # noqa: F401

    del hypothesis, peft
    with tempfile.TemporaryDirectory() as scratch:
        folder = Path(scratch, "checkout")
        ignored = shutil.ignore_patterns(".*", "runs", "site", "build", "dist", "__pycache__")
        shutil.copytree(CHECKOUT, folder, ignore=ignored)
        os.environ["NUMBA_CACHE_DIR"] = str(Path(scratch, "numba"))
        for tests in dict.fromkeys(tests for *_, tests in chosen):
            if not passes(folder, tests, 5 * MOST_SECONDS):
                print(f"the tests {' '.join(tests)} fail without any mutant")
                return 1
        for number, (file, text, other, tests) in enumerate(chosen, 1):
            whole = (folder / file).read_text(encoding="utf-8")
            name = f"{file}: {text} → {other}"
            if whole.count(text) != 1:
                stale.append(name)
                continue
            (folder / file).write_text(whole.replace(text, other), encoding="utf-8")
            if passes(folder, tests):
                unseen.append(name)
            print(f"{number}/{len(chosen)} {'NOT SEEN' if unseen[-1:] == [name] else 'seen'}  {name}", flush=True)
            (folder / file).write_text(whole, encoding="utf-8")
    tried = len(chosen) - len(stale)
    print(f"{tried - len(unseen)} of {tried} mutants are seen ({1 - len(unseen) / max(1, tried):.0%})")
    print("\n".join([*(f"not seen: {name}" for name in unseen), *(f"no such text: {name}" for name in stale)]))
    return int(bool(stale) or len(unseen) > (1 - LEAST_SEEN) * tried)


if __name__ == "__main__":
    sys.exit(main())
