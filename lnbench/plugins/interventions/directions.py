"""``diffmean``, ``recover`` and ``project_out``: directions of languages in the residual stream."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from functools import partial
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field, model_validator
from pydantic.dataclasses import dataclass

from lnbench.errors import LnbenchError, unknown
from lnbench.hookspecs import Needs, OverrideContext, hookimpl
from lnbench.parameters import layer_numbers
from lnbench.written_values import Layers

if TYPE_CHECKING:
    from torch import Tensor

    from lnbench.override_values import LayerOverride, Override

_SITE = "residual"


def _means(context: OverrideContext, name: str) -> Callable[[str], Tensor]:
    """Return the function language → mean of the residual stream after each block, ``[layers, d_model]``.

    Raises:
        LnbenchError: it raises, where Statistics are missing or lack the site.
    """

    def mean(language: str) -> Tensor:
        own = language == context.target
        statistics = context.required_statistics(name) if own else context.statistics_of(language)
        return statistics.at(_SITE).mean.double()

    return mean


def _units(context: OverrideContext, width: int, layers: int) -> dict[int, Tensor]:
    """Return layer → the dimensions to write: the context's, or all where its units are another site's."""
    import torch

    if context.statistics is not None and context.statistics.site == _SITE:
        return dict(context.neurons)
    return {layer: torch.arange(width) for layer in range(layers)}


def _chosen(name: str, units: Mapping[int, Tensor], layers: str | None, count: int) -> dict[int, Tensor]:
    """Return the units in some layers.

    Raises:
        LnbenchError: a layer that the model does not have, or that has no unit to write.
    """
    wanted = frozenset(units) if layers is None else layer_numbers(layers)
    if max(wanted, default=0) >= count:
        raise LnbenchError(f"intervention {name!r}: layer {max(wanted)} is none of the model's, 0 to {count - 1}")
    chosen = {layer: units[layer] for layer in sorted(wanted) if layer in units and len(units[layer])}
    if not chosen:
        raise LnbenchError(f"intervention {name!r}: none of the dimensions to write is in layers {layers}")
    return chosen


def _unit(vector: Tensor, name: str, layer: int, between: str) -> Tensor:
    """Return a vector of length 1.

    Raises:
        LnbenchError: it has no direction.
    """
    length = vector.norm()
    if not length > 0:
        raise LnbenchError(f"intervention {name!r}: the means of {between} are the same in layer {layer}: no direction")
    unit: Tensor = vector / length
    return unit


def _language_vector(mean: Callable[[str], Tensor], context: OverrideContext, language: str, name: str) -> Tensor:
    """Return a language's mean minus the mean over all compared languages, ``[layers, d_model]``.

    Raises:
        LnbenchError: it is not compared, or there is no other language.
    """
    import torch

    context.others(name)
    if language not in context.languages:
        raise unknown("language", language, context.languages, "these are the languages compared")
    return mean(language) - torch.stack([mean(other) for other in context.languages]).mean(0)


@dataclass
class DiffMean:
    """Add the difference of two languages' means to the residual stream, as a direction of chosen strength.

    CLaS-Bench (Gurgurov et al., Findings of ACL 2026, https://arxiv.org/abs/2601.08331), at every position. With μ_k
    the mean of the residual stream after block l over the text of language k, s the source, t the target::

        h ← h + strength · v / ‖v‖,   v = μ_t − μ_s

    Published for Llama-3.1-8B-Instruct: layer 20, strength 5. A strength is in the units of that model's residual
    stream, whose norm differs by model and layer.
    """

    plain_name: ClassVar[str] = "difference of means, strength {strength}"
    whole_site: ClassVar[str] = _SITE
    between_languages: ClassVar[bool] = True
    needs: ClassVar[Needs] = Needs(sites=(_SITE,))

    layer: int | None = Field(default=None, ge=0, description="after which block, from 0")
    strength: float = Field(default=5.0, allow_inf_nan=False, description="length of what is added")
    layers: Layers = None

    @model_validator(mode="after")
    def _one_of_both(self) -> DiffMean:
        if (self.layer is None) == (self.layers is None):
            raise LnbenchError("give either layer=, as layer=20, or layers=, as layers=8-15")
        return self

    def override(self, context: OverrideContext) -> Override:
        from lnbench.override_values import LayerOverride, Override

        source, target = context.pair("diffmean")
        mean = _means(context, "diffmean")
        difference = mean(target) - mean(source)
        where = self.layers if self.layer is None else str(self.layer)
        units = _chosen("diffmean", _units(context, difference.shape[1], len(difference)), where, len(difference))
        parts = {}
        for layer, indices in units.items():
            vector = _unit(difference[layer, indices], "diffmean", layer, f"{source} and {target}")
            parts[layer] = LayerOverride(indices, (self.strength * vector).float(), "add", _SITE)
        return Override(parts)


@dataclass
class Recover:
    """Turn the residual stream of all layers from the source's direction to the target's, keeping its norm.

    ReCoVeR (https://arxiv.org/abs/2509.14814). With v_k = μ_k − (1 / K) Σ_k' μ_k' the vector of language k of K in a
    layer, α the ``strength`` and β the ``source_strength``, at every token but a text's first::

        h' = h + α · u / ‖u‖,   u = v_t − β v_s
        h ← h' · ‖h‖ / ‖h'‖
    """

    plain_name: ClassVar[str] = "language recovery, strength {strength}"
    whole_site: ClassVar[str] = _SITE
    between_languages: ClassVar[bool] = True
    needs: ClassVar[Needs] = Needs(sites=(_SITE,))

    strength: float = Field(default=1.0, allow_inf_nan=False, description="length of what is added, α")
    source_strength: float = Field(default=1.0, allow_inf_nan=False, description="weight of the source's vector, β")
    layers: Layers = None

    def override(self, context: OverrideContext) -> Override:
        from lnbench.override_values import LayerOverride, Override

        source, target = context.pair("recover")
        mean = _means(context, "recover")
        own, other = (_language_vector(mean, context, language, "recover") for language in (target, source))
        vectors = own - self.source_strength * other
        parts: dict[int, LayerOverride] = {}
        units = _chosen("recover", _units(context, vectors.shape[1], len(vectors)), self.layers, len(vectors))
        for layer, indices in units.items():
            vector = _unit(vectors[layer, indices], "recover", layer, f"{source} and {target}")
            function = partial(steered, direction=(self.strength * vector).float())
            parts[layer] = LayerOverride(indices, None, function, _SITE)
        return Override(parts, positions="not_first")


@dataclass
class ProjectOut:
    """Take a language's direction out of the residual stream: directional ablation.

    As for SAE features in Deng et al. (ACL 2025, https://arxiv.org/abs/2505.05111), with the direction of a language's
    mean, v_k = μ_k − (1 / K) Σ_k' μ_k' in each layer, at every position::

        h ← h − (h · v) v / ‖v‖²
    """

    plain_name: ClassVar[str] = "direction projected out"
    whole_site: ClassVar[str] = _SITE
    needs: ClassVar[Needs] = Needs(sites=(_SITE,))

    of: str | None = Field(default=None, description="whose direction; the target's by default")
    layers: Layers = None

    def override(self, context: OverrideContext) -> Override:
        from lnbench.override_values import LayerOverride, Override

        language = self.of or context.target or ""
        vectors = _language_vector(_means(context, "project_out"), context, language, "project_out")
        units = _chosen("project_out", _units(context, vectors.shape[1], len(vectors)), self.layers, len(vectors))
        parts: dict[int, LayerOverride] = {}
        for layer, indices in units.items():
            vector = _unit(vectors[layer, indices], "project_out", layer, f"{language} and all languages")
            parts[layer] = LayerOverride(indices, None, partial(projected, direction=vector.float()), _SITE)
        return Override(parts)


def steered(old: Tensor, *, direction: Tensor) -> Tensor:
    """Return ``old`` ``[..., n]`` with a direction ``[n]`` added, at the norm that it had."""
    before = old.float()
    after = before + direction.to(before)
    # Where the sum is 0 there is no direction to scale, and it stays 0.
    scale = before.norm(dim=-1, keepdim=True) / after.norm(dim=-1, keepdim=True).clamp_min(1e-30)
    turned: Tensor = (after * scale).to(old.dtype)
    return turned


def projected(old: Tensor, *, direction: Tensor) -> Tensor:
    """Return ``old`` ``[..., n]`` without its part along a direction ``[n]``."""
    before = old.float()
    along = direction.to(before)
    share = (before @ along).unsqueeze(-1) / along.square().sum()
    return (before - share * along).to(old.dtype)


@hookimpl
def lnbench_register_interventions(register: Callable[[str, Any], None]) -> None:
    register("diffmean", DiffMean)
    register("recover", Recover)
    register("project_out", ProjectOut)
