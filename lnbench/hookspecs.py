"""The plugin contract: what a plugin may add, and what lnbench calls the things it added with.

A plugin is a module (or any object) with some of the four functions below, each marked with :data:`hookimpl`. Its
distribution names it in the entry-point group ``lnbench``::

    [project.entry-points.lnbench]
    my-plugin = "my_package.my_module"

lnbench's own selectors, interventions, fine-tuners and architectures are registered through these same functions.

A *factory* is a small dataclass (``pydantic.dataclasses.dataclass``), a ``pydantic.BaseModel``, a
``functools.partial`` of one, or any callable with an annotated signature. Its fields are its parameters: their types
validate what a user writes (``name:key=value:key=value``), and ``lnbench plugins`` prints them with their defaults and
the docstring's first line. ``factory(**parameters)`` returns the object that does the work: a :class:`Selector`,
:class:`Intervention` or :class:`FineTuner`.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, Protocol

import pluggy

if TYPE_CHECKING:
    from pathlib import Path

    from torch import Tensor

    from lnbench.model.architectures import Architecture
    from lnbench.neurons import NeuronSet
    from lnbench.override_values import Override
    from lnbench.statistics import Statistics

PROJECT = "lnbench"
"""The pluggy project name, and the entry-point group that third-party plugins are found in."""

hookspec = pluggy.HookspecMarker(PROJECT)
hookimpl = pluggy.HookimplMarker(PROJECT)
"""Marks a plugin's hook functions. A function without it is not called."""


class Selector(Protocol):
    """Chooses each language's neurons."""

    def select(self, statistics: Mapping[str, Statistics]) -> NeuronSet:
        """The neurons of every language in ``statistics`` (language → Statistics, all of one model)."""
        ...


class Intervention(Protocol):
    """Chooses new values for one language's neurons."""

    def override(self, neurons: Mapping[int, Tensor], statistics: Statistics | None) -> Override:
        """What to do with ``neurons`` (layer → ``LongTensor`` of indices).

        ``statistics`` are those of the neurons' language, or None where the caller has none: an intervention that
        needs them then raises :class:`lnbench.LnbenchError`.
        """
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


@hookspec
def lnbench_register_selectors(register: Callable[[str, Callable[..., Selector]], None]) -> None:
    """Add selectors.

    Called once, when plugins are first needed, before any model is loaded: keep heavy imports inside ``select``.

    Args:
        register: Call ``register(name, factory)`` once per selector. ``name`` is what users write: letters, digits,
            ``.``, ``_`` and ``-``. ``factory(**parameters)`` returns an object with ``select(statistics)``, see
            :class:`Selector`.

    Nothing is returned. A name that another plugin has taken is an error naming both distributions. An exception here,
    in the factory or in ``select`` stops the run with the plugin's name.
    """


@hookspec
def lnbench_register_interventions(register: Callable[[str, Callable[..., Intervention]], None]) -> None:
    """Add interventions.

    Called once, when plugins are first needed, before any model is loaded.

    Args:
        register: Call ``register(name, factory)`` once per intervention. ``factory(**parameters)`` returns an object
            with ``override(neurons, statistics)``, see :class:`Intervention`. It is called once per language, not once
            per forward pass.

    Nothing is returned. Names and errors: as for :func:`lnbench_register_selectors`.
    """


@hookspec
def lnbench_register_finetuners(register: Callable[[str, Callable[..., FineTuner]], None]) -> None:
    """Add fine-tuners.

    Called once, when plugins are first needed, before any model is loaded: keep heavy imports inside ``train``.

    Args:
        register: Call ``register(name, factory)`` once per fine-tuner. ``factory(**parameters)`` returns an object
            with ``train(model, tokenizer, neurons, data, output_dir)``, see :class:`FineTuner`.

    Nothing is returned. Names and errors: as for :func:`lnbench_register_selectors`.
    """


@hookspec
def lnbench_register_architectures(register: Callable[[str, Architecture], None]) -> None:
    """Add rows to the table that says where neurons sit in each Hugging Face architecture.

    Called once, when plugins are first needed, before any model is loaded.

    Args:
        register: Call ``register(model_type, row)`` once per architecture. ``model_type`` is that of the model's
            configuration; ``row`` is an :class:`lnbench.model.sites.Architecture`.

    Nothing is returned. A model type that has a row already is an error naming both distributions.
    """
