"""Write the two tables of the page on how much text is needed: one from a recorded run, one from the code.

python -m tests.docs.how_much
"""

from __future__ import annotations

import json
import re
from collections.abc import Sequence
from typing import Any

from lnbench.figures.labels import language_name
from lnbench.files import write_text
from lnbench.significance import detectable_proportion
from tests.docs.record_runs import RUNS
from tests.support.docs_pages import DOCS

PAGE = DOCS / "howto" / "how-much.md"
DOCUMENTS = (12, 50, 100, 200, 500, 1000, 2000, 5010)
CHANGING = (0.05, 0.1, 0.2, 0.4)


def curve() -> dict[str, Any]:
    """What ``record_runs`` kept of the run."""
    found: dict[str, Any] = json.loads(RUNS.read_text(encoding="utf-8"))["enough"]
    return found


def curve_table(run: dict[str, Any]) -> str:
    """Jaccard indices by selector and tokens read."""
    languages = list(next(iter(run["jaccard"][0].values())))
    rows = [
        [f"`{selector}`", f"{tokens:,}", *(f"{point[selector][code]:.2f}" for code in languages)]
        for selector in run["jaccard"][0]
        for tokens, point in zip(run["tokens"], run["jaccard"], strict=True)
    ]
    return _table(["selector", "tokens per language", *map(language_name, languages)], rows, words=1)


def power_table() -> str:
    """The smallest difference of accuracy that is found, by documents and by the share whose answer changes."""
    rows = [
        [f"{n:,}", *(f"{100 * (detectable_proportion(round(share * n), n) or 1):.1f}" for share in CHANGING)]
        for n in DOCUMENTS
    ]
    return _table(["documents", *(f"{share:.0%} change" for share in CHANGING)], rows, words=0)


def _table(headings: Sequence[str], rows: Sequence[Sequence[str]], words: int) -> str:
    rule = ["---"] * words + ["--:"] * (len(headings) - words)
    return "\n".join(f"| {' | '.join(row)} |" for row in (headings, rule, *rows))


def between(text: str, name: str, content: str | None = None) -> str:
    """What is between the marks of a name; the whole text with ``content`` there, if one is given."""
    pattern = re.compile(rf"(<!-- {name} -->\n)(.*?)\n?(<!-- end of {name} -->)", re.DOTALL)
    match = pattern.search(text)
    assert match
    return match[2] if content is None else text.replace(match[0], f"{match[1]}{content}\n{match[3]}")


if __name__ == "__main__":
    page = between(PAGE.read_text(encoding="utf-8"), "curve", curve_table(curve()))
    write_text(PAGE, between(page, "power", power_table()))
