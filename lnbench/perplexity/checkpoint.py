"""``perplexity.safetensors``: what every pass over a slice has found, block by block, kept as each pass ends."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from lnbench.errors import LnbenchError
from lnbench.formats import read_tensors, write_tensors

FORMAT = "lnbench.blocks/1"
FILE = "perplexity.safetensors"
"""Its name in a run's folder."""
_HELD = ("request", "outside", "divergences")
"""Entries of its metadata that hold JSON."""
_SAME = ("model", "text", "labels")
"""Entries of a request that passes of the unchanged model depend on."""
Record = dict[str, Any]


class Passes:
    """The passes of one request, by ``changed/read``: kept in memory, and in a file if there is one.

    ``changed`` is ``unchanged``, a language, or ``{language}#{draw}`` for as many random neurons; ``read`` is the
    language of the text.

    Args:
        request: All that the numbers depend on, as plain JSON.
        path: The file; None keeps nothing beyond this process.

    Raises:
        LnbenchError: the file is of another request.
    """

    def __init__(self, request: Mapping[str, Any], path: Path | None = None) -> None:
        self.request = dict(request)
        self.path = path
        self.nats: dict[str, NDArray[np.float64]] = {}
        """``[blocks]`` each: the nats of the passes that are done, and what they are divided by."""
        self.outside: dict[str, float] = {}
        """Share of the values written that lie outside the observed range, where that is known."""
        self.divergences: dict[str, list[float]] = {}
        """Nats of KL divergence of the first blocks, where next-token distributions were compared."""
        if path is not None and path.exists():
            self._resume(path)

    def save(self) -> None:
        """Write the passes that are done.

        Raises:
            LnbenchError: the file cannot be written; what it held stays.
        """
        if self.path is not None:
            held = {"request": self.request, "outside": self.outside, "divergences": self.divergences}
            metadata = {name: json.dumps(value, ensure_ascii=False) for name, value in held.items()}
            write_tensors(self.path, self.nats, {"format": FORMAT, **metadata}, framework="np")

    def take(self, path: Path, beginning: str) -> None:
        """Take the passes whose names begin so from the file of another request on the same model and text.

        Raises:
            LnbenchError: it is missing or damaged, or of another model or text.
        """
        nats, request, _, _ = _read(path)
        if differing := [name for name in _SAME if request.get(name) != self.request.get(name)]:
            raise LnbenchError(f"{path} is of another {' and '.join(differing)}, so its passes cannot be taken")
        self.nats |= {name: values for name, values in nats.items() if name.startswith(beginning)}

    def _resume(self, path: Path) -> None:
        self.nats, request, self.outside, self.divergences = _read(path)
        differing = [key for key in {**request, **self.request} if request.get(key) != self.request.get(key)]
        if differing:
            raise LnbenchError(
                f"{path.parent} holds the perplexity of another request ({', '.join(differing)} differ); choose "
                "another folder with --out, or delete this one"
            )


def copy_for(neurons: str, path: Path, out: Path) -> None:
    """Copy a file of passes for another NeuronSet of the same units, by its fingerprint.

    Raises:
        LnbenchError: the file is damaged, or the copy cannot be written.
    """
    passes = Passes({})
    passes.nats, request, passes.outside, passes.divergences = _read(path)
    passes.request, passes.path = {**request, "neurons": neurons}, out
    passes.save()


def _read(path: Path) -> tuple[dict[str, NDArray[np.float64]], Record, dict[str, float], dict[str, list[float]]]:
    """Return a file's passes, its request, and what else it holds of them."""
    remedy = "delete it, and the command starts from the beginning"
    nats, metadata = read_tensors(path, "file", remedy, framework="np", decode=_HELD)
    request, outside, divergences = (metadata[name] for name in _HELD)
    divergences = {} if divergences is None else divergences
    if metadata.get("format") != FORMAT or not all(isinstance(part, dict) for part in (request, outside, divergences)):
        raise LnbenchError(f"{path} is not a file of format {FORMAT}; choose another folder with --out")
    return nats, request, outside, divergences
