"""The main job on the embedded text, as a sweep: statistics, selection, overrides and their effect, through lm-eval."""

from __future__ import annotations

import time
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from rich.console import Console

from lnbench import demo, leaderboard, report
from lnbench.console import console as wide
from lnbench.corpora.patterns import languages_of
from lnbench.data_folder import default_corpus
from lnbench.errors import LnbenchError
from lnbench.host import get_host
from lnbench.lm.evaluate import Tasks
from lnbench.lm.experiment import Experiment
from lnbench.locks import exclusive_lock
from lnbench.neurons import NeuronSet
from lnbench.sweeps import run_sweep as sweeps
from lnbench.sweeps.jobs import Process
from lnbench.sweeps.model_variants import Training, loadings
from lnbench.sweeps.spec import Invocation, Sweep, parse
from lnbench.tables.leaderboard import leaderboard_tables
from lnbench.tables.neurons import counts_table
from lnbench.tables.render import terminal

SELECTORS = ("lape", "act_prob:fraction=0.004")
"""Both find about as many neurons per language in the default model."""
INTERVENTIONS = ("none", "mean", "p90", "zero", "p10")
TASK = "lnbench_demo_continuation_{lang}"


def run(
    model: str,
    out: Path,
    *,
    corpus: str | None = None,
    languages: Sequence[str] | None = None,
    task: str = TASK,
    limit: int | None = 12,
    corpus_tokens: int = 10_000,
    model_args: Mapping[str, Any] | None = None,
    console: Console | None = None,
) -> list[leaderboard.Row]:
    """Find every language's neurons, override them, measure, and write the results to ``out``.

    Args:
        model: A packaged model's name, or anything that lm-eval's ``hf`` takes as ``pretrained``.
        out: Folder for Statistics, NeuronSets, the sweep's records and cells, ``leaderboard.json`` and ``report/``.
        corpus: Corpus pattern; by default the one in ``LNBENCH_DATA``, else the embedded text.
        languages: Languages to compare; by default, those that the corpus and the task both have.
        task: Task name with ``{lang}``.
        limit: Documents per cell.
        corpus_tokens: Tokens of text per language.
        model_args: Further arguments of lm-eval's ``hf``.
        console: Where to report progress.

    Returns:
        The rows of the leaderboard.

    Raises:
        LnbenchError: anything the steps raise; finished cells stay, and the same call continues.
    """
    console = console or wide(stderr=True)
    started = time.monotonic()
    corpus = corpus or default_corpus()
    chosen = _languages(languages, corpus, task, console)
    hf = dict(model_args or {})
    of_sweep = {"batch_size": 8} | {name: hf.pop(name) for name in ("batch_size", "device") if name in hf}
    content = {
        "models": [{"pretrained": model, **hf}],
        "selectors": list(SELECTORS),
        "interventions": list(INTERVENTIONS),
        "languages": chosen,
        "compare": chosen,
        "tasks": [task],
        "corpus": corpus,
        "corpus_tokens": corpus_tokens,
        "limit": limit,
        # To be seen beside the others, in a minute: a test against random neurons would take more draws.
        "controls": 1,
    }
    spec = parse(content | of_sweep)
    executor = get_host().resolve("executor", "local")
    with exclusive_lock(out):
        _prepare(spec, out, executor.process, console)
    console.print("[bold]4/4[/] Measuring through lm-eval")
    sweeps.run(spec, out, executor, console)
    rows = leaderboard.build(leaderboard.read_runs([out]))
    leaderboard.save(rows, out / "leaderboard.json")
    for table in leaderboard_tables(rows):
        console.print(terminal(table))
    console.print(f"In {out}: leaderboard.json, records.jsonl, cells/, neurons/, statistics/, report/")
    page = report.build([out], out / "report")
    console.print(f"Done in {time.monotonic() - started:.0f} s. The report, to open in a browser:")
    console.print(str(page.resolve()), style="bold", soft_wrap=True, markup=False, highlight=False)
    return rows


def _prepare(spec: Sweep, out: Path, process: Process, console: Console) -> None:
    """Load the model, and show and save what the cells will find in the cache: Statistics and NeuronSets."""
    (loading,) = loadings(spec, out)
    assert not isinstance(loading, Training)
    console.print(f"[bold]1/4[/] Loading {loading.model}")
    lm = process.worker(out).load(loading, Invocation.of(spec))
    names = ", ".join(spec.languages)
    console.print(f"[bold]2/4[/] Reading {spec.corpus_tokens:,} tokens of text in each of {names}")
    experiment = Experiment(corpus=spec.corpus, corpus_tokens=spec.corpus_tokens, languages=tuple(spec.compare))
    for language in spec.languages:
        lm.artifacts.statistics(experiment, language).save(out / "statistics")
    console.print("[bold]3/4[/] Selecting language-specific neurons")
    selected: dict[str, NeuronSet] = {}
    for selector in spec.selectors:
        name = selector.partition(":")[0]
        selected[name] = lm.artifacts.neurons(experiment.model_copy(update={"selector": selector}))
        selected[name].save(out / "neurons" / f"{name}.json")
    console.print(terminal(counts_table(selected, spec.languages)))


def _languages(chosen: Sequence[str] | None, corpus: str, task: str, console: Console) -> list[str]:
    """Return the languages that were chosen, which must have the task; or those of the corpus that have it."""
    candidates = chosen or (demo.LANGUAGES if corpus == demo.CORPUS else languages_of(corpus))
    tasks = Tasks()
    names = {language: task.replace("{lang}", language) for language in candidates}
    languages = [language for language, name in names.items() if tasks.has(name)]
    left_out = [language for language in candidates if language not in languages]
    before, _, after = task.partition("{lang}")
    existing = [name for name in tasks.all_subtasks if name.startswith(before) and name.endswith(after)]
    with_task = ", ".join(name[len(before) : len(name) - len(after)] for name in existing) or "none"
    if chosen and left_out:
        raise LnbenchError(
            f"there is no task {', '.join(names[language] for language in left_out)}; pass --languages that have one "
            f"({with_task}), or another --task"
        )
    if len(languages) < 2:
        raise LnbenchError(
            f"the corpus has {', '.join(candidates)}, and the task {task} has {with_task}: two languages in common are "
            "needed; pass other --languages, or another --task"
        )
    if left_out:
        console.print(f"Left out, as there is no task {task} for them: {', '.join(left_out)}")
    return languages
