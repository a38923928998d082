"""XNLI and XQuAD of the hub."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from lnbench.task_data import xnli, xquad
from tests.support.hub import Fault, Hub
from tests.support.messages import refused


def dataset(folder: Path, config: str, splits: dict[str, list[dict[str, Any]]]) -> Path:
    """One configuration of a dataset, as JSON lines."""
    files = []
    (folder / config).mkdir(parents=True)
    for split, rows in splits.items():
        (folder / config / f"{split}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
        files.append(f"  - split: {split}\n    path: {config}/{split}.jsonl\n")
    (folder / "README.md").write_text(f"---\nconfigs:\n- config_name: {config}\n  data_files:\n{''.join(files)}---\n")
    return folder


def pairs(count: int) -> list[dict[str, Any]]:
    return [{"premise": f"p {number}", "hypothesis": f"h {number}", "label": number % 3} for number in range(count)]


def test_xnli(hub: Hub, tmp_path: Path) -> None:
    hub.commit(
        "datasets", "facebook/xnli", dataset(tmp_path / "xnli", "sw", {"test": pairs(9), "validation": pairs(4)})
    )
    hub.faults.append(Fault("datasets/facebook/xnli", 503))
    splits = xnli(lnbench_language="sw", lnbench_choices=("yes {hypothesis}", "also", "no"))
    assert (len(splits["test"]), len(splits["validation"])) == (9, 4)
    assert splits["test"]["hypothesis"][2] == "h 2"
    with refused("xx", "hi"):
        xnli(lnbench_language="xx")
    with refused("facebook/xnli", "LNBENCH_DATA"):
        xnli(lnbench_language="th")


def test_xquad(hub: Hub, tmp_path: Path) -> None:
    context = "The bridge was built in 1901."
    rows = [
        {
            "id": str(number),
            "context": context,
            "question": "When?",
            "answers": {"text": ["1901"], "answer_start": [24]},
        }
        for number in range(5)
    ]
    hub.commit("datasets", "google/xquad", dataset(tmp_path / "xquad", "xquad.ro", {"validation": rows}))
    splits = xquad(lnbench_language="ro")
    (split,) = splits.values()
    assert len(split) == 5
    assert split["question"][0] == "When?"


def test_a_gated_benchmark(hub: Hub) -> None:
    hub.faults.append(Fault("facebook/xnli", 401, 99, "GatedRepo"))
    with refused("facebook/xnli", "LNBENCH_DATA"):
        xnli(lnbench_language="tr")
