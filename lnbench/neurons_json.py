"""The JSON file of a NeuronSet, as it is on disk."""

from __future__ import annotations

import json
from collections.abc import Mapping
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, StrictInt

from lnbench.errors import LnbenchError
from lnbench.model.architectures import POST
from lnbench.selection_account import SelectionAccount

FORMAT, OLDER = "lnbench.neurons/2", "lnbench.neurons/1"
_LayerKey = Annotated[str, Field(pattern=r"^(0|[1-9][0-9]*)$", max_length=6)]


class SelectorChoice(BaseModel):
    """A selector in full."""

    model_config = ConfigDict(extra="forbid", use_attribute_docstrings=True)

    name: str
    """As ``lnbench plugins`` lists it."""
    parameters: dict[str, Any] = Field(default_factory=dict)
    """All of them, defaults included."""


class NeuronSetFile(BaseModel):
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
    site: str = POST
    """Name of the [hook point](../topics/architectures.md) whose units they are; format 1 has none and means `post`."""
    unit_size: StrictInt = 1
    """Coordinates of one unit: 1 for neurons."""
    widths: list[StrictInt] | None = None
    """Units of each layer, where layers differ."""
    experts: list[tuple[StrictInt, StrictInt, StrictInt, StrictInt]] | None = None
    """Of a mixture of experts: layer, number of the first neuron, experts, and neurons of each expert."""
    selector: SelectorChoice | None = None
    """What chose them; None where it is not known."""
    statistics: str | None = None
    """Fingerprint of the Statistics that the selector saw."""
    chat: bool | None = None
    """Whether the Statistics were collected in the model's chat format; None where that is not known."""
    account: SelectionAccount | None = None
    """Ties at the selector's cut and neurons of all languages; None where it is not known."""
    classes: dict[str, dict[_LayerKey, list[StrictInt]]] | None = None
    """Class → layer → indices, of a selector that sorts what it found; None of others."""
    derived: dict[str, float] | None = None
    """Numbers that the selector derived from the Statistics, by name; None where there are none."""
    neurons: dict[str, dict[_LayerKey, list[StrictInt]]]
    """Language → layer → indices."""


def plain_selector(selector: Mapping[str, Any] | None) -> dict[str, Any] | None:
    """Return ``selector`` as it reads back from a file, so that a set equals itself after a round trip."""
    if selector is None:
        return None
    try:
        checked = SelectorChoice.model_validate(dict(selector)).model_dump()
        plain: dict[str, Any] = json.loads(json.dumps(checked, allow_nan=False))
    except (TypeError, ValueError) as error:
        expected = '{"name": str, "parameters": {str: JSON value}}'
        raise LnbenchError(f"invalid selector {selector!r}: expected {expected}") from error
    return plain


def spread_json(value: Any, depth: int, indent: str = "\n  ") -> str:
    """Return JSON with one line per entry of its objects, ``depth`` levels deep; all below is on one line."""
    if depth == 0 or not isinstance(value, dict) or not value:
        return json.dumps(value, ensure_ascii=False)
    entries = [
        f"{indent}{json.dumps(key)}: {spread_json(entry, depth - 1, indent + '  ')}" for key, entry in value.items()
    ]
    return "{" + ",".join(entries) + indent[:-2] + "}"
