"""``python -m docs.generator.notebooks``: execute the notebooks with the packaged model, and keep what they print."""

from __future__ import annotations

import sys
from collections.abc import Mapping
from pathlib import Path

import nbformat
from nbclient import NotebookClient
from nbformat import NotebookNode

FOLDER = Path(__file__).resolve().parents[1] / "notebooks"
NOTEBOOKS = sorted(FOLDER.glob("*.ipynb"))
_SECONDS = 900
"""A cell that takes longer is stopped."""


def executed(path: Path, replaced: Mapping[str, str] | None = None) -> NotebookNode:
    """Return a notebook after all its cells were run, without progress bars and warnings.

    Args:
        path: The notebook.
        replaced: Text in cells of code → what is run in its place, as the name of a smaller model.
    """
    notebook = nbformat.read(path, as_version=4)
    before = [cell.source for cell in notebook.cells]
    for cell in notebook.cells:
        for text, instead in (replaced or {}).items():
            cell.source = cell.source.replace(text, instead) if cell.cell_type == "code" else cell.source
    client = NotebookClient(notebook, timeout=_SECONDS, record_timing=False, resources={"metadata": {"path": FOLDER}})
    client.execute()
    for cell, source in zip(notebook.cells, before, strict=True):
        cell.source = source
        if cell.cell_type == "code":
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    # The version of Python that ran it is no part of the notebook.
    notebook.metadata.language_info = {"name": "python"}
    return notebook


if __name__ == "__main__":
    for file in [Path(name) for name in sys.argv[1:]] or NOTEBOOKS:
        nbformat.write(executed(file), file)
        print(f"docs/notebooks/{file.name} executed")
