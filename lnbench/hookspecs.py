"""The plugin contract: what a plugin may add, and what lnbench calls on the things it added.

A plugin is a module (or any object) with some of the functions below, each marked with :data:`hookimpl`. Its
distribution names it in the entry-point group ``lnbench``::

    [project.entry-points.lnbench]
    my-plugin = "my_package.my_module"

lnbench's own selectors, interventions, fine-tuners, executors and architectures are registered through these same
functions, from the modules in ``lnbench/plugins/``.

A *factory* is a small dataclass (``pydantic.dataclasses.dataclass``), a ``pydantic.BaseModel``, a
``functools.partial`` of one, or any callable with an annotated signature. Its fields are its parameters: their types
validate what a user writes (``name:key=value:key=value``), and ``lnbench plugins`` prints them with their defaults and
the docstring's first line. ``factory(**parameters)`` returns the object that does the work: a :class:`Selector`,
:class:`Intervention`, :class:`Measure`, :class:`FineTuner` or :class:`Executor`. A name may be a pattern with one
parameter in it: ``register("p{percent}", Percentile)`` makes ``p10`` and ``p2.5`` of a numeric field ``percent``.

The hooks are called once, when plugins are first needed and before any model is loaded: keep heavy imports (torch,
transformers) inside the methods. They return nothing. A name is what users write: letters, digits, ``.``, ``_`` and
``-``. One that another plugin has taken is an error naming both distributions; an exception in a hook, a factory or a
method stops the run with the plugin's name. So does a returned value that breaks the contract, and a change of the
Statistics or neurons that a method is handed: they are copies, which is why the run is not affected. Copy a tensor
(``.clone()``) before writing to it.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, Literal, Protocol

import pluggy

from lnbench.errors import LnbenchError
from lnbench.parameters import layer_numbers

if TYPE_CHECKING:
    from pathlib import Path

    import typer
    from torch import Tensor

    from lnbench.model.architectures import Architecture
    from lnbench.model.sites import Sites
    from lnbench.neurons import NeuronSet
    from lnbench.override_values import Override
    from lnbench.statistics import Statistics
    from lnbench.sweeps.jobs import Job

PROJECT = "lnbench"
"""The pluggy project name, and the entry-point group that third-party plugins are found in."""

CONTRACT = 2
"""The version of this contract. It rises when something in it changes; the version before is accepted for one more
release, with a ``DeprecationWarning``.

2: ``Intervention.override(context)`` in place of ``override(neurons, statistics)``; ``Selector.needs`` in place of
``batch_levels``; the override operation ``add`` in place of ``shift``; measures, executors and commands are new.
"""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a plugin's hook functions. A function without it is not called."""

Reduction = Literal["sum", "min", "max", "concatenate"]
"""How one tensor of two parts of a text becomes that of the whole: element by element, or one after the other along the
first dimension, for a tensor with one entry per text. The order of these is that of the parts."""


@dataclass(frozen=True)
class Needs:
    """What the Statistics that a selector reads must hold, beyond the moments and quantiles of the site it is run at.

    Args:
        sites: Names of sites (``pre``, ``post`` …).
        measures: Measures, each as a choice (``name`` or ``name:key=value``).
        batch_levels: Levels at which the mean of the batches' own quantiles is kept.
    """

    sites: tuple[str, ...] = ()
    measures: tuple[str, ...] = ()
    batch_levels: tuple[float, ...] = ()


class Selector(Protocol):
    """Chooses each language's neurons.

    Three attributes are optional: ``plain_name``, what readers of pages and figures are shown in place of the choice;
    ``needs``, a :class:`Needs`, and ``is_control = True`` on the class for a selector that
    is a control of others. A control takes the parameters ``like`` (a NeuronSet file or another selector) and ``seed``,
    gets no controls itself, and has a method ``draw(neurons, statistics)`` that returns the units for those of a
    NeuronSet.
    """

    def select(self, statistics: Mapping[str, Statistics]) -> NeuronSet:
        """Return the neurons of every language in ``statistics`` (language → Statistics, all of one model)."""
        ...


def _no_neurons(language: str) -> Mapping[int, Tensor]:
    raise LnbenchError(f"the neurons of {language!r} are not known here: pass a NeuronSet that has them")


def _no_statistics(language: str) -> Statistics:
    raise LnbenchError(f"the Statistics of {language!r} are not known here: pass statistics={{{language!r}: …}}")


