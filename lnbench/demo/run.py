"""The main job on the embedded text: statistics, selection, overrides and their effect, measured through lm-eval."""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import lm_eval
import torch
import transformers
from lm_eval.tasks import TaskManager
from rich.console import Console
from tqdm import tqdm

import lnbench
from lnbench import demo, leaderboard
from lnbench.corpora import languages_of
from lnbench.errors import LnbenchError
from lnbench.lm import LNBenchLM
from lnbench.lm.experiment import Experiment
from lnbench.lm.results import command, evaluate
from lnbench.neurons import NeuronSet
from lnbench.paths import tasks_dir
from lnbench.selection import select
from lnbench.statistics import Statistics
from lnbench.tables import counts_table, results_table

SELECTORS = ("lape", "act_prob:fraction=0.004")
"""Both find about as many neurons a language in the default model."""
INTERVENTIONS = ("none", "mean", "p90", "zero", "p10")
TASK = "lnbench_demo_continuation_{lang}"


@dataclass(frozen=True)
class DemoCell:
    """One cell: what is overridden, and under which names it is shown."""

    selector: str
    intervention: str
    language: str
    arguments: Mapping[str, Any]

    @property
    def slug(self) -> str:
        """A folder name."""
        return f"{self.language}-{self.selector}-{self.intervention}".replace(":", "_").replace("=", "_")


