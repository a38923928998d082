"""Draw the gallery of figures, one of each registered kind, and write its page.

    python -m tests.docs.gallery runs/demo runs/harm stats

A kind that no run has the numbers of is drawn from made-up ones, and says so. The page and its pictures are written by
this command alone; ``test_gallery.py`` beside this file sees that no kind is missing.
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

from lnbench.figures import Figure, save
from lnbench.figures.drawable import figures_of
from lnbench.figures.registry import FIGURES
from lnbench.files import write_text
from tests.support.docs_pages import DOCS
from tests.support.figure_data import every_kind

PAGE = DOCS / "topics" / "gallery.md"
PICTURES = DOCS / "assets" / "gallery"
MADE_UP = "*Drawn from made-up numbers, to show what it looks like.*"
_LANGUAGES = ["en", "vi", "hi", "ur", "zh"]
_FIRST = ("interventions", "dose_response", "perplexity_matrix", "pairs")
"""What interventions do comes before what neurons and text are like."""
_HEAD = """# Gallery

One of each kind of figure that `lnbench figures`, `lnbench report` and the functions of `lnbench.figures` draw, most of
them from `lnbench demo`: Gemma 3 270M on the embedded text. [Figures](figures.md) says what each is drawn from, how to
read it, and how to draw it at the width of a paper's column.
"""


def heading(kind: str) -> str:
    """What a kind is called on the page."""
    return kind.replace("_", " ").capitalize()


def gallery(runs: Sequence[Path]) -> dict[str, tuple[Figure, bool]]:
    """One figure of each kind, and whether it shows what was measured."""
    measured: dict[str, Figure] = {}
    for figure in figures_of(runs) if runs else ():
        kind = max((kind for kind in FIGURES if re.match(rf"{kind}\b", figure.name)), key=len)
        if kind not in measured or _rank(figure) > _rank(measured[kind]):
            measured[kind] = figure
    made_up = every_kind(_LANGUAGES)
    kinds = sorted(FIGURES, key=lambda kind: (_FIRST.index(kind) if kind in _FIRST else len(_FIRST), kind))
    return {kind: (measured.get(kind) or made_up[kind], kind in measured) for kind in kinds}


def _rank(figure: Figure) -> int:
    """Of several metrics and selectors, what says most: bits per byte have no ceiling; the pages speak of LAPE."""
    return 2 * ("bits_per_byte" in figure.name) + ("lape" in figure.name)


def write(runs: Sequence[Path]) -> None:
    """Draw all, and write the page."""
    parts = [_HEAD]
    for kind, (figure, is_measured) in gallery(runs).items():
        save(replace(figure, name=kind), PICTURES, ["svg"])
        (PICTURES / f"{kind}.csv").unlink()
        alt = re.sub(r"[\[\]\n]", " ", figure.alt)
        parts.append(f"## {heading(kind)}\n\n![{alt}](../assets/gallery/{kind}.svg)\n\n{figure.caption}\n")
        if not is_measured:
            parts.append(f"{MADE_UP}\n")
    write_text(PAGE, "\n".join(parts))


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("runs", nargs="*", type=Path, help="folders of runs, as for lnbench figures")
    write(parser.parse_args().runs)
