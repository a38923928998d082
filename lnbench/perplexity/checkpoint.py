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
from lnbench.perplexity.slices import Slice

FORMAT = "lnbench.blocks/1"
FILE = "perplexity.safetensors"
"""Its name in a run's folder."""
UNCHANGED = "unchanged"
"""The pass of the model as it is."""
_FORMAT, _REQUEST, _OUTSIDE = "format", "request", "outside"
_Floats = NDArray[np.float64]


def of_control(language: str, draw: int) -> str:
    """Name the pass under a draw of as many random neurons as ``language`` has."""
    return f"{language}#{draw}"


class Passes:
    """The passes of one request: kept in memory, and in a file if there is one.

    A pass goes by what is changed (``unchanged``, a language, or :func:`of_control`) and by the language that is read;
    in the file by both, with a slash between them.

    Args:
        request: All that the numbers depend on, as plain JSON.
        path: The file; None keeps nothing beyond this process.

    Raises:
        LnbenchError: the file is of another request.
    """

    def __init__(self, request: Mapping[str, Any], path: Path | None = None) -> None:
        self.request = dict(request)
        self.path = path
        self._nats: dict[str, _Floats] = {}
        self._outside: dict[str, float] = {}
        if path is not None and path.exists():
            self._resume(path)

    def __contains__(self, named: tuple[str, str]) -> bool:
        return "/".join(named) in self._nats

    def nats(self, changed: str, read: str) -> _Floats:
        """Return ``[blocks]``: the nats of a pass that is done."""
        return self._nats[f"{changed}/{read}"]

    def outside(self, changed: str, read: str) -> float | None:
        """Return the share of the values written in a pass that lie outside the observed range, if that is known."""
        return self._outside.get(f"{changed}/{read}")

    def add_slice(self, text: Slice) -> None:
        """Keep what the numbers of a slice are divided by: ``tokens/{j}`` and ``bytes/{j}``."""
        self._nats |= {f"tokens/{text.language}": text.tokens, f"bytes/{text.language}": text.sizes}

    def add(self, changed: str, read: str, nats: _Floats, outside: float | None = None) -> None:
        """Enter a pass, and write it to the disk.

        Raises:
            LnbenchError: the file cannot be written; what it held stays.
        """
        self._nats[f"{changed}/{read}"] = nats
        if outside is not None:
            self._outside[f"{changed}/{read}"] = outside
        if self.path is None:
            return
        about = {_REQUEST: self.request, _OUTSIDE: self._outside}
        metadata = {_FORMAT: FORMAT, **{key: json.dumps(value, ensure_ascii=False) for key, value in about.items()}}
        write_tensors(self.path, self._nats, metadata, framework="np")

    def _resume(self, path: Path) -> None:
        remedy = "delete it, and the command starts from the beginning"
        nats, metadata = read_tensors(path, "file", remedy, framework="np", decode=[_REQUEST, _OUTSIDE])
        request, outside = metadata[_REQUEST], metadata[_OUTSIDE]
        if metadata.get(_FORMAT) != FORMAT or not isinstance(request, dict) or not isinstance(outside, dict):
            raise LnbenchError(f"{path} is not a file of format {FORMAT}; choose another folder with --out")
        differing = [key for key in {**request, **self.request} if request.get(key) != self.request.get(key)]
        if differing:
            raise LnbenchError(
                f"{path.parent} holds the perplexity of another request ({', '.join(differing)} differ); choose "
                "another folder with --out, or delete this one"
            )
        self._nats, self._outside = nats, outside
