"""Tokens a second from a corpus to batches, without a model.

python -m tests.benchmarks.corpus_speed --tokenizer gemma-3-270m --corpus 'data/{lang}.jsonl.gz' --languages en+hi
"""

from __future__ import annotations

import argparse
import time
from typing import Any

from transformers import AutoTokenizer

from lnbench.corpora.corpus import open_corpus
from lnbench.corpora.packing import MODES, blocks
from lnbench.corpora.patterns import choose_languages
from lnbench.corpora.prefetch import prefetch
from lnbench.demo import CORPUS
from lnbench.model.packaged import DEFAULT_MODEL, resolve

WAYS: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    **{mode: ({}, {"mode": mode}) for mode in MODES},
    "pack, dedup": ({"dedup": True}, {}),
    "pack, shard 1/8": ({}, {"shard": (0, 8)}),
}


def main() -> None:
    """Print, for each language and way, the tokens that were made and read, and the seconds."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--tokenizer", default=DEFAULT_MODEL)
    parser.add_argument("--corpus", default=CORPUS)
    parser.add_argument("--languages")
    parser.add_argument("--length", type=int, default=512)
    chosen = parser.parse_args()
    tokenizer = AutoTokenizer.from_pretrained(resolve(chosen.tokenizer))
    for language in choose_languages(chosen.corpus, chosen.languages and chosen.languages.split("+")):
        for way, (of_corpus, of_blocks) in WAYS.items():
            started = time.perf_counter()
            corpus = open_corpus(chosen.corpus, language, **of_corpus)
            made = 0
            for batch in prefetch(blocks(corpus, tokenizer, chosen.length, **of_blocks)):
                made += int(batch[1].sum()) if isinstance(batch, tuple) else batch.numel()
            seconds = time.perf_counter() - started
            print(f"{language} {way:16} {made:10,} tokens in {seconds:6.2f} s: {made / seconds:12,.0f} a second")


if __name__ == "__main__":
    main()
