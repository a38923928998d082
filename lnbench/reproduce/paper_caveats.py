"""What to keep in mind with a reproduction's numbers: everything in which they differ from the paper's."""

from __future__ import annotations

from collections.abc import Iterator

from lnbench.data_folder import name_of_text
from lnbench.leaderboard.rows import compared
from lnbench.reproduce import catalogue
from lnbench.reproduce.catalogue import BenchSpec, CellsSpec, FigureSpec
from lnbench.reproduce.measurements import Measurements
from lnbench.reproduce.plan import Plan, PlannedItem
from lnbench.tables.caveats import (
    by_chance,
    constant_answers,
    detectable,
    failed_cells,
    limited,
    matrix_caveats,
    uncontrolled,
    unspecific_neurons,
)
from lnbench.tables.enough_text import text_worth

_PAPER_PRESET = (
    "Preset paper: selectors and values are read before the non-linearity and written after it, where many of them lie "
    "outside of what a neuron can take; Activation Probability ranks neurons by their own percentile, which is "
    "degenerate. The code's last batch, which it drops, is measured; its Statistics are of a random 10 % of the "
    "tokens, and its relevances of a random 20 %, where these are of all; and it reads another sample for each "
    "perplexity."
)
_XQUAD = (
    "The model is trained on English XQuAD and measured on later questions in another language: of the 238, 1 is on a "
    "paragraph and 18 on an article that training saw. Answers are scored with MLQA's normalisation, not by token ids, "
    "so exact match and F1 are not those of the paper's scorer."
)
_FRAMES = {
    "plain": "XQuAD's prompt is the passage and the question, without words, in training and in every language; with "
    "the language's own words (lnbench_xquad_…) a change of language would be one of the prompt as well.",
    "english": "XQuAD's prompt has the English instruction in every language, as in the paper: what neurons of the "
    "language do to the answer is partly what they do beside English words.",
}
_BENCH = (
    "Selectors without a score per unit have no equal size. Heads and dimensions of the residual stream are no "
    "neurons and differ in number: compare them with their own control, not with a number of neurons; a dimension that "
    "is set to 0 is not silent, as its usual value is far from 0. In the row of residual directions a language's "
    "direction is taken out (project_out) in place of zero, and added (diffmean) in place of swap, beside random "
    "directions."
)
_END_TOKEN = (
    "XQuAD's F1 counts the end of an answer as a token that all answers share, as the paper's does: a wrong answer of "
    "one word has 0.5. Its exact match is the same with and without."
)


def caveats(plan: Plan, item: PlannedItem, measured: Measurements | None) -> list[str]:
    """Return the sentences that apply."""
    if isinstance(item.spec, BenchSpec):
        return list(_of_bench(item))
    of_cells = _of_cells(plan, item, measured) if measured is not None else ()
    return [*_of_models(plan, item), *_of_text(plan, item), *of_cells, *_of_figures(plan, item)]


def _of_bench(item: PlannedItem) -> Iterator[str]:
    for part in item.parts:
        settings, skipped = part.at.settings.bench, [entry for entry in part.steps if entry.kind == "matrix"]
        yield (
            f"{part.at.title}: Statistics are of up to {settings.counted:,} tokens per language of "
            f"{name_of_text(part.at.corpus)}, and perplexity of {settings.tokens:,} others, in blocks of "
            f"{settings.length}: {len(skipped)} matrices."
        )
        yield _BENCH
        if not settings.other_controls:
            yield (
                "ρ is of the intervention that silences, at equal sizes and where there is no equal size: under the "
                "one that raises, a set is good if its own text changes little, and a ratio of changes says nothing "
                "of that."
            )


def _of_models(plan: Plan, item: PlannedItem) -> Iterator[str]:
    other = [part.at for part in item.parts if not part.at.is_the_papers and not isinstance(part.spec, FigureSpec)]
    if other:
        beside = catalogue.models()[other[0].beside].title
        yield f"{other[0].title} is not a model of the paper: the published values beside are those of {beside}."
    if plan.settings.quantize == "none":
        yield "Weights are not quantised; the paper's are NF4."
    if any(part.at.preset == "paper" for part in item.parts):
        yield _PAPER_PRESET


def _of_text(plan: Plan, item: PlannedItem) -> Iterator[str]:
    paper = catalogue.read("scales")["paper"]
    if plan.corpus != paper["corpus"] or plan.settings.tokens != paper["tokens"]:
        source = name_of_text(plan.corpus)
        yield (
            f"Statistics are of up to {plan.settings.tokens:,} tokens per language of {source}; the paper's are of "
            f"{paper['tokens']:,} of Wikipedia. {text_worth(plan.settings.tokens)}"
        )
    selections = item.parts[0].at.selections
    for name in dict.fromkeys(step.out.stem for step in item.steps if step.kind == "neurons"):
        here, papers = selections[name], catalogue.selections().get(name)
        if papers is None or papers.languages != here.languages:
            others = "sets of its own" if papers is None else ", ".join(papers.languages)
            yield f"{here.title} compares {', '.join(here.languages)} here, and in the paper {others}."


def _of_cells(plan: Plan, item: PlannedItem, measured: Measurements) -> Iterator[str]:
    yield from uncontrolled(measured.rows)
    yield from unspecific_neurons(measured.rows)
    yield from limited(measured.rows)
    for task in dict.fromkeys(part.spec.task for part in item.parts if isinstance(part.spec, CellsSpec)):
        if settings := getattr(plan.settings, task).settings:
            replaced = ", ".join(f"{name} {value}" for name, value in settings.items())
            yield f"Fine-tuning is shorter than the paper's: {replaced}."
        if task == "xquad":
            yield _XQUAD
            for how in {part.at.preset: part.at.settings for part in item.parts}.values():
                yield _FRAMES[how.xquad_frame]
                if how.xquad_end_token:
                    yield _END_TOKEN
    shares = [row for row in measured.rows if row.metric in ("acc", "exact_match", "f1") and row.control_of is None]
    if compared(shares):
        yield detectable(shares, scale=100, unit="points")
    yield from constant_answers(measured.rows)
    yield from by_chance(measured.rows)
    yield from failed_cells(measured.rows)


def _of_figures(plan: Plan, item: PlannedItem) -> Iterator[str]:
    matrices = [matrix for part in item.parts for matrix in part.matrices]
    if matrices:
        yield (
            f"Perplexity is measured on {plan.settings.ppl.tokens:,} tokens of each language, the same for every row; "
            "the paper's code draws another sample for each perplexity. Rows are the language whose neurons are "
            "changed; the axis labels of the paper's heat maps are swapped."
        )
        if any(matrix.labels == "next" for matrix in matrices):
            yield (
                "The paper's code scores the token after the next one, so its perplexities are not comparable with "
                "these; --preset paper measures them (lnbench ppl --labels paper)."
            )
    for matrix in matrices:
        yield from matrix_caveats(matrix)
    if isinstance(item.spec, FigureSpec):
        yield item.spec.numbering
