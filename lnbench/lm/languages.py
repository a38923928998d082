"""Which language a task is in, told from its configuration or its name."""

from __future__ import annotations

import re
from collections.abc import Collection
from functools import wraps
from typing import Any

from lm_eval.api.task import Task

from lnbench.errors import LnbenchError, unknown

AUTO = "auto"
_MARK = "lnbench_language"
_CODE = re.compile(r"[a-z]{2,3}([_-][A-Za-z0-9]+)*")


def language_of(instance: Any, known: Collection[str]) -> str:
    """The language of one lm-eval request: from its task's metadata, its document's ``language``, its task's name.

    Args:
        instance: An ``lm_eval.api.instance.Instance``.
        known: The languages that have neurons.

    Raises:
        LnbenchError: the task's language has no neurons, or nothing tells which it is.
    """
    name = str(instance.task_name or "")
    # lm-eval lays the model's arguments over every task's metadata, so language=auto can stand there.
    stated = getattr(instance, _MARK, None)
    document = instance.doc.get("language") if isinstance(instance.doc, dict) else None
    if not isinstance(stated, str) or stated == AUTO:
        # Other people's documents may spell their language out.
        stated = document if isinstance(document, str) and _CODE.fullmatch(document) else None
    if stated is not None:
        if stated not in known:
            raise unknown("language", stated, sorted(known), f"Task {name!r} needs neurons of it: add it to languages=")
        return stated
    for part in reversed(re.split(r"[^A-Za-z0-9]+", name)):
        if part in known:
            return part
    raise LnbenchError(
        f"cannot tell the language of task {name!r}: its name ends in none of {', '.join(sorted(known))}, and its "
        "metadata has no 'language'. Pass language=… in --model_args, or add metadata: {language: …} to the task"
    )


def _mark_requests(build: Any) -> Any:
    """Write each task's language on its requests, since lm-eval hands a model the requests alone."""

    @wraps(build)
    def build_all_requests(self: Any, *args: Any, **kwargs: Any) -> Any:
        result = build(self, *args, **kwargs)
        metadata = getattr(self.config, "metadata", None)
        language = metadata.get("language") if isinstance(metadata, dict) else None
        for instance in self.instances:
            setattr(instance, _MARK, language)
        return result

    build_all_requests.__dict__[_MARK] = True
    return build_all_requests


if _MARK not in vars(Task.build_all_requests):
    Task.build_all_requests = _mark_requests(Task.build_all_requests)
