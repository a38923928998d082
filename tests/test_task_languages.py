"""Which language a request is in."""

from __future__ import annotations

from typing import Any

import pytest
from lm_eval.api.instance import Instance

from lnbench.task_languages import MARK, language_of
from tests.support.messages import refused


def one_line_error(name: str, known: str, metadata: Any = None, document: Any = None) -> str:
    instance = Instance(
        request_type="loglikelihood", doc={"language": document}, arguments=("", ""), idx=0, metadata=(name, 0, 1)
    )
    setattr(instance, MARK, metadata)
    return language_of(instance, known.split())


@pytest.mark.parametrize(
    ("name", "known", "metadata", "document", "language"),
    [
        ("x_hi", "en hi", None, None, "hi"),
        ("x_hi", "en hi", "en", None, "en"),
        ("x_hi", "en hi ur", "ur", "en", "ur"),
        ("x_hi", "en hi", None, "en", "en"),
        ("x_hi", "en hi", "auto", None, "hi"),
        ("x_hi", "en hi", None, 3, "hi"),
        ("x", "en hi", "Hindi", "hi", "hi"),
        ("my_flores_hi", "en hi", "hin_Deva", None, "hi"),
        ("my_flores_hi", "en hi", "Hindi", None, "hi"),
        ("my_flores_hi", "en hi", None, "Hindi", "hi"),
        ("xnli_zh", "en zh", "zh-CN", None, "zh"),
        ("x", "en zh-CN", "zh_cn", None, "zh-CN"),
        ("x", "en zh_cn", None, "zh-CN", "zh_cn"),
        ("x_zh_cn", "en zh-CN", None, None, "zh-CN"),
        ("x_zh-CN", "en zh_cn zh", None, None, "zh_cn"),
        ("xnli_zh_cn", "en zh", None, None, "zh"),
        ("belebele_hin_Deva", "hin_Deva urd_Arab", None, None, "hin_Deva"),
        ("x_hi_", "en hi", None, None, "hi"),
        ("x", "en hi", "hin_Deva", None, "hi"),
        ("x_hin", "en hi", None, None, "hi"),
        ("x_hindi", "en hi", None, None, "hi"),
        ("x_zho_Hans", "en zh", None, None, "zh"),
        ("x_pt_BR", "en pt", None, None, "pt"),
        ("mlqa_de_de", "en de", None, None, "de"),
        ("x_HI", "en hi", None, None, "hi"),
        ("x", "zh_cn zh-CN", "zh-CN", None, "zh-CN"),
    ],
)
def test_the_language(name: str, known: str, metadata: Any, document: Any, language: str) -> None:
    assert one_line_error(name, known, metadata, document) == language


@pytest.mark.parametrize(
    ("name", "known", "metadata", "document", "wrong"),
    [
        ("x_hi", "en hi", "ur", None, "ur"),
        ("x_hi", "en hi", "UR", None, "UR"),
        ("x_hi", "en hi", None, "ur", "ur"),
        ("x_hi", "en hi", "ur_Arab", None, "ur_Arab"),
        ("x", "en hi", "ur", "hi", "ur"),
        ("x", "en hi", "hin_Latn", None, "hin_Latn"),
        ("x_hin", "eng hin", "urd", None, "urd"),
    ],
)
def test_a_code_without_neurons_is_an_error(name: str, known: str, metadata: Any, document: Any, wrong: str) -> None:
    known_in_words = ", ".join(known.split())
    with refused(wrong, known_in_words, "languages=", "NeuronSet"):
        one_line_error(name, known, metadata, document)


@pytest.mark.parametrize("name", ["", "arc_easy", "hi_arc_easy", "en_of_no_use", "x_hi_mc", "hindi_history"])
def test_nothing_tells_the_language(name: str) -> None:
    for metadata in (None, "default"):
        with refused(repr(name), "en, hi", "language=…", "metadata"):
            one_line_error(name, "en hi", metadata)
