"""One experiment on a model: the arguments of the lm-eval model, the artifacts that they name, and what was changed."""

from __future__ import annotations

import logging
import math
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any

from pydantic import model_validator
from torch import nn

from lnbench.choices import check_units, needs_of, plan, select
from lnbench.corpora.corpus import check_texts, open_corpus
from lnbench.corpora.patterns import choose_languages
from lnbench.errors import LnbenchError, unknown
from lnbench.files import cache_dir, file_sha256, fingerprint, warn_once
from lnbench.hookspecs import Needs
from lnbench.host import changes_nothing, needs_of_intervention, whole_site_of
from lnbench.hub_neurons import local_file
from lnbench.lm.head import ClassificationHead
from lnbench.model.architectures import SiteChoice, layout_of, site_choice
from lnbench.model.sites import Sites
from lnbench.neurons import NeuronSet
from lnbench.override_values import Override
from lnbench.overrides import Applied
from lnbench.settings import ExperimentSettings, NeuronSource
from lnbench.statistics import Statistics, store
from lnbench.statistics.cached import cache_folder, collect_cached
from lnbench.statistics.corpus_statistics import Reading

log = logging.getLogger(__name__)


class Experiment(ExperimentSettings):
    """The arguments that ``lnbench`` adds to lm-eval's ``hf`` model.

    Raises:
        LnbenchError: an unknown name, or a value that does not fit.
    """

    @model_validator(mode="before")
    @classmethod
    def _of_the_whole_site(cls, values: Any) -> Any:
        """Give an intervention on a whole site that site, and all units of it, unless something else is chosen."""
        if not isinstance(values, dict) or (site := whole_site_of(values.get("intervention", "none"))) is None:
            return values
        values = {"site": site, **({} if values.get("neurons") else {"selector": "all"}), **values}
        if values["site"] != site:
            raise LnbenchError(
                f"intervention {values['intervention']!r} works at site={site}, not at site={values['site']}; leave "
                "site out"
            )
        return values

    def check_files(self) -> None:
        """Look at every file that is named, before minutes are spent on loading a model.

        Raises:
            LnbenchError: one is missing or unreadable.
        """
        if self.head is not None:
            ClassificationHead.load(self.head)
        if self.neurons is not None:
            NeuronSet.load(self.neurons)
        if self.statistics is not None:
            store.languages(Path(self.statistics))
        elif self.changes_model and self.neurons is None:
            languages = choose_languages(self.corpus, self.languages or None)
            check_texts(self.corpus, languages, **self.reading_options)

    @property
    def changes_model(self) -> bool:
        """Whether any neuron is to be overridden."""
        return not changes_nothing(self.intervention)

    @property
    def sites(self) -> SiteChoice:
        """Where Statistics are read, and where values are written."""
        return site_choice(self.site)

    @property
    def reading(self) -> Reading:
        """How Statistics are collected on the fly, with all that the selector needs."""
        needs = needs_of(self.selector) if self.neurons is None else Needs()
        return Reading(
            corpus=self.corpus,
            **self.reading_options,
            tokens=self.corpus_tokens,
            length=self.corpus_length,
            batch_levels=needs.batch_levels,
            measures=needs.measures,
            sites=(*dict.fromkeys((self.sites.read, *needs.sites, *needs_of_intervention(self.intervention).sites)),),
        )


def _content(path: str | Path | None) -> str | None:
    """Return a fingerprint of a file, so that one that was rewritten is read again."""
    return None if path is None or not (file := local_file(path)).is_file() else file_sha256(file)


def _keep(neurons: NeuronSet, path: Path) -> None:
    """Save a copy in the cache, where it is not there yet; a cache that cannot be written costs no result."""
    if path.exists():
        return
    try:
        neurons.save(path)
    except LnbenchError as error:
        warn_once(f"{error}; so these neurons are not kept for later use")


