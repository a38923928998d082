"""Select on two halves of a corpus."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

from torch import nn

from lnbench._version import __version__
from lnbench.analysis.stability import Stability, compare_halves
from lnbench.choices import select
from lnbench.model.architectures import POST
from lnbench.model.sites import locate
from lnbench.statistics.corpus_statistics import Reading
from lnbench.statistics.statistics_folder import collect_folder, load_shard

log = logging.getLogger(__name__)

MODE: Literal["pack", "truncate"] = "truncate"
"""How documents are read: each is a row of its own, so that every other row is every other document."""
_HALVES = ((0, 2), (1, 2))


def measure_stability(
    model: nn.Module,
    tokenizer: Any,
    selectors: Sequence[str],
    folder: Path,
    readings: Mapping[str, Reading],
    *,
    site: str = POST,
    say: Callable[[str], None] = log.info,
    **options: Any,
) -> Stability:
    """Count both halves of each language's text, and select on each: which neurons come back?

    A half is every other document, in the corpus's shuffled order. Counts are kept in ``folder``; after an interruption
    the same call continues, and another selector needs no new pass.

    Args:
        model: A supported Hugging Face causal LM.
        tokenizer: Its tokenizer.
        selectors: Names such as ``lape:top_fraction=0.02``.
        folder: Where the counts go, under ``shards/``.
        readings: Language → which tokens are counted, both halves together; of mode :data:`MODE`.
        site: Where selectors read neurons, ``post`` or ``pre``.
        say: Told of each language that is done.
        options: Of :func:`~lnbench.statistics.corpus_statistics.count_corpus`.

    Raises:
        LnbenchError: as :func:`~lnbench.statistics.statistics_folder.collect_folder` and
            :func:`~lnbench.choices.select`.
    """
    activations = locate(model).activations
    halves = []
    for half in _HALVES:
        collect_folder(model, tokenizer, folder, readings, shard=half, site=site, say=say, **options)
        halves.append(
            {one: load_shard(folder, half, one, site=site, activations=activations) for one in readings},
        )
    first, second = halves
    one = next(iter(readings.values()))
    return Stability(
        model=next(iter(first.values())).model,
        corpus=one.corpus,
        site=site,
        tokens={language: (first[language].tokens, second[language].tokens) for language in readings},
        length=one.length,
        seed=one.seed,
        rows=compare_halves({name: (select(name, first), select(name, second)) for name in selectors}),
        lnbench_version=__version__,
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
