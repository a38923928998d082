"""Run a plugin and check what it returned: a selector on Statistics, an intervention on neurons."""

from __future__ import annotations

import functools
import inspect
import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from typing import Any

from torch import Tensor, nn

from lnbench.errors import DEPRECATION_GUIDE, LnbenchError, plugin_call, returned, unknown
from lnbench.files import fingerprint, warn_once
from lnbench.hookspecs import Needs, OverrideContext
from lnbench.host import get_host
from lnbench.model.architectures import BANK_SITES, POST, in_units, units_at
from lnbench.model.sites import Sites
from lnbench.neurons import NeuronSet
from lnbench.override_values import Override
from lnbench.overrides import Applied, Positions, apply
from lnbench.selection_account import account_of
from lnbench.statistics.handed import handed_context, handed_statistics
from lnbench.statistics.language_statistics import Statistics, check_same_model


def select(selector: Any, statistics: Mapping[str, Statistics]) -> NeuronSet:
    """Select language-specific neurons.

    Args:
        selector: A name such as ``lape:top_fraction=0.01``, or a selector object.
        statistics: Language → Statistics, all of one model.

    Raises:
        LnbenchError: unknown selector or parameter, Statistics of different models, a selector that fails.
    """
    model, _, _ = check_same_model(statistics)
    host = get_host()
    chosen = host.resolve("selector", selector)
    described = host.canonical("selector", selector)
    needs = needs_of(chosen)
    for own, measure in product(statistics.values(), needs.measures):
        own.measure(measure)  # raises an error that says how to collect it
    for own, site in product(statistics.values(), needs.sites):
        own.at(site)  # likewise
    with plugin_call("selector", described["name"]), handed_statistics(statistics) as handed:
        selected = returned(chosen.select(handed), NeuronSet)
        first = next(iter(statistics.values()))
        # A set that names no site is of the one that the Statistics show.
        shown = first if selected.site in BANK_SITES else first.at(selected.site)
        if (selected.layers, selected.width) != (shown.layers, shown.width):
            raise LnbenchError(
                f"returned {units_at(shown.site)} of {selected.layers} layers x {selected.width} for Statistics of "
                f"{shown.layers} layers x {shown.width}"
            )
        if strange := [language for language in selected if language not in statistics]:
            raise unknown("language", strange[0], statistics, "A selector returns neurons of these languages")
    masks = {language: selected.mask(language) for language in statistics if language in selected}
    account = account_of(masks, selected.scores)
    for warning in account.warnings(host.format("selector", chosen)):
        warn_once(in_units(warning, shown.site))
    return NeuronSet(
        model=model,
        layers=shown.layers,
        width=shown.width,
        neurons={language: selected[language] for language in statistics if language in selected},
        selector=described,
        statistics=fingerprint_of(statistics),
        site=shown.site,
        unit_size=shown.unit_size,
        widths=shown.widths,
        experts=shown.experts if shown.site in BANK_SITES else (),
        account=account,
        classes=selected.classes,
        derived=selected.derived,
        chat=_chat_of(statistics),
    )


def _chat_of(statistics: Mapping[str, Statistics]) -> bool | None:
    """Return whether Statistics were collected in the chat format; None where that is not known."""
    formats = {language: own.chat for language, own in statistics.items()}
    if {True, False} <= set(formats.values()):
        framed = [language for language, chat in formats.items() if chat]
        raw = [language for language, chat in formats.items() if chat is False]
        warn_once(
            f"Statistics of {', '.join(framed)} were collected in the chat format and those of {', '.join(raw)} on raw "
            "text, so differences between these languages may be the template's: collect all of them in one format"
        )
    return formats.popitem()[1] if len(set(formats.values())) == 1 else None


def fingerprint_of(statistics: Mapping[str, Statistics]) -> str:
    """Return what a NeuronSet records of the Statistics that it was selected from."""
    return fingerprint(sorted((language, own.fingerprint) for language, own in statistics.items()))


def needs_of(selector: Any) -> Needs:
    """Return what the Statistics that a selector reads must hold.

    Raises:
        LnbenchError: unknown selector or parameter.
    """
    chosen = get_host().resolve("selector", selector)
    with plugin_call("selector", get_host().canonical("selector", selector)["name"]):
        needs = getattr(chosen, "needs", None)
        if needs is not None:
            returned(needs, Needs)
    if needs is None and (levels := getattr(chosen, "batch_levels", None)):
        _deprecated(chosen.__class__, "has batch_levels: declare needs = lnbench.hookspecs.Needs(batch_levels=…)")
        needs = Needs(batch_levels=tuple(levels))
    return needs or Needs()


@functools.cache
def _deprecated(plugin: type, what: str) -> None:
    """Warn of an older contract, once per class."""
    warnings.warn(f"{plugin.__module__}.{plugin.__qualname__} {what}; see {DEPRECATION_GUIDE}", DeprecationWarning, 3)


