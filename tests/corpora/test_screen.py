"""Empty, repeated and foreign documents, and the report on them."""

from __future__ import annotations

import hashlib
import json
import unicodedata
from collections import Counter
from dataclasses import asdict

import pytest
import regex
from hypothesis import example, given
from hypothesis import strategies as st

from lnbench.corpora.corpus import open_corpus
from lnbench.corpora.documents import TextReport, text_hash
from lnbench.corpora.scripts import SAMPLE, mostly_other, scripts_of
from lnbench.demo import CORPUS, LANGUAGES
from tests.support.corpora import as_jsonl
from tests.support.messages import lacks, refused

OF = {
    "hi": "नमस्ते दुनिया, यह 2024 है।",
    "ur": "ہیلو دنیا، یہ کیسا ہے؟",
    "zh": "你好，世界！",
    "ja": "こんにちは世界、スーパーマーケット",
    "ko": "안녕하세요 세계",
    "ru": "Привет, мир",
    "vi": "Tiếng Việt là đây",
}


@pytest.mark.parametrize("language", OF)
def test_each_language_is_in_its_own_scripts_alone(language):
    fitting = {other for other in OF if not mostly_other(OF[other], scripts_of(language))}
    assert fitting == {language} | ({"zh"} if language == "ja" else set())


@pytest.mark.parametrize("language", LANGUAGES)
def test_the_embedded_text_is_in_its_languages_scripts(language):
    text = open_corpus(CORPUS, language)
    assert len(list(text)) == text.report.documents == text.report.used > 40
    assert scripts_of(language) and text.report.wrong_script == 0


@pytest.mark.parametrize(
    ("language", "scripts"),
    [
        ("hi", ("Devanagari",)),
        ("HI", ("Devanagari",)),
        ("pa", ("Gurmukhi",)),
        ("pnb", ("Arabic",)),
        ("ja", ("Han", "Hiragana", "Katakana")),
        ("sr", ("Latin", "Cyrillic")),
        ("sr-Latn", ("Latin",)),
        ("hin_Deva", ("Devanagari",)),
        ("zh-Hant", ("Han",)),
        ("zh-hans-CN", ("Han",)),
        ("ko_Kore", ("Han", "Hangul")),
        ("pt-BR", ("Latin",)),
        ("zh-min-nan", ("Latin",)),
        ("zh_yue", ("Han",)),
        ("tlh", ()),
        ("demo", ()),
    ],
)
def test_scripts_of_a_language_code(language, scripts):
    assert scripts_of(language) == scripts


@pytest.mark.parametrize(
    "language", ["en", "fr", "es", "vi", "id", "ja", "zh", "bn", "hi", "ta", "te", "mr", "ur", "kn", "ml", "pa"]
)
def test_the_papers_languages_have_scripts(language):
    assert scripts_of(language)


CHARACTERS = st.characters(exclude_categories=["Cn", "Co", "Cs"]) | st.sampled_from("aéअकءぁ字가ー1̀ʰ")


@given(
    text=st.text(
        st.characters(exclude_categories=["Cn", "Co", "Cs"]) | st.sampled_from("aéअकءぁ字가ー1̀ʰ"), max_size=30
    ),
    language=st.sampled_from(sorted(OF)),
)
@example(text="", language="hi")
@example(text="123 … 456", language="hi")
@example(text="aअ", language="hi")
@example(text="abअ", language="hi")
@example(text="अʰʱʲʳ", language="hi")
def test_letters_are_counted_one_by_one(text, language):
    def has(letter: str, *scripts: str) -> bool:
        return any(regex.fullmatch(rf"\p{{Script={script}}}", letter) for script in scripts)

    letters = [one for one in text if unicodedata.category(one)[0] == "L" and not has(one, "Common", "Inherited")]
    own = sum(has(letter, *scripts_of(language)) for letter in letters)
    assert mostly_other(text, scripts_of(language)) == (own < len(letters) - own)


def test_only_the_beginning_of_a_document_is_looked_at():
    assert not mostly_other("अ" * SAMPLE + "a" * 3 * SAMPLE, ("Devanagari",))
    assert mostly_other("a" * SAMPLE + "अ" * 3 * SAMPLE, ("Devanagari",))


