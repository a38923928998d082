"""The Language Confusion Benchmark's rules, against a slow reading of them."""

from __future__ import annotations

import gzip
import json
import math
import os
from pathlib import Path
from statistics import fmean

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from typer.testing import CliRunner

from lnbench.cli import app
from lnbench.demo import DATA
from lnbench.language_control import lcb, segmentation
from lnbench.language_control.completions import read_completions
from lnbench.language_control.english_words import english_words, list_of_words
from tests.support.messages import lacks, refused

WORDS = frozenset({"house", "river", "data"})
TEXT = {
    language: json.loads((DATA / "corpus" / f"{language}.jsonl").read_text(encoding="utf-8").splitlines()[0])["text"]
    for language in ("en", "hi", "zh", "vi")
}
HINDI = TEXT["hi"][:90].replace("\n", " ")
CHINESE = TEXT["zh"][:60].replace("\n", " ")
ENGLISH = "The river is long and the house is old and small"
JAPANESE = "吾輩は猫である。名前はまだ無い。どこで生れたか頓と見当がつかぬ"


def slow_scores(completions: list[str], language: str) -> tuple[int, float, float, float]:
    """One pass per rule, each as the paper has it; for languages that are split at white space."""
    kept = []
    for completion in completions:
        before = completion[: completion.index("\nQ:")] if "\nQ:" in completion else completion
        plain = ""
        for character in before.strip():
            if character == "—":
                plain += " "
            elif character not in "!\"#$%&'()*+,-./:;<=>?@[\\]^_`{|}~،":
                plain += character
        lines = [line for line in plain.split("\n") if len(line.split()) > 4]
        if lines:
            kept.append(lines)
    wrong = [[lcb.language_of(line) != language for line in lines] for lines in kept]
    passed = [lines for lines, flags in zip(kept, wrong, strict=True) if not any(flags)]
    english = [lines for lines in passed if WORDS & set(" ".join(lines).split())]
    lpr = len(passed) / len(kept) if kept else 1.0
    wpr = 1 - len(english) / len(passed) if passed else 1.0
    return len(kept), lpr, fmean(1 - sum(flags) / len(flags) for flags in wrong) if wrong else 1.0, wpr


LINES = st.sampled_from(
    [
        HINDI,
        ENGLISH,
        HINDI + " river",
        HINDI + " River",
        "हाँ",
        "",
        "Q: और कुछ?",
        "— — — — — —",
        "😀 😀 😀 😀 😀",
        "a،b c d e f",
    ]
)


@settings(max_examples=30)
@given(st.lists(st.lists(LINES, max_size=4).map("\n".join), max_size=5), st.sampled_from(["hi", "ru", "ar"]))
def test_scores_equal_a_slow_reading_of_the_rules(completions: list[str], language: str) -> None:
    own = lcb.summarise([lcb.look_at(completion, language, WORDS) for completion in completions], language)
    assert own.n == len(completions)
    assert (own.answered, own.lpr, own.line_acc, own.wpr) == pytest.approx(slow_scores(completions, language))


