"""Perplexity matrices and rows of a leaderboard, made of numbers that a test knows."""

from __future__ import annotations

from lnbench.leaderboard import Row
from lnbench.perplexity.matrix import MatrixCell, PerplexityMatrix, Selectivity, SliceAccount

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
