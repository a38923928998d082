"""What ships as data: the specs of the tables and figures, the paper's models and language sets, and its numbers."""

from __future__ import annotations

import csv
import re
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter

from lnbench.errors import unknown

DATA = Path(__file__).parent / "data"
COMPARISON = "paper-vs-corrected"


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)

    @property
    def named_models(self) -> list[str]:
        """The keys of the paper's models that it is about."""
        return []


class PaperModel(_Part):
    """A model of the paper."""

    title: str = Field(description="as the paper calls it")
    pretrained: str = Field(description="hub name")


class Selection(_Part):
    """Which languages a selector compares, and for which the tables take its neurons."""

    selector: Literal["lape", "act_prob"]
    title: str
    languages: list[str]
    serves: list[str]


class Finetune(_Part):
    """A fine-tuning on English; ``{lang}`` stands for the language that is then measured."""

    finetuner: str
    languages: str | None = Field(default=None, description="whose neurons train: en+{lang}, random-like-{lang}")


class CellsSpec(_Part):
    """A table of lm-eval cells: models × fine-tunings × selectors × interventions × languages."""

    kind: Literal["cells"]
    title: str
    task: Literal["xnli", "xquad"]
    models: list[str]
    selectors: list[Literal["lape", "act_prob"]]
    finetune: dict[str, Finetune] = Field(description="label → fine-tuning")
    folder: str = Field(description="the part of its sweeps' names that says how the model was fine-tuned")
    languages: list[str]
    interventions: list[list[str]] = Field(description="a sweep each, so that tables that share some share its folder")
    columns: list[str] = Field(description="the interventions in the paper's order")
    published: str = Field(description="the table whose numbers these are")

    @property
    def named_models(self) -> list[str]:
        return self.models


class ActivationsSpec(_Part):
    """A table of activation statistics, averaged over all neurons."""

    kind: Literal["activations"]
    title: str
    models: list[str]
    languages: list[str]
    columns: list[str] = Field(description="mean, p75 …")
    published: str

    @property
    def named_models(self) -> list[str]:
        return self.models


class PerplexitySpec(_Part):
    """A matrix of perplexity changes."""

    kind: Literal["perplexity"]
    title: str
    model: str
    selection: str
    intervention: str
    order: str | None = Field(default=None, description="what the paper's text leaves open")

    @property
    def named_models(self) -> list[str]:
        return [self.model]


class NeuronsSpec(_Part):
    """A drawing of the neurons that were selected."""

    kind: Literal["neurons"]
    title: str
    drawing: Literal["per_language", "overlap", "per_layer", "selectors"]
    model: str
    selections: list[str]
    order: str | None = Field(default=None, description="what the paper's text leaves open")

    @property
    def named_models(self) -> list[str]:
        return [self.model]


class ComparisonSpec(_Part):
    """Tables measured under both presets."""

    kind: Literal["comparison"]
    title: str
    tables: list[str]


Spec = CellsSpec | ActivationsSpec | PerplexitySpec | NeuronsSpec | ComparisonSpec
_SPEC: TypeAdapter[Spec] = TypeAdapter(Annotated[Spec, Field(discriminator="kind")])


class Conclusion(_Part):
    """One of the paper's conclusions, as a comparison of cells."""

    name: str
    claim: str
    before: dict[str, str] = Field(description="what the first cell is: finetune, intervention, selector")
    after: dict[str, str] = Field(description="what the second is; any: all that there are")
    expect: Literal["not_higher", "not_lower", "lower", "same"] = Field(description="after against before")
    margin: float = Field(description="points up to which a difference counts as none")


def told(spec: Spec) -> str:
    """What a spec shows, in one line."""
    if isinstance(spec, PerplexitySpec):
        return f"{spec.title}: {selections()[spec.selection].title}"
    if isinstance(spec, NeuronsSpec):
        return f"{spec.title}: {', '.join(selections()[one].title for one in spec.selections)}"
    return spec.title


def read(name: str) -> Any:
    """A YAML file of the package."""
    return yaml.safe_load((DATA / f"{name}.yaml").read_text(encoding="utf-8"))


@cache
def names() -> list[str]:
    """All specs: tables, then figures, each in the order of their numbers, then the rest."""
    return sorted((path.stem for path in (DATA / "specs").glob("*.yaml")), key=_order)


def _order(name: str) -> tuple[int, int, str]:
    found = re.fullmatch(r"(table|figure)(\d+)", name)
    return (("table", "figure").index(found[1]), int(found[2]), "") if found else (2, 0, name)


@cache
def spec(name: str) -> Spec:
    """The spec of a table or figure.

    Raises:
        LnbenchError: there is none of that name.
    """
    if name not in names():
        raise unknown("table or figure", name, [*names(), "all"])
    return _SPEC.validate_python(read(f"specs/{name}"))


@cache
def models() -> dict[str, PaperModel]:
    """The paper's models by key."""
    return {key: PaperModel.model_validate(one) for key, one in read("models").items()}


@cache
def selections() -> dict[str, Selection]:
    """The paper's selections by name."""
    return {name: Selection.model_validate(one) for name, one in read("selections").items()}


@cache
def conclusions() -> list[Conclusion]:
    """The paper's conclusions."""
    return [Conclusion.model_validate(one) for one in read("conclusions")]


Place = tuple[str, str, str, str, str, str]
"""Model, selector, fine-tuning, language, intervention or statistic, metric."""


@cache
def published(table: str) -> dict[Place, float]:
    """The numbers of one of the paper's tables; what a table does not name is an empty text."""
    with (DATA / "published" / f"{table}.csv").open(encoding="utf-8", newline="") as file:
        _, *rows = csv.reader(file)
    return {(one[0], one[1], one[2], one[3], one[4], one[5]): float(one[6]) for one in rows}
