"""What was measured → ``reproduction.json``, ``table.md``, ``table.csv`` and figures, in the reproduction's folder."""

from __future__ import annotations

import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path

from lnbench.neurons import NeuronSet
from lnbench.perplexity.matrix import FILE, PerplexityMatrix
from lnbench.reproduce.catalogue import ActivationsSpec, CellsSpec, ComparisonSpec, NeuronsSpec
from lnbench.reproduce.caveats import caveats
from lnbench.reproduce.conclusions import conclusions
from lnbench.reproduce.drawings import draw
from lnbench.reproduce.matrices import matrix_findings, matrix_tables
from lnbench.reproduce.measured import Measured
from lnbench.reproduce.neuron_tables import neuron_tables, overlap_table
from lnbench.reproduce.paper_tables import activation_tables, cells_table
from lnbench.reproduce.plan import Job, Piece, Plan
from lnbench.reproduce.scale_settings import Preset
from lnbench.reproduce.steps import Measure, Perplexity
from lnbench.reproduce.writing import write_tables
from lnbench.tables.reproduction import FILE as REPRODUCTION
from lnbench.tables.reproduction import Reproduction, Table

FIGURES = "figures"


def folder_of(plan: Plan, job: Job) -> Path:
    """Where the results of one table or figure go."""
    suffix = "" if plan.request.preset == "corrected" or isinstance(job.spec, ComparisonSpec) else "-paper"
    return plan.request.out / f"{job.name}{suffix}"


def outcome(plan: Plan, job: Job) -> Reproduction:
    """Put together what the steps of a table or figure have left, and write it.

    Raises:
        LnbenchError: a file that a step left is missing or damaged.
    """
    folder = folder_of(plan, job)
    measured = Measured(job.pieces) if any(piece.of(Measure) for piece in job.pieces) else None
    matrices = [step for piece in job.pieces for step in piece.of(Perplexity)]
    comparing = isinstance(job.spec, ComparisonSpec)
    presets: list[Preset] = ["corrected", "paper"] if comparing else [plan.request.preset]
    said = [] if measured is None else [one for preset in presets for one in conclusions(job.pieces, measured, preset)]
    found = Reproduction(
        name=job.name,
        title=job.spec.title,
        preset=None if comparing else plan.request.preset,
        scale=plan.request.scale,
        models=list(dict.fromkeys(piece.at.model for piece in job.pieces)),
        tables=_tables(job, measured),
        figures=[f"{FIGURES}/{name}" for piece in job.pieces for name in draw(piece, measured, folder / FIGURES)],
        findings=_findings(measured, matrices),
        conclusions=said,
        caveats=caveats(plan, job, measured),
        commands=[command for step in job.steps for command in step.commands],
        runs=[os.path.relpath(step.out, folder) for step in job.steps if isinstance(step, Measure | Perplexity)],
        settings=plan.settings.flat(),
        finished_at=datetime.now(UTC).isoformat(timespec="seconds"),
    )
    found.save(folder / REPRODUCTION)
    write_tables(found, folder)
    return found


def _tables(job: Job, measured: Measured | None) -> list[Table]:
    found: list[Table] = []
    by_table: dict[str, list[Piece]] = {}
    for piece in job.pieces:
        by_table.setdefault(piece.spec.title, []).append(piece)
    for title, pieces in by_table.items():
        if isinstance(pieces[0].spec, CellsSpec) and measured is not None:
            found.append(cells_table(title, pieces, measured, presets=isinstance(job.spec, ComparisonSpec)))
        elif isinstance(pieces[0].spec, ActivationsSpec):
            found += activation_tables(title, pieces)
        elif isinstance(pieces[0].spec, NeuronsSpec):
            found += [table for piece in pieces for table in neuron_tables(piece)]
        for step in (step for piece in pieces for step in piece.of(Perplexity)):
            found += matrix_tables(title, PerplexityMatrix.load(step.out / FILE))
            neurons = NeuronSet.load(step.at.neurons(step.selection))
            found.append(overlap_table(step.at.selections[step.selection].title, neurons))
    return found


def _findings(measured: Measured | None, matrices: Sequence[Perplexity]) -> list[str]:
    found = [sentence for step in matrices for sentence in matrix_findings(PerplexityMatrix.load(step.out / FILE))]
    if measured is not None:
        compared = [row for row in measured.rows if row.p_holm is not None and row.intervention != "none"]
        changed = [row for row in compared if row.significant]
        better = [row for row in changed if (row.delta or 0) > 0]
        if compared:
            found.append(
                f"Of {len(compared)} changes against no intervention {len(changed)} are significant (p < 0.05 after "
                f"Holm's correction): {len(better)} for the better, {len(changed) - len(better)} for the worse."
            )
    return found
