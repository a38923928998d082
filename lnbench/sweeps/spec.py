"""What a sweep measures: a YAML file, validated, with a JSON Schema for editors."""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import AfterValidator, BeforeValidator, Field, model_validator

from lnbench import content_hash
from lnbench.errors import LnbenchError
from lnbench.files import tasks_dir
from lnbench.host import between_languages, changes_nothing
from lnbench.model.packaged import DEFAULT_MODEL
from lnbench.settings import (
    Batches,
    Control,
    DrawsOfControls,
    File,
    IncludePath,
    Positions,
    Settings,
    StatisticsSource,
)
from lnbench.sweeps.records import BASELINE

OURS = "lnbench_"
"""Beginning of the names of lnbench's own tasks."""
_SCHEMA = "https://json-schema.org/draft/2020-12/schema"
_NAME = r"^[A-Za-z0-9][A-Za-z0-9._-]*$"
_Name = Annotated[str, Field(pattern=_NAME)]
_PAIR = re.compile(r"\s*([^\s>→-]+(?:-[^\s>→-]+)*)\s*(?:→|->)\s*([^\s>→]+)\s*")
_UNDER_ANOTHER_NAME = {
    "max_batch_size": "batch_size",
    "peft": "adapters",
    "head": "adapters",
    "intervention": "interventions",
    "selector": "selectors",
    "language": "languages",
    "source": "pairs",
    "languages": "compare",
}
"""Model arguments, and the field of the sweep that sets each for all models."""


def field_for(argument: str) -> str | None:
    """Return the field of the sweep for a model argument that is the same for all models; None: it is the model's."""
    name = _UNDER_ANOTHER_NAME.get(argument, argument)
    return name if name in Sweep.model_fields else None


def _whole(limit: float) -> float:
    """Return a number of documents as an integer, since lm-eval takes a float for a share."""
    if limit >= 1 and limit != int(limit):
        raise ValueError("a number of documents is a whole one")
    return int(limit) if limit >= 1 else limit


class ModelSpec(Settings, extra="allow"):
    """A model and how it is loaded: any other argument of lm-eval's ``hf`` may stand beside ``pretrained``."""

    pretrained: str = Field(description="packaged model, hub name or folder")

    @model_validator(mode="after")
    def _of_the_model(self) -> ModelSpec:
        for name in self.options:
            if field := field_for(name):
                raise ValueError(f"{name} applies to all models: set it as {field!r} at the top level of the sweep")
        return self

    @property
    def options(self) -> dict[str, Any]:
        """The arguments beside ``pretrained``."""
        return dict(self.model_extra or {})


class AdapterSpec(Settings):
    """A PEFT adapter that was trained before."""

    path: str = Field(description="folder, or name on the hub")
    head: bool = Field(default=True, description="score choices by the folder's head.safetensors, where it has one")
    model: str | None = Field(default=None, description="the one of the models it belongs to; all of them by default")


class Invocation(Batches):
    """The options of lm-eval that all cells of a sweep share."""

    limit: Annotated[float, Field(gt=0), AfterValidator(_whole)] | None = Field(
        default=None, description="documents per task; below 1, share of them"
    )
    num_fewshot: int | None = Field(default=None, ge=0, description="examples in the prompt; the task's own by default")
    apply_chat_template: bool | str = Field(default=False, description="as lm-eval's option")
    system_instruction: str | None = Field(default=None, description="as lm-eval's option")
    gen_kwargs: dict[str, str | int | float | bool] = Field(default={}, description="as lm-eval's option")
    metadata: dict[str, Any] = Field(default={}, description="as lm-eval's option")
    include_path: IncludePath = None

    @classmethod
    def of(cls, spec: Sweep) -> Invocation:
        """Return this part of a spec."""
        return cls(**{name: getattr(spec, name) for name in cls.model_fields})

    def keyed(self, leave_out: str = "") -> dict[str, Any]:
        """Return the options that change more than the last digits; where tasks are counts by what is there."""
        return self.model_dump(exclude={"batch_size", "device", "include_path", leave_out})

    def folder_of(self, task: str) -> str | None:
        """Return where a task's YAML is looked for, beside lm-eval's own; if both have the name, the user's wins."""
        if not task.startswith(OURS) or (self.include_path and task in _tasks_in(self.include_path)):
            return self.include_path
        return str(tasks_dir())

    def words(self, seed: int | None) -> Iterator[str]:
        """Yield the options on lm_eval's command line."""
        from lnbench.lm.arguments import format_model_args

        options = (
            "num_fewshot",
            "limit",
            "seed",
            "batch_size",
            "device",
            "system_instruction",
            "gen_kwargs",
            "metadata",
        )
        for name in options:
            value = seed if name == "seed" else getattr(self, name)
            if isinstance(value, dict):
                value = format_model_args(value) or None
            if value is not None:
                yield from (f"--{name}", str(value))
        if self.apply_chat_template:
            yield "--apply_chat_template"
            yield from [] if self.apply_chat_template is True else [self.apply_chat_template]


