"""Languages are named by code and English name, and in their own script where a font has it."""

from __future__ import annotations

import pytest

from lnbench.figures import labels
from lnbench.figures.labels import language_label, language_name


@pytest.mark.usefixtures("only_dejavu")
@pytest.mark.parametrize(
    ("code", "label"),
    [
        ("en", "en · English"),
        ("vi", "vi · Vietnamese · Tiếng Việt"),
        ("ur", "ur · Urdu · اردو"),
        ("hi", "hi · Hindi"),  # DejaVu Sans has no Devanagari
        ("zh", "zh · Chinese"),
        ("zh-Hans", "zh-Hans · Chinese (Simplified)"),
        ("ace", "ace · Acehnese"),
        ("xx", "xx"),
        ("", ""),
        ("../etc", "../etc"),
    ],
)
def test_a_label_has_what_the_fonts_have(code: str, label: str) -> None:
    assert language_label(code) == label


@pytest.mark.usefixtures("only_dejavu")
def test_a_label_without_the_own_name() -> None:
    assert language_label("vi", native=False, separator="\n") == "vi\nVietnamese"
    assert (language_name("hi"), language_name("xx")) == ("Hindi", "xx")


def test_a_font_that_has_the_script_brings_the_own_name(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(labels, "installed", lambda: frozenset({"DejaVu Sans", "Noto Sans CJK JP", "Nirmala UI"}))
    monkeypatch.setattr(labels, "_font", labels._font.__wrapped__)
    scripts = {"Noto Sans CJK JP": "日本語中文", "Nirmala UI": "हिन्दी"}
    monkeypatch.setattr(labels, "_has", lambda family, text: set(text) <= set(scripts.get(family, "")))
    assert language_label("ja") == "ja · Japanese · 日本語"
    assert language_label("hi") == "hi · Hindi · हिन्दी"
    assert language_label("ta") == "ta · Tamil"
    assert [labels._font(code) for code in ("ja", "zh", "hi", "ta")] == [
        *("Noto Sans CJK JP", "Noto Sans CJK JP", "Nirmala UI"),
        None,
    ]
