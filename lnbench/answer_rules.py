"""How answers in each language are normalised before they are compared: built in, or from a task's metadata.

Source: Lewis et al. 2020, https://aclanthology.org/2020.acl-main.653, and its ``mlqa_evaluation_v1.py``: lower-case,
remove punctuation, remove articles, split into tokens. MLQA has rules for ar, de, en, es, hi, vi and zh. The rules of
XQuAD's other languages, and of Urdu, are ours: nothing is removed besides punctuation.
"""

from __future__ import annotations

import re
import string
import unicodedata
from collections.abc import Mapping
from functools import cache
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, field_validator

from lnbench.errors import LnbenchError
from lnbench.formats import validated

KEY = "answers"
"""The key of a task's metadata that holds rules."""
COLUMN = "answer_rules"
"""The column of rows whose task states rules."""
_EXAMPLE = f'{KEY}: {{tokens: spaces, remove: ""}}'
Splitting = Literal["spaces", "characters", "han"]
_UNSPACED = (
    "\u0e00-\u0eff"  # Thai, Lao
    "\u1000-\u109f\ua9e0-\ua9ff\uaa60-\uaa7f"  # Myanmar
    "\u1780-\u17ff\u19e0-\u19ff"  # Khmer
    "\u0f00-\u0fff"  # Tibetan
    "\u3005-\u3007\u3040-\u30ff\u31f0-\u31ff\uff66-\uff9f"  # kana
    "\u3400-\u4dbf\u4e00-\u9fff\uf900-\ufaff\U00020000-\U0003ffff"  # Han
)
_TOKENS: dict[str, re.Pattern[str]] = {
    name: re.compile(pattern)
    for name, pattern in {
        "spaces": r"\S+",
        "characters": rf"[{_UNSPACED}]|[^\s{_UNSPACED}]+",
        "han": r"[\u4e00-\u9fa5]|[^\s\u4e00-\u9fa5]+",
    }.items()
}


class AnswerRules(BaseModel):
    """What is removed from an answer, and how the rest is split into tokens."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    remove: str = Field(default="", description="regular expression of what is removed, as articles; none by default")
    tokens: Splitting = Field(
        default="spaces",
        description="spaces: split at white space; characters: each character of a script that is written without "
        "spaces is a token; han: the same of Chinese characters alone, as MLQA does",
    )

    @field_validator("remove")
    @classmethod
    def _compiles(cls, value: str) -> str:
        try:
            re.compile(value)
        except re.error as error:
            raise ValueError(f"is no regular expression: {error}") from error
        return value

    def split(self, text: str) -> list[str]:
        """Return the normalised tokens of an answer."""
        text = "".join(character for character in text.lower() if not _is_punctuation(character))
        if self.remove:
            text = re.sub(self.remove, " ", text)
        return _TOKENS[self.tokens].findall(text)


@cache
def _is_punctuation(character: str) -> bool:
    return character in string.punctuation or unicodedata.category(character).startswith("P")


def _words(words: str) -> str:
    return rf"\b(?:{'|'.join(words.split())})\b"


BUILT_IN: dict[str, AnswerRules] = {
    "ar": AnswerRules(remove="ال"),
    "de": AnswerRules(remove=_words("ein eine einen einem eines einer der die das den dem des")),
    "el": AnswerRules(),
    "en": AnswerRules(remove=_words("a an the")),
    "es": AnswerRules(remove=_words("un una unos unas el la los las")),
    "hi": AnswerRules(),
    "ro": AnswerRules(),
    "ru": AnswerRules(),
    "th": AnswerRules(tokens="characters"),
    "tr": AnswerRules(),
    "ur": AnswerRules(),
    "vi": AnswerRules(remove=_words("của là cái chiếc những")),
    "zh": AnswerRules(tokens="han"),
}
"""Language → its rules, where a task's metadata has none."""


@cache
def _stated(remove: str, tokens: Splitting) -> AnswerRules:
    return AnswerRules(remove=remove, tokens=tokens)


def check(language: str, stated: Any = None) -> dict[str, str] | None:
    """Check, before anything is generated, that answers of a language can be scored.

    Args:
        language: Language code.
        stated: The value of :data:`KEY` in the task's metadata; None where it has none.

    Returns:
        The rules that were stated, in full, for the rows; None where the built-in rules of the language count.

    Raises:
        LnbenchError: there are neither rules in the metadata nor built-in ones, or those stated do not fit.
    """
    if stated is not None:
        return validated(
            AnswerRules, stated, f"the metadata key {KEY}", f"write {_EXAMPLE}", from_yaml=True
        ).model_dump()
    if language not in BUILT_IN:
        raise LnbenchError(
            f"no rules to normalise answers in {language!r}; there are rules for {', '.join(BUILT_IN)}. Write those of "
            f"this language into the task's metadata: {_EXAMPLE}, where tokens is spaces, characters (a script "
            "without spaces) or han, and remove a regular expression of its articles"
        )
    return None


def rules_of(document: Mapping[str, Any]) -> AnswerRules:
    """Return the rules for a row: those that it carries in the column :data:`COLUMN`, else of its language.

    Raises:
        LnbenchError: there are none.
    """
    stated = document.get(COLUMN)
    if stated:
        return _stated(stated["remove"], stated["tokens"])
    check(document["language"])
    return BUILT_IN[document["language"]]
