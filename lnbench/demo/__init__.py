"""Text written for lnbench in five languages, so that every step can be tried without a download."""

from __future__ import annotations

from pathlib import Path

LANGUAGES = ("en", "vi", "hi", "ur", "zh")
DATA = Path(__file__).resolve().parent / "data"
CORPUS = str(DATA / "corpus" / "{lang}.jsonl")
CURVE = DATA / "stability-curve.json"
"""What `lnbench stats --tokens auto` kept of Gemma 3 270M and a corpus that does not ship with lnbench."""
