"""``random_direction``: an intervention's vector in a random direction, a control."""

from __future__ import annotations

import zlib
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from lnbench.errors import LnbenchError
from lnbench.hookspecs import Needs, OverrideContext, hookimpl
from lnbench.host import between_languages, get_host, needs_of_intervention, whole_site_of
from lnbench.parameters import unbracketed

if TYPE_CHECKING:
    from torch import Tensor

    from lnbench.override_values import LayerOverride, Override

_VECTOR = "direction"
"""Keyword of an override's function that holds a vector of one entry per unit."""


@dataclass
class RandomDirection:
    """An intervention's vectors turned to random directions of the same length, a control of adding any vector.

    For vectors that are added (operation ``add``, such as DiffMean's), each layer's and site's vector v is replaced by
    ‖v‖ · g / ‖g‖ with g normally distributed. So is the vector of a function that takes it as ``direction``
    (``functools.partial(function, direction=v)``). Directions are drawn apart per layer, site, target and seed. It
    refuses interventions that set, scale or clamp values. Control of https://arxiv.org/abs/2608.12334.
    """

    plain_name: ClassVar[str] = "random direction"
    is_control: ClassVar[bool] = True

    like: str = Field(description="the intervention whose vectors are turned: name or [name:key=value]")
    seed: int = Field(default=0, ge=0, description="another seed draws other directions")

    @property
    def _like(self) -> str:
        return unbracketed(self.like)

    @property
    def whole_site(self) -> str | None:
        """The site that the intervention changes the whole of."""
        return whole_site_of(self._like)

    @property
    def between_languages(self) -> bool:
        """Whether the intervention needs a source beside the target."""
        return between_languages(self._like)

    @property
    def needs(self) -> Needs:
        """What the intervention needs."""
        return needs_of_intervention(self._like)

    def override(self, context: OverrideContext) -> Override:
        made: Override = get_host().resolve("intervention", self._like).override(context)
        layers: dict[int, list[LayerOverride]] = {}
        for (layer, site), parts in made.by_site().items():
            key = f"{self.seed} {context.target} {layer} {site}"
            turned = _turned([self._vector(part) for part in parts], key)
            for part, vector in zip(parts, turned, strict=True):
                layers.setdefault(layer, []).append(_with_vector(part, vector))
        return replace(made, layers=layers)

    def _vector(self, part: LayerOverride) -> Tensor:
        """Return a part's vector.

        Raises:
            LnbenchError: it has none.
        """
        if part.operation == "add" and part.values is not None:
            return part.values
        if isinstance(part.operation, partial) and _VECTOR in part.operation.keywords:
            vector: Tensor = part.operation.keywords[_VECTOR]
            return vector
        operation = repr(part.operation) if isinstance(part.operation, str) else "a function without a direction"
        raise LnbenchError(
            f"random_direction turns vectors that an intervention adds, and the operation of {self.like!r} is "
            f"{operation}; choose the control random or random_active, which draw other units"
        )


def _turned(vectors: list[Tensor], key: str) -> list[Tensor]:
    """Return the parts of one random vector that is as long as all of them together."""
    import torch

    whole = torch.cat([vector.cpu().double() for vector in vectors])
    generator = torch.Generator().manual_seed(zlib.crc32(key.encode()))
    drawn = torch.randn(len(whole), dtype=torch.float64, generator=generator)
    drawn *= whole.square().sum().sqrt() / drawn.square().sum().sqrt().clamp_min(torch.finfo(torch.float64).tiny)
    parts = torch.split(drawn, [len(vector) for vector in vectors])
    return [part.to(vector.dtype) for part, vector in zip(parts, vectors, strict=True)]


def _with_vector(part: LayerOverride, vector: Tensor) -> LayerOverride:
    if isinstance(part.operation, partial):
        function = part.operation
        return replace(part, operation=partial(function.func, *function.args, **{**function.keywords, _VECTOR: vector}))
    return replace(part, values=vector)


@hookimpl
def lnbench_register_interventions(register: Callable[[str, Any], None]) -> None:
    register("random_direction", RandomDirection)
