"""A leaderboard as JSON, CSV or Markdown, and one JSON per model as leaderboards of open models have it."""

from __future__ import annotations

import csv
import io
import re
from collections import defaultdict
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from lnbench.errors import unknown
from lnbench.files import as_json, fingerprint, write_json, write_text
from lnbench.formats import slug
from lnbench.leaderboard.rows import Row, document
from lnbench.sweeps.records import BASELINE
from lnbench.tables.leaderboard import leaderboard_tables
from lnbench.tables.render import markdown
from lnbench.tables.words import without_folders

_VARIANT = (
    *("model", "model_files", "revision", "dtype", "quantization", "adapter", "finetune", "selector", "control_of"),
    *("intervention", "seed", "limit", "setup", "override_setup"),
)
"""What makes a model of its own in the per-model files."""
_VERSIONS = ("lnbench_version", "lm_eval_version", "transformers_version", "torch_version", "datasets_version")
_FINGERPRINTS = ("weights", "neuron_set", "statistics")


def csv_text(rows: Sequence[Row]) -> str:
    """Return the rows as CSV, one column per field."""
    text = io.StringIO()
    names = [name for name, field in Row.model_fields.items() if not field.exclude]
    writer = csv.DictWriter(text, names, lineterminator="\n")
    writer.writeheader()
    writer.writerows(row.model_dump() for row in rows)
    return text.getvalue()


def markdown_text(rows: Sequence[Row]) -> str:
    """Return the readable tables, and how they were made."""
    tables = (markdown(table).rstrip() for table in leaderboard_tables(rows))
    return "\n\n".join(["# Leaderboard", *tables, _made_with(rows)]) + "\n"


TEXTS: dict[str, Callable[[Sequence[Row]], str]] = {
    "json": lambda rows: as_json(document(rows)),
    "csv": csv_text,
    "markdown": markdown_text,
}
"""Formats that hold a whole leaderboard, and are printed as they are written to files."""
_SUFFIXES = {".json": "json", ".csv": "csv", ".md": "markdown"}


def write(rows: Sequence[Row], path: Path) -> None:
    """Write a leaderboard in the format of the file's suffix.

    Raises:
        LnbenchError: unknown suffix, or the file cannot be written.
    """
    check(path)
    write_text(path, TEXTS[_SUFFIXES[path.suffix]](rows))


def check(path: Path) -> None:
    """Make sure that there is a format of this suffix.

    Raises:
        LnbenchError: there is none.
    """
    if path.suffix not in _SUFFIXES:
        raise unknown("format of a leaderboard", path.suffix or path.name, _SUFFIXES, "The suffix of the file decides")


def _made_with(rows: Sequence[Row]) -> str:
    """Return the versions, fingerprints and commands behind the tables."""
    versions = dict.fromkeys(
        ", ".join(f"{name.removesuffix('_version')} {getattr(row, name)}" for name in _VERSIONS if getattr(row, name))
        for row in rows
    )
    made: dict[str, str] = {}
    for row in rows:
        fingerprints = [f"{name} {getattr(row, name)}" for name in _FINGERPRINTS if getattr(row, name)]
        made[without_folders(row.command)] = ", ".join([f"seed {row.seed}", *fingerprints])
    commands = [f"# {comment}\n{command}" for command, comment in made.items()]
    # Longer than any run of backticks inside, so that no command ends the block.
    longest = max((len(run) for command in made for run in re.findall("`+", command)), default=0)
    fence = "`" * max(3, longest + 1)
    listed = "\n".join(f"- {names}" for names in versions)
    return "\n\n".join(["## How it was made", listed, "\n".join([f"{fence}sh", *commands, fence])])


def write_per_model(rows: Sequence[Row], folder: Path) -> list[Path]:
    """Write ``FOLDER/{model}/results_{variant}.json``, in the layout of open LLM leaderboards; return the files.

    A variant is a model with its adapter, neurons and intervention. ``results`` has lm-eval's names, task → ``metric,
    filter`` → value.

    Raises:
        LnbenchError: a file cannot be written.
    """
    files = []
    for variant in _variants([row for row in rows if not row.failed]):
        first = variant[0]
        own = {name: getattr(first, name) for name in _VARIANT}
        like = f"{first.drawn_by}-like-{first.control_of}"
        neurons = like if first.control_of else first.selector
        parts = ["" if first.finetune == BASELINE else first.finetune, neurons.strip("-"), first.intervention]
        # What a name leaves out, such as a limit, still keeps two files apart.
        parts.append(fingerprint([own, first.control_seed, sorted({row.pair for row in variant})])[:8])
        name = "-".join(_slug(part) for part in parts if part)
        path = folder / _slug(first.model) / f"results_{name}.json"
        write_json(path, _per_model(variant, own))
        files.append(path)
    return files


def _variants(rows: Sequence[Row]) -> Iterator[list[Row]]:
    groups: dict[tuple[Any, ...], list[Row]] = defaultdict(list)
    for row in rows:
        kind = row.control_kind if row.control_of else None
        groups[*(getattr(row, name) for name in _VARIANT), row.control_seed, kind].append(row)
    for group in groups.values():
        by_language: dict[str, list[Row]] = defaultdict(list)
        for row in group:
            by_language[row.pair].append(row)
        # One task under several languages' neurons has several results.
        clashes = len({(row.task, row.metric) for row in group}) < len(group)
        yield from by_language.values() if clashes else [group]


def _per_model(rows: Sequence[Row], own: dict[str, Any]) -> dict[str, Any]:
    first = rows[0]
    results: dict[str, dict[str, Any]] = defaultdict(dict)
    better: dict[str, dict[str, bool]] = defaultdict(dict)
    for row in rows:
        name, _, used = (row.metric or "").partition(",")
        results[row.task] |= {f"{name},{used or 'none'}": row.value, f"{name}_stderr,{used or 'none'}": row.stderr}
        if row.higher_is_better is not None:
            better[row.task][name] = row.higher_is_better
    return {
        "results": results,
        "config": {
            "model": "lnbench",
            "model_name": first.model,
            "model_sha": first.revision,
            "model_dtype": first.dtype,
            **own,
            "control_seed": first.control_seed,
            "control_kind": first.control_kind,
            "batch_size": first.batch_size,
            "languages": sorted({row.language for row in rows}),
            "commands": list(dict.fromkeys(without_folders(row.command) for row in rows)),
            **{name: getattr(first, name) for name in (*_FINGERPRINTS[:2], *_VERSIONS)},
        },
        "versions": {row.task: row.task_version for row in rows},
        "n-samples": {row.task: {"effective": row.n} for row in rows},
        "higher_is_better": better,
    }


def _slug(text: str) -> str:
    return slug(text, ".+=-").strip("_")[:100]
