"""What ``lnbench ppl`` is asked for."""

from __future__ import annotations

from typing import Annotated, Any

from pydantic import Field, field_validator

from lnbench.formats import slug
from lnbench.host import changes_nothing, whole_site_of
from lnbench.settings import (
    Batches,
    Bos,
    Chat,
    Control,
    ControlsRead,
    DrawsOfControls,
    Intervention,
    Labels,
    Length,
    Mode,
    ModelArgs,
    Names,
    NeuronSource,
    Option,
    Source,
    Tokens,
    default_of,
)


class PerplexityRequest(ModelArgs, NeuronSource, Batches):
    """One perplexity matrix: a model, whose neurons are changed and how, and which text is read.

    Raises:
        LnbenchError: an unknown field, or a value that does not fit.
    """

    text: str | None = Field(default=None, description="another corpus for the text that is read; the same by default")
    languages: Names = Field(
        default=(),
        description="languages compared by the selector, changed and read, as en+hi+zh; those of neurons, statistics "
        "or corpus by default",
    )
    changed: Annotated[Names, Option("change")] = Field(
        default=(), description="change the neurons of these languages only"
    )
    read: Names = Field(default=(), description="read the text of these languages in their place")
    intervention: Annotated[Intervention, Option(repeated=True)] = Field(
        default="zero",
        description="name or name:key=value, zero by default; of several, each has a folder inside --out",
    )
    source: Source = None
    tokens: Tokens = 10_000
    length: Length = 256
    mode: Mode = "pack"
    bos: Bos = "block"
    chat: Chat = False
    labels: Labels = "next"
    controls: DrawsOfControls = 5
    control: Control = "random"
    controls_read: ControlsRead = "all"
    kl_tokens: int = Field(
        default=1_000,
        ge=0,
        description="predicted tokens of each text, at least, on which next-token distributions are compared with the "
        "unchanged model's (KL divergence); 0 for none",
    )

    @field_validator("intervention")
    @classmethod
    def _changes_something(cls, value: str) -> str:
        if changes_nothing(value):
            raise ValueError(f"{value} changes nothing; the unchanged model is measured in any case")
        return value

    @property
    def text_corpus(self) -> str:
        """The corpus that text is read from."""
        return self.text or self.corpus

    @property
    def model_arguments(self) -> dict[str, Any]:
        """What the lm-eval model ``lnbench`` is to be loaded with."""
        names = ["intervention", "device", *NeuronSource.model_fields, *(["languages"] if self.languages else [])]
        if whole_site_of(self.intervention) is not None:
            # The intervention has a site and units of its own, in place of these defaults.
            own = {name for name in ("site", "selector") if getattr(self, name) == default_of(type(self), name)}
            names = [name for name in names if name not in own]
        return {**self.model_args, **{name: getattr(self, name) for name in names}}

    @property
    def slug(self) -> str:
        """The name of its folder, where several interventions are measured."""
        return slug(self.intervention)

    @property
    def command(self) -> str:
        """The shell command that repeats it, without an output folder."""
        from lnbench.lm.arguments import option_words, shell_line

        return shell_line(["lnbench", "ppl", *option_words(self)])
