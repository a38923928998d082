"""Run the tests marked gpu and every benchmark on one device, and keep the figures.

    python -m tests.benchmarks.gpu [--device cuda|cpu] [--scale full|tiny] [--out FILE.json] [--only PART]

``make gpu`` runs it. On a CPU it is a rehearsal: the same lines, whose figures never replace those of a GPU.
"""

from __future__ import annotations

import argparse
import json
import os
import shutil
import subprocess
import sys
import time
import traceback
from datetime import UTC, datetime
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import torch

from lnbench._version import __version__
from lnbench.files import cache_dir, write_json, write_text
from lnbench.reproduce.hours import FILE, Rates, estimate
from lnbench.reproduce.plan import plan
from lnbench.reproduce.reproduction_request import ReproductionRequest
from tests.benchmarks.gpu.machine import SCALES, Machine
from tests.benchmarks.gpu.parts import PARTS

ROOT = Path(__file__).parents[3]
OUT = ROOT / "docs" / FILE
TOKENS = (1_000_000, 100_000_000)
LANGUAGES = 16


def run_tests(machine: Machine) -> dict[str, Any]:
    """Run the tests marked gpu on the device, and return how they ended."""
    started = time.perf_counter()
    report = machine.folder / "tests.json"
    code = (
        "import json, sys, pytest\n"
        "class Count:\n"
        "    def __init__(self): self.outcomes, self.reasons = {}, []\n"
        "    def pytest_runtest_logreport(self, report):\n"
        "        if report.when == 'call' or report.outcome != 'passed':\n"
        "            self.outcomes[report.nodeid] = report.outcome\n"
        "            if report.skipped: self.reasons.append(f'{report.nodeid}: {report.longrepr[2]}')\n"
        "count = Count()\n"
        "code = pytest.main(['-q', '-n', '0', '-m', 'gpu', '--disable-warnings', 'tests'], plugins=[count])\n"
        "json.dump({'outcomes': count.outcomes, 'skipped': count.reasons}, open(sys.argv[1], 'w'))\n"
        "sys.exit(code)\n"
    )
    environment = {**os.environ, "TEST_DEVICE": machine.name}
    done = subprocess.run([sys.executable, "-c", code, str(report)], cwd=ROOT, env=environment, check=False)
    seen = json.loads(report.read_text()) if report.exists() else {"outcomes": {}, "skipped": []}
    outcomes = list(seen["outcomes"].values())
    return {
        **{outcome: outcomes.count(outcome) for outcome in ("passed", "failed", "skipped")},
        "failures": sorted(name for name, outcome in seen["outcomes"].items() if outcome == "failed"),
        "skips": seen["skipped"],
        "exit_code": done.returncode,
        "seconds": round(time.perf_counter() - started, 1),
    }


def measure(machine: Machine, names: list[str]) -> dict[str, Any]:
    """Run the named parts, each by itself: one that fails or lacks a package is named, and the others run on."""
    results: dict[str, Any] = {}
    for name in names:
        part = PARTS[name]
        started = time.perf_counter()
        if missing := [package for package in part.needs if find_spec(package) is None]:
            results[name] = {"skipped": f"{', '.join(missing)} not installed"}
        else:
            try:
                figures = part.run(machine)
                results[name] = {"figures": {key: _rounded(value) for key, value in figures.items()}}
            except Exception as error:
                traceback.print_exc()
                results[name] = {"failed": f"{type(error).__name__}: {error}".partition("\n")[0]}
        results[name]["seconds"] = round(time.perf_counter() - started, 1)
        print(f"{part.title}: {json.dumps(results[name])}", flush=True)
    matmul = results.get("peak", {}).get("figures", {}).get("matmul_tflops")
    counted = results.get("statistics", {}).get("figures", {})
    if matmul and counted:
        counted["share_of_matmul_peak"] = _rounded(counted["tflops"] / matmul)
    return results


def _rounded(value: float | None) -> float | None:
    return None if value is None else float(f"{value:.4g}")


