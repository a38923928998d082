"""What readers are shown for what users type: ``hi`` is Hindi, ``zero`` zero-ablation, ``acc`` accuracy."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from functools import cache
from string import Formatter
from typing import Any

from babel import Locale, UnknownLocaleError

from lnbench.errors import LnbenchError
from lnbench.host import get_host
from lnbench.parameters import format_number
from lnbench.tables.words import without_folders

# Languages


@cache
def language_names(code: str) -> tuple[str | None, str | None]:
    """Return a language's English name and its own; None for what Unicode's locale data do not know."""
    try:
        locale = Locale.parse(code.replace("-", "_"), resolve_likely_subtags=False)
        return locale.get_display_name("en"), locale.get_language_name()
    except (UnknownLocaleError, ValueError):
        return Locale("en").languages.get(code), None


def language_name(code: str) -> str:
    """Return a language's English name, or its code where there is none."""
    return language_names(code)[0] or code


def pair_name(language: str, source: str | None = None) -> str:
    """Return a language's name, or ``source→language`` in names."""
    return language_name(language) if source is None else f"{language_name(source)}→{language_name(language)}"


# Choices


class _Plain(Formatter):
    """Fills in a plugin's parameters: ``{fraction:share}`` in per cent, other numbers in their shortest form."""

    def format_field(self, value: Any, format_spec: str) -> str:
        if format_spec == "share":
            return f"{100 * value:.3g}\u00a0%"
        if isinstance(value, list | tuple):
            return ", ".join(map(str, value))
        if isinstance(value, float) and not format_spec:
            return format_number(value)
        return str(super().format_field(value, format_spec))


_PLAIN = _Plain()


@cache
def plain_name(kind: str, choice: str) -> str:
    """Return what a plugin declares to be shown for a choice; a file's name, or the choice where nothing is declared.

    Parameters that the declared name does not hold, and that are not at their default, are added behind it.

    Args:
        kind: ``selector`` or ``intervention``.
        choice: ``name`` or ``name:key=value``, as in records.
    """
    return _declared(kind, choice, "plain_name") or without_folders(choice)


@cache
def plain_action(intervention: str, neurons: str) -> str:
    """Return what an intervention does to ``neurons`` as a sentence says it: ``setting Hindi's neurons to zero``."""
    declared = _declared("intervention", intervention, "plain_action", neurons=neurons)
    return declared or f"applying {plain_name('intervention', intervention)} to {neurons}"


def _declared(kind: str, choice: str, attribute: str, **filled: str) -> str | None:
    host = get_host()
    try:
        built, full = host.resolve(kind, choice), host.canonical(kind, choice)
    except LnbenchError:
        return None  # A file, or a plugin that was installed where it was measured.
    template = getattr(built, attribute, None)
    if not isinstance(template, str):
        return None
    fields = {name for _, name, _, _ in _PLAIN.parse(template) if name}
    defaults = host.defaults(kind, full["name"])
    others = {key: value for key, value in full["parameters"].items() if key not in fields and value is not None}
    rest = [f"{key} {_PLAIN.format_field(value, '')}" for key, value in others.items() if value != defaults.get(key)]
    values = {name: getattr(built, name) for name in fields - filled.keys()}
    return ", ".join([_PLAIN.format(template, **values, **filled), *rest])


def plain_names(kind: str, choices: Iterable[str]) -> dict[str, str]:
    """Return choice → plain name; those that would have the same keep their choice in brackets behind it."""
    names = {choice: plain_name(kind, choice) for choice in choices}
    shared = [name for name in names.values() if list(names.values()).count(name) > 1]
    return {choice: f"{name} ({choice})" if name in shared else name for choice, name in names.items()}


# Metrics and tasks


@dataclass(frozen=True)
class Metric:
    """How a metric is called, and what it is counted in."""

    title: str
    unit: str = ""
    """Written behind a number; empty for a share."""


_METRICS = {
    "acc": Metric("accuracy"),
    "acc_norm": Metric("accuracy, normalised by length"),
    "exact_match": Metric("exact match"),
    "f1": Metric("F1"),
    "bits_per_byte": Metric("surprise at the text", "bits per byte"),
    "document_bits_per_byte": Metric("surprise at the text, by document", "bits per byte"),
    "byte_perplexity": Metric("perplexity per byte"),
    "word_perplexity": Metric("perplexity per word"),
    "perplexity": Metric("perplexity"),
    "answer_language": Metric("answers in the asked language"),
    "lfs": Metric("answers in the asked language"),
    "line_lfs": Metric("lines in the asked language"),
    "source_share": Metric("answers in the source language"),
    "unknown": Metric("answers in no known language"),
    "length": Metric("length of answers", "words"),
    "distinct_1": Metric("distinct words"),
    "distinct_2": Metric("distinct pairs of words"),
    "lpr": Metric("answers without a line in a wrong language"),
    "line_acc": Metric("lines in the right language"),
    "line_pass": Metric("answers with all lines in the right language"),
    "skipped": Metric("answers too short to judge"),
}
_TASKS = {
    "lnbench_demo_continuation": "Continuations",
    "lnbench_demo_nli": "Inference (demo)",
    "lnbench_demo_qa": "Questions (demo)",
    "lnbench_demo_open": "Open questions (demo)",
    "lnbench_demo_generation": "Written continuations",
    "lnbench_xnli": "Inference (XNLI)",
    "lnbench_xnli_pair": "Inference across languages (XNLI)",
    "lnbench_xquad": "Reading comprehension (XQuAD)",
    "lnbench_xquad_pair": "Reading comprehension across languages (XQuAD)",
    "lnbench_ppl": "Running text",
    "lnbench_clas": "Forced answer language (CLaS-Bench)",
    "lnbench_lcb_monolingual": "Language confusion, monolingual",
    "lnbench_lcb_crosslingual": "Language confusion, crosslingual",
}
"""Task without its languages → its title, where the task itself declares none."""


def metric_of(metric: str | None) -> Metric:
    """Return how a metric is called: as above, else by its name in words; lm-eval's filter is behind a comma."""
    name, _, used = (metric or "failed").partition(",")
    known = _METRICS.get(name) or Metric(name.replace("_", " "))
    return Metric(f"{known.title}, {used.replace('-', ' ')}", known.unit) if used else known


def metric_title(metric: str | None, higher_is_better: bool | None = None) -> str:
    """Return a metric's title with its unit, and which way is better where that is known."""
    known = metric_of(metric)
    better = {None: "", True: "higher is better", False: "lower is better"}[higher_is_better]
    about = ", ".join(filter(None, (known.unit, better)))
    return f"{known.title} ({about})" if about else known.title


def task_title(pattern: str, declared: str | None = None) -> str:
    """Return a task's title.

    Args:
        pattern: The task, with ``{lang}`` and ``{source}`` for its languages.
        declared: ``title`` of the task's own ``metadata``.
    """
    plain = "_".join(part for part in pattern.split("_") if not part.startswith("{"))
    return declared or _TASKS.get(plain) or plain or pattern
