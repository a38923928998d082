"""Run a plugin and check what it returned: a selector on Statistics, an intervention on neurons."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import Any

from torch import Tensor, nn

from lnbench.errors import LnbenchError, plugin_errors
from lnbench.files import fingerprint
from lnbench.host import get_host
from lnbench.model.sites import Sites
from lnbench.neurons import NeuronSet
from lnbench.override_values import Override
from lnbench.overrides import Applied, Positions, Site, apply
from lnbench.statistics.language_statistics import Statistics, check_same_model


def select(selector: Any, statistics: Mapping[str, Statistics]) -> NeuronSet:
    """Select language-specific neurons.

    Args:
        selector: A name such as ``lape:top_fraction=0.01``, or a selector object.
        statistics: Language → Statistics, all of one model.

    Raises:
        LnbenchError: unknown selector or parameter, Statistics of different models, a selector that fails.
    """
    model, layers, width = check_same_model(statistics)
    host = get_host()
    chosen = host.resolve("selector", selector)
    described = host.canonical("selector", selector)
    with plugin_errors("selector", described["name"]):
        found = chosen.select(dict(statistics))
    if not isinstance(found, NeuronSet):
        raise LnbenchError(f"selector {described['name']!r} returned {type(found).__name__}, not an lnbench.NeuronSet")
    if (found.layers, found.width) != (layers, width):
        raise LnbenchError(
            f"selector {described['name']!r} returned neurons of {found.layers} layers x {found.width} for "
            f"Statistics of {layers} layers x {width}"
        )
    return NeuronSet(
        model=model,
        layers=layers,
        width=width,
        neurons={language: found[language] for language in found.languages},
        selector=described,
        statistics=fingerprint(sorted((language, one.fingerprint) for language, one in statistics.items())),
    )


def plan(neurons: Mapping[int, Tensor], intervention: Any, statistics: Statistics | None) -> Override:
    """The Override that an intervention makes of some neurons and their Statistics.

    Raises:
        LnbenchError: unknown intervention, one that fails, or one that does not return an Override.
    """
    chosen = get_host().resolve("intervention", intervention)
    name = intervention if isinstance(intervention, str) else type(chosen).__name__
    with plugin_errors("intervention", name):
        change = chosen.override(neurons, statistics)
    if not isinstance(change, Override):
        raise LnbenchError(f"intervention {name!r} returned {type(change).__name__}, not an lnbench.Override")
    return change


@contextmanager
def override(
    model: nn.Module,
    neurons: Mapping[int, Tensor] | Override,
    intervention: Any = "none",
    *,
    statistics: Statistics | None = None,
    site: Site = "post",
    positions: Positions = "all",
    sites: Sites | None = None,
) -> Iterator[Applied]:
    """Override neurons in every forward pass of ``model`` inside the block.

    Args:
        model: A supported Hugging Face causal LM: plain, PEFT-wrapped, quantised, or split over devices by layers.
        neurons: Layer → ``LongTensor`` of indices, such as ``neuron_set["hi"]``; or a finished :class:`Override`.
        intervention: A name such as ``p10`` or ``constant:value=1``, or an intervention object.
        statistics: Where the intervention reads its values, and whose range ``outside_range`` refers to.
        site: Where values are written: ``post`` the non-linearity (the default), or ``pre``.
        positions: Change ``all`` tokens, those of the ``prompt`` (forwards without cached keys) or the ``generated``.
        sites: The model's neurons, if already located.

    Yields:
        The running account of what was changed.

    Raises:
        LnbenchError: unknown intervention, neurons that the model does not have, an intervention that needs Statistics
            where none were given, Statistics of another model, an unsupported architecture.
    """
    change = neurons if isinstance(neurons, Override) else plan(neurons, intervention, statistics)
    with apply(model, change, statistics=statistics, site=site, positions=positions, sites=sites) as applied:
        yield applied