def table(content: dict[str, Any]) -> str:
    """Return the figures as a Markdown page."""
    device = content["device"]
    rehearsal = (
        ["", "A rehearsal on a CPU, of tiny shapes: no speed is to be read from it."] if content["rehearsal"] else []
    )
    lines = [
        "# What one GPU does",
        *rehearsal,
        "",
        "```sh",
        content["command"],
        "```",
        "",
        f"{device['device']}, {device['dtype']}; "
        + ", ".join(f"{package} {version}" for package, version in device["versions"].items())
        + f", lnbench {content['lnbench']}. Random weights: "
        + ", ".join(f"{name} {size:,}" for name, size in device["shape"].items())
        + f". {content['seconds']} s in all.",
        "",
        "| what | figure | value |",
        "|---|---|--:|",
    ]
    for name, result in content["parts"].items():
        title = PARTS[name].title
        for figure, value in result.get("figures", {}).items():
            lines.append(f"| {title} | `{figure}` | {'–' if value is None else f'{value:,}'} |")
            title = ""
        for why in ("skipped", "failed"):
            if why in result:
                lines.append(f"| {title} | {why} | {result[why]} |")
    tests = content["tests"]
    if tests is not None:
        counts = ", ".join(f"{tests[outcome]} {outcome}" for outcome in ("passed", "failed", "skipped"))
        lines += ["", f"Tests marked gpu: {counts}.", *(f"- {line}" for line in (*tests["failures"], *tests["skips"]))]
    lines += ["", "What follows from these:", "", *(f"- {line}" for line in content["estimates"])]
    return "\n".join(lines) + "\n"


def main() -> int:
    """Run everything; exit code 1 if a test or a part failed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--device", default="cuda", help="cuda, cuda:1 …; cpu rehearses")
    parser.add_argument("--scale", choices=SCALES, default="full")
    parser.add_argument(
        "--out", type=Path, default=OUT, help="the figures as JSON; a table is written beside it, as .md"
    )
    parser.add_argument("--only", choices=PARTS, action="append", help="this part alone, and no tests")
    given = parser.parse_args()
    if given.device.startswith("cuda") and not torch.cuda.is_available():
        parser.error("this machine has no CUDA device; rehearse with --device cpu --scale tiny")
    started = time.perf_counter()
    machine = Machine(given.device, SCALES[given.scale])
    try:
        tests = None if given.only else run_tests(machine)
        parts = measure(machine, given.only or list(PARTS))
    finally:
        shutil.rmtree(machine.folder, ignore_errors=True)
    content: dict[str, Any] = {
        "format": "lnbench.benchmarks-gpu/1",
        "lnbench": __version__,
        "date": datetime.now(UTC).date().isoformat(),
        "rehearsal": machine.device.type != "cuda" or given.scale != "full",
        "command": f"make gpu DEVICE={given.device} SCALE={given.scale}",
        "device": machine.describe(),
        "tests": tests,
        "parts": parts,
    }
    content["seconds"] = round(time.perf_counter() - started, 1)
    rates = Rates.of(content)
    table4 = estimate(plan(ReproductionRequest(names=("table4",))).steps, rates)
    content["estimates"] = [*rates.sentences(TOKENS, LANGUAGES), *(f"table 4 of the paper: {line}" for line in table4)]
    out = given.out
    if content["rehearsal"] and out.exists() and not json.loads(out.read_text())["rehearsal"]:
        out = out.with_suffix(".rehearsal.json")
    write_json(out, content)
    write_text(out.with_suffix(".md"), table(content))
    if not content["rehearsal"]:
        write_json(cache_dir() / FILE, content)
    print(table(content))
    print(f"written to {out} and {out.with_suffix('.md')}")
    failed = [name for name, result in parts.items() if "failed" in result]
    return 1 if failed or (tests is not None and tests["exit_code"]) else 0


if __name__ == "__main__":
    sys.exit(main())
