"""What a document's requests begin with is run once: the same numbers, the same tokens changed and counted."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.api.instance import Instance

from lnbench.lm import LNBenchLM
from lnbench.lm.prefixes import SharedPrefixes, batches, families
from lnbench.lm.scoring import TokenRow
from tests.support.messages import refused
from tests.support.tiny import SELECTOR, build, tokenizer

TYPES = ["llama", "gemma3_text", "gpt2", "bloom", "opt", "phi3", "falcon", "cohere2"]
PREMISES = [
    "The river is wide and slow",
    "नदी चौड़ी है",
    "一条河",
    "A much longer premise, so that others are padded",
    "x",
]
CHOICES = ["Yes, it runs.", "No.", "Also, 它流", "N"]


def asked(contexts: bool) -> list[Instance]:
    """Choices after a context, or whole texts that begin alike."""
    pairs = [
        (document, index, (premise, f" {choice}") if contexts else ("", f"{premise}? {choice} So be it."))
        for document, premise in enumerate(PREMISES)
        for index, choice in enumerate(CHOICES)
    ]
    return [Instance("loglikelihood", {}, args, index, ("some_hi", document, 1)) for document, index, args in pairs]


def model(model_type: str, **arguments: Any) -> LNBenchLM:
    return LNBenchLM(build(model_type), tokenizer=tokenizer(), device="cpu", **arguments)


def assert_same(found: list[tuple[float, bool]], expected: list[tuple[float, bool]]) -> None:
    assert [greedy for _, greedy in found] == [greedy for _, greedy in expected]
    assert [score for score, _ in found] == pytest.approx([score for score, _ in expected], abs=1e-4)


@pytest.mark.parametrize("contexts", [True, False], ids=["contexts", "whole texts"])
@pytest.mark.parametrize("model_type", TYPES)
def test_numbers_are_those_of_whole_requests(model_type: str, contexts: bool, caplog: Any) -> None:
    requests = asked(contexts)
    expected = model(model_type, batch_size=3).loglikelihood(requests, disable_tqdm=True)
    for size in (1, 5, 64):
        lm = model(model_type, batch_size=size, share_prefix=True)
        assert_same(lm.loglikelihood(requests, disable_tqdm=True), expected)
        assert lm.get_model_info()["lnbench"]["share_prefix"]["used"] is True
    assert "share_prefix" not in caplog.text


def test_a_window_shorter_than_the_prompt() -> None:
    small = {"sliding_window": 8, "layer_types": ["sliding_attention", "full_attention", "sliding_attention"]}
    requests = asked(contexts=True)
    one, other = (
        LNBenchLM(build("gemma3_text", **small), tokenizer=tokenizer(), device="cpu", batch_size=8, share_prefix=share)
        for share in (False, True)
    )
    assert_same(other.loglikelihood(requests, disable_tqdm=True), one.loglikelihood(requests, disable_tqdm=True))


@pytest.mark.parametrize(
    ("positions", "contexts"),
    [("all", True), ("prompt", True), ("generated", True), ("all", False), ("generated", False)],
)
@pytest.mark.parametrize("intervention", ["zero", "mean"])
def test_under_an_override(
    positions: str, intervention: str, contexts: bool, tiny_model: str, tiny_corpus: str
) -> None:
    given = {"corpus": tiny_corpus, "corpus_tokens": 400, "selector": SELECTOR, "intervention": intervention}
    answers, accounts = [], []
    for share in (False, True):
        lm = LNBenchLM(tiny_model, device="cpu", batch_size=6, positions=positions, share_prefix=share, **given)
        answers.append(lm.loglikelihood(asked(contexts), disable_tqdm=True))
        accounts.append(lm.accounts["hi"].summary())
    assert_same(answers[1], answers[0])
    assert accounts[1]["tokens_overridden"] == accounts[0]["tokens_overridden"]


def test_a_model_whose_cache_gives_other_numbers_runs_every_request_whole(
    tiny_model: str, tiny_corpus: str, monkeypatch: pytest.MonkeyPatch, caplog: Any
) -> None:
    given = {"corpus": tiny_corpus, "corpus_tokens": 400, "selector": SELECTOR, "intervention": "zero"}
    plain = LNBenchLM(tiny_model, device="cpu", batch_size=6, **given)
    expected = plain.loglikelihood(asked(contexts=True), disable_tqdm=True)
    run = SharedPrefixes.logits
    wrong = lambda self, batch, counts: {key: value.flip(-1) for key, value in run(self, batch, counts).items()}  # noqa: E731
    monkeypatch.setattr(SharedPrefixes, "logits", wrong)
    lm = LNBenchLM(tiny_model, device="cpu", batch_size=6, share_prefix=True, **given)
    assert_same(lm.loglikelihood(asked(contexts=True), disable_tqdm=True), expected)
    assert caplog.text.count("run whole") == 1
    assert lm.get_model_info()["lnbench"]["share_prefix"]["used"] is False
    assert lm.accounts["hi"].summary()["tokens_overridden"] == plain.accounts["hi"].summary()["tokens_overridden"]


def test_a_model_without_a_cache_is_refused(tiny_model: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lm = LNBenchLM(tiny_model, device="cpu", batch_size=6, share_prefix=True)
    forward = lm.model.forward
    cacheless = lambda *args, **options: SimpleNamespace(logits=forward(*args, **options).logits)  # noqa: E731
    monkeypatch.setattr(lm.model, "forward", cacheless)
    with refused("LlamaForCausalLM", "share_prefix"):
        lm.loglikelihood(asked(contexts=True), disable_tqdm=True)


token_rows = st.lists(st.integers(0, 2), min_size=1, max_size=12).flatmap(
    lambda tokens: st.integers(1, len(tokens)).map(lambda scored: TokenRow(tokens, scored))
)


@settings(max_examples=200)
@given(
    rows=st.lists(token_rows, min_size=1, max_size=8),
    documents=st.lists(st.integers(0, 2), min_size=8, max_size=8),
    positions=st.sampled_from(["all", "prompt", "generated"]),
    size=st.integers(1, 9),
)
def test_families_are_a_partition_that_share_what_is_equal(
    rows: list[TokenRow], documents: list[int], positions: Any, size: int
) -> None:
    documents = documents[: len(rows)]
    found = families(rows, documents, positions)
    assert sorted(number for family in found for number in family.numbers) == list(range(len(rows)))
    for family in found:
        assert [rows[number] for number in family.numbers] == list(family.rows)
        assert len({documents[number] for number in family.numbers}) == 1
        changed = []
        for row in family.rows:
            assert family.prefix < len(row.tokens) or family.prefix == 0
            first, end = row.changed(positions)
            changed.append([first <= place < end for place in range(family.prefix)])
        assert len({tuple(row.tokens[: family.prefix]) for row in family.rows}) == 1
        assert all(of_row == changed[0] for of_row in changed)
    in_batches = list(batches(found, size))
    assert sorted(id(family) for batch in in_batches for family in batch) == sorted(map(id, found))
    for batch in in_batches:
        assert len({family.prefix == 0 for family in batch}) == 1
        assert len(batch) == 1 or sum(len(family.rows) for family in batch) <= size
