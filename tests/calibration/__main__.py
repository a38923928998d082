"""Print how often null data are called different, and how often intervals hold the truth, as Markdown.

    python -m tests.calibration [--samples 400] [--out calibration.json]

The first table runs leaderboards and perplexity matrices in which nothing differs, the second intervals where few
documents change, the third what such intervals could reach. docs/topics/method.md has all.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tests.calibration.few_changes import DOCUMENTS as FEW
from tests.calibration.few_changes import RATES, attainable, covered_by_few_changes
from tests.calibration.null_data import DOCUMENTS, DRAWS, METRICS, leaderboard_rates, matrix_rates

Shares = dict[str, float | None]


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--samples", type=int, default=2000, help="simulated cells for each number; a quarter of a matrix"
    )
    parser.add_argument("--out", type=Path, help="file for the same as JSON")
    options = parser.parse_args()
    found: dict[str, Any] = {
        "command": f"python -m tests.calibration --samples {options.samples}",
        "model": "none",
        "text": "simulated",
        "samples": {"cells": options.samples, "matrix": options.samples // 4},
        "null": _null_data(options.samples),
        "few_changes": _few_changes(options.samples),
        "attainable": _attainable(),
    }
    if options.out:
        options.out.write_text(json.dumps(found, indent=1), encoding="utf-8")


def _null_data(samples: int) -> dict[str, dict[str, Shares]]:
    print("| | documents | `*` | interval | " + " | ".join(f"`†`, {draws} draws" for draws in DRAWS) + " |")
    print("|---|--:|--:|--:|" + "--:|" * len(DRAWS))
    rates: dict[str, Callable[[int, int], tuple[float, float, float | None]]] = {
        metric: lambda documents, draws, metric=metric: leaderboard_rates(metric, documents, draws, samples)  # type: ignore[misc]
        for metric in METRICS
    }
    rates["nats, matrix"] = lambda blocks, draws: matrix_rates(blocks, draws, samples // 4)
    found: dict[str, dict[str, Shares]] = {}
    for name, rate in rates.items():
        for documents in DOCUMENTS:
            by_draws = [rate(documents, draws) for draws in DRAWS]
            differs, covers, _ = by_draws[0]
            marks = {f"draws{draws}": mark for draws, (_, _, mark) in zip(DRAWS, by_draws, strict=True)}
            shares: Shares = {"differs": differs, "covers": covers, **marks}
            found.setdefault(name, {})[f"n{documents}"] = shares
            cells = ["–" if share is None else f"{share:.1%}" for share in shares.values()]
            print(f"| {name} | {documents} | {' | '.join(cells)} |", flush=True)
    return found


def _few_changes(samples: int) -> dict[str, Shares]:
    print("\n| documents that change | " + " | ".join(f"n = {n}" for n in FEW) + " |\n|---|" + "--:|" * len(FEW))
    found: dict[str, Shares] = {}
    for (change, rate), shares in covered_by_few_changes(samples).items():
        found[f"{rate:.0%}, {change}"] = {f"n{n}": share for n, share in zip(FEW, shares, strict=True)}
        print(f"| {rate:.0%}, {change} | " + " | ".join(f"{share:.1%}" for share in shares) + " |", flush=True)
    return found


def _attainable() -> dict[str, dict[str, dict[str, float]]]:
    print("\n| documents that change | " + " | ".join(f"n = {n}" for n in FEW) + " |\n|---|" + "--:|" * len(FEW))
    found = {f"{rate:.0%}": {f"n{n}": attainable(rate, n) for n in FEW} for rate in RATES}
    for rate, shares in found.items():
        print(
            f"| {rate} | "
            + " | ".join(f"{share['below']:.1%}, {share['above']:.1%}" for share in shares.values())
            + " |"
        )
    return found


if __name__ == "__main__":
    main()
