"""The tasks ``lnbench_lcb_…``: their prompts, what they ask for, and the benchmark's averages in lm-eval's groups."""

from __future__ import annotations

import io
import json
import re
import zipfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from lm_eval import simple_evaluate
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager

from lnbench import content_hash, task_data
from lnbench.demo import DATA
from lnbench.language_control import lcb, segmentation
from tests.support.messages import refused
from tests.support.tasks import TASKS, Oracle, load_metrics, write_rows

NAME = re.compile(r"lnbench_lcb_((?:mono|cross)lingual)_(\w+)_([a-z]{2})")
Manager = Callable[..., TaskManager]


def groups() -> list[tuple[str, ...]]:
    files = (path.read_text(encoding="utf-8") for path in (TASKS / "lcb").glob("*lingual_*/[!_]*.yaml"))
    return sorted(match.groups() for text in files if (match := NAME.search(text)))


@pytest.fixture
def prompts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    for setting, source, language in groups():
        rows = [{"prompt": f"Question {number} in {language}?"} for number in range(2)]
        write_rows(tmp_path / f"lcb/{setting}.{source}.{language}.jsonl", rows)
    monkeypatch.setenv("LNBENCH_DATA", str(tmp_path))
    return tmp_path


class Answers(Oracle):
    """Answers in Hindi whatever it is asked, but nothing to every other question of the source aya."""

    def generate_until(self, requests: list[Instance]) -> list[str]:
        hindi = json.loads((DATA / "corpus/hi.jsonl").read_text(encoding="utf-8").splitlines()[0])["text"]
        return ["" if request.doc["source"] == "aya" and request.doc_id else hindi for request in requests]


def test_sets_are_the_benchmarks() -> None:
    found = groups()
    assert len(found) == 66
    crosslingual = [(source, language) for setting, source, language in found if setting == "crosslingual"]
    assert {source for source, _ in crosslingual} == {"okapi", "sharegpt", "complex_prompts"}
    assert len({language for _, language in crosslingual}) == 14 and len(crosslingual) == 42
    assert "en" not in {language for _, language in crosslingual}


def test_a_task_asks_as_published(manager: Manager, prompts: Path) -> None:
    name = "lnbench_lcb_crosslingual_complex_prompts_hi"
    task = manager(language="auto").load(name)["tasks"][name]
    doc = task.eval_docs[0]
    request = task.construct_requests(doc, task.doc_to_text(doc))
    generation = {"until": ["\nQ:"], "do_sample": True, "temperature": 0.3, "top_p": 0.75, "max_gen_toks": 100}
    assert request.args == ("Question 0 in hi?", generation)
    assert (doc["setting"], doc["source"], doc["language"]) == ("crosslingual", "complex_prompts", "hi")


def test_groups_have_the_benchmarks_own_averages(manager: Manager, prompts: Path) -> None:
    results: Any = simple_evaluate(
        model=Answers(), tasks=["lnbench_lcb_monolingual"], task_manager=manager(), bootstrap_iters=0
    )
    texts: dict[lcb.Group, list[str]] = defaultdict(list)
    for name, samples in results["samples"].items():
        match = NAME.fullmatch(name)
        assert match
        texts[match.groups()] = [sample["resps"][0][0] for sample in samples]  # type: ignore[index]
    scores = lcb.score(texts)
    measured = results["results"]
    for (setting, source, language), own in scores.items():
        _compare(measured[f"lnbench_lcb_{setting}_{source}_{language}"], own)
    means = {group: own for group, own in lcb.averages(scores).items() if group[1] == lcb.ALL}
    assert len(means) == 16
    for (setting, _, language), own in means.items():
        _compare(measured[f"lnbench_lcb_{setting}" + ("" if language == lcb.ALL else f"_{language}")], own)
    # A mean over tasks would be another number: languages have one to three sources.
    flat = [own.lpr for own in scores.values()]
    assert means["monolingual", lcb.ALL, lcb.ALL].lpr != pytest.approx(sum(flat) / len(flat))


def _compare(row: dict[str, Any], own: lcb.Scores | lcb.Average) -> None:
    assert (row["lpr,none"], row["line_acc,none"], row["skipped,none"]) == pytest.approx(
        (own.lpr, own.line_acc, own.skipped)
    )
    assert row.get("wpr,none") == (None if own.wpr is None else pytest.approx(own.wpr))


def test_groups_by_source_count_each_language_once(manager: Manager, prompts: Path) -> None:
    results: Any = simple_evaluate(
        model=Answers(), tasks=["lnbench_lcb_crosslingual_okapi"], task_manager=manager(), bootstrap_iters=0, limit=1
    )
    assert results["results"]["lnbench_lcb_crosslingual_okapi"]["lpr,none"] == pytest.approx(1 / 14)


@pytest.mark.parametrize(
    ("answer", "language", "expected"),
    [
        ("", "hi", {"lpr": None, "line_acc": None, "skipped": 1.0, "line_pass": 0.0, "wpr": None}),
        ("one two three four five", "hi", {"lpr": 0, "line_acc": 0, "skipped": 0, "line_pass": 0, "wpr": None}),
        ("this is the house of the old king", "en", {"lpr": 1, "line_acc": 1, "skipped": 0, "line_pass": 1}),
    ],
)
def test_one_answers_scores(answer: str, language: str, expected: dict[str, float | None]) -> None:
    assert load_metrics("lcb").process_results({"language": language}, [answer]) == expected


def test_the_mean_is_over_answers_that_count() -> None:
    mean = load_metrics("lcb").over_answered
    assert mean([1.0, None, 0.0]) == 0.5
    assert mean([None, None]) == mean([]) == 1.0


def test_the_benchmarks_own_archive_is_read(manager: Manager, prompts: Path) -> None:
    (prompts / "lcb/monolingual.aya.ar.jsonl").unlink()
    name = "lnbench_lcb_monolingual_aya_ar"
    with refused("lcb/monolingual.aya.ar.jsonl.gz", "LNBENCH_DATA", "test_sets.zip"):
        manager().load(name)
    content = io.BytesIO()
    with zipfile.ZipFile(content, "w") as archive:
        archive.writestr("test_sets/monolingual/aya/ar.csv", 'prompt,source\n"ما\nهو؟",aya_human_annotated\n')
    (prompts / "lcb/test_sets.zip").write_bytes(content.getvalue())
    (doc,) = manager().load(name)["tasks"][name].eval_docs
    assert (doc["prompt"], doc["source"], doc["language"]) == ("ما\nهو؟", "aya", "ar")
    (prompts / "lcb/test_sets.zip").write_bytes(content.getvalue()[:40])
    with refused("test_sets.zip"):
        manager().load(name)


def test_without_a_folder_it_is_said_where_prompts_are(manager: Manager) -> None:
    with refused("LNBENCH_DATA", "lcb/crosslingual.okapi.hi.jsonl.gz"):
        manager().load("lnbench_lcb_crosslingual_okapi_hi")


def test_a_missing_extra_is_named_before_anything_is_generated(
    manager: Manager, prompts: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(segmentation, "find_spec", lambda _: None)
    with refused("zh", "lnbench[cjk]"):
        manager().load("lnbench_lcb_crosslingual_okapi_zh")


def test_cells_depend_on_the_prompts(prompts: Path) -> None:
    before = task_data.content_of("lcb_crosslingual_okapi_hi", None)
    write_rows(prompts / "lcb/crosslingual.okapi.hi.jsonl", [{"prompt": "Another?"}])
    content_hash.forget()
    assert before not in (None, task_data.content_of("lcb_crosslingual_okapi_hi", None))
