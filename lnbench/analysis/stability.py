"""Whether a selection comes back from the other half of the text: ``stability.json``."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field

from lnbench.analysis.overlap import Chance, by_chance
from lnbench.formats import FormatFile
from lnbench.neurons import Agreement, NeuronSet

FORMAT = "lnbench.stability/1"
FILE = "stability.json"
"""Its name in the folder that ``lnbench neurons stability`` writes."""


class StabilityRow(BaseModel):
    """One selector and language: the neurons chosen on the first half of the text and on the second."""

    model_config = ConfigDict(extra="ignore", frozen=True)

    selector: str = Field(description="as it was written")
    language: str = Field(description="language code")
    first: int = Field(description="neurons chosen on the first half")
    second: int = Field(description="neurons chosen on the second half")
    shared: int = Field(description="neurons chosen on both")
    jaccard: float | None = Field(description="shared / neurons chosen on either; null where there are none")
    expected: float = Field(description="neurons shared by chance, with as many in each layer")
    expected_jaccard: float | None = Field(description="Jaccard index of as many shared neurons; null where none")


class Stability(FormatFile):
    """Selections on two halves of a corpus: every other document, in the corpus's shuffled order."""

    model_config = ConfigDict(extra="ignore", frozen=True)
    kind: ClassVar[str] = "table of stability"
    usual_name: ClassVar[str] = FILE

    format: Literal["lnbench.stability/1"] = Field(default="lnbench.stability/1", description="name and version")
    model: str = Field(description="as it was named")
    corpus: str = Field(description="corpus pattern")
    site: str = Field(description="where neurons were read: post or pre")
    tokens: dict[str, tuple[int, int]] = Field(description="language: tokens counted in the first and second half")
    length: int = Field(description="tokens of a document that were read at most, BOS included")
    seed: int = Field(description="of the documents' order")
    rows: list[StabilityRow] = Field(description="one for each selector and language")
    lnbench_version: str | None = Field(default=None, description="version of lnbench")
    finished_at: str | None = Field(default=None, description="UTC, ISO 8601")


def compare_halves(selected: Mapping[str, tuple[NeuronSet, NeuronSet]]) -> list[StabilityRow]:
    """Return how far the selections on two halves agree.

    Args:
        selected: Selector → what it chose on the first half and on the second.

    Raises:
        LnbenchError: the two sets of a selector are of different models or share no language.
    """
    return [
        _row(selector, language, agreement, by_chance(first, second, language))
        for selector, (first, second) in selected.items()
        for language, agreement in first.compare(second).items()
    ]


def _row(selector: str, language: str, agreement: Agreement, chance: Chance) -> StabilityRow:
    has_neurons = bool(agreement.own or agreement.other)
    return StabilityRow(
        selector=selector,
        language=language,
        first=agreement.own,
        second=agreement.other,
        shared=agreement.intersection,
        jaccard=agreement.jaccard if has_neurons else None,
        expected=chance.shared,
        expected_jaccard=chance.jaccard if has_neurons else None,
    )
