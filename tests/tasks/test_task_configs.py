"""Every task and group, as lm-eval 0.4.13 finds, loads and runs them."""

from __future__ import annotations

import math
import os
import re
import shutil
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import lm_eval
import pytest
import yaml
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from lnbench import demo
from tests.support.messages import refused
from tests.support.tasks import TASKS, Oracle, languages_of, write_rows


def of_family(family: str) -> set[str]:
    """The tasks of one folder: a file for each language."""
    return {f"lnbench_{family}_{language}" for language in languages_of(family)}


VERSIONS = {"lnbench_xnli": 2.0, "lnbench_demo_nli": 2.0, "lnbench_xnli_pair": 1.1}
"""Of families whose tasks have changed."""
XNLI, XNLI_PAIR, XQUAD = of_family("xnli"), of_family("xnli_pair"), of_family("xquad")
XQUAD_PAIR = of_family("xquad_pair")
DEMO = {
    f"lnbench_demo_{kind}": {f"lnbench_demo_{kind}_{language}" for language in demo.LANGUAGES}
    for kind in ("continuation", "nli", "qa")
}
GROUPS = {
    "lnbench_xnli": XNLI,
    "lnbench_xnli_pair": XNLI_PAIR,
    "lnbench_xquad": XQUAD,
    "lnbench_xquad_pair": XQUAD_PAIR,
    **DEMO,
    "lnbench_demo": set().union(*DEMO.values()),
}
TAGS = {f"lnbench_demo_{lang}": {f"{kind}_{lang}" for kind in DEMO} for lang in demo.LANGUAGES}
ALL = sorted(XNLI | XNLI_PAIR | XQUAD | XQUAD_PAIR | GROUPS["lnbench_demo"])

Manager = Callable[..., TaskManager]


def evaluate(manager: TaskManager, *tasks: str, model: Any = None, **options: Any) -> dict[str, Any]:
    results = simple_evaluate(
        model=model or Oracle(), tasks=list(tasks), task_manager=manager, bootstrap_iters=0, **options
    )
    assert results is not None
    return dict(results)


def test_names(manager: Manager) -> None:
    found = manager()
    # Those that read text have tests of their own, beside lnbench ppl's; those of generated text in three files.
    others = re.compile("lnbench_(ppl|lcb|clas|demo_open|demo_generation)(_|$)")
    assert [name for name in found.all_subtasks if not others.match(name)] == ALL
    assert [name for name in found.all_groups if not others.match(name)] == sorted(GROUPS)
    members = {f"members_of_{group}" for group in GROUPS} - {"members_of_lnbench_demo"}
    tags = {tag for tag in found.all_tags if not others.match(tag.removeprefix("members_of_"))}
    assert tags == {*TAGS, *members}


@pytest.mark.parametrize("group", GROUPS)
def test_groups_hold_their_tasks(manager: Manager, data: Path, group: str) -> None:
    assert set(manager().load(group)["tasks"]) == GROUPS[group]


@pytest.mark.parametrize("family", ["xnli", "xnli_pair", "xquad", "xquad_pair", "ppl"])
def test_a_language_is_added_by_one_file(family: str, data: Path, tmp_path: Path) -> None:
    tasks = tmp_path / "tasks"
    shutil.copytree(TASKS, tasks)
    text = (tasks / family / "hi.yaml").read_text(encoding="utf-8")
    added = text.replace(f"lnbench_{family}_hi", f"lnbench_{family}_de").replace("language: hi", "language: de")
    (tasks / family / "de.yaml").unlink(missing_ok=True)
    (tasks / family / "de.yaml").write_text(added, encoding="utf-8")
    for file in ("xnli/{}.test.jsonl.gz", "xquad/{}.jsonl.gz", "corpus/{}.jsonl.gz"):
        shutil.copy(data / file.format("hi"), data / file.format("de"))
    manager = TaskManager(include_path=str(tasks), include_defaults=False)
    expected = {f"lnbench_{family}_de", *of_family(family)}
    assert set(manager.load(f"lnbench_{family}")["tasks"]) == expected


@pytest.mark.parametrize("tag", TAGS)
def test_one_language_of_the_demo(manager: Manager, tag: str) -> None:
    assert set(manager().load(tag)["tasks"]) == TAGS[tag]