def screened(tmp_path, texts, language="hi", **options):
    (tmp_path / f"{language}.jsonl").write_bytes(as_jsonl(texts))
    corpus = open_corpus(f"{tmp_path}/{{lang}}.jsonl", language, shuffle=False, **options)
    return list(corpus), corpus.report


def test_everything_is_counted_and_dropped_where_that_is_asked(tmp_path):
    texts = ["नमस्ते दुनिया", "", "hello", " नमस्ते  दुनिया\n", "नमस्ते", "\t", "hello", "नमस्ते"]
    kept, report = screened(tmp_path, texts)
    assert kept == [text for text in texts if text.strip()]
    lines = {"lines": 6, "foreign": 2, "scripts": {"Devanagari": 4, "Latin": 2}, "languages": {"und": 6}}
    characters = sum(map(len, kept))
    assert report == TextReport(documents=8, empty=2, wrong_script=2, used=6, characters=characters, **lines)
    assert report.sentence("hi").startswith("hi: 8 documents; 2 empty; 0 duplicates dropped; 2 not in Devanagari; of 6")
    assert not lacks(report.sentence("hi"), "6 lines", "33.3%", "66.7% Devanagari")

    kept, report = screened(tmp_path, texts, dedup=True, drop_wrong_script=True)
    assert kept == ["नमस्ते दुनिया", "नमस्ते"]
    assert report == TextReport(
        documents=8,
        empty=2,
        duplicates=3,
        wrong_script=1,
        used=2,
        characters=19,
        lines=2,
        scripts={"Devanagari": 2},
        languages={"und": 2},
    )
    assert "3 duplicates dropped; 1 not in Devanagari, dropped;" in report.sentence("hi")

    assert (
        screened(tmp_path, texts, "tlh")[1]
        .sentence("tlh")
        .startswith("tlh: 8 documents; 2 empty; 0 duplicates dropped; of 6 lines 0.0% not in tlh")
    )
    assert TextReport().sentence("ja").endswith("0 not in Han, Hiragana or Katakana")


def test_options_are_part_of_what_a_corpus_is(tmp_path):
    (tmp_path / "hi.jsonl").write_bytes(as_jsonl(["a"]))
    options = [{}, {"dedup": True}, {"drop_wrong_script": True}, {"dedup": True, "drop_wrong_script": True}]
    corpora = [open_corpus(f"{tmp_path}/{{lang}}.jsonl", "hi", **chosen) for chosen in options]
    assert len({corpus.fingerprint for corpus in corpora}) == 4
    assert all(corpus.source == {"sha256": hashlib.sha256(as_jsonl(["a"])).hexdigest()} for corpus in corpora)


def test_a_corpus_of_another_script_says_so(tmp_path):
    with refused("hi", "empty", "script"):
        screened(tmp_path, ["hello", ""], drop_wrong_script=True)


COUNTS = st.builds(
    TextReport,
    *[st.integers(0, 10**12)] * 9,
    *[st.dictionaries(st.sampled_from(["a", "b", "c"]), st.integers(1, 10**12))] * 2,
)


@given(first=COUNTS, second=COUNTS)
def test_reports_add_up_and_are_plain_json(first, second):
    total = first + second
    for name, value in asdict(first).items():
        other = getattr(second, name)
        assert getattr(total, name) == (Counter(value) + Counter(other) if isinstance(value, dict) else value + other)
    assert first + TextReport() == first == sum([first], TextReport())
    assert TextReport(**json.loads(json.dumps(asdict(first)))) == first


def test_equal_content_has_equal_hashes():
    composed, decomposed = "Tiếng Việt", unicodedata.normalize("NFD", "Tiếng Việt")
    assert composed != decomposed
    assert len({text_hash(text) for text in (composed, decomposed, f"\n{composed}  ", "Tiếng\u3000Việt")}) == 1
    assert len({text_hash(text) for text in ("a b", "ab", "a B", "a b.", "")}) == 5
