"""Which language a task is in, by its configuration or its name.

Codes are compared as BCP 47 has them, by langcodes: ``hin_Deva``, ``hin`` and ``hi`` are one language, ``hin_Latn`` is
another. What two readings fit is refused: a wrong language gives a wrong number, and nothing shows it.
"""

from __future__ import annotations

import re
from collections.abc import Collection, Sequence
from functools import cache
from typing import Any

import langcodes
from babel import Locale, localedata

from lnbench.errors import LnbenchError, unknown

AUTO = "auto"
MARK = "lnbench_language"
"""The attribute of a request that holds its task's language; :mod:`lnbench.lm.compat` writes it."""
DATASET_MARK = "lnbench_dataset_name"
"""The attribute of a request that holds its task's ``dataset_name``."""
TAGS_MARK = "lnbench_tags"
"""The attribute of a request that holds its task's tags."""
NO_LANGUAGE = re.compile(
    "|".join(
        (
            "afri(mgsm|mmlu|xnli)_(.*_)?translate_.*",  # translated from that language into English
            ".*agieval_(lsat_ar|jec_qa_ca)",  # analytical reasoning; case analysis
            "AraDiCE_.*_msa|(darija|egy).*",  # standard Arabic; subjects and sentiments in Arabic dialects
            "arc_challenge_mt",  # a tag: translated by machine
            "csatqa_.*",  # subjects, in Korean
            "transliteration_.*",  # of Darija
            "infinitebench_code_run|persona_.*",  # to run
            "lm_syneval_.*",  # sentences of one kind: main subject, main verb
            "matreshka_yes_no|zhoblimp_.*",
            "phrases_.*",  # translation from and to Valencian
            "pisa_ch",  # Chinese
            "tmlu_.*_chinese",  # a subject, in traditional characters
            "polemo2_in",  # reviews of hospitals, in domain
            "uncheatable_eval_.*",  # computer science
        )
    )
)
"""lm-eval's tasks whose configuration or name looks like a language's code and is none, or is another's."""
_SAME = {"nb": "no", "Hang": "Kore", "Hira": "Jpan", "Kana": "Jpan"}
"""Codes that are another's: Norwegian is written in Bokmål; scripts that are part of a writing system."""
_OTHER_NAMES = {
    "bengali": "bn",
    "castilian": "es",
    "farsi": "fa",
    "flemish": "nl",
    "kiswahili": "sw",
    "mandarin": "zh",
    "myanmar": "my",
    "north macedonian": "mk",
    "oriya": "or",
    "panjabi": "pa",
    "sinhalese": "si",
    "uighur": "ug",
    "valencian": "ca",
}
"""English names of languages that CLDR has under another one."""
_UNOFFICIAL = {"cn": "zh", "cz": "cs", "dk": "da", "jp": "ja", "ua": "uk"}
"""Codes of countries that are used as a language's and are none."""
_LETTERS, _TAG, _NAME = "([a-z]{2,3})", "([a-z]{2,3}(?:[_-][A-Za-z]{4}){0,2})", "([a-z]+(?: [a-z]+)?)"
FAMILIES = tuple(
    re.compile(pattern)
    for pattern in (
        f"belebele_{_TAG}(?:_prompt_[0-9]+)?",
        f"global_mmlu_(?:full_)?{_LETTERS}(?:_.*)?",
        f"mmlu_prox_(?:lite_)?{_LETTERS}(?:_.*)?",
        "mmmlu_([a-z]{2}_[a-z]{2})(?:_.*)?",
        f"(?:m_mmlu|arc|hellaswag|arc_challenge_mt|truthfulqa-multi_(?:gen|mc[12]))_{_LETTERS}",
        f"truthfulqa_{_LETTERS}_mc[12]",
        f"include_base_44_{_NAME}(?:_.*)?",
        f"mgsm_(?:direct|en_cot|native_cot|cot_native)_{_LETTERS}",
        f"(?:xcopa|xstorycloze|xwinograd|xquad|paws|pawsx|tydiqa_goldp)_{_LETTERS}",
        f"xnli_{_LETTERS}(?:_mt|_native)?",
        f"mlqa_{_LETTERS}_{_LETTERS}",
        f"multiblimp_{_LETTERS}",
        f"global_piqa_(?:non)?parallel_[a-z]+_{_TAG}",
        f"lambada_openai_mt_(?:stablelm_)?{_LETTERS}",
        "mmlu_([a-z]{2})_llama(?:_.*)?",
        f"(?:bhs__|toksuite_){_NAME}_.*",
    )
)
"""Names of lm-eval's multilingual tasks, with where they say their language, or context's and question's."""
_CODE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z]{4})?(-([A-Za-z]{2}|[0-9]{3}))?")
_PLACE = re.compile("(?<=[A-Za-z]{3}-[A-Za-z]{4})-[a-z]{4}$")
"""A place or a dialect in four letters behind language and script, as global_piqa writes them."""
_PARTS = re.compile(r"[^A-Za-z0-9]+")
_SETTING_PARTS = re.compile(r"[^A-Za-z0-9_ ]+| (?:and|to) ")
_SCRIPTED_PAIR = re.compile("([a-z]{3}_[A-Z][a-z]{3})-([a-z]{3}_[A-Z][a-z]{3})")
_PLAIN_PAIR = re.compile("([a-z]{2})[_-]([a-z]{2})")
_EXAMPLES = re.compile("_few_shot_(en|og)$")
"""What names add for the language of the examples in the prompt, which is not the task's."""


