"""Neuron files that others have published: the usual layouts, or a description of what a file holds.

From the outside in, a file is by language and by layer, or by layer and by language; each level is a list or a
dictionary (a layer's key ends with its number, as ``model.layers.3``). What is innermost is a list or a tensor of
indices, or a mask over a layer's neurons. A tensor can take the place of the inner levels (``[layers, width]``) or of
all of them (``[languages, layers, width]``). The level of languages is missing in a file of one language. In place of
layers, a language can have pairs of layer and index, ``[n, 2]``, or the dimensions of the last layer in one list.

Sources: the list of lists of index tensors is that of Tang et al. 2024, https://aclanthology.org/2024.acl-long.309, and
of the sets that Gurgurov et al. release (https://arxiv.org/abs/2507.22608, https://arxiv.org/abs/2510.13580). The means
of hidden states by language and layer, from which dimensions follow, are those of Zhong et al. 2026,
https://arxiv.org/abs/2510.07213.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch import Tensor

from lnbench.errors import LnbenchError, unknown
from lnbench.files import read_json
from lnbench.model.architectures import POST, RESIDUAL

Layers = dict[int, Tensor]
_LAYOUTS = (
    "a list or dictionary of languages, each one of layers, each a list or tensor of indices or a mask; pairs of layer "
    "and index by language; or means by language and layer"
)
_NUMBER_AT_END = re.compile(r"(?:.*[^0-9])?([0-9]+)")
_WRAPPERS = ("neurons", "language_neurons", "indices", "masks", "activation_mask", "summary")
"""Keys under which files keep the neurons beside other entries."""
_MEAN = "mean"
_DEEPEST = 6
PUBLISHED_SOURCE, PUBLISHED_COUNT = "en", 400
"""Of Zhong et al. 2026: the language that the others are compared with, and dimensions per language."""


class Published(NamedTuple):
    """What a file holds."""

    neurons: dict[str, Layers]
    """Language → layer → indices."""
    layers: int
    site: str


def read_published(
    path: Path,
    languages: Sequence[str] | None,
    width: int,
    *,
    layers: int | None = None,
    site: str | None = None,
    source: str = PUBLISHED_SOURCE,
    count: int = PUBLISHED_COUNT,
) -> Published:
    """Return what a published file holds.

    Args:
        path: ``.json``, or what ``torch.save`` wrote, which is loaded as data only.
        languages: The languages in the file's order, or those to take where the file names them; all if None.
        width: Units per layer.
        layers: Layers of the model; by default those that the file has, up to the last that is named.
        site: Whose units they are; by default ``post``, and ``residual`` of means.
        source: Of means: the language that the others are compared with; it gets no dimensions.
        count: Of means: how many dimensions each language gets.

    Raises:
        LnbenchError: missing, damaged, code, of another layout, or it does not fit what is said of it.
    """
    data = _loaded(path)
    try:
        inner = _unwrapped(data)
        if _are_means(inner):
            return _of_means(inner, path, languages, width, (layers, site, source, count))
        return _of_units(inner, path, languages, width, layers, site)
    except _OtherLayoutError as error:
        raise LnbenchError(
            f"{path} is not a published neuron file: it holds {_described(data)}; expected {_LAYOUTS}"
        ) from error


class _OtherLayoutError(Exception):
    """A file that is in none of the layouts."""


def _of_units(
    data: Any, path: Path, languages: Sequence[str] | None, width: int, layers: int | None, site: str | None
) -> Published:
    if _is_flat(data):
        return _of_last_layer(data, path, languages, width, layers, site)
    by_language = _by_language(data, path, languages)
    layered = {language: _by_layer(entries, path, width, layers) for language, entries in by_language.items()}
    counts = {number for _, number, _ in layered.values()}
    listed = {number for _, number, all_listed in layered.values() if all_listed}
    if not layered or max(counts) == 0 or len(listed) > 1 or (listed and max(counts) > max(listed)):
        raise _OtherLayoutError
    if layers is not None and (max(counts) > layers or listed - {layers}):
        raise LnbenchError(f"{path} has {max(counts)} layers, and the model is said to have {layers}")
    neurons = {language: per_layer for language, (per_layer, _, _) in layered.items()}
    return Published(neurons, layers or max(counts), site or POST)


def _loaded(path: Path) -> Any:
    if not path.is_file():
        raise LnbenchError(f"no such file: {path}")
    if path.suffix == ".json":
        return read_json(path)
    try:
        return torch.load(path, map_location="cpu", weights_only=True)
    except Exception as error:  # A hostile file can make the loader fail in any way.
        raise LnbenchError(
            f"{path} is not a published neuron file of tensors, numbers, lists and dictionaries, or is damaged"
        ) from error


def _unwrapped(data: Any) -> Any:
    if isinstance(data, Mapping) and (keys := [key for key in _WRAPPERS if key in data]):
        return data[keys[0]]
    return data


def _are_means(data: Any) -> bool:
    """Return whether data is language → layer → ``{"mean": [d_model], …}``."""
    if not isinstance(data, Mapping) or not data:
        return False
    return all(
        isinstance(layers, Mapping)
        and layers
        and all(isinstance(entry, Mapping) and _MEAN in entry for entry in layers.values())
        for layers in data.values()
    )


def _of_means(
    data: Mapping[str, Any], path: Path, languages: Sequence[str] | None, width: int, said: tuple[Any, ...]
) -> Published:
    """Return the dimensions of the last layer whose means differ most from the source's; ties in order of index."""
    layers, site, source, count = said
    last = {}
    for language in dict.fromkeys([*_chosen(data, path, languages), *_chosen(data, path, [source])]):
        numbered = _numbered(data[language])
        last[language] = max(numbered), _numbers(numbered[max(numbered)][_MEAN], path, width)
    if len(tops := {top for top, _ in last.values()}) > 1:
        raise LnbenchError(f"{path} has means up to layer {min(tops)} of one language and {max(tops)} of another")
    top = tops.pop()
    if layers is not None and layers != top + 1:
        raise LnbenchError(f"{path} has {top + 1} layers, and the model is said to have {layers}")
    if count > width:
        raise LnbenchError(f"{path} has means of {width} dimensions, and {count} of them were asked for")
    reference = last[source][1]
    neurons = {
        language: {top: (own - reference).abs().argsort(descending=True, stable=True)[:count]}
        if language != source
        else {}
        for language, (_, own) in last.items()
        if languages is None or language in languages
    }
    return Published(neurons, top + 1, site or RESIDUAL)


