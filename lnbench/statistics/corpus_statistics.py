"""Statistics of a language's corpus: text → blocks → one pass, which may be interrupted, or split among processes."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from pydantic import PrivateAttr
from torch import Tensor, nn

from lnbench.corpora.corpus import Corpus
from lnbench.corpora.documents import TextReport
from lnbench.corpora.packing import blocks
from lnbench.corpora.prefetch import prefetch
from lnbench.data_folder import name_of_text
from lnbench.errors import LnbenchError
from lnbench.files import fingerprint
from lnbench.interruption import reached
from lnbench.model.architectures import NEURON_SITES, POST
from lnbench.model.describe import describe_model
from lnbench.model.locate import locate
from lnbench.model.self_check import SELF_CHECK
from lnbench.model.sites import Sites
from lnbench.progress import Bar
from lnbench.settings import TextSource, UntilStable
from lnbench.statistics.accumulator import FORMAT, Accumulator
from lnbench.statistics.batching import fitting_batch_size
from lnbench.statistics.collect import Block, accumulator_of, observing, statistics_of
from lnbench.statistics.language_statistics import Statistics
from lnbench.statistics.layer_accumulator import CALIBRATION, Activation
from lnbench.statistics.measures import names_of_measures
from lnbench.statistics.nonlinearity import names_of
from lnbench.statistics.site_values import PLACES

log = logging.getLogger(__name__)

Shard = tuple[int, int]
WHOLE: Shard = (0, 1)
_PUBLISHED_SIZE = 4
"""Blocks in a batch of the paper's code."""
_FOREIGN = 0.1
"""Share of lines in another language or script above which there is a warning."""
_COST = 50
"""Progress is kept no more often than after so many times as long as keeping it takes: for 2 % of the time."""


class Reading(TextSource):
    """Which tokens of a corpus are counted, and how; with ``batch_levels``, see :func:`lnbench.collect_statistics`.

    The means of batches' quantiles depend on the size of the batches; so with them it is 4, where it is not given, and
    is recorded.
    """

    until_stable: UntilStable | None = None
    """Read in two halves, each every other document, until both choose the same neurons, at most ``tokens``."""

    def open(self, language: str, half: int | None = None) -> Corpus:
        """Open the documents of one language, or every other one of them."""
        chosen: dict[str, Any] = {"dedup": self.dedup, "drop_wrong_script": self.drop_wrong_script}
        return Corpus(self.corpus, language, seed=self.seed, half=half, **chosen | self.reading_options)

    def blocks(self, corpus: Corpus, tokenizer: Any, batch_size: int, **options: Any) -> Iterator[Block]:
        """Yield its batches, made ahead of their use."""
        tokens = self.tokens
        if corpus.half is not None and tokens is not None:
            tokens = tokens // 2
        options |= {"mode": self.mode, "bos": self.bos, "chat": self.chat}
        cut = blocks(corpus, tokenizer, self.length, batch_size, tokens, **options)
        return prefetch(cut)

    def provenance(self, language: str) -> dict[str, Any]:
        """Return what decides which tokens are counted, and where they come from."""
        opened = self.open(language)
        return {
            "corpus": opened.fingerprint,
            "corpus_pattern": name_of_text(opened.pattern),
            "corpus_source": opened.source,
            "corpus_tokens": self.tokens,
            "sequence_length": self.length,
            "mode": self.mode,
            "skip": self.skip,
            "seed": self.seed,
            "dedup": self.dedup,
            "drop_wrong_script": self.drop_wrong_script,
            **({"bos": self.bos} if self.bos != "block" else {}),
            **({"chat": True} if self.chat else {}),
            **({"batch_levels": list(self.batch_levels), "batch_size": self.size} if self.batch_levels else {}),
            **({"measures": sorted(names_of_measures(self.measures))} if self.measures else {}),
            **({"sites": sorted(further)} if (further := set(self.sites) - set(NEURON_SITES)) else {}),
            **({"until_stable": self.until_stable.model_dump(mode="json")} if self.until_stable else {}),
        }

    @property
    def size(self) -> int | None:
        """The batch size, if it does not depend on the memory."""
        return self.batch_size or (_PUBLISHED_SIZE if self.batch_levels else None)


