"""The settings that requests are made of: each is declared, described and validated here, once.

A request (:class:`~lnbench.lm.experiment.Experiment`, :class:`~lnbench.sweeps.spec.Sweep` …) inherits the parts that it
takes, or names one of the types below with its own default. The command line makes its options from these fields.
"""

from __future__ import annotations

import inspect
import re
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from os import PathLike, fspath
from pathlib import Path
from types import UnionType
from typing import Annotated, Any, ClassVar, Literal, Union, get_args, get_origin

import yaml
from pydantic import AfterValidator, BaseModel, BeforeValidator, ConfigDict, Field, ValidationError
from pydantic.fields import FieldInfo

from lnbench.data_folder import default_corpus
from lnbench.errors import LnbenchError
from lnbench.formats import first_error, retyped
from lnbench.host import get_host
from lnbench.model.architectures import POST, OwnSiteOption, SiteOption
from lnbench.model.packaged import DEFAULT_MODEL
from lnbench.task_languages import AUTO


@dataclass(frozen=True)
class Option:
    """How the command line takes a field, where that differs from ``--its-name VALUE``."""

    name: str = ""
    """The option's name, in place of the field's."""
    short: str = ""
    repeated: bool = False
    """Whether each of several values is an option of its own."""
    is_path: bool = False
    has_default: bool = True
    """Whether ``--help`` can show the default; not so if it is a place on this machine."""


class Settings(BaseModel):
    """A request, or a part of one. Its errors are one sentence.

    Raises:
        LnbenchError: an unknown field, or a value that does not fit.
    """

    model_config = ConfigDict(extra="forbid", frozen=True, protected_namespaces=())
    subject: ClassVar[str] = ""
    """What an error puts before the field's name."""

    def __init__(self, **values: Any) -> None:
        try:
            super().__init__(**values)
        except ValidationError as error:
            raise complaint(error, type(self)) from error

    # Parts inside a request are then validated by pydantic itself, and an error names the whole way to the field.
    __init__.__pydantic_base_init__ = True  # type: ignore[attr-defined]


_BRACKETS = re.compile(r"[\[({'\"]")
"""Inside them, a comma does not end a value."""


def option_of(model: type[BaseModel], field: str) -> Option:
    """Return how the command line takes a field, its name included."""
    info = model.model_fields[field]
    metadata = [part for _, parts in members_of(info.annotation, info.metadata) for part in parts]
    option = next((part for part in reversed(metadata) if isinstance(part, Option)), Option())
    return replace(option, name=option.name or field.replace("_", "-"))


def members_of(annotation: Any, metadata: Sequence[Any] = ()) -> Iterator[tuple[Any, list[Any]]]:
    """Yield the types that a value can have, each with what is annotated to it, such as its bounds."""
    if get_origin(annotation) is Annotated:
        inner, *more = get_args(annotation)
        parts = [part for extra in more for part in (extra.metadata if isinstance(extra, FieldInfo) else [extra])]
        yield from members_of(inner, [*metadata, *parts])
    elif get_origin(annotation) in (Union, UnionType):
        for member in get_args(annotation):
            yield from members_of(member, metadata)
    else:
        yield annotation, list(metadata)


def fields_of(model: type[BaseModel]) -> list[str]:
    """Return a model's fields: its own first, then those of each part."""
    owners = [inspect.get_annotations(owner) for owner in model.__mro__]
    return sorted(model.model_fields, key=lambda name: next(number for number, own in enumerate(owners) if name in own))


def complaint(
    error: ValidationError, model: type[BaseModel], spoken: Callable[[str], str] | None = None
) -> LnbenchError:
    """Return the first problem of a validation; one of ours as it is.

    Args:
        error: What pydantic found.
        model: What was to be made.
        spoken: Field → what the user knows it by; by default, its name behind the model's subject.
    """
    raised = error.errors(include_url=False)[0].get("ctx", {}).get("error")
    if isinstance(raised, LnbenchError):
        return raised
    place = spoken or (lambda field: f"{getattr(model, 'subject', '')}{field}")
    return LnbenchError(first_error(error, with_value=True, from_yaml=True, known=fields_of(model), place=place))


