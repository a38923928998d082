"""Write what runs found into ``docs/runs.json``, for the pages that quote it (``claims.yaml`` beside this file).

    python -m tests.docs.record_runs demo=runs/demo harm=runs/harm calibration=calibration.json

A run is a folder of ``lnbench demo``, ``ppl`` or ``reproduce``, what ``make demo`` printed, or a JSON file of
``python -m tests.calibration`` or of ``python -m tests.benchmarks.act_prob_candidates``. Each is recorded with its
command, its model and its text; nothing of the record is written by hand. Values are kept in full: rounding is the
pages'.
"""

from __future__ import annotations

import argparse
import json
import re
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path
from typing import Any

from lnbench import demo, leaderboard
from lnbench.analysis.until_stable import StabilityCurve
from lnbench.choices import select
from lnbench.files import write_text
from lnbench.neurons import NeuronSet
from lnbench.perplexity.matrix import PerplexityMatrix
from lnbench.statistics import Statistics
from lnbench.tables.reproduction import FILE as REPRODUCTION
from lnbench.tables.reproduction import Reproduction
from tests.support.docs_pages import DOCS

RUNS = DOCS / "runs.json"
EMBEDDED = "the embedded text"
OWN_CORPUS = Path(*Path(demo.CORPUS).parts[-5:]).as_posix()
Record = dict[str, Any]


def nested() -> Any:
    """A dictionary that makes the dictionaries in it."""
    return defaultdict(nested)


def of_leaderboard(folder: Path) -> Record:
    """A run of ``lnbench demo``: cells by metric, selector, intervention and language; neurons; ties."""
    rows = leaderboard.build(leaderboard.read_runs([folder]))
    cells = nested()
    for row in rows:
        selector = ("random_" if row.control_of else "") + (row.control_of or row.selector).partition(":")[0]
        cells[row.metric]["unchanged" if selector == "-" else selector][row.intervention][row.language] = {
            "value": row.value,
            "delta": row.delta,
            "significant": bool(row.significant),
            "mde": row.mde,
            "low": row.ci_low,
            "high": row.ci_high,
        }
    sets = {file.stem: NeuronSet.load(file) for file in sorted((folder / "neurons").glob("*.json"))}
    statistics = {code: Statistics.load(folder / "statistics", code) for code in sets["lape"].order}
    top = {code: own.exceedance(own.pooled_quantile(0.9, "layer")) for code, own in statistics.items()}
    agreement = sets["lape"].compare(sets["act_prob"])
    saturated = select("act_prob:fraction=0.004:against=none", statistics)
    return {
        "command": "lnbench demo",
        "model": rows[0].model,
        "text": EMBEDDED,
        "documents": rows[0].n,
        "tokens": {code: own.tokens for code, own in statistics.items()},
        "layers": next(iter(statistics.values())).layers,
        "width": next(iter(statistics.values())).width,
        "tests": sum(
            row.metric == "bits_per_byte" and row.control_of is None and row.delta is not None for row in rows
        ),
        "cells": cells,
        "neurons": {name: {code: found.count(code) for code in found.order} for name, found in sets.items()},
        "shared": {name: shared(found) for name, found in sets.items()},
        "common": {name: common(found) for name, found in sets.items()},
        "tied": {name: ties(found) for name, found in sets.items()},
        "jaccard": {code: agreement[code].jaccard for code in sets["lape"].order},
        "saturated": {code: int((share == 1).sum()) for code, share in top.items()},
        "relevance_alone": {"common": common(saturated), "neurons": saturated.count("en")},
    }


def shared(neurons: NeuronSet) -> Record:
    """Neurons that two languages share."""
    languages, counts, _ = neurons.overlap()
    return {a: dict(zip(languages, row, strict=True)) for a, row in zip(languages, counts.tolist(), strict=True)}


def common(neurons: NeuronSet) -> int:
    """How many neurons all languages have."""
    assert neurons.account is not None
    return neurons.account.common


def ties(neurons: NeuronSet) -> float:
    """The largest share of a language's neurons that was taken out of equals."""
    assert neurons.account is not None
    return max(entry.share_tied or 0.0 for entry in neurons.account.languages.values())


