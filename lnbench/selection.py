"""Run a selector on Statistics and stamp what it found with where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from lnbench.errors import LnbenchError, plugin_errors
from lnbench.files import fingerprint
from lnbench.host import get_host
from lnbench.neurons import NeuronSet
from lnbench.statistics.values import Statistics, check_same_model


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