def plan(
    neurons: Mapping[int, Tensor], intervention: Any, statistics: Statistics | None = None, **context: Any
) -> Override:
    """Return the Override that an intervention makes of some neurons and their Statistics.

    Args:
        neurons: Layer → ``LongTensor`` of indices, the target's.
        intervention: A name such as ``p10``, or an intervention object.
        statistics: The target's.
        context: Further fields of the :class:`~lnbench.hookspecs.OverrideContext`.

    Raises:
        LnbenchError: unknown intervention, one that fails, or one that does not return an Override.
    """
    chosen = get_host().resolve("intervention", intervention)
    name = intervention if isinstance(intervention, str) else _name_of(chosen)
    context.setdefault("target", statistics.language if statistics else None)
    if (of_language := context.get("statistics_of")) is not None:
        context["statistics_of"] = lambda language: of_language(language).per_coordinate
    own = None if statistics is None else statistics.per_coordinate
    given = OverrideContext(neurons, own, **context)
    with plugin_call("intervention", name), handed_context(given) as handed:
        if _takes_neurons_and_statistics(chosen):
            _deprecated(
                chosen.__class__, "has override(neurons, statistics): take one argument, context, in their place"
            )
            made = chosen.override(handed.neurons, handed.statistics)
        else:
            made = chosen.override(handed)
        change: Override = returned(made, Override)
        if statistics is not None:
            change.check(statistics.layers, statistics.widths, site=statistics.site, units=units_at(statistics.site))
    return replace(change, made_by=name)


def _name_of(intervention: Any) -> str:
    """Return the name that makes an object; that of its class, where no plugin's factory made it."""
    name = str(get_host().canonical("intervention", intervention)["name"])
    return type(intervention).__name__ if name.startswith(f"{type(intervention).__module__}.") else name


def _takes_neurons_and_statistics(intervention: Any) -> bool:
    parameters = inspect.signature(intervention.override).parameters.values()
    kinds = [parameter.kind for parameter in parameters]
    return (
        sum(kind in (inspect.Parameter.POSITIONAL_ONLY, inspect.Parameter.POSITIONAL_OR_KEYWORD) for kind in kinds) > 1
    )


@contextmanager
def override(
    model: nn.Module,
    neurons: Mapping[int, Tensor] | NeuronSet | Override,
    intervention: Any = "none",
    *,
    statistics: Statistics | Mapping[str, Statistics] | None = None,
    source: str | None = None,
    target: str | None = None,
    site: str | None = None,
    positions: Positions = "all",
    sites: Sites | None = None,
) -> Iterator[Applied]:
    """Override neurons in every forward pass of ``model`` inside the block.

    Args:
        model: A supported Hugging Face causal LM: plain, PEFT-wrapped, quantised, or split over devices by layers.
        neurons: Layer → ``LongTensor`` of indices, such as ``neuron_set["hi"]``; a NeuronSet, of which the neurons of
            ``target`` are taken; or a finished :class:`Override`.
        intervention: A name such as ``p10`` or ``constant:value=1``, or an intervention object.
        statistics: Where the intervention reads its values, and whose range ``outside_range`` refers to: the target's,
            or those of several languages by code.
        source: The language that an answer would be in, for interventions between two languages.
        target: The language whose neurons they are; by default that of ``statistics``.
        site: Where values are written: ``pre``, ``post``, ``product``, ``attention`` (heads), ``residual``, or a
            plugin's. None: where the neurons of a NeuronSet were found, else ``post``.
        positions: Change ``all`` tokens, those of the ``prompt`` (forwards without cached keys), the ``generated``,
            ``not_first`` (all but a text's first) or ``last`` (the last of the prompt).
        sites: The model's neurons, if already located.

    Yields:
        What was changed so far, updated by every forward pass.

    Raises:
        LnbenchError: unknown intervention or language, neurons that the model does not have, an intervention that needs
            Statistics where none were given, Statistics of another model, an unsupported architecture.
    """
    by_language = statistics if isinstance(statistics, Mapping) else {}
    own = by_language.get(target or "") if isinstance(statistics, Mapping) else statistics
    if isinstance(neurons, Override):
        change = neurons
    else:
        context: dict[str, Any] = {"source": source, "languages": tuple(by_language)}
        target = target or (own.language if own else None)
        if by_language:
            context["statistics_of"] = functools.partial(of_language, by_language)
        if isinstance(neurons, NeuronSet):
            if target is None:
                raise LnbenchError("these are the neurons of several languages: name one with target=")
            context |= {"neurons_of": neurons.__getitem__, "languages": tuple(neurons.languages)}
            site = site or neurons.site
            check_units(neurons, site)
            neurons = neurons[target]
        change = plan(neurons, intervention, own, **context, target=target)
    with apply(model, change, statistics=own, site=site or POST, positions=positions, sites=sites) as applied:
        yield applied


def check_units(neurons: NeuronSet, site: str) -> None:
    """Raise if units of one kind are to be read or written at a site of another: neurons as heads, say.

    Raises:
        LnbenchError: always then.
    """
    if neurons.site != site and not {neurons.site, site} <= set(BANK_SITES):
        raise LnbenchError(
            f"these are {units_at(neurons.site)} of site {neurons.site!r}, not {units_at(site)} of site {site!r}; use "
            f"them with site={neurons.site}"
        )


def of_language(statistics: Mapping[str, Statistics], language: str) -> Statistics:
    """Return one language's Statistics.

    Raises:
        LnbenchError: there are none.
    """
    if language not in statistics:
        raise unknown("language", language, statistics, "these are the languages with Statistics")
    return statistics[language]
