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
from lnbench.live_findings import LiveFindings, is_telling
from lnbench.lm.evaluate import Tasks
from lnbench.lm.experiment import Experiment
from lnbench.locks import exclusive_lock
from lnbench.neurons import NeuronSet
from lnbench.sweeps import run_sweep as sweeps
from lnbench.sweeps.cells import Cell
from lnbench.sweeps.jobs import Process
from lnbench.sweeps.model_variants import Training, loadings
from lnbench.sweeps.spec import Invocation, Sweep, parse
from lnbench.tables.enough_text import text_worth
from lnbench.tables.headline import headline
from lnbench.tables.leaderboard import leaderboard_tables
from lnbench.tables.neurons import counts_table
from lnbench.tables.render import terminal

SELECTORS = ("lape", "act_prob:fraction=0.004")
"""Both find about as many neurons per language in the default model."""
INTERVENTIONS = ("none", "mean", "p90", "zero", "p10")
TELLING = ("none", "zero")
"""The interventions that the first findings are about."""
TASK = "lnbench_demo_continuation_{lang}"
GENERATION = "lnbench_demo_generation_{lang}"
QUICK_LANGUAGES = ("en", "hi", "zh")
"""Those of a quick run, where there are two of them; else the first three."""


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
    quick: bool = False,
    console: Console | None = None,
) -> list[leaderboard.Row]:
    """Find every language's neurons, override them, measure, and write the results to ``out``.

    What tells most is measured first: in each language, those with most neurons first, its neurons and random ones set
    to zero, then the answers that the model writes under both, then everything else.

    Args:
        model: A packaged model's name, or anything that lm-eval's ``hf`` takes as ``pretrained``.
        out: Folder for Statistics, NeuronSets, the sweep's records and cells, ``leaderboard.json`` and ``report/``.
        corpus: Corpus pattern; by default the one in ``LNBENCH_DATA``, else the embedded text.
        languages: Languages to compare; by default, those that the corpus and the task both have.
        task: Task name with ``{lang}``.
        limit: Documents per cell.
        corpus_tokens: Tokens of text per language.
        model_args: Further arguments of lm-eval's ``hf``.
        quick: Measure the first selector alone, set to zero alone, and three languages if none are chosen.
        console: Where to report; by default progress is on stderr and results on stdout.

    Returns:
        The rows of the leaderboard.

    Raises:
        LnbenchError: anything the steps raise; finished cells stay, and the same call continues.
    """
    console, results = console or wide(stderr=True), console or wide()
    started = time.monotonic()
    corpus = corpus or default_corpus()
    chosen = _languages(languages, corpus, task, console)
    if quick and not languages:
        few = [language for language in chosen if language in QUICK_LANGUAGES]
        chosen = few if len(few) > 1 else chosen[: len(QUICK_LANGUAGES)]
    selectors = SELECTORS[:1] if quick else SELECTORS
    hf = dict(model_args or {})
    of_sweep = {"batch_size": 8} | {name: hf.pop(name) for name in ("batch_size", "device") if name in hf}
    content = {
        "models": [{"pretrained": model, **hf}],
        "selectors": list(selectors),
        "interventions": list(TELLING if quick else INTERVENTIONS),
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
    if quick:
        console.print(
            f"Quick: {', '.join(chosen)}, {corpus_tokens:,} tokens of each, {limit or 'all'} documents, {selectors[0]} "
            "and zero alone: these are not the numbers of the whole demo"
        )
    executor = get_host().resolve("executor", "local")
    with exclusive_lock(out):
        neurons = _prepare(spec, out, executor.process, console)
    console.print("[bold]4/4[/] Measuring through lm-eval")
    selector = get_host().format("selector", selectors[0])
    by_neurons = sorted(chosen, key=lambda language: -neurons.count(language))
    generation = _generation(spec, selectors[:1], console)
    generated = {GENERATION.replace("{lang}", language) for language in chosen}

    def place(cell: Cell) -> tuple[Any, ...]:
        telling = is_telling(cell, selector, TELLING[1])
        language = min(map(by_neurons.index, cell.languages))
        control, changed = cell.control_of is not None, cell.intervention == TELLING[1]
        return not telling, language, cell.task in generated, control, changed

    with LiveFindings(selector, TELLING[1], neurons, chosen, GENERATION, console) as view:
        sweeps.run(spec, out, executor, view.console, further=generation, order=place, watch=view)
    rows = leaderboard.build(leaderboard.read_runs([out]))
    leaderboard.save(rows, out / "leaderboard.json")
    for table in leaderboard_tables(rows):
        results.print(terminal(table))
    results.print(f"In {out}: leaderboard.json, records.jsonl, cells/, neurons/, statistics/, report/")
    page = report.build([out], out / "report")
    first = f", the first finding after {view.first_at - started:.0f} s" if view.first_at is not None else ""
    results.print(f"Done in {time.monotonic() - started:.0f} s{first}.")
    for line in (
        headline(rows).finding,
        f"Open in a browser: {page.resolve()}",
        "Next, with a model of your own: lnbench demo --model NAME_OR_FOLDER --out runs/mine",
    ):
        results.print(line, style="bold", soft_wrap=True, markup=False, highlight=False)
    return rows


def _generation(spec: Sweep, selectors: Sequence[str], console: Console) -> list[Sweep]:
    """Return the sweep of what the model writes, in the languages that have beginnings of sentences, if any has."""
    tasks = Tasks()
    languages = [language for language in spec.languages if tasks.has(GENERATION.replace("{lang}", language))]
    if left_out := [language for language in spec.languages if language not in languages]:
        console.print(f"Nothing is generated in {', '.join(left_out)}: there is no task {GENERATION} for them")
    own = {"languages": languages, "tasks": [GENERATION], "selectors": list(selectors), "interventions": list(TELLING)}
    # All beginnings in one batch, which takes hardly longer than one of them.
    return [spec.model_copy(update={**own, "limit": None, "batch_size": 16})] if languages else []


def _prepare(spec: Sweep, out: Path, process: Process, console: Console) -> NeuronSet:
    """Load the model, and show and save what the cells will find in the cache: Statistics and NeuronSets.

    Returns:
        What the first selector found.
    """
    (loading,) = loadings(spec, out)
    assert not isinstance(loading, Training)
    console.print(f"[bold]1/4[/] Loading {loading.model}")
    lm = process.worker(out).load(loading, Invocation.of(spec))
    names = ", ".join(spec.languages)
    console.print(f"[bold]2/4[/] Reading {spec.corpus_tokens:,} tokens of text in each of {names}")
    experiment = Experiment(corpus=spec.corpus, corpus_tokens=spec.corpus_tokens, languages=tuple(spec.compare))
    read = {language: lm.artifacts.statistics(experiment, language) for language in spec.languages}
    for statistics in read.values():
        statistics.save(out / "statistics")
    least = min(statistics.tokens for statistics in read.values())
    console.print(f"    {least:,} tokens or more were read. Is that enough? {text_worth(least)}", highlight=False)
    console.print("[bold]3/4[/] Selecting language-specific neurons")
    selected: dict[str, NeuronSet] = {}
    for selector in spec.selectors:
        name = selector.partition(":")[0]
        selected[name] = lm.artifacts.neurons(experiment.model_copy(update={"selector": selector}))
        selected[name].save(out / "neurons" / f"{name}.json")
    console.print(terminal(counts_table(selected, spec.languages)))
    return next(iter(selected.values()))


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
