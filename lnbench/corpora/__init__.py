"""Corpora: language → text → token blocks.

A corpus pattern is a path with ``{lang}`` (``data/{lang}.jsonl.gz``) or a dataset of the Hugging Face hub
(``wikimedia/wikipedia:20231101.{lang}``: repository, colon, configuration), which is streamed. ``*`` may stand for
``{lang}``, as lm-eval's command line takes no braces, and a folder for its files named by language.
"""

from lnbench.corpora.budgets import parse_shard, parse_tokens
from lnbench.corpora.corpus import Corpus, fingerprint, open_corpus
from lnbench.corpora.packing import MODES, blocks
from lnbench.corpora.patterns import choose_languages, expand, languages_of
from lnbench.corpora.prefetch import prefetch
from lnbench.corpora.scripts import scripts_of
from lnbench.corpora.text_report import TextReport

__all__ = [
    "MODES",
    "Corpus",
    "TextReport",
    "blocks",
    "choose_languages",
    "expand",
    "fingerprint",
    "languages_of",
    "open_corpus",
    "parse_shard",
    "parse_tokens",
    "prefetch",
    "scripts_of",
]
