"""Numbers of likelihoods: nothing left to score, prompts that do not fit, one BOS on both sides of a comparison."""

from __future__ import annotations

import logging
from typing import Any

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM
from transformers import PreTrainedTokenizerFast

from lnbench import blocks
from lnbench.lm import LNBenchLM
from lnbench.perplexity.slices import cut
from lnbench.special_tokens import adds_bos, cut_left
from lnbench.statistics import describe_model
from lnbench.tables.caveats import leaderboard_caveats
from tests.support.messages import lacks, refused
from tests.support.rows import row
from tests.support.tiny import build
from tests.support.tokenizers import byte_tokenizer

MERGED = ("ab", "abc", "Ġz")
"""Tokens of several letters."""


def asked(*arguments: tuple[Any, ...], kind: str = "loglikelihood", task: str = "quiz_hi") -> list[Instance]:
    return [Instance(kind, {}, pair, 0, (task, number, 1)) for number, pair in enumerate(arguments)]


def model_with(tokenizer: PreTrainedTokenizerFast, **options: Any) -> LNBenchLM:
    return LNBenchLM(build("llama"), tokenizer=tokenizer, **options)


def score(lm: LNBenchLM, context: list[int], continuation: list[int]) -> float:
    """A likelihood by one plain forward pass."""
    ids = torch.tensor([context + continuation])
    with torch.no_grad():
        logits = lm.model(ids).logits.log_softmax(-1)[0, len(context) - 1 : -1]
    return float(logits.gather(1, torch.tensor(continuation)[:, None]).sum())


# Nothing is left to score

SPANNED = {
    "one token spans prompt and answer": ("xa", "b"),
    "a token of three letters": ("xab", "c"),
    "behind white space": ("no a", "b"),
    "the prompt's last space is in the answer's token": ("no ", "z"),
    "all of the prompt is in the token": ("a", "b"),
}


@pytest.mark.parametrize("case", SPANNED)
def test_an_answer_without_a_token_of_its_own_is_scored_by_its_own_tokens(case: str) -> None:
    prompt, answer = SPANNED[case]
    lm = model_with(byte_tokenizer(merged=MERGED))
    other = "q" if case != "the prompt's last space is in the answer's token" else "q q"
    found, _ = lm.loglikelihood(asked((prompt, answer), (prompt, other)))
    stripped = prompt.rstrip()
    context = lm.tok_encode(stripped)
    own = lm.tok_encode(prompt[len(stripped) :] + answer, add_special_tokens=False)
    assert found[0] == pytest.approx(score(lm, context, own), abs=1e-4)
    assert found[0] < 0
    whole = lm.tok_encode(prompt + answer)
    assert lm.prompts.tasks["quiz_hi"].own_tokens == (len(whole) <= len(context))


EMPTY = {
    "no answer": ("loglikelihood", ("a prompt", "")),
    "neither prompt nor answer": ("loglikelihood", ("", "")),
    "an answer that is BOS": ("loglikelihood", ("", "<bos>")),
    "no text": ("loglikelihood_rolling", ("",)),
    "a text that is BOS": ("loglikelihood_rolling", ("<bos>",)),
}


@pytest.mark.parametrize("adds", [True, False])
@pytest.mark.parametrize("case", EMPTY)
def test_a_request_without_any_token_is_refused(case: str, adds: bool) -> None:
    kind, arguments = EMPTY[case]
    lm = model_with(byte_tokenizer(adds_bos=adds))
    good = ("a prompt", " x") if kind == "loglikelihood" else ("a text",)
    with refused("quiz_hi", 1, repr(arguments[-1])):
        getattr(lm, kind)(asked(good, arguments, kind=kind))


@settings(deadline=None, max_examples=40)
@given(
    prompt=st.tuples(st.text("abcz ", max_size=2), st.sampled_from(["a", "ab", " ", ""])).map("".join),
    answer=st.tuples(st.sampled_from("bcza"), st.text("abcz ", max_size=1)).map("".join),
    adds=st.booleans(),
)
def test_no_likelihood_is_that_of_nothing(prompt: str, answer: str, adds: bool) -> None:
    lm = _LMS[adds]
    ((likelihood, _),) = lm.loglikelihood(asked((prompt, answer)))
    assert likelihood < 0
    ((rolling),) = lm.loglikelihood_rolling(asked((answer,), kind="loglikelihood_rolling"))
    assert rolling < 0


_LMS = {adds: model_with(byte_tokenizer(merged=MERGED, adds_bos=adds)) for adds in (True, False)}


def test_answers_that_share_a_token_with_their_prompt_are_counted_and_scored_as_by_hf() -> None:
    tokenizer = byte_tokenizer(merged=MERGED)
    lm, hf = model_with(tokenizer), HFLM(build("llama"), tokenizer=tokenizer, device="cpu")
    requests = asked(("xa", "bq"), ("x", "qq"))
    assert lm.loglikelihood(requests) == hf.loglikelihood(requests)
    counts = lm.get_model_info()["lnbench"]["prompts"]["quiz_hi"]
    assert (counts["shared_token"], counts["own_tokens"], counts["requests"]) == (1, 0, 2)


# Prompts that do not fit

LONG = "The river is wide and slow, and it runs to the sea."


