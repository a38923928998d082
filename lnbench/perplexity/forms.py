"""Script and order controls: do a language's neurons stay when its text is romanised, or its words are shuffled?

Of each language alone the text is put into another form, the other languages stay as they are, and neurons are selected
again. Beside the overlap of both sets there is that of random sets; and beside what removing the native set does to
native text there is what removing the other one does.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from pydantic import Field, field_validator

from lnbench.analysis.expected_overlap import expected_jaccard
from lnbench.choices import select
from lnbench.corpora.pseudo_languages import FORMS, joined, split_forms
from lnbench.data_folder import default_corpus
from lnbench.errors import LnbenchError, unknown
from lnbench.files import fingerprint, write_json
from lnbench.host import changes_nothing
from lnbench.locks import exclusive_lock
from lnbench.neurons import NeuronSet
from lnbench.perplexity.measure import measure
from lnbench.perplexity.slices import cut
from lnbench.settings import (
    Control,
    DrawsOfControls,
    Intervention,
    Length,
    ModelArgs,
    Names,
    Option,
    Selector,
    Tokens,
)
from lnbench.settings import Corpus as CorpusPattern

if TYPE_CHECKING:
    from lnbench.lm import LNBenchLM
    from lnbench.lm.experiment import Experiment
    from lnbench.statistics import Statistics

FILE = "forms.json"
FORMAT = "lnbench.forms/1"
PUBLISHED: Mapping[str, Mapping[str, float]] = {"romanised": {"hi": 0.05, "zh": 0.05, "ru": 0.08, "es": 0.40}}
"""Form → language → Jaccard index of native and other set in Verma et al. (2026), about; shuffled, above 0.6."""


class FormsRequest(ModelArgs):
    """Which languages' text is put into which forms, how neurons are selected, and what is read.

    Raises:
        LnbenchError: an unknown field or form, or a value that does not fit.
    """

    corpus: CorpusPattern = Field(default_factory=default_corpus)
    languages: Names = Field(default=(), description="languages compared by the selector; all of the corpus by default")
    changed: Annotated[Names, Option("change")] = Field(
        default=(), description="put the text of these languages alone into other forms, one at a time"
    )
    forms: Names = Field(default=(), description="forms of the text, romanised and shuffled; both by default")
    selector: Selector = Field(default="lape", description="how neurons are chosen: name or name:key=value")
    corpus_tokens: Tokens = Field(default=10_000, description="tokens of text per language that Statistics are of")
    corpus_length: Length = Field(default=128, description="tokens in a block that Statistics are of, BOS included")
    intervention: Intervention = Field(
        default="zero", description="what is done to the neurons: name or name:key=value"
    )
    tokens: Tokens = Field(
        default=10_000, description="tokens of native text per language whose perplexity is measured"
    )
    length: Length = 256
    controls: DrawsOfControls = 3
    control: Control = "random"

    @field_validator("forms")
    @classmethod
    def _known(cls, value: tuple[str, ...]) -> tuple[str, ...]:
        for form in value:
            if form not in FORMS:
                raise unknown("form of a corpus's text", form, FORMS)
        return value

    @field_validator("corpus")
    @classmethod
    def _native(cls, value: str) -> str:
        if split_forms(value)[1]:
            raise ValueError(f"{value} is in another form already; name the native text, and --forms")
        return value

    @field_validator("intervention")
    @classmethod
    def _changes_something(cls, value: str) -> str:
        if changes_nothing(value):
            raise ValueError(f"{value} changes nothing; choose another intervention, such as zero")
        return value


@dataclass(frozen=True)
class Harm:
    """A change of native text's nats per token, with its interval, and the mean change by the controls."""

    delta_nats: float
    low: float | None
    high: float | None
    control: float | None


@dataclass(frozen=True)
class FormCompared:
    """One language in one form, against its native text."""

    language: str
    form: str
    native: int
    """Neurons selected from the native text."""
    other: int
    """Neurons selected where the text is in the other form."""
    both: int
    jaccard: float
    expected: float
    """Jaccard index of random sets with as many units per layer: its mean."""
    expected_high: float
    """What 97.5 % of pairs of random sets do not exceed."""
    published: float | None
    harm_native: Harm
    """Of changing the native set, on native text."""
    harm_other: Harm
    """Of changing the other set, on native text."""


