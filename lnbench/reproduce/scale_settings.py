"""How a reproduction is made: the scale's numbers and the preset's choices, with what the user puts in their place."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from functools import reduce
from operator import getitem
from typing import Any, Literal

from pydantic import Field

from lnbench import settings as parts
from lnbench.errors import unknown
from lnbench.model.architectures import site_choice
from lnbench.reproduce import catalogue
from lnbench.reproduce.catalogue import SelectorName
from lnbench.settings import Settings

Scale = Literal["paper", "small"]
Preset = Literal["corrected", "paper"]
PRESETS: tuple[Preset, ...] = ("corrected", "paper")
_OPEN = ("model_args", "settings", "gen_kwargs")
"""Entries that are mappings of any keys."""


class TaskSettings(Settings):
    """How a task is trained for and measured."""

    limit: parts.Limit
    settings: dict[str, Any] = Field(description="training settings in place of the paper's")
    gen_kwargs: dict[str, Any] = Field(description="of lm-eval, for written answers")


class MatrixSettings(Settings):
    """How perplexity is measured."""

    tokens: parts.Tokens
    length: parts.Length
    controls: parts.DrawsOfControls


class BenchSettings(Settings):
    """How much the bench of selectors counts, selects and reads."""

    counted: parts.Tokens = Field(description="tokens per language, for Statistics, both halves together")
    count: int = Field(ge=1, description="neurons per language where all selectors take as many")
    tokens: parts.Tokens
    length: parts.Length
    controls: parts.DrawsOfControls
    other_controls: int = Field(
        ge=0,
        description="draws elsewhere: beside sets of their selector's own size that have an equal one, and under the "
        "intervention that raises",
    )


class CountingSettings(Settings):
    """How text is read for Statistics."""

    mode: parts.Mode
    bos: parts.Bos
    skip: parts.Skip
    batch_size: int | None = Field(ge=1, description="blocks in a forward pass; none: what the memory holds")
    batch_levels: parts.BatchLevels


class ReproductionSettings(Settings):
    """Everything that can be replaced with ``--set KEY=VALUE``."""

    subject = "--set "

    corpus: str | None = Field(description="corpus pattern; none: LNBENCH_DATA's, else the embedded text")
    tokens: parts.Tokens
    length: parts.Length
    quantize: parts.Quantize
    batch_size: parts.BatchSize
    controls: parts.DrawsOfControls
    model_args: parts.ModelArgsMapping
    xnli: TaskSettings
    xquad: TaskSettings
    ppl: MatrixSettings
    bench: BenchSettings
    site: parts.Site
    selectors: dict[SelectorName, parts.Selector] = Field(description="each selector with its parameters")
    reading: CountingSettings
    pooling: Literal["last", "paper"] = Field(description="what a classification head reads")
    labels: parts.Labels
    xquad_frame: Literal["plain", "english"] = Field(
        description="XQuAD's prompt in every language: without words, or the English instruction"
    )
    xquad_end_token: bool = Field(description="whether XQuAD's F1 counts the end of an answer as a token")
    xquad_loss: Literal["answer", "all"] = Field(description="what has a loss in XQuAD's training")
    xquad_output_projection: bool = Field(
        description="whether XQuAD's LoRA is on the attention's output projection too"
    )

    @property
    def select_site(self) -> str:
        """Where selectors read."""
        return site_choice(self.site).read

    def flat(self) -> dict[str, str | int | float | bool | None]:
        """Return the settings by their ``--set`` keys."""
        values = _leaves(self.model_dump(mode="json"))
        return {key: "+".join(map(str, value)) if isinstance(value, list) else value for key, value in values}


def _leaves(content: Mapping[str, Any], prefix: str = "", closed: Sequence[str] = ()) -> Iterator[tuple[str, Any]]:
    """Yield each setting with its dotted key; those in ``closed`` as one, with ``.…`` behind its key."""
    for key, value in content.items():
        if key in closed:
            yield f"{prefix}{key}.…", value
        elif isinstance(value, dict):
            yield from _leaves(value, f"{prefix}{key}.", closed)
        else:
            yield f"{prefix}{key}", value


def read_settings(scale: Scale, preset: Preset, replaced: Mapping[str, Any] | None = None) -> ReproductionSettings:
    """Return a scale's numbers and a preset's choices, with others (``--set`` key → value) in their place.

    Raises:
        LnbenchError: an unknown key, or a value that does not fit.
    """
    content = {**catalogue.read("scales")[scale], **catalogue.read("presets")[preset]}
    known = dict(_leaves(content, closed=_OPEN))
    for key, value in (replaced or {}).items():
        *groups, last = key.split(".")
        if key not in known and ".".join([*groups, "…"]) not in known:
            raise unknown("setting", key, known)
        reduce(getitem, groups, content)[last] = value
    return ReproductionSettings(**content)
