"""Runs as sweeps, perplexity, reproductions and trainings leave them, written by hand: small, and of every kind."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from lnbench import NeuronSet
from lnbench.files import write_json
from lnbench.finetuning import training_record as training
from lnbench.perplexity.matrix import Baseline, Contrast, MatrixCell, PerplexityMatrix, Selectivity, SliceAccount
from lnbench.sweeps import records
from lnbench.sweeps.records import Record
from lnbench.tables.reproduction import Conclusion, Reproduction, StoredRow, StoredTable, StoredValue

LANGUAGES = ("en", "hi", "ur")
HOSTILE = "<script>alert(1)</script></script><!-- \" onmouseover=alert(2) ' \u2028 \x1b[31m \x00 \u202e {{ 7*7 }}"
"""What a model or a document may hold, all of it text."""
LINES = {
    "en": "The lamp in the harbour burns all night",
    "hi": "नदी के किनारे एक पुराना घर है",
    "ur": "دریا کے کنارے ایک پرانا گھر ہے",
}
DOCUMENTS = 14
EMPTY_SVG = "<svg xmlns='http://www.w3.org/2000/svg'/>"


class Sweep:
    """A folder as a sweep leaves it, one cell after the other."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._cells = 0

    def add(
        self,
        intervention: str,
        language: str,
        *,
        wrong: int = 0,
        error: str | None = None,
        outside: float = 0.0,
        samples: bool = True,
        answer: str = "",
        task: str = "quiz",
        **changes: Any,
    ) -> None:
        """Write a cell in which so many of its documents are answered wrongly."""
        self._cells += 1
        name = f"{task}_{language}"
        given: dict[str, Any] = {
            "cell": f"{self._cells:016x}",
            "model": "m",
            "dtype": "float32",
            "weights": "w",
            "selector": "-" if intervention == "none" else "lape",
            "intervention": intervention,
            "language": language,
            "task": name,
            "command": f"lm_eval --model lnbench --model_args intervention={intervention},language={language} "
            f"--tasks {name} --seed {self._cells}",
            "lnbench_version": "0.1.0",
            "finished_at": "2026-01-02T03:04:05+00:00",
            **changes,
        }
        path = self.folder / records.FILE
        if error is not None:
            records.append(path, [Record(**given, status="failed", error=error)])
            return
        right = [float(number >= wrong) for number in range(DOCUMENTS)]
        folder = self.folder / "cells" / given["cell"]
        folder.mkdir(parents=True)
        lines = [_sample(number, language, one, answer) for number, one in enumerate(right)]
        (folder / "samples.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
        write_json(folder / "results.json", _results(name, given, outside))
        files = {name: f"cells/{given['cell']}/{name}" for name in ("samples.jsonl", "results.json")}
        record = Record(
            **given,
            metric="acc",
            value=sum(right) / DOCUMENTS,
            n=DOCUMENTS,
            samples=files["samples.jsonl"] if samples else None,
            results=files["results.json"],
        )
        records.append(path, [record])


def _sample(number: int, language: str, right: float, answer: str) -> dict[str, Any]:
    """A line of lm-eval's samples: three choices, of which the first is right."""
    choices = [f" {LINES[language]} {number}", f" {answer or 'another'}", " a third"]
    likelihoods = [-3.0, -2.0 - right * 2, -9.0]
    return {
        "doc_id": number,
        "doc": {"text": "as below"},
        "target": "0",
        "arguments": {
            f"gen_args_{place}": {"arg_0": f"{LINES[language]}?", "arg_1": choice}
            for place, choice in enumerate(choices)
        },
        "resps": [[[str(one), "False"]] for one in likelihoods],
        "filtered_resps": [[str(one), "False"] for one in likelihoods],
        "filter": "none",
        "metrics": ["acc"],
        "doc_hash": f"hash {number}",
        "prompt_hash": f"prompt {number}",
        "acc": right,
    }


def _results(task: str, given: Mapping[str, Any], outside: float) -> dict[str, Any]:
    told: dict[str, Any] = {"pretrained": "m"}
    if given["intervention"] != "none":
        told |= {
            "selector": given["selector"],
            "corpus": "text/{lang}.txt",
            "corpus_tokens": 4000,
            "neuron_set": {"fingerprint": "0" * 16, "neurons": {"en": 2, "hi": 6, "ur": 5}},
            "read_site": "post",
            "write_site": "post",
            "applied": {given["language"]: {"tokens_overridden": 90, "share_outside_observed_range": outside}},
        }
    return {
        "versions": {task: 1.0},
        "higher_is_better": {task: {"acc": True}},
        "config": {"lnbench": told},
    }


def control(seed: int) -> dict[str, Any]:
    return {"selector": f"random:like=lape:seed={seed}", "control_of": "lape", "control_seed": seed}


def write_sweep(folder: Path) -> Path:
    """Baselines, an intervention that harms Hindi and Urdu, one that does nothing, three controls, a failed cell."""
    sweep = Sweep(folder)
    harm = {"en": 0, "hi": 13, "ur": 12}
    for language in LANGUAGES:
        sweep.add("none", language)
        sweep.add("zero", language, wrong=harm[language], outside=0.25 if language == "hi" else 0.0)
        for seed in range(3):
            sweep.add("zero", language, wrong=seed, **control(seed))
        sweep.add("mean", language)
    sweep.add("p10", "hi", error="OutOfMemoryError: 3 GiB")
    return folder


def neuron_set() -> NeuronSet:
    """Hindi and Urdu share most of their neurons."""
    hindi, urdu = {0: [1, 2, 3], 1: [4, 5, 6]}, {0: [1, 2, 3], 1: [4, 9]}
    return NeuronSet(
        "m", 2, 32, {"en": {0: [20], 1: [21]}, "hi": hindi, "ur": urdu}, {"name": "lape", "parameters": {}}
    )


def write_neurons(folder: Path) -> Path:
    neuron_set().save(folder / "neurons" / "lape.json")
    return folder


DELTAS = {"en": (0.01, 0.05, 0.0), "hi": (0.02, 1.5, 1.6), "ur": (0.01, 0.9, 1.4)}
"""Row by row: English neurons harm Hindi a little, Hindi ones harm Urdu more than Hindi."""


def _contrast(changed: str, deltas: tuple[float, ...]) -> Contrast:
    own, most = deltas[LANGUAGES.index(changed)], max(deltas)
    return Contrast(
        own=own,
        others=0.1,
        difference=own - 0.1,
        low=own - 0.3,
        high=own + 0.1,
        dominant=most == own,
        most_harmed=LANGUAGES[deltas.index(most)],
    )


def matrix() -> PerplexityMatrix:
    cells = [
        MatrixCell(
            changed=changed,
            read=read,
            **{
                f"delta_{unit}{end}": delta + step
                for unit in ("nats", "perplexity", "bits_per_byte")
                for end, step in (("", 0.0), ("_low", -0.1), ("_high", 0.1))
            },
            outside_range=0.4 if changed == "hi" else 0.0,
            p_value=0.01,
            p_holm=0.02,
            control_delta_nats=0.0,
            control_min=-0.01,
            control_max=0.02,
            n_controls=3,
            exceeds_controls=delta > 0.02,
            control_p_value=0.01 if delta > 0.02 else 0.5,
            control_p_holm=0.03 if delta > 0.02 else 1.0,
        )
        for changed, deltas in DELTAS.items()
        for read, delta in zip(LANGUAGES, deltas, strict=True)
    ]
    neurons = neuron_set()
    return PerplexityMatrix(
        model="m",
        selector="lape",
        intervention="zero",
        site="post",
        changed=list(LANGUAGES),
        read=list(LANGUAGES),
        length=32,
        slices={
            one: SliceAccount(
                corpus="text/{lang}.txt", documents=3, blocks=8, tokens=248, bytes=900, fingerprint="f", overlap=None
            )
            for one in LANGUAGES
        },
        neurons={one: neurons.count(one) for one in LANGUAGES},
        shared={"en": {"hi": 0, "ur": 0}, "hi": {"en": 0, "ur": 4}, "ur": {"en": 0, "hi": 4}},
        neuron_set=neurons.fingerprint,
        baseline={one: Baseline(nats_per_token=3.0, perplexity=20.1, bits_per_byte=1.2) for one in LANGUAGES},
        cells=cells,
        selectivity=[
            Selectivity(changed=changed, bits_per_byte=contrast, **contrast.model_dump())
            for changed, contrast in zip(DELTAS, map(_contrast, LANGUAGES, DELTAS.values()), strict=True)
        ],
        command="lnbench ppl --model m --intervention zero",
        finished_at="2026-01-02T03:04:05+00:00",
    )


def write_matrix(folder: Path) -> Path:
    matrix().save(folder / "perplexity.json")
    return write_neurons(folder)


def write_reproduction(folder: Path, figures: Sequence[str] = (), runs: Sequence[str] = ()) -> Path:
    """A table with published values, a conclusion, and a caveat."""
    value = StoredValue(metric="acc", unit="%", measured=41.25, published=40.0, difference=1.25, n=90, significant=True)
    missing = StoredValue(metric="acc", unit="%", published=44.0, note="the cell failed")
    Reproduction(
        name="table4",
        title="XNLI accuracy",
        preset="corrected",
        scale="small",
        models=["m"],
        tables=[
            StoredTable(
                title="XNLI accuracy (%)",
                row_labels=["model", "language"],
                columns=["none", "P90", "0"],
                rows=[StoredRow(labels=["m", "hi"], cells=[value, missing, None])],
            )
        ],
        figures=list(figures),
        runs=list(runs),
        findings=["Zero harms Hindi."],
        conclusions=[
            Conclusion(
                name="no gain",
                claim="No intervention helps.",
                preset="corrected",
                verdict="survives",
                evidence="0 of 8 comparisons are better.",
            )
        ],
        caveats=["Measured on 90 documents."],
        commands=["lnbench reproduce table4 --scale small"],
        finished_at="2026-01-02T03:04:05+00:00",
    ).save(folder / "reproduction.json")
    return folder


def write_training(folder: Path) -> Path:
    training.update(folder, finished=False, model={"model": "m"}, data={"name": "xnli"}, parameters={"trainable": 1200})
    return folder
