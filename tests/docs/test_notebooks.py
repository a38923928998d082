"""The notebooks of the documentation: they run, and hold what the real model printed."""

from __future__ import annotations

import base64
import re
from pathlib import Path
from typing import Any

import nbformat
import pytest

from docs.generator.notebooks import NOTEBOOKS, executed
from tests.support.tiny import SELECTOR

_ERRORS = ("error", "stderr")


def outputs(notebook: Any) -> list[Any]:
    return [output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs]


@pytest.mark.processes
@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_runs(path: Path, tiny_model: str) -> None:
    instead = {'"gemma-3-270m"': repr(tiny_model), "4_000": "300", '"lape"': f'"{SELECTOR}"'}
    notebook = executed(path, instead | {"random:like=lape": f"random:like=[{SELECTOR}]"})
    assert not [output for output in outputs(notebook) if output.output_type == "error"]
    kinds = [kind for output in outputs(notebook) for kind in output.get("data", {})]
    assert kinds.count("text/html") >= 2
    assert [cell.source for cell in notebook.cells] == [cell.source for cell in nbformat.read(path, 4).cells]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_a_notebook_holds_what_it_printed(path: Path) -> None:
    text = path.read_text(encoding="utf-8")
    notebook = nbformat.reads(text, 4)
    code = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert all(cell.execution_count == number for number, cell in enumerate(code, start=1))
    assert not [output for output in outputs(notebook) if {output.output_type, output.get("name")} & {*_ERRORS}]
    shown = str([output.get("data", {}).get("text/plain", "") for output in outputs(notebook)])
    assert "gemma-3-270m" in shown
    assert path.stat().st_size < 300_000
    printed = "".join(str(output) for output in outputs(notebook))
    assert not re.search(r"/(home|root|work|tmp|usr|Users)/", printed)
    images = [output.data["image/png"] for output in outputs(notebook) if "image/png" in output.get("data", {})]
    assert all(base64.b64decode(image).startswith(b"\x89PNG") for image in images)


def test_there_are_notebooks() -> None:
    assert [path.stem for path in NOTEBOOKS] == ["first-finding", "write-a-selector"]
