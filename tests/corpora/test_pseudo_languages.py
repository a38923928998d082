"""The same text in another form: what changes, what stays, and what is recorded."""

from __future__ import annotations

import re
from collections import Counter

import pytest
from hypothesis import given
from hypothesis import strategies as st

from lnbench.corpora import pseudo_languages
from lnbench.corpora.corpus import fingerprint, open_corpus
from lnbench.corpora.packing import blocks
from lnbench.corpora.patterns import choose_languages, expand, is_hub, languages_of
from lnbench.corpora.pseudo_languages import rewriting, shuffle_words, split_forms
from lnbench.perplexity.slices import HeldOut
from tests.support.corpora import as_jsonl
from tests.support.messages import refused
from tests.support.tiny import tokenizer

HINDI = ["नमस्ते दुनिया यह एक परीक्षण है", "भारत की राजधानी दिल्ली है", "भारत की राजधानी दिल्ली है"]
UNSPACED = "ก-๛一-鿿぀-ヿ"


def words_by_hand(text: str) -> list[str]:
    """Split at white space; then every character of a script without spaces is one word with its marks."""
    return re.findall(rf"[{UNSPACED}][\u0e31\u0e34-\u0e3a\u0e47-\u0e4e]*|[^\s{UNSPACED}]+", text)


CHARACTERS = st.sampled_from(["我", "们", "き", "ดี", "ด"])
WORDS = st.one_of(st.text("ab,é1", max_size=5), st.lists(CHARACTERS, max_size=5).map("".join))


@given(
    st.lists(st.tuples(WORDS, st.sampled_from(["", " ", "\n", "\t  "])), max_size=6).map(
        lambda x: "".join(map("".join, x))
    )
)
def test_shuffled_text_has_the_same_words_and_white_space(text):
    shuffled = shuffle_words(text)
    assert Counter(words_by_hand(shuffled)) == Counter(words_by_hand(text))
    assert re.findall(r"\s+", shuffled) == re.findall(r"\s+", text)
    assert shuffle_words(text) == shuffled
    assert len(shuffled) == len(text)


def test_order_is_changed_and_depends_on_the_text():
    text = " ".join(map(str, range(30)))
    assert shuffle_words(text).split() != text.split()
    other = shuffle_words(f"{text} 30").split()
    assert [word for word in other if word != "30"] != shuffle_words(text).split()
    assert shuffle_words("我喜欢读书") != "我喜欢读书"


@pytest.mark.slow  # uroman takes seconds to load
@pytest.mark.parametrize(
    ("language", "text", "expected"),
    [
        ("hi", "नमस्ते दुनिया", "namaste duniyaa"),
        ("hin_Deva", "नमस्ते\nदुनिया", "namaste\nduniyaa"),
        ("zh", "北京", "beijing"),
        ("en", "Hello", "Hello"),
        ("mine", "Привет", "Privet"),
    ],
)
def test_romanised(language, text, expected):
    assert rewriting(["romanised"], language)(text) == expected


class StandIn:
    """What uroman is asked for, without its tables."""

    def romanize_string(self, text, lcode=None):
        return f"{lcode} {len(text)}"


@pytest.fixture
def pattern(tmp_path, monkeypatch):
    monkeypatch.setattr(pseudo_languages, "_uroman", StandIn)
    (tmp_path / "hi.jsonl").write_bytes(as_jsonl([*HINDI, "", "this is English"]))
    return f"{tmp_path}/{{lang}}.jsonl"


@pytest.mark.parametrize("suffix", ["|romanised", "|shuffled", "|romanised|shuffled"])
def test_a_corpus_in_another_form(pattern, suffix):
    native, other = (
        open_corpus(each, "hi", dedup=True, drop_wrong_script=True) for each in (pattern, pattern + suffix)
    )
    forms = suffix[1:].split("|")
    rewrite = rewriting(forms, "hi")
    assert list(other) == [rewrite(text) for text in native]
    assert len(list(other)) == 2  # screened as the native text is
    assert {**vars(other.report), "characters": 0} == {**vars(native.report), "characters": 0}
    assert other.report.characters == sum(map(len, other))
    assert other.source["forms"] == forms and ("uroman" in other.source) == ("romanised" in forms)
    assert other.fingerprint != native.fingerprint
    assert fingerprint(pattern + suffix, "hi") != fingerprint(pattern, "hi")
    assert list(HeldOut(pattern + suffix, "hi")) == [rewrite(text) for text in HeldOut(pattern, "hi")]
    assert len(list(blocks(other, tokenizer(), 8, 1))) > 0
    assert other.report.used == 2


def test_suffixes_are_part_of_every_kind_of_pattern(pattern, tmp_path):
    assert languages_of(f"{pattern}|shuffled") == choose_languages(f"{pattern}|shuffled", ["hi"]) == ["hi"]
    assert expand(f"{tmp_path}|shuffled") == f"{pattern}|shuffled"
    assert list(open_corpus(f"{tmp_path}/hi.jsonl|shuffled", "hi"))
    assert is_hub("wikimedia/wikipedia:20231101.{lang}|romanised")
    assert split_forms("a|b/{lang}.txt|shuffled") == ("a|b/{lang}.txt", ("shuffled",))
    assert split_forms("a|b/{lang}.txt") == ("a|b/{lang}.txt", ())


@pytest.mark.parametrize("suffix", ["romanized", "reversed"])
def test_unknown_forms(pattern, suffix):
    with refused(suffix, "romanised", "shuffled"):
        open_corpus(f"{pattern}|{suffix}", "hi")


def test_a_language_is_named_to_uroman_by_its_own_code(pattern):
    assert [rewriting(["romanised"], language)("text") for language in ("hi", "hin_Deva", "zh-Hans", "no_code")] == [
        "hin 4",
        "hin 4",
        "zho 4",
        "nor 4",
    ]


def test_without_uroman(tmp_path, monkeypatch):
    pattern = f"{tmp_path}/{{lang}}.jsonl"
    (tmp_path / "hi.jsonl").write_bytes(as_jsonl(HINDI))
    pseudo_languages._uroman.cache_clear()
    monkeypatch.setitem(__import__("sys").modules, "uroman", None)
    with refused("uroman", "lnbench[romanised]"):
        list(open_corpus(f"{pattern}|romanised", "hi"))
