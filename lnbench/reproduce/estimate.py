"""How much work a plan is, and where its time goes: a rough count of the tokens that go through the model."""

from __future__ import annotations

from collections import Counter

from lnbench.reproduce.plan import Plan
from lnbench.reproduce.steps import Collect, Measure, Perplexity, Step, Train

_TOKENS = {"xnli": 45, "xquad": 400}
"""Of a document, about, prompt and answer."""
_DOCUMENTS = {"xnli": 5010, "xquad": 238}
_ROWS = {"xnli": 392_702, "xquad": 952}
_BACKWARD = 3
"""A step of training takes as long as about three forward passes."""


def estimate(plan: Plan) -> str:
    """One line: the number of distinct cells, and which work takes which share of the tokens."""
    tokens: Counter[str] = Counter()
    cells: set[str] = set()
    for step in plan.steps:
        tokens.update(_tokens(step))
        if isinstance(step, Measure):
            cells |= {*step.commands}
    everything = sum(tokens.values()) or 1
    shares = ", ".join(f"{what} {count / everything:.0%}" for what, count in tokens.most_common())
    counted = f"{len(cells)} distinct {'cell' if len(cells) == 1 else 'cells'}"
    return f"{counted}; about {_short(everything)} tokens through the model: {shares or 'none'}"


def _tokens(step: Step) -> dict[str, float]:
    if isinstance(step, Collect):
        return {"Statistics": step.at.settings.tokens * len(step.languages)}
    if isinstance(step, Train):
        training = step.job.training
        rows = min(training.examples or _ROWS[step.task], _ROWS[step.task])
        examples = training.batch_size * training.max_steps if training.max_steps else rows * training.epochs
        return {"fine-tuning": _BACKWARD * examples * min(training.max_length, _TOKENS[step.task])}
    if isinstance(step, Measure):
        documents = getattr(step.at.settings, step.task).limit or _DOCUMENTS[step.task]
        return {"cells": len(step.cells) * documents * _TOKENS[step.task]}
    if isinstance(step, Perplexity):
        languages, how = len(step.at.selections[step.selection].languages), step.at.settings.ppl
        passes = 1 + languages * (1 + how.controls)
        return {"perplexity": passes * languages * how.tokens}
    return {}


def _short(count: float) -> str:
    for size, unit in ((1e9, "G"), (1e6, "M"), (1e3, "k")):
        if count >= size:
            return f"{count / size:.1f} {unit}"
    return f"{count:.0f}"
