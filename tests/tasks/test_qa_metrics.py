from __future__ import annotations

import math

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from lnbench import task_data
from lnbench.answer_rules import BUILT_IN, COLUMN, AnswerRules
from tests.support.messages import refused
from tests.support.tasks import load_metrics

qa = load_metrics("xquad")
continuation = load_metrics("demo")


def score(language: str, prediction: str, *golds: str) -> dict[str, float]:
    doc = {"language": language, "answers": {"text": list(golds), "answer_start": [0] * len(golds)}}
    result: dict[str, float] = qa.process_results(doc, [prediction])
    return result


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("en", " The  Answer, is: a “cat”! ", ["answer", "is", "cat"]),
        ("en", "theatre", ["theatre"]),
        ("en", "$5 + 3^2", ["5", "32"]),
        ("en", "well-known", ["wellknown"]),
        ("es", "¿Los Ángeles y las «olas»?", ["ángeles", "y", "olas"]),
        ("vi", "Những cái nhà của tôi là nhà", ["nhà", "tôi", "nhà"]),
        ("hi", "राम, का घर। 1,200", ["राम", "का", "घर", "1200"]),
        ("ur", "لاہور، پاکستان۔", ["لاہور", "پاکستان"]),
        ("de", "Der Hund des Mannes", ["hund", "mannes"]),
        ("ar", "القمر", ["قمر"]),
        ("zh", "1984年，在New York的第3号", ["1984", "年", "在", "new", "york", "的", "第", "3", "号"]),
        ("zh", "the 马", ["the", "马"]),
        ("zh", "《三国》", ["三", "国"]),
        ("en", " … ", []),
    ],
)
def test_normalisation(language: str, text: str, expected: list[str]) -> None:
    assert BUILT_IN[language].split(text) == expected


@pytest.mark.parametrize(
    ("language", "prediction", "golds", "exact_match", "f1"),
    [
        ("en", "in 1903", ["1903"], 0, 2 / 3),
        ("en", "the year 1903.", ["in 1903", "Year 1903"], 1, 1),
        ("en", "big big dog", ["big dog dog"], 0, 2 / 3),
        ("en", "", ["1903"], 0, 0),
        ("en", "the", ["1903"], 0, 0),
        ("en", "", ["the"], 1, 1),
        ("zh", "1903年", ["1903 年"], 1, 1),
        ("zh", "北京大学", ["北京"], 0, 2 * 2 / 6),
        ("zh", "大北京", ["北京大"], 0, 1),
        ("hi", "राम का घर", ["राम का मकान", "श्याम"], 0, 2 / 3),
        ("vi", "của Hà Nội", ["Hà Nội"], 1, 1),
        ("ur", "چونتیس سرنگیں", ["چونتیس"], 0, 2 / 3),
    ],
)
def test_scores(language: str, prediction: str, golds: list[str], exact_match: float, f1: float) -> None:
    assert score(language, prediction, *golds) == {"exact_match": exact_match, "f1": pytest.approx(f1)}


def test_language_without_rules() -> None:
    with refused("'ta'", "ar, de, el, en", "answers: {tokens:"):
        score("ta", "x", "y")


@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("th", "กรุงเทพฯ 2024, iPhone", [*"กรุงเทพฯ", "2024", "iphone"]),
        ("lo", "ວຽງຈັນ", list("ວຽງຈັນ")),
        ("km", "ភ្នំពេញ", list("ភ្នំពេញ")),
        ("my", "ရန်ကုန်", list("ရန်ကုန်")),
        ("ja", "東京タワー 333", [*"東京タワー", "333"]),
    ],
)
def test_characters_of_scripts_without_spaces(language: str, text: str, expected: list[str]) -> None:
    assert AnswerRules(tokens="characters").split(text) == expected
    rules = {"tokens": "characters", "remove": ""}
    doc = {"language": language, COLUMN: rules, "answers": {"text": [text], "answer_start": [0]}}
    assert qa.process_results(doc, [text]) == {"exact_match": 1, "f1": 1}
    assert qa.process_results(doc, [expected[0]]) == {
        "exact_match": 0,
        "f1": pytest.approx(2 / (1 + len(expected))),
    }


@pytest.mark.parametrize(
    ("stated", "named"),
    [
        ({"tokens": "words"}, ["answers", "tokens", "spaces"]),
        ({"remove": "("}, ["answers", "remove", "regular expression"]),
        ({"articles": "x"}, ["answers", "articles"]),
        ("spaces", ["answers", "tokens: spaces"]),
    ],
)
def test_rules_that_do_not_fit_are_refused_before_anything_is_read(stated: object, named: list[str]) -> None:
    with refused(*named):
        task_data.xquad(lnbench_language="th", answers=stated)


@settings(deadline=None)
@given(st.text("กขคab 1.,東", max_size=20), st.sampled_from(["spaces", "characters", "han"]))
def test_every_rule_keeps_all_but_punctuation_and_space(text: str, tokens: str) -> None:
    split = AnswerRules(tokens=tokens).split(text)
    assert "".join(split) == "".join(c for c in text.lower() if c not in " .,")


@pytest.mark.parametrize(
    ("prediction", "gold", "without", "counted"), [("x", "y", 0, 0.5), ("x y", "z", 0, 0.4), ("x", "x", 1, 1)]
)
def test_the_papers_f1_counts_the_end_token(prediction: str, gold: str, without: float, counted: float) -> None:
    doc = {"language": "en", "answers": {"text": [gold], "answer_start": [0]}}
    assert qa.process_results(doc, [prediction])["f1"] == without
    own = qa.process_results(doc | {"end_token": True}, [prediction])
    assert own == {"exact_match": float(prediction == gold), "f1": pytest.approx(counted)}


languages = st.sampled_from(sorted(BUILT_IN))
answers = st.one_of(st.text(max_size=30), st.text("ab 的北 the。,", max_size=12))


@settings(deadline=None)
@given(languages, answers, st.lists(answers, min_size=1, max_size=3))
def test_exact_match_never_exceeds_f1(language: str, prediction: str, golds: list[str]) -> None:
    scores = score(language, prediction, *golds)
    assert 0 <= scores["exact_match"] <= scores["f1"] <= 1


@settings(deadline=None)
@given(languages, answers, answers)
def test_symmetric(language: str, first: str, second: str) -> None:
    assert score(language, first, second) == score(language, second, first)


@settings(deadline=None)
@given(languages, answers, st.lists(answers, max_size=2))
def test_gold_answer_is_right(language: str, answer: str, others: list[str]) -> None:
    assert score(language, answer, *others, answer) == {"exact_match": 1, "f1": 1}


@settings(deadline=None)
@given(languages, answers, st.lists(answers, min_size=1, max_size=3))
def test_best_gold_counts(language: str, prediction: str, golds: list[str]) -> None:
    single = [score(language, prediction, gold) for gold in golds]
    assert score(language, prediction, *golds) == {name: max(s[name] for s in single) for name in ("exact_match", "f1")}


@settings(deadline=None)
@given(languages, answers)
def test_tokens_hold_no_space(language: str, text: str) -> None:
    assert all([token] == token.split() for token in BUILT_IN[language].split(text))


def test_continuation_metrics() -> None:
    doc = {"contexts": ["a", "b", "c"], "continuation": "été", "label": 0}
    likelihoods = [(-5 * math.log(2), False), (-9.0, False), (-8.0, False)]
    assert continuation.process_results(doc, likelihoods) == {"acc": 1, "bits_per_byte": pytest.approx(1)}
    assert continuation.process_results({**doc, "label": 1}, likelihoods)["acc"] == 0
