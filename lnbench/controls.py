"""Controls: what a set of neurons is compared with, as a choice of plugins.

A control is a plugin whose class sets ``is_control = True``: a selector that draws other units for the ones of a
NeuronSet, or an intervention that does something else of equal strength with the same units. Both take ``like``, what
they are a control of, and ``seed``, which says which draw.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from lnbench.choices import needs_of, select
from lnbench.errors import LnbenchError, plugin_call, returned, unknown
from lnbench.hookspecs import Needs
from lnbench.host import get_host
from lnbench.neurons import NeuronSet
from lnbench.parameters import parse_choice, unbracketed
from lnbench.statistics import Statistics
from lnbench.statistics.handed import handed_statistics
from lnbench.statistics.language_statistics import check_same_model


def selector_in(like: str | None) -> str | None:
    """Return the selector that ``like`` names, ``name`` or ``[name:key=value]``; None where it is a file or missing."""
    inner = unbracketed(like or "")
    return inner if parse_choice(inner)[0] in get_host().names("selector") and not Path(inner).exists() else None


def needs_of_matched(like: str | None) -> Needs:
    """Return what the selector that is matched needs."""
    selector = selector_in(like)
    return needs_of(selector) if selector else Needs()


def matched_set(like: str, statistics: Mapping[str, Statistics]) -> NeuronSet:
    """Return the NeuronSet of a file, or what a selector finds in these Statistics.

    Raises:
        LnbenchError: the file is missing, of another model, or lacks a language.
    """
    model, layers, _ = check_same_model(statistics)
    selector = selector_in(like)
    found = select(selector, statistics) if selector else NeuronSet.load(like)
    found.check(model, layers, next(iter(statistics.values())).widths)
    for language in statistics:
        if language not in found:
            raise unknown("language", language, found.languages, f"{like} has no neurons to match for it")
    return found


def drawn_by(
    control: str, seed: int, neurons: NeuronSet, intervention: str, statistics: Mapping[str, Statistics]
) -> tuple[NeuronSet, str]:
    """Return what one draw of a control changes, and how: other units alike, or the same units otherwise.

    Args:
        control: A control, ``name`` or ``name:key=value``.
        seed: Which draw.
        neurons: What it is a control of.
        intervention: What is done to them.
        statistics: Language → Statistics, as many as there are.

    Raises:
        LnbenchError: ``control`` is no control, or it cannot draw for these neurons or this intervention.
    """
    host = get_host()
    if host.kind_of_control(control) == "intervention":
        return neurons, host.control_of(intervention, seed, control) or intervention
    name, parameters = parse_choice(control)
    return draw({"name": name, "parameters": {**parameters, "seed": seed}}, neurons, statistics), intervention


def draw(control: Any, neurons: NeuronSet, statistics: Mapping[str, Statistics]) -> NeuronSet:
    """Return the units that a control draws for those of a NeuronSet.

    Args:
        control: A choice such as ``random_active:seed=1``, or an object.
        neurons: What it is a control of.
        statistics: Language → Statistics, as many as there are; a control that reads them says what it lacks.

    Raises:
        LnbenchError: it is no selector that draws for a set, or it cannot draw for this one.
    """
    chosen = get_host().resolve("selector", control)
    name = get_host().canonical("selector", control)["name"]
    if not callable(getattr(chosen, "draw", None)):
        raise LnbenchError(f"the control {name!r} has no method draw(neurons, statistics), which is needed here")
    with plugin_call("selector", name), handed_statistics(statistics) as handed:
        drawn: NeuronSet = returned(chosen.draw(neurons, handed), NeuronSet)
    return drawn