def _is_flat(data: Any) -> bool:
    """Return whether data is language → indices, without layers."""
    named = isinstance(data, Mapping) and bool(data) and all(isinstance(key, str) for key in data)
    return named and not _are_layers(data) and all(_depth(indices) == 1 for indices in data.values())


def _of_last_layer(
    data: Mapping[str, Any],
    path: Path,
    languages: Sequence[str] | None,
    width: int,
    layers: int | None,
    site: str | None,
) -> Published:
    """Return the dimensions of the last layer that a flat list per language is, of Zhong et al. 2026."""
    if site != RESIDUAL or layers is None:
        raise LnbenchError(
            f"{path} has one list of units per language, without layers; if they are dimensions of what the last layer "
            "passes on, as language-specific dimensions are, say so with --site residual and the model's --layers"
        )
    chosen = _chosen(data, path, languages)
    return Published({code: {layers - 1: _indices(data[code], path, width)} for code in chosen}, layers, site)


def _numbers(mean: Any, path: Path, width: int) -> Tensor:
    try:
        numbers = torch.as_tensor(mean, dtype=torch.float64)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        numbers = torch.empty(0)
    if numbers.shape != (width,) or not torch.isfinite(numbers).all():
        raise LnbenchError(f"{path} does not fit: a mean must be {width} finite numbers, and one is {_described(mean)}")
    return numbers


