"""Perplexity matrices and rows of a leaderboard, made of numbers that a test knows."""

from __future__ import annotations

from lnbench import figures
from lnbench.analysis import Stability, compare_halves
from lnbench.analysis.until_stable import StabilityCurve, StabilityPoint
from lnbench.leaderboard import Row
from lnbench.neurons import NeuronSet
from lnbench.perplexity.matrix import MatrixCell, PerplexityMatrix, Selectivity, SliceAccount
from lnbench.tables.headline import headline
from tests.support.samples import normal, statistics_of

LANGUAGES = ["en", "hi", "ur"]
DELTAS = {
    ("en", "en"): 0.01,
    ("en", "hi"): -0.02,
    ("en", "ur"): 0.0,
    ("hi", "en"): 0.1,
    ("hi", "hi"): 2.5,
    ("hi", "ur"): 3.5,
    ("ur", "en"): 0.2,
    ("ur", "hi"): 1.25,
    ("ur", "ur"): 12.0,
}

_SLICE = SliceAccount(
    corpus="text/{lang}.jsonl", documents=10, blocks=20, tokens=1_260, bytes=5_000, fingerprint="0" * 16, overlap=0.0
)


def matrix_of(languages: list[str]) -> PerplexityMatrix:
    """A matrix of :data:`DELTAS`: in brackets up to 0.02, significant from 0.1 on."""
    cells, selectivity = [], []
    for i in languages:
        row = {j: DELTAS.get((i, j), 0.0) for j in languages}
        cells += [_cell(i, j, delta) for j, delta in row.items()]
        others = [delta for j, delta in row.items() if j != i]
        mean, most = sum(others) / len(others), max(row, key=lambda j: row[j])
        selectivity.append(
            Selectivity(
                changed=i,
                own=row[i],
                others=mean,
                difference=row[i] - mean,
                low=0.0,
                high=1.0,
                dominant=most == i,
                most_harmed=most,
            )
        )
    return PerplexityMatrix(
        model="org/tiny",
        selector="lape",
        intervention="zero",
        site="post",
        changed=languages,
        read=languages,
        length=64,
        slices=dict.fromkeys(languages, _SLICE),
        neurons=dict.fromkeys(languages, 100),
        neuron_set="0" * 16,
        baseline={},
        cells=cells,
        selectivity=selectivity,
        command="lnbench ppl",
    )


def _cell(changed: str, read: str, delta: float) -> MatrixCell:
    return MatrixCell(
        changed=changed,
        read=read,
        delta_nats=delta,
        delta_nats_low=delta - 0.05,
        delta_nats_high=delta + 0.05,
        delta_perplexity=None if delta > 10 else 1000 * delta,
        delta_perplexity_low=None,
        delta_perplexity_high=None,
        delta_bits_per_byte=delta / 2,
        delta_bits_per_byte_low=delta / 2 - 0.02,
        delta_bits_per_byte_high=delta / 2 + 0.02,
        outside_range=0.0,
        p_value=0.01,
        p_holm=0.02 if delta >= 0.1 else 0.5,
        control_delta_nats=0.0,
        control_min=-0.03,
        control_max=0.03,
        n_controls=3,
        exceeds_controls=abs(delta) > 0.03,
    )


def leaderboard_rows() -> list[Row]:
    """Two selectors and interventions in two languages, with controls, a baseline, a failure and a control's row."""
    found = [
        _row(language, selector, intervention, delta=number / 100 - 0.04)
        for number, (language, selector, intervention) in enumerate(
            (language, selector, intervention)
            for language in ("hi", "ur")
            for selector in ("lape", "act_prob")
            for intervention in ("zero", "p10")
        )
    ]
    blank = {"delta": None, "ci_low": None, "ci_high": None}
    return [
        _row("hi", "-", "none").model_copy(update=blank),
        *found,
        _row("hi", "lape", "p90").model_copy(update=blank | {"status": "failed", "metric": None, "value": None}),
        _row("hi", "random:like=lape", "zero", delta=0.0).model_copy(update={"control_of": "lape"}),
    ]


