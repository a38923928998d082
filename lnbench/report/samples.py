"""Documents with the model's answers to them under each intervention, from lm-eval's samples."""

from __future__ import annotations

import ast
from collections import defaultdict
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple

from markupsafe import escape

from lnbench.language_control.marked_lines import MarkedLine, marked_lines
from lnbench.leaderboard.merged_records import inside, lines_of
from lnbench.leaderboard.rows import pattern_of
from lnbench.report.inputs import Sources
from lnbench.sweeps.records import BASELINE, Record
from lnbench.tables.plain_names import language_name, metric_of, pair_name, plain_name, task_title

_MOST_READ = 500
"""Documents of a task that are read."""
_LONGEST, _LONGEST_ANSWER = 1500, 500
"""Characters of a document and of an answer that are shown."""
_LONGEST_LITERAL = 20_000
"""Characters of what may be Python's text of a list."""
_MARKUP = 400
"""Bytes of markup around one answer."""
_SCORES = ("acc", "exact_match", "em", "acc_norm", "f1")
"""Metrics that tell whether an answer is right, the first that there is."""


@dataclass(frozen=True)
class Answer:
    """What the model answered to one document under one intervention."""

    change: str
    """What was done to the model, in words."""
    exact: str
    """The same as it was typed."""
    text: str
    """Empty where it is the answer without intervention."""
    right: bool | None
    """None where no metric tells."""
    changed: bool
    """Whether it differs from the answer without intervention."""
    scores: str
    """All metrics of the document."""
    lines: Sequence[MarkedLine] = ()
    """Of a generated answer, its lines, each with its language."""


@dataclass(frozen=True)
class SampleDocument:
    """One document of a task, and the answers to it side by side."""

    number: int
    text: str
    choices: Sequence[str]
    expected: str
    answers: Sequence[Answer]

    @property
    def changed(self) -> bool:
        """Whether any intervention changed the answer."""
        return any(answer.changed for answer in self.answers)

    @property
    def size(self) -> int:
        """Bytes that it takes in a page, about."""
        answers = [
            text for answer in self.answers for text in (answer.change, answer.exact, answer.text, answer.scores)
        ]
        marks = sum(len(answer.lines) for answer in self.answers) + len(self.choices)
        texts = [self.text, self.expected, *self.choices, *answers]
        shown = sum(len(escape(text).encode("utf-8", "replace")) for text in texts)
        return shown + _MARKUP * (len(self.answers) + 2) + _MARKUP // 8 * marks


@dataclass(frozen=True)
class SampleGroup:
    """The documents of one task, as one model answered them."""

    title: str
    exact: str
    """The task's name."""
    task: str
    """The task's title, the same for all its languages."""
    language: str
    documents: Sequence[SampleDocument]
    """Those that are shown."""
    total: int
    """Documents that were measured."""

    @property
    def changed(self) -> bool:
        """Whether any intervention changed an answer that is shown."""
        return any(document.changed for document in self.documents)

    def within(self, most_bytes: int) -> SampleGroup:
        """Return it with as many documents as fit in so many bytes, those with a changed answer first."""
        ordered = sorted(self.documents, key=lambda document: (not document.changed, document.number))
        sizes = accumulate(document.size for document in ordered)
        fitting = [document for document, used in zip(ordered, sizes, strict=True) if used <= most_bytes]
        return replace(self, documents=sorted(fitting, key=lambda document: document.number))


def sample_groups(sources: Sources) -> list[SampleGroup]:
    """Return the documents of every task that lm-eval kept samples of. Random controls are left out.

    Raises:
        LnbenchError: a file that a record names is missing or damaged.
    """
    cells: dict[tuple[Any, ...], dict[str, tuple[Record, Path]]] = defaultdict(dict)
    for result in sources.results:
        record = result.record
        if record.samples and record.control_of is None and not result.repeated:
            key = (record.model, record.dtype, record.quantization, record.setup, record.seed, record.task)
            # A cell without intervention is in the records once for each language.
            names = {name: sources.named(getattr(record, name)) for name in ("model", "selector")}
            cells[key].setdefault(record.cell, (record.model_copy(update=names), result.run))
    return [group for of_task in cells.values() if (group := _group(list(of_task.values()))) is not None]


def _group(cells: Sequence[tuple[Record, Path]]) -> SampleGroup | None:
    # The unchanged model first, which the others are compared with.
    cells = sorted(cells, key=lambda cell: (cell[0].finetune != BASELINE, not cell[0].is_baseline))
    several = len({record.language for record, _ in cells if not record.is_baseline}) > 1
    answers: dict[tuple[int, str], list[tuple[_Change, Sample]]] = defaultdict(list)
    for record, run in cells:
        change = _change(record, several)
        for key, sample in read_samples(inside(run, str(record.samples))).items():
            answers[key].append((change, sample))
    documents = [_document(key[0], samples) for key, samples in sorted(answers.items())]
    if not documents:
        return None
    first = cells[0][0]
    model = " ".join(filter(None, (first.model, first.dtype, first.quantization)))
    total = max(record.n or 0 for record, _ in cells)
    task = task_title(pattern_of(first.task, first.language, first.source))
    title = f"{task}, {pair_name(first.language, first.source)}: {model}"
    return SampleGroup(title, first.task, task, first.language, documents, max(total, len(documents)))


class _Change(NamedTuple):
    """What was done to the model, in words and as it was typed."""

    words: str
    exact: str