class ReadingOnce(Reading):
    """A reading that keeps what it has read, for passes of several models that tokenise alike over small texts."""

    _opened: dict[Any, Corpus] = PrivateAttr(default_factory=dict)
    _kept: dict[Any, list[Block]] = PrivateAttr(default_factory=dict)

    def open(self, language: str, half: int | None = None) -> Corpus:
        """Open the documents of one language, or every other one of them, once."""
        if (language, half) not in self._opened:
            self._opened[language, half] = super().open(language, half)
        return self._opened[language, half]

    def blocks(self, corpus: Corpus, tokenizer: Any, batch_size: int, **options: Any) -> Iterator[Block]:
        """Yield its batches; of a text that was read to its end before, those of then."""
        key = (id(corpus), options.get("shard", WHOLE), options.get("start", 0))
        if key in self._kept:
            yield from self._kept[key]
            return
        batches = []
        for block in super().blocks(corpus, tokenizer, batch_size, **options):
            batches.append(block)
            yield block
        self._kept[key] = batches


def request_key(provenance: dict[str, Any]) -> str:
    """Return a fingerprint of all that Statistics depend on, the way of counting included, and of nothing else."""
    return fingerprint([FORMAT, {name: value for name, value in provenance.items() if name not in PLACES}])


def collect_corpus(
    model: nn.Module, tokenizer: Any, language: str, reading: Reading, *, site: str = POST, **options: Any
) -> Statistics:
    """Collect one language's Statistics from a corpus: :func:`count_corpus`, finished.

    Args:
        model: A supported Hugging Face causal LM.
        tokenizer: Its tokenizer.
        language: Language code, as in the corpus.
        reading: Which tokens are counted.
        site: Site shown first.
        options: Those of :func:`count_corpus`.

    Raises:
        LnbenchError: missing corpus, empty text, unsupported model.
    """
    counts = count_corpus(model, tokenizer, language, reading, **options)
    return finished(counts, site=site, activations=locate(model).activations)


def finished(counts: Accumulator, *, site: str, activations: Sequence[Activation]) -> Statistics:
    """Return the Statistics of a corpus's counts, with their provenance.

    Raises:
        LnbenchError: nothing was counted.
    """
    about = counts.about
    # Counts of an earlier lnbench say nothing of a check.
    checked = {SELF_CHECK: about[SELF_CHECK]} if SELF_CHECK in about else {}
    of_text = {"text": about["text"], "text_shares": TextReport(**about["text"]).shares()}
    of_text |= {"stopped": about["stopped"]} if "stopped" in about else {}
    provenance = {**about["provenance"], **checked, "request": about["request"], **of_text}
    return statistics_of(counts, activations, about["language"], site=site, provenance=provenance)


def count_corpus(
    model: nn.Module,
    tokenizer: Any,
    language: str,
    reading: Reading,
    *,
    shard: Shard = WHOLE,
    state: Path | None = None,
    save_every: float = 60.0,
    progress: bool = True,
    described: dict[str, Any] | None = None,
    pause_at: int | None = None,
) -> Accumulator:
    """Count one language's corpus, or a shard of it, and continue where an earlier attempt was interrupted.

    Args:
        model: A supported Hugging Face causal LM.
        tokenizer: Its tokenizer.
        language: Language code, as in the corpus.
        reading: Which tokens are counted.
        shard: ``(index, count)``, from 0: every count-th block. All shards lay their bins out on the start of the whole
            text, so that their counts add up to those of the whole.
        state: File that keeps the progress, and the finished counts. What it holds of another request is replaced.
        save_every: Seconds between two savings, at least; large counts are saved less often.
        progress: Show a progress bar.
        described: What :func:`~lnbench.statistics.describe_model` returns for the two, if that is known already.
        pause_at: Return, and keep the progress in ``state``, once so many tokens were counted.

    Raises:
        LnbenchError: missing corpus, empty text, unsupported model, full disk.
    """
    sites = locate(model)
    provenance = (described or describe_model(model, tokenizer)) | reading.provenance(language)
    request = request_key(provenance)
    counts = _begun(state, request, shard, language)
    if counts is None:
        size = reading.size or fitting_batch_size(sites, reading.length)
        counts = accumulator_of(sites, reading.sites, reading.batch_levels)
        counts.about = {
            "language": language,
            "request": request,
            "provenance": provenance,
            "shard": list(shard),
            "activations": names_of(sites.activations),
            SELF_CHECK: sites.check.summary(),
            "batch_size": size,
            "rows": 0,
            "done": False,
        }
        if shard != WHOLE:
            counts.take_bins(_start_of_text(sites, tokenizer, language, reading, size))
        if state is not None:
            # What was chosen by the memory that happened to be free stays the same after an interruption.
            counts.save(state)
    elif not counts.about["done"] and pause_at is None:
        counts.about["batch_size"] = reading.size or counts.about["batch_size"]
        so_far = (f"{counts.tokens:,}", counts.about["batch_size"])
        log.warning("%s: continuing after %s tokens, %d blocks per forward pass", language, *so_far)
    if not counts.about["done"] and (pause_at is None or counts.tokens < pause_at):
        _count(sites, tokenizer, counts, reading, state, save_every, progress, pause_at)
    return counts