def _chosen(data: Mapping[str, Any], path: Path, languages: Sequence[str] | None) -> list[str]:
    if missing := [language for language in languages or () if language not in data]:
        raise unknown(f"language in {path}", missing[0], data, f"The file holds {_described(data)}")
    return list(data if languages is None else languages)


def _by_language(data: Any, path: Path, languages: Sequence[str] | None) -> dict[str, Any]:
    """Return language → what the file has of it."""
    depth = _depth(data)
    if depth == 2 and (
        _are_layers(data) if isinstance(data, Mapping) else not any(isinstance(part, Mapping) for part in data)
    ):
        parts: list[Any] = [data]  # a file of one language
    elif not 3 <= depth < _DEEPEST:
        raise _OtherLayoutError
    else:
        data = _turned(data)
        if isinstance(data, Mapping) and data and all(isinstance(key, str) for key in data):
            return {language: data[language] for language in _chosen(data, path, languages)}
        parts = list(data) if isinstance(data, list | tuple) or _is_stack(data, 3) else []
    if not parts:
        raise _OtherLayoutError
    if languages is None or not len(parts) == len(languages) == len(set(languages)):
        raise LnbenchError(
            f"{path} contains {len(parts)} languages, --languages names {len(languages or ())}: pass {len(parts)} "
            f"distinct codes in the file's order"
        )
    return dict(zip(languages, parts, strict=True))


def _depth(data: Any, most: int = _DEEPEST) -> int:
    """Return how many levels of lists, dictionaries and tensors there are; what is empty is one."""
    if isinstance(data, Tensor):
        return data.dim()
    if most == 0 or not isinstance(data, Mapping | list | tuple):
        return 0
    inner = data.values() if isinstance(data, Mapping) else data
    return 1 + max((_depth(part, most - 1) for part in inner), default=0)


def _are_layers(data: Mapping[Any, Any]) -> bool:
    return bool(data) and all(_layer_of(key) is not None for key in data)


def _turned(data: Any) -> Any:
    """Return by language what is by layer first: a dictionary of layers, or a list of dictionaries by language."""
    if isinstance(data, Mapping) and _are_layers(data):
        layers = dict(data)
    elif isinstance(data, list | tuple):
        layers = dict(enumerate(data))
    else:
        return data
    inner = list(layers.values())
    if inner and all(isinstance(part, Mapping) and not _are_layers(part) for part in inner):
        names = dict.fromkeys(name for part in inner for name in part)
        turned: Any = {name: {layer: part[name] for layer, part in layers.items() if name in part} for name in names}
        # A list has all layers, its last ones too where they are empty.
        return turned if isinstance(data, Mapping) else {name: [part.get(name, []) for part in inner] for name in names}
    if isinstance(data, Mapping) and all(isinstance(part, list | tuple) for part in inner):
        counts = {len(part) for part in inner}
        if len(counts) == 1:
            return [{layer: part[place] for layer, part in layers.items()} for place in range(counts.pop())]
    return data


def _layer_of(key: object) -> int | None:
    if isinstance(key, int) and not isinstance(key, bool):
        return key
    match = _NUMBER_AT_END.fullmatch(key) if isinstance(key, str) else None
    return int(match[1]) if match and len(match[1]) < 7 else None


def _numbered(layers: Mapping[Any, Any]) -> dict[int, Any]:
    """Return number of the layer → entry."""
    numbers = {key: _layer_of(key) for key in layers}
    if None in numbers.values() or len(set(numbers.values())) < len(numbers) or not numbers:
        raise _OtherLayoutError
    return {number: layers[key] for key, number in numbers.items() if number is not None}


