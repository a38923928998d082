"""Measures: what selectors need beyond Statistics, observed in the same pass and reduced over its parts."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor

from lnbench.errors import LnbenchError, plugin_call, returned, unknown
from lnbench.hookspecs import Step
from lnbench.host import get_host
from lnbench.model.architectures import NEURON_SITES, UP
from lnbench.model.sites import Sites


def _concatenate(one: Tensor, other: Tensor) -> Tensor:
    return torch.cat([one, other])


REDUCTIONS: dict[str, Callable[[Tensor, Tensor], Tensor]] = {
    "sum": torch.add,
    "min": torch.minimum,
    "max": torch.maximum,
    "concatenate": _concatenate,
}
Measured = Mapping[str, Mapping[str, Tensor]]
"""Choice of a measure → name → tensor."""
_MEASURE = "measure"


def names_of_measures(choices: Iterable[Any]) -> tuple[str, ...]:
    """Return choices of measures as they are recorded, without parameters that are at their default.

    Raises:
        LnbenchError: unknown measure or parameter.
    """
    return tuple(get_host().format("measure", choice) for choice in choices)


@dataclass(frozen=True)
class _Observing:
    """A measure that observes, and what it asked to be shown."""

    measure: Any
    sites: tuple[str, ...] | None
    """None: every site that the Statistics count."""
    gradients: bool

    def wants(self, site: str, *, gradient: bool) -> bool:
        """Return whether it is shown values of ``site``, with or without their gradient."""
        return gradient == self.gradients and (self.sites is None or site in self.sites)


class Measures:
    """The measures of one account: those that observe, and what earlier parts of the text left.

    Args:
        measured: What earlier parts left.
        reductions: Choice → name of a tensor → how those of two parts become one.
    """

    def __init__(self, measured: Measured | None = None, reductions: Mapping[str, Mapping[str, str]] | None = None):
        self._measured = {choice: dict(tensors) for choice, tensors in (measured or {}).items()}
        self.reductions = {choice: dict(each) for choice, each in (reductions or {}).items()}
        self._observing: dict[str, _Observing] = {}
        self._sites: Sites | None = None

    def start(self, choices: Iterable[Any], sites: Sites) -> None:
        """Observe with these measures from now on.

        Raises:
            LnbenchError: unknown measure, or one that declares an unknown reduction.
        """
        self._sites = sites
        for choice in choices:
            (name,) = names_of_measures([choice])
            measure = get_host().resolve("measure", choice)
            with plugin_call("measure", name):
                self.reductions[name] = dict(returned(measure.reductions, Mapping))
                for key, reduction in self.reductions[name].items():
                    if reduction not in REDUCTIONS:
                        raise unknown("reduction", reduction, REDUCTIONS)
                    if not isinstance(key, str) or not key.isidentifier():
                        raise LnbenchError(f"{key!r} cannot name a tensor: use letters, digits and '_'")
                observed = getattr(measure, "sites", None)
                gradients = bool(getattr(measure, "gradients", False))
                for site in observed or ():
                    if site != UP or gradients:
                        sites.check_site(site)  # raises an error that names those that there are
                measure.start(sites)
            self._observing[name] = _Observing(measure, None if observed is None else tuple(observed), gradients)

    @property
    def differentiated(self) -> tuple[str, ...]:
        """The sites at which gradients are asked for; without one there is no backward pass."""
        return self._sites_of(gradients=True)

    @property
    def tapped(self) -> tuple[str, ...]:
        """The sites at which values are asked for that the Statistics do not count."""
        return tuple(site for site in self._sites_of(gradients=False) if site not in NEURON_SITES)

    def reading(self, sites: Sequence[str]) -> list[str]:
        """Return the measures that are shown values of one of these sites."""
        return [
            name for name, own in self._observing.items() if any(site in sites for site in own.sites or NEURON_SITES)
        ]

    def _sites_of(self, *, gradients: bool) -> tuple[str, ...]:
        wanted = [own for own in self._observing.values() if own.gradients == gradients]
        return tuple(dict.fromkeys(site for own in wanted for site in (own.sites or NEURON_SITES)))

    def wants(self, site: str) -> bool:
        """Return whether any measure is to be shown the values of ``site`` as the model computes them."""
        return any(own.wants(site, gradient=False) for own in self._observing.values())

    def observe(self, step: Step) -> None:
        """Show one layer's values to the measures that ask for them: a copy, as the model goes on computing."""
        for name, own in self._observing.items():
            if own.wants(step.site, gradient=step.gradient is not None):
                with plugin_call("measure", name):
                    own.measure.observe(
                        replace(
                            step,
                            values=step.values.clone(),
                            counted=step.counted.clone(),
                            gradient=None if step.gradient is None else step.gradient.clone(),
                        )
                    )

    def tensors(self) -> dict[str, dict[str, Tensor]]:
        """Return what was measured so far, on the CPU."""
        for name, own in self._observing.items():
            with plugin_call("measure", name):
                finished = returned(own.measure.finish(), Mapping)
                tensors = {key: _checked(key, tensor) for key, tensor in finished.items()}
                own.measure.start(self._sites)
                self._add(name, tensors)
        return {choice: dict(tensors) for choice, tensors in self._measured.items()}

    def merge(self, other: Measures) -> None:
        """Add what ``other`` has measured of another part of the text."""
        self.tensors()
        for name, tensors in other.tensors().items():
            self.reductions.setdefault(name, other.reductions[name])
            self._add(name, tensors)

    def _add(self, name: str, tensors: Mapping[str, Tensor]) -> None:
        reductions = self.reductions[name]
        if tensors.keys() != reductions.keys():
            raise LnbenchError(
                f"measure {name!r} returned {sorted(map(str, tensors))}, but declares reductions of "
                f"{sorted(reductions)}: every tensor needs one"
            )
        before = self._measured.get(name)
        for key, earlier in (before or {}).items():
            first = 1 if reductions[key] == "concatenate" else 0
            if earlier.shape[first:] != (shape := tensors[key].shape)[first:]:
                raise LnbenchError(
                    f"measure {name!r} returned {key} of shape {tuple(shape)} after {tuple(earlier.shape)}: "
                    "parts of a text must have the same shape, to be reduced to one"
                )
        self._measured[name] = {
            key: tensor if before is None else REDUCTIONS[reductions[key]](before[key], tensor)
            for key, tensor in tensors.items()
        }


def _checked(key: object, tensor: object) -> Tensor:
    if not isinstance(tensor, Tensor):
        raise LnbenchError(f"returned {type(tensor).__name__} as {key!r}, not a torch.Tensor")
    if tensor.is_floating_point() and tensor.isnan().any():
        raise LnbenchError(f"returned NaN (not a number) in {key!r}")
    return tensor.detach().cpu().clone()


def stored(measured: Measured) -> dict[str, Tensor]:
    """Return the tensors under the names by which files keep them."""
    return {
        f"{_MEASURE}.{choice}.{key}": tensor.contiguous()
        for choice, tensors in measured.items()
        for key, tensor in tensors.items()
    }


def taken_from(tensors: dict[str, Tensor]) -> dict[str, dict[str, Tensor]]:
    """Remove the tensors of measures from those of a file, and return them."""
    measured: dict[str, dict[str, Tensor]] = {}
    for name in [name for name in tensors if name.startswith(f"{_MEASURE}.")]:
        choice, _, key = name.removeprefix(f"{_MEASURE}.").rpartition(".")
        measured.setdefault(choice, {})[key] = tensors.pop(name)
    return measured