def _begun(state: Path | None, request: str, shard: Shard, language: str) -> Accumulator | None:
    """Return what an earlier attempt at the same has left."""
    if state is None or not state.exists():
        return None
    try:
        about = Accumulator.about_in(state)
        if (about["request"], about["shard"]) == (request, list(shard)):
            return Accumulator.load(state)
        log.warning("%s: %s holds counts of another request; starting again", language, state)
    except LnbenchError as error:
        log.warning("%s; starting again", error)
    return None


def _start_of_text(sites: Sites, tokenizer: Any, language: str, reading: Reading, batch_size: int) -> Accumulator:
    """Count the start of the whole text, on which bins are laid out."""
    counts = accumulator_of(sites, reading.sites)
    with observing(sites, counts, language, skip=reading.skip) as read:
        for block in reading.blocks(reading.open(language), tokenizer, batch_size):
            read(block)
            if counts.tokens > CALIBRATION:
                break
    return counts


def _kept_on_error(batches: Iterator[Block], counts: Accumulator, state: Path | None) -> Iterator[Block]:
    """Yield the batches; where the text cannot be read on, keep what was counted, so that the same call continues."""
    try:
        yield from batches
    except LnbenchError:
        if state is not None and counts.about["rows"]:
            counts.save(state)
        raise


def _count(
    sites: Sites,
    tokenizer: Any,
    counts: Accumulator,
    reading: Reading,
    state: Path | None,
    save_every: float,
    progress: bool,
    pause_at: int | None,
) -> None:
    about = counts.about
    counts.measures.start(reading.measures, sites)
    language, shard = about["language"], about["shard"]
    halved = reading.until_stable is not None and shard != list(WHOLE)
    corpus = reading.open(language, half=shard[0] if halved else None)
    total = pause_at or (reading.tokens // shard[1] if reading.tokens is not None else None)
    documents = corpus.count() if progress and total is None else None
    bar = Bar(total=total, initial=counts.tokens, desc=f"statistics {language}", unit="tok", disable=not progress)

    def show_skipped(row: int) -> None:
        if row % 1000 == 0:
            bar.set_postfix_str(f"reading up to there again: {row / about['rows']:.0%}")

    batches = reading.blocks(
        corpus,
        tokenizer,
        about["batch_size"],
        shard=WHOLE if halved else tuple(shard),
        start=about["rows"],
        on_skip=show_skipped,
    )
    kept = counts.tokens
    due = time.monotonic() + save_every
    with observing(sites, counts, language, skip=reading.skip) as read, bar:
        for block in _kept_on_error(batches, counts, state):
            bar.set_postfix_str("", refresh=False)
            bar.update(read(block))
            if documents and corpus.report.documents:
                # How much there is to read is not known before it is tokenised, but what share of it has been read.
                bar.total = max(bar.n, round(bar.n * documents / (corpus.report.documents * shard[1])))
            about["rows"] += len(block if isinstance(block, Tensor) else block[0])
            reached(f"{counts.tokens:,} tokens of {language}, {kept:,} of them kept")
            if state is not None and time.monotonic() >= due:
                started = time.monotonic()
                counts.check(language)
                counts.save(state)
                kept = counts.tokens
                due = time.monotonic() + max(save_every, _COST * (time.monotonic() - started))
            if pause_at is not None and counts.tokens >= pause_at:
                about["text"] = asdict(corpus.report)
                if state is not None:
                    counts.check(language)
                    counts.save(state)
                return
    corpus.report.check(language, reading.max_foreign)
    if corpus.report.foreign > _FOREIGN * corpus.report.lines:
        log.warning("%s", corpus.report.sentence(language))
    about["text"] = asdict(corpus.report)
    about["done"] = True
    if state is not None and shard != list(WHOLE):
        counts.save(state)