def _by_layer(entries: Any, path: Path, width: int, layers: int | None) -> tuple[Layers, int, bool]:
    """Return layer → indices, how many layers there are, and whether each is listed, not only those with units."""
    if isinstance(entries, Mapping):
        numbered, listed = (_numbered(entries) if entries else {}), False
    elif isinstance(entries, list | tuple) or (_is_stack(entries, 2) and _is_mask(entries, width)):
        if _may_be_pairs(entries):
            if layers is None:
                raise LnbenchError(
                    f"{path} has two numbers in every entry: layers of two indices each, or pairs of layer and index? "
                    "Name the model's number of layers, with --layers"
                )
            if len(entries) != layers:
                return _of_pairs(entries)
        numbered, listed = dict(enumerate(entries)), True
    elif _is_stack(entries, 2) and entries.shape[1] == 2 and not entries.is_floating_point():
        return _of_pairs(entries.tolist())
    else:
        raise _OtherLayoutError
    indices = {layer: _indices(entry, path, width) for layer, entry in numbered.items()}
    return indices, max(numbered, default=-1) + 1, listed


def _may_be_pairs(entries: Any) -> bool:
    return (
        isinstance(entries, list | tuple)
        and bool(entries)
        and all(isinstance(entry, list | tuple) and len(entry) == 2 for entry in entries)
        and all(type(number) is int for entry in entries for number in entry)
    )


def _of_pairs(pairs: Sequence[Sequence[int]]) -> tuple[Layers, int, bool]:
    by_layer: dict[int, list[int]] = {}
    for layer, index in pairs:
        by_layer.setdefault(layer, []).append(index)
    return {layer: torch.tensor(indices) for layer, indices in by_layer.items()}, max(0, *by_layer) + 1, False


def _is_stack(data: Any, dimensions: int) -> bool:
    """Return whether data is a tensor of so many dimensions that holds all its values, not one repeated."""
    if not isinstance(data, Tensor) or data.layout != torch.strided or data.dim() != dimensions:
        return False
    return data.untyped_storage().nbytes() >= data.numel() * data.element_size() and data.numel() > 0


def _is_mask(tensor: Tensor, width: int) -> bool:
    """Return whether the last dimension of a tensor is a mask over a layer's units."""
    return tensor.shape[-1] == width and (
        tensor.dtype == torch.bool or (width > 2 and bool(((tensor == 0) | (tensor == 1)).all()))
    )


def _indices(entry: Any, path: Path, width: int) -> Tensor:
    # An expanded tensor is huge in memory though small on disk, so its size is looked at before its content.
    if isinstance(entry, Tensor):
        fits = entry.layout == torch.strided and entry.dim() == 1 and entry.numel() <= width
    else:
        fits = isinstance(entry, list | tuple) and len(entry) <= width
    if not fits:
        raise LnbenchError(
            f"{path} does not fit: each layer must be a list of at most {width} indices, or a mask of {width}, and one "
            f"is {_described(entry)}"
        )
    if not isinstance(entry, Tensor) and not all(isinstance(value, int) for value in entry):
        raise LnbenchError(f"{path}: indices are whole numbers, and one layer is {_described(entry)}")
    values = torch.as_tensor(entry)
    if _is_mask(values, width):
        return values.nonzero().flatten()
    if values.dtype == torch.bool:
        raise LnbenchError(f"{path} does not fit: a mask has {len(values)} entries, and the model's layers {width}")
    return values


_NAMES: dict[type, str] = {bool: "true or false", int: "a number", float: "a number", str: "a text"}


def _described(data: Any, depth: int = 3) -> str:
    """Return the layout of data in words, as a list of 7 × a list of 32 × a tensor [12] of int64."""
    if isinstance(data, Tensor):
        return f"a tensor {list(data.shape)} of {str(data.dtype).removeprefix('torch.')}"
    if isinstance(data, Mapping):
        keys = ", ".join(repr(key) for key in list(data)[:4]) + (" …" if len(data) > 4 else "")
        first = next(iter(data.values()), None)
        inner = f", the first {_described(first, depth - 1)}" if data and depth else ""
        return f"a dictionary of {len(data)} ({keys}){inner}"
    if isinstance(data, list | tuple):
        inner = f", the first {_described(data[0], depth - 1)}" if data and depth else ""
        return f"a list of {len(data)}{inner}"
    return _NAMES.get(type(data), type(data).__name__)
