"""Which language a task is in, by its configuration or its name."""

from __future__ import annotations

import re
from collections.abc import Collection
from typing import Any

from lnbench.errors import LnbenchError, unknown

AUTO = "auto"
MARK = "lnbench_language"
"""The attribute of a request that holds its task's language; :mod:`lnbench.lm.compat` writes it."""
_CODE = re.compile(r"[a-z]{2,3}(_[a-z0-9]+)*")


def language_of(instance: Any, known: Collection[str]) -> str:
    """Return the language of one lm-eval request.

    The first known one of: its task's metadata, its document's ``language``, the end of its task's name. Case does not
    matter, nor ``-`` or ``_``. It is an error if metadata or a document has another code; names of languages, and codes
    of three letters beside those of two, are not compared.

    Args:
        instance: An ``lm_eval.api.instance.Instance``.
        known: The languages that have neurons.

    Raises:
        LnbenchError: the task's language has no neurons, or nothing says which it is.
    """
    name = str(instance.task_name or "")
    document = instance.doc.get("language") if isinstance(instance.doc, dict) else None
    # lm-eval lays the model's arguments over every task's metadata, so language=auto can be there.
    stated = [text for text in (getattr(instance, MARK, None), document) if isinstance(text, str) and text != AUTO]
    ending = [part for part in re.split(r"[^A-Za-z0-9]+", name) if part][-2:]
    by_form = {_form(language): language for language in known}
    unknown_codes: list[str] = []
    language = None
    for candidate in [*stated, "_".join(ending), *reversed(ending)]:
        language = candidate if candidate in known else by_form.get(_form(candidate))
        if language is not None:
            break
        if candidate in stated and _CODE.fullmatch(_form(candidate)):
            unknown_codes.append(candidate)
    if language is not None and not any(_contradict(code, language) for code in unknown_codes):
        return language
    if unknown_codes:
        hint = f"Task {name!r} needs neurons of it: add it to languages=, or to the NeuronSet"
        raise unknown("language", unknown_codes[0], sorted(known), hint)
    raise LnbenchError(
        f"cannot tell the language of task {name!r}: its name ends in none of {', '.join(sorted(known))}, and its "
        "metadata has no 'language'. Pass language=… in --model_args, or add metadata: {language: …} to the task"
    )


def _form(code: str) -> str:
    return code.strip().lower().replace("-", "_")


def _contradict(code: str, other: str) -> bool:
    """Return whether two codes name different languages, as far as codes of one length tell."""
    first, second = (_form(text).partition("_")[0] for text in (code, other))
    return len(first) == len(second) and first != second