@content_hash.remembered
def _tasks_in(folder: str) -> frozenset[str]:
    """Return the names of the tasks, groups and tags of a folder.

    Raises:
        LnbenchError: it is no folder.
    """
    from lm_eval.tasks import TaskManager

    if not Path(folder).is_dir():
        raise LnbenchError(f"include_path: {folder} is not a folder")
    return frozenset(TaskManager(include_path=folder, include_defaults=False).all_tasks)


def _pair(text: str) -> str:
    """Return a pair of languages in one spelling."""
    match = _PAIR.fullmatch(text)
    if match is None or match[1] == match[2]:
        raise ValueError(f"{text!r} is no pair of two languages; write source and target as en→hi or en->hi")
    return f"{match[1]}→{match[2]}"


def _repeated(values: Iterable[Any]) -> str | None:
    return next((value for value, count in Counter(map(str, values)).items() if count > 1), None)


def _short_for(field: str) -> BeforeValidator:
    """Return a validator that takes a text for a mapping with one field."""
    return BeforeValidator(lambda value: {field: value} if isinstance(value, str) else value)


class Sweep(StatisticsSource, Positions, Invocation):
    """A grid of cells: each model and adapter, with each selector's neurons, under each intervention, on each task.

    Raises:
        LnbenchError: a field that does not exist, or a value that does not fit.
    """

    models: list[Annotated[ModelSpec, _short_for("pretrained")]] = Field(
        default=[ModelSpec(pretrained=DEFAULT_MODEL)],
        min_length=1,
        description="names, or mappings with pretrained (below)",
    )
    base: bool = Field(default=True, description="measure the models also without adapter, where there are adapters")
    adapters: dict[_Name, Annotated[AdapterSpec, _short_for("path")]] = Field(
        default={}, description="a mapping of name to folder, or to a mapping (below)"
    )
    finetune: dict[_Name, dict[str, Any]] = Field(
        default={},
        description="a mapping of name to options of lnbench finetune but model and out; each is trained once for each "
        "model, and its adapter then enters cells as peft=, and as head= where it has a head",
    )
    selectors: list[str] = Field(default=["lape"], description="name or name:key=value")
    neurons: list[File] = Field(default=[], description="NeuronSet files, measured beside what the selectors find")
    interventions: list[str] = Field(
        default=["none", "mean", "p90", "zero", "p10"],
        min_length=1,
        description="name or name:key=value; keep none, it is the baseline",
    )
    languages: list[str] = Field(default=[], description="languages to measure; needed unless there are pairs")
    pairs: list[Annotated[str, AfterValidator(_pair)]] = Field(
        default=[],
        description="pairs of languages to measure, as `en→hi` or `en->hi`: the target's neurons are overridden, and "
        "the intervention knows the source; a task's name may have {source} and {target}, and {lang} for the target",
    )
    tasks: list[str | dict[str, str]] = Field(
        min_length=1,
        description="lm-eval's tasks or yours, with {lang} where a name has the language; or, where they spell it "
        "otherwise, a mapping of language to task: `{hi: belebele_hin_Deva, vi: belebele_vie_Latn}`",
    )
    share_prefix: bool = Field(
        default=True,
        description="run what a document's requests begin with once; likelihoods differ by rounding from those of "
        "whole requests",
    )
    controls: DrawsOfControls = 3
    control: Control = "random"
    seeds: list[int] = Field(
        default=[],
        description="every cell is run with each as lm-eval's --seed (few-shot examples, sampled generation); with its "
        "own defaults without",
    )
    compare: list[str] = Field(
        default=[],
        description="languages that selectors compare; by default all of Statistics or corpus, of a hub dataset those "
        "that are measured",
    )

    @model_validator(mode="after")
    def _consistent(self) -> Sweep:
        for name in (
            "models",
            "selectors",
            "neurons",
            "interventions",
            "languages",
            "pairs",
            "tasks",
            "seeds",
            "compare",
        ):
            if repeated := _repeated(getattr(self, name)):
                raise ValueError(f"{name}: {repeated} is named twice")
        if taken := _repeated([BASELINE, *self.adapters, *self.finetune]):
            raise ValueError(f"adapters and finetune: the name {taken!r} is taken")
        if not self.base and not self.adapters and not self.finetune:
            raise ValueError("base: false leaves nothing to measure without adapters or finetune")
        if self.changing and not self.selectors and not self.neurons:
            raise ValueError("interventions need neurons: give selectors, or neurons files")
        models = [None, *(model.pretrained for model in self.models)]
        for name, adapter in self.adapters.items():
            if adapter.model not in models:
                raise ValueError(f"adapters.{name}.model: {adapter.model!r} is none of the models")
        if not self.measured:
            raise ValueError("languages=[] and pairs=[]: name a language or a pair to measure")
        if not self.pairs and (between := [choice for choice in self.changing if between_languages(choice)]):
            raise ValueError(f"interventions: {between[0]} works between two languages: name pairs as en→hi")
        for task in self.tasks:
            if isinstance(task, dict) and (missing := [code for _, code in self.measured if code not in task]):
                raise ValueError(f"tasks: {task} names no task for {missing[0]!r}")
        return self

    @property
    def measured(self) -> list[tuple[str | None, str]]:
        """Source and target of all that is measured; None as the source of a language by itself."""
        pairs = [pair.partition("→")[::2] for pair in self.pairs]
        return [*((None, language) for language in self.languages), *pairs]

    @property
    def named_languages(self) -> list[str]:
        """All languages that are measured, and the sources."""
        return list(dict.fromkeys(language for pair in self.measured for language in reversed(pair) if language))

    @property
    def changing(self) -> list[str]:
        """The interventions that override anything."""
        return [choice for choice in self.interventions if not changes_nothing(choice)]


