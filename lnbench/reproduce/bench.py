"""The selector bench as steps: halves of the text, every selector's sets, and what changing each of them does."""

from __future__ import annotations

import gc
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rich.console import Console

from lnbench.analysis.stability import MODE
from lnbench.choices import fingerprint_of, needs_of
from lnbench.corpora.patterns import expand, is_hub
from lnbench.corpora.patterns import languages_of as corpus_languages
from lnbench.errors import LnbenchError
from lnbench.formats import slug
from lnbench.hookspecs import Executor
from lnbench.host import between_languages, get_host, needs_of_intervention, whole_site_of
from lnbench.lm.arguments import format_model_args, shell_line
from lnbench.model.architectures import NEURON_SITES, POST
from lnbench.neurons import NeuronSet
from lnbench.perplexity import checkpoint
from lnbench.perplexity.request import PerplexityRequest
from lnbench.reproduce.catalogue import BenchedSelector, BenchSpec
from lnbench.reproduce.steps import PlannedStep, lnbench_command
from lnbench.reproduce.workspace import Workspace

if TYPE_CHECKING:
    from lnbench.lm import LNBenchLM
    from lnbench.statistics import Statistics

SILENCE, RAISE = "silence", "raise"
"""Roles of interventions."""
OWN, EQUAL, WHOLE_SITE = "own", "equal", "whole site"
"""Sizes of a set: the selector's own, the same for all selectors, and all units of a site."""
WHOLE, FIRST, SECOND = "statistics", "statistics-first", "statistics-second"
"""Folders of Statistics: of the whole text, and of every other document of it."""
HALVES = ((0, 2), (1, 2))


@dataclass(frozen=True)
class BenchEntry:
    """One row of the bench: a selector at one size."""

    name: str
    size: str
    selector: str
    benched: BenchedSelector

    @property
    def slug(self) -> str:
        """What its files are called."""
        return slug(f"{self.name}-{self.size}")


@dataclass
class BenchData:
    """What the steps of one bench share: the model, loaded once, and the Statistics of the whole and of both halves."""

    at: Workspace
    _lm: list[LNBenchLM] = field(default_factory=list)
    _statistics: dict[Path, dict[str, Statistics]] = field(default_factory=dict)

    def lm(self) -> LNBenchLM:
        """Return the model."""
        from lnbench.lm import LNBenchLM

        if not self._lm:
            self._lm.append(LNBenchLM(self.at.model, **self.at.options))
        return self._lm[0]

    def statistics(self, folder: Path, languages: Sequence[str], site: str) -> dict[str, Statistics]:
        """Return the Statistics of a folder, by language."""
        from lnbench.statistics import Statistics

        if folder not in self._statistics:
            self._statistics[folder] = {language: Statistics.load(folder, language) for language in languages}
        return {language: own.at(site) for language, own in self._statistics[folder].items()}

    def drop(self) -> None:
        """Free the memory that they take."""
        self._lm.clear()
        self._statistics.clear()
        gc.collect()


def folder_of(at: Workspace) -> Path:
    """Return where a model's bench is kept."""
    return at.folder / "selector-bench"


def neurons_of(at: Workspace, entry: BenchEntry, part: str = WHOLE) -> Path:
    """Return the file of an entry's neurons: of the whole text, or those from one half of it alone."""
    parts = {WHOLE: "neurons", FIRST: "neurons-first", SECOND: "neurons-second"}
    return folder_of(at) / parts[part] / f"{entry.slug}.json"


def matrix_of(at: Workspace, entry: BenchEntry, role: str) -> Path:
    """Return the folder of an entry's matrix under the intervention of a role."""
    return folder_of(at) / "perplexity" / f"{entry.slug}-{role}"


def entries_of(spec: BenchSpec, count: int) -> list[BenchEntry]:
    """Return the rows of the bench: every selector at its own size and, where it ranks units, cut to ``count``."""
    entries = []
    for name, benched in spec.selectors.items():
        if any(whole_site_of(choice) for choice in benched.interventions.values()):
            entries.append(BenchEntry(name, WHOLE_SITE, benched.choice, benched))
            continue
        if benched.ranked:
            entries.append(BenchEntry(name, EQUAL, f"top:of=[{benched.choice}]:count={count}", benched))
        entries.append(BenchEntry(name, OWN, benched.choice, benched))
    return entries


