"""Every number and claim of the pages that say what was found is that of a run, or names its source.

``claims.yaml`` has, for each page, the sentences and table rows that say something. A number in them is a place to
fill, from a run in ``docs/runs.json`` (written by ``python -m tests.docs.record_runs``) or from the code; or its source
is named beside it. What they say in words is an expression over the same runs. A number of a page that is in no claim,
and a claim that is not on its page with the numbers of the run, fail.
"""

from __future__ import annotations

import importlib
import inspect
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from scipy import special, stats

from lnbench.statistics.site_values import LEVELS
from tests.docs.record_runs import RUNS
from tests.support import docs_pages as docs

CLAIMS: dict[str, Any] = yaml.safe_load(Path(__file__).with_name("claims.yaml").read_text(encoding="utf-8"))
PAGES = {"README.md": docs.README, **{name: docs.DOCS / name for name in CLAIMS["pages"] if name != "README.md"}}
WORDS = "two|three|four|five|six|seven|eight|nine|ten|eleven|twelve|fifteen|sixteen|hundred|thousands?|half|twice"
NUMBER = re.compile(rf"(?<![\w\d])(?<![A-Za-z]-)\d+(?:,\d{{3}})*(?:\.\d+)?|\b(?:{WORDS})\b", re.IGNORECASE)
APART = [
    re.compile(r"\$\$.*?\$\$|\$[^$]{1,200}\$", re.DOTALL),  # formulas
    re.compile(r"(?<=\]\()[^)\s]+(?=\))|<!--.*?-->|!\[", re.DOTALL),  # targets of links
    re.compile(r"^\s*\d+\. |^#+ \d+\. ", re.MULTILINE),  # numbers of a list, of headings
]
COMMANDS = re.compile(r"^( *)```.*?^\1```$", re.DOTALL | re.MULTILINE)
INLINE = re.compile(r"`[^`\n]+`")
"""Names and options, which other tests look up."""


class Values(dict[str, Any]):
    """Values of a run by name, written as cells side by side.

    A format is ``.2f`` for numbers, ``delta:+.2f`` for one entry of each cell, with ``*`` behind it for the mark of
    what is significant, and with a space behind that where cells are not divided by lines.
    """

    def __getattr__(self, name: str) -> Any:
        try:
            return self[name]
        except KeyError:
            raise AttributeError(f"{name} is not among {', '.join(self)}") from None

    def __format__(self, spec: str) -> str:
        entry, _, number = spec.rpartition(":")
        if entry and entry in self:
            marked = number.rstrip().endswith("*") and self["significant"]
            return format(self[entry], number.rstrip(" *")) + (r"\*" if marked else "")
        cells = ("–" if value is None else format(value, spec.strip()) for value in self.values())
        return (" " if spec.endswith(" ") else " | ").join(cells)


class Code:
    """The package's own constants: ``{lnbench.significance.LEVEL}``."""

    def __init__(self, name: str) -> None:
        self._name = name

    def __getattr__(self, name: str) -> Any:
        value = getattr(importlib.import_module(self._name), name, None)
        return Code(f"{self._name}.{name}") if value is None or inspect.ismodule(value) else value


def load() -> dict[str, Any]:
    return json.loads(RUNS.read_text(encoding="utf-8"), object_hook=Values)


FUNCTIONS = (abs, all, any, float, len, list, max, min, round, set, sum)
KNOWN = load() | {"lnbench": Code("lnbench")}


def plain(text: str) -> str:
    """A text in which only what is said makes a difference: one kind of minus, one kind of space."""
    return re.sub(r"\s+", " ", text.replace("−", "-")).strip()


def _dots(found: re.Match[str]) -> str:
    return re.sub(r"\S", "·", found.group())


def _comments(found: re.Match[str]) -> str:
    """Commands are run by other tests; what is said beside them is a claim."""
    parts = (line.partition(" # ") for line in found.group().splitlines(keepends=True))
    return "".join(re.sub(r"\S", "·", code) + mark + comment for code, mark, comment in parts)


def masked(page: Path) -> str:
    """A page's text without what is no claim, in places of the same length."""
    text = docs.read(page)
    text = COMMANDS.sub(_comments, text)
    for pattern in APART:
        text = pattern.sub(_dots, text)
    return plain(text)


def claims(page: str) -> Iterator[dict[str, Any]]:
    for entry in CLAIMS["everywhere"] + CLAIMS["pages"][page]:
        yield {"says": entry} if isinstance(entry, str) else entry


def filled(claim: dict[str, Any], known: dict[str, Any] = KNOWN) -> str:
    return plain(claim["says"].format(**known))


def holds(expression: str, known: dict[str, Any] = KNOWN) -> bool:
    """What a claim in words says of the runs; the expressions are this checkout's own."""
    return bool(eval(expression, {"__builtins__": {function.__name__: function for function in FUNCTIONS}} | known))