def split_names(value: Any) -> Any:
    """Return ``en+hi+zh`` as a tuple; None as an empty one.

    Raises:
        ValueError: it is something else, or a name is repeated.
    """
    parts = value.split("+") if isinstance(value, str) else (() if value is None else value)
    if hint := retyped(parts):
        raise ValueError(f"expected names as en+hi+zh, {hint}")
    names = tuple(part.strip() if isinstance(part, str) else "" for part in parts) if _is_sequence(parts) else ("",)
    if len(set(names)) != len(names) or "" in names:
        raise ValueError("expected names as en+hi+zh, each once")
    return names


def parse_model_args(value: Any) -> Any:
    """Return ``key=value,key=value`` as lm-eval reads it; a mapping as it is.

    Raises:
        ValueError: a part has no name or no ``=``.
    """
    if not isinstance(value, str):
        return value
    wrong = [part for part in value.split(",") if part.strip() and not all(map(str.strip, part.partition("=")[:2]))]
    if wrong and not _BRACKETS.search(value):
        raise ValueError(f"expected key=value,key=value …, not {wrong[0].strip()!r}")
    from lm_eval.utils import simple_parse_args_string

    return dict(simple_parse_args_string(value)) if value.strip() else {}


def parse_pairs(value: Any) -> Any:
    """Return a list of ``KEY=VALUE`` as a mapping, values as YAML writes them; a mapping as it is.

    Raises:
        ValueError: one is not such a pair.
    """
    return dict(map(_pair, value)) if _is_sequence(value) else value


def _pair(text: str) -> tuple[str, Any]:
    key, equals, value = text.partition("=")
    if not equals or not key.strip():
        raise ValueError(f"expected KEY=VALUE, not {text!r}")
    try:
        return key.strip(), yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ValueError(f"{value!r} of {key} is not a value as YAML writes it") from error


def _is_sequence(value: Any) -> bool:
    return isinstance(value, list | tuple)


def _resolving(kind: str) -> AfterValidator:
    """Return a validator that refuses a choice that no plugin offers."""

    def check(choice: str) -> str:
        get_host().resolve(kind, choice)
        return choice

    return AfterValidator(check)


