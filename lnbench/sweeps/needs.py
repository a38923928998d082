"""What the cells of a sweep will need, model by model, for an estimate before anything is run."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import replace
from itertools import islice
from pathlib import Path
from typing import Any, NamedTuple

from rich.console import Console

from lnbench import estimates
from lnbench.errors import LnbenchError
from lnbench.estimates import SHORT, LoadedAs, Room, Work
from lnbench.statistics.corpus_statistics import Reading
from lnbench.sweeps.cells import Cell, Loading
from lnbench.sweeps.spec import OURS
from lnbench.sweeps.statistics_jobs import countings

NAMES = {
    **{remedy.name: remedy.name.replace("=", ": ").replace("True", "true") for remedy in estimates.REMEDIES},
    "gradient_checkpointing=True": "",
    "kl_tokens=0": "",
}
"""Remedy → how a sweep's file has it."""
_BYTES_PER_TOKEN = 4
_LOOKED_AT = 5
"""Documents whose prompts are measured."""
_GENERATED = 256
"""Tokens that lm-eval generates at most, where a task names no number."""
_SECONDS_PER_CELL = 0.5
"""What a cell takes beside its documents: lm-eval's tables, files, and overrides."""
_LENGTH = 512
"""Tokens of a long request."""
_MANY = 5_000
"""Documents of a large task."""


class Asked(NamedTuple):
    """What one task asks of a model."""

    documents: int
    read: float
    """Tokens per document that are read."""
    scored: float
    """Positions per document at which logits are computed."""


def of_cells(
    cells: Sequence[Cell], asked_of: Callable[[Cell], Asked | None]
) -> tuple[list[tuple[Loading, Work]], set[str]]:
    """Return each model with its work, and the tasks whose documents are not known.

    Args:
        cells: Of the sweep.
        asked_of: Returns what a cell's task asks for; None: that is not known.
    """
    by_loading: dict[str, list[Cell]] = {}
    for cell in cells:
        by_loading.setdefault(str(cell.loading), []).append(cell)
    asked: dict[tuple[str, Any], Asked | None] = {}
    works: list[tuple[Loading, Work]] = []
    for own in by_loading.values():
        loading = own[0].loading
        readings: dict[str, Reading] = {one.language: one.experiment.reading for one in countings(own, 1)}
        size = own[0].invocation.batch_size
        work = Work(
            f"{len(own):,} cells of {Path(loading.model).name}",
            read=sum(reading.tokens or 0 for reading in readings.values()),
            length=_LENGTH,
            rows=size if isinstance(size, int) else 1,
            counted=len(readings),
        )
        for cell in own:
            key = (cell.task, cell.invocation.limit)
            if key not in asked:
                asked[key] = asked_of(cell)
            if (of_task := asked[key]) is not None:
                work = replace(
                    work,
                    read=work.read + round(of_task.documents * of_task.read),
                    scored=work.scored + round(of_task.documents * of_task.scored),
                    samples=work.samples + of_task.documents,
                )
        works.append((loading, work))
    return works, {task for (task, _), of_task in asked.items() if of_task is None}


def at_most(cell: Cell) -> Asked:
    """Return more than a task asks for, without looking at it."""
    limit = cell.invocation.limit
    return Asked(int(limit) if limit and limit >= 1 else _MANY, _LENGTH, _LENGTH)


def looked_at(cell: Cell) -> Asked | None:
    """Return what a task asks for; None where its data would have to be downloaded."""
    from lnbench.lm.evaluate import Tasks

    if not cell.task.startswith(OURS) and not cell.invocation.include_path:
        return None
    arguments = {"pretrained": cell.loading.model, **cell.loading.options, **cell.invocation.metadata}
    pair = {name: cell.arguments[name] for name in ("language", "source") if name in cell.arguments}
    log = logging.getLogger("lm_eval")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        tasks = Tasks(cell.invocation.include_path, metadata={**arguments, **pair}).load([cell.task])["tasks"]
        parts = [_of_task(task, cell.invocation.limit) for task in tasks.values()]
    except Exception:  # What is wrong with a task, its cells say in full.
        return None
    finally:
        log.setLevel(level)
    documents = sum(part.documents for part in parts)
    if not documents:
        return None
    read, scored = (sum(part.documents * part[place] for part in parts) / documents for place in (1, 2))
    return Asked(documents, read, scored)


