"""Commands in processes of their own: interrupted at awkward moments, started twice, and under other encodings."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from lnbench.files import read_json
from tests.support.finetuning import SETTINGS, write_data
from tests.support.messages import lacks

pytestmark = pytest.mark.processes
LNBENCH = [sys.executable, "-m", "lnbench.cli"]


def ended(process: subprocess.Popen[str]) -> tuple[int, str]:
    said = process.communicate(timeout=240)[1]
    return process.returncode, said


def start(*arguments: object, **environment: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [*LNBENCH, *map(str, arguments)],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        encoding="utf-8",
        errors="replace",
        env={**os.environ, **environment},
        # A shell's background jobs ignore SIGINT, and hand that on.
        preexec_fn=lambda: signal.signal(signal.SIGINT, signal.SIG_DFL),
    )


# What PYTHONIOENCODING or the locale may be, and a command with characters that these lack.
ENCODINGS = {
    "C locale": ({"LC_ALL": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}, ["plugins"]),
    "ASCII": ({"PYTHONIOENCODING": "ascii"}, ["plugins", "--format", "markdown"]),
    "Windows-1252": ({"PYTHONIOENCODING": "cp1252"}, ["neurons", "show", "{neurons}"]),
    "Latin-1": ({"PYTHONIOENCODING": "latin-1"}, ["neurons", "show", "{neurons}"]),
}


@pytest.mark.parametrize("case", ENCODINGS)
def test_printing_never_fails(case, tmp_path):
    environment, command = ENCODINGS[case]
    from lnbench.neurons import NeuronSet

    NeuronSet("मॉडल", 1, 4, {"hi": {0: [1]}}).save(tmp_path / "neurons.json")
    code, said = ended(start(*(word.format(neurons=tmp_path / "neurons.json") for word in command), **environment))
    assert code == 0, said


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_an_interruption_says_how_far_it_got_and_that_the_same_command_continues(number, tiny_model, tmp_path):
    (tmp_path / "en.txt").write_text(
        "".join(f"some words of English number {line} in a row\n" for line in range(60_000))
    )
    command = ("stats", "--model", tiny_model, "--corpus", tmp_path / "en.txt", "--languages", "en", "--save-every", 0)
    process = start(*command, "--batch-size", 1, "--length", 64, "--out", tmp_path / "stats")
    unfinished = tmp_path / "stats" / "unfinished" / "en.safetensors"
    deadline = time.monotonic() + 200
    seen: set[int] = set()
    while len(seen) < 3:  # it is written at the start, and after each block
        assert process.poll() is None and time.monotonic() < deadline
        if unfinished.exists():
            seen.add(unfinished.stat().st_mtime_ns)
        time.sleep(0.01)
    process.send_signal(number)
    code, said = ended(process)
    assert code == 128 + number
    last = said.strip().splitlines()[-1]
    assert last.startswith("lnbench: interrupted after") and not lacks(last, "tokens of en", "same command continues")
    assert unfinished.exists() and not list((tmp_path / "stats").glob(".*.*-*-*"))


def request(tiny_model: str, tmp_path: Path, out: str) -> list[str]:
    settings = {**SETTINGS, "answer": "head", "max_steps": 4}
    words = [
        "finetune",
        "masked_lora:rank=4",
        "--model",
        tiny_model,
        "--data",
        "xnli",
        "--languages",
        "all",
        "--out",
        str(tmp_path / out),
    ]
    return words + [word for name, value in settings.items() for word in ("--set", f"{name}={value}")]


@pytest.fixture
def data(tmp_path):
    return {"LNBENCH_DATA": str(write_data(tmp_path / "data"))}


def files_of(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in folder.iterdir() if path.suffix == ".safetensors"}


def test_a_fine_tuning_stopped_after_its_last_step_is_finished_to_the_byte(tiny_model, tmp_path, data):
    assert ended(start(*request(tiny_model, tmp_path, "whole"), **data))[0] == 0
    script = (
        "import os, signal\nfrom lnbench.finetuning import training\n"
        "def stop(*_): os.kill(os.getpid(), signal.SIGKILL)\n"
        "training.plot = stop\n"  # what follows the last step and its measurement
        "from lnbench.cli import main\nmain()"
    )
    words = request(tiny_model, tmp_path, "stopped")
    killed = subprocess.run([sys.executable, "-c", script, *words], env={**os.environ, **data}, check=False)
    assert killed.returncode == -signal.SIGKILL
    assert not read_json(tmp_path / "stopped" / "training.json")["finished"]
    assert ended(start(*words, **data))[0] == 0
    assert read_json(tmp_path / "stopped" / "training.json")["finished"]
    whole, stopped = files_of(tmp_path / "whole"), files_of(tmp_path / "stopped")
    assert "head.safetensors" in whole and whole == stopped


def test_a_fine_tuning_started_twice_at_once_is_done_once(tiny_model, tmp_path, data):
    words = request(tiny_model, tmp_path, "adapter")
    both = [start(*words, **data) for _ in range(2)]
    ends = sorted((ended(process) for process in both), key=lambda end: end[0])
    assert ends[0][0] == 0
    # The second found the first at work, or its result.
    assert ends[1][0] == 0 or not lacks(ends[1][1], tmp_path / "adapter", "in use", "process")
    assert read_json(tmp_path / "adapter" / "training.json")["finished"]
    assert not (tmp_path / "adapter" / ".running.json").exists()


def test_a_conversion_started_by_two_processes_into_an_empty_cache_is_done_once(tmp_path):
    for part in range(2):
        (tmp_path / f"tiny_part{part}").mkdir()
        (tmp_path / f"tiny_part{part}" / "__init__.py").touch()
        (tmp_path / f"tiny_part{part}" / "piece").write_bytes(b"piece")
    (tmp_path / "gguf.py").touch()
    script = f"""
