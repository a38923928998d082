"""Sites, and rows: what a plugin says of a model type whose neurons are not, or not rightly, found by structure.

A row names the list of blocks, and may name the non-linearity inside a block and the projections on either side of it.
The non-linearity's input is the ``pre`` site and its output the ``post`` site, whatever surrounds it.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final, Literal, NamedTuple


@dataclass(frozen=True)
class Site:
    """A hook point in every block, where values are read or written.

    Args:
        module: Path from the block to a module.
        side: Whether its ``input`` or its ``output`` holds the values.
        unit_size: Coordinates in one unit: 1 for neurons.
        derived_from: Name of a site that this one is an elementwise, fixed function of: the module's.
    """

    module: str
    side: Literal["input", "output"]
    unit_size: int = 1
    derived_from: str | None = None


PRE: Final = "pre"
POST: Final = "post"
PRODUCT: Final = "product"
ATTENTION: Final = "attention"
RESIDUAL: Final = "residual"
EXPERTS: Final = "experts"
"""A mixture's experts as units: read are their routing weights, 0 where a token is not routed to one; written to are
the router's logits."""
PAPER: Final = "paper"
OwnSiteOption = Literal["post", "pre", "product", "attention", "residual", "experts"]
"""Sites that are read and written at the same place, for settings."""
SiteOption = Literal[OwnSiteOption, "paper"]
"""The keys of :data:`SITE_CHOICES`, for settings."""
NEURON_SITES = (PRE, POST)
"""The sites of neurons, of which one pass counts both: the second is derived from the first."""
BANK_SITES = (*NEURON_SITES, PRODUCT)
"""The sites whose units are neurons."""
UP: Final = "up"
"""What neurons are multiplied with: the up projection's output, of a plain feed-forward that of the first projection.
Measures alone can read it."""
_UNITS = {ATTENTION: "heads", RESIDUAL: "dimensions", EXPERTS: "experts"}


def units_at(site: str) -> str:
    """Return what the units of a site are called, in the plural."""
    return "neurons" if site in BANK_SITES else _UNITS.get(site, "units")


def in_units(text: str, site: str) -> str:
    """Return a text about neurons as one about the units of a user's ``site``; names of files stay."""
    units = units_at(site_choice(site).read)

    def named(match: re.Match[str]) -> str:
        article, first, plural = match.groups()
        name = units if plural else units.removesuffix("s")
        article = f"{article}n " if article and name[0] in "aeio" else f"{article} " if article else ""
        return article + (name.capitalize() if first == "N" else name)

    return text if units == "neurons" else _NEURON.sub(named, text)


_NEURON = re.compile(r"(?<![\w./-])(?:([Aa]) )?([Nn])euron(s?)(?![\w/-]|\.\w)")

SITE_DESCRIPTIONS = {
    POST: "after the non-linearity",
    PRE: "before the non-linearity",
    PRODUCT: "multiplied with the up projection's output, as the down projection reads it",
    ATTENTION: "as the norm of the head's output",
    RESIDUAL: "at the block's output",
    EXPERTS: "as its routing weight, 0 where a token is not routed to it",
}


def widths_of(layers: int, width: int | Sequence[int]) -> tuple[int, ...]:
    """Return the number of units per layer, from that of every layer or of each."""
    return (width,) * layers if isinstance(width, int) else tuple(width)


def layout_of(widths: Sequence[int]) -> str:
    """Say how many units the layers have: ``18 layers × 2048``, or ``4 layers × 48 to 64``."""
    least, most = min(widths), max(widths)
    return f"{len(widths)} layers × {most if least == most else f'{least} to {most}'}"


class SiteChoice(NamedTuple):
    """Where values are read (selected, and taken from Statistics) and where they are written."""

    read: str
    write: str


SITE_CHOICES: dict[str, SiteChoice] = {
    POST: SiteChoice(POST, POST),
    PRE: SiteChoice(PRE, PRE),
    PAPER: SiteChoice(PRE, POST),
}
"""What users may choose: after the non-linearity (the default), before it, or as in the paper, read before and written
after it. Any other site of an architecture is read and written at the same place."""


def site_choice(name: str) -> SiteChoice:
    """Return where a user's ``site`` is read and written."""
    return SITE_CHOICES.get(name, SiteChoice(name, name))


@dataclass(frozen=True)
class Architecture:
    """One model type's module paths. ``blocks`` is a path from the causal LM, the others are paths from a block.

    Paths that are left out are found in the live model.
    """

    blocks: str
    """The ``ModuleList`` of transformer blocks."""
    activation: str = ""
    """The feed-forward non-linearity, whose output coordinates are the neurons; a module of its own in each block."""
    before: str = ""
    """The projection whose output enters the non-linearity: the gate projection of a gated MLP."""
    after: str = ""
    """The down projection, which reads the neurons; its number of inputs is the width (``d_mlp``)."""
    up: str | None = None
    """The up projection of a gated MLP, which the neurons are multiplied with; None in a plain one."""
    fused: bool = False
    """``before`` computes gate and up in one matrix, the gate in its first ``width`` rows."""
    attention: tuple[str, ...] = ()
    """The attention's query, key, value and output projections, one path each, which the fine-tuners adapt."""
    sites: Mapping[str, Site] = field(default_factory=dict, hash=False)
    """Hook points by name, beside ``pre`` and ``post``, which every row has: the non-linearity's input and output."""

    def __post_init__(self) -> None:
        shared = {PRE: Site(self.activation, "input"), POST: Site(self.activation, "output", derived_from=PRE)}
        object.__setattr__(self, "sites", shared | dict(self.sites))
