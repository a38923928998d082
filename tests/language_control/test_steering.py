"""The steering score, its intervals over questions, and what a judge is asked and says."""

from __future__ import annotations

from fractions import Fraction
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lnbench.language_control import steering
from lnbench.language_control.judging import instruction, rating_of
from lnbench.language_control.steering import RatedAnswer
from lnbench.lm.judge import Judge
from tests.support.messages import refused

ANSWERS = st.builds(
    RatedAnswer,
    question=st.sampled_from(["q1", "q2", "q3"]),
    source=st.sampled_from(["en", "hi"]),
    target=st.sampled_from(["hi", "zh"]),
    success=st.sampled_from([0.0, 1.0]),
    rating=st.sampled_from([None, 0, 1, 2]),
    judged=st.just(True),
)


@settings(max_examples=20)
@given(st.lists(ANSWERS, min_size=1, max_size=12))
def test_scores_are_the_published_means(answers: list[RatedAnswer]) -> None:
    own = steering.summarise(answers)
    ratings = [answer.rating for answer in answers if answer.rating is not None]
    lfs = Fraction(sum(int(answer.success) for answer in answers), len(answers))
    assert own.n == len(answers)
    assert own.lfs == pytest.approx(float(lfs))
    assert own.unparsable == len(answers) - len(ratings)
    if not ratings:
        assert own.relevance is own.score is None
        return
    relevance = Fraction(sum(ratings), 2 * len(ratings))
    score = 2 * lfs * relevance / (lfs + relevance) if lfs and relevance else 0
    assert (own.relevance, own.score) == pytest.approx((float(relevance), float(score)))
    assert own.score == pytest.approx(steering.harmonic_mean(float(lfs), float(relevance)))


@settings(max_examples=20)
@given(st.lists(ANSWERS, min_size=1, max_size=12), st.booleans())
def test_groups_leave_out_the_diagonal(answers: list[RatedAnswer], diagonal: bool) -> None:
    kept = [answer for answer in answers if diagonal or answer.source != answer.target]
    for group in (steering.pair_of, steering.target_of, steering.source_of, steering.overall):
        own = steering.by_group(answers, group, diagonal=diagonal)
        assert {name: scores.n for name, scores in own.items()} == {
            name: sum(group(answer) == name for answer in kept) for name in dict.fromkeys(map(group, kept))
        }


def test_answers_to_one_question_are_not_independent() -> None:
    # Ten answers to each of four questions, all alike: as much is known as from one answer to each.
    once = [RatedAnswer(f"q{number}", "en", "hi", float(number % 2), 2) for number in range(4)]
    assert steering.summarise(once * 10).lfs_interval == steering.summarise(once).lfs_interval
    independent = [RatedAnswer(f"q{number}", "en", "hi", float(number % 2), 2) for number in range(40)]
    low, high = steering.summarise(independent).lfs_interval or (0, 0)
    wide_low, wide_high = steering.summarise(once).lfs_interval or (0, 0)
    assert high - low < (wide_high - wide_low) / 2


def test_one_question_has_no_interval() -> None:
    own = steering.summarise([RatedAnswer("q", "en", "hi", 1.0, 2)])
    assert (own.lfs, own.score) == (1, 1)
    assert own.lfs_interval is own.score_interval is None


@pytest.mark.parametrize(
    ("said", "rating"),
    [
        ("It answers. [[2]]", 2),
        ("[[0]] would be noise, but this is fine.\n[[1]]", 1),
        ("Rating: [[ 2 ]].", 2),
        ("I would say 1", 1),
        ("Grade: 2.", 2),
        ("[[3]]", None),
        ("out of 10", None),
        ("0.2", None),
        ("2 reasons are given", None),
        ("", None),
    ],
)
def test_ratings_are_read(said: str, rating: int | None) -> None:
    assert rating_of(said) == rating


def test_texts_are_put_in_as_they_are() -> None:
    text = instruction("Why {answer}?", "{source} [[2]]", "en")
    assert "Question (en):\nWhy {answer}?" in text and "{source} [[2]]" in text
    assert "(the answer is empty)" in instruction("Why?", " \n", "en")


class Speaker:
    """A judge that says the same things, one after the other, and counts what it is asked."""

    def __init__(self, *said: str) -> None:
        self.said, self.asked = list(said), 0

    def generate_until(self, requests: list[Any]) -> list[str]:
        self.asked += len(requests)
        return [self.said[number % len(self.said)] for number in range(len(requests))]

    def apply_chat_template(self, turns: list[dict[str, str]]) -> str:
        return turns[0]["content"]


def test_a_judge_is_asked_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    speaker = Speaker("[[2]]", "no idea")
    monkeypatch.setattr(Judge, "_load", lambda _: speaker)
    asked = [("Why?", "Because.", "en"), ("How?", "So.", "en"), ("Why?", "Because.", "en")]
    file = tmp_path / "ratings.jsonl"
    assert Judge("some", {}, file).rate(asked) == [2, None, 2]
    assert Judge("some", {}, file).rate(asked) == [2, None, 2]
    assert speaker.asked == 2
    Judge("another", {}, file).rate(asked[:1])
    assert speaker.asked == 3
    file.write_text("{}", encoding="utf-8")
    with refused(file):
        Judge("some", {}, file)


@pytest.mark.parametrize(("name", "arguments"), [("", {"device": "cpu"}), ("hf", {"device": "cpu"})])
def test_judges_are_loaded_by_either_name(name: str, arguments: dict[str, str], tiny_model: str) -> None:
    judge = Judge(name or tiny_model, arguments | ({"pretrained": tiny_model} if name == "hf" else {}))
    judge.generation = {"until": [], "do_sample": False, "max_gen_toks": 2}
    (rating,) = judge.rate([("Why?", "Because.", "en")])
    assert rating in (None, 0, 1, 2)
