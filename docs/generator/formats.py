"""The files that are JSON with a fixed set of fields, from the pydantic models that read and write them."""

from __future__ import annotations

import pkgutil

from pydantic import BaseModel

from docs.generator.markdown import paragraphs
from docs.generator.models import with_parts

FORMATS = {
    "NeuronSet": "lnbench.neurons_json:NeuronSetFile",
    "Records": "lnbench.sweeps.records:Record",
    "Leaderboard": "lnbench.leaderboard.rows:Row",
    "Perplexity": "lnbench.perplexity.matrix:PerplexityMatrix",
    "Reproduction": "lnbench.tables.reproduction:Reproduction",
    "Completions": "lnbench.language_control.completions:Completion",
    "Stability": "lnbench.analysis.stability:Stability",
    "Stability curve": "lnbench.analysis.until_stable:StabilityCurve",
}
"""Heading → where its model is."""


def model(where: str) -> type[BaseModel]:
    """Return the pydantic model at ``module:name``."""
    found: type[BaseModel] = pkgutil.resolve_name(where)
    return found


def body() -> str:
    """Return the page below its title."""
    return paragraphs(
        "The fields of the files that are JSON. [Files](files.md) says what each is for, and "
        "describes those that hold tensors. A field without a value is `null`.",
        *(with_parts(model(where), heading) for heading, where in FORMATS.items()),
    )
