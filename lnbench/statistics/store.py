"""A folder of Statistics: ``{lang}.safetensors`` a language and one ``manifest.json``."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file

import lnbench
from lnbench.errors import LnbenchError, unknown
from lnbench.files import atomic_path, read_json, write_json
from lnbench.statistics.values import LEVELS, MOMENTS, SiteValues, Statistics

FORMAT = "lnbench.statistics/1"
MANIFEST = "manifest.json"
_SHARED = ("model", "revision", "weights", "dtype", "quantization", "tokenizer", "layers", "width")


def save(statistics: Statistics, folder: Path) -> Path:
    """Write one language's tensors, then enter it in the manifest; both atomically.

    Tensors without a prefix are those of the manifest's site, as other tools expect; the other site's carry its name.

    Raises:
        LnbenchError: the folder holds Statistics of another model, or cannot be written.
    """
    target = folder / f"{statistics.language}.safetensors"
    folder.mkdir(parents=True, exist_ok=True)
    shared = {name: statistics.provenance.get(name) for name in _SHARED}
    shared |= {"layers": statistics.layers, "width": statistics.width}
    with FileLock(folder / ".lock"):
        manifest = _manifest(folder) if (folder / MANIFEST).exists() else {"languages": {}}
        for name, value in shared.items():
            if manifest["languages"] and manifest.get(name) != value:
                raise LnbenchError(
                    f"{folder} holds Statistics of another model ({name} is {manifest.get(name)!r} there and {value!r} "
                    "here); choose another folder"
                )
        tensors = {}
        for site, values in statistics.sites.items():
            prefix = "" if site == statistics.site else f"{site}."
            tensors |= {prefix + name: tensor.contiguous() for name, tensor in values.tensors().items()}
        for site, levels in statistics.batch_quantiles.items():
            tensors |= {f"{site}.batch_quantile.{level:g}": tensor.contiguous() for level, tensor in levels.items()}
        with atomic_path(target) as path:
            save_file(tensors, path, metadata={"format": FORMAT, "language": statistics.language})
        rest = {key: value for key, value in statistics.provenance.items() if key not in _SHARED}
        manifest["languages"][statistics.language] = {
            **rest,
            "tokens": statistics.tokens,
            "site": statistics.site,
            "fingerprint": statistics.fingerprint,
        }
        write_json(
            folder / MANIFEST,
            {
                "format": FORMAT,
                "lnbench": lnbench.__version__,
                **shared,
                "levels": LEVELS.tolist(),
                "languages": dict(sorted(manifest["languages"].items())),
            },
        )
    return target


def languages(folder: Path) -> list[str]:
    """The languages of a Statistics folder.

    Raises:
        LnbenchError: there is no such folder, or it holds no Statistics.
    """
    return list(_manifest(folder)["languages"])


def load(folder: Path, language: str) -> Statistics:
    """Read one language; see :meth:`Statistics.load`."""
    manifest = _manifest(folder)
    entries = manifest["languages"]
    if language not in entries:
        raise unknown("language", language, entries, f"Collect it with lnbench stats, or look elsewhere than {folder}")
    entry = dict(entries[language])
    path = folder / f"{language}.safetensors"
    try:
        with safe_open(path, framework="pt") as file:
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except FileNotFoundError as error:
        raise LnbenchError(f"{path} is missing though {folder / MANIFEST} lists it; collect it anew") from error
    except (SafetensorError, OSError) as error:
        raise LnbenchError(f"{path} cannot be read ({error}); it may be truncated: collect it anew") from error

    site, tokens = entry.pop("site"), entry.pop("tokens")
    entry.pop("fingerprint", None)
    other = "pre" if site == "post" else "post"
    shape = (manifest["layers"], manifest["width"])
    sites = {}
    for name, prefix in ((site, ""), (other, f"{other}.")):
        wanted = {part: tensors.get(prefix + part) for part in (*MOMENTS, "quantiles")}
        if all(tensor is None for tensor in wanted.values()):
            continue
        bad = [part for part, tensor in wanted.items() if tensor is None or tuple(tensor.shape[-2:]) != shape]
        if bad:
            raise LnbenchError(f"{path} lacks {', '.join(bad)} of shape {shape} for site {name!r}; collect it anew")
        sites[name] = SiteValues(**{part: tensor for part, tensor in wanted.items() if tensor is not None})
    batch: dict[str, dict[float, torch.Tensor]] = {}
    for key, tensor in tensors.items():
        where, kind, level = (*key.split(".", 2), "", "")[:3]
        if kind == "batch_quantile":
            batch.setdefault(where, {})[float(level)] = tensor
    provenance = {name: manifest.get(name) for name in _SHARED if manifest.get(name) is not None}
    return Statistics(language, tokens, site, sites, provenance | entry, batch)


def _manifest(folder: Path) -> dict[str, Any]:
    if not folder.is_dir():
        raise LnbenchError(f"no such Statistics folder: {folder}; make one with lnbench stats --out {folder}")
    manifest = read_json(folder / MANIFEST)
    if not isinstance(manifest, dict) or manifest.get("format") != FORMAT:
        raise LnbenchError(
            f"{folder / MANIFEST} is not of format {FORMAT}; this folder is not one of lnbench's Statistics"
        )
    return manifest
