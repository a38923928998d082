"""Which neurons a fine-tuner may train: those of languages, as many random ones, all, or none."""

from __future__ import annotations

import warnings

import torch
from torch import nn

from lnbench.errors import LnbenchError, unknown
from lnbench.model.describe import model_name
from lnbench.model.locate import locate
from lnbench.neurons import NeuronSet, draw_random

RANDOM = "random"
_RANDOM_LIKE = "random-like-"


def no_neurons(model: nn.Module) -> NeuronSet:
    """Return a set with ``model``'s name and shape and no languages: enough to choose ``all`` or ``none``.

    Raises:
        LnbenchError: unsupported model.
    """
    sites = locate(model)
    return NeuronSet(model_name(sites.model), sites.layers, sites.width, {}, widths=sites.widths, experts=sites.layouts)


def chosen_neurons(neurons: NeuronSet, languages: str, *, seed: int = 0) -> NeuronSet:
    """Return the part of ``neurons`` to train, with its provenance.

    Args:
        neurons: The languages' neurons; for ``all`` and ``none`` only its model and shape are read.
        languages: One of

            - ``hi`` or ``en+hi``: the neurons of one language, or of several together;
            - ``random-like-en+hi``: for each layer as many random neurons as these languages have together, drawn
              outside theirs where enough are left; ``random``: like all languages of ``neurons`` together;
            - ``all``: every neuron of the model;
            - ``none``: no neuron.
        seed: Of the random neurons.

    Returns:
        A set whose neurons, of all its languages together, are those to train. Its languages are those asked for, or
        ``random`` or ``all``; none for ``none``.

    Raises:
        LnbenchError: a language that ``neurons`` lacks, or languages without a single neuron.
    """
    name, layers, width = neurons.model, neurons.layers, neurons.width
    units = neurons.units
    if languages == "none":
        return NeuronSet(name, layers, width, {}, **units)
    if languages == "all":
        return NeuronSet.from_masks(name, {"all": torch.arange(width) < torch.tensor(neurons.widths)[:, None]}, **units)
    is_random = languages == RANDOM or languages.startswith(_RANDOM_LIKE)
    named = neurons.languages if languages == RANDOM else languages.removeprefix(_RANDOM_LIKE).split("+")
    _check(neurons, named)
    if not is_random:
        chosen = {language: neurons[language] for language in named}
        return NeuronSet(name, layers, width, chosen, neurons.selector, neurons.statistics, **units)
    taken = torch.stack([neurons.mask(language) for language in named]).any(0)
    selector = {"name": RANDOM, "parameters": {"like": f"{neurons.fingerprint} {'+'.join(named)}", "seed": seed}}
    return NeuronSet.from_masks(
        name, {RANDOM: draw_random(RANDOM, taken.sum(1), taken, seed, neurons.widths)}, selector, **units
    )


def _check(neurons: NeuronSet, named: list[str]) -> None:
    if not neurons.languages:
        raise LnbenchError(
            "languages=… needs neurons: pass --neurons FILE or --selector (without, only 'all' and 'none' work)"
        )
    for language in named:
        if language not in neurons:
            hint = "Or choose by a word: random, random-like-…, all, none"
            raise unknown("language", language, neurons.languages, hint)
    empty = [language for language in named if not neurons.count(language)]
    if len(empty) == len(named):
        raise LnbenchError(f"{' and '.join(named)} has no neurons to train; languages=none trains the attention alone")
    if empty:
        warnings.warn(f"{' and '.join(empty)} has no neurons: the others' alone are trained", stacklevel=3)
