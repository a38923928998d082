"""Labels have room: no two overlap, and none is cut, however many languages there are."""

from __future__ import annotations

from collections.abc import Callable
from itertools import combinations

import pytest
from matplotlib.figure import Figure as Drawing

from lnbench import figures
from lnbench.leaderboard import Row
from lnbench.neurons import NeuronSet
from tests.support.figure_data import matrix_of

pytestmark = pytest.mark.slow

SET1 = ["en", "fr", "es", "vi", "id", "ja", "zh"]
SET6 = ["en", "bn", "hi", "ta", "te", "mr", "ur", "kn", "ml", "pa"]
LOCALES = ["zh-Hant", "pt-BR", "en-GB", "sr-Latn"]
SIXTEEN = [*SET6, *SET1[1:]]


def neurons_of(languages: list[str]) -> NeuronSet:
    chosen = {code: {layer: [place, place + 1] for layer in range(18)} for place, code in enumerate(languages)}
    return NeuronSet("org/tiny", 18, 64, chosen, {"name": "lape", "parameters": {}})


MATRICES: dict[str, Callable[[list[str]], figures.Figure]] = {
    "perplexity": lambda languages: figures.perplexity_matrix.data(matrix_of(languages)),
    "overlap": lambda languages: figures.language_overlap.data(neurons_of(languages)),
    "layers": lambda languages: figures.neurons_per_layer.data(neurons_of(languages)),
}


def assert_apart(drawing: Drawing) -> None:
    """No two labels of ticks overlap in the figure as it is laid out, and all, and the names of axes, are inside it."""
    drawing.draw_without_rendering()
    labels = [
        (label.get_text(), label.get_window_extent())
        for axes in drawing.axes
        for axis in (axes.xaxis, axes.yaxis)
        for place, label in zip(axis.get_ticklocs(), axis.get_ticklabels(), strict=True)
        if label.get_text() and min(axis.get_view_interval()) <= place <= max(axis.get_view_interval())
    ]
    assert not [(one, other) for (one, a), (other, b) in combinations(labels, 2) if a.overlaps(b)]
    names = [one for axes in drawing.axes for one in (axes.xaxis.label, axes.yaxis.label) if one.get_text()]
    page = drawing.bbox
    for text, box in [*labels, *((one.get_text(), one.get_window_extent()) for one in names)]:
        assert page.x0 <= box.x0 < box.x1 <= page.x1 and page.y0 <= box.y0 < box.y1 <= page.y1, text


@pytest.mark.parametrize("kind", MATRICES)
@pytest.mark.parametrize("languages", [LOCALES[1:3], LOCALES, SET1, SET6, SIXTEEN], ids=lambda codes: str(len(codes)))
def test_no_two_labels_of_ticks_overlap(kind: str, languages: list[str]) -> None:
    assert_apart(MATRICES[kind](languages).draw())


def test_columns_stand_upright_only_where_they_must() -> None:
    three, seven = (MATRICES["overlap"](SET1[:count]).draw().axes[0].get_xticklabels() for count in (3, 7))
    assert {label.get_rotation() for label in three} == {0} and {label.get_rotation() for label in seven} == {90}
    assert three[1].get_text() == "es\nSpanish\nespañol" and seven[1].get_text() == "es · Spanish"


@pytest.mark.parametrize(
    "languages", [LOCALES[:2], SET1[:4], SET6, [*LOCALES, *SET6]], ids=lambda codes: str(len(codes))
)
def test_titles_of_panels_are_no_wider_than_these(languages: list[str], rows: list[Row]) -> None:
    more = [row.model_copy(update={"language": code, "task": f"task_{code}"}) for code in languages for row in rows]
    drawing = figures.interventions.data(more).draw()
    drawing.draw_without_rendering()
    panels = [axes for axes in drawing.axes if axes.get_visible()]
    assert [axes.get_title().replace("\n", " ").split(" ")[0] for axes in panels] == languages
    for axes in panels:
        assert axes.title.get_window_extent().width <= axes.get_window_extent().width
        assert axes.get_window_extent().height > 0.3 * drawing.dpi
