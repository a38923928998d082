"""How open questions are put to a model, and how likely it finds its answers: for tasks whose rows ask for it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

from lnbench.language_control.forcing import NEXT_QUESTION, GeneratedAnswer, text_of
from lnbench.language_control.prompts import FRAME, PROMPT
from lnbench.lm.prompts import Pair
from lnbench.lm.scoring import TokenRequest

TARGET = "target"
"""The column of rows whose answers are also scored by their likelihood under the unchanged model."""


def put_in_frame(lm: Any, requests: Sequence[Any]) -> None:
    """Put the prompts of tasks that ask for it into the model's chat template, else between ``Q:`` and ``A:``.

    A prompt that lm-eval has made longer, by its own chat template or by examples, is left as it is.
    """
    for request in requests:
        doc = request.doc if isinstance(request.doc, dict) else {}
        prompt, *others = request.args
        if doc.get(FRAME) == "auto" and prompt == doc.get(PROMPT):
            has_template = getattr(lm.tokenizer, "chat_template", None) is not None
            turns = [{"role": "user", "content": prompt}]
            framed = lm.apply_chat_template(turns) if has_template else f"Q: {prompt}\nA:"
            request.arguments = (framed, *others)


def with_likelihoods(
    requests: Sequence[Any],
    answers: Sequence[str],
    encode: Callable[[str, str], Pair],
    score: Callable[[list[TokenRequest]], Sequence[tuple[float, bool]]],
    longest: int,
) -> list[str]:
    """Return answers, those of rows with a target as :class:`GeneratedAnswer`.

    Args:
        requests: What was asked.
        answers: The answer to each.
        encode: Turns a prompt and an answer into tokens.
        score: Returns log-likelihoods in nats, under the model as nothing overrides it.
        longest: Tokens of an answer that are scored, at most.
    """
    scored: dict[int, TokenRequest] = {}
    results = list(answers)
    for number, (request, answer) in enumerate(zip(requests, answers, strict=True)):
        if not isinstance(request.doc, dict) or not {TARGET, FRAME} <= request.doc.keys():
            continue
        results[number] = GeneratedAnswer(answer, None)
        if text_of(answer):
            pair = encode(request.args[0], answer.split(NEXT_QUESTION)[0].rstrip())
            scored[number] = (None, pair.context, pair.continuation[:longest])
    likelihoods = score(list(scored.values())) if scored else []
    for (number, (_, _, tokens)), (likelihood, _) in zip(scored.items(), likelihoods, strict=True):
        results[number] = GeneratedAnswer(answers[number], -likelihood / len(tokens))
    return results