@pytest.mark.parametrize("name", ALL)
def test_task(manager: Manager, data: Path, name: str) -> None:
    task = manager(language="auto", pretrained="x", split="train").load(name)["tasks"][name]
    language = name.rpartition("_")[2]
    assert VERSIONS.get(name.removesuffix(f"_{language}"), 1.0) == task.VERSION
    assert task.config.num_fewshot is None
    assert task.config.dataset_kwargs["lnbench_language"] == language
    assert task.config.dataset_kwargs.keys() <= {"lnbench_language", "lnbench_choices"}
    doc = task.eval_docs[0]
    assert doc["language"] == language

    text = task.doc_to_text(doc)
    if isinstance(text, int):
        requests = task.construct_requests(doc, task.doc_to_choice(doc))
        delimiter = "" if language == "zh" else " "
        expected = [(context, delimiter + doc["continuation"]) for context in doc["contexts"]]
        assert [request.args for request in requests] == expected
        return
    assert "{{" not in text
    assert text == text.strip()
    delimiter = task.config.target_delimiter
    spaced = {"lnbench_xnli_zh", "lnbench_demo_nli_zh", "lnbench_xquad_pair_zh"}
    unspaced = language == "zh" and name not in spaced
    assert delimiter == ("" if unspaced else " ")

    if task.OUTPUT_TYPE == "multiple_choice":
        requests = task.construct_requests(doc, text)
        assert [request.args for request in requests] == [(text, delimiter + c) for c in task.doc_to_choice(doc)]
        assert len(requests) == 3
        choices = task.doc_to_choice(doc)
        assert not any(a != b and a.startswith(b) for a in choices for b in choices), "the shorter one always wins"
    else:
        request = task.construct_requests(doc, text)
        assert request.args == (text, {"until": ["\n"], "do_sample": False, "max_gen_toks": 64})
        assert doc["context"] in text
        assert text.index(doc["context"]) < text.rindex(doc["question"])
        assert task.doc_to_target(doc) == doc["answers"]["text"]


@pytest.mark.parametrize("name", ALL)
def test_metadata(manager: Manager, data: Path, name: str) -> None:
    task = manager().load(name)["tasks"][name]
    assert task.config.metadata["language"] == name.rpartition("_")[2]


@pytest.mark.parametrize("language", demo.LANGUAGES)
def test_demo_reuses_the_benchmarks_prompts(manager: Manager, data: Path, language: str) -> None:
    tasks = manager().load([f"lnbench_xnli_{language}", f"lnbench_demo_nli_{language}"])["tasks"]
    nli, demo_nli = (task.config for task in tasks.values())
    for key in ("doc_to_text", "doc_to_choice", "dataset_kwargs", "target_delimiter", "metric_list"):
        assert nli[key] == demo_nli[key]
    if language != "ur":
        tasks = manager().load([f"lnbench_xquad_{language}", f"lnbench_demo_qa_{language}"])["tasks"]
        qa, demo_qa = (task.config for task in tasks.values())
        for key in ("doc_to_text", "generation_kwargs", "process_results", "target_delimiter", "metric_list"):
            assert qa[key] == demo_qa[key]


def test_prompts_are_in_their_own_language(manager: Manager, data: Path) -> None:
    tasks = manager().load(["lnbench_xnli", "lnbench_xquad"])["tasks"]
    assert len({task.config.doc_to_text for task in tasks.values()}) == len(tasks)
    for name, task in tasks.items():
        prompt = task.config.doc_to_text
        for field in ("premise", "hypothesis", "context", "question"):
            prompt = prompt.replace(field, "")
        if name.rpartition("_")[2] in ("hi", "ur", "zh"):
            assert not any(c.isascii() and c.isalpha() for c in prompt)


@pytest.mark.parametrize(("frame", "words"), [("plain", False), ("english", True)])
def test_a_pair_is_asked_in_one_frame_whatever_the_language(
    manager: Manager, data: Path, frame: str, words: bool
) -> None:
    tasks = manager(xquad_frame=frame).load("lnbench_xquad_pair")["tasks"]
    prompts = {(task.doc_to_text(task.eval_docs[0]), task.config.target_delimiter) for task in tasks.values()}
    # The rows are the same in every language here, so all that differs would be the frame.
    ((prompt, _),) = prompts
    doc = next(iter(tasks.values())).eval_docs[0]
    frame_alone = prompt.replace(doc["context"], "").replace(doc["question"], "")
    assert any(c.isalpha() for c in frame_alone) == words
    english = manager().load("lnbench_xquad_en")["tasks"]["lnbench_xquad_en"]
    assert (prompt == english.doc_to_text(english.eval_docs[0])) == words


def test_an_unknown_frame_is_refused(manager: Manager, data: Path) -> None:
    with refused("xquad_frame", "german", "plain, english"):
        manager(xquad_frame="german").load("lnbench_xquad_pair_hi")


