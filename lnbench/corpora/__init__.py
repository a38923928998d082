"""Corpora: language → text → token blocks.

A corpus pattern is a path with ``{lang}`` (``data/{lang}.jsonl.gz``) or a dataset of the Hugging Face hub
(``wikimedia/wikipedia:20231101.{lang}``: repository, colon, configuration), which is streamed. ``*`` may stand for
``{lang}``, as lm-eval's command line takes no braces, and a folder for its files named by language.
"""

from lnbench.corpora.budgets import parse_shard
from lnbench.corpora.prefetch import prefetch

__all__ = ["parse_shard", "prefetch"]