def run(
    model: str,
    out: Path,
    *,
    corpus: str = demo.CORPUS,
    languages: Sequence[str] | None = None,
    task: str = TASK,
    limit: int | None = 10,
    corpus_tokens: int = 10_000,
    model_args: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> list[leaderboard.Row]:
    """Find every language's neurons, override them, measure, and write what came of it to ``out``.

    Args:
        model: A packaged model's name, or anything that lm-eval's ``hf`` takes as ``pretrained``.
        out: Folder for Statistics, NeuronSets, lm-eval's results by cell and ``leaderboard.json``.
        corpus: Corpus pattern.
        languages: Languages to compare; by default, those that the corpus and the task both have.
        task: Task name with ``{lang}``.
        limit: Documents a cell.
        corpus_tokens: Tokens of text a language.
        model_args: Further arguments of lm-eval's ``hf``.
        console: Where to talk.

    Returns:
        The rows of the leaderboard.

    Raises:
        LnbenchError: anything the steps raise; finished cells stay where they are.
    """
    console = console or Console(stderr=True)
    started = time.monotonic()
    # Indexing the thousands of tasks that lm-eval brings takes longer than a cell.
    manager = TaskManager(include_path=str(tasks_dir()), include_defaults=not task.startswith("lnbench_"))
    languages = _languages(languages, corpus, task, manager, console)

    console.print(f"[bold]1/4[/] Loading {model}")
    hf = dict(model_args or {})
    lm = LNBenchLM(model, batch_size=hf.pop("batch_size", 8), **hf)

    console.print(f"[bold]2/4[/] Reading {corpus_tokens:,} tokens of text in each of {', '.join(languages)}")
    experiment = Experiment(corpus=corpus, corpus_tokens=corpus_tokens, languages=tuple(languages))
    statistics = {language: lm.artifacts.statistics(experiment, language) for language in languages}
    for one in statistics.values():
        one.save(out / "statistics")

    console.print("[bold]3/4[/] Selecting language-specific neurons")
    neurons = dict(_select(statistics, out))
    console.print(counts_table(neurons, languages))

    cells = list(_cells({"pretrained": model, **hf}, neurons, languages, out))
    console.print(f"[bold]4/4[/] Measuring {len(cells)} cells through lm-eval, {limit or 'all'} documents each")
    baselines: dict[str, leaderboard.Cell] = {}
    rows: list[leaderboard.Row] = []
    with tqdm(cells, unit="cell", desc="cells") as bar:
        for cell in bar:
            bar.set_postfix_str(f"{cell.language} {cell.selector} {cell.intervention}")
            tasks = [task.replace("{lang}", cell.language)]
            experiment_arguments = {
                key: value for key, value in cell.arguments.items() if key not in hf and key != "pretrained"
            }
            results = evaluate(
                lm,
                tasks,
                experiment_arguments,
                task_manager=manager,
                limit=limit,
                output_path=out / "cells" / cell.slug,
            )
            measured = _measured(cell, results, command(tasks, cell.arguments, limit=limit, batch_size=lm.batch_size))
            if cell.intervention == "none":
                baselines[cell.language] = measured
            rows += leaderboard.rows_of(measured, baselines[cell.language])
            leaderboard.save(rows, out / "leaderboard.json")
    console.print(results_table(rows, languages))
    took = time.monotonic() - started
    console.print(f"Done in {took:.0f} s. In [bold]{out}[/]: leaderboard.json, cells/, neurons/, statistics/")
    return rows


def _languages(
    given: Sequence[str] | None, corpus: str, task: str, manager: TaskManager, console: Console
) -> list[str]:
    """The languages asked for, which must have the task; or those of the corpus that have it."""
    wanted = given or (demo.LANGUAGES if corpus == demo.CORPUS else languages_of(corpus))
    found = [language for language in wanted if task.replace("{lang}", language) in manager.all_tasks]
    left_out = [language for language in wanted if language not in found]
    if given and left_out:
        raise LnbenchError(
            f"there is no task {', '.join(task.replace('{lang}', language) for language in left_out)}; pass "
            f"--languages that have one ({_having(task, manager)}), or another --task"
        )
    if len(found) < 2:
        raise LnbenchError(
            f"the corpus has {', '.join(wanted)}, and the task {task} has {_having(task, manager)}: two languages in "
            "common are needed; pass other --languages, or another --task"
        )
    if left_out:
        console.print(f"Left out, as there is no task {task} for them: {', '.join(left_out)}")
    return found


def _having(task: str, manager: TaskManager) -> str:
    """The languages that a task exists in, in words."""
    before, _, after = task.partition("{lang}")
    names = [one for one in manager.all_subtasks if one.startswith(before) and one.endswith(after)]
    return ", ".join(one[len(before) : len(one) - len(after)] for one in names) or "none"


def _select(statistics: Mapping[str, Statistics], out: Path) -> Iterator[tuple[str, NeuronSet]]:
    """Each selector's NeuronSet and its random control, saved under ``out/neurons``."""
    for selector in SELECTORS:
        name = selector.partition(":")[0]
        path = out / "neurons" / f"{name}.json"
        found = select(selector, statistics)
        found.save(path)
        yield name, found
        control = select({"name": "random", "parameters": {"like": str(path)}}, statistics)
        control.save(out / "neurons" / f"random-like-{name}.json")
        yield f"random-like-{name}", control


def _cells(
    given: Mapping[str, Any], neurons: Mapping[str, NeuronSet], languages: Sequence[str], out: Path
) -> Iterator[DemoCell]:
    """{no intervention} ∪ {selector × interventions, and its control zeroed}, for each language."""
    for language in languages:
        yield DemoCell("-", "none", language, {**given, "intervention": "none"})
        for name, found in neurons.items():
            if found.count(language) == 0:
                continue
            chosen = ("zero",) if name.startswith("random") else INTERVENTIONS[1:]
            for intervention in chosen:
                arguments = {
                    **given,
                    "intervention": intervention,
                    "neurons": str(out / "neurons" / f"{name}.json"),
                    "statistics": str(out / "statistics"),
                }
                yield DemoCell(name, intervention, language, arguments)


def _measured(cell: DemoCell, results: Mapping[str, Any], shell: str) -> leaderboard.Cell:
    values, documents = leaderboard.cell_values(results)
    return leaderboard.Cell(
        model=str(cell.arguments["pretrained"]),
        selector=cell.selector,
        intervention=cell.intervention,
        language=cell.language,
        command=shell,
        versions={
            "lnbench_version": lnbench.__version__,
            "lm_eval_version": lm_eval.__version__,
            "transformers_version": transformers.__version__,
            "torch_version": str(torch.__version__),
        },
        tasks=values,
        documents=documents,
    )
