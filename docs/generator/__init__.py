"""The parts of the reference that are tables of settings: written from the pydantic models and the command line.

``python -m docs.generator``, in the checkout's root, updates ``docs/reference/``; a test fails while it is out of date.
The Python API and the plugin contract are not among them: mkdocstrings reads their docstrings when the site is built.
"""

from __future__ import annotations

import json

from docs.generator import choices, commands, formats, settings, tasks
from docs.generator.markdown import page
from lnbench.sweeps.spec import schema

__all__ = ["pages"]


def pages() -> dict[str, str]:
    """Return every generated file: path inside ``docs/`` → text."""
    return {
        "reference/cli.md": page("Command line", commands.body()),
        "reference/model-arguments.md": page("Model arguments", settings.model_arguments()),
        "reference/sweep-file.md": page("Sweep file", settings.sweep_file()),
        "reference/training-settings.md": page("Training settings", settings.training_settings()),
        "reference/choices.md": page("Selectors, interventions, fine-tuners", choices.body()),
        "reference/task-languages.md": page("Task languages", tasks.body()),
        "reference/formats.md": page("Fields of the file formats", formats.body()),
        "sweep.schema.json": json.dumps(schema(), indent=2, ensure_ascii=False) + "\n",
    }
