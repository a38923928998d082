"""The language that an answer is in, beside the one that was to be forced."""

from __future__ import annotations

import json
import math
import pickle

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lnbench.demo import DATA, LANGUAGES
from lnbench.language_control import forcing

TEXT = {
    language: json.loads((DATA / "corpus" / f"{language}.jsonl").read_text(encoding="utf-8").splitlines()[0])["text"]
    for language in LANGUAGES
}
JAPANESE = "吾輩は猫である。名前はまだ無い。どこで生れたか頓と見当がつかぬ。"


@pytest.mark.parametrize("target", LANGUAGES)
@pytest.mark.parametrize("said", LANGUAGES)
def test_each_language_is_told_from_the_others(target: str, said: str) -> None:
    own = forcing.scores(TEXT[said], target, "en")
    assert own["lfs"] == own["line_lfs"] == (said == target)
    assert own["source_share"] == (said == "en" != target)
    assert own["unknown"] == 0


@pytest.mark.parametrize("code", ["hi", "hin", "hin_Deva"])
def test_codes_of_one_language_are_one(code: str) -> None:
    assert forcing.is_in(TEXT["hi"], code) and not forcing.is_in(TEXT["ur"], code)


@pytest.mark.parametrize(
    ("answer", "target", "lfs", "line_lfs", "source", "unknown", "length"),
    [
        ("", "hi", 0, 0, 0, 1, 0),
        (" \n ", "hi", 0, 0, 0, 1, 0),
        ("😀🎉🚀", "hi", 0, 0, 0, 1, 3),
        ("12 + 30 = 42", "hi", 0, 0, 0, 1, 12),
        (f"\nQ: {TEXT['hi']}", "hi", 0, 0, 0, 1, 0),  # nothing before the next question
        (f"{TEXT['hi'][:60]}\nQ: more?\nA: Yes", "hi", 1, 1, 0, 0, 60),
        (f"{TEXT['hi'][:60]}\n😀\nThis line is in English, as you can see", "hi", 1, 0.5, 0, 0, None),
        (f"{TEXT['hi'][:60]} and then some English words", "hi", 1, 1, 0, 0, None),  # mixed scripts
        (JAPANESE, "ja", 1, 1, 0, 0, len(JAPANESE)),  # without spaces
        ("```python\nfor item in items:\n    print(item)\n```", "hi", 0, 0, 1, 0, None),  # code is held for English
        ((TEXT["hi"] * 40)[:10_000].strip(), "hi", 1, None, 0, 0, None),
    ],
)
def test_each_kind_of_answer(
    answer: str, target: str, lfs: float, line_lfs: float | None, source: float, unknown: float, length: int | None
) -> None:
    own = forcing.scores(answer, target, "en")
    assert (own["lfs"], own["unknown"]) == (lfs, unknown)
    assert line_lfs is None or own["line_lfs"] == line_lfs
    assert own["source_share"] == source
    assert length is None or own["length"] == length


def test_a_source_that_is_the_target_is_not_counted_twice() -> None:
    own = forcing.scores(TEXT["hi"], "hi", "hi")
    assert (own["lfs"], own["source_share"]) == (1, 0)


@settings(max_examples=25)
@given(st.lists(st.sampled_from(["a", "b", "c", "क", "ख"]), max_size=8), st.sampled_from([1, 2]))
def test_distinct_counts_ngrams(words: list[str], n: int) -> None:
    grams = [tuple(words[start : start + n]) for start in range(len(words) - n + 1)]
    expected = None if not grams else len(set(grams)) / len(grams)
    assert forcing.distinct(" ".join(words), n) == expected


@pytest.mark.parametrize(
    ("answer", "n", "expected"),
    [("好好学习", 1, 0.75), ("Yes, yes!", 1, 0.5), ("हाँ हाँ हाँ", 2, 0.5), ("😀 😀", 1, None), ("one", 2, None)],
)
def test_words_of_every_script(answer: str, n: int, expected: float | None) -> None:
    assert forcing.distinct(answer, n) == expected


def test_perplexity_is_a_geometric_mean_of_known_ones() -> None:
    assert forcing.perplexity([math.log(2), None, math.log(8)]) == pytest.approx(4)
    assert math.isnan(forcing.perplexity([None]))


def test_likelihoods_reach_the_task_with_the_answer() -> None:
    doc = {"target": "hi", "source": "en"}
    assert forcing.process_results(doc, [forcing.GeneratedAnswer(TEXT["hi"], 1.5)])["perplexity"] == 1.5
    assert "perplexity" not in forcing.process_results(doc, [TEXT["hi"]])


def test_likelihoods_survive_being_sent_to_another_process() -> None:
    sent = pickle.loads(pickle.dumps(forcing.GeneratedAnswer("नमस्ते", 1.5)))
    assert (sent, sent.nats_per_token) == ("नमस्ते", 1.5)
