"""The lm-eval model's answers: equal to ``hf`` without an intervention, and to plain forwards under one."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
import torch
from lm_eval.api.instance import Instance
from lm_eval.models.huggingface import HFLM

import lnbench
from lnbench.lm import LNBenchLM
from lnbench.override_values import Override
from tests.support.messages import refused
from tests.support.tiny import CONFIGS, build, tokenizer

SELECTOR = "act_prob:fraction=0.15"
PAIRS = [
    ("The river is wide", " and slow"),
    ("The river is wide", " and quick"),
    ("नदी चौड़ी", " है"),
    ("", "Empty context"),
    ("Yes or no?", " y"),
    ("Yes or no?", " n"),
    ("一条河", "很宽。"),
    ("A much longer context that makes its batch ragged, so that others are padded on the right.", " End."),
]
UNTIL = {"until": ["\n"], "max_gen_toks": 6, "do_sample": False}


def requests(kind: str, task: str = "some_hi") -> list[Instance]:
    arguments: list[tuple[Any, ...]] = {
        "loglikelihood": [*PAIRS],
        "loglikelihood_rolling": [(context + continuation,) for context, continuation in PAIRS],
        "generate_until": [(context or "x", dict(UNTIL)) for context, _ in PAIRS],
    }[kind]
    return [Instance(kind, {}, one, 0, (task, number, 1)) for number, one in enumerate(arguments)]


KINDS = ("loglikelihood", "loglikelihood_rolling", "generate_until")


@pytest.fixture(scope="module")
def plain(tiny_model: str) -> HFLM:
    return HFLM(tiny_model, device="cpu", batch_size=3)


@pytest.fixture
def overriding(tiny_model: str, tiny_corpus: str) -> Iterator[Any]:
    def make(**arguments: Any) -> LNBenchLM:
        defaults = {"corpus": tiny_corpus, "corpus_tokens": 400, "selector": SELECTOR, "batch_size": 3}
        return LNBenchLM(tiny_model, **(defaults | arguments))

    yield make


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("batch_size", [1, 3, 8])
def test_without_intervention_answers_are_those_of_hf(tiny_model: str, kind: str, batch_size: int) -> None:
    ours = LNBenchLM(tiny_model, batch_size=batch_size)
    # Of a rolling likelihood, hf puts a BOS before the tokenizer's own.
    bos = {"add_bos_token": False} if kind == "loglikelihood_rolling" else {}
    theirs = HFLM(tiny_model, device="cpu", batch_size=batch_size, **bos)
    assert getattr(ours, kind)(requests(kind)) == getattr(theirs, kind)(requests(kind))


@pytest.mark.parametrize("changes", [{"logits_cache": False}, {"max_length": 96}, {"softmax_dtype": "float64"}])
def test_hf_arguments_mean_the_same(tiny_model: str, changes: dict[str, Any]) -> None:
    ours = LNBenchLM(tiny_model, batch_size=4, **changes)
    theirs = HFLM(tiny_model, device="cpu", batch_size=4, **changes)
    assert ours.loglikelihood(requests("loglikelihood")) == theirs.loglikelihood(requests("loglikelihood"))


@pytest.mark.parametrize("model_type", CONFIGS)
def test_every_architectures_answers_are_those_of_hf(model_type: str) -> None:
    model = build(model_type)
    head, positions = model.get_output_embeddings(), []
    theirs = HFLM(model, tokenizer=tokenizer(), device="cpu", batch_size=3)
    ours = LNBenchLM(model, tokenizer=tokenizer(), batch_size=3)
    handle = head.register_forward_hook(lambda _, inputs, __: positions.append(inputs[0].shape[:-1].numel()))
    expected = theirs.loglikelihood(requests("loglikelihood"))
    computed, positions[:] = sum(positions), []
    assert ours.loglikelihood(requests("loglikelihood")) == expected
    handle.remove()
    assert 0 < sum(positions) < computed / 3


def test_a_model_without_a_head_of_its_own(tiny_model: str) -> None:
    theirs = HFLM(tiny_model, device="cpu", batch_size=3)
    ours = LNBenchLM(tiny_model, batch_size=3)
    ours.model.get_output_embeddings = lambda: None
    assert ours.loglikelihood(requests("loglikelihood")) == theirs.loglikelihood(requests("loglikelihood"))


def _by_hand(lm: LNBenchLM, language: str, positions: str = "all") -> list[tuple[float, bool]]:
    """Every pair in a forward of its own, under the public context manager."""
    change, statistics = lm.artifacts.override(lm.experiment, language)
    answers = []
    for context, continuation in PAIRS:
        if context:
            head, tail = lm._encode_pair(context, continuation)
        else:
            head, tail = [lm.prefix_token_id], lm.tok_encode(continuation, add_special_tokens=False)
        ids = torch.tensor([head + tail])[:, :-1]
        places = torch.arange(ids.shape[1])
        real = {"all": places >= 0, "prompt": places < len(head), "generated": places >= len(head)}[positions]
        with torch.no_grad(), lnbench.override(lm.model, change, statistics=statistics) as applied:
            applied.real = real.unsqueeze(0)
            scores = lm.model(ids).logits.log_softmax(-1)[0, -len(tail) :]
        target = torch.tensor(tail)
        answers.append((float(scores.gather(1, target[:, None]).sum()), bool((scores.argmax(-1) == target).all())))
    return answers


@pytest.mark.parametrize("intervention", ["zero", "mean", "p10", "p99", "constant:value=0.5"])
@pytest.mark.parametrize("batch_size", [1, 3])
def test_likelihoods_under_an_intervention_are_those_of_single_forwards(
    overriding: Any, intervention: str, batch_size: int
) -> None:
    lm = overriding(intervention=intervention, batch_size=batch_size)
    answers = lm.loglikelihood(requests("loglikelihood"))
    for (ours, ours_greedy), (theirs, theirs_greedy) in zip(answers, _by_hand(lm, "hi"), strict=True):
        assert ours == pytest.approx(theirs, abs=2e-4)
        assert ours_greedy == theirs_greedy


@pytest.mark.parametrize("positions", ["prompt", "generated"])
def test_positions_decide_which_tokens_are_changed(overriding: Any, positions: str) -> None:
    lm = overriding(intervention="zero", positions=positions, batch_size=4)
    answers = lm.loglikelihood(requests("loglikelihood"))
    for (ours, _), (theirs, _) in zip(answers, _by_hand(lm, "hi", positions), strict=True):
        assert ours == pytest.approx(theirs, abs=2e-4)


@pytest.mark.parametrize("positions", ["all", "prompt", "generated"])
def test_generation_counts_each_document_alike_in_any_batch(overriding: Any, positions: str) -> None:
    counts, answers = [], []
    for size in (1, 3, 8):
        lm = overriding(intervention="zero", positions=positions, batch_size=size)
        answers.append(lm.generate_until(requests("generate_until")))
        counts.append(lm.accounts["hi"].tokens)
    assert answers[0] == answers[1] == answers[2]
    assert counts[0] == counts[1] == counts[2]
    asked = sum(len(lm.tok_encode(request.args[0])) for request in requests("generate_until"))
    assert counts[0] == asked if positions == "prompt" else counts[0] > 0


def test_only_real_tokens_are_counted(overriding: Any) -> None:
    lm = overriding(intervention="mean", batch_size=8, logits_cache=False)
    lm.loglikelihood(requests("loglikelihood"))
    inputs = 0
    for context, continuation in PAIRS:
        inputs += len(lm.tok_encode(context + continuation)) - 1 if context else len(lm.tok_encode(continuation)) - 1
    assert lm.accounts["hi"].tokens == inputs


def test_one_call_serves_several_languages(overriding: Any) -> None:
    lm = overriding(intervention="zero", batch_size=4)
    mixed = [*requests("loglikelihood", "t_hi"), *requests("loglikelihood", "t_zh"), *requests("loglikelihood", "t_en")]
    answers = lm.loglikelihood(mixed)
    size = len(PAIRS)
    for number, language in enumerate(("hi", "zh", "en")):
        alone = overriding(intervention="zero", batch_size=4, language=language)
        assert answers[number * size : (number + 1) * size] == alone.loglikelihood(requests("loglikelihood"))
    assert set(lm.accounts) == {"hi", "zh", "en"}
    assert answers[:size] != answers[size : 2 * size]


def test_no_hook_outlives_a_call(overriding: Any) -> None:
    lm = overriding(intervention="zero")
    before = LNBenchLM(lm.model, tokenizer=lm.tokenizer, batch_size=3).loglikelihood(requests("loglikelihood"))
    lm.loglikelihood(requests("loglikelihood"))
    assert not any(module._forward_hooks or module._forward_pre_hooks for module in lm.model.modules())
    after = LNBenchLM(lm.model, tokenizer=lm.tokenizer, batch_size=3).loglikelihood(requests("loglikelihood"))
    assert before == after


@pytest.mark.parametrize("kind", KINDS)
def test_automatic_batch_size(overriding: Any, kind: str) -> None:
    lm = overriding(intervention="zero", batch_size="auto")
    fixed = overriding(intervention="zero", batch_size=8)
    ours, theirs = getattr(lm, kind)(requests(kind)), getattr(fixed, kind)(requests(kind))
    if kind == "generate_until":
        assert ours == theirs
    else:
        first = [one[0] if isinstance(one, tuple) else one for one in ours]
        assert first == pytest.approx([one[0] if isinstance(one, tuple) else one for one in theirs], abs=1e-4)
    assert lm.accounts["hi"].tokens == fixed.accounts["hi"].tokens


def test_dummy_forwards_of_a_batch_size_search_are_not_counted(overriding: Any, monkeypatch: Any) -> None:
    lm = overriding(intervention="zero", batch_size="auto", max_batch_size=4)
    fixed = overriding(intervention="zero", batch_size=4)
    fixed.loglikelihood(requests("loglikelihood"))
    search = HFLM._detect_batch_size

    def on_a_gpu(self: Any, asked: Any = None, pos: int = 0) -> int:
        with self._applied.paused():
            return search(self, [(None, [0] * 20, [0])], 0)

    monkeypatch.setattr(LNBenchLM, "_detect_batch_size", on_a_gpu)
    lm.loglikelihood(requests("loglikelihood"))
    assert lm.accounts["hi"].tokens == fixed.accounts["hi"].tokens


class _Nothing:
    def override(self, context: Any) -> Override:
        return Override({})


def test_an_intervention_that_changes_no_token_is_an_error(overriding: Any) -> None:
    lm = overriding(intervention="zero", positions="generated", batch_size=2)
    one_token = [Instance("loglikelihood", {"language": "hi"}, ("नदी", " y"), 0, ("one_token", 0, 1))]
    assert len(lm.tok_encode(" y", add_special_tokens=False)) == 2  # a space and a letter: one of them is an input
    lm.loglikelihood(one_token)
    single = [Instance("loglikelihood", {"language": "hi"}, ("नदी", "y"), 0, ("one_token", 0, 1))]
    with refused("one_token", "positions=all"):
        lm.loglikelihood(single)


def test_a_plugin_that_overrides_nothing_is_an_error(overriding: Any) -> None:
    class Plugin:
        @lnbench.hookimpl
        def lnbench_register_interventions(self, register: Any) -> None:
            register("nothing", _Nothing)

    from lnbench.host import get_host

    plugin = Plugin()
    get_host().register(plugin)
    try:
        with refused("nothing"):
            overriding(intervention="nothing").loglikelihood(requests("loglikelihood"))
    finally:
        get_host().unregister(plugin)
