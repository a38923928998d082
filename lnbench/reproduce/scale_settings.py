"""How a reproduction is made: the scale's numbers and the preset's choices, with what the user puts in their place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any, Literal

from pydantic import Field

from lnbench.errors import unknown
from lnbench.model.architectures import site_choice
from lnbench.reproduce import catalogue
from lnbench.reproduce.catalogue import SelectorName
from lnbench.settings import (
    BatchLevels,
    BatchSize,
    DrawsOfControls,
    Length,
    Limit,
    Mode,
    ModelArgsMapping,
    Quantize,
    Selector,
    Settings,
    Site,
    Skip,
    Tokens,
)

Scale = Literal["paper", "small"]
Preset = Literal["corrected", "paper"]
PRESETS: tuple[Preset, ...] = ("corrected", "paper")
_OPEN = ("model_args", "settings", "gen_kwargs")
"""Entries that are mappings of any keys."""


class TaskSettings(Settings):
    """How a task is trained for and measured."""

    limit: Limit
    settings: dict[str, Any] = Field(description="training settings in place of the paper's")
    gen_kwargs: dict[str, Any] = Field(description="of lm-eval, for written answers")


class MatrixSettings(Settings):
    """How perplexity is measured."""

    tokens: Tokens
    length: Length
    controls: DrawsOfControls


class CountingSettings(Settings):
    """How text is read for Statistics."""

    mode: Mode
    skip: Skip
    batch_levels: BatchLevels


class ReproductionSettings(Settings):
    """Everything that can be replaced with ``--set KEY=VALUE``."""

    subject = "--set "

    corpus: str | None = Field(description="corpus pattern; none: LNBENCH_DATA's, else the embedded text")
    tokens: Tokens
    length: Length
    quantize: Quantize
    batch_size: BatchSize
    controls: DrawsOfControls
    model_args: ModelArgsMapping
    xnli: TaskSettings
    xquad: TaskSettings
    ppl: MatrixSettings
    site: Site
    selectors: dict[SelectorName, Selector] = Field(description="each selector with its parameters")
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
    return ReproductionSettings(**content)


def _replace(content: dict[str, Any], key: str, value: Any) -> None:
    *parents, last = key.split(".")
    group: Any = content
    for parent in parents:
        group = group.get(parent) if isinstance(group, dict) else None
    is_open = bool(parents) and parents[-1] in _OPEN
    if not isinstance(group, dict) or (not is_open and (last not in group or isinstance(group[last], dict))):
        raise unknown("setting", key, dict(_leaves(content, closed=_OPEN)))
    group[last] = value
