"""Statistics that a sweep's cells will ask for, as pieces of work for several workers."""

from __future__ import annotations

import math
import shutil
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any

from lnbench.choices import needs_of
from lnbench.hookspecs import Needs
from lnbench.host import changes_nothing
from lnbench.statistics.corpus_statistics import WHOLE, Shard
from lnbench.statistics.statistics_folder import collect_folder, merge_folders
from lnbench.sweeps.cells import Cell, Invocation, Loading

if TYPE_CHECKING:
    from lnbench.lm import LNBenchLM
    from lnbench.lm.experiment import Experiment


@dataclass(frozen=True)
class Counting:
    """One language's Statistics under one model, or a shard of them."""

    loading: Loading
    invocation: Invocation
    arguments: Mapping[str, Any]
    """Model arguments of a cell that asks for them."""
    language: str
    shard: Shard = WHOLE

    @property
    def experiment(self) -> Experiment:
        """The experiment that asks for them."""
        from lnbench.lm.experiment import Experiment

        return Experiment(**{name: value for name, value in self.arguments.items() if name != "head"})


def countings(cells: Sequence[Cell], workers: int) -> list[Counting]:
    """Return what the cells need of the cache, in so many shards that every worker has something to do."""
    found: dict[tuple[Any, ...], Counting] = {}
    for cell in cells:
        if changes_nothing(cell.intervention) or "statistics" in cell.arguments:
            continue
        selector = cell.arguments.get("selector")
        needs = needs_of(selector) if selector else Needs()
        for language in cell.arguments.get("languages", cell.arguments["language"]).split("+"):
            read = (cell.loading.model, str(cell.loading.options), cell.loading.finetune, needs, language)
            found.setdefault(read, Counting(cell.loading, cell.invocation, cell.arguments, language))
    shards = math.ceil(workers / max(1, len(found)))
    # The mean of batches' quantiles is one of whole batches in order.
    return [
        replace(one, shard=(number, count))
        for (*_, needs, _), one in found.items()
        for count in [1 if needs.batch_levels else shards]
        for number in range(count)
    ]


def count(lm: LNBenchLM, wanted: Counting) -> None:
    """Count one piece of work, unless the cache has the whole already.

    Raises:
        LnbenchError: the text is missing, or the cache cannot be written.
    """
    artifacts, experiment = lm.artifacts, wanted.experiment
    folder, reading = artifacts.cached(experiment, wanted.language)
    if wanted.shard == WHOLE:
        artifacts.statistics(experiment, wanted.language)
    elif not (folder / f"{wanted.language}.safetensors").exists():
        readings = {wanted.language: reading}
        collect_folder(lm.model, lm.tokenizer, folder, readings, shard=wanted.shard, progress=False)


def merge_shards(lm: LNBenchLM, wanted: Counting) -> None:
    """Merge the shards of which ``wanted`` is one, unless that is done.

    Raises:
        LnbenchError: a shard is missing, or the cache cannot be written.
    """
    folder, _ = lm.artifacts.cached(wanted.experiment, wanted.language)
    if not (folder / f"{wanted.language}.safetensors").exists():
        # What a run with another number of workers left would be taken for a part of these.
        for shard in (folder / "shards").iterdir():
            if not shard.name.endswith(f"-of-{wanted.shard[1]}"):
                shutil.rmtree(shard)
        merge_folders([folder], folder, languages=[wanted.language], activations=lm.sites.activations)
    shutil.rmtree(folder / "shards", ignore_errors=True)