@pytest.mark.parametrize(
    ("completion", "language", "lines", "wrong", "english"),
    [
        ("", "hi", 0, 0, False),
        (" \n\t\n", "hi", 0, 0, False),
        ("😀🎉", "hi", 0, 0, False),
        ("😀 🎉 🚀 🌍 ✨", "hi", 1, 1, False),  # five words of no language
        (HINDI, "hi", 1, 0, False),
        (f"{HINDI}\n{ENGLISH}", "hi", 2, 1, False),
        (f"{HINDI} river {HINDI}", "hi", 1, 0, True),
        (f"{HINDI} River {HINDI}", "hi", 1, 0, False),  # in capitals it may be a name
        (f"{HINDI}\nQ: {ENGLISH}\n{ENGLISH}", "hi", 1, 0, False),
        ("```python\nfor i in range(10):\n    print(i)\n```", "hi", 0, 0, False),  # no line of five words
        (f"```\nfor a in b if c else d\n```\n{HINDI}", "hi", 2, 1, False),
        (CHINESE, "zh", 1, 0, False),  # without spaces
        (JAPANESE, "ja", 1, 0, False),
        (f"{JAPANESE}, river", "ja", 1, 0, True),
        (JAPANESE[:3], "ja", 0, 0, False),
        (HINDI[:40] * 250, "hi", 1, 0, False),  # 10,000 characters
        (JAPANESE * 400, "ja", 1, 0, False),
        ("\ud800 " + HINDI + "\x00", "hi", 1, 0, False),  # half a character
        (f"{HINDI} river", "vi", 1, 1, False),
        (f"{TEXT['vi'][:80]} river", "vi", 1, 0, False),  # written in Latin: no words are looked for
    ],
)
def test_each_kind_of_answer(completion: str, language: str, lines: int, wrong: int, english: bool) -> None:
    assert lcb.look_at(completion, language, WORDS) == lcb.Answer(lines, wrong, english)


def test_answering_nothing_scores_one_and_is_seen() -> None:
    own = lcb.summarise([lcb.look_at("", "hi", WORDS)] * 3, "hi")
    assert (own.lpr, own.line_acc, own.wpr, own.skipped) == (1, 1, 1, 1)


def test_averages_count_each_language_once() -> None:
    values = {("m", "a", "hi"): 1.0, ("m", "b", "hi"): 0.0, ("m", "a", "fr"): 1.0, ("x", "a", "fr"): 0.0}
    scores = {
        group: lcb.Scores(4, 2, value, value, value if group[2] == "hi" else None) for group, value in values.items()
    }
    mean = lcb.averages(scores)
    lpr = {group: own.lpr for group, own in mean.items()}
    assert lpr == {
        ("m", "a", "all"): 1.0,
        ("m", "b", "all"): 0.0,
        ("x", "a", "all"): 0.0,
        ("m", "all", "hi"): 0.5,
        ("m", "all", "fr"): 1.0,
        ("x", "all", "fr"): 0.0,
        ("m", "all", "all"): 0.75,
        ("x", "all", "all"): 0.0,
    }
    assert mean["m", "all", "all"].wpr == 0.5 and mean["x", "all", "all"].wpr is None
    assert all(own.skipped == 0.5 for own in mean.values())


def test_unknown_languages_are_refused() -> None:
    with refused("hin", "lid.176"):
        lcb.score({("m", "a", "hin"): [HINDI]})


