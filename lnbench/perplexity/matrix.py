"""``perplexity.json``: what changing each language's neurons does to the perplexity of each language's text."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any, ClassVar, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, model_validator

from lnbench.errors import unknown
from lnbench.formats import FormatFile

FORMAT = "lnbench.perplexity/1"
FILE = "perplexity.json"
"""Its name in a run's folder."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="ignore", frozen=True)


class SliceAccount(_Part):
    """The text that was read in one language: the same blocks for every cell of its column."""

    corpus: str = Field(description="corpus pattern")
    documents: int = Field(description="documents that the blocks are made of")
    blocks: int = Field(description="blocks, the unit of intervals and tests")
    tokens: int = Field(description="predicted tokens: all but each block's first, and but the marks between documents")
    bytes: int = Field(description="UTF-8 bytes of the predicted tokens")
    fingerprint: str = Field(description="of the token blocks, 16 hexadecimal digits")
    overlap: float | None = Field(
        description="share of the documents that Statistics were collected from as well; null: not known"
    )


class Baseline(_Part):
    """One language's text, read by the unchanged model."""

    nats_per_token: float = Field(description="mean negative log-likelihood of a token, in nats")
    perplexity: float | None = Field(description="exp(nats_per_token); null where that is beyond floating point")
    bits_per_byte: float | None = Field(description="nats / (ln 2 · bytes); null for text without bytes")


class MatrixCell(_Part):
    """Language ``changed``'s neurons changed, language ``read``'s text read, against the unchanged model.

    Intervals are 95 % percentile bootstrap intervals over blocks, widened where blocks are few; null where there is one
    block only, or no block changed: there is no spread then to make one from.
    """

    changed: str = Field(description="i: whose neurons are changed (row)")
    read: str = Field(description="j: whose text is read (column)")
    delta_nats: float = Field(description="change in nats per token; above 0, the text became less likely")
    delta_nats_low: float | None = Field(description="its interval's lower end")
    delta_nats_high: float | None = Field(description="its interval's upper end")
    delta_perplexity: float | None = Field(description="change in perplexity; null where beyond floating point")
    delta_perplexity_low: float | None = Field(description="its interval's lower end")
    delta_perplexity_high: float | None = Field(description="its interval's upper end")
    delta_bits_per_byte: float | None = Field(description="change in bits per UTF-8 byte; comparable between languages")
    delta_bits_per_byte_low: float | None = Field(description="its interval's lower end")
    delta_bits_per_byte_high: float | None = Field(description="its interval's upper end")
    outside_range: float | None = Field(
        description="share of the values written that lie outside the range observed in text of language i; null: not "
        "known, or nothing written"
    )
    p_value: float = Field(description="two-sided, of a sign-flip test over blocks against the unchanged model")
    p_holm: float = Field(description="corrected by Holm's method for all cells of the matrix that were measured")
    control_delta_nats: float | None = Field(
        default=None, description="mean change in nats per token by as many random neurons, over draws"
    )
    control_min: float | None = Field(default=None, description="smallest of the draws' changes in nats per token")
    control_max: float | None = Field(default=None, description="largest of the draws' changes in nats per token")
    n_controls: int = Field(default=0, description="draws of random neurons")
    control_draws: list[float] = Field(default=[], description="each draw's change in nats per token")
    exceeds_controls: bool | None = Field(
        default=None, description="whether the change is larger than every draw's, in its direction; null: no draws"
    )
    control_p_value: float | None = Field(
        default=None,
        description="of a t-test over draws and blocks against random neurons; null: fewer than three draws",
    )
    control_p_holm: float | None = Field(default=None, description="corrected by Holm's method for all cells tested")
    rho: float | None = Field(
        default=None,
        description="matched specificity: delta_nats / control_delta_nats; null: no draws, or they change nothing",
    )
    rho_low: float | None = Field(
        default=None, description="lower end of its 95 % interval over draws; null: not known"
    )
    rho_high: float | None = Field(
        default=None, description="upper end; null: not known, or the draws' mean cannot be told from 0"
    )
    kl: float | None = Field(
        default=None,
        description="mean Kullback-Leibler divergence of next-token distributions, unchanged model || changed, in nats "
        "per token, over the first kl_tokens of the text; null: not measured",
    )
    kl_low: float | None = Field(default=None, description="lower end of its 95 % bootstrap interval over blocks")
    kl_high: float | None = Field(default=None, description="upper end")


class Contrast(_Part):
    """How much more a language's own text suffers from its neurons' change than others' do, in one unit."""

    own: float = Field(description="change of the language's own text: the diagonal")
    others: float | None = Field(description="mean change of the other languages' text; null where no other is read")
    difference: float | None = Field(description="own − others")
    low: float | None = Field(description="lower end of its 95 % bootstrap interval")
    high: float | None = Field(description="upper end of its 95 % bootstrap interval")
    dominant: bool = Field(description="whether own is above 0 and the largest of its row")
    most_harmed: str = Field(description="the language of the row's largest change")


class Selectivity(Contrast):
    """The contrast of one row, in nats per token."""

    changed: str = Field(description="i: whose neurons are changed")
    f1: float | None = Field(
        default=None,
        description="LangSpec-F1, of the likelihood per byte, 2 ** −bits per byte; null where no other language is "
        "read, for text without bytes, or where nothing is changed",
    )
    f1_low: float | None = Field(default=None, description="lower end of its 95 % bootstrap interval over blocks")
    f1_high: float | None = Field(default=None, description="upper end")
    bits_per_byte: Contrast | None = Field(
        default=None,
        description="the same in bits per byte, which is comparable between languages; null for text without bytes",
    )


