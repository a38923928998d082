"""The lm-eval model ``lnbench``: any Hugging Face causal LM, with language-specific neurons overridden."""

from __future__ import annotations

from lnbench.lm import compat
from lnbench.lm.lnbench_lm import LNBenchLM

__all__ = ["LNBenchLM"]

compat.apply()