def uncovered(page: str, text: str, known: dict[str, Any] = KNOWN) -> list[str]:
    """The numbers of a page that no claim has, each with what is around it."""
    free = bytearray(b"\1" * len(text))
    for span in INLINE.finditer(text):
        free[slice(*span.span())] = bytes(len(span.group()))
    for claim in claims(page):
        said = filled(claim, known)
        start = text.find(said)
        while start >= 0:
            free[start : start + len(said)] = bytes(len(said))
            start = text.find(said, start + 1)
    return [
        f"{found.group()} in: …{text[max(0, found.start() - 50) : found.end() + 30]}…"
        for found in NUMBER.finditer(text)
        if any(free[slice(*found.span())])
    ]


@pytest.mark.parametrize("page", CLAIMS["pages"])
def test_every_number_is_that_of_a_run_or_names_its_source(page: str) -> None:
    assert uncovered(page, masked(PAGES[page])) == [], "say in tests/docs/claims.yaml where these numbers come from"


@pytest.mark.parametrize("page", CLAIMS["pages"])
def test_every_claim_is_on_its_page_with_the_numbers_of_its_run(page: str) -> None:
    text = masked(PAGES[page])
    own = [{"says": entry} if isinstance(entry, str) else entry for entry in CLAIMS["pages"][page]]
    assert [said for claim in own if (said := filled(claim)) not in text] == []


@pytest.mark.parametrize("page", CLAIMS["pages"])
def test_what_is_said_in_words_holds(page: str) -> None:
    failed = [
        f"{claim['says']}: {expression}"
        for claim in claims(page)
        for expression in claim.get("holds", ())
        if not holds(expression)
    ]
    assert failed == []


@pytest.mark.parametrize("page", CLAIMS["elsewhere"])
def test_what_other_pages_say_of_a_run_holds(page: str) -> None:
    for claim in CLAIMS["elsewhere"][page]:
        assert filled(claim) in masked(docs.DOCS / page)
        assert all(holds(expression) for expression in claim["holds"])


def test_a_number_that_is_written_out_has_a_source() -> None:
    """Otherwise a claim could repeat the page's own number."""
    for page in CLAIMS["pages"]:
        for claim in claims(page):
            literal = re.sub(r"\{[^}]*\}", "", INLINE.sub("", plain(claim["says"])))
            assert not NUMBER.search(literal) or claim.get("source") or claim.get("holds"), claim["says"]


def test_what_was_computed_by_hand() -> None:
    values = np.linspace(-10, 10, 2_000_001)
    for gelu in (
        special.erfc(-values / 2**0.5) / 2,
        (1 + np.tanh((2 / np.pi) ** 0.5 * (values + 0.044715 * values**3))) / 2,
    ):
        assert (values * gelu).min() == pytest.approx(-0.170, abs=5e-4)
    assert (values * special.expit(values)).min() == pytest.approx(-0.278, abs=5e-4)
    reach = {draws: stats.t.ppf(0.975, draws - 1) * (1 + 1 / draws) ** 0.5 for draws in (3, 8)}
    assert reach == pytest.approx({3: 5, 8: 2.5}, abs=0.05)
    random, levels = np.random.default_rng(0), LEVELS.numpy()
    first, second = (np.quantile(random.normal(size=(4000, 20)), levels, axis=0).T for _ in range(2))
    cuts = [np.unique(np.concatenate(pair)) for pair in zip(first, second, strict=True)]
    masses = [
        [np.diff(np.interp(cut, own, levels, left=0, right=1)) for own in pair]
        for cut, *pair in zip(cuts, first, second, strict=True)
    ]
    assert np.mean([np.minimum(*pair).sum() for pair in masses]) == pytest.approx(0.9, abs=0.02)


def test_every_run_says_what_was_run() -> None:
    runs = load()
    for name, run in runs.items():
        assert run["command"] and run["model"] and run["text"], name
        assert "/" not in re.sub(r"\{lang\}|corpus/|https?://\S+", "", run["command"].split(" --include_path")[0]), name
    text = json.dumps(CLAIMS)
    assert [name for name in runs if f"{name}." not in text and f"{name}[" not in text] == [], (
        "no page quotes these runs"
    )


@pytest.mark.parametrize("page", CLAIMS["pages"])
def test_a_changed_number_is_seen(page: str) -> None:
    """Every number that a run gave, changed on the page in its last digit, is one too many."""
    text = masked(PAGES[page])
    for claim in claims(page):
        said = filled(claim)
        if claim.get("source") or "{" not in claim["says"] or said not in text:
            continue
        number = [found for found in NUMBER.finditer(said) if found.group()[-1].isdigit()][-1]
        other = said[: number.end() - 1] + str((int(number.group()[-1]) + 1) % 10) + said[number.end() :]
        assert uncovered(page, text.replace(said, other, 1)), said
