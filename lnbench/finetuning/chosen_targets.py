"""Which weights belong to chosen units: of neurons, of experts' neurons, and of heads."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

import torch

from lnbench.errors import LnbenchError
from lnbench.finetuning.projections import Projection, all_places, check_experts, head_target, of_name
from lnbench.finetuning.targets import Target
from lnbench.model.architectures import ATTENTION, BANK_SITES, EXPERTS, RESIDUAL
from lnbench.model.describe import model_name
from lnbench.model.experts import ExpertsBank
from lnbench.model.sites import Sites
from lnbench.neurons import NeuronSet

_NO_WEIGHTS = {
    RESIDUAL: "every layer reads and writes its dimensions, so that no weights are theirs alone",
    EXPERTS: "its units are whole experts; choose neurons of these experts, at the site post",
}


def chosen_targets(
    sites: Sites, neurons: NeuronSet | None, projections: Sequence[Projection] = ()
) -> dict[str, Target]:
    """Return linear map, or parameter of experts → what trains of it, where there is something.

    Args:
        sites: Of the model.
        neurons: At a site of neurons, or of heads; of all its languages together.
        projections: Of neurons; none: all that a bank has. A head's own weights are the columns of the output
            projection that read it, since query, key and value heads may be shared or laid out in other ways.

    Raises:
        LnbenchError: units of another model, or of a site without weights of their own.
    """
    if neurons is None:
        return {}
    choose = _CHOICES.get(neurons.site)
    if choose is None:
        why = _NO_WEIGHTS.get(neurons.site, "it is a plugin's, of which lnbench does not know whose weights are whose")
        raise LnbenchError(
            f"units at the site {neurons.site!r} cannot be fine-tuned: {why}. Masked are neurons (pre, post, product) "
            "and heads (attention)"
        )
    neurons.check(model_name(sites.model), sites.layers, sites.layout(neurons.site).widths)
    targets = choose(sites, neurons.union(neurons.languages), projections)
    return {name: target for name, target in targets.items() if len(target.rows)}


def _of_neurons(
    sites: Sites, chosen: Mapping[int, torch.Tensor], projections: Sequence[Projection]
) -> dict[str, Target]:
    targets: dict[str, Target] = {}
    names = {module: name for name, module in sites.model.named_modules()}
    for bank in sites.banks:
        own = bank.own(chosen[bank.layer]) if bank.layer in chosen else torch.empty(0, dtype=torch.long)
        if isinstance(bank, ExpertsBank):
            if not len(own):
                continue
            check_experts(sites.model, bank)
        here = all_places(sites.model, bank)
        for projection in dict.fromkeys(projections or here):
            where = of_name(here, projection)
            # Layers that share a module share its neurons' weights: those of either are trained.
            is_shared = not isinstance(bank, ExpertsBank)
            name = names[sites.model.get_submodule(where.path)] if is_shared else where.path
            target = where.target(own)
            targets[name] = targets[name].joined(target) if name in targets else target
    return targets


def _of_heads(sites: Sites, chosen: Mapping[int, torch.Tensor], projections: Sequence[Projection]) -> dict[str, Target]:
    if projections not in ((), ("gate",)):  # by default, of rows and of masked_lora
        raise LnbenchError(
            f"projections={','.join(projections)} are of feed-forwards, and heads are chosen, of which the output "
            "projection's columns train; leave projections out"
        )
    targets: dict[str, Target] = {}
    for layer, heads in chosen.items():
        place = sites.place(ATTENTION, layer)
        target = head_target(place, heads)
        targets[place.module] = targets[place.module].joined(target) if place.module in targets else target
    return targets


_Choose = Callable[[Sites, Mapping[int, torch.Tensor], Sequence[Projection]], dict[str, Target]]
_CHOICES: dict[str, _Choose] = {**dict.fromkeys(BANK_SITES, _of_neurons), ATTENTION: _of_heads}
