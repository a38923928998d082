"""What ``lnbench ppl`` is asked for."""

from __future__ import annotations

import shlex
from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator

from lnbench.demo import CORPUS
from lnbench.errors import LnbenchError
from lnbench.formats import first_error, slug
from lnbench.host import get_host
from lnbench.model.architectures import POST, SiteOption
from lnbench.model.packaged import DEFAULT_MODEL

_LANGUAGES = ("languages", "changed", "read")
_OF_THE_MODEL = (
    *("intervention", "neurons", "selector", "statistics", "corpus", "site"),
    *("corpus_tokens", "corpus_length"),
)
"""Fields that are arguments of the lm-eval model, too."""
_OPTIONS = {"changed": "change"}
"""Fields whose option has another name."""


class Request(BaseModel):
    """One perplexity matrix: a model, whose neurons are changed and how, and which text is read.

    Raises:
        LnbenchError: an unknown field, or a value that does not fit.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    model: str = Field(default=DEFAULT_MODEL, description="packaged model, hub name or folder")
    model_args: dict[str, Any] = Field(default_factory=dict, description="further arguments of lm-eval's hf model")
    neurons: str | None = Field(default=None, description="NeuronSet file; without one, the selector is run")
    selector: str = Field(default="lape", description="name or name:key=value")
    statistics: str | None = Field(
        default=None, description="Statistics folder; without one, collected from the corpus and cached"
    )
    corpus: str = Field(default=CORPUS, description="corpus pattern that Statistics are collected from")
    text: str | None = Field(default=None, description="corpus pattern of the text that is read; the corpus by default")
    languages: tuple[str, ...] = Field(
        default=(),
        description="languages compared by the selector, changed and read; those of neurons, statistics or corpus by "
        "default",
    )
    changed: tuple[str, ...] = Field(default=(), description="whose neurons are changed, if not of all languages")
    read: tuple[str, ...] = Field(default=(), description="whose text is read, if not of all languages")
    intervention: str = Field(default="zero", description="name or name:key=value")
    site: SiteOption = Field(default=POST, description="site of Statistics and override; paper: read pre, write post")
    tokens: int = Field(default=10_000, ge=1, description="tokens of text read in each language")
    length: int = Field(default=256, ge=2, description="tokens in a block of that text, BOS included")
    mode: Literal["pack", "truncate"] = Field(
        default="pack", description="documents joined and cut into blocks, or each a block, cut off at its length"
    )
    controls: int = Field(default=3, ge=0, description="draws of as many random neurons")
    corpus_tokens: int = Field(
        default=10_000, ge=1, description="tokens a language, where statistics are collected on the fly"
    )
    corpus_length: int = Field(default=128, ge=2, description="tokens a block, where statistics are collected")
    batch_size: Annotated[int, Field(ge=1)] | Literal["auto"] = Field(
        default="auto", description="blocks in a forward pass; auto: what fits the memory"
    )
    device: str | None = Field(default=None, description="cpu, cuda, cuda:1 …; CUDA where there is one by default")

    def __init__(self, **options: Any) -> None:
        try:
            super().__init__(**options)
        except ValidationError as error:
            raise LnbenchError(first_error(error, with_value=True)) from error
        get_host().resolve("intervention", self.intervention)
        if self.intervention == "none":
            raise LnbenchError("intervention none changes nothing; the unchanged model is measured in any case")

    @field_validator(*_LANGUAGES, mode="before")
    @classmethod
    def _split(cls, value: Any) -> Any:
        parts = tuple(part.strip() for part in value.split("+")) if isinstance(value, str) else tuple(value or ())
        if len(set(parts)) != len(parts) or "" in parts:
            raise ValueError("expected languages as en+hi+zh, each once")
        return parts

    @property
    def text_corpus(self) -> str:
        """The corpus that text is read from."""
        return self.text or self.corpus

    @property
    def model_arguments(self) -> dict[str, Any]:
        """What the lm-eval model ``lnbench`` is to be loaded with."""
        given = {name: getattr(self, name) for name in _OF_THE_MODEL}
        if self.languages:
            given["languages"] = self.languages
        return {**self.model_args, **given, "device": self.device}

    @property
    def slug(self) -> str:
        """The name of its folder, where several interventions are measured."""
        return slug(self.intervention)

    @property
    def command(self) -> str:
        """The shell command that repeats it, without an output folder."""
        from lnbench.lm.arguments import format_model_args

        words = ["lnbench", "ppl"]
        for name, value in self.model_dump(exclude_defaults=True).items():
            text = (
                format_model_args(value)
                if name == "model_args"
                else "+".join(value)
                if name in _LANGUAGES
                else str(value)
            )
            words += [f"--{_OPTIONS.get(name, name).replace('_', '-')}", text]
        return shlex.join(words)