@dataclass(frozen=True)
class OverrideContext:
    """What an intervention may look at when it makes an Override.

    Args:
        neurons: Layer → ``LongTensor`` of indices: the target's.
        statistics: The target's Statistics at the site that is read, or None where the caller has none: an
            intervention that needs them then raises :class:`lnbench.LnbenchError`.
        target: The language whose neurons they are, what an answer should be in; None if the caller did not say.
        source: The language that an answer would be in; None outside pairs.
        languages: All languages that were compared.
        neurons_of: Any of these languages' neurons, by its code.
        statistics_of: Any of these languages' Statistics at the site that is read, by its code.
    """

    neurons: Mapping[int, Tensor]
    statistics: Statistics | None = None
    target: str | None = None
    source: str | None = None
    languages: tuple[str, ...] = ()
    neurons_of: Callable[[str], Mapping[int, Tensor]] = _no_neurons
    statistics_of: Callable[[str], Statistics] = _no_statistics

    def __repr__(self) -> str:
        count = sum(map(len, self.neurons.values()))
        pair = f"target={self.target!r}" + (f", source={self.source!r}" if self.source else "")
        return f"OverrideContext({count:,} neurons, {pair}, {self.statistics or 'no Statistics'})"

    def required_statistics(self, name: str) -> Statistics:
        """Return the target's Statistics for the intervention ``name``, which reads its values from them.

        Raises:
            LnbenchError: there are none.
        """
        if self.statistics is None:
            whose = f"Statistics of {self.target!r}" if self.target else "Statistics"
            remedy = "name their language with target=" if self.languages and not self.target else "pass statistics="
            raise LnbenchError(f"intervention {name!r} reads its values from {whose}; {remedy}")
        return self.statistics

    def pair(self, name: str) -> tuple[str, str]:
        """Return source and target for the intervention ``name``, which works between two languages.

        Raises:
            LnbenchError: one of them is not known, or they are the same language.
        """
        if self.source is None or self.target is None:
            missing = "source" if self.source is None else "target"
            raise LnbenchError(f"intervention {name!r} works between two languages; name the {missing} with {missing}=")
        if self.source == self.target:
            raise LnbenchError(
                f"intervention {name!r} works between two languages, and source and target are both {self.target!r}; "
                "name another source="
            )
        return self.source, self.target

    def others(self, name: str) -> tuple[str, ...]:
        """Return the compared languages but the target for the intervention ``name``, which compares it with them.

        Raises:
            LnbenchError: there are none.
        """
        others = tuple(language for language in self.languages if language != self.target)
        if self.target is None or not others:
            raise LnbenchError(
                f"intervention {name!r} compares {self.target or 'the target'!r} with other languages, and there are "
                f"none; known: {', '.join(self.languages) or 'none'}"
            )
        return others

    def within(self, layers: str | None) -> OverrideContext:
        """Return the same with the units of some layers only.

        Args:
            layers: As ``8-15``, ``8`` or ``0-3+8-15``; None: all.

        Raises:
            LnbenchError: another text, a layer that the model does not have, or none of the target's units is there.
        """
        if layers is None:
            return self
        chosen = layer_numbers(layers)
        if self.statistics is not None and max(chosen) >= self.statistics.layers:
            raise LnbenchError(f"layers={layers}: the model has the layers 0 to {self.statistics.layers - 1}")
        neurons = _in_layers(self.neurons, chosen)
        there = sorted(layer for layer, indices in self.neurons.items() if len(indices))
        if there and not any(map(len, neurons.values())):
            raise LnbenchError(
                f"layers={layers} holds none of the units to change, which are in {', '.join(map(str, there))}"
            )
        return replace(self, neurons=neurons, neurons_of=lambda language: _in_layers(self.neurons_of(language), chosen))


def _in_layers(neurons: Mapping[int, Tensor], layers: Collection[int]) -> dict[int, Tensor]:
    return {layer: indices for layer, indices in neurons.items() if layer in layers}


class Intervention(Protocol):
    """Chooses new values for one language's neurons.

    A class may set ``changes_nothing = True``: what is measured under it is the baseline, and no neurons are looked up;
    or ``between_languages = True``: it needs a source, and a sweep measures it on pairs of languages only.
    ``whole_site`` names a site all of whose units it changes, such as ``residual``: where no other site and selector
    are chosen, it is given these. ``needs``, a :class:`Needs`, names further sites that its Statistics must hold,
    and ``reads_statistics = False`` says that it reads none, so that nobody collects them for it.
    ``plain_name`` is what readers of pages and figures are shown in place of the choice, and ``plain_action`` what a
    sentence says that it does (``"setting {neurons} to zero"``). Parameters in braces are filled in (``{value}``,
    ``{fraction:share}`` in per cent); those that are in neither and not at their default are added behind.
    One that is a control of others sets ``is_control = True``, and takes the parameters ``like`` (the intervention) and
    ``seed``.
    """

    def override(self, context: OverrideContext) -> Override:
        """Return what to do with ``context.neurons``.

        It is called once per language or pair, not once per forward pass. What depends on the present value is written
        as a function in a :class:`lnbench.LayerOverride`.
        """
        ...


@dataclass(frozen=True)
class Step:
    """One layer's values at one site in one forward pass.

    Args:
        site: Name of the site.
        layer: Number of the layer, from 0.
        values: ``[batch, length, width]``, as the model computes them; not to be changed.
        counted: ``BoolTensor[batch, length]`` on the same device: the tokens that count, without BOS and padding.
        gradient: For a measure with ``gradients = True``, shaped as ``values``: of the negative log-likelihood of all
            next tokens, in nats and summed, with respect to them. As rows do not see each other, it is each row's own.
        predicted: With ``gradient``, ``LongTensor[batch]`` on the same device: how many next tokens each row's sum is
            over. A gradient divided by it is that of the mean.
    """

    site: str
    layer: int
    values: Tensor
    counted: Tensor
    gradient: Tensor | None = None
    predicted: Tensor | None = None