def _row(language: str, selector: str, intervention: str, delta: float = 0.0) -> Row:
    return Row(
        model="org/tiny",
        selector=selector,
        finetune="none",
        intervention=intervention,
        language=language,
        task=f"task_{language}",
        metric="acc",
        value=0.5 + delta,
        n=100,
        baseline=0.5,
        delta=delta,
        ci_low=delta - 0.02,
        ci_high=delta + 0.02,
        p_holm=0.01,
        significant=delta < -0.02,
        control=0.51,
        control_min=0.49,
        control_max=0.52,
        n_controls=2,
        control_significant=True,
        higher_is_better=True,
        command="lm_eval",
    )


def dose_rows(languages: list[str] | None = None) -> list[Row]:
    """Zero and p10 under selectors of three sizes; a harm of a hundredth per ten neurons, twice that under p10."""
    return [
        _row(language, f"lape:top_fraction={share}", intervention, delta=-step * neurons / 1000).model_copy(
            update={"neurons": neurons, "significant": neurons > 10}
        )
        for language in languages or LANGUAGES[1:]
        for share, neurons in ((0.01, 10), (0.02, 25), (0.05, 120))
        for intervention, step in (("zero", 1), ("p10", 2))
    ]


def pair_rows(languages: list[str] | None = None) -> list[Row]:
    """One metric by source and target; target's place in the order, plus a tenth of the source's."""
    codes = languages or LANGUAGES
    return [
        _row(target, "lape", "swap", delta=(i + 10 * j) / 1000).model_copy(
            update={"source": source, "task": f"task_{source}_{target}"}
        )
        for i, source in enumerate(codes)
        for j, target in enumerate(codes)
        if source != target
    ]


def curve_of(languages: list[str] | None = None) -> StabilityCurve:
    """A curve of two selectors that reaches 0.9 after 32,768 tokens, but for a language without neurons at first."""
    codes = languages or LANGUAGES
    shares = (0.5, 0.75, 0.9)
    points = [
        StabilityPoint(
            tokens=dict.fromkeys(codes, 8192 * 2**step),
            jaccard={
                "lape": {code: None if (step, code) == (0, "en") else share for code in codes},
                "act_prob": dict.fromkeys(codes, share - 0.1),
            },
        )
        for step, share in enumerate(shares)
    ]
    return StabilityCurve(model="org/tiny", request="0" * 16, stable=0.95, points=points, stopped="text")


def neurons_of(languages: list[str], selector: str = "lape") -> NeuronSet:
    """Two neurons per language in each of 18 layers, one of them the next language's too."""
    chosen = {code: {layer: [place, place + 1] for layer in range(18)} for place, code in enumerate(languages)}
    return NeuronSet("org/tiny", 18, 64, chosen, {"name": selector, "parameters": {}})


def every_kind(languages: list[str]) -> dict[str, figures.Figure]:
    """One figure of each registered kind, in these languages."""
    one, other = neurons_of(languages), neurons_of(languages[::-1], "act_prob")
    measured = Stability(
        model="org/tiny",
        corpus="x",
        site="post",
        tokens=dict.fromkeys(languages, (1, 1)),
        length=64,
        seed=0,
        rows=compare_halves({"lape": (one, one), "act_prob:fraction=0.004": (one, other)}),
    )
    rows = [
        row.model_copy(update={"language": code, "task": f"task_{code}"})
        for code in languages
        for row in leaderboard_rows()
        if row.language == "hi"
    ]
    statistics = {code: statistics_of(normal(40, 2, 4, seed=len(code)) + 0.1, language=code) for code in languages}
    return {
        "activation_statistics": figures.activation_statistics.data(statistics),
        "dose_response": figures.dose_response.data(dose_rows(languages), "top_fraction"),
        "interventions": figures.interventions.data(rows),
        "language_overlap": figures.language_overlap.data(one),
        "layer_profile": figures.layer_profile.data(one),
        "neurons_per_language": figures.neurons_per_language.data({"lape": one, "act_prob:fraction=0.004": other}),
        "neurons_per_layer": figures.neurons_per_layer.data(one),
        "own_language": figures.own_language.data(headline(rows).rows),
        "pairs": figures.pairs.data(pair_rows(languages)),
        "perplexity_matrix": figures.perplexity_matrix.data(matrix_of(languages)),
        "selector_overlap": figures.selector_overlap.data(one, other),
        "stability": figures.stability.data(measured),
        "stability_curve": figures.stability_curve.data(curve_of(languages)),
    }