def languages_of(at: Workspace, spec: BenchSpec) -> tuple[str, ...]:
    """Return the languages that are compared: those asked for, else the spec's that there is text of."""
    available = None if is_hub(expand(at.corpus)) else corpus_languages(at.corpus)
    return tuple(code for code in at.languages or spec.languages if available is None or code in available)


def steps(at: Workspace, spec: BenchSpec) -> Iterator[PlannedStep]:
    """Yield the steps of the bench on one model, each after those that it needs.

    Raises:
        LnbenchError: there is no text of two languages, or none of the source.
    """
    languages = languages_of(at, spec)
    if len(languages) < 2 or spec.source not in languages:
        raise LnbenchError(
            f"the selector bench compares languages, {spec.source} and others: its corpus has {', '.join(languages)}; "
            f"name them in --languages, as {spec.source}+hi"
        )
    data, entries = BenchData(at), entries_of(spec, at.settings.bench.count)
    yield _count_halves(data, entries, languages)
    for entry in entries:
        if entry.size != WHOLE_SITE:
            yield _select(data, entry, languages)
    measured = [(entry, role) for role in spec.interventions for entry in entries]
    for number, (entry, role) in enumerate(measured, start=1):
        ended = data.drop if number == len(measured) else None
        yield _measure(data, spec, entry, role, languages, matrix_of(at, *measured[0]), ended)


def _count_halves(data: BenchData, entries: Sequence[BenchEntry], languages: tuple[str, ...]) -> PlannedStep:
    """Return the step that counts both halves of the text, with all that the selectors need, and adds them up."""
    at = data.at
    settings, folder, shards = at.settings.bench, folder_of(at), folder_of(at) / "shards"
    needed = [needs_of(entry.selector) for entry in entries if entry.size != WHOLE_SITE]
    needed += [needs_of_intervention(choice) for entry in entries for choice in entry.benched.interventions.values()]
    sites = [*(entry.benched.site for entry in entries), *(site for needs in needed for site in needs.sites)]
    more: dict[str, Any] = {
        "measures": tuple(dict.fromkeys(measure for needs in needed for measure in needs.measures)),
        "sites": tuple(site for site in dict.fromkeys(sites) if site not in NEURON_SITES),
        "batch_levels": tuple(dict.fromkeys(level for needs in needed for level in needs.batch_levels)),
    }
    text: dict[str, Any] = {"corpus": at.corpus, "tokens": settings.counted, "length": at.settings.length, "mode": MODE}

    def commands() -> list[str]:
        named = {"model": at.model, "model_args": format_model_args(at.options), "languages": "+".join(languages)}
        options = dict(zip(("measure", "also_site", "batch_level"), map(list, more.values()), strict=True))
        counted = [
            lnbench_command("stats", **named, **text, **options, shard=f"{number + 1}/{count}", out=shards)
            for number, count in HALVES
        ]
        return [*counted, lnbench_command("stats", "merge", str(shards), out=folder / WHOLE)]

    def run(_: Executor, console: Console) -> None:
        from lnbench.statistics.corpus_statistics import Reading
        from lnbench.statistics.statistics_folder import collect_folder, load_shard, merge_folders

        lm, readings = data.lm(), dict.fromkeys(languages, Reading(**text, **more))
        say = partial(console.print, highlight=False, markup=False)
        halves = []
        for half in HALVES:
            collect_folder(lm.model, lm.tokenizer, shards, readings, shard=half, say=say)
            where: dict[str, Any] = {"site": POST, "activations": lm.sites.activations}
            halves.append({language: load_shard(shards, half, language, **where) for language in languages})
        for name, half_of in zip((FIRST, SECOND), halves, strict=True):
            for own in half_of.values():
                own.save(folder / name)
        merge_folders([shards], folder / WHOLE, languages=languages, activations=lm.sites.activations, say=say)

    doing = (
        f"Reading {settings.counted:,} tokens of text in each of {', '.join(languages)}, in halves: {at.folder.name}"
    )
    tokens = settings.counted * len(languages)
    return PlannedStep("statistics", at, folder / WHOLE, doing, commands, run, languages, tokens=tokens)


