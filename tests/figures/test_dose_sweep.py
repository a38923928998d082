"""The sweep of the figure of doses: the example on the page is the file, and runs through to the figure."""

from __future__ import annotations

import csv
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from lnbench.cli import app
from lnbench.sweeps.spec import load
from tests.support import docs_pages as docs

_FILE = docs.DOCS / "examples" / "dose.yaml"


def run(*arguments: str) -> str:
    return CliRunner().invoke(app, list(arguments), catch_exceptions=False).output


def test_the_example_is_that_on_the_page_and_valid() -> None:
    (shown,) = docs.blocks("topics/figures.md", "yaml")
    assert yaml.safe_load(shown) == yaml.safe_load(_FILE.read_text(encoding="utf-8"))
    spec = load(_FILE)
    assert len({selector.partition("=")[0] for selector in spec.selectors}) == 1 < len(spec.selectors)


@pytest.mark.slow
def test_more_neurons_in_a_tiny_model(tiny_model: str, tiny_corpus: str, tmp_path: Path) -> None:
    fractions = (0.1, 0.2, 0.3)
    small = yaml.safe_load(_FILE.read_text(encoding="utf-8")) | {
        "models": [tiny_model],
        "corpus": tiny_corpus,
        "selectors": [f"lape:top_fraction={fraction}" for fraction in fractions],
        "languages": ["hi"],
        "limit": 2,
    }
    spec, out = tmp_path / "dose.yaml", tmp_path / "run"
    spec.write_text(yaml.safe_dump(small), encoding="utf-8")
    run("sweep", str(spec), "--out", str(out))
    run("figures", str(out), "--out", str(tmp_path / "drawn"), "--format", "svg")
    (drawn,) = (tmp_path / "drawn").glob("dose_response-*bits_per_byte*.csv")
    with drawn.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["selector"] for row in rows] == small["selectors"]
    counts = [int(row["neurons"]) for row in rows]
    assert counts == sorted(counts) and len(set(counts)) > 1 and all(row["control_mean_delta"] for row in rows)
    assert drawn.with_suffix(".svg").exists()
