"""Statistics of a corpus, kept in the cache and collected once, under a key of everything that they depend on."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import replace
from os import PathLike, fspath
from pathlib import Path
from typing import Any

from torch import nn

from lnbench.corpora.corpus import check_texts
from lnbench.corpora.patterns import choose_languages
from lnbench.errors import LnbenchError
from lnbench.files import cache_dir
from lnbench.locks import process_lock
from lnbench.model.architectures import POST
from lnbench.model.describe import describe_model
from lnbench.settings import AllLanguages, ReadSite, StatisticsSource
from lnbench.statistics import store
from lnbench.statistics.corpus_statistics import Reading, collect_corpus, request_key
from lnbench.statistics.language_statistics import Statistics

log = logging.getLogger(__name__)


class _Request(Reading):
    """What is read, of which languages, and the site that is shown."""

    languages: AllLanguages = ()
    site: ReadSite = POST


def statistics(
    model: nn.Module,
    tokenizer: Any,
    corpus: str | PathLike[str] | None = None,
    languages: str | Sequence[str] = (),
    *,
    site: str = POST,
    tokens: int | None = StatisticsSource.model_fields["corpus_tokens"].default,
    length: int = StatisticsSource.model_fields["corpus_length"].default,
    **reading: Any,
) -> dict[str, Statistics]:
    """Collect the Statistics of several languages' text, or take them from the cache.

    With the same text and options, ``lm_eval --model lnbench`` and this share what is in the cache.

    Args:
        model: A supported Hugging Face causal LM.
        tokenizer: Its tokenizer.
        corpus: Corpus pattern: a path with ``{lang}``, a dataset of the hub, or a folder of files by language.
            None: lnbench's own text in five languages, or what ``LNBENCH_DATA`` holds.
        languages: Codes, as ``["en", "hi"]`` or ``"en+hi"``; all that the corpus has if empty.
        site: Site shown first; ``post`` and ``pre`` are counted in any case.
        tokens: Tokens of text per language; all of the corpus if None.
        length: Tokens in a block, BOS included.
        reading: Further options of :class:`lnbench.statistics.corpus_statistics.Reading`: ``skip``, ``measures``,
            ``sites``, ``bos`` …

    Returns:
        Language → Statistics, in the order of ``languages``.

    Raises:
        LnbenchError: no text of a language, an option that does not exist, an unsupported model.
    """
    given = reading | {"languages": languages, "site": site, "tokens": tokens, "length": length}
    request = _Request(**given if corpus is None else given | {"corpus": fspath(corpus)})
    read = request.model_copy(update={"sites": (*dict.fromkeys((request.site, *request.sites)),)})
    chosen = choose_languages(read.corpus, list(read.languages) or None)
    check_texts(read.corpus, chosen, **read.reading_options)
    described = describe_model(model, tokenizer)
    return {language: collect_cached(model, tokenizer, language, read, described).at(site) for language in chosen}


def cache_folder(language: str, reading: Reading, described: dict[str, Any]) -> Path:
    """Return where one language's Statistics are kept; ``described`` is the model, by :func:`describe_model`."""
    return cache_dir("statistics", request_key(described | reading.provenance(language)))


def collect_cached(
    model: nn.Module, tokenizer: Any, language: str, reading: Reading, described: dict[str, Any]
) -> Statistics:
    """Return one language's Statistics from the cache, or from a pass over the corpus that is then kept there.

    Raises:
        LnbenchError: as :func:`~lnbench.statistics.corpus_statistics.collect_corpus`.
    """
    folder = cache_folder(language, reading, described)
    # A cache that has them is only read: it may be another user's.
    if (cached := _cached_in(folder, language, described)) is not None:
        return cached
    with process_lock(folder / ".collecting"):
        if (cached := _cached_in(folder, language, described)) is not None:
            return cached
        state = folder / "unfinished.safetensors"
        collected = collect_corpus(model, tokenizer, language, reading, state=state, described=described)
        collected.save(folder)
        state.unlink(missing_ok=True)
        return collected


def _cached_in(folder: Path, language: str, described: dict[str, Any]) -> Statistics | None:
    if not (folder / store.MANIFEST).exists() or not (folder / f"{language}.safetensors").exists():
        return None
    try:
        cached = Statistics.load(folder, language)
    except LnbenchError as error:
        log.warning("%s; collecting these Statistics again", error)
        return None
    # They may have been collected while the same weights went by another name.
    return replace(cached, provenance={**cached.provenance, "model": described["model"]})
