"""``language=auto``: what says a task's language, and what only looks like it."""

from __future__ import annotations

from collections import Counter
from typing import Any

import pytest
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from syrupy.assertion import SnapshotAssertion

from lnbench.errors import LnbenchError
from lnbench.lm.compat import is_single_task
from lnbench.task_languages import DATASET_MARK, MARK, language_of
from tests.support.messages import refused

CODES = (
    "am ar bg bm bn br bs ca cs cy da de el en es et eu fa fi fr ga gl gu ha he hi hr hu hy id ig is it ja jv ka kk km "
    "kn ko ky la ln lo lt lv mg mk ml mn mr ms mt my nb ne nl no nn om pa pl pt qu ro ru rw si sk sl sn so sq sr st sv "
    "sw ta te tg th tr tw uk ur uz vi wo xh yo zh zu"
)
KNOWN = CODES.split()


def language(name: str, dataset: str | None = None, stated: Any = None, known: list[str] = KNOWN) -> str:
    instance = Instance("loglikelihood", {}, ("", ""), 0, (name, 0, 1))
    setattr(instance, MARK, stated)
    setattr(instance, DATASET_MARK, dataset)
    return language_of(instance, known)


TWO_READINGS = {
    "mlqa_ar_en": "questions in English on Arabic text",
    "massive_ms_my": "Malay of Malaysia, or Burmese",
    "assin_pt_br": "Portuguese of Brazil, or Breton",
    "include_base_44_hindi_few_shot_en": "Hindi, asked in English",
    "include_base_44_bengali_few_shot_en": "Bengali, asked in English",
    "include_base_44_north macedonian_few_shot_en": "Macedonian, asked in English",
    "wmt14-en-fr": "a translation",
    "basque_bench_flores_de-eu": "a translation",
    "arc_challenge_mt_is": "translated by machine into Icelandic, or Maltese",
    "blimp_nl__infinitival_argument_clause__om_te": "Dutch words",
    "x_ko_kr": "Korean of Korea, or Kanuri",
    "french_bench_x_en": "French, or English",
}
NO_READING = [
    "agieval_lsat_ar",
    "agieval_jec_qa_ca",
    "pisa_ch",
    "polemo2_in",
    "x_hi_mc",
    "hi_quiz",
    "infinitebench_code_run",
]


@pytest.mark.parametrize("name", TWO_READINGS)
def test_a_name_with_two_readings_is_refused(name: str) -> None:
    with refused(name, "language=…"):
        language(name)


@pytest.mark.parametrize("name", NO_READING)
def test_a_name_that_only_looks_like_a_code_says_nothing(name: str) -> None:
    with refused(name, "language=…"):
        language(name)


@pytest.mark.parametrize(
    ("name", "dataset", "wanted"),
    [
        ("include_base_44_hindi_few_shot_en", "Hindi", "hi"),
        ("include_base_44_vietnamese_few_shot_og_philosophy", "Vietnamese", "vi"),
        ("massive_ms_my", "ms-MY", "ms"),
        ("assin_paraphrase", "pt-BR", "pt"),
        ("belebele_hin_Deva", "hin_Deva", "hi"),
        ("indicxnli_hi", "hi", "hi"),
        ("xcopa_vi", "default", "vi"),
        ("my_task_hi", "law", "hi"),
        ("afrimgsm_direct_swa", "swa", "sw"),
    ],
)
def test_the_name_of_the_dataset_comes_before_the_name_of_the_task(name: str, dataset: str, wanted: str) -> None:
    assert language(name, dataset) == wanted


@pytest.mark.parametrize(
    ("dataset", "known"), [("fr", "en hi"), ("hin_Latn", "en hi"), ("zh-TW", "zh en"), ("Bengali", "en hi")]
)
def test_a_dataset_in_a_language_without_neurons_is_refused(dataset: str, known: str) -> None:
    with refused(dataset, "languages="):
        language("my_task_hi", dataset, known=known.split())


@pytest.mark.parametrize(
    ("code", "known"),
    [
        *(("hin_Deva", "hi"), ("hin", "hi"), ("hi", "hin"), ("hi", "hin_Deva"), ("arb_Arab", "ar"), ("cmn_Hans", "zh")),
        *(("npi_Deva", "ne"), ("swh_Latn", "sw"), ("HI_IN", "hi"), ("Hindi", "hi"), ("zsm", "ms"), ("Bengali", "bn")),
    ],
)
def test_codes_of_one_language_are_one(code: str, known: str) -> None:
    assert language("task", stated=code, known=["en", known]) == known


@pytest.mark.slow
def test_the_languages_of_lm_evals_own_tasks(snapshot: SnapshotAssertion) -> None:
    manager = TaskManager()
    by_dataset: Counter[str] = Counter()
    by_name: dict[str, list[str]] = {}
    for name, entry in sorted(manager.task_index.items()):
        if not is_single_task(entry) or entry.yaml_path is None:
            continue
        dataset = load_yaml(entry.yaml_path, resolve_func=False).get("dataset_name")
        try:
            found = language(name, dataset)
        except LnbenchError:
            continue
        try:
            language("task", dataset)
            by_dataset[found] += 1
        except LnbenchError:
            by_name.setdefault(found, []).append(name)
    assert {"tasks by their dataset's name": dict(sorted(by_dataset.items())), "by their own": by_name} == snapshot