Names = Annotated[tuple[str, ...], BeforeValidator(split_names)]
File = Annotated[str, BeforeValidator(lambda path: fspath(path) if isinstance(path, PathLike) else path)]
Pairs = Annotated[dict[str, Any], BeforeValidator(parse_pairs), Option("set", repeated=True)]
ModelArgsMapping = Annotated[
    dict[str, Any],
    BeforeValidator(parse_model_args),
    Field(description="further arguments of lm-eval's hf: dtype=bfloat16,load_in_4bit=True,peft=…"),
]
Selector = Annotated[str, _resolving("selector")]
Intervention = Annotated[str, _resolving("intervention"), Field(description="name or name:key=value")]
Corpus = Annotated[
    str,
    Field(
        description="corpus pattern: path with {lang} (* on lm-eval's command line), folder, or hub dataset "
        "repo:config; by default the one in LNBENCH_DATA, else the embedded text"
    ),
    Option(has_default=False),
]
AllLanguages = Annotated[
    Names, Field(description="languages as en+hi+zh; all by default, but a hub dataset needs them")
]
Tokens = Annotated[int, Field(ge=1, description="tokens of text per language")]
Length = Annotated[int, Field(ge=2, description="tokens in a block, BOS included")]
Mode = Annotated[
    Literal["pack", "truncate"],
    Field(description="pack: documents are joined and cut into blocks; truncate: each is cut off at a block's length"),
]
Bos = Annotated[
    Literal["block", "document"],
    Field(
        description="what BOS begins: each block; or each document, in place of EOS between two, as in the paper's code"
    ),
]
Chat = Annotated[
    bool, Field(description="put each document into the model's chat template, as a user's turn; recorded")
]
Labels = Annotated[
    Literal["next", "paper"],
    Field(
        description="what is scored at each position: the next token; paper: the one after it, as in the paper's "
        "code, whose labels are shifted twice"
    ),
]
Skip = Annotated[int, Field(ge=0, description="positions not counted at the start of a block; 1 leaves out BOS")]
Seed = Annotated[int, Field(description="seed of the documents' order")]
BatchLevels = Annotated[
    tuple[Annotated[float, Field(ge=0, le=1)], ...],
    Field(description="also keep the mean of the batches' quantiles at this level; act_prob:preset=paper needs 0.9"),
    Option("batch-level", repeated=True),
]
Measures = Annotated[
    tuple[Annotated[str, _resolving("measure")], ...],
    Field(description="also keep this measure of a plugin: name or name:key=value"),
    Option("measure", repeated=True),
]
Site = Annotated[
    SiteOption,
    Field(description="where Statistics are read and values written; paper: read pre, write post, with a warning"),
]
Sites = Annotated[
    tuple[str, ...],
    Field(description="also count this site, as residual; post and pre are counted always"),
    Option("also-site", repeated=True),
]
ReadSite = Annotated[OwnSiteOption, Field(description="site to read")]
Quantize = Annotated[
    Literal["none", "nf4"],
    Field(description="nf4: 4-bit base weights with double quantisation, bfloat16 compute; none: as they are"),
]
BatchSize = Annotated[
    Annotated[int, Field(ge=1)] | Literal["auto"],
    Field(description="documents or blocks in a forward pass; auto: what fits the memory, found once per length"),
]
OutFolder = Annotated[Path, Option("out", short="o")]
IncludePath = Annotated[
    File | None,
    Field(description="folder of your own lm-eval tasks; where a name is taken, yours counts"),
    Option(is_path=True),
]
Limit = Annotated[int | None, Field(ge=1, description="documents per cell")]
DrawsOfControls = Annotated[
    int,
    Field(ge=0, description="draws of the control, beside every override; 0 for none"),
]

Control = Annotated[
    str,
    Field(
        description="what is drawn for controls: random, random_active, other_language, or another control that is "
        "installed, as name or name:key=value"
    ),
]
ControlsRead = Annotated[
    Literal["all", "own"],
    Field(description="texts that the draws read; own: each language's own alone, all that ρ needs"),
]


class ModelArgs(Settings):
    """Which model, and how it is loaded."""

    model: str = Field(default=DEFAULT_MODEL, description="packaged model, hub name or folder")
    model_args: ModelArgsMapping = {}


class Batches(Settings):
    """How much goes through a model at a time, and where."""

    batch_size: BatchSize = "auto"
    device: str | None = Field(default=None, description="cpu, cuda, cuda:1 …; a GPU where there is one by default")


class CorpusSource(Settings):
    """Which text is read, and what of it."""

    corpus: Corpus = Field(default_factory=default_corpus)
    text_column: str = Field(
        default="text", min_length=1, description="column of the text in .parquet and .csv, entry of objects in .jsonl"
    )
    on_bad_line: Literal["stop", "skip"] = Field(
        default="stop", description="at a line that is no document: stop, or skip it and count it"
    )
    max_foreign: float | None = Field(
        default=None,
        ge=0,
        le=1,
        description="stop where more than this share of a text's lines is in another language or script, as 0.1; "
        "shares are recorded in any case",
    )

    @property
    def reading_options(self) -> dict[str, Any]:
        """How a corpus's documents are read, as keywords of :class:`lnbench.corpora.corpus.Corpus`."""
        return {name: getattr(self, name) for name in CorpusSource.model_fields if name != "corpus"}


