"""Small XNLI and XQuAD data in the layout of LNBENCH_DATA, and settings under which a tiny model is done in seconds."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

LANGUAGES = ("en", "vi", "hi", "ur", "zh")


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def write_data(folder: Path) -> Path:
    """The folder that LNBENCH_DATA names."""
    pairs = [{"premise": f"p{n}", "hypothesis": ("yes", "hm", "no")[n % 3], "label": n % 3} for n in range(9)]
    answers = {"text": ["a cat"], "answer_start": [5]}
    questions = [
        {"id": str(n), "context": f"It is a cat, {n}.", "question": "What?", "answers": answers} for n in range(10)
    ]
    for language in LANGUAGES:
        for split in ("train", "validation", "test"):
            write(folder / "xnli" / f"{language}.{split}.jsonl", pairs)
        write(folder / "xquad" / f"{language}.jsonl", questions)
    return folder


TINY = {
    "tokens": 400,
    "length": 64,
    "batch_size": 4,
    "selectors.lape": "lape:top_fraction=0.3:bar=0.5",
    "selectors.act_prob": "act_prob:fraction=0.15",
    "ppl.tokens": 192,
    "ppl.length": 64,
    **{f"{task}.limit": 2 for task in ("xnli", "xquad")},
    **{f"{task}.settings.max_steps": 2 for task in ("xnli", "xquad")},
    **{f"{task}.settings.batch_size": 2 for task in ("xnli", "xquad")},
    "xnli.settings.max_length": 200,
    "xquad.settings.max_length": 200,
    "xquad.gen_kwargs.max_gen_toks": 4,
}
"""Settings under which the tiny model is done in seconds."""


def words(settings: dict[str, Any]) -> list[str]:
    """Settings as options of the command line."""
    return [word for key, value in settings.items() for word in ("--set", f"{key}={value}")]
