"""Which text and benchmarks are read where a command names none: one rule, for all commands, tasks and settings.

Text comes from a corpus that is named (``--corpus``, ``corpus=``), else from ``corpus/`` in the folder that
``LNBENCH_DATA`` names, where it has one, else it is the embedded text. The folder's ``xnli/``, ``xquad/`` and
``squad/`` take the place of the hub.
"""

from __future__ import annotations

import os
from pathlib import Path

from lnbench import demo
from lnbench.errors import LnbenchError

DATA_VARIABLE = "LNBENCH_DATA"
CORPUS_FOLDER = "corpus"
"""Inside the data folder."""
EMBEDDED = "embedded text"


def data_folder(lnbench_data: str | None = None) -> Path | None:
    """Return the folder with text and benchmarks: ``lnbench_data``, else ``$LNBENCH_DATA``; None: there is none.

    Raises:
        LnbenchError: it is not a folder.
    """
    name, value = ("lnbench_data", lnbench_data) if lnbench_data else (DATA_VARIABLE, os.environ.get(DATA_VARIABLE))
    if not value:
        return None
    folder = Path(value).expanduser()
    if not folder.is_dir():
        raise LnbenchError(
            f"{name} names {folder}, which is not a folder; name the one that holds {CORPUS_FOLDER}/, xnli/ or xquad/"
        )
    return folder


def default_corpus(lnbench_data: str | None = None) -> str:
    """Return the corpus pattern that is read where none is named.

    Raises:
        LnbenchError: ``LNBENCH_DATA`` is not a folder.
    """
    folder = data_folder(lnbench_data)
    if folder is None or not (folder / CORPUS_FOLDER).is_dir():
        return demo.CORPUS
    for suffix in (".jsonl.gz", ".jsonl"):
        if any((folder / CORPUS_FOLDER).glob(f"*{suffix}")):
            return str(folder / CORPUS_FOLDER / f"{{lang}}{suffix}")
    return str(folder / CORPUS_FOLDER)


def name_of_text(corpus: str | None) -> str:
    """Return what a corpus is called in results, without this machine's folders: a relative pattern is its own name."""
    if corpus in (None, demo.CORPUS):
        return EMBEDDED
    path = Path(corpus)
    if not path.is_absolute():
        return corpus
    inside = _within_data(path)
    return path.name if inside is None else f"{inside} in {DATA_VARIABLE}"


def _within_data(path: Path) -> Path | None:
    """Return a path as seen from the folder that ``LNBENCH_DATA`` names; None where it is outside, or none is named."""
    root = os.environ.get(DATA_VARIABLE)
    folder = Path(root).expanduser() if root else None
    return path.relative_to(folder) if folder and path.is_relative_to(folder) else None


def text_read(corpus: str, statistics: str | os.PathLike[str] | None = None) -> str:
    """Return the first line of a command that reads text: which, and why this one.

    Args:
        corpus: Corpus pattern.
        statistics: Folder of Statistics that are read in place of text.
    """
    if statistics is not None:
        return f"text: that of the Statistics in {statistics}"
    if corpus == demo.CORPUS:
        return f"text: lnbench's {EMBEDDED} (no corpus is named, nor one in {DATA_VARIABLE})"
    return f"text: {corpus}" + (f" (of {DATA_VARIABLE})" if _within_data(Path(corpus)) is not None else "")
