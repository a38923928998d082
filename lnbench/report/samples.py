"""Documents with the model's answers to them under each intervention, from lm-eval's samples."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from lnbench.leaderboard.merged_records import inside, lines_of
from lnbench.leaderboard.rows import pattern_of
from lnbench.report.inputs import Sources
from lnbench.sweeps.records import Record

_READ = 500
"""Documents of a task that are looked at."""
_LONGEST, _LONGEST_ANSWER = 1500, 500
"""Characters of a document and of an answer that are shown."""
_MARKS = 400
"""Bytes that an answer takes beside its text."""
_SCORES = ("acc", "exact_match", "em", "acc_norm", "f1")
"""Metrics that tell whether an answer is right, the first that there is."""


@dataclass(frozen=True)
class Answer:
    """What the model answered to one document under one intervention."""

    change: str
    """What was done to the model, in words."""
    text: str
    """Empty where it is the answer without intervention."""
    right: bool | None
    """None where no metric tells."""
    changed: bool
    """Whether it differs from that answer."""
    scores: str
    """All metrics of the document."""


@dataclass(frozen=True)
class Document:
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


@dataclass(frozen=True)
class Group:
    """The documents of one task, as one model answered them."""

    title: str
    pattern: str
    """The task, with ``{lang}`` for its language."""
    language: str
    documents: Sequence[Document]
    total: int
    """Documents that were measured."""

    @property
    def size(self) -> int:
        """Bytes that its text takes, about."""
        return sum(map(_size, self.documents))

    def first(self, count: int) -> Group:
        """With so many documents; where an answer changed, first."""
        chosen = sorted(self.documents, key=lambda one: (not one.changed, one.number))[:count]
        return replace(self, documents=sorted(chosen, key=lambda one: one.number))


def groups(sources: Sources) -> list[Group]:
    """The documents of every task that lm-eval kept samples of. Random controls are left out.

    Raises:
        LnbenchError: a file that a record names is missing or damaged.
    """
    files: dict[tuple[Any, ...], dict[str, tuple[Record, Path]]] = defaultdict(dict)
    for result in sources.results:
        record = result.record
        if record.samples and record.control_of is None and not result.repeated:
            asked = (record.model, record.dtype, record.quantization, record.setup, record.seed, record.task)
            # A cell without intervention stands in the records once for each language.
            named = {one: sources.named(getattr(record, one)) for one in ("model", "selector")}
            files[asked].setdefault(record.cell, (record.model_copy(update=named), result.run))
    return [group for some in files.values() if (group := _group(list(some.values()))) is not None]


def _group(cells: Sequence[tuple[Record, Path]]) -> Group | None:
    # The unchanged model first, which the others are compared with.
    cells = sorted(cells, key=lambda cell: (cell[0].finetune != "none", cell[0].intervention != "none"))
    several = len({record.language for record, _ in cells if record.intervention != "none"}) > 1
    read: dict[tuple[int, str], list[tuple[str, _Sample]]] = defaultdict(list)
    for record, run in cells:
        change = _change(record, several)
        for key, sample in _of(inside(run, str(record.samples))):
            read[key].append((change, sample))
    documents = [_document(key[0], answers) for key, answers in sorted(read.items())]
    if not documents:
        return None
    first = cells[0][0]
    model = " ".join(filter(None, (first.model, first.dtype, first.quantization)))
    total = max(record.n or 0 for record, _ in cells)
    pattern = pattern_of(first.task, first.language)
    return Group(f"{first.task}, {model}", pattern, first.language, documents, max(total, len(documents)))


def _change(record: Record, several: bool) -> str:
    adapter = [] if record.finetune == "none" else [f"adapter {record.finetune}"]
    if record.intervention == "none":
        return ", ".join([*adapter, "none"])
    whose = f" ({record.language})" if several else ""
    return ", ".join([*adapter, f"{record.intervention}, {record.selector}{whose}"])


@dataclass(frozen=True)
class _Sample:
    """One line of lm-eval's samples."""

    text: str
    choices: Sequence[str]
    expected: str
    answer: str
    scores: Mapping[str, float]


def _of(path: Path) -> Iterator[tuple[tuple[int, str], _Sample]]:
    """The first samples of a file; of several filters, the last, as lm-eval's tasks refine answers."""
    found: dict[tuple[int, str], _Sample] = {}
    for line in lines_of(path):
        key = (int(line["doc_id"]), str(line["doc_hash"]))
        if len(found) >= _READ and key not in found:
            break
        found[key] = _sample(line)
    yield from found.items()


