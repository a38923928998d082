"""What finding and checking a model's neurons costs, once per load, beside one forward pass on as short a text.

python -m tests.benchmarks.locating [--model FOLDER_OR_PACKAGED_NAME] [--threads 1 2] [--repeats 7]

The default model has the shape of Gemma 3 270M with a small vocabulary and random weights.
"""

from __future__ import annotations

import argparse
import statistics
import time
from collections.abc import Callable
from typing import Any

import torch

from lnbench.model.locate import _KEPT, locate
from lnbench.model.structure import probe
from tests.benchmarks.override_cost import load


def seconds(run: Callable[[], Any]) -> float:
    started = time.perf_counter()
    run()
    return time.perf_counter() - started


def main() -> None:
    """Print the medians, and the largest, for each number of threads."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--repeats", type=int, default=7)
    asked = parser.parse_args()
    model = load(asked.model)
    inputs = probe(model)
    for threads in asked.threads:
        torch.set_num_threads(threads)
        times: dict[str, list[float]] = {"first": [], "again": [], "forward": []}
        for _ in range(asked.repeats):
            model.__dict__.pop(_KEPT, None)
            times["first"].append(seconds(lambda: locate(model)))
            times["again"].append(seconds(lambda: locate(model)))
            with torch.no_grad():
                times["forward"].append(seconds(lambda: model(**inputs)))
        medians = {name: statistics.median(own) for name, own in times.items()}
        print(
            f"{threads} threads: {medians['first']:.3f} s (at most {max(times['first']):.3f}), again "
            f"{medians['again'] * 1000:.2f} ms, a forward pass {medians['forward']:.3f} s"
        )


if __name__ == "__main__":
    main()
