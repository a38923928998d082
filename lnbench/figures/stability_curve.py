"""How much text a selection needs: agreement of two halves of the text by tokens read."""

from __future__ import annotations

from math import ceil

from matplotlib.figure import Figure as Drawing
from matplotlib.ticker import EngFormatter, NullLocator

from lnbench.analysis.until_stable import StabilityCurve
from lnbench.errors import LnbenchError
from lnbench.figures.figure import Figure, stem
from lnbench.figures.fitting import legend
from lnbench.figures.labels import language_label, language_name
from lnbench.figures.registry import drawn_from
from lnbench.figures.style import NEUTRAL, TALLEST, WIDTH, is_narrow, series
from lnbench.tables.words import counted, model_name


@drawn_from(lambda data: ((curve,) for curve in data.curves if curve.selectors))
def stability_curve(curve: StabilityCurve) -> Figure:
    """Draw the Jaccard index of the neurons of two halves of a text against the tokens read, a panel per selector.

    Raises:
        LnbenchError: nothing was compared yet.
    """
    if not curve.selectors:
        raise LnbenchError("this curve has no points to draw: the run that makes it has compared nothing yet")
    selectors, languages = curve.selectors, curve.languages
    lowest = min(point.least for point in curve.points)
    floor = max(0.0, int(10 * min(lowest, curve.stable) - 1) / 10) - 0.02

    def paint(drawing: Drawing) -> None:
        down, beside = (len(selectors), 1) if is_narrow(drawing) else (1, len(selectors))
        panels = drawing.subplots(down, beside, sharex=True, sharey=True, squeeze=False).flatten()
        for axes, selector in zip(panels, selectors, strict=True):
            for number, language in enumerate(languages):
                colour, _, marker = series(number)
                known = curve.of(selector, language)
                label = language_label(language, native=False)
                axes.plot(*zip(*known, strict=True), f"{marker}-", color=colour, label=label, markersize=4.5)
            axes.axhline(curve.stable, color=NEUTRAL, linestyle="--", linewidth=1, label=f"asked for: {curve.stable:g}")
            axes.set(xscale="log", title=selector, ylim=(floor, 1.02))
            ticks = sorted({max(point.tokens.values()) for point in curve.points})
            axes.set_xticks(ticks)
            axes.xaxis.set_minor_locator(NullLocator())
            axes.xaxis.set_major_formatter(EngFormatter(places=0, sep=""))
            axes.grid(axis="both")
        for axes in panels[-beside:]:
            axes.set_xlabel("tokens read per language")
        for axes in panels[::beside]:
            axes.set_ylabel("Jaccard index of the two halves")
        handles, _ = panels[0].get_legend_handles_labels()
        legend(drawing, handles)

    last = curve.points[-1]
    of_model = f": {model_name(curve.model)}" if curve.model else ""
    return Figure(
        name=stem("stability_curve", model_name(curve.model) if curve.model else ""),
        title=f"How much text the neurons need{of_model}",
        caption=(
            "Each selector chose neurons on two halves of the text, every other document each, after more and more "
            "tokens. A point is the Jaccard index of the two choices, the neurons in both divided by those in either; "
            f"1: the same neurons. The axis begins below the lowest "
            f"point, and not always at 0. The dashed line is what was asked for. {curve.why() if curve.stopped else ''}"
        ).strip(),
        alt=(
            f"Lines of {counted(len(languages), 'language')} for {counted(len(selectors), 'selector')}: Jaccard "
            f"indices, at least {lowest:.2f} at first and {last.least:.2f} after "
            f"{max(last.tokens.values()):,} tokens per language."
        ),
        columns=("selector", "language", "name", "tokens", "jaccard"),
        rows=[
            (selector, language, language_name(language), tokens, jaccard)
            for selector in selectors
            for language in languages
            for tokens, jaccard in curve.of(selector, language)
        ],
        size=(WIDTH, 2.6 + 0.15 * ceil((len(languages) + 1) / 4)),
        column_height=min(TALLEST, 0.8 + 1.4 * len(selectors) + 0.15 * ceil((len(languages) + 1) / 2)),
        paint=paint,
    )
