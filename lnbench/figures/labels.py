"""Languages as a reader knows them, ``hi · Hindi · हिन्दी``, and selectors as figures name them."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from functools import cache
from typing import Any

from matplotlib.axes import Axes
from matplotlib.figure import Figure as Drawing
from matplotlib.font_manager import FontProperties, findfont, fontManager, get_font
from matplotlib.text import Text

from lnbench.figures.style import is_narrow
from lnbench.host import get_host
from lnbench.neurons import NeuronSet
from lnbench.parameters import format_choice
from lnbench.tables.plain_names import language_name as language_name
from lnbench.tables.plain_names import language_names, plain_name

_SANS = "sans-serif"
_FAMILIES = (
    *("DejaVu Sans", "Noto Sans", "Noto Sans Arabic", "Noto Naskh Arabic", "Noto Sans Hebrew"),
    *("Noto Sans Devanagari", "Noto Sans Bengali", "Noto Sans Gurmukhi", "Noto Sans Gujarati", "Noto Sans Oriya"),
    *("Noto Sans Tamil", "Noto Sans Telugu", "Noto Sans Kannada", "Noto Sans Malayalam", "Noto Sans Sinhala"),
    *("Noto Sans Thai", "Noto Sans Lao", "Noto Sans Khmer", "Noto Sans Myanmar", "Noto Serif Tibetan"),
    *("Noto Sans Ethiopic", "Noto Sans Georgian", "Noto Sans Armenian", "Noto Sans Cherokee"),
    *("Noto Sans CJK SC", "Noto Sans CJK JP", "Noto Sans CJK KR", "Noto Sans CJK TC", "Noto Sans CJK HK"),
    *("Nirmala UI", "Microsoft YaHei", "Yu Gothic", "Malgun Gothic", "Segoe UI", "Leelawadee UI", "Ebrima"),
    *("PingFang SC", "Hiragino Sans", "Kohinoor Devanagari", "Kohinoor Bangla", "Kohinoor Telugu", "Geeza Pro"),
    *("Arial Unicode MS", "Lohit Devanagari", "Lohit Bengali", "Lohit Tamil", "WenQuanYi Zen Hei", "IPAGothic"),
)
"""Fonts of scripts that DejaVu Sans, which matplotlib ships, lacks: of Linux, Windows and macOS, best first."""
_OWN_FORMS = {
    "ja": ("Noto Sans CJK JP", "Yu Gothic", "Hiragino Sans", "IPAGothic"),
    "ko": ("Noto Sans CJK KR", "Malgun Gothic"),
}
"""Languages whose characters look otherwise in fonts that are made for Chinese."""


def language_label(code: str, *, native: bool = True, separator: str = " · ") -> str:
    """Return a language's code, its English name, and its own name where a font of this machine can write it.

    A code (``hi``, ``zh_Hans``, ``pt-BR``) that Unicode's Common Locale Data Repository does not know is used alone.
    """
    english, own = language_names(code)
    parts = [code, english, own if native and own != english and _font(code) else None]
    return separator.join(filter(None, parts))


def write_in_own_script(labels: Iterable[Text], codes: Sequence[str]) -> None:
    """Give each label the font that its language's own name needs."""
    for label, code in zip(labels, codes, strict=True):
        if font := _font(code):
            label.set_fontfamily(list(dict.fromkeys((_SANS, font))))


def language_axis(axes: Axes, codes: Sequence[str]) -> None:
    """Name the rows of a chart, one language each, from top to bottom."""
    language_ticks(axes, codes)
    axes.set_ylim(len(codes) - 0.5, -0.5)


def language_ticks(axes: Axes, codes: Sequence[str], first: float = 0.0) -> None:
    """Name places of the vertical axis at a distance of 1, from ``first`` on; without own names in a column."""
    figure = axes.get_figure(root=True)
    native = not (isinstance(figure, Drawing) and is_narrow(figure))
    labels = [language_label(code, native=native) for code in codes]
    axes.set_yticks([first + place for place in range(len(codes))], labels)
    write_in_own_script(axes.get_yticklabels(), codes)
    axes.tick_params(axis="y", length=0)


def selector_label(neurons: NeuronSet) -> str:
    """Return the selector that chose a set, with those of its parameters that are not the defaults."""
    if neurons.selector is None:
        return "neurons"
    name, parameters = neurons.selector["name"], neurons.selector["parameters"]
    return format_choice(name, parameters, get_host().defaults("selector", name))


def selector_title(neurons: NeuronSet) -> str:
    """Return the selector that chose a set as readers are shown it."""
    return plain_name("selector", selector_label(neurons))


@cache
def _font(code: str) -> str | None:
    """Return the first font of this machine that has all of a language's own name."""
    own = language_names(code)[1]
    if own is None:
        return None
    families = ("DejaVu Sans", *_OWN_FORMS.get(code, ()), *_FAMILIES)
    return next((family for family in families if family in installed() and _has(family, own)), None)


@cache
def installed() -> frozenset[str]:
    """Return the names of all fonts that matplotlib finds."""
    return frozenset(fontManager.get_font_names())


def _has(family: str, text: str) -> bool:
    font = get_font(findfont(FontProperties(family=family), fallback_to_default=False))
    return all(font.get_char_index(ord(character)) for character in text if not character.isspace())


def layers_with_most(languages: Sequence[str], counts: Iterable[Any]) -> str:
    """Name each language's layer with most units, as ``Hindi 12``; empty where no language has any.

    Args:
        languages: Their codes.
        counts: Units by language and layer, an array ``[languages, layers]``.
    """
    return ", ".join(
        f"{language_name(code)} {int(own.argmax())}" for code, own in zip(languages, counts, strict=True) if own.any()
    )
