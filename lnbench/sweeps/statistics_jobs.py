"""Statistics that a sweep's cells will ask for, as pieces of work for several workers."""

from __future__ import annotations

import math
import shutil
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from lnbench.choices import needs_of
from lnbench.hookspecs import Needs
from lnbench.host import changes_nothing
from lnbench.statistics.corpus_statistics import WHOLE, Shard
from lnbench.statistics.statistics_folder import collect_folder, merge_folders
from lnbench.sweeps.cells import Cell, Loading

if TYPE_CHECKING:
    from lnbench.lm import LNBenchLM
    from lnbench.lm.experiment import Experiment


@dataclass(frozen=True)
class Counting:
    """One language's Statistics that a cell asks for, or a shard of them."""

    cell: Cell
    language: str
    shard: Shard = WHOLE

    @property
    def loading(self) -> Loading:
        """What is loaded for it."""
        return self.cell.loading

    @property
    def experiment(self) -> Experiment:
        """The experiment that asks for them."""
        from lnbench.lm.experiment import Experiment

        return Experiment(**{name: value for name, value in self.cell.arguments.items() if name != "head"})


def countings(cells: Sequence[Cell], workers: int) -> list[Counting]:
    """Return what the cells need of the cache, in so many shards that every worker has something to do."""
    wanted: dict[tuple[Any, ...], tuple[Cell, str, Needs]] = {}
    for cell in cells:
        if changes_nothing(cell.intervention) or "statistics" in cell.arguments:
            continue
        selector = cell.arguments.get("selector")
        needs = needs_of(selector) if selector else Needs()
        own = "+".join(filter(None, (cell.source, cell.arguments["language"])))
        for language in cell.arguments.get("languages", own).split("+"):
            key = (cell.loading.model, str(cell.loading.options), cell.loading.finetune, needs, language)
            wanted.setdefault(key, (cell, language, needs))
    shards = math.ceil(workers / max(1, len(wanted)))
    # The mean of batches' quantiles is one of whole batches in order, so it cannot be taken of shards.
    return [
        Counting(cell, language, (number, count))
        for cell, language, needs in wanted.values()
        for count in [1 if needs.batch_levels else shards]
        for number in range(count)
    ]


def check_texts(cells: Sequence[Cell]) -> None:
    """Look at the beginning of every text that the cells' Statistics are of, before a model is loaded.

    Raises:
        LnbenchError: one cannot be read as asked.
    """
    from lnbench.corpora import corpus

    texts = {}
    for counting in countings(cells, 1):
        experiment = counting.experiment
        texts[experiment.corpus, counting.language, str(experiment.reading_options)] = experiment.reading_options
    for (pattern, language, _), options in texts.items():
        corpus.check_texts(pattern, [language], **options)


def count(lm: LNBenchLM, counting: Counting) -> None:
    """Collect Statistics or a shard of them, unless the cache has the whole already."""
    artifacts, experiment, language = lm.artifacts, counting.experiment, counting.language
    folder, reading = artifacts.cached(experiment, language)
    if counting.shard == WHOLE:
        artifacts.statistics(experiment, language)
    elif not (folder / f"{language}.safetensors").exists():
        collect_folder(lm.model, lm.tokenizer, folder, {language: reading}, shard=counting.shard, progress=False)


def merge_shards(lm: LNBenchLM, counting: Counting) -> None:
    """Merge the shards of which ``counting`` is one, unless that is done."""
    language = counting.language
    folder, _ = lm.artifacts.cached(counting.experiment, language)
    if not (folder / f"{language}.safetensors").exists():
        # Shards that a run with another number of workers left are no part of these.
        for shard in (folder / "shards").iterdir():
            if not shard.name.endswith(f"-of-{counting.shard[1]}"):
                shutil.rmtree(shard)
        merge_folders([folder], folder, languages=[language], activations=lm.sites.activations)
    shutil.rmtree(folder / "shards", ignore_errors=True)
