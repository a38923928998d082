"""Where the work on one model is kept, and which languages' text it can use."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lnbench.corpora.patterns import expand, is_hub, languages_of
from lnbench.errors import LnbenchError, unknown
from lnbench.finetuning.job import QUANTIZATIONS
from lnbench.reproduce import catalogue
from lnbench.reproduce.catalogue import Selection
from lnbench.reproduce.scale_settings import Preset, ReproductionSettings


@dataclass(frozen=True, eq=False)
class Workspace:
    """One model under one preset: a folder for its Statistics, neurons, adapters, sweeps and matrices.

    Attributes:
        folder: That folder.
        model: What lm-eval's ``hf`` takes as ``pretrained``.
        beside: Key of the paper's model whose numbers are shown beside this one's.
        preset: Whose choices ``settings`` has.
        settings: How everything is done.
        corpus: Corpus pattern for Statistics and perplexity.
        selections: Name → which languages a selector compares here.
        languages: Those that were asked for in place of the paper's; none if they are the paper's.
    """

    folder: Path
    model: str
    beside: str
    preset: Preset
    settings: ReproductionSettings
    corpus: str
    selections: dict[str, Selection]
    languages: tuple[str, ...] = ()

    @property
    def title(self) -> str:
        """The model's name in tables."""
        return catalogue.models()[self.beside].title if self.is_the_papers else Path(self.model).name

    @property
    def is_the_papers(self) -> bool:
        """Whether it is the model whose numbers are shown beside."""
        return catalogue.models()[self.beside].is_named(self.model)

    @property
    def options(self) -> dict[str, Any]:
        """How the model is loaded: further arguments of lm-eval's ``hf``."""
        return QUANTIZATIONS[self.settings.quantize] | self.settings.model_args

    @property
    def statistics(self) -> Path:
        """The Statistics folder."""
        return self.folder / "statistics"

    def neurons(self, selection: str) -> Path:
        """Return the NeuronSet file of a selection."""
        return self.folder / "neurons" / f"{selection}.json"

    def own_selection(self, name: str) -> str:
        """Return the selection that takes the place of one of the paper's here."""
        return name if name in self.selections else catalogue.selections()[name].selector

    def serving(self, selector: str, language: str) -> str | None:
        """Return the selection that the tables take a language's neurons from; None where there is no text of it."""
        for name, selection in self.selections.items():
            if selection.selector == selector and language in selection.serves and language in selection.languages:
                return name
        return None


def find_selections(corpus: str, languages: Sequence[str] = ()) -> dict[str, Selection]:
    """Return the paper's selections, reduced to languages that there is text of; or one per selector, of ``languages``.

    Raises:
        LnbenchError: the corpus has no text of a language that was asked for, or fewer than two languages of a set.
    """
    paper = catalogue.selections()
    available = None if is_hub(expand(corpus)) else languages_of(corpus)
    if missing := [language for language in languages if available is not None and language not in available]:
        raise unknown("language", missing[0], available or (), f"The corpus {corpus} has no text of it")
    if languages:
        own = {"languages": tuple(languages), "serves": tuple(languages)}
        return {
            selection.selector: selection.model_copy(update={"title": selection.title.partition(" (")[0], **own})
            for selection in paper.values()
        }
    reduced = {}
    for name, selection in paper.items():
        left = tuple(code for code in selection.languages if available is None or code in available)
        if len(left) < 2:
            raise LnbenchError(
                f"the corpus {corpus} has text in {', '.join(available or ())}, and {selection.title} compares "
                f"{', '.join(selection.languages)}: two in common are needed; name others with --languages"
            )
        reduced[name] = selection.model_copy(update={"languages": left})
    return reduced