NEW_LANGUAGE = """\
include: {tasks}/xquad/_common.yaml
task: mine_{language}
doc_to_text: |-
  {{{{context}}}}

  {{{{question}}}}
  →
dataset_kwargs: {{lnbench_language: {language}}}
metadata: {{version: 1.0, language: {language}{rules}}}
"""


@pytest.mark.parametrize(
    ("language", "rules", "gold", "answer", "f1"),
    [
        ("th", "", "กรุงเทพ", "กรุง", 2 * 4 / 11),
        ("ja", ", answers: {tokens: characters}", "東京都", "東京", 0.8),
        ("fr", r", answers: {remove: '\b(?:le|la|les)\b'}", "la tour", "tour", 1.0),
    ],
)
def test_a_language_of_ones_own_is_a_file_of_ten_lines(
    data: Path,
    qa_rows: list[dict[str, Any]],
    tmp_path: Path,
    language: str,
    rules: str,
    gold: str,
    answer: str,
    f1: float,
) -> None:
    config = NEW_LANGUAGE.format(tasks=TASKS, language=language, rules=rules)
    assert len(config.splitlines()) <= 10
    (tmp_path / "mine").mkdir()
    (tmp_path / f"mine/{language}.yaml").write_text(config, encoding="utf-8")
    rows = [row | {"answers": {"text": [gold], "answer_start": [0]}} for row in qa_rows]
    write_rows(data / f"xquad/{language}.jsonl.gz", rows)
    manager = TaskManager(include_path=[str(TASKS), str(tmp_path / "mine")], include_defaults=False)
    results = evaluate(manager, f"mine_{language}", model=Oracle(answer=answer))["results"][f"mine_{language}"]
    assert results["f1,none"] == pytest.approx(f1)


def test_a_language_without_rules_is_refused_before_anything_is_asked(
    data: Path, qa_rows: list[dict[str, Any]], tmp_path: Path
) -> None:
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/ta.yaml").write_text(NEW_LANGUAGE.format(tasks=TASKS, language="ta", rules=""), encoding="utf-8")
    write_rows(data / "xquad/ta.jsonl", qa_rows)
    model = Oracle()
    manager = TaskManager(include_path=[str(TASKS), str(tmp_path / "mine")], include_defaults=False)
    with refused("'ta'", "ar, de, el, en, es, hi, ro, ru, th, tr, ur, vi, zh", "answers: {tokens: spaces"):
        evaluate(manager, "mine_ta", model=model)
    assert model.asked == []


def test_right_answers_score_one(manager: Manager, data: Path) -> None:
    results = evaluate(manager(), "lnbench_xnli", "lnbench_xquad")["results"]
    for name in (*XNLI, "lnbench_xnli"):
        assert results[name]["acc,none"] == 1
    for name in (*XQUAD, "lnbench_xquad"):
        assert results[name]["exact_match,none"] == results[name]["f1,none"] == 1


def test_groups_report_the_mean(manager: Manager, data: Path) -> None:
    results = evaluate(manager(), "lnbench_xquad", model=Oracle(answer="it was 1903, wasn’t it"))["results"]
    for metric in ("exact_match,none", "f1,none"):
        values = [results[name][metric] for name in XQUAD]
        assert results["lnbench_xquad"][metric] == pytest.approx(sum(values) / len(values))
    assert results["lnbench_xquad_en"]["f1,none"] == pytest.approx(2 / 6 / 10)


def test_dummy_model_runs_the_demo(manager: Manager) -> None:
    output = evaluate(manager(), "lnbench_demo", model="dummy")
    assert set(output["results"]) >= GROUPS["lnbench_demo"]
    assert output["results"]["lnbench_demo_continuation"].keys() >= {"acc,none", "bits_per_byte,none"}
    assert output["higher_is_better"]["lnbench_demo_continuation_hi"] == {"acc": True, "bits_per_byte": False}
    assert not output["results"].keys() & {"lnbench_xnli", "lnbench_xquad"}


def test_bits_per_byte(manager: Manager) -> None:
    name = "lnbench_demo_continuation_hi"
    output = evaluate(manager(), name)
    sizes = [len(s["doc"]["continuation"].encode()) for s in output["samples"][name]]
    expected = sum(1 / math.log(2) / size for size in sizes) / len(sizes)
    assert output["results"][name]["bits_per_byte,none"] == pytest.approx(expected)
    assert output["results"][name]["acc,none"] == 1