import hashlib, os, sys, time
sys.path.insert(0, {str(tmp_path)!r})
from pathlib import Path
from lnbench.model import packaged
chunks = (("tiny_part0", "piece"), ("tiny_part1", "piece"))
checksum = hashlib.sha256(b"piecepiece").hexdigest()
packaged.PACKAGED["tiny"] = packaged.PackagedModel("d", "i", "w", chunks, checksum, 1)
def convert(source, folder):
    print("converted", flush=True)
    for name in packaged._NEEDED_FILES:
        time.sleep(0.3)
        (folder / name).write_text(name)
packaged._convert_gguf = convert
folder = Path(packaged.resolve("tiny"))
print(sorted(path.name for path in folder.iterdir()) == sorted(packaged._NEEDED_FILES), folder)
"""
    environment = {**os.environ, "LNBENCH_CACHE": str(tmp_path / "cache")}
    both = [
        subprocess.Popen([sys.executable, "-c", script], stdout=subprocess.PIPE, text=True, env=environment)
        for _ in range(2)
    ]
    printed = [process.communicate(timeout=120)[0].splitlines() for process in both]
    assert [process.returncode for process in both] == [0, 0]
    assert sum(lines.count("converted") for lines in printed) == 1
    assert len({lines[-1] for lines in printed}) == 1 and printed[0][-1].startswith("True ")
    assert not list((tmp_path / "cache").rglob(".tiny.*"))


def test_a_full_cache_is_only_read(tiny_model, tiny_corpus, tmp_path, monkeypatch):
    """With a cache that refuses every write, after a run that filled it."""
    from lnbench import files, locks
    from lnbench.lm import LNBenchLM
    from lnbench.lm.experiment import Experiment

    asked = {"intervention": "p10", "selector": "act_prob:fraction=0.15", "languages": "en+hi", "corpus": tiny_corpus}
    cache = Path(os.environ["LNBENCH_CACHE"])

    def neurons() -> str:
        lm = LNBenchLM(tiny_model, device="cpu", **asked)
        lm.artifacts.override(Experiment(**asked), "hi")
        return lm.artifacts.neurons(Experiment(**asked)).fingerprint

    first = neurons()
    held = {path: path.stat().st_mtime_ns for path in cache.rglob("*")}

    def refuse(*_: object, **__: object) -> None:
        raise PermissionError(30, "Read-only file system")

    monkeypatch.setattr(Path, "mkdir", refuse)
    monkeypatch.setattr(files.tempfile, "mkstemp", refuse)
    monkeypatch.setattr(locks, "_system_lock", refuse)
    assert neurons() == first
    assert {path: path.stat().st_mtime_ns for path in cache.rglob("*")} == held
    assert json.loads(next(cache.glob("neurons/*.json")).read_text())["format"].startswith("lnbench.neurons/")
