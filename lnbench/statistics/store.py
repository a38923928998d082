"""A folder of Statistics: one ``{lang}.safetensors`` per language and one ``manifest.json``."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from pydantic import BaseModel

from lnbench import content_hash
from lnbench._version import __version__
from lnbench.errors import LnbenchError, unknown
from lnbench.files import write_json
from lnbench.formats import read_format, read_tensors, validated, write_tensors
from lnbench.locks import process_lock
from lnbench.model.architectures import NEURON_SITES
from lnbench.model.layout import ExpertsLayout
from lnbench.statistics.measures import stored, taken_from
from lnbench.statistics.site_values import COORDINATES, LEVELS, TENSORS, SiteValues

if TYPE_CHECKING:
    from lnbench.statistics.language_statistics import Statistics


FORMAT, OLDER = "lnbench.statistics/2", "lnbench.statistics/1"
MANIFEST = "manifest.json"
_BATCH = "batch_quantile"
_ABOUT = "statistics"
_ROUTED = "routed"
_SHARED = ("model", "revision", "weights", "config", "adapter", "dtype", "quantization", "tokenizer", "layers", "width")


class _Entry(BaseModel, strict=True):
    site: str
    tokens: int


class _Manifest(BaseModel, strict=True):
    """The entries that are needed to read a folder."""

    layers: int
    width: int
    languages: dict[str, _Entry]


def save(statistics: Statistics, folder: Path) -> Path:
    """Write one language's tensors, then enter it in the manifest; both atomically.

    Tensors are named ``{site}.{name}``, those of measures ``measure.{choice}.{name}``.

    Raises:
        LnbenchError: the folder holds Statistics of another model, or cannot be written.
    """
    language = statistics.language
    if not language or Path(language).name != language or language.startswith("."):
        raise LnbenchError(f"invalid language code {language!r}: it becomes a file name, so no '/' and no leading '.'")
    target = folder / f"{language}.safetensors"
    shared = {name: statistics.provenance.get(name) for name in _SHARED}
    # Of the neurons, whatever site is shown.
    neurons = statistics.at(next((site for site in NEURON_SITES if site in statistics.sites), statistics.site))
    shared |= {"layers": neurons.layers, "width": neurons.width}
    if len(set(neurons.widths)) > 1:
        shared["widths"] = list(neurons.widths)
    if statistics.experts:
        shared["experts"] = [list(layout) for layout in statistics.experts]
    try:
        folder.mkdir(parents=True, exist_ok=True)
        with process_lock(folder / ".lock"):
            entries = _entries(folder, shared) if (folder / MANIFEST).exists() else {}
            about = {"format": FORMAT, "language": language, "fingerprint": statistics.fingerprint}
            # Several entries would be written in another order each time.
            write_tensors(target, _tensors(statistics), {_ABOUT: json.dumps(about)})
            rest = {key: value for key, value in statistics.provenance.items() if key not in _SHARED}
            own = {"tokens": statistics.tokens, "site": statistics.site, "fingerprint": statistics.fingerprint}
            entries[language] = rest | own
            head = {"format": FORMAT, "lnbench": __version__, **shared, "levels": LEVELS.tolist()}
            write_json(folder / MANIFEST, head | {"languages": dict(sorted(entries.items()))})
    except OSError as error:
        raise LnbenchError(f"cannot write Statistics to {folder}: {error}") from error
    return target


def _entries(folder: Path, shared: dict[str, Any]) -> dict[str, Any]:
    """Return the languages that ``folder`` holds already; an error if they are another model's."""
    manifest = _manifest(folder)
    for name, value in shared.items():
        there = manifest.get(name)
        # Older folders have the model's path for its name.
        same = Path(str(there)).name == Path(str(value)).name if name == "model" else there == value
        if manifest["languages"] and not same:
            raise LnbenchError(
                f"{folder} holds Statistics of another model ({name} is {there!r} there and {value!r} "
                "here); choose another folder"
            )
    languages: dict[str, Any] = manifest["languages"]
    return languages


def _tensors(statistics: Statistics) -> dict[str, torch.Tensor]:
    tensors: dict[str, torch.Tensor] = {}
    for site, values in statistics.sites.items():
        tensors |= {f"{site}.{name}": tensor.contiguous() for name, tensor in values.tensors().items()}
    for site, levels in statistics.batch_quantiles.items():
        # repr keeps every digit of a level, by which it is found again.
        tensors |= {f"{site}.{_BATCH}.{level!r}": tensor.contiguous() for level, tensor in levels.items()}
    if statistics.routed is not None:
        tensors[_ROUTED] = statistics.routed
    return tensors | stored(statistics.measures)


def languages(folder: Path) -> list[str]:
    """Return the languages of a Statistics folder.

    Raises:
        LnbenchError: there is no such folder, or it holds no Statistics.
    """
    return list(_manifest(folder)["languages"])


