"""``fallback``: the neurons of several languages silenced together."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from typing import TYPE_CHECKING, Annotated, Any, ClassVar

from pydantic import AfterValidator, Field
from pydantic.dataclasses import dataclass

from lnbench.errors import LnbenchError
from lnbench.hookspecs import OverrideContext, hookimpl
from lnbench.written_values import Layers, filled

if TYPE_CHECKING:
    from torch import Tensor

    from lnbench.override_values import Override


def _each_once(languages: list[str]) -> list[str]:
    if len(set(languages)) != len(languages):
        raise LnbenchError(f"languages={'+'.join(languages)} names a language twice")
    return languages


@dataclass
class Fallback:
    """Silence the neurons of several languages at once: which language do answers fall back to?

    The fallback chain of language arithmetic (Gurgurov et al. 2025, https://arxiv.org/abs/2507.22608): measured with
    ``languages=en``, ``languages=en+fr`` and so on, each step switches one more language off. A neuron of several is
    written once. The target's own neurons count only if it is among ``languages``.
    """

    plain_name: ClassVar[str] = "languages silenced: {languages}"

    languages: Annotated[list[str], AfterValidator(_each_once)] = Field(
        min_length=1, description="whose neurons, as en+fr+de"
    )
    value: float = Field(default=0.0, allow_inf_nan=False, description="what they are set to")
    layers: Layers = None
    reads_statistics: ClassVar[bool] = False

    def override(self, context: OverrideContext) -> Override:
        import torch

        from lnbench.override_values import Override

        of_layer: dict[int, list[Tensor]] = {}
        for language in self.languages:
            for layer, indices in context.neurons_of(language).items():
                of_layer.setdefault(layer, []).append(indices)
        neurons = {layer: torch.unique(torch.cat(parts)) for layer, parts in sorted(of_layer.items())}
        chosen = replace(context, neurons=neurons).within(self.layers).neurons
        return Override.of(chosen, filled(self.value, chosen))


@hookimpl
def lnbench_register_interventions(register: Callable[[str, Any], None]) -> None:
    register("fallback", Fallback)
