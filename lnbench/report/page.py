"""The page itself, and what a browser may do with it."""

from __future__ import annotations

import base64
import hashlib
import re
from collections.abc import Sequence
from functools import cache
from importlib.resources import files
from pathlib import Path

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from lnbench._version import __version__
from lnbench.files import write_text
from lnbench.report import PAGE
from lnbench.report.inputs import find
from lnbench.report.page_context import LEADERBOARD, page_context
from lnbench.tables import leaderboard_files, render
from lnbench.tables.plain_names import language_name
from lnbench.tables.words import MARKS, counted

_CONTROL = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f\x7f-\x9f\ud800-\udfff]")
_LANGUAGE_TAG = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z0-9]{2,8})*")
_VISIBLE_SIGNS = 0x2400
"""Where Unicode has a visible sign for each of the first 32 control characters."""


def write(runs: Sequence[Path], out: Path) -> Path:
    """Write the page, the figures and the leaderboard of some runs; see :func:`lnbench.report.build`."""
    sources = find(runs)
    if sources.rows:
        for name in LEADERBOARD:
            leaderboard_files.write(sources.rows, out / name)
    style, script = _asset("style.css"), _asset("page.js")
    page = _environment().get_template("page.html")
    text = page.render(
        page_context(sources, out),
        marks=MARKS,
        version=__version__,
        # Both were written here; what comes from runs never gets near them.
        style=Markup(style),
        script=Markup(script),
        policy=_policy(style, script),
    )
    write_text(out / PAGE, visible(text))
    return out / PAGE


def visible(text: str) -> str:
    """Return text without what a page may not hold: control characters become signs, halves of characters ``�``."""
    return _CONTROL.sub(_sign, text)


def _sign(match: re.Match[str]) -> str:
    code = ord(match.group())
    return chr(_VISIBLE_SIGNS + code) if code < 0x20 else "\ufffd"


def language_tag(language: str) -> str | None:
    """Return what ``lang=`` takes, or None where a language is not called by a code."""
    return language if _LANGUAGE_TAG.fullmatch(language) else None


def _policy(style: str, script: str) -> str:
    """Return what a browser may do with the page: nothing but what was written here, and no network."""
    scripts, styles = f"script-src {_hash(script)}", f"style-src {_hash(style)}"
    return f"default-src 'none'; img-src data:; {scripts}; {styles}; base-uri 'none'; form-action 'none'"


def _hash(source: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(source.encode()).digest()).decode()}'"


@cache
def _asset(name: str) -> str:
    return files("lnbench.report").joinpath("templates", name).read_text(encoding="utf-8")


@cache
def _environment() -> Environment:
    loader, undefined = PackageLoader("lnbench.report"), StrictUndefined
    environment = Environment(loader=loader, autoescape=True, undefined=undefined, trim_blocks=True, lstrip_blocks=True)
    environment.filters |= {"language_tag": language_tag, "language_name": language_name}
    environment.globals |= {"table": render.html, "counted": counted}
    return environment
