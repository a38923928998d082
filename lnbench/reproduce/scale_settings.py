"""How a reproduction is made: the scale's numbers and the preset's choices, with what the user puts in their place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

import yaml
from pydantic import Field, ValidationError

from lnbench.errors import LnbenchError, unknown
from lnbench.formats import StrictModel, first_error
from lnbench.model.architectures import SiteOption, site_choice
from lnbench.reproduce import catalogue
from lnbench.reproduce.catalogue import SelectorName

Scale = Literal["paper", "small"]
Preset = Literal["corrected", "paper"]
PRESETS: tuple[Preset, ...] = ("corrected", "paper")
_OPEN = ("model_args", "settings", "gen_kwargs")
"""Entries that are mappings of any keys."""


class TaskSettings(StrictModel):
    """How a task is trained for and measured."""

    limit: int | None = Field(ge=1, description="documents per cell; none: all")
    settings: dict[str, Any] = Field(description="training settings in place of the paper's")
    gen_kwargs: dict[str, Any] = Field(description="of lm-eval, for written answers")


class MatrixSettings(StrictModel):
    """How perplexity is measured."""

    tokens: int = Field(ge=2, description="tokens of text that is read in each language")
    length: int = Field(ge=2, description="tokens per block")
    controls: int = Field(ge=0, description="draws of random neurons beside every row")


class CountingSettings(StrictModel):
    """How text is read for Statistics."""

    mode: Literal["pack", "truncate"] = Field(description="as lnbench stats --mode")
    skip: int = Field(ge=0, description="positions left out at the start of a block")
    batch_levels: list[float] = Field(description="levels whose batch means are kept")


class ReproductionSettings(StrictModel):
    """Everything that can be replaced with ``--set KEY=VALUE``."""

    corpus: str | None = Field(description="corpus pattern; none: LNBENCH_DATA's, else the embedded text")
    tokens: int = Field(ge=1, description="tokens per language, for Statistics")
    length: int = Field(ge=2, description="tokens per block")
    quantize: Literal["none", "nf4"] = Field(description="weights of models; nf4: as in the paper")
    batch_size: int | Literal["auto"] = Field(description="of lm-eval")
    controls: int = Field(ge=0, description="draws of random neurons beside every cell; the paper has none")
    model_args: dict[str, Any] = Field(description="more arguments of lm-eval's hf")
    xnli: TaskSettings
    xquad: TaskSettings
    ppl: MatrixSettings
    site: SiteOption = Field(description="paper: read before the non-linearity, write after it")
    selectors: dict[SelectorName, str] = Field(description="each selector with its parameters")
    reading: CountingSettings
    pooling: Literal["last", "paper"] = Field(description="what a classification head reads")

    @property
    def select_site(self) -> str:
        """Where selectors read."""
        return site_choice(self.site).read

    def flat(self) -> dict[str, str | int | float | bool | None]:
        """Return the settings by their ``--set`` keys."""
        values = dict(_leaves(self.model_dump(mode="json")))
        return {key: "+".join(map(str, value)) if isinstance(value, list) else value for key, value in values.items()}


def _leaves(content: Mapping[str, Any], prefix: str = "", closed: Sequence[str] = ()) -> Iterator[tuple[str, Any]]:
    """Yield each setting with its dotted key; those in ``closed`` as one, with ``.…`` behind its key."""
    for key, value in content.items():
        if key in closed:
            yield f"{prefix}{key}.…", value
        elif isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.", closed)
        else:
            yield f"{prefix}{key}", value


def read_settings(scale: Scale, preset: Preset, given: Mapping[str, Any] | None = None) -> ReproductionSettings:
    """Return a scale's numbers and a preset's choices, with others in their place.

    Args:
        scale: The paper's amounts, or small ones.
        preset: The paper's code's choices, or lnbench's.
        given: ``--set`` key → value.

    Raises:
        LnbenchError: an unknown key, or a value that does not fit.
    """
    content = {**catalogue.read("scales")[scale], **catalogue.read("presets")[preset]}
    for key, value in (given or {}).items():
        _replace(content, key, value)
    try:
        return ReproductionSettings.model_validate(content)
    except ValidationError as error:
        raise LnbenchError(f"--set {first_error(error, with_value=True)}") from error


def _replace(content: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    group: Any = content
    for parent in parents:
        group = group.get(parent) if isinstance(group, dict) else None
    is_open = bool(parents) and parents[-1] in _OPEN
    if not isinstance(group, dict) or (not is_open and (last not in group or isinstance(group[last], dict))):
        raise unknown("setting", key, dict(_leaves(content, closed=_OPEN)))
    group[last] = value


def parse_pair(text: str) -> tuple[str, Any]:
    """Split ``key=value`` of ``--set``; the value is read as YAML.

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
