"""Writes the reference from the code: every command, argument, hook, file format and name of the Python API.

``python -m docs.generator``, in the checkout's root, brings ``docs/reference/`` up to date; a test fails while it is
not.
"""

from __future__ import annotations

from docs.generator import choices, commands, formats, hooks, python_api, settings
from docs.generator.markdown import page

__all__ = ["pages"]


def pages() -> dict[str, str]:
    """Every generated file: path inside ``docs/`` → text."""
    from docs.generator.schema import sweep_schema

    return {
        "reference/cli.md": page("Command line", commands.body()),
        "reference/model-arguments.md": page("Model arguments", settings.model_arguments()),
        "reference/sweep-file.md": page("Sweep file", settings.sweep_file()),
        "reference/training-settings.md": page("Training settings", settings.training_settings()),
        "reference/choices.md": page("Selectors, interventions, fine-tuners", choices.body()),
        "reference/architectures.md": page("Model types", choices.architectures()),
        "reference/hooks.md": page("Plugin hooks", hooks.body()),
        "reference/formats.md": page("Fields of the file formats", formats.body()),
        "reference/python.md": page("Python API", python_api.body()),
        "sweep.schema.json": sweep_schema(),
    }
