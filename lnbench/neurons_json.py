"""The JSON file of a NeuronSet, as it is on disk."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt

FORMAT, OLDER = "lnbench.neurons/2", "lnbench.neurons/1"
_LayerKey = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]*)$", max_length=6)]


class SelectorChoice(BaseModel):
    """A selector in full."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    name: str
    """As ``lnbench plugins`` lists it."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """All of them, defaults included."""


class Document(BaseModel):
    """Language → layer → sorted indices. Layers without neurons are left out."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    format: Literal["lnbench.neurons/2", "lnbench.neurons/1"]
    """Name and version of this format."""
    model: str
    """The model whose neurons they are, as it was named."""
    layers: StrictInt
    """Layers of the model."""
    width: StrictInt
    """Units per layer; of the widest layer where they differ."""
    site: str | None = None
    """Name of the [hook point](architectures.md) whose units they are; format 1 has none and means `post`."""
    unit_size: StrictInt = 1
    """Coordinates of one unit: 1 for neurons."""
    widths: list[StrictInt] | None = None
    """Units of each layer, where layers differ."""
    selector: SelectorChoice | None = None
    """What chose them; None where it is not known."""
    statistics: str | None = None
    """Fingerprint of the Statistics that the selector saw."""
    neurons: dict[str, dict[_LayerKey, list[StrictInt]]]
    """Language → layer → indices."""