def run(request: FormsRequest, out: Path, *, lm: LNBenchLM | None = None, progress: bool = True) -> list[FormCompared]:
    """Measure a request and write ``forms.json`` and the NeuronSets to ``out``.

    Statistics are kept in the cache and passes in ``out``, so that the same call continues after an interruption.

    Args:
        request: What is measured.
        out: Folder.
        lm: The loaded model, if there is one.
        progress: Show a progress bar.

    Raises:
        LnbenchError: fewer than two languages, a language without text or neurons, an unsupported model.
    """
    from lnbench.lm import LNBenchLM

    with exclusive_lock(out):
        native = _experiment(request, request.corpus)
        native.check_files()
        lm = lm or LNBenchLM(request.model, **request.model_args)
        languages = list(lm.artifacts.languages(native))
        if len(languages) < 2:
            raise LnbenchError("a selector compares languages: name two at least with --languages, as en+hi")
        chosen = list(request.changed or languages)
        for language in chosen:
            if language not in languages:
                raise unknown("language", language, languages, "--change takes languages that are compared")
        statistics = {language: lm.artifacts.statistics(native, language) for language in languages}
        sets = {"native": select(request.selector, statistics)}
        sets["native"].save(out / "neurons" / "native.json")
        controls = []
        for language in chosen:
            own = {}
            for form in request.forms or FORMS:
                own[form] = select(request.selector, _with_form(lm, request, statistics, language, form))
                own[form].save(out / "neurons" / f"{language}-{form}.json")
            controls += _compared(lm, request, language, sets["native"], own, statistics, out, progress)
        write_json(
            out / FILE,
            {
                "format": FORMAT,
                "model": lm.described["model"],
                "weights": lm.described["weights"],
                "selector": request.selector,
                "intervention": request.intervention,
                "languages": languages,
                "command": _command(request, out),
                "rows": [asdict(row) for row in controls],
            },
        )
    return controls


def _command(request: FormsRequest, out: Path) -> str:
    from lnbench.lm.arguments import option_words, shell_line

    return shell_line(["lnbench", "forms", *option_words(request), "--out", str(out)])


def _experiment(request: FormsRequest, corpus: str) -> Experiment:
    from lnbench.lm.experiment import Experiment

    return Experiment(
        corpus=corpus,
        selector=request.selector,
        languages=request.languages,
        intervention=request.intervention,
        corpus_tokens=request.corpus_tokens,
        corpus_length=request.corpus_length,
    )


def _with_form(
    lm: LNBenchLM, request: FormsRequest, statistics: Mapping[str, Statistics], language: str, form: str
) -> dict[str, Statistics]:
    """Return the Statistics of all languages, those of one of its text in another form."""
    pseudo = _experiment(request, joined(request.corpus, [form]))
    return {**statistics, language: lm.artifacts.statistics(pseudo, language)}


def _compared(
    lm: LNBenchLM,
    request: FormsRequest,
    language: str,
    native: NeuronSet,
    others: Mapping[str, NeuronSet],
    statistics: Mapping[str, Statistics],
    out: Path,
    progress: bool,
) -> list[FormCompared]:
    """Return one language's controls, with the harm to its native text."""
    named = {language: native[language]} | {f"{language}-{form}": own[language] for form, own in others.items()}
    together = NeuronSet(
        native.model,
        native.layers,
        native.width,
        named,
        statistics=fingerprint([native.fingerprint, *(own.fingerprint for own in others.values())]),
        **native.units,
    )
    text = cut(
        lm.tokenizer, request.corpus, language, tokens=request.tokens, length=request.length, statistics=statistics
    )
    matrix = measure(
        lm.model,
        lm.tokenizer,
        together,
        {name: replace(statistics[language], language=name) for name in named},
        {language: text},
        intervention=request.intervention,
        site=native.site,
        controls=request.controls,
        control=request.control,
        path=out / f"{language}.passes.safetensors",
        progress=progress,
        described=lm.described,
        about={"model": lm.described["model"], "selector": request.selector},
    )
    harm = {}
    for name in named:
        cell = matrix.cell(name, language)
        harm[name] = Harm(cell.delta_nats, cell.delta_nats_low, cell.delta_nats_high, cell.control_delta_nats)
    rows = []
    for form, own in others.items():
        agreement = native.compare(own)[language]
        expected = expected_jaccard(
            native.per_layer(language).tolist(), own.per_layer(language).tolist(), native.widths
        )
        rows.append(
            FormCompared(
                language=language,
                form=form,
                native=agreement.own,
                other=agreement.other,
                both=agreement.intersection,
                jaccard=agreement.jaccard,
                expected=expected.mean,
                expected_high=expected.high,
                published=PUBLISHED.get(form, {}).get(language),
                harm_native=harm[language],
                harm_other=harm[f"{language}-{form}"],
            )
        )
    return rows
