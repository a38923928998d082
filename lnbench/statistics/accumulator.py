"""What has been counted of one language in all layers: added to while the model reads, kept in a file, merged."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lnbench.errors import LnbenchError
from lnbench.formats import read_tensors, write_tensors
from lnbench.model.architectures import NEURON_SITES, layout_of, widths_of
from lnbench.model.experts_taps import Rows
from lnbench.model.forward_passes import NOT_CALLED
from lnbench.model.layout import ExpertsLayout
from lnbench.model.places import Layout
from lnbench.statistics.layer_accumulator import Activation, LayerAccumulator, sample_quantiles
from lnbench.statistics.measures import Measures, stored, taken_from
from lnbench.statistics.site_counts import SiteCounts
from lnbench.statistics.site_values import SiteValues, joined, never_run, side_by_side

FORMAT = "lnbench.account/1"
_BATCH, _SITE = "batch", "site"


class Accumulator:
    """One language's counts.

    Args:
        layers: Layers of the model.
        width: Neurons per layer, or of each layer; 0 in one without a feed-forward.
        batch_levels: Levels at which each batch's own quantiles are also summed up, for the published estimate.
        visits: How often each layer runs in a forward pass; once if None. Every visit counts as a token.
        experts: Where in ``width`` the neurons of experts are; they follow the others of their layer. They are counted
            with fewer bins, and each expert's by themselves: at the tokens that are routed to it.
        others: Site → layout, of the sites beside the neurons' that are counted too.

    Attributes:
        tokens: Tokens counted.
        about: What these are the counts of, as plain JSON.
        measures: What is observed beside the counts.
    """

    def __init__(
        self,
        layers: int,
        width: int | Sequence[int],
        batch_levels: Sequence[float] = (),
        visits: Sequence[int] | None = None,
        experts: Sequence[ExpertsLayout] = (),
        others: Mapping[str, Layout] | None = None,
    ) -> None:
        self.widths = widths_of(layers, width)
        self.width = max(self.widths)
        self.experts = tuple(ExpertsLayout(*layout) for layout in experts)
        self.dense = tuple(
            width - sum(layout.neurons for layout in self.experts if layout.layer == layer)
            for layer, width in enumerate(self.widths)
        )
        """Neurons of each layer that every token runs."""
        if self.experts and batch_levels:
            raise LnbenchError(
                "the published estimate of a percentile, the mean of batches' own quantiles, is not defined for "
                "experts, to which a batch may route no token; collect without batch levels"
            )
        self.visits = (1,) * layers if visits is None else tuple(visits)
        self.tokens = 0
        self.layers: list[LayerAccumulator | None] = [None] * layers
        self.of_experts: list[list[LayerAccumulator | None]] = [[None] * layout.experts for layout in self.experts]
        """Bank of experts → expert → its counts."""
        self.seen = [0] * len(self.experts)
        """Bank of experts → tokens that it ran on, every visit counted."""
        self.others = {site: SiteCounts(layout) for site, layout in (others or {}).items()}
        self.batch_levels = tuple(batch_levels)
        self.batches = 0
        self.about: dict[str, Any] = {}
        self.measures = Measures()
        self._batch_sums = {
            (site, level): torch.zeros(layers, width, dtype=torch.float64)
            for site, width in self._units.items()
            for level in self.batch_levels
        }

    @property
    def _units(self) -> dict[str, int]:
        """Site → units of the widest layer."""
        neurons = dict.fromkeys(NEURON_SITES, self.width)
        return neurons | {site: counts.layout.width for site, counts in self.others.items()}

    def add(self, layer: int, pre: Tensor, post: Tensor, rows: Tensor) -> None:
        """Count one layer's activations of one forward pass; see :meth:`LayerAccumulator.add`."""
        self._layer(layer, pre.device).add(pre, post, rows)
        for site, values in zip(NEURON_SITES, (pre, post), strict=True):
            self._add_batch(site, layer, values, rows)

    def add_at(self, site: str, layer: int, values: Tensor, rows: Tensor) -> None:
        """Count one layer's values at another site, ``[positions, coordinates]``."""
        self.others[site].add(layer, values, rows)
        if self.batch_levels:
            self._add_batch(site, layer, self.others[site].units(layer, values), rows)

    def _add_batch(self, site: str, layer: int, values: Tensor, rows: Tensor) -> None:
        if not self.batch_levels:
            return
        levels = torch.tensor(self.batch_levels, dtype=torch.float64)
        quantiles = sample_quantiles(values[rows].float(), levels).cpu()
        for level, quantile in zip(self.batch_levels, quantiles, strict=True):
            self._batch_sums[site, level][layer, : values.shape[1]] += quantile / self.visits[layer]

    def _layer(self, layer: int, device: torch.device) -> LayerAccumulator:
        own = self.layers[layer] or LayerAccumulator(self.dense[layer], device)
        self.layers[layer] = own = own.on(device)
        return own

    def add_experts(self, bank: int, pre: Tensor, post: Tensor, rows: Rows, counted: Tensor) -> None:
        """Count the activations of one bank of experts.

        Args:
            bank: Number of the bank, among :attr:`experts`.
            pre: ``[rows, width]``, inputs of the non-linearity.
            post: ``[rows, width]``, its outputs.
            rows: What the rows are of.
            counted: ``BoolTensor[tokens]``, which tokens count.
        """
        kept = counted[rows.tokens].nonzero().squeeze(1)
        # Stable, so that an expert's rows stay in the order of the text.
        kept = kept[rows.experts[kept].argsort(stable=True)]
        experts, sizes = torch.unique_consecutive(rows.experts[kept], return_counts=True)
        for expert, own in zip(experts.tolist(), torch.split(kept, sizes.tolist()), strict=True):
            self._expert(bank, expert, pre.device).add(pre, post, own)

    def _expert(self, bank: int, expert: int, device: torch.device) -> LayerAccumulator:
        own = self.of_experts[bank][expert] or LayerAccumulator(self.experts[bank].width, device, coarse=True)
        self.of_experts[bank][expert] = own = own.on(device)
        return own

    def _all(self) -> Iterator[LayerAccumulator | None]:
        yield from self.layers
        for experts in self.of_experts:
            yield from experts

    def _each_expert(self) -> Iterator[tuple[int, int, LayerAccumulator]]:
        for bank, experts in enumerate(self.of_experts):
            for expert, own in enumerate(experts):
                if own is not None:
                    yield bank, expert, own

    @property
    def routed(self) -> Tensor:
        """Share of the tokens routed to each expert, ``[experts of all banks]`` (float64)."""
        shares = [
            (own.tokens if own else 0) / seen
            for experts, seen in zip(self.of_experts, self.seen, strict=True)
            for own in experts
        ]
        return torch.tensor(shares, dtype=torch.float64)

    def take_bins(self, other: Accumulator) -> None:
        """Count into bins like those of ``other``, so that the counts of both can be added up."""
        for number, layer in enumerate(other.layers):
            if layer is not None:
                self._layer(number, layer.device).take_bins(layer)
        for bank, expert, own in other._each_expert():
            self._expert(bank, expert, own.device).take_bins(own)
        for site, counts in other.others.items():
            for number, layer in enumerate(counts.layers):
                if layer is not None:
                    self.others[site].of_layer(number, layer.device).take_bins(layer)

    def check(self, language: str, *, numbers: bool = True) -> None:
        """Raise unless every layer has counted every token and, with ``numbers``, seen finite numbers only."""
        for number, layer in enumerate(self.layers):
            if self.dense[number]:
                self._check_layer(f"layer {number}", number, layer, language, numbers=numbers)
        for site, counts in self.others.items():
            for number, layer in enumerate(counts.layers):
                if counts.layout.widths[number]:
                    where = f"site {site!r} of layer {number}"
                    self._check_layer(where, number, layer, language, numbers=numbers)
        for layout, seen in zip(self.experts, self.seen, strict=True):
            if seen != (wanted := self.tokens * self.visits[layout.layer]):
                raise LnbenchError(f"the experts of layer {layout.layer} saw {seen} tokens of {wanted}: {NOT_CALLED}")
        for bank, expert, own in self._each_expert():
            if numbers and not torch.isfinite(own.moments.sums).all():
                raise LnbenchError(
                    f"expert {expert} of layer {self.experts[bank].layer} gave activations that are not finite numbers "
                    f"on {language!r} text; load the model in float32 or bfloat16"
                )

    def _check_layer(
        self, where: str, number: int, layer: LayerAccumulator | None, language: str, *, numbers: bool
    ) -> None:
        if (seen := layer.tokens if layer else 0) != self.tokens * self.visits[number]:
            raise LnbenchError(
                f"{where} saw {seen} tokens of {self.tokens}: "
                + (
                    NOT_CALLED
                    if seen < self.tokens * self.visits[number]
                    else "this model runs its non-linearity more often than when it was located, so its neurons "
                    "cannot be observed"
                )
            )
        if numbers and layer is not None and not torch.isfinite(layer.moments.sums).all():
            raise LnbenchError(
                f"{where} gave activations that are not finite numbers on {language!r} text; "
                "load the model in float32 or bfloat16"
            )

    def merge(self, other: Accumulator) -> None:
        """Add what ``other`` has counted. Counts add up exactly, in any order; ``other`` is of no use afterwards.

        Raises:
            LnbenchError: they are of models of different shapes, or keep other batch levels or measures.
        """
        mine, theirs = (
            (
                *(layout_of(counts.widths), counts.batch_levels, sorted(counts.measures.reductions)),
                *(sorted(counts.others), counts.widths, counts.experts),
                [own.layout for own in counts.others.values()],
            )
            for counts in (self, other)
        )
        if mine != theirs:
            raise LnbenchError(
                f"these counts cannot be added up: {mine[:-3]} and {theirs[:-3]} (layers × neurons per layer, batch "
                "levels, measures, further sites)"
            )
        self.tokens += other.tokens
        self.batches += other.batches
        for number, layer in enumerate(other.layers):
            if layer is not None:
                self._layer(number, layer.device).merge(layer)
        for bank, expert, own in other._each_expert():
            self._expert(bank, expert, own.device).merge(own)
        self.seen = [mine + theirs for mine, theirs in zip(self.seen, other.seen, strict=True)]
        for site, counts in other.others.items():
            for number, layer in enumerate(counts.layers):
                if layer is not None:
                    self.others[site].of_layer(number, layer.device).merge(layer)
        for key, value in other._batch_sums.items():
            self._batch_sums[key] += value
        self.measures.merge(other.measures)

    def finish(self, activations: Sequence[Activation]) -> dict[str, SiteValues]:
        """Return the values of each site.

        Args:
            activations: The non-linearity of each layer, and after these, of each bank of experts.
        """
        of_layers, of_experts = activations[: len(self.layers)], activations[len(self.layers) :]
        with torch.inference_mode():
            counted: list[list[list[SiteValues]]] = [
                [] if layer is None else [layer.finish(activation)]
                for layer, activation in zip(self.layers, of_layers, strict=True)
            ]
            for bank, (layout, activation) in enumerate(zip(self.experts, of_experts, strict=True)):
                for own in self.of_experts[bank]:
                    sites = [never_run(layout.width)] * len(NEURON_SITES)
                    if own is not None and own.tokens:
                        sites = own.finish(activation, self.seen[bank])
                    counted[layout.layer].append(sites)
            others = {site: counts.finish() for site, counts in self.others.items()}
        neurons = {
            site: joined(
                [side_by_side([part[number] for part in parts]) if parts else None for parts in counted], self.width
            )
            for number, site in enumerate(NEURON_SITES)
        }
        return neurons | others

    def batch_means(self) -> dict[str, dict[float, Tensor]]:
        """Return site → level → ``[layers, width]``: the mean over batches of each batch's quantile, if asked for."""
        means: dict[str, dict[float, Tensor]] = {}
        for (site, level), sums in self._batch_sums.items():
            widths = self.others[site].layout.widths if site in self.others else self.widths
            missing = torch.arange(max(widths)) >= torch.tensor(widths)[:, None]
            means.setdefault(site, {})[level] = (sums.float() / self.batches).masked_fill(missing, torch.nan)
        return means

    def save(self, path: Path) -> None:
        """Write the counts and :attr:`about` to a file, atomically.

        Raises:
            LnbenchError: the disk is full, or the folder cannot be written.
        """
        tensors = stored(self.measures.tensors())
        places: list[list[int]] = []
        for number, layer in enumerate(self.layers):
            tensors |= _named(f"{number}", layer)
            for (site, level), sums in self._batch_sums.items():
                tensors[f"{number}.{_BATCH}.{site}.{level!r}"] = sums[number].clone()
        for number, (bank, expert, own) in enumerate(self._each_expert(), start=len(self.layers)):
            tensors |= _named(f"{number}", own)
            places.append([bank, expert, own.tokens])
        for site, counts in self.others.items():
            for number, layer in enumerate(counts.layers):
                tensors |= _named(f"{_SITE}.{site}.{number}", layer)
        head = {
            "format": FORMAT,
            "layers": len(self.layers),
            "width": self.width,
            **({"widths": self.widths} if len(set(self.widths)) > 1 else {}),
            **({"visits": self.visits} if max(self.visits) > 1 else {}),
            **({"experts": self.experts, "counted_experts": places, "seen": self.seen} if self.experts else {}),
            **({"others": {site: counts.layout for site, counts in self.others.items()}} if self.others else {}),
            "tokens": self.tokens,
            "batches": self.batches,
            "batch_levels": self.batch_levels,
            "dtype": next((str(own.dtype).removeprefix("torch.") for own in self._all() if own), "float32"),
            "about": self.about,
            "reductions": self.measures.reductions,
        }
        write_tensors(path, tensors, {"account": json.dumps(head)})

    @classmethod
    def about_in(cls, path: Path) -> dict[str, Any]:
        """Return :attr:`about` of a file, without its counts.

        Raises:
            LnbenchError: missing, truncated or not such a file.
        """
        return dict(_open(path, metadata_only=True)[0]["about"])

    @classmethod
    def load(cls, path: Path) -> Accumulator:
        """Read what :meth:`save` has written. The counts move to the model's devices as they are added to.

        Raises:
            LnbenchError: missing, truncated or not such a file.
        """
        head, tensors = _open(path)
        counts = cls(
            *(head["layers"], head.get("widths", head["width"]), head["batch_levels"], head.get("visits")),
            experts=[ExpertsLayout(*layout) for layout in head.get("experts", ())],
            others={site: Layout(*map(tuple, layout)) for site, layout in head.get("others", {}).items()},
        )
        counts.seen = head.get("seen", [])
        counts.tokens, counts.batches, counts.about = head["tokens"], head["batches"], head["about"]
        counts.measures = Measures(taken_from(tensors), head.get("reductions"))
        parts: dict[int, dict[str, Tensor]] = {}
        of_others: dict[tuple[str, int], dict[str, Tensor]] = {}
        for name, tensor in tensors.items():
            if name.startswith(f"{_SITE}."):
                _, where, index, own_name = name.split(".", 3)
                of_others.setdefault((where, int(index)), {})[own_name] = tensor
                continue
            number, part, *place = name.split(".", 3)
            if part == _BATCH:
                counts._batch_sums[place[0], float(place[1])][int(number)] = tensor
            else:
                parts.setdefault(int(number), {})[name.partition(".")[2]] = tensor
        dtype, cpu = getattr(torch, head["dtype"]), torch.device("cpu")
        for unit, (bank, expert, tokens) in enumerate(head.get("counted_experts", ()), start=head["layers"]):
            own = LayerAccumulator.of(parts.pop(unit), tokens, dtype, cpu, coarse=True)
            counts.of_experts[bank][expert] = own
        for layer, of_layer in parts.items():
            counts.layers[layer] = LayerAccumulator.of(of_layer, counts.tokens * counts.visits[layer], dtype, cpu)
        for (where, at_layer), of_layer in of_others.items():
            own_counts = counts.others[where]
            tokens = counts.tokens * counts.visits[at_layer]
            own_dtype = torch.float32 if own_counts.layout.unit_size > 1 else dtype
            own_counts.layers[at_layer] = LayerAccumulator.of(of_layer, tokens, own_dtype, cpu)
        return counts


def _named(prefix: str, layer: LayerAccumulator | None) -> dict[str, Tensor]:
    own = {} if layer is None else layer.tensors()
    return {f"{prefix}.{name}": tensor.cpu().contiguous() for name, tensor in own.items()}


def _open(path: Path, *, metadata_only: bool = False) -> tuple[dict[str, Any], dict[str, Tensor]]:
    tensors, metadata = read_tensors(
        path, "file of counts", "collect it again", metadata_only=metadata_only, decode=["account"]
    )
    head = metadata["account"]
    if not isinstance(head, dict) or head.get("format") != FORMAT:
        raise LnbenchError(f"{path} is not a file of counts of format {FORMAT}")
    return head, tensors
