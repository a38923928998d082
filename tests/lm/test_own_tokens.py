"""``tokens_overridden`` counts each document's own tokens once, however its requests are batched and share rows."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.api.instance import Instance

from lnbench.lm import LNBenchLM
from lnbench.lm.scoring import TokenRow, first_runs

SELECTOR = "act_prob:fraction=0.15"
DOCUMENTS: list[list[tuple[str, str]]] = [
    [("Is it so?", " y"), ("Is it so?", " n"), ("Is it so?", " m")],  # choices of one token
    [("नदी", " चौड़ी है"), ("नदी", " चौड़ी थी"), ("नदी", " नहीं")],  # of several, with a common beginning
    [("The river", " is wide"), ("The road", " is wide"), ("The rivers", " are wide")],  # other prompts, like choices
    [("Is it so?", " y"), ("Is it so?", " n")],  # the first document's prompt again
    [("ab", "cd"), ("abc", "d")],  # one text, another border
    [("", "Nothing before")],
]


@pytest.fixture
def overriding(tiny_model: str, tiny_corpus: str) -> Any:
    def make(**arguments: Any) -> LNBenchLM:
        given = {"corpus": tiny_corpus, "corpus_tokens": 400, "selector": SELECTOR, "intervention": "zero"} | arguments
        return LNBenchLM(tiny_model, **given)

    return make


def requests() -> list[Instance]:
    return [
        Instance("loglikelihood", {}, arguments, choice, ("task_hi", number, 1))
        for number, choices in enumerate(DOCUMENTS)
        for choice, arguments in enumerate(choices)
    ]


def own_tokens(rows: Sequence[TokenRow], documents: Sequence[Any], positions: str) -> int:
    """Different beginnings of a document's rows that end in a token to change."""
    beginnings = set()
    for row, document in zip(rows, documents, strict=True):
        for end in range(1, len(row.tokens) + 1):
            in_prompt = end <= row.prompt
            if positions == "all" or in_prompt == (positions == "prompt"):
                beginnings.add((document, tuple(row.tokens[:end])))
    return len(beginnings)


@pytest.mark.parametrize("positions", ["all", "prompt", "generated"])
def test_any_batch_counts_the_same(overriding: Any, positions: Any) -> None:
    counts = set()
    for settings_of_batch in ({"batch_size": 1}, {"batch_size": 3}, {"batch_size": 16}):
        for share in (True, False):
            lm = overriding(positions=positions, logits_cache=share, **settings_of_batch)
            lm.loglikelihood(requests())
            counts.add(lm.accounts["hi"].tokens)
    encoded = [(one.doc_id, *lm._encode_pair(*one.args)) if one.args[0] else None for one in requests()]
    rows, documents = [], []
    for one, pair in zip(requests(), encoded, strict=True):
        context, continuation = pair[1:] if pair else (None, lm.tok_encode(one.args[1]))
        row = (context + continuation)[:-1] if context is not None else continuation[:-1]
        rows.append(TokenRow(row, len(continuation) if context is not None else len(continuation) - 1))
        documents.append(one.doc_id)
    assert counts == {own_tokens(rows, documents, positions)}


def test_one_token_choices_share_a_row_whatever_positions_are_changed(overriding: Any) -> None:
    choices = [one for one in requests() if one.doc_id == 0]
    answers = []
    for share in (True, False):
        lm = overriding(positions="prompt", logits_cache=share, batch_size=1)
        passes: list[int] = []
        handle = lm.model.register_forward_hook(lambda *_, passes=passes: passes.append(1))
        answers.append([likelihood for likelihood, _ in lm.loglikelihood(choices)])
        handle.remove()
        assert len(passes) == (1 if share else 3)
    assert answers[0] == pytest.approx(answers[1], abs=1e-5)


def test_rows_that_a_stop_sequence_has_ended_are_not_counted(overriding: Any) -> None:
    contexts = ["x", "नदी चौड़ी", "A longer text", "एक"]
    free = overriding(batch_size=4)
    plain = {"until": ["\n\n\n"], "max_gen_toks": 10, "do_sample": False}
    ask = [
        Instance("generate_until", {}, (context, dict(plain)), 0, ("task_hi", n, 1))
        for n, context in enumerate(contexts)
    ]
    texts = free.generate_until(ask)
    stop = next(letter for letter in texts[0][2:] if letter not in texts[1][:7])
    counts = set()
    for size in (1, 2, 4):
        lm = overriding(batch_size=size)
        stopping = [
            Instance("generate_until", {}, (context, plain | {"until": [stop]}), 0, ("task_hi", n, 1))
            for n, context in enumerate(contexts)
        ]
        found = lm.generate_until(stopping)
        assert found == [text.split(stop)[0] for text in texts]
        counts.add(lm.accounts["hi"].tokens)
    assert len(counts) == 1
    assert counts.pop() < free.accounts["hi"].tokens


@given(
    st.lists(st.tuples(st.integers(0, 2), st.lists(st.integers(0, 2), min_size=1, max_size=5), st.data()), max_size=6),
    st.sampled_from(["all", "prompt", "generated"]),
)
@settings(max_examples=60)
def test_first_runs_are_the_different_beginnings(drawn: list[Any], positions: Any) -> None:
    rows = [TokenRow(tokens, data.draw(st.integers(1, len(tokens)))) for _, tokens, data in drawn]
    documents = [document for document, _, _ in drawn]
    runs = first_runs(rows, documents, positions)
    assert [len(run) for run in runs] == [len(row.tokens) for row in rows]
    assert sum(int(run.sum()) for run in runs) == own_tokens(rows, documents, positions)
