"""A plugin that pip installs, as a user's would be."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

import lnbench

pytestmark = pytest.mark.processes

HERE = Path(__file__).parent
PACKAGE = Path(lnbench.__file__).parent

LISTING = """
import json
from lnbench.host import get_host
host = get_host()
rows = [
    (r.kind, r.name, [str(p) for p in r.parameters.values()], r.doc, r.source.distribution, r.source.version)
    for r in host.describe()
]
print(json.dumps([rows, host.canonical("selector", "most_active:fraction=0.05")]))
"""

WORKING = """
import torch
from lnbench import Statistics, override
from lnbench.choices import plan
from lnbench.host import get_host
from lnbench.statistics import SiteValues

def one(language):
    rate = torch.rand(3, 40, generator=torch.Generator().manual_seed(ord(language[0])))
    values = SiteValues(rate, rate, rate, rate, rate, rate.expand(2, 3, 40), rate)
    return Statistics(language, 10, "post", {"post": values}, {"model": "tiny"})

statistics = {language: one(language) for language in ("aa", "bb")}
found = get_host().resolve("selector", "most_active:fraction=0.05").select(statistics)
for language, rates in ((language, one.positive_rate) for language, one in statistics.items()):
    chosen = torch.cat([rates[layer][indices] for layer, indices in found[language].items()])
    assert sorted(chosen.tolist()) == sorted(rates.flatten().topk(6).values.tolist())
change = plan(found["aa"], "amplify:factor=3", statistics["aa"])
assert change.neurons == 6
assert all((part.operation, set(part.values.tolist())) == ("scale", {3.0}) for part in change.layers.values())
"""


@pytest.fixture(scope="module")
def environment(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a Python that has lnbench and the example plugin installed."""
    target = tmp_path_factory.mktemp("site")
    command = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation", "--no-index"]
    subprocess.run([*command, "--target", str(target), str(HERE / "plugin_package")], check=True)
    # Python reads .pth files in site folders only, which a folder of PYTHONPATH is not.
    (target / "sitecustomize.py").write_text((PACKAGE / "lnbench_lm_eval.pth").read_text(encoding="utf-8"))
    kept = {name: value for name, value in os.environ.items() if not name.startswith("LNBENCH_")}
    return kept | {"PYTHONPATH": os.pathsep.join(map(str, (target, PACKAGE.parent)))}


def python(environment: dict[str, str], *arguments: str) -> str:
    """What a fresh Python prints."""
    done = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_it_is_listed(environment: dict[str, str]) -> None:
    rows, canonical = json.loads(python(environment, "-c", LISTING))
    by_name = {row[1]: row for row in rows}
    assert by_name["most_active"] == [
        "selector",
        "most_active",
        ["fraction: float = 0.01"],
        "Per language, the neurons with the highest share of positive activations.",
        "lnbench-example-plugin",
        "0.1.0",
    ]
    assert by_name["amplify"][2] == ["factor: float = 2.0"]
    assert canonical == {"name": "most_active", "parameters": {"fraction": 0.05}}


def test_it_does_what_it_says(environment: dict[str, str]) -> None:
    python(environment, "-c", WORKING)


def test_it_works_through_lm_eval(
    environment: dict[str, str], tiny_model: str, tiny_corpus: str, tmp_path: Path
) -> None:
    # One argument a word: lm-eval takes a first word with a brace in it for JSON.
    arguments = {
        "pretrained": tiny_model,
        "selector": "most_active:fraction=0.05",
        "intervention": "amplify:factor=3",
        "corpus": tiny_corpus,
        "languages": "en+hi",
    }
    options = {
        "--model": ["lnbench"],
        "--model_args": [f"{name}={value}" for name, value in arguments.items()],
        "--include_path": [str(HERE.parent / "tasks")],
        "--tasks": ["lnbench_demo_continuation_en"],
        "--limit": ["2"],
        "--device": ["cpu"],
        "--output_path": [str(tmp_path / "results")],
    }
    words = [word for option, values in options.items() for word in (option, *values)]
    python(environment | {"LNBENCH_CACHE": str(tmp_path / "cache")}, "-m", "lm_eval", *words)
    (results,) = (tmp_path / "results").rglob("results_*.json")
    text = results.read_text(encoding="utf-8")
    # Parameters as data: not the words of the command again, but lnbench's own account of what was applied.
    assert '"fraction": 0.05' in text
    assert '"factor": 3.0' in text
