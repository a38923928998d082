"""``language=auto``: what says a task's language, and what only looks like it."""

from __future__ import annotations

from collections import Counter
from pathlib import Path
from typing import Any

import pytest
from lm_eval import tasks as tasks_of_lm_eval
from lm_eval.api.instance import Instance
from lm_eval.tasks import TaskManager
from lm_eval.tasks._yaml_loader import load_yaml
from syrupy.assertion import SnapshotAssertion

from lnbench.errors import LnbenchError
from lnbench.lm.compat import is_single_task
from lnbench.task_languages import DATASET_MARK, MARK, code_of, language_of, language_of_task
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
    "wmt14-en-fr": "a translation",
    "basque_bench_flores_de-eu": "a translation",
    "ntrex_eng_Latn-ven_Latn_prompt_1": "a translation",
    "mmlu_translate_hindi_en": "Hindi, or English",
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
    "bigbench_chinese_remainder_theorem_multiple_choice",
    "tmlu_GSAT_chinese",
    "csatqa_gr",
    "afrimgsm_translate_ibo_prompt_1",
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
        ("mlqa_hi_hi", "mlqa.hi.hi", "hi"),
        ("xquad_hi", "xquad.hi", "hi"),
        ("xwinograd_jp", "jp", "ja"),
        ("my_task_hi", "20231101.bn", "bn"),
        ("global_piqa_parallel_cloze_por_latn_braz", "por_latn_braz", "pt"),
        ("xnli_eu_mt", "eu_mt", "eu"),
        ("norbelebele_p0", "nob_Latn", "nb"),
        ("tydiqa_goldp_bn", "secondary_task", "bn"),
    ],
)
def test_the_name_of_the_dataset_comes_before_the_name_of_the_task(name: str, dataset: str, wanted: str) -> None:
    assert language(name, dataset) == wanted


@pytest.mark.parametrize(
    ("name", "wanted"),
    [
        *(("belebele_hin_Deva", "hi"), ("belebele_lvs_Latn", "lv"), ("global_mmlu_full_hi_anatomy", "hi")),
        *(("global_mmlu_zh_medical", "zh"), ("mmlu_prox_lite_hi_math", "hi"), ("mmmlu_id_id_us_foreign_policy", "id")),
        *(("mmmlu_es_la_anatomy", "es"), ("include_base_44_hindi_few_shot_en", "hi"), ("arc_challenge_mt_is", "is")),
        *(("include_base_44_north macedonian_few_shot_en_stem", "mk"), ("include_base_44_bengali_stem", "bn")),
        *(("mgsm_en_cot_de", "de"), ("mgsm_native_cot_hi", "hi"), ("xcopa_vi", "vi"), ("xstorycloze_my", "my")),
        *(("xwinograd_jp", "ja"), ("paws_ko", "ko"), ("mlqa_de_de", "de"), ("tydiqa_goldp_te", "te")),
        *(("xnli_eu_native", "eu"), ("multiblimp_hin", "hi"), ("global_piqa_nonparallel_cloze_spa_latn_mexi", "es")),
        *(("arc_hi", "hi"), ("hellaswag_it", "it"), ("truthfulqa_hi_mc1", "hi"), ("truthfulqa-multi_mc2_gl", "gl")),
        *(("m_mmlu_ne", "ne"), ("mmlu_hi_llama_anatomy", "hi"), ("bhs__hindi__S_ne_O_V", "hi"), ("quiz_Urdu", "ur")),
    ],
)
def test_a_family_says_its_language_in_its_name(name: str, wanted: str) -> None:
    assert language(name) == wanted


@pytest.mark.parametrize(
    ("tags", "wanted"),
    [(["hi"], "hi"), ("hindi", "hi"), (["quiz", "quiz_hi"], "hi"), ("mmlu_hi_llama_stem_tasks", "hi")],
)
def test_tags_come_before_the_name_of_the_task(tags: Any, wanted: str) -> None:
    assert language_of_task("my_task_ur", KNOWN, tags=tags) == wanted
    assert language_of_task("my_task_ur", KNOWN, tags=tags, dataset="bn") == "bn"


