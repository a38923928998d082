"""Tasks that come with lm-eval, whose data is written here."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import Any

import datasets
import lm_eval
import pytest
from lm_eval.tasks import TaskManager

from lnbench.sweeps.records import load
from tests.support.sweeps import spec_of, sweep

pytestmark = pytest.mark.slow

_ANSWERS = {f"mc_answer{number}": f"Sông {number}" for number in (1, 2, 3, 4)}
ROWS: dict[str, dict[str, Any]] = {
    "facebook/xnli": {"premise": "Sông chảy.", "hypothesis": "Có sông.", "label": 0},
    "cambridgeltl/xcopa": {
        "premise": "Trời mưa.",
        "question": "effect",
        "choice1": "Đường ướt.",
        "choice2": "Đường khô.",
        "label": 0,
        "idx": 0,
        "changed": False,
    },
    "facebook/belebele": {"flores_passage": "Một con sông.", "question": "Gì?", "correct_answer_num": "1", **_ANSWERS},
}


def made_up(path: str, *_: Any, **__: Any) -> datasets.DatasetDict:
    texts = ("premise", "flores_passage")
    rows = datasets.Dataset.from_list(
        [
            {name: f"{number} {value}" if name in texts else value for name, value in ROWS[path].items()}
            for number in range(4)
        ]
    )
    return datasets.DatasetDict(dict.fromkeys(("train", "validation", "test"), rows))


def test_lm_evals_own_tasks_are_measured(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "load_dataset", made_up)
    tasks = ["xnli_{lang}", "xcopa_{lang}", {"vi": "belebele_vie_Latn"}]
    chosen = {"languages": ["vi"], "interventions": ["none", "zero"], "controls": 0, "num_fewshot": 1, "seeds": [7]}
    assert sweep(spec_of(given, tasks=tasks, **chosen), tmp_path).failed == {}
    records = load(tmp_path)
    assert {(record.task, record.intervention) for record in records if record.metric == "acc"} == {
        (task, intervention)
        for task in ("xnli_vi", "xcopa_vi", "belebele_vie_Latn")
        for intervention in ("none", "zero")
    }
    for record in records:
        assert record.n == 2
        info = json.loads((tmp_path / str(record.results)).read_text())
        assert info["n-shot"] == {record.task: 1}
        if record.intervention == "zero":
            assert set(info["config"]["lnbench"]["applied"]) == {"vi"}
    own = next(record for record in records if record.task == "xnli_vi" and record.intervention == "zero")
    assert "--num_fewshot 1 --limit 2 --seed 7 " in own.command
    folder = Path(lm_eval.tasks.__file__).parent / "xnli"
    arguments = dict(part.split("=", 1) for part in shlex.split(own.command)[4].split(","))
    by_hand = lm_eval.simple_evaluate(
        "lnbench",
        model_args=arguments,
        tasks=["xnli_vi"],
        num_fewshot=1,
        limit=2,
        batch_size=4,
        task_manager=TaskManager(include_path=str(folder), include_defaults=False),
        **dict.fromkeys(("random_seed", "numpy_random_seed", "torch_random_seed", "fewshot_random_seed"), 7),
    )
    assert by_hand["results"]["xnli_vi"]["acc,none"] == own.value
    for sample, line in zip(by_hand["samples"]["xnli_vi"], lines_of(tmp_path / str(own.samples)), strict=True):
        assert [[str(number) for number in one[0]] for one in sample["resps"]] == [one[0] for one in line["resps"]]
        assert sample["prompt_hash"] == line["prompt_hash"]


def lines_of(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text().splitlines()]


def test_a_group_of_ones_own_has_lm_evals_tasks(
    given: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(datasets, "load_dataset", made_up)
    (tmp_path / "group.yaml").write_text("group: my_nli\ntask: [xnli_hi, xnli_ur]\n")
    spec = spec_of(given, tasks=["my_nli"], languages=["hi"], interventions=["none"], include_path=str(tmp_path))
    assert sweep(spec, tmp_path / "out").failed == {}
    assert {record.task for record in load(tmp_path / "out")} == {"xnli_hi", "xnli_ur"}
