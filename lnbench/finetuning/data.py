"""Rows as token lists: the task's own prompt, the right answer, and a count of whatever was left out or cut."""

from __future__ import annotations

import hashlib
import logging
import math
import random
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from typing import TYPE_CHECKING, Any

import numpy as np

from lnbench.errors import LnbenchError
from lnbench.finetuning.presets import TrainingSettings
from lnbench.finetuning.training_rows import Rows, open_rows
from lnbench.progress import Bar
from lnbench.special_tokens import cut_left, eos_of, padding_of

if TYPE_CHECKING:
    from lnbench.lm import LNBenchLM

log = logging.getLogger(__name__)
_HELD_OUT = 0.1
"""The largest part of the rows that is held out of training."""
_ANSWERABLE = ("multiple_choice", "generate_until", "loglikelihood")


@dataclass(frozen=True)
class Example:
    """One text. Of ``tokens`` the last ``answer`` are the answer; a text for a classification head has none."""

    tokens: list[int]
    answer: int
    label: int = -1
    """The class, for a head."""


@dataclass(frozen=True)
class Question:
    """A row to measure on: one text per choice, or a single one; ``gold`` is the right choice, for a head the class."""

    choices: tuple[Example, ...]
    gold: int


@dataclass(frozen=True)
class TrainingData:
    """What :func:`lnbench.finetuning.training.train_adapter` trains and measures on."""

    training: Sequence[Example]
    validation: Sequence[Question]
    settings: TrainingSettings
    classes: int | None
    """Of the classification head; None: the task is answered in text."""
    pad: int
    """Token id that fills shorter rows."""
    account: dict[str, Any]
    """Where it comes from and what became of it, as JSON data; see docs/reference/files.md."""


def prepare(name: str, lm: LNBenchLM, settings: TrainingSettings, *, include_path: str | None = None) -> TrainingData:
    """Read, prompt and tokenise the rows that ``name`` names, exactly as ``lm`` is asked them in an evaluation.

    Args:
        name: See :func:`lnbench.finetuning.training_rows.open_rows`.
        lm: The model, for its tokenizer and how lm-eval uses it.
        settings: How many rows, how long, answered in which way.
        include_path: Folder with lm-eval tasks of one's own.

    Raises:
        LnbenchError: unknown name, rows that cannot be had, a task without answers to train on, or nothing left; more
            tokens than the model has positions.
    """
    if settings.max_length > lm.max_length:
        raise LnbenchError(f"max_length={settings.max_length} is more than the model's {lm.max_length} positions")
    rows = open_rows(name, include_path, head=settings.answer == "head")
    reader = _Reader(rows, lm, settings)
    order = list(range(len(rows.training)))
    if settings.sample == "random":
        random.Random(settings.seed).shuffle(order)
    most = settings.validation_examples
    if held_out := rows.validation is None:
        # From the end, so that training on the first N is what it says.
        most = min(most, math.ceil(len(order) * _HELD_OUT))
        backwards = reversed(order)
        validation = list(islice(reader.questions(rows.training, backwards), most))
        order = list(backwards)[::-1]
    else:
        validation = list(islice(reader.questions(rows.validation, range(len(rows.validation))), most))
    validation_left_out = reader.forget_counts()
    count = min(len(order), settings.examples or len(order))
    questions = islice(reader.questions(rows.training, order, only_gold=True), count)
    training = [question.choices[0] for question in Bar(questions, f"reading {name}", count, unit="row")]
    if settings.loss == "all":
        training = [replace(example, answer=len(example.tokens) - 1) for example in training]
    left_out = reader.forget_counts()
    if not training:
        why = _listed(left_out) or f"it has {len(rows.training)}, and validation_examples={most} of them are held out"
        raise LnbenchError(f"no row of {name} is left to train on: {why}")
    if settings.patience is not None and not validation:
        raise LnbenchError(f"patience needs rows to measure on, and {name} has none that can be used")
    if settings.examples is not None and len(training) < settings.examples:
        log.warning("%s has %d rows to train on, fewer than the %d asked for", name, len(training), settings.examples)
    if left_out:
        log.warning("training rows of %s: %s", name, _listed(left_out))
    if len(validation) < settings.validation_examples:
        part = ", a tenth of its rows" if held_out and len(validation) == most else ""
        log.warning("%s has %d rows to measure on%s, not %d", name, len(validation), part, settings.validation_examples)
    account = {
        "name": name,
        "task": rows.task.config.task,
        "training": len(training),
        "validation": len(validation),
        "validation_held_out": held_out,
        "left_out": left_out,
        "validation_left_out": validation_left_out,
        "tokens": sum(len(example.tokens) for example in training),
        "fingerprint": _fingerprint(training, validation),
    }
    return TrainingData(
        training, validation, settings, len(reader.labels) if reader.labels else None, padding_of(lm.tokenizer), account
    )