def of_matrix(folder: Path) -> Record:
    """A run of ``lnbench ppl``: changes by language whose neurons are changed and language that is read."""
    matrix = PerplexityMatrix.load(folder / "perplexity.json")
    changes = nested()
    for cell in matrix.cells:
        changes[cell.changed][cell.read] = {
            "nats": cell.delta_nats,
            "bits": cell.delta_bits_per_byte,
            "significant": cell.p_holm is not None and cell.p_holm < 0.05,
            "random": cell.control_delta_nats,
        }
    selectivity = {}
    for row in matrix.selectivity:
        bits = row.bits_per_byte
        selectivity[row.changed] = {
            "difference": row.difference,
            "low": row.low,
            "high": row.high,
            "most_harmed": row.most_harmed,
            "own": bits and bits.own,
            "others": bits and bits.others,
        }
    slices = matrix.slices
    return {
        "command": named(matrix.command or ""),
        "model": matrix.model,
        "text": text_of(next(iter(slices.values())).corpus),
        "blocks": {code: part.blocks for code, part in slices.items()},
        "tokens": {code: part.tokens for code, part in slices.items()},
        "bytes_per_token": {code: part.bytes / part.tokens for code, part in slices.items()},
        "overlap": {code: part.overlap for code, part in slices.items()},
        "unchanged": {code: dict(part) for code, part in matrix.baseline.items()},
        "neurons": matrix.neurons,
        "shared": matrix.shared,
        "changes": changes,
        "selectivity": selectivity,
    }


def of_reproduction(folder: Path) -> Record:
    """A run of ``lnbench reproduce``: the verdict on each conclusion under each preset, with its evidence."""
    found = next(Reproduction.load(file) for file in sorted(folder.rglob(REPRODUCTION)))
    conclusions = nested()
    for conclusion in found.conclusions:
        said = {"verdict": conclusion.verdict, "evidence": conclusion.evidence, "claim": conclusion.claim}
        conclusions[conclusion.name.replace(" ", "_")][conclusion.preset] = said
    return {
        "command": f"lnbench reproduce {found.name} --scale {found.scale} --model {' '.join(found.models)}",
        "model": ", ".join(found.models),
        "text": text_of(""),
        "settings": found.settings,
        "conclusions": conclusions,
    }


def of_curve(folder: Path) -> Record:
    """A run of ``lnbench stats --tokens auto``: how far the neurons of two halves agree, by tokens read."""
    curve = StabilityCurve.load(folder)
    return {
        "command": f"lnbench stats --tokens auto:65536 --languages {'+'.join(curve.languages)}",
        "model": curve.model,
        "text": text_of(""),
        "stable": curve.stable,
        "stopped": curve.stopped,
        "tokens": [max(point.tokens.values()) for point in curve.points],
        "jaccard": [dict(point.jaccard) for point in curve.points],
        "least": [point.least for point in curve.points],
    }


def of_file(file: Path) -> Record:
    """What a benchmark wrote, its command, model and text in it; or from what the demo printed, how long it took."""
    content = file.read_text(encoding="utf-8")
    if took := re.search(r"Done in (\d+) s", content):
        first = re.search(r"first finding after (\d+) s", content)
        return {
            "command": "make demo",
            "model": "gemma-3-270m",
            "text": EMBEDDED,
            "seconds": int(took.group(1)),
            "first_finding": int(first.group(1)) if first else None,
        }
    found: Record = json.loads(content)
    return found


def text_of(corpus: str) -> str:
    """Name a text without a folder of the machine that read it."""
    return EMBEDDED if corpus.endswith(OWN_CORPUS) else "corpus/{lang}.jsonl.gz of LNBENCH_DATA"


def named(command: str) -> str:
    """Take folders of the machine out of a command."""
    words = [word if not word.startswith("/") else Path(word).name for word in command.split()]
    return " ".join(words)


READERS: dict[str, Callable[[Path], Record]] = {
    "leaderboard.json": of_leaderboard,
    "perplexity.json": of_matrix,
    "stability-curve.json": of_curve,
    "": of_reproduction,
}


def record(run: Path) -> Record:
    """Read one run."""
    if run.is_file():
        return of_file(run)
    return next(read for name, read in READERS.items() if (run / name).exists())(run)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("runs", nargs="+", metavar="NAME=RUN")
    runs = json.loads(RUNS.read_text(encoding="utf-8")) if RUNS.exists() else {}
    for argument in parser.parse_args().runs:
        name, _, run = argument.partition("=")
        runs[name] = record(Path(run))
    write_text(RUNS, json.dumps(dict(sorted(runs.items())), indent=1, ensure_ascii=False) + "\n")


if __name__ == "__main__":
    main()