def _select(data: BenchData, entry: BenchEntry, languages: tuple[str, ...]) -> PlannedStep:
    """Return the step that selects an entry's neurons, from the whole text and from each half of it."""
    folder, site = folder_of(data.at), entry.benched.site

    def run(_: Executor, _console: Console) -> None:
        from lnbench.choices import select

        for part in (WHOLE, FIRST, SECOND):
            statistics = data.statistics(folder / part, languages, site)
            if not _is_selected(out := neurons_of(data.at, entry, part), entry.selector, statistics):
                select(entry.selector, statistics).save(out)

    named = {"statistics": folder / WHOLE, "languages": "+".join(languages), "site": site}
    command = lnbench_command("select", entry.selector, **named, out=neurons_of(data.at, entry))
    doing = f"Selecting neurons by {entry.selector}: {data.at.folder.name}"
    return PlannedStep("neurons", data.at, neurons_of(data.at, entry), doing, lambda: [command], run, languages)


def _is_selected(file: Path, selector: str, statistics: Mapping[str, Statistics]) -> bool:
    """Return whether a file has what a selector finds in these Statistics."""
    if not file.exists():
        return False
    found = NeuronSet.load(file)
    return found.selector == get_host().canonical("selector", selector) and found.statistics == fingerprint_of(
        statistics
    )


def _take_passes(at: Workspace, twin: BenchEntry, entry: BenchEntry, role: str) -> None:
    """Take the passes of an entry with the same units: nothing is read twice where both sizes are the same."""
    before, here = (matrix_of(at, each, role) / checkpoint.FILE for each in (twin, entry))
    if not before.exists() or here.exists():
        return
    first, second = (NeuronSet.load(neurons_of(at, each)) for each in (twin, entry))
    if all(first.mask(language).equal(second.mask(language)) for language in second.languages):
        checkpoint.copy_for(second.fingerprint, before, here)


def _measure(
    data: BenchData,
    spec: BenchSpec,
    entry: BenchEntry,
    role: str,
    languages: tuple[str, ...],
    first: Path,
    ended: Callable[[], None] | None,
) -> PlannedStep:
    """Return the step that measures an entry's matrix under the intervention of a role."""
    at, out = data.at, matrix_of(data.at, entry, role)
    settings, benched = at.settings.bench, entry.benched
    intervention = benched.interventions.get(role, spec.interventions[role])
    at_own_size = benched.ranked and entry.size == OWN
    draws = settings.controls if role == SILENCE and not at_own_size else settings.other_controls
    between = between_languages(intervention)
    units: dict[str, Any] = {"neurons": str(neurons_of(at, entry)), "site": benched.site}
    request = PerplexityRequest(
        model=at.model,
        model_args=at.options,
        **({} if entry.size == WHOLE_SITE else units),
        statistics=str(folder_of(at) / WHOLE),
        corpus=at.corpus,
        languages=languages,
        intervention=intervention,
        source=spec.source if between else None,
        tokens=settings.tokens,
        length=settings.length,
        controls=draws,
        control=benched.control or spec.control,
        controls_read="own",
        kl_tokens=0,
    )

    def run(_: Executor, _console: Console) -> None:
        from lnbench.perplexity.run_matrix import run

        if benched.ranked and entry.size == OWN:
            _take_passes(at, replace(entry, size=EQUAL), entry, role)
        run(request, out, lm=data.lm(), unchanged=first if out != first else None)
        if ended is not None:
            ended()

    changed = len(languages) - between
    cells = changed * len(languages)
    command = f"{request.command} --out {shell_line([str(out)])}"
    doing = f"Reading text with neurons of {entry.name} ({entry.size}) under {intervention}: {at.folder.name}"
    tokens = settings.tokens * (cells + draws * changed)
    return PlannedStep("matrix", at, out, doing, lambda: [command], run, languages, tokens=tokens, cells=cells)
