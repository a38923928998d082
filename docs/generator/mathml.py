"""A hook of MkDocs: formulas become MathML, which browsers draw by themselves, without a script or a font to fetch."""

from __future__ import annotations

import html
import re
from typing import Any

from latex2mathml.converter import convert

_FORMULA = re.compile(r'<(span|div) class="arithmatex">\\([(\[])(.*?)\\[)\]]</\1>', re.DOTALL)


def on_page_content(text: str, **_: Any) -> str:
    """Return the page's HTML with every formula that ``pymdownx.arithmatex`` marked replaced."""
    return _FORMULA.sub(_mathml, text)


def _mathml(match: re.Match[str]) -> str:
    tag, bracket, formula = match.groups()
    display = "block" if bracket == "[" else "inline"
    return f'<{tag} class="formula">{convert(html.unescape(formula).strip(), display=display)}</{tag}>'
