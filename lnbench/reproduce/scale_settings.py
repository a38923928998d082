"""How a reproduction is made: the scale's numbers and the preset's choices, with what the user puts in their place."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from lnbench.errors import LnbenchError, unknown
from lnbench.formats import first_error
from lnbench.reproduce import catalogue

Scale = Literal["paper", "small"]
Preset = Literal["corrected", "paper"]
_OPEN = ("model_args", "settings", "gen_kwargs")
"""Entries that are mappings of any keys."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class TaskSettings(_Part):
    """How a task is trained for and measured."""

    limit: int | None = Field(ge=1, description="documents a cell; none: all")
    settings: dict[str, Any] = Field(description="training settings in place of the paper's")
    gen_kwargs: dict[str, Any] = Field(description="of lm-eval, for written answers")


class PerplexitySettings(_Part):
    """How perplexity is measured."""

    tokens: int = Field(ge=2, description="tokens of text that is read in each language")
    length: int = Field(ge=2, description="tokens in a block")
    controls: int = Field(ge=0, description="draws of random neurons beside every row")


class Reading(_Part):
    """How text is read for Statistics."""

    mode: Literal["pack", "truncate"] = Field(description="as lnbench stats --mode")
    skip: int = Field(ge=0, description="positions left out at the start of a block")
    batch_levels: list[float] = Field(description="levels whose batch means are kept")


class Settings(_Part):
    """Everything that can be replaced with ``--set KEY=VALUE``."""

    corpus: str | None = Field(description="corpus pattern; none: LNBENCH_DATA's, else the embedded text")
    tokens: int = Field(ge=1, description="tokens a language, for Statistics")
    length: int = Field(ge=2, description="tokens in a block")
    quantize: Literal["none", "nf4"] = Field(description="weights of models; nf4: as in the paper")
    batch_size: int | Literal["auto"] = Field(description="of lm-eval")
    controls: int = Field(ge=0, description="draws of random neurons beside every cell; the paper has none")
    model_args: dict[str, Any] = Field(description="more arguments of lm-eval's hf")
    xnli: TaskSettings
    xquad: TaskSettings
    ppl: PerplexitySettings
    site: Literal["post", "pre", "paper"] = Field(description="paper: read before the non-linearity, write after it")
    selectors: dict[Literal["lape", "act_prob"], str] = Field(description="each selector with its parameters")
    reading: Reading
    pooling: Literal["last", "paper"] = Field(description="what a classification head reads")

    @property
    def select_site(self) -> Literal["post", "pre"]:
        """Where selectors read."""
        return "pre" if self.site == "paper" else self.site

    def flat(self) -> dict[str, str | int | float | bool | None]:
        """The settings by their ``--set`` keys."""
        return dict(_flat(self.model_dump(mode="json"), ""))


def _flat(value: Mapping[str, Any], prefix: str) -> Iterable[tuple[str, Any]]:
    for key, one in value.items():
        if isinstance(one, dict):
            yield from _flat(one, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}", "+".join(map(str, one)) if isinstance(one, list) else one


def settings(scale: Scale, preset: Preset, given: Mapping[str, Any] | None = None) -> Settings:
    """A scale's numbers and a preset's choices, with others in their place.

    Args:
        scale: The paper's amounts, or small ones.
        preset: The paper's code's choices, or lnbench's.
        given: ``--set`` key → value.

    Raises:
        LnbenchError: an unknown key, or a value that does not fit.
    """
    content = {**catalogue.read("scales")[scale], **catalogue.read("presets")[preset]}
    for key, value in (given or {}).items():
        _put(content, key, value)
    try:
        return Settings.model_validate(content)
    except ValidationError as error:
        raise LnbenchError(f"--set {first_error(error, with_value=True)}") from error


def _put(content: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    place, is_open = content, False
    for parent in parents:
        if not isinstance(place.get(parent), dict):
            raise unknown("setting", key, _keys(content))
        place, is_open = place[parent], parent in _OPEN
    if not is_open and (last not in place or isinstance(place[last], dict)):
        raise unknown("setting", key, _keys(content))
    place[last] = value


def _keys(content: Mapping[str, Any]) -> list[str]:
    found = []
    for key, value in content.items():
        if key in _OPEN:
            found.append(f"{key}.…")
        elif isinstance(value, dict):
            found += [f"{key}.{inner}" for inner in _keys(value)]
        else:
            found.append(key)
    return found


def parse_pair(text: str) -> tuple[str, Any]:
    """``key=value`` of ``--set``; the value as YAML writes it.

    Raises:
        LnbenchError: it is not such a pair.
    """
    key, equals, value = text.partition("=")
    if not equals or not key:
        raise LnbenchError(f"--set takes KEY=VALUE, not {text!r}")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise LnbenchError(f"--set {key}: {value!r} is not a value as YAML writes it") from error