class _Reader:
    """Turns documents into examples, and counts those that cannot be used."""

    def __init__(self, rows: Rows, lm: LNBenchLM, settings: TrainingSettings) -> None:
        self._task, self._text, self._lm, self._settings = rows.task, rows.text, lm, settings
        self._kind = str(rows.task.OUTPUT_TYPE)
        self.counts: Counter[str] = Counter()
        self.labels: list[str] | None = None
        name = rows.task.config.task
        if shots := rows.task.config.num_fewshot:
            log.warning("task %s asks with %d examples; training is on prompts without: measure with 0", name, shots)
        if self._kind not in _ANSWERABLE:
            raise LnbenchError(f"task {name} is of type {self._kind}, which has no answer to train on")
        if settings.answer == "head" and (self._kind != "multiple_choice" or rows.task.multiple_input):
            raise LnbenchError(
                f"task {name} has no choices after one prompt, so a classification head cannot answer it: use "
                "answer=prompt"
            )

    def forget_counts(self) -> dict[str, int]:
        """Return the counts so far, and from here on new ones."""
        counts, self.counts = dict(self.counts), Counter()
        return counts

    def questions(self, documents: Any, order: Iterable[int], *, only_gold: bool = False) -> Iterator[Question]:
        """Yield the documents that can be used, with all their choices or the right one alone."""
        for texts, gold in self._labelled(documents, order):
            texts = texts[gold : gold + 1] if only_gold or self._settings.answer == "head" else texts
            choices = [choice for text in texts if (choice := self._example(*text, gold))]
            if len(choices) == len(texts):
                yield Question(tuple(choices), gold)

    def _labelled(self, documents: Any, order: Iterable[int]) -> Iterator[tuple[list[tuple[str, str]], int]]:
        """Yield ``(context, answer)`` of every choice, and which is right."""
        for number in order:
            document = documents[number]
            if any(not str(document[column]).strip() for column in self._text):
                self.counts["empty"] += 1
                continue
            try:
                texts, gold = self._requests(document)
            except LnbenchError as error:
                raise LnbenchError(f"task {self._task.config.task}: row {number}: {error}") from error
            except Exception as error:  # a task's own code can raise anything
                task = self._task.config.task
                raise LnbenchError(f"task {task}: row {number} cannot be read: {error!r}") from error
            if gold is None or not texts[gold][1].strip():
                self.counts["unlabelled"] += 1
            elif not texts[gold][0].strip():
                self.counts["empty"] += 1
            else:
                yield texts, gold

    def _requests(self, document: Any) -> tuple[list[tuple[str, str]], int | None]:
        """Return the requests that lm-eval would make of a document."""
        task = self._task
        context = task.fewshot_context(document, 0)
        if self._kind == "multiple_choice":
            choices = task.doc_to_choice(document)
            requests = task.construct_requests(document, context)[: len(choices)]
            gold = task.doc_to_text(document) if task.multiple_input else task.doc_to_target(document)
            if self._settings.answer == "head":
                self.labels = self.labels or choices
                if len(choices) != len(self.labels):
                    raise LnbenchError(
                        f"rows have {len(self.labels)} and {len(choices)} choices; a head needs one number"
                    )
                if choices != self.labels:
                    raise LnbenchError(
                        f"choices hold text of the row ({choices[0]!r}), which a classification head would not read: "
                        "use a task whose choices are the same in every row, or answer=prompt"
                    )
            return [request.args[:2] for request in requests], _index(gold, choices)
        target = task.doc_to_target(document)
        answers = target if isinstance(target, list) else [target]
        answer = next((str(text) for text in answers if text is not None and str(text).strip()), None)
        if answer is None:
            return [], None
        if self._kind == "generate_until":
            answer = task.config.target_delimiter + answer
        return [(context, answer)], 0

    def _example(self, context: str, answer: str, gold: int) -> Example | None:
        """Tokenise as lm-eval's ``hf`` does, to at most ``max_length``."""
        lm, settings = self._lm, self._settings
        longest = settings.max_length
        if settings.answer == "head":
            tokens, scored = lm.tok_encode(context), 0
        else:
            before, after = lm._encode_pair(context, answer)  # noqa: SLF001 - lm-eval has no public way
            if self._kind == "generate_until":
                after = [*after, eos_of(lm.tokenizer, f"training on the answers of {self._task.config.task}")]
            tokens, scored = before + after, len(after)
        if settings.drop_from is not None and len(tokens) >= settings.drop_from:
            self.counts["too_long"] += 1
            return None
        if len(tokens) > longest:
            # One token of the prompt besides BOS, at least.
            if settings.too_long == "drop" or scored > longest - 2:
                self.counts["too_long"] += 1
                return None
            tokens = cut_left(tokens, longest, lm.prefix_token_id)
            if self._kind == "generate_until" and self._loses(context, answer.strip(), tokens[:-scored]):
                self.counts["answer_cut"] += 1
                return None
            self.counts["cut"] += 1
        return Example(tokens, scored, gold)

    def _loses(self, context: str, answer: str, prompt: list[int]) -> bool:
        """Return whether a prompt that held the answer does so no longer once it is cut."""
        return answer in context and answer not in self._lm.tok_decode(prompt)


def _index(gold: Any, choices: Sequence[str]) -> int | None:
    """Return which choice is right, by lm-eval's rules; None where that is not said."""
    if isinstance(gold, list):
        gold = gold[0] if gold else None
    if isinstance(gold, str):
        return choices.index(gold) if gold in choices else None
    return int(gold) if gold is not None and 0 <= gold < len(choices) else None


_REASONS = {
    "empty": "{} without text left out",
    "unlabelled": "{} without a label left out",
    "too_long": "{} too long left out",
    "cut": "{} cut at the start of the prompt",
    "answer_cut": "{} whose answer a cut would take from the prompt left out",
}


def _listed(counts: dict[str, int]) -> str:
    return ", ".join(_REASONS[reason].format(count) for reason, count in counts.items())


def _fingerprint(training: Sequence[Example], validation: Sequence[Question]) -> str:
    """Return 16 hexadecimal digits that change with any token or label."""
    digest = hashlib.sha256()
    labelled = [(example.label, example) for example in training]
    labelled += [(question.gold, choice) for question in validation for choice in question.choices]
    for label, example in labelled:
        digest.update(np.asarray([label, example.answer, *example.tokens], dtype=np.int64).tobytes())
    return digest.hexdigest()[:16]