def load(path: str | Path) -> Sweep:
    """Read a spec.

    Raises:
        LnbenchError: the file is missing, is not YAML, or is not a spec.
    """
    try:
        content = yaml.safe_load(Path(path).read_text(encoding="utf-8"))
    except OSError as error:
        raise LnbenchError(f"cannot read {path}: {error.strerror or error}") from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise LnbenchError(f"{path} is not valid YAML: {' '.join(str(error).split())}") from error
    return parse(content, str(path))


def parse(content: Any, where: str = "sweep") -> Sweep:
    """Return a spec from plain data.

    Args:
        content: What YAML or JSON holds.
        where: The file's name, for errors.

    Raises:
        LnbenchError: it is not a spec.
    """
    if not isinstance(content, dict):
        raise LnbenchError(f"{where}: a sweep is a mapping with languages, tasks, interventions …")
    try:
        return Sweep(**{str(name): value for name, value in content.items()})
    except LnbenchError as error:
        raise LnbenchError(f"{where}: {error}") from error


def schema() -> dict[str, Any]:
    """Return the JSON Schema of a spec, for editors."""
    described = Sweep.model_json_schema()
    properties = described["properties"]
    # What may also be written short.
    for parent, key in ((properties["models"], "items"), (properties["adapters"]["patternProperties"], _NAME)):
        parent[key] = {"anyOf": [{"type": "string"}, parent[key]]}
    return {
        "$schema": _SCHEMA,
        "title": "lnbench sweep",
        **described,
        "description": "A grid of cells for lnbench sweep",
    }