class Diagonal(_Part):
    """Selectivity of the whole matrix: means over the languages whose neurons are changed and whose text is read.

    Languages without neurons are left out. Intervals are 95 % bootstrap intervals over blocks.
    """

    unit: Literal["bits_per_byte", "nats"] = Field(description="of difference: bits per byte where all texts have it")
    languages: int = Field(description="languages in the means")
    difference: float = Field(description="mean of own − others, the diagonal selectivity")
    low: float | None = Field(description="lower end of its interval")
    high: float | None = Field(description="upper end")
    f1: float | None = Field(default=None, description="mean LangSpec-F1; null where a row has none")
    f1_low: float | None = Field(default=None, description="lower end of its interval")
    f1_high: float | None = Field(default=None, description="upper end")


class PerplexityMatrix(_Part, FormatFile):
    """Perplexity change by language i whose neurons are changed (rows) and language j whose text is read (columns)."""

    kind: ClassVar[str] = "perplexity matrix"
    usual_name: ClassVar[str] = FILE

    format: Literal["lnbench.perplexity/1"] = Field(default="lnbench.perplexity/1", description="name and version")
    model: str = Field(description="name: of the hub, or of its folder without the path")
    revision: str | None = Field(default=None, description="commit on the hub")
    dtype: str | None = Field(default=None, description="of the weights")
    quantization: str | None = Field(default=None, description="method, if the weights are quantised")
    weights: str | None = Field(default=None, description="fingerprint of the parameters, adapters included")
    adapter: str | None = Field(default=None, description="PEFT adapter, as it was named")
    self_check: dict[str, Any] | None = Field(
        default=None, description="what was measured of the model at load: writing a neuron does what its weights say"
    )
    selector: str = Field(description="as written, or the NeuronSet file")
    intervention: str = Field(description="as written: name or name:key=value")
    source: str | None = Field(default=None, description="source language of interventions between two")
    site: str = Field(description="site of Statistics and override; paper: read pre, write post")
    changed: list[str] = Field(description="languages i whose neurons are changed")
    read: list[str] = Field(description="languages j whose text is read")
    length: int = Field(description="tokens in a block, BOS included")
    labels: Literal["next", "paper"] = Field(
        default="next",
        description="what is scored at each position: the next token; paper: the one after it, as in the paper's code",
    )
    slices: dict[str, SliceAccount] = Field(description="the text of each language j")
    neurons: dict[str, int] = Field(description="neurons of each language i; the row of one with none is exactly 0")
    shared: dict[str, dict[str, int]] = Field(
        default_factory=dict, description="for each i: neurons that it shares with each other language of the NeuronSet"
    )
    neuron_set: str = Field(description="fingerprint of the NeuronSet")
    statistics: dict[str, str] = Field(
        default_factory=dict, description="fingerprint of the Statistics of each language i that were read"
    )
    baseline: dict[str, Baseline] = Field(description="each language j, read by the unchanged model")
    cells: list[MatrixCell] = Field(description="one for each i and j, row by row")
    selectivity: list[Selectivity] = Field(description="one for each language whose neurons are changed and text read")
    diagonal: Diagonal | None = Field(
        default=None, description="means of selectivity over languages; null: no other text to compare with"
    )
    control: str = Field(default="random", description="what draws the control's units, as written")
    controls_read: Literal["all", "own"] = Field(
        default="all", description="texts that the draws read; own: each language's own alone"
    )
    kl_tokens: int = Field(
        default=0, description="predicted tokens per text, at least, whose distributions are compared"
    )
    notes: list[str] = Field(default_factory=list, description="what a reader should know of these numbers")
    command: str | None = Field(description="a command that repeats it; null if it was measured from Python")
    lnbench_version: str | None = Field(default=None, description="version of lnbench")
    transformers_version: str | None = Field(default=None, description="version of transformers")
    torch_version: str | None = Field(default=None, description="version of torch")
    finished_at: str | None = Field(default=None, description="UTC, ISO 8601")

    def __repr__(self) -> str:
        languages = f"{', '.join(self.changed)} on {', '.join(self.read)}"
        return f"PerplexityMatrix({self.model!r}, {self.intervention!r}, {languages})"

    def cell(self, changed: str, read: str) -> MatrixCell:
        """Return the cell of language ``changed``'s neurons and language ``read``'s text.

        Raises:
            LnbenchError: there is none.
        """
        for kind, name, known in (("changed", changed, self.changed), ("read", read, self.read)):
            if name not in known:
                raise unknown(f"{kind} language", name, known)
        return self.cells[self.changed.index(changed) * len(self.read) + self.read.index(read)]

    def row(self, changed: str) -> Iterator[MatrixCell]:
        """Return the cells of language ``changed``'s neurons, in the order of :attr:`read`."""
        return (self.cell(changed, read) for read in self.read)

    @model_validator(mode="after")
    def _whole(self) -> Self:
        if [(cell.changed, cell.read) for cell in self.cells] != [(i, j) for i in self.changed for j in self.read]:
            raise ValueError("its cells are not changed × read, row by row")
        rows, columns = {*self.changed}, {*self.read}
        for name, needed, held in (
            ("neurons", rows, {*self.neurons}),
            ("slices", columns, {*self.slices}),
            ("selectivity", {row.changed for row in self.selectivity}, rows & columns),
            ("selectivity", {row.most_harmed for row in self.selectivity}, columns),
        ):
            if lacking := sorted(needed - held):
                raise ValueError(f"its {name} and its cells are of different languages: {lacking[0]!r}")
        return self
