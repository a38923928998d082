"""NeuronSet: which neurons belong to which language, where they come from, and how they are stored."""

from __future__ import annotations

import csv
import os
import warnings
import zlib
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lnbench.errors import LnbenchError, unknown
from lnbench.files import atomic_path, fingerprint, write_text
from lnbench.formats import read_format, validated
from lnbench.hub_neurons import local_file
from lnbench.model.architectures import NEURON_SITES, POST, layout_of, widths_of
from lnbench.model.layout import ExpertsLayout, expert_of
from lnbench.model.names import name_in_file
from lnbench.neurons_json import FORMAT, OLDER, NeuronSetFile, plain_selector, spread_json
from lnbench.published_neurons import PUBLISHED_COUNT, PUBLISHED_SOURCE, read_published
from lnbench.selection_account import SelectionAccount
from lnbench.shown import Shown

#: Languages of the published ``LLaMA-2-7B.neuron.pth``, in its order.
PUBLISHED_LANGUAGES = ("en", "zh", "fr", "es", "vi", "id", "ja")

# Far above any model: they keep a hostile file from asking for terabytes.
_MOST_LAYERS = 100_000
_MOST_WIDTH = 10_000_000

_WHOLE = (torch.int64, torch.int32, torch.int16, torch.int8, torch.uint8)
_NOTHING = torch.empty(0, dtype=torch.long)

Indices = Tensor | Sequence[int]


class Overlap(NamedTuple):
    """What the languages of one set share.

    ``counts`` is ``LongTensor[n, n]``, the neurons in both of two ``languages`` (the diagonal: each one's own), and
    ``jaccard`` is ``FloatTensor[n, n]``, neurons in both / neurons in either, 0 where both are empty.
    """

    languages: list[str]
    counts: Tensor
    jaccard: Tensor


class Agreement(NamedTuple):
    """How far two sets agree on one language: their counts, the neurons in both, and in both / in either."""

    own: int
    other: int
    intersection: int
    jaccard: float


