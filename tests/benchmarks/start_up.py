"""What the line in ``lnbench_lm_eval.pth`` adds to every start of Python, beside the start itself.

python -m tests.benchmarks.start_up --repeats 40
"""

from __future__ import annotations

import argparse
import statistics
import subprocess
import sys
import time
from pathlib import Path

import lnbench

LINE = (Path(lnbench.__file__).parent / "lnbench_lm_eval.pth").read_text(encoding="utf-8")


def start(code: str) -> float:
    """Seconds that a bare Python takes to start, run ``code`` and end."""
    started = time.perf_counter()
    subprocess.run([sys.executable, "-I", "-S", "-c", code], check=True)
    return time.perf_counter() - started


def main() -> None:
    """Print the medians of both, taken in turns, and their difference."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--repeats", type=int, default=40)
    repeats = parser.parse_args().repeats
    pairs = [(start("import sys"), start(LINE)) for _ in range(repeats)]
    bare, with_line = (statistics.median(side) * 1000 for side in zip(*pairs, strict=True))
    difference = statistics.median(second - first for first, second in pairs) * 1000
    print(f"bare start {bare:.2f} ms, with the line {with_line:.2f} ms: {difference:+.2f} ms, x {with_line / bare:.3f}")


if __name__ == "__main__":
    main()