@pytest.mark.parametrize(("language", "package"), [("zh", "jieba"), ("ja", "fugashi")])
def test_a_missing_extra_is_named(language: str, package: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(segmentation, "find_spec", lambda _: None)
    with refused(language, package, "lnbench[cjk]"):
        segmentation.check(language)
    segmentation.check("hi")


def test_packaged_words_are_those_that_are_looked_for() -> None:
    words = english_words()
    assert len(words) > 50_000
    assert {"house", "because", "information"} <= words
    assert all(word.islower() and len(word) > 3 for word in words)


def test_the_data_folders_list_is_read_where_there_is_one(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert list_of_words() is None
    monkeypatch.setenv("LNBENCH_DATA", str(tmp_path))
    assert list_of_words() is None
    (tmp_path / "lcb").mkdir()
    file = tmp_path / "lcb" / "english-words.txt.gz"
    file.write_bytes(gzip.compress(b"River\nriver's\nsea\nlake\n"))
    assert list_of_words() == file
    assert english_words(file) == {"river's", "lake"}
    file.write_bytes(gzip.compress(b"Lake\n"))
    english_words.cache_clear()
    with refused(file):
        english_words(file)


ROW = {"task": "monolingual", "source": "okapi", "language": "hi", "completion": 'एक\nदो, "तीन"'}


@pytest.mark.parametrize("suffix", ["jsonl", "csv", "jsonl.gz", "csv.gz"])
def test_files_of_every_kind_are_read_alike(suffix: str, tmp_path: Path) -> None:
    quoted = ROW["completion"].replace('"', '""')
    text = {
        "jsonl": json.dumps(ROW, ensure_ascii=False) + "\n\n",
        "csv": f'\ufeffid,model,completion,task,source,language\r\n0,m,"{quoted}",monolingual,okapi,hi\r\n',
    }[suffix.split(".")[0]].encode()
    file = tmp_path / "completions"  # not by its name
    file.write_bytes(gzip.compress(text) if suffix.endswith("gz") else text)
    assert read_completions(file) == {("monolingual", "okapi", "hi"): [ROW["completion"]]}


@pytest.mark.parametrize(
    ("content", "named"),
    [
        (b"", ("completions", "task")),
        (b'{"task": "m"', ("line 1",)),
        (json.dumps(ROW | {"completion": None}).encode(), ("line 1", "completion")),
        (b"task,source\nm,a\n", ("language", "completion")),
        (gzip.compress(json.dumps(ROW).encode())[:-9], ("completions",)),
        (b"\xff\xfe\x00", ("UTF-8",)),
        (b"task,source,language,completion,model\nm,a,hi,x,one\nm,a,hi,y,two\n", ("one", "two", "--model")),
    ],
)
def test_files_that_cannot_be_scored_are_refused(content: bytes, named: tuple[str, ...], tmp_path: Path) -> None:
    file = tmp_path / "completions"
    file.write_bytes(content)
    with refused(*named):
        read_completions(file)


def test_one_of_several_models_is_chosen(tmp_path: Path) -> None:
    file = tmp_path / "completions.csv"
    file.write_text("task,source,language,completion,model\nm,a,hi,x,one\nm,a,hi,y,two\n", encoding="utf-8")
    assert read_completions(file, "two") == {("m", "a", "hi"): ["y"]}
    with refused("three", "one", "two"):
        read_completions(file, "three")


@pytest.mark.parametrize("format_", ["terminal", "json", "csv"])
def test_the_command_prints_each_group(format_: str, tmp_path: Path) -> None:
    file = tmp_path / "completions.jsonl"
    rows = [ROW | {"completion": HINDI}, ROW | {"completion": ""}, ROW | {"language": "fr", "completion": ENGLISH}]
    file.write_text("\n".join(map(json.dumps, rows)), encoding="utf-8")
    result = CliRunner().invoke(app, ["lcb", "score", str(file), "--format", format_], catch_exceptions=False)
    assert result.exit_code == 0
    if format_ == "json":
        assert json.loads(result.stdout) == {
            "monolingual/okapi/hi": {"n": 2, "answered": 1, "lpr": 1.0, "line_acc": 1.0, "wpr": 1.0},
            "monolingual/okapi/fr": {"n": 1, "answered": 1, "lpr": 0.0, "line_acc": 0.0, "wpr": None},
        }
    else:
        assert not lacks(result.stdout, "okapi", "hi", "fr", "skipped", "50.0%" if format_ == "terminal" else "0.5")


@pytest.mark.data
@pytest.mark.skipif("LNBENCH_DATA" not in os.environ, reason="needs LNBENCH_DATA")
def test_real_completions_score_as_published_rules_say() -> None:
    folder = Path(os.environ["LNBENCH_DATA"]) / "lcb"
    expected = json.loads((folder / "completions.command-r.reference.json").read_text(encoding="utf-8"))
    completions = read_completions(folder / "completions.command-r.jsonl.gz")
    own = lcb.as_json(lcb.score(completions, english_words(list_of_words())))
    assert expected
    for group, numbers in expected.items():
        measured = own[group]
        assert not math.isnan(measured["lpr"] or 0)
        assert {name: measured[name] for name in numbers} == pytest.approx(numbers, abs=1e-4)