@pytest.mark.parametrize("tags", [["arc_challenge_mt"], ["flores_eng-afr"], ["kbl"], ["quiz"], []])
def test_tags_that_say_nothing(tags: list[str]) -> None:
    assert language_of_task("my_task_ur", KNOWN, tags=tags) == "ur"


@pytest.mark.parametrize(
    ("configuration", "values"),
    [
        ({"dataset": "mlqa.hi.en"}, ("mlqa.hi.en", "hi", "en")),
        ({"dataset": "eng_Latn-hin_Deva"}, ("eng_Latn-hin_Deva",)),
        ({"dataset": "en-de"}, ("en", "de")),
        ({"dataset": "hi_en"}, ("hi", "en")),
        ({"tags": ["x_hi", "x_bn"]}, ("hi", "bn")),
        ({"metadata": ["hi", "en"]}, ("hi", "en")),
        ({"document": "Hindi, English"}, ("hi", "en")),
    ],
)
def test_two_languages_in_a_configuration_are_refused(configuration: dict[str, Any], values: tuple[str, ...]) -> None:
    with refused("my_task_hi", *values, "language=…", "metadata"):
        language_of_task("my_task_hi", KNOWN, **configuration)


@pytest.mark.parametrize("name", ["include_base_44_bengali_few_shot_en", "x_bn", "mlqa_ar_en", "agieval_lsat_ar"])
def test_a_documents_own_language_overrules_any_name(name: str) -> None:
    assert language_of_task(name, KNOWN, document="Hindi", dataset="bn") == "hi"


@pytest.mark.parametrize("name", ["multiblimp_abk", "belebele_acm_Arab", "belebele_hin_Latn", "xcopa_ht", "xnli_fr"])
def test_a_familys_language_without_neurons_is_named(name: str) -> None:
    with refused(code_of(name.split("_", 1)[1]) or "", "en", "hi", name, "languages="):
        language_of_task(name, ["en", "hi"])


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


def test_a_task_of_lm_eval_is_resolved_by_its_configuration_alone() -> None:
    yaml = Path(tasks_of_lm_eval.__file__).parent / "belebele" / "belebele_hin_Deva.yaml"
    configuration = load_yaml(yaml, resolve_func=False)
    assert language(configuration["task"], configuration["dataset_name"], known=["en", "hi"]) == "hi"


@pytest.mark.slow
def test_the_languages_of_lm_evals_own_tasks(snapshot: SnapshotAssertion) -> None:
    languages: dict[str, Counter[str]] = {}
    by_name: dict[str, list[str]] = {}
    for name, entry in sorted(TaskManager().task_index.items()):
        if not is_single_task(entry) or entry.yaml_path is None:
            continue
        settings = {"dataset": (entry.cfg or {}).get("dataset_name"), "tags": (entry.cfg or {}).get("tag")}
        try:
            found = language_of_task(name, KNOWN, **settings)
        except LnbenchError as error:
            text = str(error)
            if "neither its metadata" in text:
                continue
            found = "two languages" if "can be read as" in text else f"no neurons of {text.split(chr(39))[1]}"
        family = entry.yaml_path.relative_to(Path(tasks_of_lm_eval.__file__).parent).parts[0]
        languages.setdefault(family, Counter())[found] += 1
        try:
            language_of_task("task", KNOWN, **settings)
        except LnbenchError:
            by_name.setdefault(found, []).append(name)
    counted = {
        family: ", ".join(f"{language} {number}" for language, number in sorted(counts.items()))
        for family, counts in languages.items()
    }
    decided = {found: names for found, names in by_name.items() if found in KNOWN}
    assert {"tasks by folder and language": counted, "decided by the task's name": decided} == snapshot
