"""Print how often null data are called different, and how often intervals hold the truth, as Markdown.

    python -m tests.calibration [--samples 400]

The first table runs leaderboards and perplexity matrices in which nothing differs, the second intervals where few
documents change. docs/topics/method.md has both.
"""

from __future__ import annotations

import argparse

from tests.calibration.few_changes import covered_by_few_changes
from tests.calibration.null_data import DOCUMENTS, DRAWS, METRICS, leaderboard_rates, matrix_rates


def main() -> None:
    """Print the tables."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument(
        "--samples", type=int, default=2000, help="simulated cells for each number; a quarter of a matrix"
    )
    samples = parser.parse_args().samples
    print("| | documents | `*` | interval | " + " | ".join(f"`†`, {draws} draws" for draws in DRAWS) + " |")
    print("|---|--:|--:|--:|" + "--:|" * len(DRAWS))
    for metric in METRICS:
        for documents in DOCUMENTS:
            _print_row(metric, documents, [leaderboard_rates(metric, documents, draws, samples) for draws in DRAWS])
    for blocks in DOCUMENTS:
        _print_row("nats, matrix", blocks, [matrix_rates(blocks, draws, samples // 4) for draws in DRAWS])
    print("\n| documents that change | n = 12 | n = 48 | n = 238 |\n|---|--:|--:|--:|")
    for (change, rate), shares in covered_by_few_changes(samples).items():
        print(f"| {rate:.0%}, {change} | " + " | ".join(f"{share:.1%}" for share in shares) + " |")


def _print_row(metric: str, documents: int, rates: list[tuple[float, float, float | None]]) -> None:
    differs, covers, _ = rates[0]
    marks = [" – " if mark is None else f" {mark:.1%} " for _, _, mark in rates]
    print(f"| {metric} | {documents} | {differs:.1%} | {covers:.1%} |{'|'.join(marks)}|", flush=True)


if __name__ == "__main__":
    main()
