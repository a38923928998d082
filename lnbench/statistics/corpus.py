"""Statistics of a language's corpus: text → blocks → one pass."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from torch import nn

from lnbench.architectures import unwrap
from lnbench.corpora import blocks, expand, open_corpus
from lnbench.statistics.collect import collect_statistics, input_device, tokenizer_fingerprint
from lnbench.statistics.values import Statistics

_BATCH_TOKENS = {"cpu": 1024}
_BATCH_TOKENS_ACCELERATOR = 8192


def provenance(corpus: str, language: str, *, tokens: int | None, length: int, skip: int, seed: int) -> dict[str, Any]:
    """What decides which tokens are counted."""
    opened = open_corpus(corpus, language, seed=seed)
    return {
        "corpus": opened.fingerprint,
        "corpus_pattern": expand(corpus),
        "corpus_tokens": tokens,
        "sequence_length": length,
        "skip": skip,
        "seed": seed,
    }


def collect_corpus(
    model: nn.Module,
    tokenizer: Any,
    corpus: str,
    language: str,
    *,
    tokens: int | None,
    length: int = 128,
    batch_size: int | None = None,
    skip: int = 1,
    seed: int = 0,
    site: str = "post",
    batch_levels: Sequence[float] = (),
    progress: bool = True,
) -> Statistics:
    """Collect one language's Statistics from a corpus.

    Args:
        model: A supported Hugging Face causal LM.
        tokenizer: Its tokenizer.
        corpus: Corpus pattern.
        language: Language code, as in the corpus.
        tokens: Budget; all of the corpus if None.
        length: Tokens in a block, BOS included.
        batch_size: Blocks in a forward pass; a size that suits the device if None.
        skip: Positions not counted at the start of a block.
        seed: Seed of the documents' order.
        site: Site shown first.
        batch_levels: See :func:`lnbench.collect_statistics`.
        progress: Show a progress bar.

    Raises:
        LnbenchError: missing corpus, empty text, unsupported model.
    """
    device = input_device(unwrap(model)).type
    size = batch_size or max(1, _BATCH_TOKENS.get(device, _BATCH_TOKENS_ACCELERATOR) // length)
    text = open_corpus(corpus, language, seed=seed)
    return collect_statistics(
        model,
        blocks(text, tokenizer, length=length, batch_size=size, tokens=tokens),
        language=language,
        site=site,
        skip=skip,
        batch_levels=batch_levels,
        provenance={
            "tokenizer": tokenizer_fingerprint(tokenizer),
            **provenance(corpus, language, tokens=tokens, length=length, skip=skip, seed=seed),
        },
        total=tokens,
        progress=progress,
    )
