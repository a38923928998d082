"""Whether a selection comes back from the other half of the text: ``stability.json``."""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import BaseModel, ConfigDict, Field
from torch import nn

from lnbench._version import __version__
from lnbench.analysis.overlap import by_chance
from lnbench.choices import needs_of, select
from lnbench.formats import FormatFile
from lnbench.hookspecs import Needs
from lnbench.model.architectures import POST
from lnbench.model.locate import locate
from lnbench.neurons import NeuronSet
from lnbench.statistics.corpus_statistics import Reading
from lnbench.statistics.statistics_folder import collect_folder, load_shard

log = logging.getLogger(__name__)

FORMAT = "lnbench.stability/1"
FILE = "stability.json"
"""Its name in the folder that ``lnbench neurons stability`` writes."""
MODE: Literal["pack", "truncate"] = "truncate"
"""How documents are read: each is a row of its own, so that every other row is every other document."""


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
    model: str = Field(description="its name, without folders")
    corpus: str = Field(description="corpus pattern")
    site: str = Field(description="where neurons were read: post or pre")
    tokens: dict[str, tuple[int, int]] = Field(description="language: tokens counted in the first and second half")
    length: int = Field(description="tokens of a document that were read at most, BOS included")
    seed: int = Field(description="of the documents' order")
    rows: list[StabilityRow] = Field(description="one for each selector and language")
    lnbench_version: str | None = Field(default=None, description="version of lnbench")
    finished_at: str | None = Field(default=None, description="UTC, ISO 8601")


def measure_stability(
    model: nn.Module,
    tokenizer: Any,
    selectors: Sequence[str],
    folder: Path,
    readings: Mapping[str, Reading],
    *,
    site: str = POST,
    say: Callable[[str], None] = log.info,
    **options: Any,
) -> Stability:
    """Count both halves of each language's text, and select on each: which neurons come back?

    Beside the readings' own, the sites and measures that the selectors need are counted in the same pass. After an
    interruption the same call continues; another selector takes a new pass only if it needs what was not counted.

    Args:
        model: A supported Hugging Face causal LM.
        tokenizer: Its tokenizer.
        selectors: Names such as ``lape:top_fraction=0.02``.
        folder: Where the counts go, under ``shards/``.
        readings: Language → which tokens are counted, both halves together; of mode :data:`MODE`.
        site: Where selectors read neurons, ``post`` or ``pre``.
        say: Called with a line on each language that is done.
        options: Of :func:`~lnbench.statistics.corpus_statistics.count_corpus`.

    Raises:
        LnbenchError: as :func:`~lnbench.statistics.statistics_folder.collect_folder` and
            :func:`~lnbench.choices.select`.
    """
    needed = [needs_of(selector) for selector in selectors]
    readings = {language: _with_needs(reading, needed) for language, reading in readings.items()}
    where: dict[str, Any] = {"site": site, "activations": locate(model).activations}
    halves = []
    for half in ((0, 2), (1, 2)):
        collect_folder(model, tokenizer, folder, readings, shard=half, site=site, say=say, **options)
        halves.append({language: load_shard(folder, half, language, **where) for language in readings})
    first, second = halves
    language, reading = next(iter(readings.items()))
    return Stability(
        model=first[language].model,
        corpus=reading.corpus,
        site=site,
        tokens={language: (first[language].tokens, second[language].tokens) for language in readings},
        length=reading.length,
        seed=reading.seed,
        rows=compare_halves({name: (select(name, first), select(name, second)) for name in selectors}),
        lnbench_version=__version__,
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )


def _with_needs(reading: Reading, needed: Sequence[Needs]) -> Reading:
    """Return a reading that counts what selectors need too."""
    names = ("sites", "measures", "batch_levels")
    more = {
        name: tuple(
            dict.fromkeys([*getattr(reading, name), *(part for needs in needed for part in getattr(needs, name))])
        )
        for name in names
    }
    return reading.model_copy(update=more)


def compare_halves(selected: Mapping[str, tuple[NeuronSet, NeuronSet]]) -> list[StabilityRow]:
    """Return how far the selections on two halves agree.

    Args:
        selected: Selector → what it chose on the first half and on the second.

    Raises:
        LnbenchError: the two sets of a selector are of different models or share no language.
    """
    rows = []
    for selector, (first, second) in selected.items():
        for language, agreement in first.compare(second).items():
            chance, has_neurons = by_chance(first, second, language), agreement.own + agreement.other > 0
            row = StabilityRow(
                selector=selector,
                language=language,
                first=agreement.own,
                second=agreement.other,
                shared=agreement.intersection,
                jaccard=agreement.jaccard if has_neurons else None,
                expected=chance.shared,
                expected_jaccard=chance.jaccard if has_neurons else None,
            )
            rows.append(row)
    return rows
