"""What figures call NeuronSets, models and files."""

from __future__ import annotations

from pathlib import Path

from lnbench.errors import LnbenchError
from lnbench.formats import slug
from lnbench.host import get_host
from lnbench.neurons import NeuronSet

_LONGEST = 60
"""Characters of one word of a file's stem."""


def model_name(model: str) -> str:
    """A model's name without the path to it."""
    return Path(model).name or model


def selector_name(neurons: NeuronSet) -> str:
    """The selector that chose a set, with those of its parameters that are not the defaults."""
    if neurons.selector is None:
        return "neurons"
    name, parameters = neurons.selector["name"], neurons.selector["parameters"]
    try:
        usual = get_host().canonical("selector", name)["parameters"]
    except LnbenchError:
        usual = {}  # A plugin's, which is not installed here.
    special = [f"{key}={value}" for key, value in parameters.items() if key not in usual or usual[key] != value]
    return ":".join([str(name), *special])


def stem(*parts: str) -> str:
    """A file's stem, also an HTML id, out of words of any kind."""
    words = (slug(part, "").strip("_")[:_LONGEST] for part in parts)
    return "-".join(filter(None, words))


def percent(share: float) -> str:
    """A share as a whole percentage, or with one decimal where it is close to none or all."""
    return f"{share:.1%}" if 0 < share < 0.0095 or 0.9905 < share < 1 else f"{share:.0%}"


def several(count: int, noun: str) -> str:
    """``1 language``, ``5 languages``."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")