class TextSource(CorpusSource):
    """Which tokens of a corpus are read, and how."""

    tokens: int | None = Field(
        default=None, ge=1, description="tokens of text per language; all of the corpus by default"
    )
    length: Length = 512
    mode: Mode = "pack"
    bos: Bos = "block"
    chat: Chat = False
    skip: Skip = 1
    seed: Seed = 0
    dedup: bool = Field(default=False, description="drop documents that repeat an earlier one")
    drop_wrong_script: bool = Field(
        default=False,
        description="drop documents mostly in another script than the language's; they are counted in any case",
    )
    batch_levels: BatchLevels = ()
    measures: Measures = ()
    sites: Sites = ()
    batch_size: int | None = Field(
        default=None,
        ge=1,
        description="blocks in a forward pass; by default what the memory holds, up to 1,024 tokens on a CPU and "
        "16,384 elsewhere",
    )


class UntilStable(Settings):
    """When enough of a text was read: two halves of it choose the same neurons."""

    stable: float = Field(
        default=0.95, gt=0, le=1, description="with --tokens auto: Jaccard index of the neurons of two halves to reach"
    )
    selectors: Annotated[tuple[Selector, ...], BeforeValidator(split_names)] = Field(
        default=("lape", "act_prob"),
        min_length=1,
        description="with --tokens auto: the selectors whose neurons are compared",
    )


class StatisticsSource(CorpusSource):
    """Where Statistics come from: a folder, or a pass over text whose result is cached."""

    statistics: File | None = Field(
        default=None, description="Statistics folder; without one, they are collected from corpus and cached"
    )
    corpus_tokens: Tokens = Field(
        default=10_000, description="tokens of text per language, where Statistics are collected on the fly"
    )
    corpus_length: Length = Field(
        default=128, description="tokens in a block, BOS included, where Statistics are collected on the fly"
    )
    site: Site = POST


class NeuronSource(StatisticsSource):
    """Whose neurons: a file's, or those that a selector finds in Statistics."""

    neurons: File | None = Field(
        default=None, description="NeuronSet file, or hub:owner/name@revision, in place of a selector"
    )
    selector: Selector = Field(
        default="lape", description="how neurons are chosen, without a file: name or name:key=value"
    )


def _language(value: Any) -> Any:
    # lm-eval's parser takes the code of Min Nan Chinese for a number that is none.
    return "nan" if isinstance(value, float) and value != value else value or AUTO


Source = Annotated[
    str | None,
    BeforeValidator(lambda value: None if value is None else _language(value)),
    Field(
        description="language that an answer would be in, for interventions between two languages, as swap; those "
        "whose neurons are changed are then the targets"
    ),
]


class Positions(Settings):
    """Which tokens are changed."""

    positions: Literal["all", "prompt", "generated", "not_first", "last"] = Field(
        default="all",
        description="which tokens are changed; not_first: all but a text's first; last: the last of the prompt",
    )


class ExperimentSettings(NeuronSource, Positions):
    """The arguments that ``lnbench`` adds to lm-eval's ``hf`` model."""

    subject = "model argument "

    intervention: Intervention = "none"
    languages: Names = Field(
        default=(),
        description="languages that the selector compares, as en+hi+zh; all of statistics or corpus by default",
    )
    language: Annotated[str, BeforeValidator(_language)] = Field(
        default=AUTO, description="whose neurons are overridden; auto: each task's own language"
    )
    source: Source = None
    head: str | None = Field(
        default=None,
        description="classification head, or a folder with one; it scores choices in place of their likelihoods",
    )
    share_prefix: bool = Field(
        default=False,
        description="run what a document's requests begin with once, and continue it from the KV cache: faster, and "
        "equal but for rounding",
    )


def given(settings: Settings, part: type[Settings]) -> dict[str, Any]:
    """Return the fields of a part that are not at its defaults."""
    values = {name: getattr(settings, name) for name in part.model_fields}
    return {name: value for name, value in values.items() if value != default_of(part, name)}


def default_of(model: type[BaseModel], field: str) -> Any:
    """Return a field's default; of the corpus, the one that is read here and now."""
    return model.model_fields[field].get_default(call_default_factory=True)
