"""Which language a task is in, told from its configuration or its name."""

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
    """The language of one lm-eval request.

    The first that is known of: its task's metadata, its document's ``language``, the end of its task's name. Case does
    not matter, nor ``-`` or ``_``. Metadata or a document with another code than the language found is an error;
    languages spelt out, and codes of three letters beside those of two, are nothing to compare.

    Args:
        instance: An ``lm_eval.api.instance.Instance``.
        known: The languages that have neurons.

    Raises:
        LnbenchError: the task's language has no neurons, or nothing tells which it is.
    """
    name = str(instance.task_name or "")
    document = instance.doc.get("language") if isinstance(instance.doc, dict) else None
    # lm-eval lays the model's arguments over every task's metadata, so language=auto can stand there.
    stated = [one for one in (getattr(instance, MARK, None), document) if isinstance(one, str) and one != AUTO]
    ending = [part for part in re.split(r"[^A-Za-z0-9]+", name) if part][-2:]
    spelling = {_form(one): one for one in known}
    unknown_codes: list[str] = []
    found = None
    for candidate in [*stated, "_".join(ending), *reversed(ending)]:
        found = candidate if candidate in known else spelling.get(_form(candidate))
        if found is not None:
            break
        if candidate in stated and _CODE.fullmatch(_form(candidate)):
            unknown_codes.append(candidate)
    if found is not None and not any(_contradict(_form(code), _form(found)) for code in unknown_codes):
        return found
    if unknown_codes:
        hint = f"Task {name!r} needs neurons of it: add it to languages=, or to the NeuronSet"
        raise unknown("language", unknown_codes[0], sorted(known), hint)
    raise LnbenchError(
        f"cannot tell the language of task {name!r}: its name ends in none of {', '.join(sorted(known))}, and its "
        "metadata has no 'language'. Pass language=… in --model_args, or add metadata: {language: …} to the task"
    )


def _form(code: str) -> str:
    return code.strip().lower().replace("-", "_")


def _contradict(one: str, other: str) -> bool:
    """Whether two codes name different languages, as far as codes of one length tell."""
    first, second = one.partition("_")[0], other.partition("_")[0]
    return len(first) == len(second) and first != second