def _sample(line: Mapping[str, Any]) -> _Sample:
    asked = [_pair(one) for one in dict(line.get("arguments") or {}).values()]
    answers = list(line.get("filtered_resps") or [])
    numbers = {name: line.get(name) for name in line["metrics"]}
    scores = {name: float(one) for name, one in numbers.items() if isinstance(one, int | float)}
    target = line.get("target")
    likelihoods = [_likelihood(one) for one in answers]
    if len(asked) > 1 and len(asked) == len(answers) and None not in likelihoods:
        text, choices = _choices(asked)
        best = max(range(len(choices)), key=lambda place: likelihoods[place] or 0.0)
        return _Sample(text, choices, _expected(target, choices), choices[best], scores)
    text = asked[0][0] if asked else str(line.get("doc"))
    generated = str(answers[0]) if answers and not any(one is not None for one in likelihoods) else ""
    return _Sample(text, (), _joined(target), generated, scores)


def _pair(argument: Any) -> tuple[str, str]:
    """What the model was given, and what it was asked to score or how to write."""
    if not isinstance(argument, dict):
        return str(argument), ""
    first, second = argument.get("arg_0", ""), argument.get("arg_1", "")
    return str(first), second if isinstance(second, str) else ""


def _choices(asked: Sequence[tuple[str, str]]) -> tuple[str, list[str]]:
    """What all choices have in common, and what sets them apart: what is scored, or what stands before it."""
    contexts, scored = ([one[place] for one in asked] for place in (0, 1))
    if len(set(contexts)) == 1:
        return contexts[0], [one.strip() for one in scored]
    if len(set(scored)) == 1:
        return f"… {scored[0].strip()}", contexts
    return "", [before + after for before, after in asked]


def _likelihood(answer: Any) -> float | None:
    if not isinstance(answer, list | tuple) or not answer:
        return None
    try:
        return float(answer[0])
    except (TypeError, ValueError):
        return None


def _expected(target: Any, choices: Sequence[str]) -> str:
    """The right choice, where a sample tells which it is."""
    if isinstance(target, int | str) and str(target).isdigit() and int(target) < len(choices):
        return choices[int(target)]
    return str(target).strip() if str(target).strip() in choices else ""


def _joined(target: Any) -> str:
    return " / ".join(map(str, target)) if isinstance(target, list) else str(target if target is not None else "")


def _document(number: int, answers: Sequence[tuple[str, _Sample]]) -> Document:
    first = answers[0][1]
    return Document(
        number,
        _cut(first.text, _LONGEST),
        [_cut(choice, _LONGEST_ANSWER) for choice in first.choices],
        _cut(first.expected, _LONGEST_ANSWER),
        [_answer(change, sample, first) for change, sample in answers],
    )


def _answer(change: str, sample: _Sample, first: _Sample) -> Answer:
    score = next((sample.scores[name] for name in _SCORES if name in sample.scores), None)
    return Answer(
        change,
        "" if sample.answer == first.answer and sample is not first else _cut(sample.answer, _LONGEST_ANSWER),
        None if score is None else score >= 1,
        sample.answer != first.answer,
        ", ".join(f"{name} {value:.3g}" for name, value in sample.scores.items()),
    )


def _cut(text: str, longest: int) -> str:
    """The end of a text that is too long, as questions come last."""
    return text if len(text) <= longest else f"[{len(text) - longest:,} characters left out] …{text[-longest:]}"


def _size(document: Document) -> int:
    texts = [document.text, *document.choices, *(answer.text for answer in document.answers)]
    return sum(len(one.encode("utf-8", "replace")) for one in texts) + _MARKS * len(document.answers)


def within(found: Sequence[Group], most: int) -> list[Group]:
    """As many documents as fit in so many bytes, as many of each task; where an answer changed, first."""
    if sum(group.size for group in found) <= most:
        return list(found)
    longest = max(len(group.documents) for group in found)
    fitting, too_many = 0, longest
    while too_many - fitting > 1:
        count = (fitting + too_many) // 2
        if sum(group.first(count).size for group in found) <= most:
            fitting = count
        else:
            too_many = count
    return [group.first(fitting) for group in found]