def load(folder: Path, language: str) -> tuple[dict[str, Any], str | None]:
    """Read one language.

    Returns:
        The arguments of its :class:`~lnbench.statistics.language_statistics.Statistics`, and the fingerprint that they
        had when they were written, if it is known.
    """
    manifest = _manifest(folder)
    entries = manifest["languages"]
    if language not in entries:
        raise unknown("language", language, entries, f"Collect it with lnbench stats, or look elsewhere than {folder}")
    entry = entries[language]
    path = folder / f"{language}.safetensors"
    tensors, metadata = read_tensors(path, "file of Statistics", "collect them again", decode=[_ABOUT])
    written = (metadata[_ABOUT] or {}).get("fingerprint")
    site, tokens, expected = entry.pop("site"), entry.pop("tokens"), entry.pop("fingerprint", None)
    if written is not None and written != expected:
        raise LnbenchError(f"{path} is not the file that {folder / MANIFEST} describes; collect it again")

    measures, routed = taken_from(tensors), tensors.pop(_ROUTED, None)
    by_site: dict[str, dict[str, torch.Tensor]] = {}
    batch: dict[str, dict[float, torch.Tensor]] = {}
    for name, tensor in tensors.items():
        # In files of the older format, names without a site are those of the manifest's.
        where, part, level = (*(name if "." in name else f"{site}.{name}").split(".", 2), "")[:3]
        if part == COORDINATES:
            by_site.setdefault(where, {})[f"{part}.{level}"] = tensor
        elif part == _BATCH:
            batch.setdefault(where, {})[float(level)] = tensor
        else:
            by_site.setdefault(where, {})[part] = tensor
    layers, width = manifest["layers"], manifest["width"]
    sites = {
        name: _values(parts, layers, width if name in NEURON_SITES else None, f"{path}: site {name!r}")
        for name, parts in by_site.items()
    }
    if site not in sites:
        raise LnbenchError(f"{path} lacks the values of site {site!r}; collect it again")
    provenance = {name: manifest.get(name) for name in _SHARED[:-2] if manifest.get(name) is not None}
    arguments = {
        "language": language,
        "tokens": tokens,
        "site": site,
        "sites": sites,
        "provenance": provenance | entry,
        "batch_quantiles": batch,
        "measures": measures,
        "experts": tuple(ExpertsLayout(*layout) for layout in manifest.get("experts", ())),
        "routed": routed,
    }
    return arguments, expected


def _values(parts: dict[str, torch.Tensor], layers: int, width: int | None, where: str) -> SiteValues:
    """Return the values of one site; a width of None is that of the tensors themselves."""
    own = {name: tensor for name, tensor in parts.items() if "." not in name}
    of_units = {name.partition(".")[2]: tensor for name, tensor in parts.items() if "." in name}
    found = own["mean"].shape[-1] if width is None and "mean" in own else width or 0
    values = _shaped(own, (layers, found), where)
    if not of_units:
        return values
    size = of_units["mean"].shape[-1] if "mean" in of_units else 0
    return replace(values, coordinates=_shaped(of_units, (layers, found, size), f"{where}, coordinates"))


def _shaped(parts: dict[str, torch.Tensor], shape: tuple[int, ...], where: str) -> SiteValues:
    shapes = {name: (len(LEVELS), *shape) if name == "quantiles" else shape for name in TENSORS}
    if bad := [name for name in TENSORS if name not in parts or tuple(parts[name].shape) != shapes[name]]:
        raise LnbenchError(f"{where} lacks {', '.join(bad)} of shape {shape}; collect it again")
    return SiteValues.of(parts)


def _manifest(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise LnbenchError(f"no such Statistics folder: {folder}; make one with lnbench stats --out {folder}")
    manifest = read_format(folder / MANIFEST, FORMAT, "manifest of Statistics", OLDER)
    validated(_Manifest, manifest, f"{folder / MANIFEST} lacks entries", "collect these Statistics again")
    if manifest.get("levels") != LEVELS.tolist():
        raise LnbenchError(f"{folder / MANIFEST} keeps quantiles at other levels than this lnbench; collect them again")
    return manifest


@content_hash.remembered
def content_of(folder: str) -> str:
    """Return a hash of a Statistics folder's manifest.

    Raises:
        LnbenchError: there is none.
    """
    return content_hash.of_file(str(Path(folder) / MANIFEST))


def planned_languages(folder: str) -> list[str] | None:
    """Return a Statistics folder's languages; None where it is not there yet, in :func:`lnbench.content_hash.planning`.

    Raises:
        LnbenchError: there is none.
    """
    if content_hash.is_planning() and not Path(folder).exists():
        return None
    return languages(Path(folder))
