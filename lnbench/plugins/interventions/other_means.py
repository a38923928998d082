"""``language_mean`` and ``complement_mean``: what neurons do in the text of other languages."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import Field
from pydantic.dataclasses import dataclass

from lnbench.errors import LnbenchError
from lnbench.hookspecs import OverrideContext, hookimpl
from lnbench.written_values import Layers

if TYPE_CHECKING:
    from torch import Tensor

    from lnbench.override_values import Override


@dataclass
class LanguageMean:
    """Write each of the target's neurons' mean over the text of another language: mean-patching."""

    plain_name: ClassVar[str] = "mean activation in {of}"
    plain_action: ClassVar[str] = "setting {neurons} to their mean in {of}"

    of: str = Field(min_length=1, description="the language whose text the mean is over")
    layers: Layers = None

    def override(self, context: OverrideContext) -> Override:
        from lnbench.override_values import Override

        return Override.setting(context.within(self.layers).neurons, context.statistics_of(self.of).mean)


@dataclass
class ComplementMean:
    """Write each neuron's mean over the languages that it does not belong to: the complement patch of DLN (2026).

    From the method's published code (mjkmain/Distribution-aware-language-neurons). With A_j the languages that have
    neuron j, and m_jk its mean over the text of language k::

        a_j ← mean over k not in A_j of m_jk

    Every language weighs the same. A neuron of all compared languages has no such mean, and is refused.
    """

    plain_name: ClassVar[str] = "mean activation in the other languages"

    layers: Layers = None

    def override(self, context: OverrideContext) -> Override:
        import torch

        from lnbench.override_values import Override, values_at

        here = context.within(self.layers)
        context.others("complement_mean")
        foreign: dict[int, list[Tensor]] = {layer: [] for layer in here.neurons}
        means: dict[int, list[Tensor]] = {layer: [] for layer in here.neurons}
        for language in context.languages:
            own, values = here.neurons_of(language), values_at(here.neurons, context.statistics_of(language).mean)
            for layer, indices in here.neurons.items():
                foreign[layer].append(~torch.isin(indices, own.get(layer, indices[:0])))
                means[layer].append(values[layer].double())
        counts = {layer: torch.stack(masks).sum(0) for layer, masks in foreign.items()}
        for layer, count in counts.items():
            if common := here.neurons[layer][count == 0].tolist():
                raise LnbenchError(
                    f"intervention 'complement_mean': neuron ({layer}, {common[0]}) belongs to all of "
                    f"{', '.join(context.languages)}, so there is no other language to take its mean from; select "
                    "fewer neurons, or compare more languages"
                )
        values = {}
        for layer, of_languages in means.items():
            # Units with several coordinates have a mean for each.
            shape = (*foreign[layer][0].shape, *[1] * (of_languages[0].ndim - 1))
            total = sum(mean * mask.reshape(shape) for mean, mask in zip(of_languages, foreign[layer], strict=True))
            values[layer] = (total / counts[layer].reshape(shape)).float()
        return Override.of(here.neurons, values)


@hookimpl
def lnbench_register_interventions(register: Callable[[str, Any], None]) -> None:
    register("language_mean", LanguageMean)
    register("complement_mean", ComplementMean)
