"""Files that an older version wrote are read, and hold what they held."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import pytest
import torch

import lnbench
from lnbench import NeuronSet, Statistics
from lnbench.finetuning import training_record
from lnbench.leaderboard import rows
from lnbench.leaderboard.compared import build
from lnbench.leaderboard.merged_records import read_runs
from lnbench.model.architectures import POST, PRE
from lnbench.perplexity.matrix import PerplexityMatrix
from lnbench.sweeps.records import load
from lnbench.tables.reproduction import Reproduction

FILES = Path(__file__).with_name("v0_1_0")


@pytest.mark.parametrize(
    ("file", "fingerprint", "english", "hindi"),
    [
        ("neurons.json", "37d8760bc36c5564", {0: [2, 4], 1: [0, 3]}, {0: [2, 4], 1: [2, 3]}),
        ("neurons-lape.json", "d986a3608f89f2ac", {0: [4, 5, 7], 1: [2]}, {0: [1, 5], 1: [2, 6]}),
        ("adapter/neurons.json", "31b4bb392dbf735b", None, {0: [2, 4], 1: [2, 3]}),
    ],
)
def test_neurons(file, fingerprint, english, hindi, tmp_path):
    neurons = NeuronSet.load(FILES / file)
    assert json.loads((FILES / file).read_text())["format"] == "lnbench.neurons/1"
    assert (neurons.fingerprint, neurons.site, neurons.unit_size, neurons.widths) == (fingerprint, POST, 1, (8, 8))
    found = {language: {layer: units.tolist() for layer, units in neurons[language].items()} for language in neurons}
    assert found == ({"en": english} if english else {}) | {"hi": hindi}
    neurons.save(tmp_path / "again.json")
    written = json.loads((tmp_path / "again.json").read_text())
    assert (written["format"], written["site"], written["unit_size"]) == ("lnbench.neurons/2", POST, 1)
    assert NeuronSet.load(tmp_path / "again.json") == neurons
    assert NeuronSet.load(tmp_path / "again.json").fingerprint == fingerprint


KNOWN = {
    "en": (
        "8e582b4429cc1720",
        -0.024189656600356102,
        0.678,
        -0.2107374221086502,
        -0.30344200134277344,
        1.380557656288147,
    ),
    "hi": (
        "bf3e7826197fdc39",
        -0.026502378284931183,
        0.822,
        0.19646477699279785,
        -0.20752570033073425,
        1.107367753982544,
    ),
}


@pytest.mark.parametrize("language", KNOWN)
def test_statistics(language, tmp_path):
    fingerprint, mean, rate, low, before, high = KNOWN[language]

    def check(statistics):
        pre = statistics.at(PRE)
        assert (statistics.fingerprint, statistics.site, statistics.tokens) == (fingerprint, POST, 500)
        assert (statistics.mean[0, 0].item(), statistics.positive_rate[0, 2].item()) == (mean, rate)
        assert statistics.quantile(0.1)[1, 3].item() == low
        assert (pre.mean[1, 7].item(), pre.quantile(0.9)[0, 2].item()) == (before, high)

    check(Statistics.load(FILES / "statistics", language))
    folder = tmp_path / "statistics"
    shutil.copytree(FILES / "statistics", folder)
    Statistics.load(folder, "en").save(folder)
    assert json.loads((folder / "manifest.json").read_text())["format"] == "lnbench.statistics/2"
    # The folder now holds a file of either format.
    check(Statistics.load(folder, language))


def test_selecting_again_gives_the_same_neurons():
    statistics = {language: Statistics.load(FILES / "statistics", language) for language in ("en", "hi")}
    again, before = (
        lnbench.select("act_prob:fraction=0.25:against=none", statistics),
        NeuronSet.load(FILES / "neurons.json"),
    )
    assert all(agreement.jaccard == 1 for agreement in again.compare(before).values())
    assert lnbench.select("lape:top_fraction=0.4:bar=0.5", statistics) == NeuronSet.load(FILES / "neurons-lape.json")


def test_records_and_leaderboard():
    records = load(FILES / "run" / "records.jsonl")
    assert (len(records), len({record.cell for record in records})) == (12, 6)
    values = {
        (record.language, record.intervention, record.control_of is None): record.value
        for record in records
        if record.metric == "bits_per_byte"
    }
    assert values["en", "none", True] == 8.60769159185085
    assert values["en", "zero", True] == 8.527253844502505
    assert values["en", "zero", False] == 8.704785454530523
    assert values["hi", "zero", True] == 8.605197583393226
    stored = rows.load(FILES / "leaderboard.json")
    assert len(stored) == 12
    of = {(row.language, row.intervention, row.metric): row for row in stored if row.control_of is None}
    assert of["en", "zero", "bits_per_byte"].delta == -0.08043774734834575
    assert of["en", "zero", "bits_per_byte"].p_value == 0.03125
    assert of["hi", "zero", "bits_per_byte"].delta == 0.01581810301096957
    built = {(row.cell, row.metric): row for row in build(read_runs([FILES / "run"]))}
    for row in stored:
        again = built[row.cell, row.metric]
        assert (again.value, again.delta, again.p_value, again.control) == (
            row.value,
            row.delta,
            row.p_value,
            row.control,
        )


def test_perplexity_matrix():
    matrix = PerplexityMatrix.load(FILES / "ppl" / "perplexity.json")
    changes = {(cell.changed, cell.read): cell.delta_nats for cell in matrix.cells}
    assert changes["en", "en"] == -0.05312638918558756
    assert changes["hi", "hi"] == -0.0015661255518595377
    assert matrix.baseline["en"].nats_per_token == 5.983739512761434


def test_training_and_reproduction():
    record = training_record.read(FILES / "adapter")
    assert record is not None and record["finished"]
    reproduction = Reproduction.load(FILES / "reproduction.json")
    assert len(reproduction.tables) == 1
    assert len(reproduction.tables[0].rows) == 2


def test_a_tensor_without_a_site_is_the_manifests():
    from safetensors.torch import load_file

    tensors = load_file(FILES / "statistics" / "en.safetensors")
    assert {"mean", "pre.mean"} <= tensors.keys()
    assert torch.equal(tensors["mean"], Statistics.load(FILES / "statistics", "en").sites[POST].mean)
