"""The demo's beginnings of sentences, and the language of what a model writes after them."""

from __future__ import annotations

import json

import pytest
from lm_eval import simple_evaluate
from lm_eval.tasks import TaskManager

from lnbench import demo
from lnbench.corpora.scripts import main_script, scripts_of
from lnbench.files import tasks_dir
from lnbench.language_control.forcing import language_of_answer
from lnbench.task_data import demo_generation
from tests.support.tasks import Oracle

ANSWERS = {
    "en": " is a city of contrasts, and people like to live in it",
    "vi": " được xây dựng vào năm 1760, là một trong những đô thị lớn",
    "hi": " दिल्ली में लोग सुबह से ही काम पर जाते हैं",
    "ur": " میں لوگ صبح سویرے کام پر جاتے ہیں اور شام کو واپس آتے ہیں",
    "zh": "是一个很大的城市，人们在那里工作",
}


@pytest.mark.parametrize("language", demo.LANGUAGES)
def test_ten_different_beginnings_in_the_languages_own_script(language: str) -> None:
    rows = demo_generation(lnbench_language=language)["test"]
    assert len(set(rows["prompt"])) == len(rows) == 10
    assert set(rows["language"]) == {language}
    assert all(main_script(prompt) in scripts_of(language) for prompt in rows["prompt"])


@pytest.mark.parametrize("asked", demo.LANGUAGES)
def test_an_answer_counts_in_its_own_language_alone(asked: str) -> None:
    for language, answer in ANSWERS.items():
        assert language_of_answer({"language": asked}, [answer]) == {"answer_language": float(language == asked)}
    for nothing in ("", " \n", ", 1950-1955, 195", " <> ??"):
        assert language_of_answer({"language": asked}, [nothing]) == {"answer_language": 0.0}


def test_the_group_runs_in_lm_eval_and_averages_over_languages() -> None:
    manager = TaskManager(include_path=str(tasks_dir()), include_defaults=False)
    options = {"task_manager": manager, "bootstrap_iters": 0, "limit": 2}
    found = simple_evaluate(Oracle(answer=ANSWERS["hi"]), tasks=["lnbench_demo_generation"], **options)
    assert found is not None
    names = [f"lnbench_demo_generation_{language}" for language in demo.LANGUAGES]
    assert set(found["results"]) == {"lnbench_demo_generation", *names}
    assert found["results"]["lnbench_demo_generation"]["answer_language,none"] == pytest.approx(1 / len(names))
    for language, name in zip(demo.LANGUAGES, names, strict=True):
        (prompt, generation) = found["samples"][name][0]["arguments"][0]
        first = (demo.DATA / "prompts" / f"{language}.jsonl").read_text(encoding="utf-8").splitlines()[0]
        assert prompt == json.loads(first)["prompt"]
        assert (generation["do_sample"], generation["max_gen_toks"]) == (False, 12)