def language_of(instance: Any, known: Collection[str]) -> str:
    """Return the language of one lm-eval request, by the task's marks and the document's column ``language``.

    Args:
        instance: An ``lm_eval.api.instance.Instance``.
        known: The languages that have neurons.

    Raises:
        LnbenchError: as :func:`language_of_task`.
    """
    document = instance.doc.get("language") if isinstance(instance.doc, dict) else None
    return language_of_task(
        str(instance.task_name or ""),
        known,
        metadata=getattr(instance, MARK, None),
        document=document,
        dataset=getattr(instance, DATASET_MARK, None),
        tags=getattr(instance, TAGS_MARK, ()),
    )


def language_of_task(
    name: str,
    known: Collection[str],
    *,
    metadata: object = None,
    document: object = None,
    dataset: object = None,
    tags: Sequence[str] | str | None = (),
) -> str:
    """Return the language of a task of lm-eval, by its configuration before its name.

    What the metadata or a document states comes first, then ``dataset_name``, tags, and the task's name. Each of the
    last three only decides if it can be read in one way: a code inside it says nothing, two languages are refused.

    Args:
        name: The task's name.
        known: The languages that have neurons.
        metadata: ``language`` of the task's metadata.
        document: A document's column ``language``.
        dataset: The task's ``dataset_name``.
        tags: The task's ``tag``.

    Raises:
        LnbenchError: the task's language has no neurons, two readings fit, or nothing says which it is.
    """
    # lm-eval lays the model's arguments over every task's metadata, so language=auto can be there.
    texts = (", ".join(map(str, value)) if isinstance(value, list) else value for value in (metadata, document))
    stated = [text for text in texts if isinstance(text, str) and text != AUTO]
    for text in stated:
        _one_of(name, text, _codes_in(text), "its language")
    missing = [text for text in stated if code_of(text) and find(text, known) is None]
    language = next((match for text in stated if (match := find(text, known))), None)
    if language is None and not missing:
        by_configuration, certain = _by_configuration(
            name, known, dataset, [tags] if isinstance(tags, str) else tags or ()
        )
        language = find(by_configuration, known) if by_configuration else None
        missing = [by_configuration] if by_configuration and language is None and certain else []
    if language is not None and not any(_contradict(code, language) for code in missing):
        return language
    if missing:
        hint = f"Task {name!r} needs neurons of it: add it to languages=, or to the NeuronSet"
        raise unknown("language", missing[0], sorted(known), hint)
    raise LnbenchError(
        f"cannot tell the language of task {name!r}: neither its metadata, its dataset_name nor its tags say it, and "
        f"its name does not end in one of {', '.join(sorted(known))}. {_REMEDY}"
    )


_REMEDY = "Pass language=… in --model_args, or add metadata: {language: …} to the task"


def _by_configuration(
    name: str, known: Collection[str], dataset: object, tags: Sequence[str]
) -> tuple[str | None, bool]:
    """Return the language that dataset_name, tags or name say, as they write it, and whether it can be nothing else.

    Raises:
        LnbenchError: the first of them that says a language says two.
    """
    if NO_LANGUAGE.fullmatch(name):
        return None, False
    _one_of(name, name, [code for part in _SCRIPTED_PAIR.findall(name) for code in part], "its name")
    family = _by_family(name)
    if isinstance(dataset, str) and (codes := _codes_in(dataset, known)):
        if len(codes) > 1 and len(family) == 1:
            codes = [code for code in codes if not _contradict(code, family[0])] or codes
        return _one_of(name, dataset, codes, "its dataset_name"), True
    by_tag = [code for tag in tags for code in _by_family(tag) or _by_tag(tag, known)]
    if by_tag:
        return _one_of(name, ", ".join(tags), by_tag, "its tags"), True
    if family:
        return _one_of(name, name, family, "its name"), True
    readings = readings_of(name)
    return (_one_of(name, name, readings, "its name"), False) if readings else (None, False)


def _by_tag(tag: str, known: Collection[str]) -> list[str]:
    """Return the known language that a tag is, or that its end is in two letters or spelled out in English."""
    if NO_LANGUAGE.fullmatch(tag):
        return []
    end = tag if find(tag, known) else _PARTS.split(tag)[-1]
    code = code_of(end)
    return [code] if code and len(end) != 3 and find(end, known) else []


def _one_of(name: str, text: str, codes: Sequence[str], where: str) -> str:
    languages = list(dict.fromkeys(codes))
    if len(languages) > 1:
        said = where if text == name else f"{where} {text!r}"
        raise LnbenchError(
            f"cannot tell the language of task {name!r}: {said} can be read as {' or '.join(languages)}. {_REMEDY}"
        )
    return languages[0] if languages else text