class NeuronSet(Shown):
    """The neurons of each language in one model. Immutable; equal sets have equal fingerprints.

    Args:
        model: Name of the model that the neurons were found in.
        layers: Number of layers of that model.
        width: Units per layer (for neurons the feed-forward width ``d_mlp``); of the widest layer where layers differ.
        neurons: Language → layer → indices (tensor or sequence); any order, repeats count once.
        selector: ``{"name": ..., "parameters": {...}}`` of the selector that chose them.
        statistics: Fingerprint of the statistics that it saw.
        site: Name of the site whose units they are.
        unit_size: Coordinates of one unit: 1 for neurons.
        widths: Units of each layer, where layers differ.
        experts: Where the neurons of experts are, in a mixture of experts.
        scores: Language → ``[layers, width]``, what a selector ranked by, higher first and ``-inf`` what it could not
            select: declared by the selector, for the account of its ties, and not stored.
        account: Ties and neurons of all languages, as :func:`lnbench.select` found them; no part of what makes sets
            equal.
        classes: Name of a class → layer → indices, where a selector sorts what it found: ``specific``, ``related`` …
        derived: Numbers that the selector derived from the Statistics, by name; no part of what makes sets equal.
        chat: Whether the Statistics were collected in the model's chat format, None where that is not known; no part of
            what makes sets equal, as the Statistics' fingerprint is.

    Raises:
        LnbenchError: a layer or an index is out of range, or something is not what it should be.
    """

    def __init__(
        self,
        model: str,
        layers: int,
        width: int,
        neurons: Mapping[str, Mapping[int, Indices]],
        selector: Mapping[str, Any] | None = None,
        statistics: str | None = None,
        *,
        site: str = POST,
        unit_size: int = 1,
        widths: Sequence[int] | None = None,
        experts: Sequence[Sequence[int]] | None = None,
        scores: Mapping[str, Tensor] | None = None,
        account: SelectionAccount | Mapping[str, Any] | None = None,
        classes: Mapping[str, Mapping[int, Indices]] | None = None,
        derived: Mapping[str, float] | None = None,
        chat: bool | None = None,
    ) -> None:
        if not (1 <= layers <= _MOST_LAYERS and 1 <= width <= _MOST_WIDTH):
            raise LnbenchError(f"a model of {layers} layers with {width} neurons each does not exist")
        self.model = name_in_file(model)
        self.layers = layers
        self.width = width
        self.site = site
        self.unit_size = unit_size
        self.widths = widths_of(layers, width if widths is None else widths)
        if len(self.widths) != layers or max(self.widths) != width or min(self.widths) < 0 or unit_size < 1:
            raise LnbenchError(
                f"widths {list(self.widths)} do not fit {layers} layers of at most {width} units, or "
                f"unit_size={unit_size} is below 1"
            )
        self.experts = tuple(ExpertsLayout(*layout) for layout in experts or ())
        """Where the neurons of experts are; empty in a dense model."""
        for layout in self.experts:
            if min(layout) < 0 or layout.layer >= layers or layout.start + layout.neurons > self.widths[layout.layer]:
                raise LnbenchError(f"experts {list(layout)} do not fit a layer of a model of {layout_of(self.widths)}")
        self.selector = plain_selector(selector)
        self.statistics = statistics
        self.scores = None if scores is None else dict(scores)
        self.account = None if account is None else SelectionAccount.model_validate(account)
        self.order = list(neurons)
        """The languages in the order in which they were given."""
        self._neurons = {code: self._layers(f"neurons of {code!r}", neurons[code]) for code in sorted(neurons)}
        named = (classes or {}).items()
        self.classes = {name: self._layers(f"class {name!r}", per_layer) for name, per_layer in named}
        """Class → layer → sorted indices; empty where the selector sorts nothing."""
        self.derived = dict(derived or {})
        self.chat = chat

    def _layers(self, whose: str, given: Mapping[int, Indices]) -> dict[int, Tensor]:
        checked = {layer: self._indices(f"{whose}, layer {layer}", layer, given[layer]) for layer in sorted(given)}
        return {layer: indices for layer, indices in checked.items() if len(indices)}

    def _indices(self, where: str, layer: int, indices: Indices) -> Tensor:
        if type(layer) is not int or not 0 <= layer < self.layers:
            raise LnbenchError(f"{where}: a layer is a whole number from 0 to {self.layers - 1}")
        try:
            values = torch.as_tensor(indices).cpu()
        except (TypeError, ValueError, RuntimeError, OverflowError) as error:
            raise LnbenchError(f"{where}: the indices are not whole numbers") from error
        # An empty list makes a tensor of floats.
        if values.dim() != 1 or (len(values) and values.dtype not in _WHOLE):
            raise LnbenchError(f"{where}: the indices are not a list of whole numbers")
        distinct = _distinct(values)
        outside = distinct[(distinct < 0) | (distinct >= self.widths[layer])]
        if len(outside):
            raise LnbenchError(f"{where}: index {int(outside[0])} is outside 0 to {self.widths[layer] - 1}")
        return distinct

    @classmethod
    def from_masks(
        cls,
        model: str,
        masks: Mapping[str, Tensor],
        selector: Mapping[str, Any] | None = None,
        statistics: str | None = None,
        **units: Any,
    ) -> NeuronSet:
        """Return the set whose neurons are the true entries of ``BoolTensor[layers, width]`` masks, one per language.

        Raises:
            LnbenchError: no mask, or masks that are not boolean matrices of one shape.
        """
        shapes = {tuple(mask.shape) for mask in masks.values()}
        if len(shapes) != 1 or len(shape := shapes.pop()) != 2:
            raise LnbenchError("pass at least one mask; all masks must have the same shape [layers, width]")
        if any(mask.dtype != torch.bool for mask in masks.values()):
            raise LnbenchError("masks must be boolean")
        neurons = {
            language: {layer: row.nonzero().flatten() for layer, row in enumerate(mask.cpu())}
            for language, mask in masks.items()
        }
        return cls(model, shape[0], shape[1], neurons, selector, statistics, **units)

    @property
    def units(self) -> dict[str, Any]:
        """What the units are: the arguments that another set of the same units takes."""
        return {"site": self.site, "unit_size": self.unit_size, "widths": self.widths, "experts": self.experts}

    @property
    def languages(self) -> list[str]:
        """The languages, sorted."""
        return list(self._neurons)

    @property
    def fingerprint(self) -> str:
        """A short hash of the units and their provenance; that of neurons does not depend on ``pre`` or ``post``."""
        document = self._document()
        if self.site in NEURON_SITES and self.unit_size == 1 and not {"widths", "experts"} & document.keys():
            # These fingerprints, of what the older format can hold too, are in cache keys and records.
            del document["site"], document["unit_size"]
            document["format"] = OLDER
        return fingerprint(document)

    def __getitem__(self, language: str) -> dict[int, Tensor]:
        """Return layer → sorted ``LongTensor`` of indices, for the layers that have any.

        Raises:
            LnbenchError: the set has no such language.
        """
        if language not in self._neurons:
            raise unknown("language", language, self.languages)
        return {layer: indices.clone() for layer, indices in self._neurons[language].items()}

    def __contains__(self, language: object) -> bool:
        return language in self._neurons

    def __iter__(self) -> Iterator[str]:
        return iter(self._neurons)

    def __eq__(self, other: object) -> bool:
        return isinstance(other, NeuronSet) and self._document() == other._document()

    def __hash__(self) -> int:
        return hash(self.fingerprint)

    def __repr__(self) -> str:
        counts = ", ".join(f"{language}: {self.count(language)}" for language in self)
        return f"NeuronSet({self.model!r}, {layout_of(self.widths)}, {counts or 'no languages'})"

    def count(self, language: str) -> int:
        """Return the number of neurons of ``language``."""
        return sum(map(len, self[language].values()))

    def per_layer(self, language: str) -> Tensor:
        """Return the number of neurons of ``language`` in each layer: ``LongTensor[layers]``."""
        per_layer = self[language]
        return torch.tensor([len(per_layer.get(layer, ())) for layer in range(self.layers)])

    def mask(self, language: str) -> Tensor:
        """Return ``BoolTensor[layers, width]``, true at the neurons of ``language``."""
        mask = torch.zeros(self.layers, self.width, dtype=torch.bool)
        for layer, indices in self[language].items():
            mask[layer, indices] = True
        return mask

    def only(self, languages: Iterable[str]) -> NeuronSet:
        """Return the set of some of the languages, without the provenance of the whole.

        Raises:
            LnbenchError: the set lacks one.
        """
        neurons = {language: self[language] for language in languages}
        return NeuronSet(self.model, self.layers, self.width, neurons, **self.units)

    def format_warning(self, templated: bool, statistics_chat: bool | None = None) -> str | None:
        """Return what is to be said where neurons were found in one format and are used in another; None: nothing.

        Args:
            templated: Whether the text that they are used on is in the model's chat template.
            statistics_chat: Whether the Statistics that values are read from are; None where that is not known.
        """
        found = {self.chat, statistics_chat} - {None}
        if templated and found != {True}:
            how = "raw" if found else "not recorded"
            return (
                f"text is in the chat template, and that which these neurons were found on is {how}: activations "
                "differ inside a template; collect Statistics with lnbench stats --chat"
            )
        if not templated and True in found:
            return (
                "these neurons were found on text in the chat template, and here it is raw: activations differ inside "
                "a template; apply it here too (--apply_chat_template of lm_eval, --chat of lnbench), or collect "
                "Statistics without --chat"
            )
        return None

    def union(self, languages: Iterable[str]) -> dict[int, Tensor]:
        """Return the neurons of at least one of ``languages``, in the form of ``neurons[language]``."""
        together: dict[int, list[Tensor]] = {}
        for language in languages:
            for layer, indices in self[language].items():
                together.setdefault(layer, []).append(indices)
        return {layer: _distinct(torch.cat(together[layer])) for layer in sorted(together)}

    def overlap(self) -> Overlap:
        """Return what the languages share, pair by pair."""
        flat = [self._flat(language) for language in self]
        everything = _distinct(torch.cat([_NOTHING, *flat]))
        member = torch.zeros(len(flat), len(everything), dtype=torch.double)
        for row, ids in zip(member, flat, strict=True):
            row[torch.searchsorted(everything, ids)] = 1
        counts = (member @ member.T).long()
        own = counts.diagonal()
        either = own[:, None] + own[None, :] - counts
        return Overlap(self.languages, counts, counts / either.clamp(min=1))

    def compare(self, other: NeuronSet) -> dict[str, Agreement]:
        """Return how far two sets, for example of two selectors, agree on each language that both have.

        Raises:
            LnbenchError: the sets belong to models of different shapes, or share no language.
        """
        if self.widths != other.widths:
            raise LnbenchError(f"cannot compare neurons of {self.model} and {other.model}: their shapes differ")
        shared = [language for language in self if language in other]
        if not shared:
            raise LnbenchError(f"the two sets share no language: {', '.join(self)} and {', '.join(other)}")
        agreements = {}
        for language in shared:
            own, theirs = self._flat(language), other._flat(language)
            both = int(torch.isin(own, theirs).sum())
            either = len(own) + len(theirs) - both
            agreements[language] = Agreement(len(own), len(theirs), both, both / either if either else 0.0)
        return agreements

    def _flat(self, language: str) -> Tensor:
        ids = [layer * self.width + indices for layer, indices in self[language].items()]
        return torch.cat([_NOTHING, *ids])

    def check(self, model_name: str, layers: int, width: int | Sequence[int]) -> None:
        """Check that the set fits a model of ``layers`` × ``width`` neurons, or of ``width`` neurons layer by layer.

        A model of the same shape and another name may be a fine-tuned one or a copy, so that is only a warning.

        Raises:
            LnbenchError: the model has another shape.
        """
        if self.widths != (widths := widths_of(layers, width)):
            raise LnbenchError(
                f"these neurons belong to {self.model} ({layout_of(self.widths)}), not to {model_name} "
                f"({layout_of(widths)}): select the neurons of this model"
            )
        if Path(self.model).name.casefold() != Path(model_name).name.casefold():
            warnings.warn(f"neurons of {self.model} are used with {model_name}, of the same shape", stacklevel=2)

    def _document(self) -> dict[str, Any]:
        neurons = {
            language: {str(layer): indices.tolist() for layer, indices in per_layer.items()}
            for language, per_layer in ((language, self._neurons[language]) for language in self.order)
        }
        widths = {"widths": list(self.widths)} if len(set(self.widths)) > 1 else {}
        experts = {"experts": [list(layout) for layout in self.experts]} if self.experts else {}
        shape = {"layers": self.layers, "width": self.width, "site": self.site, "unit_size": self.unit_size, **widths}
        shape |= experts
        selection: dict[str, Any] = {"selector": self.selector, "statistics": self.statistics, "neurons": neurons}
        if self.classes:
            selection["classes"] = {
                name: {str(layer): indices.tolist() for layer, indices in per_layer.items()}
                for name, per_layer in self.classes.items()
            }
        return {"format": FORMAT, "model": self.model, **shape, **selection}

    def save(self, path: str | os.PathLike[str]) -> None:
        """Write the set as JSON, one line per layer."""
        document = self._document()
        if self.account is not None:
            document["account"] = self.account.model_dump()
        if self.derived:
            document["derived"] = self.derived
        if self.chat is not None:
            document["chat"] = self.chat
        write_text(path, spread_json(document, depth=3) + "\n")

    @classmethod
    def load(cls, path: str | os.PathLike[str]) -> NeuronSet:
        """Read a set written by :meth:`save`: a file, or ``hub:owner/name@revision`` of the hub.

        Raises:
            LnbenchError: the file is missing, truncated, of another format or version, or its content is impossible.
        """
        path = local_file(path)
        content = read_format(path, FORMAT, "NeuronSet", OLDER)
        fields = validated(NeuronSetFile, content, f"{path} is not a valid NeuronSet").model_dump(exclude={"format"})
        for held in (fields["neurons"], fields["classes"] or {}):
            for name, layers in held.items():
                held[name] = {int(layer): indices for layer, indices in layers.items()}
        with _naming(path):
            return cls(**fields)

    @classmethod
    def import_pth(
        cls,
        path: str | os.PathLike[str],
        languages: Sequence[str] | None,
        model: str,
        width: int,
        *,
        layers: int | None = None,
        site: str | None = None,
        source: str = PUBLISHED_SOURCE,
        count: int = PUBLISHED_COUNT,
    ) -> NeuronSet:
        """Read a published neuron file, in any layout of :mod:`lnbench.published_neurons`.

        The file is loaded as data only; code in it is refused. It does not hold the ``model`` and its ``width`` (for
        neurons the feed-forward width), often not the ``languages``, to be named in its order (e.g.
        :data:`PUBLISHED_LANGUAGES`); where it holds them, they choose among them.

        Args:
            path: ``.json``, or what ``torch.save`` wrote.
            languages: The languages; all where the file names them, if None.
            model: The model's name.
            width: Units per layer.
            layers: Layers of the model, where the file has only those with a unit; by default up to the last of these.
            site: Whose units they are; by default ``post``, and ``residual`` of a file of means.
            source: Of a file of means: the language that the others are compared with.
            count: Of a file of means: dimensions per language.

        Raises:
            LnbenchError: the file is missing, is something else, or does not fit ``languages``, ``width`` or
                ``layers``.
        """
        found = read_published(Path(path), languages, width, layers=layers, site=site, source=source, count=count)
        with _naming(path):
            return cls(model, found.layers, width, found.neurons, site=found.site)

    def export_pth(self, path: str | os.PathLike[str], languages: Sequence[str] | None = None) -> None:
        """Write the published format, ``list[language][layer]`` of ``LongTensor``, of ``languages`` in their order.

        The file does not hold the languages' names; by default they are all of them, sorted.
        """
        chosen = [self[language] for language in (self.languages if languages is None else languages)]
        data = [[per_layer.get(layer, _NOTHING) for layer in range(self.layers)] for per_layer in chosen]
        with atomic_path(path) as temporary, temporary.open("wb") as file:
            torch.save(data, file)

    def export_csv(self, path: str | os.PathLike[str]) -> None:
        """Write a table of the columns ``language``, ``layer``, ``index``, one row per neuron.

        Of a mixture of experts it has a column ``expert`` before the index, which is that in the expert; empty for
        neurons that every token runs.
        """
        with atomic_path(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
            writer = csv.writer(file)
            writer.writerow(["language", "layer", *(["expert"] if self.experts else []), "index"])
            for language, per_layer in self._neurons.items():
                for layer, indices in per_layer.items():
                    if self.experts:
                        places = (expert_of(self.experts, layer, index) for index in indices.tolist())
                        writer.writerows((language, layer, *place) for place in places)
                    else:
                        writer.writerows((language, layer, index) for index in indices.tolist())

    def export(self, path: str | os.PathLike[str]) -> None:
        """Write the set in the format that the suffix of ``path`` names: ``.json``, ``.csv`` or ``.pth``."""
        suffix = Path(path).suffix
        if suffix not in _EXPORTS:
            raise unknown("suffix", suffix, _EXPORTS)
        _EXPORTS[suffix](self, path)


_EXPORTS: dict[str, Callable[[NeuronSet, str | os.PathLike[str]], None]] = {
    ".json": NeuronSet.save,
    ".csv": NeuronSet.export_csv,
    ".pth": NeuronSet.export_pth,
}


@contextmanager
def _naming(path: str | os.PathLike[str]) -> Iterator[None]:
    """Put the file's name before errors about its content."""
    try:
        yield
    except LnbenchError as error:
        raise LnbenchError(f"{path}: {error}") from error


def _distinct(values: Tensor) -> Tensor:
    distinct: Tensor = torch.unique(values.long(), sorted=True)
    return distinct


def draw_random(language: str, counts: Tensor, avoid: Tensor, seed: int, widths: Sequence[int] | None = None) -> Tensor:
    """Draw random neurons, which depend on ``language`` and ``seed`` alone.

    Args:
        language: The language they are drawn for.
        counts: ``LongTensor[layers]``, how many to draw.
        avoid: ``BoolTensor[layers, width]``, neurons to draw only where the others are too few.
        seed: Another one draws other neurons.
        widths: Neurons of each layer, where layers differ.

    Returns:
        ``BoolTensor[layers, width]``.
    """
    # A language's draw does not depend on which other languages are drawn.
    # Torch reads 32 bits of a seed, so both go into these.
    generator = torch.Generator().manual_seed(zlib.crc32(f"{seed} {language}".encode()))
    drawn = torch.zeros_like(avoid)
    for layer, count in enumerate(counts.tolist()):
        order = torch.randperm(avoid.shape[1] if widths is None else widths[layer], generator=generator)
        preferred = order[avoid[layer][order].long().argsort(stable=True)]
        drawn[layer, preferred[:count]] = True
    return drawn