@pytest.mark.parametrize("kind", ["loglikelihood", "generate_until"])
@pytest.mark.parametrize("adds", [True, False])
def test_a_cut_prompt_keeps_bos_and_is_counted_by_task(
    kind: str, adds: bool, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    lm = model_with(byte_tokenizer(adds_bos=adds), max_length=24)
    read = []
    forward = lm.model.forward
    monkeypatch.setattr(
        lm.model,
        "forward",
        lambda input_ids, *args, **options: read.append(input_ids) or forward(input_ids, *args, **options),
    )
    end = (" so",) if kind == "loglikelihood" else ({"until": ["\n"], "max_gen_toks": 4},)
    with caplog.at_level(logging.WARNING):
        getattr(lm, kind)([*asked((LONG, *end), kind=kind, task="long"), *asked(("A", *end), kind=kind, task="short")])
    longest = max(read, key=lambda ids: ids.shape[1])
    row_of_long = next(ids for ids in longest.tolist() if lm.tokenizer.decode(ids).count("sea"))
    assert (row_of_long[0] == lm.tokenizer.bos_token_id) == adds
    assert len(longest[0]) == (24 if kind == "loglikelihood" else 20)
    prompts = lm.get_model_info()["lnbench"]["prompts"]
    assert (prompts["long"]["cut"], prompts["long"]["requests"], prompts["short"]["cut"]) == (1, 1, 0)
    warnings = [record.getMessage() for record in caplog.records if record.name.startswith("lnbench")]
    assert [not lacks(text, "long", "max_length=24", "1 of 1") for text in warnings] == [True]


def test_the_likelihood_of_a_cut_prompt_is_that_of_its_end_behind_bos() -> None:
    lm = model_with(byte_tokenizer(), max_length=24)
    ((found, _),) = lm.loglikelihood(asked((LONG, " so")))
    context, continuation = lm._encode_pair(LONG, " so")
    assert found == pytest.approx(score(lm, [context[0], *context[-21:]], continuation), abs=1e-4)


@given(tokens=st.lists(st.integers(0, 3), min_size=1, max_size=9), length=st.integers(1, 9), first=st.integers(0, 3))
def test_what_is_cut_is_the_beginning_behind_bos(tokens: list[int], length: int, first: int) -> None:
    found = cut_left(tokens, length, first)
    assert len(found) == min(length, len(tokens))
    if tokens[0] == first and length > 1:
        assert found[0] == first
        assert found[1:] == tokens[1:][-(length - 1) :]
    else:
        assert found == tokens[-length:]


def test_an_answer_that_does_not_fit_is_refused_by_task_and_document() -> None:
    with refused("quiz_hi", 0, "max_length=8"):
        model_with(byte_tokenizer(), max_length=8).loglikelihood(asked(("a", LONG)))


def test_more_tokens_than_the_model_has_cannot_be_generated() -> None:
    lm = model_with(byte_tokenizer(), max_length=16)
    with refused("quiz_hi", 16, "max_length=16", "max_gen_toks=…"):
        lm.generate_until(asked(("a", {"until": ["\n"], "max_gen_toks": 16}), kind="generate_until"))


def test_the_report_says_what_was_cut() -> None:
    caveats = leaderboard_caveats(
        [row(cut_prompts=3, requests=40), row("mean", cut_prompts=2, requests=40), row("p10")]
    )
    (text,) = (text for caveat in caveats if "cut" in caveat.title for text in caveat.texts)
    assert not lacks(text, "quiz_hi", 3, 40)


# One BOS

KINDS = {
    "Llama 3, Gemma: adds BOS": {},
    "GPT-2, Pythia: BOS is EOS, and is not added": {"adds_bos": False},
    "BLOOM: has BOS, does not add it": {"adds_bos": False, "pad": False},
    "no BOS": {"bos": False},
}


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", ["pack", "truncate"])
def test_a_text_begins_the_same_way_everywhere(kind: str, mode: str, tiny_corpus: str) -> None:
    tokenizer = byte_tokenizer(**KINDS[kind])
    lm = model_with(tokenizer)
    added = lm.tok_encode("a text")[0] == tokenizer.bos_token_id
    assert adds_bos(tokenizer) == added == ("adds BOS" in kind)
    for batch in blocks(["a text of some length"] * 3, tokenizer, 8, mode=mode):
        ids = batch[0] if isinstance(batch, tuple) else batch
        assert [token == tokenizer.bos_token_id for token in ids[:, 0].tolist()] == [added] * len(ids)
    part = cut(tokenizer, tiny_corpus, "en", tokens=100, length=16)
    assert all((int(block[0]) == tokenizer.bos_token_id) == added for block in part.blocks)
    assert describe_model(lm.model, tokenizer)["bos"] == added == lm.get_model_info()["lnbench"]["bos"]


@pytest.mark.parametrize("kind", KINDS)
def test_a_rolling_likelihood_begins_with_one_prefix_token(kind: str) -> None:
    lm = model_with(byte_tokenizer(**KINDS[kind]))
    own = lm.tok_encode("a river", add_special_tokens=False)
    wanted = score(lm, [lm.prefix_token_id], own)
    for text in ("a river", *(["<bos>a river"] if lm.tokenizer.bos_token_id is not None else [])):
        (found,) = lm.loglikelihood_rolling(asked((text,), kind="loglikelihood_rolling"))
        assert found == pytest.approx(wanted, abs=1e-4)


@pytest.mark.parametrize(("adds", "chosen"), [(True, False), (False, True)])
def test_statistics_follow_add_bos_token(adds: bool, chosen: bool) -> None:
    tokenizer = byte_tokenizer(adds_bos=adds)
    lm = model_with(tokenizer, add_bos_token=chosen)
    begins = lm.tok_encode("ab")[0] == tokenizer.bos_token_id
    first = next(iter(blocks(["a text"], lm.tokenizer, 4)))[0, 0]
    assert lm.described["bos"] == begins == (first == tokenizer.bos_token_id)
    assert begins <= chosen
