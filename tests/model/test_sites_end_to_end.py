"""Every site through the real commands: nothing crashes, and what is said of its units calls them by their name."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest
import torch
from transformers import AutoModelForCausalLM
from typer.testing import CliRunner

from lnbench.cli import app
from lnbench.demo import DATA
from lnbench.model.architectures import in_units
from tests.support.every_type import config_of
from tests.support.messages import lacks
from tests.support.tiny import tokenizer

SITES = {
    "product": ("llama", "lape:top_fraction=0.1", "zero", "neurons"),
    "attention": ("llama", "mean_difference:fraction=0.25", "mean", "heads"),
    "residual": ("llama", "mean_difference:fraction=0.2", "zero", "dimensions"),
    "experts": ("qwen2_moe", "lape:top_fraction=0.5:bar=0.5", "zero", "experts"),
}
"""Site → model, selector, intervention, what its units are called."""
PATHS = re.compile(r"[\w./-]*neurons[\w./-]*\.\w+|neurons_\w+|lnbench neurons")
"""Where neurons are part of a name."""
# One site is tried with the other slow tests; ``pytest -m architectures`` tries them all.


@pytest.fixture(scope="module")
def corpus(tmp_path_factory: pytest.TempPathFactory) -> str:
    folder = tmp_path_factory.mktemp("corpus")
    for language in ("en", "hi"):
        line = (DATA / "corpus" / f"{language}.jsonl").read_text(encoding="utf-8").splitlines()[0]
        row = json.dumps({"text": json.loads(line)["text"][:150]})
        (folder / f"{language}.jsonl").write_text(f"{row}\n", encoding="utf-8")
    return str(folder / "{lang}.jsonl")


def saved(folder: Path, model_type: str) -> str:
    torch.manual_seed(0)
    config = config_of(model_type, vocab_size=260, max_position_embeddings=512, initializer_range=0.3)
    AutoModelForCausalLM.from_config(config).save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    return str(folder)


def run(*arguments: Any) -> str:
    result = CliRunner().invoke(app, list(map(str, arguments)), catch_exceptions=False)
    assert result.exit_code == 0, result.output
    return result.output


def say_units(text: str, units: str) -> None:
    """Assert that a text calls its units so, and no others neurons."""
    words = PATHS.sub("", " ".join(text.split()))
    assert not lacks(words.lower(), units), words
    if units != "neurons":
        assert not re.search(r"\bneurons?\b", words, re.IGNORECASE), words


@pytest.mark.slow
@pytest.mark.parametrize(
    "site", [site if site == "attention" else pytest.param(site, marks=pytest.mark.architectures) for site in SITES]
)
def test_a_site_goes_through_every_command(site: str, corpus: str, tmp_path: Path) -> None:
    model_type, selector, intervention, units = SITES[site]
    model, statistics, file = saved(tmp_path / "model", model_type), tmp_path / "statistics", tmp_path / "set.json"
    text = ("--corpus", corpus, "--tokens", 60)
    run("stats", "--model", model, *text, "--site", site, "--out", statistics)
    assert not lacks(run("stats", "show", statistics), site)
    say_units(run("select", selector, "--statistics", statistics, "--site", site, "--out", file), units)
    say_units(run("neurons", "show", file), units)
    say_units(run("neurons", "overlap", file), units)
    say_units(run("neurons", "overlap", file, file), units)
    spec = {
        "models": [model],
        "selectors": [selector],
        "corpus": corpus,
        "corpus_tokens": 60,
        "site": site,
        "interventions": ["none", intervention],
        "languages": ["en"],
        "tasks": ["lnbench_demo_continuation_{lang}"],
        "limit": 1,
        "controls": 0,
    }
    (tmp_path / "sweep.yaml").write_text(json.dumps(spec), encoding="utf-8")
    run("sweep", tmp_path / "sweep.yaml", "--out", tmp_path / "run")
    row = json.loads((tmp_path / "run" / "records.jsonl").read_text(encoding="utf-8").splitlines()[-1])
    assert row["site"] == site
    measured = ("--neurons", file, "--statistics", statistics, "--site", site, "--intervention", intervention)
    say_units(run("ppl", "--model", model, *text, "--length", 32, *measured, "--out", tmp_path / "ppl"), units)
    drawn = run("figures", statistics, file, tmp_path / "ppl", "--out", tmp_path / "figures", "--format", "svg")
    titles = [line for line in drawn.splitlines() if "site p" not in line]
    say_units("\n".join(titles), units)
    if site != "attention":
        return  # a report draws all figures again, which takes seconds
    run("report", tmp_path / "run", tmp_path / "ppl", "--out", tmp_path / "report")
    page = (tmp_path / "report" / "index.html").read_text(encoding="utf-8")
    assert not lacks(page, f"{units} of", site)


def test_words_of_units_replace_neurons_and_leave_names() -> None:
    text = "A neuron's share of the neurons in a/neurons.json; Neurons of lnbench_neurons; a neuron"
    assert in_units(text, "post") == in_units(text, "paper") == text
    assert in_units(text, "attention") == (
        "A head's share of the heads in a/neurons.json; Heads of lnbench_neurons; a head"
    )
    assert in_units("a neuron", "experts") == "an expert"
    assert in_units("neurons", "of_a_plugin") == "units"
