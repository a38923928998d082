"""The Language Confusion Benchmark's rules: is an answer, line by line and word by word, in the language asked for?

Source: Marchisio et al. 2024, *Understanding and Mitigating Language Confusion in LLMs*,
https://aclanthology.org/2024.emnlp-main.380, and its ``compute_metrics.py`` (for-ai/language-confusion). Two things
differ: languages are identified by the small model of fastText, ``lid.176.ftz`` (published: ``lid.176.bin``), and
Japanese is split with the dictionary UniDic-lite (published: UniDic).
"""

from __future__ import annotations

import string
from collections import defaultdict
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from statistics import fmean

from lnbench.corpora.identification import UNKNOWN, identifiable_labels, identified
from lnbench.errors import LnbenchError
from lnbench.language_control.english_words import english_words
from lnbench.language_control.forcing import NEXT_QUESTION
from lnbench.language_control.segmentation import words_of

WORD_LANGUAGES = ("ar", "hi", "ja", "ko", "ru", "zh")
"""Languages in other scripts than Latin, in which an English word is seen."""
ALL = "all"
"""In place of a source or a language: the average over them."""
_LEAST_WORDS = 5
"""A shorter line is not looked at."""
_LEAST_PROBABILITY = 0.3
"""A language is known if it is likelier than this."""
_REMOVED: dict[int, str | None] = {ord(character): None for character in string.punctuation + "،"} | {ord("—"): " "}

Group = tuple[str, str, str]
"""Task (``monolingual``, ``crosslingual``), source, language."""


@dataclass(frozen=True)
class Answer:
    """What was found in one answer."""

    lines: int
    """Lines that are long enough to be looked at; the answer is skipped if there is none."""
    wrong_lines: int
    """Those that are in another language, or in none that is known."""
    has_english: bool
    """Whether a right line has an English word; False where a line is wrong, or the language is written in Latin."""


@dataclass(frozen=True)
class Scores:
    """The scores of a group of answers."""

    n: int
    answered: int
    """Answers that are not skipped."""
    lpr: float
    """Line pass rate: the share of them without a wrong line; 1 if all were skipped."""
    line_acc: float
    """The mean share of right lines; 1 if all were skipped."""
    wpr: float | None
    """Word pass rate: of those without a wrong line, the share without an English word. None for other languages than
    :data:`WORD_LANGUAGES`."""

    @property
    def skipped(self) -> float:
        """The share of answers that the other scores leave out: none of their lines has five words."""
        return 1 - self.answered / self.n


@dataclass(frozen=True)
class Average:
    """The mean of several groups' scores; each group counts once, whatever its size."""

    groups: int
    skipped: float
    lpr: float
    line_acc: float
    wpr: float | None
    """Over the groups that have one."""


def check_language(language: str) -> None:
    """Check that answers in a language can be told apart.

    Raises:
        LnbenchError: the identifier has no such label.
    """
    if language not in identifiable_labels():
        raise LnbenchError(
            f"{language!r} is no language that fastText's lid.176 identifies; write its ISO 639-1 code, as hi or zh"
        )


def lines_of(completion: str, language: str) -> Iterator[tuple[str, list[str]]]:
    """Yield the lines of an answer that are long enough, without punctuation, each with its words."""
    text = completion.split(NEXT_QUESTION)[0].strip().translate(_REMOVED)
    for line in text.split("\n"):
        words = words_of(line, language)
        if len(words) >= _LEAST_WORDS:
            yield line, words


def language_of(line: str) -> str:
    """Return the language that a line is in by fastText's ``lid.176``; :data:`UNKNOWN` if none is likely enough."""
    label, probability = identified(line)
    return label if probability > _LEAST_PROBABILITY else UNKNOWN


def look_at(completion: str, language: str, words: frozenset[str]) -> Answer:
    """Return what one answer that should be in ``language`` has in it.

    Args:
        completion: The answer.
        language: ISO 639-1 code.
        words: English words, of :func:`lnbench.language_control.english_words.english_words`.

    Raises:
        LnbenchError: the extra ``cjk`` is needed, and is not installed.
    """
    lines = list(lines_of(completion, language))
    wrong = sum(language_of(line) != language for line, _ in lines)
    sees_words = language in WORD_LANGUAGES and not wrong
    has_english = sees_words and any(word.strip() in words for _, line in lines for word in line)
    return Answer(len(lines), wrong, has_english)


def summarise(answers: Sequence[Answer], language: str) -> Scores:
    """Return the scores of a group of answers in one language."""
    answered = [answer for answer in answers if answer.lines]
    wrong = sum(answer.wrong_lines > 0 for answer in answered)
    with_english = sum(answer.has_english for answer in answered)
    return Scores(
        n=len(answers),
        answered=len(answered),
        lpr=1 - wrong / max(1, len(answered)),
        line_acc=fmean(1 - answer.wrong_lines / answer.lines for answer in answered) if answered else 1.0,
        wpr=1 - with_english / max(1, len(answered) - wrong) if language in WORD_LANGUAGES else None,
    )


def score(completions: Mapping[Group, Iterable[str]], words: frozenset[str] | None = None) -> dict[Group, Scores]:
    """Return the scores of each group of completions.

    Args:
        completions: Group → its completions.
        words: English words; the packaged list by default.

    Raises:
        LnbenchError: a language is not one that is identified, or the extra ``cjk`` is needed and is not installed.
    """
    known = english_words() if words is None else words
    for _, _, language in completions:
        check_language(language)
    return {
        group: summarise([look_at(completion, group[2], known) for completion in texts], group[2])
        for group, texts in completions.items()
    }


def average(scores: Iterable[Scores | Average]) -> Average:
    """Return the unweighted mean of several groups' scores."""
    members = list(scores)
    wpr = [member.wpr for member in members if member.wpr is not None]
    return Average(
        groups=len(members),
        skipped=fmean(member.skipped for member in members),
        lpr=fmean(member.lpr for member in members),
        line_acc=fmean(member.line_acc for member in members),
        wpr=fmean(wpr) if wpr else None,
    )


def averages(scores: Mapping[Group, Scores]) -> dict[Group, Average]:
    """Return the benchmark's averages, for each task by itself: over languages, over sources, and over all.

    That over all is the mean of the languages' averages over their sources, so that each language counts once.
    """
    by_source: dict[Group, list[Scores]] = defaultdict(list)
    by_language: dict[Group, list[Scores]] = defaultdict(list)
    for (task, source, language), own in scores.items():
        by_source[task, source, ALL].append(own)
        by_language[task, ALL, language].append(own)
    result = {group: average(members) for group, members in (by_source | by_language).items()}
    for task in dict.fromkeys(task for task, _, _ in scores):
        result[task, ALL, ALL] = average(result[group] for group in by_language if group[0] == task)
    return result


def as_json(scores: Mapping[Group, Scores]) -> dict[str, dict[str, float | None]]:
    """Return scores as ``task/source/language`` → ``n``, ``answered``, ``lpr``, ``line_acc``, ``wpr``."""
    return {"/".join(group): asdict(own) for group, own in scores.items()}