@pytest.mark.parametrize("name", ["lnbench_xnli_vi", "lnbench_xnli_pair_vi", "lnbench_demo_nli_vi"])
def test_bits_per_byte_of_the_right_choice(manager: Manager, data: Path, name: str) -> None:
    output = evaluate(manager(), name)
    task = manager().load(name)["tasks"][name]
    right = [task.doc_to_choice(sample["doc"])[sample["doc"]["label"]] for sample in output["samples"][name]]
    expected = sum(1 / math.log(2) / len(choice.encode()) for choice in right) / len(right)
    assert output["results"][name]["bits_per_byte,none"] == pytest.approx(expected)
    assert output["higher_is_better"][name] == {"acc": True, "bits_per_byte": False}


@pytest.mark.parametrize("language", sorted(name.rpartition("_")[2] for name in XNLI))
def test_xnli_asks_as_lm_evals_own_task_does(manager: Manager, data: Path, language: str) -> None:
    """The same text in all, and choices that differ in a word: the likelihoods differ by that of the premise alone."""
    own = yaml.load(
        (Path(lm_eval.__file__).parent / f"tasks/xnli/xnli_{language}.yaml").read_text(encoding="utf-8"),
        yaml.BaseLoader,
    )
    task = manager().load(f"lnbench_xnli_{language}")["tasks"][f"lnbench_xnli_{language}"]
    doc = {"premise": "P", "hypothesis": "H"}
    row = task.eval_docs[0]
    template = own["doc_to_choice"]
    expected = [
        "".join(doc.get(part, part.strip('"')) for part in re.split(r"\+", choice))
        for choice in re.findall(r'premise\+"[^"]*"\+hypothesis', template)
    ]
    texts = [f"{task.doc_to_text(row)} {choice}" for choice in task.doc_to_choice(row)]
    shortened = [text.replace(row["premise"], "P", 1).replace(row["hypothesis"], "H") for text in texts]
    assert shortened == [" ".join(text.split()) for text in expected]


def test_few_shot_examples_come_from_validation(manager: Manager, data: Path) -> None:
    model = Oracle()
    evaluate(manager(), "lnbench_xnli_hi", "lnbench_xquad_hi", model=model, num_fewshot=2)
    for request in model.asked:
        context = request.args[0]
        assert context.count("सही?" if "premise" in request.doc else "उत्तर:") == 3
        if "question" in request.doc:
            assert context.count(request.doc["context"]) == 1


def test_xquad_part(manager: Manager, data: Path) -> None:
    output = evaluate(manager(xquad_part="last20"), "lnbench_xquad_hi")
    assert [sample["doc"]["id"] for sample in output["samples"]["lnbench_xquad_hi"]] == ["q8", "q9"]


def test_data_folder_from_metadata(manager: Manager, data: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("LNBENCH_DATA")
    assert evaluate(manager(lnbench_data=str(data)), "lnbench_xnli_hi")["results"]["lnbench_xnli_hi"]["acc,none"] == 1


def test_bad_data_stop_the_run(manager: Manager, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("LNBENCH_DATA", str(tmp_path))
    with refused(tmp_path / "xnli" / "hi.test.jsonl.gz", "LNBENCH_DATA"):
        manager().load("lnbench_xnli_hi")


def test_nothing_of_this_machine_in_the_tasks() -> None:
    for path in TASKS.rglob("*.*"):
        if path.suffix in (".yaml", ".py"):
            assert str(Path.home()) not in path.read_text(encoding="utf-8")


@pytest.mark.data
@pytest.mark.skipif(not os.environ.get("LNBENCH_DATA"), reason="LNBENCH_DATA names no data folder")
class TestRealData:
    @pytest.mark.parametrize("name", sorted(XNLI))
    def test_xnli(self, manager: Manager, name: str) -> None:
        task = manager().load(name)["tasks"][name]
        assert Counter(task.eval_docs["label"]) == {0: 1670, 1: 1670, 2: 1670}
        assert Counter(task.dataset["validation"]["label"]) == {0: 830, 1: 830, 2: 830}

    @pytest.mark.parametrize("name", sorted(XQUAD))
    def test_xquad(self, manager: Manager, name: str) -> None:
        task = manager().load(name)["tasks"][name]
        assert len(task.eval_docs) == 1190
        for doc in task.eval_docs:
            for gold in doc["answers"]["text"]:
                assert task.process_results(doc, [gold]) == {"exact_match": 1, "f1": 1}
                assert task.process_results(doc, [""]) == {"exact_match": 0, "f1": 0}, "something is left of every gold"

    def test_xquad_last20(self, manager: Manager) -> None:
        tasks = manager().load("lnbench_xquad_hi")["tasks"]
        last = manager(xquad_part="last20").load("lnbench_xquad_hi")["tasks"]
        everything = tasks["lnbench_xquad_hi"].eval_docs["id"]
        assert last["lnbench_xquad_hi"].eval_docs["id"] == everything[952:]
