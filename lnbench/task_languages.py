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
NO_LANGUAGE = re.compile(
    "|".join(
        (
            ".*agieval_(lsat_ar|jec_qa_ca)",  # analytical reasoning; case analysis
            "AraDiCE_.*_msa|(darija|egy).*",  # standard Arabic; subjects and sentiments in Arabic dialects
            "transliteration_.*",  # of Darija
            "infinitebench_code_run|persona_.*",  # to run
            "lm_syneval_.*",  # sentences of one kind: main subject, main verb
            "matreshka_yes_no|zhoblimp_.*",
            "phrases_.*",  # translation from and to Valencian
            "pisa_ch",  # Chinese
            "polemo2_in",  # reviews of hospitals, in domain
            "uncheatable_eval_.*",  # computer science
        )
    )
)
"""lm-eval's tasks whose name ends like a language's code and is none, or is another's."""
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
_CODE = re.compile(r"[A-Za-z]{2,3}(-[A-Za-z]{4})?(-([A-Za-z]{2}|[0-9]{3}))?")
_PARTS = re.compile(r"[^A-Za-z0-9]+")


def language_of(instance: Any, known: Collection[str]) -> str:
    """Return the language of one lm-eval request.

    The first known one of: its task's metadata, its document's ``language``, its task's ``dataset_name``, the end of
    its task's name. A name only says it if it can be read in one way: a code inside it, or two codes at its end, say
    nothing.

    Args:
        instance: An ``lm_eval.api.instance.Instance``.
        known: The languages that have neurons.

    Raises:
        LnbenchError: the task's language has no neurons, two readings fit, or nothing says which it is.
    """
    name = str(instance.task_name or "")
    document = instance.doc.get("language") if isinstance(instance.doc, dict) else None
    # lm-eval lays the model's arguments over every task's metadata, so language=auto can be there.
    stated = [text for text in (getattr(instance, MARK, None), document) if isinstance(text, str) and text != AUTO]
    dataset = getattr(instance, DATASET_MARK, None)
    missing = [code for code in stated if code_of(code) and find(code, known) is None]
    language = next((match for code in stated if (match := find(code, known))), None)
    if language is None and not missing and isinstance(dataset, str):
        language = find(dataset, known)
        # A subject can look like the code of a small language, which has three letters.
        missing = [dataset] if language is None and len((code_of(dataset) or "---").partition("-")[0]) == 2 else []
    if language is None and not missing:
        readings = [] if NO_LANGUAGE.fullmatch(name) else readings_of(name)
        if len(readings) > 1:
            raise LnbenchError(
                f"cannot tell the language of task {name!r}: its name can be read as {' or '.join(readings)}. "
                + _REMEDY
            )
        language = find(readings[0], known) if readings else None
    if language is not None and not any(_contradict(code, language) for code in missing):
        return language
    if missing:
        hint = f"Task {name!r} needs neurons of it: add it to languages=, or to the NeuronSet"
        raise unknown("language", missing[0], sorted(known), hint)
    raise LnbenchError(
        f"cannot tell the language of task {name!r}: neither its metadata nor its dataset_name says it, and its name "
        f"does not end in one of {', '.join(sorted(known))}. {_REMEDY}"
    )


_REMEDY = "Pass language=… in --model_args, or add metadata: {language: …} to the task"


def readings_of(name: str) -> list[str]:
    """Return the languages that the end of a task's name can be read as, as BCP 47 codes; none if it has no code."""
    parts = [part for part in _PARTS.split(name) if part]
    last, before = (parts or [""])[-1], (parts or ["", ""])[-2:-1]
    alone = code_of(last) if len(last) in (2, 3) else None
    with_place = code_of(f"{before[0]}-{last}") if before and len(last) in (2, 4) else None
    if with_place and len(last) == 2 and (not _is_locale(with_place) or with_place.startswith(f"{alone}-")):
        with_place = None
    if alone is None:
        return [with_place] if with_place else []
    if with_place and last.isupper() and before[0].islower():
        return [with_place]  # as pt_BR is written
    pair = code_of(before[0]) if before and len(before[0]) == 2 else None
    named = [_code_by_name().get(part.lower()) for part in parts[:-1] if len(part) > 3]
    return list(dict.fromkeys(code for code in (alone, with_place, pair, *named) if code))


def _is_locale(code: str) -> bool:
    """Return whether a language's code with a region is one that is in use."""
    language, _, region = code.partition("-")
    usual: str | None = langcodes.Language.get(language).maximize().territory
    return usual == region or bool(localedata.exists(f"{language}_{region}"))


def code_of(text: str) -> str | None:
    """Return the BCP 47 code that a text is, or that is of the language that it names in English; else None."""
    code = text.strip().replace("_", "-")
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
    return same[0] if len(same) == 1 else None


@cache
def _code_by_name() -> dict[str, str]:
    return {name.lower(): code for code, name in Locale("en").languages.items() if "_" not in code} | _OTHER_NAMES


def _form(code: str) -> str:
    return code.strip().lower().replace("-", "_")


@cache
def _spoken_and_written(text: str) -> tuple[str, str | None]:
    """Return a code's language, and the script that it is or would usually be written in."""
    code = code_of(text)
    if code is None:
        return _form(text), None
    language = langcodes.Language.get(code).maximize()
    return str(language.language), language.script


def _contradict(code: str, other: str) -> bool:
    """Return whether two codes name different languages, or scripts of one."""
    (first, script), (second, other_script) = _spoken_and_written(code), _spoken_and_written(other)
    return first != second or (script is not None and other_script is not None and script != other_script)
