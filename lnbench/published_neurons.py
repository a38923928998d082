"""Neuron files that others have published: the usual layouts, or a description of what a file holds.

From the outside in, a file is by language and by layer, or by layer and by language; each level is a list or a
dictionary (a layer's key ends with its number, as ``model.layers.3``). What is innermost is a list or a tensor of
indices, or a mask over a layer's neurons. A tensor can take the place of the inner levels (``[layers, width]``) or of
all of them (``[languages, layers, width]``).

Source of the list of lists of index tensors: Tang et al. 2024, https://aclanthology.org/2024.acl-long.309
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from lnbench.errors import LnbenchError, unknown
from lnbench.files import read_json

Layers = dict[int, Tensor]
_LAYOUTS = "a list or dictionary of languages, each one of layers, each a list or tensor of indices or a mask"
_NUMBER_AT_END = re.compile(r"(?:.*[^0-9])?([0-9]+)")
_WRAPPERS = ("neurons", "language_neurons", "indices", "masks", "activation_mask")
"""Keys under which files keep the neurons beside other entries."""


def read_published(path: Path, languages: Sequence[str] | None, width: int) -> tuple[dict[str, Layers], int]:
    """Return language → layer → indices, and the number of layers.

    Args:
        path: ``.json``, or what ``torch.save`` wrote, which is loaded as data only.
        languages: The languages in the file's order, or those to take where the file names them; all if None.
        width: Neurons per layer.

    Raises:
        LnbenchError: missing, damaged, code, of another layout, or it does not fit ``languages`` or ``width``.
    """
    data = _unwrapped(_loaded(path))
    by_language = _by_language(data, path, languages)
    layered = {language: _by_layer(layers, path, width) for language, layers in by_language.items()}
    counts = {count for _, count in layered.values()}
    named = all(isinstance(layers, Mapping) for layers in by_language.values())
    if not layered or max(counts) == 0 or (len(counts) > 1 and not named):
        raise _other_layout(path, data)
    return {language: layers for language, (layers, _) in layered.items()}, max(counts)


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


def _by_language(data: Any, path: Path, languages: Sequence[str] | None) -> dict[str, Any]:
    if isinstance(data, Mapping) and data:
        if all(_layer_of(key) is not None for key in data) and _is_by_layer_first(data):
            data = _turned(data)
        if all(isinstance(key, str) for key in data):
            missing = [language for language in languages or () if language not in data]
            if missing:
                raise unknown(f"language in {path}", missing[0], data, f"The file holds {_described(data)}")
            return {language: data[language] for language in languages or data}
    parts = list(data) if isinstance(data, list | tuple) or _is_stack(data, 3) else []
    if not parts:
        raise _other_layout(path, data)
    if languages is None or not len(parts) == len(languages) == len(set(languages)):
        raise LnbenchError(
            f"{path} contains {len(parts)} languages, --languages names {len(languages or ())}: pass {len(parts)} "
            f"distinct codes in the file's order"
        )
    return dict(zip(languages, parts, strict=True))


def _is_by_layer_first(data: Mapping[Any, Any]) -> bool:
    """Return whether a dictionary is by layer, and each of its entries by language."""
    inner = list(data.values())
    return all(isinstance(part, Mapping) and all(_layer_of(key) is None for key in part) for part in inner)


def _turned(data: Mapping[Any, Mapping[str, Any]]) -> dict[str, dict[Any, Any]]:
    names = dict.fromkeys(name for part in data.values() for name in part)
    return {name: {layer: part[name] for layer, part in data.items() if name in part} for name in names}


def _layer_of(key: object) -> int | None:
    if isinstance(key, int) and not isinstance(key, bool):
        return key
    match = _NUMBER_AT_END.fullmatch(key) if isinstance(key, str) else None
    return int(match[1]) if match and len(match[1]) < 7 else None


def _by_layer(layers: Any, path: Path, width: int) -> tuple[Layers, int]:
    """Return layer → indices, and how many layers there are."""
    if isinstance(layers, Mapping):
        numbers = {key: _layer_of(key) for key in layers}
        if None in numbers.values() or len(set(numbers.values())) < len(numbers):
            raise _other_layout(path, layers)
        entries = {number: layers[key] for key, number in numbers.items() if number is not None}
    elif isinstance(layers, list | tuple) or (_is_stack(layers, 2) and layers.shape[1] == width and _is_mask(layers)):
        entries = dict(enumerate(layers))
    else:
        raise _other_layout(path, layers)
    return {layer: _indices(entry, path, width) for layer, entry in entries.items()}, max(entries, default=-1) + 1


def _is_stack(data: Any, dimensions: int) -> bool:
    """Return whether data is a tensor of so many dimensions that holds all its values, not one repeated."""
    if not isinstance(data, Tensor) or data.layout != torch.strided or data.dim() != dimensions:
        return False
    return data.untyped_storage().nbytes() >= data.numel() * data.element_size() and data.numel() > 0


def _is_mask(tensor: Tensor) -> bool:
    return tensor.dtype == torch.bool or bool(((tensor == 0) | (tensor == 1)).all())


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
    if values.dtype == torch.bool or (len(values) == width > 2 and _is_mask(values)):
        if len(values) != width:
            raise LnbenchError(f"{path} does not fit: a mask has {len(values)} entries, and the model's layers {width}")
        return values.nonzero().flatten()
    return values


def _other_layout(path: Path, data: Any) -> LnbenchError:
    return LnbenchError(f"{path} is not a published neuron file: it holds {_described(data)}; expected {_LAYOUTS}")


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
