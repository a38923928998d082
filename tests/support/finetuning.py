"""Small English NLI and question-answering data in the layout of LNBENCH_DATA, and a tiny model that reads it."""

from __future__ import annotations

import json
import random
from pathlib import Path
from typing import Any

THINGS = ("dog", "cat", "sun", "sea", "owl", "elm")
SETTINGS = {"max_length": 200, "batch_size": 4, "max_steps": 4, "lr": 1e-2, "log_steps": 1, "validation_examples": 4}


def pair(number: int) -> dict[str, Any]:
    """A pair whose label can be read from its words."""
    draw = random.Random(number)
    label = number % 3
    premise = f"the {draw.choice(THINGS)} is {draw.choice(THINGS)}"
    return {"premise": premise, "hypothesis": ("yes", "hm", "no")[label], "label": label}


def question(number: int) -> dict[str, Any]:
    """A question whose answer stands in its passage."""
    word = THINGS[number % len(THINGS)]
    context = f"Here is a {word}, number {number}."
    answers = {"text": [word, "unused"], "answer_start": [10, 0]}
    return {"id": str(number), "context": context, "question": "What is here?", "answers": answers}


def write(path: Path, rows: list[dict[str, Any]]) -> None:
    """Rows as JSON lines."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{json.dumps(row)}\n" for row in rows), encoding="utf-8")


def write_data(folder: Path) -> Path:
    """The folder that LNBENCH_DATA names."""
    for split, rows in (("train", 30), ("validation", 9), ("test", 9)):
        write(folder / "xnli" / f"en.{split}.jsonl", [pair(number + 7 * len(split)) for number in range(rows)])
    write(folder / "xquad" / "en.jsonl", [question(number) for number in range(20)])
    write(folder / "squad" / "en.train.jsonl", [question(number) for number in range(50, 62)])
    return folder