class Measure(Protocol):
    """Observes what a selector needs beyond Statistics, in the same pass over the text.

    Two attributes are optional. ``sites``, names of sites: only their values are shown to :meth:`observe`, and they are
    tapped for the measure where the Statistics do not count them. ``gradients = True``: the output head and a backward
    pass are run, and :meth:`observe` is called after them, with ``step.gradient``; without such a measure neither is.
    """

    @property
    def reductions(self) -> Mapping[str, Reduction]:
        """Name of a tensor → how those of two parts of a text become one."""
        ...

    def start(self, sites: Sites) -> None:
        """Discard what was observed, and prepare to observe a model with these ``sites``."""
        ...

    def observe(self, step: Step) -> None:
        """Observe one layer's values; called for every layer and site of every forward pass."""
        ...

    def finish(self) -> dict[str, Tensor]:
        """Return what was observed since :meth:`start`, by name (letters, digits and ``_``)."""
        ...


class FineTuner(Protocol):
    """Trains an adapter, restricted to a NeuronSet.

    It may have a method ``check(model, neurons)``, called before minutes are spent on preparing the data: it raises
    :class:`lnbench.LnbenchError` for neurons that cannot be trained.
    """

    def train(self, model: Any, tokenizer: Any, neurons: NeuronSet | None, data: Any, output_dir: Path) -> Path:
        """Train an adapter and save it in ``output_dir``.

        Args:
            model: A Hugging Face causal LM without an adapter, on its device; it may be changed in place.
            tokenizer: Its tokenizer.
            neurons: The user's NeuronSet, of this model; None if none was given.
            data: An :class:`lnbench.finetuning.data.TrainingData`: tokenised examples, and the training's settings.
                ``lnbench.finetuning.training.train_adapter`` runs the training loop on it.
            output_dir: An existing folder, which holds an interrupted training's checkpoints if there was one.

        Returns:
            The folder to load the adapter from (``peft=`` in model arguments), ``output_dir`` or one inside it.
        """
        ...


class Executor(Protocol):
    """Runs the jobs of a sweep. It may be a context manager, which is entered before the first job.

    A method ``describe()`` is optional: it returns a line on what it asks for, which ``--dry-run`` prints. So is an
    attribute ``here``: whether jobs run on this machine; what cannot fit it is then refused before anything starts.

    Attributes:
        workers: How many jobs it runs at a time, once it is entered.
    """

    workers: int

    def run(self, jobs: Sequence[Job]) -> Iterator[tuple[Job, Any]]:
        """Run ``jobs`` in any order.

        In each process, make one :class:`lnbench.sweeps.jobs.Process`, and call ``job.run(process)`` for one job after
        another. :func:`lnbench.sweeps.jobs.next_job` says which is best run next where a model is loaded already.
        Where a process ends in the middle of a job, :func:`lnbench.sweeps.crashes.after_crash` returns the job to try
        again, or its result.

        Yields:
            Every job with what its ``run`` returned, or the exception that it raised, in the order in which they end.
        """
        ...


@hookspec
def lnbench_register_selectors(register: Callable[[str, Callable[..., Selector]], None]) -> None:
    """Add selectors: call ``register(name, factory)`` once per selector."""


@hookspec
def lnbench_register_interventions(register: Callable[[str, Callable[..., Intervention]], None]) -> None:
    """Add interventions: call ``register(name, factory)`` once per intervention, or per pattern of names."""


@hookspec
def lnbench_register_measures(register: Callable[[str, Callable[..., Measure]], None]) -> None:
    """Add measures, which a selector's ``needs`` names: call ``register(name, factory)`` once per measure."""


@hookspec
def lnbench_register_finetuners(register: Callable[[str, Callable[..., FineTuner]], None]) -> None:
    """Add fine-tuners: call ``register(name, factory)`` once per fine-tuner."""


@hookspec
def lnbench_register_executors(register: Callable[[str, Callable[..., Executor]], None]) -> None:
    """Add executors, which ``--executor`` names: call ``register(name, factory)`` once per executor."""


@hookspec
def lnbench_register_architectures(register: Callable[[str, Architecture], None]) -> None:
    """Add rows to the table that says where neurons are in each Hugging Face architecture.

    Call ``register(model_type, row)`` once per architecture: ``model_type`` is that of the model's configuration,
    ``row`` an :class:`lnbench.model.architectures.Architecture`.
    """


@hookspec
def lnbench_register_commands(app: typer.Typer) -> None:
    """Add commands to ``lnbench``: ``@app.command()`` adds a command, ``app.add_typer(other, name=…)`` a group.

    Called with an empty typer app of this plugin when the command line lists its commands, or is given one that is not
    lnbench's own. Keep all imports that take time inside the commands. A plugin that fails here, or whose command has
    a taken name, adds no commands; the others are not affected, and ``lnbench doctor`` says why.
    """
