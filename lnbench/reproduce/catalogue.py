"""What ships as data: the specs of the tables and figures, the paper's models and language sets, and its numbers."""

from __future__ import annotations

import csv
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import yaml
from pydantic import Field, TypeAdapter

from lnbench.errors import unknown
from lnbench.formats import StrictModel

DATA = Path(__file__).parent / "data"
FigureKind = Literal["matrix", "per_language", "overlap", "per_layer", "selectors"]
SelectorName = Literal["lape", "act_prob"]


class PaperModel(StrictModel):
    """A model of the paper."""

    title: str = Field(description="as the paper calls it")
    pretrained: str = Field(description="hub name")

    def is_named(self, model: str) -> bool:
        """Return whether a hub name or folder is this model's, wherever it lies."""
        return Path(model).name.casefold() == Path(self.pretrained).name.casefold()


class Selection(StrictModel):
    """Which languages a selector compares, and for which the tables take its neurons."""

    selector: SelectorName
    title: str
    languages: tuple[str, ...]
    serves: tuple[str, ...]


class FinetuneSpec(StrictModel):
    """A fine-tuning on English; ``{lang}`` is replaced by the language that is then measured."""

    finetuner: str
    languages: str | None = Field(default=None, description="whose neurons train: en+{lang}, random-like-{lang}")


class CellsSpec(StrictModel):
    """A table of lm-eval cells: models × fine-tunings × selectors × interventions × languages."""

    kind: Literal["cells"]
    title: str
    task: Literal["xnli", "xquad"]
    models: list[str]
    selectors: list[SelectorName]
    finetune: dict[str, FinetuneSpec] = Field(description="label → fine-tuning")
    folder: str = Field(description="the part of its sweeps' names that says how the model was fine-tuned")
    languages: list[str]
    interventions: list[list[str]] = Field(
        description="one sweep each, so that tables that share some share its folder"
    )
    columns: list[str] = Field(description="the interventions in the paper's order")
    published: str = Field(description="the table whose numbers these are")
    note: str | None = Field(default=None, description="what was repaired in the paper's numbers")


class ActivationsSpec(StrictModel):
    """A table of activation statistics, averaged over all neurons."""

    kind: Literal["activations"]
    title: str
    models: list[str]
    languages: list[str]
    columns: list[str] = Field(description="mean, p75 …")
    published: str


class FigureSpec(StrictModel):
    """A figure: a matrix of perplexity changes, or the neurons that were selected."""

    kind: Literal["figure"]
    title: str
    drawing: FigureKind
    models: list[str]
    selections: list[str]
    intervention: str | None = Field(default=None, description="of a matrix")
    order: str = Field(description="what the paper's text leaves open")

    @property
    def numbering(self) -> str:
        """What to know of its number."""
        return f"In the paper {self.order}; the numbering within them is ours."


class ComparisonSpec(StrictModel):
    """Tables measured under both presets."""

    kind: Literal["comparison"]
    title: str
    tables: list[str]
    models: list[str] = Field(default=[])


class BenchedSelector(StrictModel):
    """One selector of the bench, or an intervention on a whole site in the place of one."""

    choice: str = Field(description="name or name:key=value")
    site: str = Field(default="post", description="site of its units")
    ranked: bool = Field(default=True, description="whether it scores units, so that it can be cut to any number")
    interventions: dict[str, str] = Field(default={}, description="role → what is done in place of the intervention")
    control: str | None = Field(default=None, description="in place of the bench's")


class BenchSpec(StrictModel):
    """Selectors side by side: each at its own size and at one size for all, under interventions of two roles."""

    kind: Literal["bench"]
    title: str
    models: list[str]
    languages: tuple[str, ...]
    source: str = Field(description="the source of interventions between two languages; the others are targets")
    control: str
    interventions: dict[str, str] = Field(description="role (silence, raise) → intervention")
    selectors: dict[str, BenchedSelector] = Field(description="name in tables → selector")


Spec = CellsSpec | ActivationsSpec | FigureSpec | ComparisonSpec | BenchSpec
_SPECS: TypeAdapter[dict[str, Spec]] = TypeAdapter(dict[str, Annotated[Spec, Field(discriminator="kind")]])


class Claim(StrictModel):
    """One of the paper's conclusions, as a comparison of cells."""

    name: str
    claim: str
    before: dict[str, str] = Field(description="what the first cell is: finetune, intervention, selector")
    after: dict[str, str] = Field(description="what the second is; any: all that there are")
    expect: Literal["not_higher", "not_lower", "lower", "same"] = Field(description="after against before")
    margin: float = Field(description="points up to which a difference counts as none")


class PublishedKey(NamedTuple):
    """Which number of a table; what the table does not name is an empty text. ``intervention`` may be a statistic."""

    model: str
    selector: str
    finetune: str
    language: str
    intervention: str
    metric: str


def read(name: str) -> Any:
    """Read a YAML file of the package."""
    return yaml.safe_load((DATA / f"{name}.yaml").read_text(encoding="utf-8"))


@cache
def specs() -> dict[str, Spec]:
    """Return all specs by name: tables, then figures, each in the order of their numbers, then the rest."""
    tables = read("tables")
    figures = {}
    for drawing, group in read("figures").items():
        for number, (model, *selections) in group.pop("figures").items():
            own = {"kind": "figure", "drawing": drawing, "models": [model], "selections": selections}
            figures[number] = group | own
    numbered = {f"figure{number}": figures[number] for number in sorted(figures)}
    rest = {name: tables.pop(name) for name in list(tables) if not name.startswith("table")}
    return _SPECS.validate_python(tables | numbered | rest)


def of_the_paper() -> list[str]:
    """Return the names of what the paper shows or concludes: all but the bench."""
    return [name for name, spec in specs().items() if not isinstance(spec, BenchSpec)]


def spec(name: str) -> Spec:
    """Return the spec of a table or figure.

    Raises:
        LnbenchError: there is none with this name.
    """
    if name not in specs():
        raise unknown("table or figure", name, [*specs(), "all"])
    return specs()[name]


def describe(spec: Spec) -> str:
    """Return what a spec shows, in one line."""
    if not isinstance(spec, FigureSpec):
        return spec.title
    return f"{spec.title}: {', '.join(selections()[name].title for name in spec.selections)}"


@cache
def models() -> dict[str, PaperModel]:
    """Return the paper's models by key."""
    return {key: PaperModel.model_validate(content) for key, content in read("models").items()}


@cache
def selections() -> dict[str, Selection]:
    """Return the paper's selections by name."""
    return {name: Selection.model_validate(content) for name, content in read("selections").items()}


@cache
def claims() -> list[Claim]:
    """Return the paper's conclusions."""
    return [Claim.model_validate(content) for content in read("conclusions")]


@cache
def published(table: str) -> dict[PublishedKey, float]:
    """Return the numbers of one of the paper's tables."""
    with (DATA / "published" / f"{table}.csv").open(encoding="utf-8", newline="") as file:
        _, *rows = csv.reader(file)
    return {PublishedKey(*key): float(value) for *key, value in rows}
