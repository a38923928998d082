"""A whole request: load the model, find neurons and Statistics, cut the text, measure, and write the results."""

from __future__ import annotations

from collections.abc import Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from lnbench import estimates
from lnbench.corpora.patterns import choose_languages
from lnbench.errors import LnbenchError
from lnbench.estimates import Work
from lnbench.files import fingerprint, warn_once
from lnbench.formats import slug
from lnbench.lm.arguments import shell_line, without_home
from lnbench.locks import exclusive_lock
from lnbench.neurons import NeuronSet
from lnbench.perplexity import checkpoint
from lnbench.perplexity.matrix import FILE, PerplexityMatrix
from lnbench.perplexity.measure import measure
from lnbench.perplexity.request import PerplexityRequest
from lnbench.perplexity.slices import cut
from lnbench.statistics import Statistics

if TYPE_CHECKING:
    from lnbench.lm import LNBenchLM


def load(request: PerplexityRequest) -> LNBenchLM:
    """Load the model of a request, with its neurons.

    Raises:
        LnbenchError: a file is missing or of another model, a language has no text, the architecture is not supported.
    """
    from lnbench.lm import LNBenchLM

    if read := request.read or request.languages:
        choose_languages(request.text_corpus, read)
    # At the least; which languages there are is not known yet where none is named.
    work = work_of(request, max(1, len(read)), 1)
    estimates.check(request.model, request.model_args, work, Path(), device=request.device)
    return LNBenchLM(request.model, **request.model_arguments)


def work_of(request: PerplexityRequest, languages: int, changed: int) -> Work:
    """Return what a request takes: each text is read unchanged, and under every override and each of its controls.

    Args:
        request: What is measured.
        languages: Whose text is read.
        changed: Whose neurons are changed.
    """
    passes = 1 + changed * (1 + request.controls)
    compared = min(request.kl_tokens, request.tokens) * languages * (1 + changed)
    counted = 0 if request.neurons or request.statistics else languages
    return Work(
        f"the perplexity of text in {languages} languages, with the neurons of {changed} changed",
        read=passes * languages * request.tokens + compared + counted * request.corpus_tokens,
        scored=passes * languages * request.tokens + 2 * compared,
        length=request.length,
        rows=request.batch_size if isinstance(request.batch_size, int) else 1,
        counted=counted,
        stored=0,
        states=min(request.kl_tokens, request.tokens),
        text=languages * request.tokens,
    )


def run(
    request: PerplexityRequest,
    out: Path,
    *,
    lm: LNBenchLM | None = None,
    unchanged: Path | None = None,
    progress: bool = True,
) -> PerplexityMatrix:
    """Measure a request, and write ``perplexity.json``, ``perplexity.safetensors`` and the NeuronSet to ``out``.

    Every pass over a slice is kept as it ends, and the same call continues after an interruption.

    Args:
        request: What is measured.
        out: Folder.
        lm: The loaded model, if there is one: it must be loaded as the request's ``model_arguments`` say, the
            intervention excepted.
        unchanged: Folder of another request on the same model and text, whose passes of the unchanged model are taken.
        progress: Show a progress bar.

    Raises:
        LnbenchError: what :func:`load` and :func:`~lnbench.perplexity.measure.measure` raise; another process uses the
            folder, or it holds another request's passes.
    """
    from lnbench.lm.experiment import Experiment

    with exclusive_lock(out):
        lm = lm or load(request)
        if request.length > lm.max_length:
            raise LnbenchError(f"blocks of {request.length} tokens exceed the model's {lm.max_length}: pass --length")
        own = {name: value for name, value in request.model_arguments.items() if name in Experiment.model_fields}
        artifacts, experiment = lm.artifacts, Experiment(**own)
        known = NeuronSet.load(request.neurons).languages if request.neurons else artifacts.languages(experiment)
        among, whose = (given or request.languages or known for given in (request.read, request.changed))
        work = work_of(request, len(among), len(whose))
        estimates.announce(lm.model, work, request.model_args)
        neurons = artifacts.neurons(experiment)
        changed = list(request.changed or request.languages or neurons.languages)
        if request.source is not None:
            neurons.count(request.source)
            # A language is no pair with itself.
            changed = changed if request.changed else [code for code in changed if code != request.source]
        for language in changed:
            neurons.count(language)  # before minutes of reading, if it has no such language
        # Beside a file of neurons, text is not read only to find out whether they are from there.
        selected = [] if request.neurons and not request.statistics else neurons.languages
        statistics = {
            language: artifacts.statistics(experiment, language)
            for language in dict.fromkeys([*changed, *selected])
            if artifacts.readable(experiment, language)
        }
        source = statistics if _selected_from(neurons, statistics) else None
        slices = {
            language: cut(
                lm.tokenizer,
                request.text_corpus,
                language,
                tokens=request.tokens,
                length=request.length,
                mode=request.mode,
                bos=request.bos,
                chat=request.chat,
                labels=request.labels,
                statistics=source,
                options=request.reading_options,
            )
            for language in request.read or request.languages or neurons.languages
        }
        formats = {own.chat for own in statistics.values()} - {None}
        if warning := neurons.format_warning(request.chat, formats.pop() if len(formats) == 1 else None):
            warn_once(warning)
        selector = request.neurons or experiment.selector
        matrix = measure(
            lm.model,
            lm.tokenizer,
            neurons,
            {language: statistics[language] for language in changed if language in statistics},
            slices,
            intervention=request.intervention,
            site=experiment.site,
            changed=changed,
            controls=request.controls,
            control=request.control,
            controls_read=request.controls_read,
            compared=statistics,
            source=request.source,
            statistics_of=partial(artifacts.statistics, experiment),
            kl_tokens=request.kl_tokens,
            batch_size=None if request.batch_size == "auto" else request.batch_size,
            path=out / checkpoint.FILE,
            unchanged=None if unchanged is None else unchanged / checkpoint.FILE,
            progress=progress,
            described=lm.described,
            about={
                "model": lm.described["model"],
                "adapter": None if (adapter := request.model_args.get("peft")) is None else without_home(str(adapter)),
                "selector": selector,
                "command": f"{request.command} --out {shell_line([str(out)])}",
            },
        )
        name = Path(selector).stem if request.neurons else slug(selector)
        neurons.save(out / "neurons" / f"{name}.json")
        matrix.save(out / FILE)
    return matrix


def _selected_from(neurons: NeuronSet, statistics: Mapping[str, Statistics]) -> bool:
    """Return whether these are the Statistics that the neurons were selected from, as far as they tell."""
    if not set(neurons.languages) <= set(statistics):
        return False
    return neurons.statistics == fingerprint(
        sorted((language, statistics[language].fingerprint) for language in neurons.languages)
    )
