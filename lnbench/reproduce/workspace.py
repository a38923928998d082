"""Where the work on one model is kept, and which languages' text it can use."""

from __future__ import annotations

import os
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from lnbench import demo
from lnbench.errors import LnbenchError, unknown
from lnbench.reproduce import catalogue
from lnbench.reproduce.catalogue import Selection
from lnbench.reproduce.scale_settings import Preset, Settings

_DATA = "LNBENCH_DATA"


@dataclass(frozen=True)
class Workspace:
    """One model under one preset: a folder for its Statistics, neurons, adapters, sweeps and matrices.

    Attributes:
        folder: That folder.
        model: What lm-eval's ``hf`` takes as ``pretrained``.
        beside: Key of the paper's model whose numbers stand beside this one's.
        preset: Whose choices ``settings`` has.
        settings: How everything is done.
        corpus: Corpus pattern for Statistics and perplexity.
        selections: Name → which languages a selector compares here.
    """

    folder: Path
    model: str
    beside: str
    preset: Preset
    settings: Settings
    corpus: str
    selections: dict[str, Selection]

    @property
    def title(self) -> str:
        """The model's name in tables."""
        paper = catalogue.models()[self.beside]
        return paper.title if self.is_the_papers else Path(self.model).name

    @property
    def is_the_papers(self) -> bool:
        """Whether it is the model whose numbers stand beside."""
        paper = Path(catalogue.models()[self.beside].pretrained).name
        return Path(self.model).name.casefold() == paper.casefold()

    @property
    def options(self) -> dict[str, Any]:
        """How the model is loaded: further arguments of lm-eval's ``hf``."""
        from lnbench.finetuning.job import QUANTIZATIONS

        return QUANTIZATIONS[self.settings.quantize] | self.settings.model_args

    @property
    def statistics(self) -> Path:
        """The Statistics folder."""
        return self.folder / "statistics"

    def neurons(self, selection: str) -> Path:
        """The NeuronSet file of a selection."""
        return self.folder / "neurons" / f"{selection}.json"

    def selection(self, name: str) -> str:
        """The selection that stands here for one of the paper's."""
        if name in self.selections:
            return name
        return catalogue.selections()[name].selector

    def serving(self, selector: str, language: str) -> str | None:
        """The selection that the tables take a language's neurons from; None where there is no text of it."""
        for name, one in self.selections.items():
            if one.selector == selector and language in one.serves and language in one.languages:
                return name
        return None


def find_corpus(settings: Settings) -> str:
    """The corpus that is read: the one in the settings, else that of the data folder, else the embedded text."""
    own = Path(os.environ[_DATA], "corpus") if os.environ.get(_DATA) else None
    if settings.corpus is not None:
        return settings.corpus
    return str(own / "{lang}.jsonl.gz") if own and own.is_dir() else demo.CORPUS


def find_selections(corpus: str, languages: Sequence[str] | None) -> dict[str, Selection]:
    """The paper's selections, reduced to languages that there is text of; or one a selector, of ``languages``.

    Raises:
        LnbenchError: the corpus has no text of a language that was asked for, or fewer than two languages of a set.
    """
    from lnbench.corpora import languages_of
    from lnbench.corpora.patterns import expand, is_hub

    paper = catalogue.selections()
    available = None if is_hub(expand(corpus)) else languages_of(corpus)
    if languages:
        if available is not None and (missing := [one for one in languages if one not in available]):
            raise unknown("language", missing[0], available, f"The corpus {corpus} has no text of it")
        return {
            one.selector: Selection(
                selector=one.selector, title=one.title.partition(" (")[0], languages=[*languages], serves=[*languages]
            )
            for one in paper.values()
        }
    if available is None:
        return dict(paper)
    found = {
        name: one.model_copy(update={"languages": [language for language in one.languages if language in available]})
        for name, one in paper.items()
    }
    for name, one in found.items():
        if len(one.languages) < 2:
            raise LnbenchError(
                f"the corpus {corpus} has text in {', '.join(available)}, and {one.title} compares "
                f"{', '.join(paper[name].languages)}: two in common are needed; name others with --languages"
            )
    return found
