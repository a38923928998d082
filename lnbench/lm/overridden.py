"""What an evaluation overrode, in one line per language."""

from __future__ import annotations

from collections.abc import Iterator, Mapping

from lnbench.host import get_host
from lnbench.lm.experiment import Experiment, OverrideCounts
from lnbench.model.architectures import units_at
from lnbench.neurons import NeuronSet
from lnbench.parameters import format_choice
from lnbench.statistics import Statistics


def overridden(
    experiment: Experiment,
    neurons: NeuronSet,
    statistics: Mapping[str, Statistics | None],
    counts: Mapping[str, OverrideCounts],
) -> Iterator[str]:
    """Yield, for each language, what was written to how many neurons at how many tokens, and where they come from.

    Args:
        experiment: The arguments of the model.
        neurons: The neurons that were overridden.
        statistics: Language → its Statistics, or None where there are none.
        counts: Language → what was done.
    """
    units = units_at(neurons.site)
    for language, done in sorted(counts.items()):
        if done.tokens:
            yield (
                f"{language}: {experiment.intervention} on {done.neurons:,} {units} in {done.layers} layers, "
                f"{done.tokens:,} tokens changed; {_origin(experiment, neurons)}, {_text(statistics.get(language))}"
            )
        else:
            yield f"{language}: nothing was run, {done.cached_answers:,} answers came from --use_cache"


def _origin(experiment: Experiment, neurons: NeuronSet) -> str:
    named = [f"from {experiment.neurons}"] if experiment.neurons else []
    if neurons.selector is None:
        return " ".join([*named, "selector not recorded"])
    name = neurons.selector["name"]
    # Not by the host alone, which may lack the plugin that made a file.
    choice = format_choice(name, neurons.selector["parameters"], get_host().defaults("selector", name))
    return " ".join([*named, f"selected by {choice}"])


def _text(statistics: Statistics | None) -> str:
    if statistics is None:
        return "text not known"
    text = statistics.provenance.get("corpus_pattern", "a text that is not recorded")
    return f"{statistics.tokens:,} tokens of {text}"