def _change(record: Record, several: bool) -> _Change:
    """Name what was done to the model, with the language whose neurons were overridden if there are several."""
    adapter = [] if record.finetune == BASELINE else [f"adapter {record.finetune}"]
    if record.is_baseline:
        name = plain_name("intervention", record.intervention)
        return _Change(", ".join(adapter or [name]), ", ".join([*adapter, record.intervention]))
    names = plain_name("intervention", record.intervention), plain_name("selector", record.selector)
    whose = (f" ({language_name(record.language)})", f" ({record.language})") if several else ("", "")
    words = ", ".join([*adapter, *names]) + whose[0]
    return _Change(words, ", ".join([*adapter, record.intervention, record.selector]) + whose[1])


@dataclass(frozen=True)
class Sample:
    """One line of lm-eval's samples."""

    text: str
    choices: Sequence[str]
    expected: str
    answer: str
    scores: Mapping[str, float]
    is_generated: bool = False


def read_samples(path: Path) -> dict[tuple[int, str], Sample]:
    """Return the first samples of a file, by document; of several filters, the last, as tasks refine answers."""
    samples: dict[tuple[int, str], Sample] = {}
    for line in lines_of(path):
        key = (int(line["doc_id"]), str(line["doc_hash"]))
        if len(samples) >= _MOST_READ and key not in samples:
            break
        samples[key] = _sample(line)
    return samples


def _sample(line: Mapping[str, Any]) -> Sample:
    requests = [_pair(argument) for argument in dict(line.get("arguments") or {}).values()]
    responses = list(line.get("filtered_resps") or [])
    scores = {name: float(score) for name in line["metrics"] if isinstance(score := line.get(name), int | float)}
    target = line.get("target")
    likelihoods = [number for response in responses if (number := _likelihood(response)) is not None]
    if len(requests) > 1 and len(requests) == len(responses) == len(likelihoods):
        text, choices = _choices(requests)
        best = likelihoods.index(max(likelihoods))
        return Sample(text, choices, _expected(target, choices), choices[best], scores)
    text = requests[0][0] if requests else as_text(_parsed(line.get("doc")))
    generated = as_text(responses[0]) if responses and not likelihoods else ""
    return Sample(text, (), as_text(_parsed(target)), generated, scores, bool(generated))


def as_text(value: Any) -> str:
    """Return what lm-eval kept as a person would write it: ``a / b``, or lines of ``name: value``."""
    if isinstance(value, list | tuple):
        return " / ".join(dict.fromkeys(map(as_text, value)))
    if isinstance(value, dict):
        return "\n".join(f"{name}: {text}" for name, part in value.items() if (text := as_text(part)))
    return "" if value is None else str(value)


def _parsed(text: Any) -> Any:
    """Return the list or mapping that lm-eval wrote as Python's text of it; all else as it is."""
    if not isinstance(text, str) or len(text) > _LONGEST_LITERAL or not text.startswith(("[", "(", "{")):
        return text
    try:
        value = ast.literal_eval(text)
    except (ValueError, SyntaxError, MemoryError, RecursionError):
        return text
    return value if isinstance(value, list | tuple | dict) else text


def _pair(argument: Any) -> tuple[str, str]:
    """Return what the model was given, and what it was asked to score or how to write."""
    if not isinstance(argument, dict):
        return str(argument), ""
    first, second = argument.get("arg_0", ""), argument.get("arg_1", "")
    return str(first), second if isinstance(second, str) else ""


def _choices(requests: Sequence[tuple[str, str]]) -> tuple[str, list[str]]:
    """Return what all choices have in common, and what differs: what is scored, or what is before it."""
    contexts, scored = ([pair[place] for pair in requests] for place in (0, 1))
    if len(set(contexts)) == 1:
        return contexts[0], [choice.strip() for choice in scored]
    if len(set(scored)) == 1:
        return f"… {scored[0].strip()}", contexts
    return "", [before + after for before, after in requests]


def _likelihood(response: Any) -> float | None:
    try:
        return float(response[0]) if isinstance(response, list) else None
    except (IndexError, TypeError, ValueError):
        return None


def _expected(target: Any, choices: Sequence[str]) -> str:
    """Return the right choice, where a sample tells which it is."""
    text = as_text(_parsed(target))
    if isinstance(target, int | str) and text.isdigit() and int(text) < len(choices):
        return choices[int(text)]
    return text.strip() if text.strip() in choices else ""


def _document(number: int, samples: Sequence[tuple[_Change, Sample]]) -> SampleDocument:
    first = samples[0][1]
    return SampleDocument(
        number,
        _cut(first.text, _LONGEST),
        [_cut(choice, _LONGEST_ANSWER) for choice in first.choices],
        _cut(first.expected, _LONGEST_ANSWER),
        [_answer(change, sample, first) for change, sample in samples],
    )


def _answer(change: _Change, sample: Sample, first: Sample) -> Answer:
    shown = "" if sample.answer == first.answer and sample is not first else _cut(sample.answer, _LONGEST_ANSWER)
    score = next((sample.scores[name] for name in _SCORES if name in sample.scores), None)
    return Answer(
        change.words,
        change.exact,
        shown,
        None if score is None else score >= 1,
        sample.answer != first.answer,
        ", ".join(_score(name, value) for name, value in sample.scores.items()),
        marked_lines(shown) if sample.is_generated else (),
    )


def _score(name: str, value: float) -> str:
    metric = metric_of(name)
    return f"{value:.3g} {metric.unit}" if metric.unit else f"{metric.title} {value:.3g}"


def _cut(text: str, longest: int) -> str:
    """Return the end of a text that is too long, as questions come last."""
    return text if len(text) <= longest else f"[{len(text) - longest:,} characters left out] …{text[-longest:]}"
