"""``add``, ``mean_shift`` and ``swap``: language arithmetic on neurons."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import AfterValidator, Field, model_validator
from pydantic.dataclasses import dataclass

from lnbench.errors import LnbenchError
from lnbench.hookspecs import OverrideContext, hookimpl
from lnbench.written_values import Layers, Value, check_value

if TYPE_CHECKING:
    from torch import Tensor

    from lnbench.override_values import Override

_CONSTANT = "constant"
_ADD = "add_"


def _check_level(quantile: str) -> str:
    """Return ``mean``, or a level from 0 to 1."""
    try:
        if quantile == "mean" or 0 <= float(quantile) <= 1:
            return quantile
    except ValueError:
        pass
    raise LnbenchError(f"quantile={quantile}: expected mean, or a level from 0 to 1 as 0.9")


@dataclass
class Add:
    """Add each neuron's mean over the target's text, or a quantile of it, to its activation: a ← a + s·m.

    The addition of language arithmetic (Gurgurov et al. 2025, https://arxiv.org/abs/2507.22608), s being ``strength``.
    """

    plain_name: ClassVar[str] = "added activation, {strength} × {quantile}"

    quantile: Annotated[Value, AfterValidator(_check_level)] = Field(
        default="mean", description="what is added: mean, or the quantile at this level, as 0.9"
    )
    strength: float = Field(default=1.0, allow_inf_nan=False, description="how many times it is added")
    layers: Layers = None

    def override(self, context: OverrideContext) -> Override:
        from lnbench.override_values import Override, values_at

        statistics = context.required_statistics("add")
        neurons = context.within(self.layers).neurons
        added = statistics.mean if self.quantile == "mean" else statistics.quantile(float(self.quantile))
        return Override.of(neurons, values_at(neurons, added * self.strength), "add")


@dataclass
class MeanShift:
    """Shift each neuron by its mean over the target's text minus its mean over the other languages' texts.

    DiffMean on neurons, in the code of Gurgurov et al. 2025 (https://arxiv.org/abs/2507.22608): with m_jk the mean of
    neuron j over the text of language k, of K, and s the ``strength``::

        a_j ← a_j + s · (m_jt − 1 / (K − 1) Σ_{k ≠ t} m_jk)
    """

    plain_name: ClassVar[str] = "shift by the difference of means, × {strength}"

    strength: float = Field(default=1.0, allow_inf_nan=False, description="how many times the difference is added")
    layers: Layers = None

    def override(self, context: OverrideContext) -> Override:
        from lnbench.override_values import Override, values_at
        from lnbench.written_values import mean_of

        own = context.required_statistics("mean_shift").mean
        shift = own - mean_of(context.others("mean_shift"), context.statistics_of)
        neurons = context.within(self.layers).neurons
        return Override.of(neurons, values_at(neurons, shift * self.strength), "add")


@dataclass
class Swap:
    """Silence the source's neurons and raise the target's, in one override: language arithmetic.

    Gurgurov et al. 2025 (https://arxiv.org/abs/2507.22608), and CLaS-Bench's neuron method
    (https://arxiv.org/abs/2601.08331). With N_s and N_t the neurons of source and target, and m_jt neuron j's mean over
    the target's text, by default::

        a_j ← 0            j in N_s, not in N_t
        a_j ← a_j + m_jt   j in N_t

    Neurons of both are the target's. What a name reads from Statistics is read from those of the neurons' own language:
    ``source=p5`` is the fifth percentile over the source's text.
    """

    plain_name: ClassVar[str] = "swap"
    between_languages: ClassVar[bool] = True

    source: Annotated[Value, AfterValidator(lambda name: name if name == _CONSTANT else check_value(name))] = Field(
        default="zero", description="what the source's neurons are set to: zero, a number, p5, mean …, or constant"
    )
    target: Annotated[Value, AfterValidator(lambda name: check_value(name.removeprefix(_ADD)) and name)] = Field(
        default="add_mean",
        description="what the target's neurons are set to: mean, p90 …; or with add_ before it, what is added to them",
    )
    value: float | None = Field(
        default=None, allow_inf_nan=False, description="the number that source=constant writes, as -2.5"
    )
    layers: Layers = None

    @model_validator(mode="after")
    def _consistent(self) -> Swap:
        if (self.source == _CONSTANT) != (self.value is not None):
            raise LnbenchError(f"source={self.source} with value={self.value}: source=constant and value= go together")
        return self

    def override(self, context: OverrideContext) -> Override:
        from lnbench.override_values import LayerOverride, Override
        from lnbench.written_values import written

        source, _ = context.pair("swap")
        silenced = str(self.value) if self.source == _CONSTANT else self.source
        raised, operation = self.target.removeprefix(_ADD), "add" if self.target.startswith(_ADD) else "set"
        here = context.within(self.layers)
        own = here.neurons
        others = _without(here.neurons_of(source), own)
        parts: dict[int, list[LayerOverride]] = {}
        for neurons, values, how in (
            (others, written(silenced, others, lambda: context.statistics_of(source)), "set"),
            (own, written(raised, own, lambda: context.required_statistics("swap")), operation),
        ):
            for layer, indices in neurons.items():
                parts.setdefault(layer, []).append(LayerOverride(indices, values[layer], how))
        return Override(parts)


def _without(neurons: Mapping[int, Tensor], others: Mapping[int, Tensor]) -> dict[int, Tensor]:
    """Return the neurons that are not among ``others``."""
    import torch

    empty = torch.empty(0, dtype=torch.long)
    return {
        layer: kept
        for layer, indices in neurons.items()
        if len(kept := indices[~torch.isin(indices, others.get(layer, empty))])
    }


@hookimpl
def lnbench_register_interventions(register: Callable[[str, Any], None]) -> None:
    register("add", Add)
    register("mean_shift", MeanShift)
    register("swap", Swap)
