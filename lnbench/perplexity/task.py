"""The documents and the score of the lm-eval tasks ``lnbench_ppl_{language}``.

The text comes from ``corpus/`` in the folder that the metadata key ``lnbench_data``, else ``$LNBENCH_DATA``, names;
without one, it is the embedded text, or Wikipedia on the Hugging Face Hub.
"""

from __future__ import annotations

import math
from itertools import islice
from typing import Any

import datasets

from lnbench import demo
from lnbench.corpora.patterns import expand, files_of, is_hub
from lnbench.data_folder import DATA_VARIABLE, default_corpus
from lnbench.errors import LnbenchError
from lnbench.perplexity.slices import HeldOut

DOCUMENTS = 500
"""Per language, at most."""
CHARACTERS = 1000
"""Per document, at most."""
_HUB = "wikimedia/wikipedia:20231101.{lang}"


def documents(*, lnbench_language: str, lnbench_data: str | None = None, **_: object) -> datasets.DatasetDict:
    """Return the split ``test``: columns ``text`` and ``language``, in the order in which ``lnbench ppl`` reads.

    Raises:
        LnbenchError: no or damaged file, or the hub cannot be reached.
    """
    corpus = corpus_of(lnbench_language, lnbench_data)
    # Wikipedia is read in its own order, of which Statistics have read something else.
    held = HeldOut(
        corpus, lnbench_language, shuffle=not is_hub(corpus), enough=DOCUMENTS * CHARACTERS, longest=CHARACTERS
    )
    texts = [text[:CHARACTERS] for text in islice(held, DOCUMENTS)]
    rows = [{"text": text, "language": lnbench_language} for text in texts]
    return datasets.DatasetDict(test=datasets.Dataset.from_list(rows))


def corpus_of(language: str, lnbench_data: str | None = None) -> str:
    """Return the corpus pattern of a language's text.

    Raises:
        LnbenchError: the data folder has no text of it.
    """
    corpus = default_corpus(lnbench_data)
    if corpus == demo.CORPUS:
        return corpus if language in demo.LANGUAGES else _HUB
    try:
        files_of(expand(corpus), language)
    except LnbenchError as error:
        file = corpus.replace("{lang}", language)
        raise LnbenchError(f"no file {file}: {error}; put it there, or unset {DATA_VARIABLE}") from error
    return corpus


def process_results(doc: dict[str, Any], results: list[float]) -> dict[str, Any]:
    """Return a document's log-likelihood and bytes, for metrics weighted by bytes; and its own bits per byte.

    Args:
        doc: A row of :func:`documents`.
        results: Its log-likelihood in nats.
    """
    (likelihood,) = results
    size = len(doc["text"].encode())
    per_byte = dict.fromkeys(("bits_per_byte", "byte_perplexity"), (likelihood, size))
    return {**per_byte, "document_bits_per_byte": -likelihood / (math.log(2) * size)}
