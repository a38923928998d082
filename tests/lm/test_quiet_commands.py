"""What an evaluation prints: results, lnbench's own lines and errors, whatever other packages say meanwhile."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

from tests.lm.test_lm_eval import BIN, MODEL_ARGS, installed

NOISE = """
import logging, sys, warnings
import datasets
from tqdm import tqdm
from tqdm.auto import tqdm as notebook_bar

def rows(**_):
    warnings.warn("noise of a warning")
    logging.getLogger("elsewhere").warning("noise of a logger")
    logging.getLogger("elsewhere").error("an error that matters")
    own = logging.getLogger("elsewhere.handled")
    own.addHandler(logging.StreamHandler())
    own.propagate = False
    own.warning("noise of a handler")
    for bar in (tqdm, notebook_bar):
        list(bar(range(3), desc="noise of a bar", disable=False))
    rows = [{"question": "A river", "answer": " runs"}]
    return datasets.DatasetDict(test=datasets.Dataset.from_list(rows))
"""
TASK = """
task: noisy_en
custom_dataset: !function rows.rows
output_type: loglikelihood
test_split: test
doc_to_text: '{{question}}'
doc_to_target: '{{answer}}'
metric_list: [{metric: perplexity}]
metadata: {version: 1, language: en}
"""
MESSAGES = ("noise of a warning", "noise of a logger", "noise of a handler")
OURS = (r"text: ", r"threads: ", r"en: zero on \d+ neurons in \d+ layers, \d+ tokens changed; .* tokens of ")


def evaluate(
    program: list[str], tiny_model: str, tiny_corpus: str, folder: Path, cache: Path, *more: str
) -> tuple[str, list[str]]:
    """What the command prints on stdout, and the lines on stderr."""
    tasks = folder / "tasks"
    tasks.mkdir()
    (tasks / "task.yaml").write_text(TASK)
    (tasks / "rows.py").write_text(NOISE)
    corpus = tiny_corpus.replace("{lang}", "*")
    command = [*program, "--model_args", f"pretrained={tiny_model},corpus={corpus},{MODEL_ARGS},intervention=zero"]
    command += ["--include_path", str(tasks), "--tasks", "noisy_en", "--device", "cpu", *more]
    environment = os.environ | {"LNBENCH_CACHE": str(cache), "HF_HUB_OFFLINE": "1"}
    environment.pop("PYTHONWARNINGS", None)
    done = subprocess.run(
        command, check=False, capture_output=True, text=True, env=environment, cwd=folder, timeout=300
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout, done.stderr.splitlines()


@pytest.mark.processes
@pytest.mark.slow
@installed
@pytest.mark.parametrize(
    "program",
    [[str(BIN / "lm_eval"), "--model", "lnbench"], [sys.executable, "-m", "lnbench.cli", "eval"]],
    ids=["lm_eval", "lnbench eval"],
)
def test_nothing_but_results_own_lines_and_errors(
    program: list[str], tiny_model: str, tiny_corpus: str, tmp_path: Path
) -> None:
    cache = tmp_path / "cache"
    printed, said = evaluate(program, tiny_model, tiny_corpus, tmp_path, cache)
    assert "noisy_en" in printed
    assert "noise" not in printed.replace("noisy_en", "")
    assert "\r" not in printed + "".join(said)
    log = next((cache / "logs").glob("*.log"))
    known = (
        r"act_prob:fraction=0.15 selects sets that are not one language's",
        *OURS,
        ".*an error that matters",
        rf"lnbench: \d+ warnings? .*{re.escape(str(log))}",
    )
    assert [line for line in said if not any(re.match(pattern, line) for pattern in known)] == []
    assert len(said) == len(set(said))
    for pattern in known[2:]:
        assert sum(bool(re.match(pattern, line)) for line in said) == 1, pattern
    kept = log.read_text(encoding="utf-8")
    assert all(message in kept for message in MESSAGES)


@pytest.mark.processes
@pytest.mark.slow
@installed
def test_verbose_shows_them(tiny_model: str, tiny_corpus: str, tmp_path: Path) -> None:
    program = [str(BIN / "lm_eval"), "--model", "lnbench"]
    _, said = evaluate(program, tiny_model, tiny_corpus, tmp_path, tmp_path / "cache", "--verbose")
    assert all(any(message in line for line in said) for message in (*MESSAGES, "noise of a bar"))
    assert not (tmp_path / "cache" / "logs").exists()