def _by_family(name: str) -> list[str]:
    """Return the languages that the name or tag of a task of lm-eval's families says: two for a cross-lingual one."""
    for family in FAMILIES:
        if match := family.fullmatch(name):
            codes = [code for text in match.groups() if (code := code_of(text))]
            if len(codes) == family.groups:
                return list(dict.fromkeys(codes))
    return []


def _codes_in(text: str, known: Collection[str] = ()) -> list[str]:
    """Return the languages that a setting names: all of it (``hin_Deva``), or its last parts (``mlqa.ar.en``).

    Of codes with three letters, which words and abbreviations can look like, only those of known languages count.
    """
    if text.islower() and (match := _PLAIN_PAIR.fullmatch(text)) and _is_pair(*match.groups()):
        return [code for part in match.groups() if (code := code_of(part))]
    if code_of(text) and (find(text, known) or _is_sure(text)):
        return [text]
    codes: list[str] = []
    for part in reversed(_SETTING_PARTS.split(text)):
        code = code_of(part)
        if code is None or not (_is_sure(part) or find(part, known)):
            break
        codes.insert(0, code)
    return list(dict.fromkeys(codes))


def _is_sure(text: str) -> bool:
    """Return whether a text with the form of a code can hardly be anything else."""
    return len(text) > 3 or (text.islower() and len(str(code_of(text)).partition("-")[0]) == 2)


def _is_pair(first: str, second: str) -> bool:
    """Return whether two letters behind a language, in lower case, are another language rather than a place."""
    usual = langcodes.Language.get(first).maximize().territory
    return usual != second.upper() and first != second and bool(localedata.exists(second))


def readings_of(name: str) -> list[str]:
    """Return the languages that the end of a task's name can be read as, as BCP 47 codes; none if it has no code."""
    parts = [part for part in _PARTS.split(_EXAMPLES.sub("", name)) if part]
    last, before = (parts or [""])[-1], (parts or ["", ""])[-2:-1]
    spelled = _code_by_name().get(last.lower()) if len(last) > 3 else None
    named = [_code_by_name().get(part.lower()) for part in parts if len(part) > 3]
    with_place = code_of(f"{before[0]}-{last}") if before and len(last) in (2, 4) else None
    # What is no language's code by itself is a place behind one: CN in zh_CN.
    alone = code_of(last) if len(last) in (2, 3) and not (with_place and last.lower() in _UNOFFICIAL) else None
    if with_place and len(last) == 2 and (not _is_locale(with_place) or with_place.startswith(f"{alone}-")):
        with_place = None
    if alone is None:
        return [with_place] if with_place else [code for code in dict.fromkeys(named) if code and spelled]
    if with_place and last.isupper() and before[0].islower():
        return [with_place]  # as pt_BR is written
    pair = code_of(before[0]) if before and len(before[0]) == 2 else None
    return list(dict.fromkeys(code for code in (alone, with_place, pair, *named) if code))


def _is_locale(code: str) -> bool:
    """Return whether a language's code with a region is one that is in use."""
    language, _, region = code.partition("-")
    usual: str | None = langcodes.Language.get(language).maximize().territory
    return usual == region or bool(localedata.exists(f"{language}_{region}"))


def code_of(text: str) -> str | None:
    """Return the BCP 47 code that a text is, or that is of the language that it names in English; else None."""
    code = _PLACE.sub("", text.strip().replace("_", "-"))
    code = _UNOFFICIAL.get(code.lower(), code)
    if _CODE.fullmatch(code) and langcodes.tag_is_valid(code):
        return str(langcodes.standardize_tag(code, macro=True))
    return _code_by_name().get(text.strip().lower())


def find(text: str, known: Collection[str]) -> str | None:
    """Return which of the known languages a text is, if it is exactly one.

    First by the code as it is written, then by the language and its script.
    """
    if text in known:
        return text
    by_form: Sequence[str] = [language for language in known if _form(language) == _form(text)]
    if by_form:
        return by_form[0]
    code = code_of(text)
    if code is None:
        return None
    same = [language for language in known if not _contradict(code, language)]
    if len(same) > 1:
        same = [language for language in same if _bare(language) == _bare(code)]
    return same[0] if len(same) == 1 else None


@cache
def _code_by_name() -> dict[str, str]:
    return {name.lower(): code for code, name in Locale("en").languages.items() if "_" not in code} | _OTHER_NAMES


def _form(code: str) -> str:
    return code.strip().lower().replace("-", "_")


def _bare(text: str) -> str:
    return str(code_of(text)).partition("-")[0]


@cache
def _spoken_and_written(text: str) -> tuple[str, str | None]:
    """Return a code's language, and the script that it is or would usually be written in."""
    code = code_of(text)
    if code is None:
        return _form(text), None
    language = langcodes.Language.get(code).maximize()
    return _SAME.get(str(language.language), str(language.language)), _SAME.get(language.script, language.script)


def _contradict(code: str, other: str) -> bool:
    """Return whether two codes name different languages, or scripts of one."""
    (first, script), (second, other_script) = _spoken_and_written(code), _spoken_and_written(other)
    return first != second or (script is not None and other_script is not None and script != other_script)