@dataclass
class Artifacts:
    """The Statistics and NeuronSets of one loaded model: found or made when first needed, then kept.

    Raises:
        LnbenchError: in every method, for a missing or foreign artifact.
    """

    model: nn.Module
    tokenizer: Any
    sites: Sites
    described: dict[str, Any]
    """See :func:`lnbench.statistics.describe_model`."""
    _statistics: dict[str, Statistics] = field(default_factory=dict)
    _neurons: dict[str, NeuronSet] = field(default_factory=dict)

    def languages(self, experiment: Experiment) -> tuple[str, ...]:
        """Return the languages that the selector compares."""
        if experiment.languages:
            return experiment.languages
        if experiment.statistics is not None:
            return tuple(store.languages(Path(experiment.statistics)))
        return tuple(choose_languages(experiment.corpus))

    def neurons(self, experiment: Experiment) -> NeuronSet:
        """Return the NeuronSet of an experiment: its file, or what its selector finds."""
        made_from = experiment.model_dump(include={*NeuronSource.model_fields, "languages"})
        texts = [] if experiment.neurons else [self._text(experiment, name) for name in self.languages(experiment)]
        key = fingerprint([made_from, _content(experiment.neurons), self._manifest(experiment), texts])
        if key not in self._neurons:
            if experiment.neurons is not None:
                neurons = NeuronSet.load(experiment.neurons)
                check_units(neurons, experiment.sites.read)
                layout = self.sites.layout(neurons.site)
                neurons.check(self.described["model"], self.sites.layers, layout.widths)
            else:
                compared = {language: self.statistics(experiment, language) for language in self.languages(experiment)}
                neurons = select(experiment.selector, compared)
                _keep(neurons, self.neurons_file(experiment, neurons))
            self._neurons[key] = neurons
        return self._neurons[key]

    def statistics(self, experiment: Experiment, language: str) -> Statistics:
        """Return Statistics at the experiment's read site: from its folder, the cache, or a pass over text."""
        made_from = [self._manifest(experiment), self._text(experiment, language), language]
        key = fingerprint([experiment.reading.model_dump(), *made_from])
        if key not in self._statistics:
            if experiment.statistics is not None:
                statistics = Statistics.load(experiment.statistics, language)
                self._check(statistics, experiment.statistics)
            else:
                statistics = collect_cached(self.model, self.tokenizer, language, experiment.reading, self.described)
            self._statistics[key] = statistics
        return self._statistics[key].at(experiment.sites.read)

    @staticmethod
    def _text(experiment: Experiment, language: str) -> str | None:
        """Return a fingerprint of the text that Statistics are collected from, which may change between two calls."""
        if experiment.statistics is not None:
            return None
        return open_corpus(experiment.corpus, language, **experiment.reading_options).fingerprint

    @staticmethod
    def _manifest(experiment: Experiment) -> list[str | None] | None:
        folder = experiment.statistics
        return None if folder is None else [folder, _content(Path(folder, store.MANIFEST))]

    @staticmethod
    def neurons_file(experiment: Experiment, neurons: NeuronSet) -> Path:
        """Return where a NeuronSet can be found again: the file that was given, or a copy in the cache."""
        return local_file(experiment.neurons or cache_dir("neurons", f"{neurons.fingerprint}.json"))

    def override(self, experiment: Experiment, language: str) -> tuple[Override, Statistics | None]:
        """Return one language's resolved intervention, and the Statistics whose range it is measured against.

        The Statistics are None where neurons are given and the corpus has no text of their language.
        """
        neurons = self.neurons(experiment)
        if experiment.source == language:
            raise LnbenchError(f"source={language}: the target is {language!r} too; a pair has two languages")
        if neurons.count(language) == 0:
            raise LnbenchError(
                f"language {language!r} has no neurons in this NeuronSet, so intervention {experiment.intervention!r} "
                "would change nothing; select more neurons (e.g. lape:top_fraction=0.02) or use intervention=none"
            )
        statistics = self.statistics(experiment, language) if self.readable(experiment, language) else None
        change = plan(
            neurons[language],
            experiment.intervention,
            statistics,
            target=language,
            source=self._source(experiment, neurons),
            languages=tuple(neurons.languages),
            neurons_of=neurons.__getitem__,
            statistics_of=partial(self.statistics, experiment),
        )
        return change, statistics

    @staticmethod
    def _source(experiment: Experiment, neurons: NeuronSet) -> str | None:
        if experiment.source is not None and experiment.source not in neurons.languages:
            raise unknown("language", experiment.source, neurons.languages, "source= is one that this NeuronSet has")
        return experiment.source

    def readable(self, experiment: Experiment, language: str) -> bool:
        """Return whether Statistics of ``language`` can be had; they must be, unless neurons are given."""
        if experiment.neurons is None or experiment.statistics is not None:
            return True
        try:
            open_corpus(experiment.corpus, language, **experiment.reading_options)
        except LnbenchError as error:
            log.warning("%s; so the range of %r neurons is not known", error, language)
            return False
        return True

    def _check(self, statistics: Statistics, source: str) -> None:
        expected = self.sites.layout(statistics.site).widths
        fits = statistics.widths == expected
        if not fits or statistics.provenance.get("tokenizer") not in (None, self.described["tokenizer"]):
            raise LnbenchError(
                f"the Statistics in {source} are of {statistics.model} ({layout_of(statistics.widths)}), not of this "
                f"model ({self.described['model']}, {layout_of(expected)})"
                + ("; their tokenizers differ" if fits else "")
            )
        # Older ones began with BOS wherever the tokenizer has one.
        began_with_bos = statistics.provenance.get("bos", self.tokenizer.bos_token_id is not None)
        if began_with_bos != self.described["bos"]:
            log.warning(
                "%s: text of these Statistics begins %s BOS, and prompts of this model %s: collect them again",
                *(source, *(("with", "do not") if began_with_bos else ("without", "with it"))),
            )
        if statistics.provenance.get("weights", self.described["weights"]) != self.described["weights"]:
            log.warning(
                "the Statistics in %s come from other weights (%s) than those loaded; fine for a fine-tuned model "
                "evaluated with its base model's Statistics",
                source,
                statistics.model,
            )

    def cached(self, experiment: Experiment, language: str) -> tuple[Path, Reading]:
        """Return where Statistics that are collected on the fly are kept, and how they are collected."""
        reading = experiment.reading
        return cache_folder(language, reading, self.described), reading


@dataclass
class OverrideCounts:
    """The overrides of one language's requests, added up, for the results."""

    neurons: int = 0
    layers: int = 0
    tokens: int = 0
    rows: int = 0
    """Pairs of a token and an expert that it was routed to."""
    values: int = 0
    """Values written where the range observed at their site is known."""
    outside: float = 0.0
    """How many of them are outside it."""
    cached_answers: int = 0

    def add(self, applied: Applied) -> None:
        """Add what one context's override did."""
        self.neurons, self.layers = applied.neurons, applied.layers
        self.tokens += applied.tokens
        self.rows += applied.rows
        if not math.isnan(applied.outside_range):
            self.values += applied.values
            self.outside += applied.outside_range * applied.values

    def summary(self) -> dict[str, Any]:
        """Return the counts as they appear in the results."""
        return {
            "neurons": self.neurons,
            "layers": self.layers,
            "tokens_overridden": self.tokens,
            **({"expert_rows_overridden": self.rows} if self.rows else {}),
            "share_outside_observed_range": self.outside / self.values if self.values else None,
            "answers_from_cache": self.cached_answers,
        }