def _of_task(task: Any, limit: float | None) -> Asked:
    documents = task.eval_docs
    count = len(documents)
    if limit is not None:
        count = min(count, int(limit) if limit >= 1 else round(limit * count))
    read, scored = zip(*(_of_document(task, document) for document in islice(documents, _LOOKED_AT)), strict=True)
    return Asked(count, sum(read) / len(read), sum(scored) / len(scored))


def _of_document(task: Any, document: Any) -> tuple[float, float]:
    """Return the tokens that one document has a model read, and the positions at which it computes logits."""
    prompt = _tokens(task.doc_to_text(document))
    if task.OUTPUT_TYPE == "multiple_choice":
        choices = [_tokens(choice) for choice in task.doc_to_choice(document)]
        return prompt * len(choices) + sum(choices), sum(choices)
    if task.OUTPUT_TYPE == "generate_until":
        written = int((task.config.generation_kwargs or {}).get("max_gen_toks", _GENERATED))
        return prompt + written, written
    answer = _tokens(task.doc_to_target(document))
    return prompt + answer, answer


def _tokens(text: Any) -> float:
    return len(str(text).encode()) / _BYTES_PER_TOKEN


class Needed(NamedTuple):
    """What the cells of one model need on this machine."""

    line: str
    seconds: float
    """0 where that takes less than a minute on the slowest machine, or is not known."""
    refusal: LnbenchError | None = None


def check(cells: Sequence[Cell], out: Path, console: Console, room: Room | None = None) -> None:
    """Refuse cells that cannot fit this machine, and print what they need if they take longer than a minute.

    Raises:
        LnbenchError: see :func:`lnbench.estimates.check`.
    """
    # Tasks are not loaded only to find out that there is nothing to say.
    needed, unknown = _needed(cells, out, room, at_most)
    if sum(each.seconds for each in needed) > SHORT:
        needed, unknown = _needed(cells, out, room, looked_at)
    for each in needed:
        if each.refusal is not None:
            raise each.refusal
    if sum(each.seconds for each in needed) > SHORT:
        for line in (*(each.line for each in needed), *_without(unknown)):
            console.print(line, highlight=False, markup=False)


def lines(cells: Sequence[Cell], out: Path, room: Room | None = None) -> Iterator[str]:
    """Yield lines on what cells will need on this machine: how many they are, memory, disk and hours.

    Nothing is loaded: hours are from products of matrices of each model's shape.
    """
    yield f"{len(cells):,} cells"
    needed, unknown = _needed(cells, out, room, looked_at)
    yield from (each.line if each.refusal is None else f"does not fit: {each.refusal}" for each in needed)
    yield from _without(unknown)


def _needed(
    cells: Sequence[Cell], out: Path, room: Room | None, asked_of: Callable[[Cell], Asked | None]
) -> tuple[list[Needed], set[str]]:
    works, unknown = of_cells(cells, asked_of)
    numbers = Counter(str(cell.loading) for cell in cells)
    needed = []
    for loading, work in works:
        device = cells[0].invocation.device
        loaded = LoadedAs.of(loading.arguments, device)
        here = room or Room.here(loaded.device)
        try:
            size = estimates.check(loading.model, loading.arguments, work, out, device=device, names=NAMES, room=here)
        except LnbenchError as error:
            needed.append(Needed("", 0.0, error))
            continue
        if size is None:
            line = f"{work.doing}: what it needs is known once {loading.model} is on this machine"
            needed.append(Needed(line, 0.0))
            continue
        seconds = numbers[str(loading)] * _SECONDS_PER_CELL
        if asked_of is looked_at or estimates.may_be_long(size, work, here.device):
            seconds += estimates.probe_shape(size, loaded).seconds(work)
        needed.append(Needed(estimates.sentence(size, loaded, work, seconds, here), seconds))
    return needed, unknown


def _without(unknown: set[str]) -> Iterator[str]:
    if unknown:
        named = ", ".join(sorted(unknown)[:3]) + (" …" if len(unknown) > 3 else "")
        yield f"without the documents of {named}: how many they are is known once the task is downloaded"
