"""The built-in selectors, measures, interventions, fine-tuners, executors and architectures, with their parameters."""

from __future__ import annotations

from docs.generator.markdown import code, docstring, paragraphs, sentence, table
from docs.generator.models import choices_in, default_text
from lnbench.host import Registered, get_host
from lnbench.parameters import Parameter, target_of

KINDS = {
    "selector": "Selectors",
    "measure": "Measures",
    "intervention": "Interventions",
    "finetuner": "Fine-tuners",
    "executor": "Executors",
}
_INTRODUCTION = (
    "A choice is written `name`, or with parameters `name:key=value:key=value`; lists are joined by `+`. "
    "`lnbench plugins` prints this table with the plugins that are installed. The formulas are in "
    "[the method](../topics/method.md); [a plugin](../howto/plugins.md) adds more."
)


def builtin() -> list[Registered]:
    """Return what lnbench itself registers."""
    return [row for row in get_host().describe() if row.source.distribution == "lnbench"]


def body() -> str:
    """Return the page below its title."""
    sections = [
        paragraphs(f"## {heading}", *(_choice(row) for row in builtin() if row.kind == kind))
        for kind, heading in KINDS.items()
    ]
    return paragraphs(_INTRODUCTION, *sections)


def _choice(row: Registered) -> str:
    rows = [
        (code(parameter.name), default(parameter), sentence(parameter.description, choices_in(parameter.annotation)))
        for parameter in row.parameters.values()
    ]
    parameters = table(("parameter", "default", "meaning"), rows) if rows else ""
    return paragraphs(f"### {code(row.name)}", docstring(target_of(row.factory).__doc__), parameters)


def default(parameter: Parameter) -> str:
    """Return a parameter's default as users write it."""
    if parameter.required:
        return "required"
    value = parameter.default
    return code("+".join(value)) if isinstance(value, tuple) and value else default_text(value)
