"""What to keep in mind with a reproduction's numbers: everything in which they differ from the paper's."""

from __future__ import annotations

from collections.abc import Container, Iterator, Sequence
from statistics import median

from lnbench import demo
from lnbench.leaderboard.rows import Row
from lnbench.perplexity.matrix import FILE, PerplexityMatrix
from lnbench.reproduce import catalogue
from lnbench.reproduce.catalogue import ActivationsSpec, CellsSpec, NeuronsSpec, PerplexitySpec
from lnbench.reproduce.measured import Measured
from lnbench.reproduce.paper_tables import interval
from lnbench.reproduce.plan import Job, Plan
from lnbench.reproduce.steps import Measure, Perplexity, Select
from lnbench.reproduce.workspace import Workspace

_PAPER_PRESET = (
    "Preset paper: selectors and values are read before the non-linearity and written after it, where many of them lie "
    "outside of what a neuron can take; Activation Probability ranks neurons by their own percentile, which hardly "
    "ranks. The code's averages over padding and its dropped last batch are not imitated."
)
_XQUAD = (
    "Training and evaluation questions are on the same XQuAD articles, as in the paper; answers are scored with MLQA's "
    "normalisation, not by token ids, so exact match and F1 are not those of the paper's scorer."
)


def caveats(plan: Plan, job: Job, measured: Measured | None) -> list[str]:
    """The sentences that apply."""
    pieces = job.pieces
    workspaces = list({piece.at.folder: piece.at for piece in pieces}.values())
    steps = [step for piece in pieces for step in piece.steps]
    used = {step.name for step in steps if isinstance(step, Select)}
    found = [*_of_models(workspaces, job), *_of_text(plan, workspaces[0], used)]
    if any(one.preset == "paper" for one in workspaces):
        found.append(_PAPER_PRESET)
    if any(isinstance(step, Measure) for step in steps):
        found += _of_cells(plan, job, measured)
    if any(isinstance(step, Perplexity) for step in steps):
        found.append(
            f"Perplexity is measured on {plan.settings.ppl.tokens:,} tokens of each language, the same for every row; "
            "the paper's code draws a sample anew for each perplexity."
        )
    matrices = [PerplexityMatrix.load(step.out / FILE) for step in steps if isinstance(step, Perplexity)]
    found += [f"Of the matrix: {note}." for matrix in matrices for note in matrix.notes]
    order = next((one.order for one in [job.spec] if isinstance(one, PerplexitySpec | NeuronsSpec) and one.order), None)
    if order:
        found.append(f"In the paper {order}; the numbering within them is ours.")
    return found


def _of_models(workspaces: Sequence[Workspace], job: Job) -> Iterator[str]:
    has_numbers = any(isinstance(piece.spec, CellsSpec | ActivationsSpec) for piece in job.pieces)
    for one in workspaces:
        if not one.is_the_papers and has_numbers:
            beside = catalogue.models()[one.beside].title
            yield f"{one.title} is not a model of the paper: the published values beside are those of {beside}."
            break
    settings = workspaces[0].settings
    if settings.quantize == "none":
        yield "Weights are not quantised; the paper's are NF4."


def _of_text(plan: Plan, at: Workspace, used: Container[str]) -> Iterator[str]:
    source = "lnbench's embedded text" if plan.corpus == demo.CORPUS else plan.corpus
    paper = catalogue.read("scales")["paper"]
    if plan.corpus != paper["corpus"] or plan.settings.tokens != paper["tokens"]:
        yield (
            f"Statistics are of up to {plan.settings.tokens:,} tokens a language of {source}; the paper's are of "
            "100,000,000 of Wikipedia."
        )
    for name, one in at.selections.items():
        theirs = catalogue.selections().get(name)
        if name in used and (theirs is None or theirs.languages != one.languages):
            wanted = "sets of its own" if theirs is None else ", ".join(theirs.languages)
            yield f"{one.title} compares {', '.join(one.languages)} here, and in the paper {wanted}."


def _of_cells(plan: Plan, job: Job, measured: Measured | None) -> Iterator[str]:
    specs = [piece.spec for piece in job.pieces if isinstance(piece.spec, CellsSpec)]
    settings = plan.settings
    if settings.controls == 0 and any(spec.columns != ["none"] for spec in specs):
        yield "There is no control, as in the paper: as many random neurons might do as much. Add --controls 1."
    for task in dict.fromkeys(spec.task for spec in specs):
        how = getattr(settings, task)
        if how.limit is not None:
            yield f"Only {how.limit} documents a cell are measured."
        if how.settings:
            given = ", ".join(f"{name} {value}" for name, value in how.settings.items())
            yield f"Fine-tuning is shorter than the paper's: {given}."
        if task == "xquad":
            yield _XQUAD
    if measured is not None:
        yield from _of_rows(measured.rows)


def _of_rows(rows: Sequence[Row]) -> Iterator[str]:
    shares = [row for row in rows if row.metric in ("acc", "exact_match", "f1") and row.control_of is None]
    if detectable := [100 * row.mde for row in shares if row.mde is not None]:
        yield (
            f"With so many documents a change must be about {median(detectable):.0f} points to be found in four of "
            "five samples."
        )
    unchanged = [row for row in rows if row.intervention == "none" and row.metric == "acc"]
    if unlearned := list(dict.fromkeys(row.language for row in unchanged if _is_chance(row))):
        yield (
            f"Without intervention the fine-tuned model cannot be told from chance in {', '.join(unlearned)}: there is "
            "little that an intervention could spoil. Train longer, or measure more documents."
        )
    if failed := [row for row in rows if row.failed]:
        yield f"{len(failed)} cells failed: {failed[0].error}"


def _is_chance(row: Row) -> bool:
    """Whether the interval of an accuracy on three classes holds a third."""
    low, high = interval(row)
    return low is not None and high is not None and low <= 100 / 3 <= high
