"""The sentences that users read, each kept once: a changed wording is a changed line in the snapshot beside this file.

``pytest tests/test_messages.py --snapshot-update`` writes the snapshot.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from syrupy.assertion import SnapshotAssertion

import lnbench
from lnbench.leaderboard import Row
from lnbench.tables.caveats import leaderboard_caveats, no_neurons, values_outside
from lnbench.tables.findings import leaderboard_findings, matrix_finding, overall
from tests.support.messages import sentences
from tests.support.report import matrix
from tests.support.rows import row

SOURCES = Path(lnbench.__file__).parent


def test_the_sentences_in_the_code(snapshot: SnapshotAssertion) -> None:
    """Sorted within each package, so that a moved message is not a changed one."""
    packages: dict[str, set[str]] = {}
    for source in sorted(SOURCES.rglob("*.py")):
        package = source.relative_to(SOURCES).parts[0].removesuffix(".py")
        packages.setdefault(package, set()).update(sentences(source.read_text(encoding="utf-8")))
    lines = [line for package, texts in packages.items() if texts for line in (f"## {package}", *sorted(texts), "")]
    assert "\n".join(lines) == snapshot


def changed(intervention: str, language: str, delta: float, **changes: Any) -> Row:
    large = abs(delta) > 0.05
    fields = {"delta": delta, "p_holm": 0.001 if large else 1.0, "significant": large}
    return row(intervention, language, **fields | changes)


def test_findings_and_caveats(snapshot: SnapshotAssertion) -> None:
    """How the sentences are put together: tables with changes and without, and rows with every caveat."""
    rows = [
        changed("zero", "hi", -0.3, control_p_holm=0.01, control_significant=True),
        changed("zero", "ur", 0.2, control_p_holm=0.6, control_significant=False),
        changed("zero", "en", 0.02),
        changed("none", "hi", 0.1, selector="-", finetune="hindi"),
        changed("zero", "hi", 0.2, metric="bits_per_byte", higher_is_better=False),
        changed("zero", "hi", 0.01, metric="f1", n=6),
        changed(
            "p10", "hi", -0.04, metric="f1", n=6, mde=0.12, n_controls=0, limit=6.0, note="not compared: no baseline"
        ),
        changed("zero", "hi", 0.0, model="other", n_controls=1),
        changed("zero", "hi", 0.0, p_holm=None, status="failed", error="OutOfMemoryError: 3 GiB"),
    ]
    lines = [overall(rows)]
    for finding in (*leaderboard_findings(rows), matrix_finding("ppl", matrix())):
        lines += [f"## {finding.title}", finding.verdict, *finding.details]
    for caveat in leaderboard_caveats(rows):
        lines += [f"## {caveat.title}", *caveat.texts]
    lines += [*values_outside("zero", [0.1, 0.25], 3), *no_neurons({"lape": ["hi", "en"], "act_prob": ["ur"]})]
    assert "\n".join(lines) == snapshot
