"""Answers of the tasks of pairs, as runs kept them."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from lnbench.errors import LnbenchError
from lnbench.language_control.questions import SPLITS, source_of
from lnbench.leaderboard.merged_records import inside, lines_of, models_apart
from lnbench.sweeps import records

TUNE = SPLITS[1]
Condition = tuple[str, str, str]
"""Model (with its adapter), selector, intervention."""


@dataclass(frozen=True)
class PairAnswer:
    """One answer to an open question."""

    question: str
    """Its number, the same in all languages."""
    source: str
    target: str
    prompt: str
    answer: str
    success: float
    """1 if it is in the target language."""


def read_answers(runs: Iterable[Path], split: str | None = None) -> dict[Condition, list[PairAnswer]]:
    """Return the answers of the tasks of pairs in some runs, under each condition; random controls are left out.

    Args:
        runs: Folders of sweeps.
        split: ``test``, ``tune`` or ``all``; by default whatever the runs asked, except ``tune``.

    Raises:
        LnbenchError: no run has any, or a file is missing or damaged.
    """
    answers: dict[Condition, dict[tuple[str, ...], PairAnswer]] = defaultdict(dict)
    seen: set[Path] = set()
    tuned = 0
    loaded = {run: records.load(run / records.FILE) for run in runs}
    models = models_apart([record for of_run in loaded.values() for record in of_run])
    for run, of_run in loaded.items():
        for record in of_run:
            if record.failed or record.control_of or record.samples is None or source_of(record.task) is None:
                continue
            path = inside(run, record.samples)
            if path in seen:
                continue
            seen.add(path)
            model = str(models[record.model, record.model_files]["model"])
            model = model if record.adapter is None else f"{model} + {record.finetune}"
            for sample in lines_of(path):
                doc, said = sample.get("doc"), sample.get("filtered_resps")
                if not isinstance(doc, dict) or not isinstance(said, list) or not said or "lfs" not in sample:
                    raise LnbenchError(f"{path} is not a file of samples of {record.task}; run the sweep again")
                if (doc.get("split") != split) if split else (doc.get("split") == TUNE):
                    tuned += 1
                    continue
                answer = PairAnswer(
                    **{name: str(doc.get(name)) for name in ("source", "target", "prompt")},
                    question=str(doc.get("id")),
                    answer=str(said[0]),
                    success=float(sample["lfs"]),
                )
                # One that two runs have counts once.
                of_condition = answers[model, record.selector, record.intervention]
                of_condition.setdefault((answer.source, answer.target, answer.question), answer)
    if not answers:
        left_out = f": {tuned} answers are of another split, see --split" if tuned else ""
        raise LnbenchError(f"no answers of lnbench_clas_… or lnbench_demo_open_… in these runs{left_out}")
    return {condition: list(of_condition.values()) for condition, of_condition in answers.items()}
