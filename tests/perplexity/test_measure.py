"""The matrix of a loaded model, against plain forward passes, language by language."""

from __future__ import annotations

import math
import warnings
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

import lnbench
from lnbench.controls import draw
from lnbench.neurons import NeuronSet
from lnbench.perplexity import measure as module
from lnbench.perplexity.matrix import PerplexityMatrix
from lnbench.perplexity.measure import measure
from lnbench.perplexity.slices import Slice
from lnbench.statistics import Statistics
from tests.support.messages import lacks, refused
from tests.support.samples import normal, statistics_of


@pytest.fixture(scope="module")
def statistics() -> dict[str, Statistics]:
    return {
        language: statistics_of(normal(200, 3, 24, seed=seed), language=language, model="tiny-llama")
        for seed, language in enumerate(("en", "hi", "ur"))
    }


@pytest.fixture(scope="module")
def matrix(model: Any, tokenizer: Any, neurons: NeuronSet, slices: dict[str, Slice]) -> PerplexityMatrix:
    return measure(model, tokenizer, neurons, {}, slices, controls=2)


def mean_nats(model: Any, text: Slice) -> float:
    """Over all logits at once."""
    total = 0.0
    for block, counted in zip(text.blocks, text.counted, strict=True):
        with torch.no_grad():
            scores = model(block.unsqueeze(0)).logits[0, :-1].log_softmax(-1)
        total -= float(scores.gather(1, block[1:, None]).squeeze(1)[counted].double().sum())
    return total / float(text.tokens.sum())


@pytest.mark.parametrize(
    ("intervention", "site"), [("zero", "post"), ("p10", "post"), ("mean", "pre"), ("p10", "paper")]
)
def test_every_cell_against_plain_forward_passes(
    intervention: str,
    site: str,
    model: Any,
    tokenizer: Any,
    neurons: NeuronSet,
    slices: dict[str, Slice],
    statistics: dict[str, Statistics],
) -> None:
    read_site, write_site = ("pre", "post") if site == "paper" else (site, site)
    known = {language: one.at(read_site) for language, one in statistics.items()}
    found = measure(
        model, tokenizer, neurons, known, slices, intervention=intervention, site=site, controls=0, batch_size=2
    )
    for changed in ("en", "hi"):
        for read, text in slices.items():
            before = mean_nats(model, text)
            with lnbench.override(
                model, neurons[changed], intervention, statistics=known[changed], site=write_site
            ) as applied:
                after = mean_nats(model, text)
            cell = found.cell(changed, read)
            assert cell.delta_nats == pytest.approx(after - before, abs=1e-5)
            assert cell.delta_perplexity == pytest.approx(math.exp(after) - math.exp(before), rel=1e-3, abs=1e-2)
            bytes_per_token = text.sizes.sum() / text.tokens.sum()
            assert cell.delta_bits_per_byte == pytest.approx((after - before) / math.log(2) / bytes_per_token, abs=1e-5)
            assert cell.outside_range == pytest.approx(applied.outside_range, nan_ok=True)
            assert found.baseline[read].nats_per_token == pytest.approx(before, rel=1e-5)


def test_controls_are_the_random_selectors(
    model: Any,
    tokenizer: Any,
    neurons: NeuronSet,
    slices: dict[str, Slice],
    matrix: PerplexityMatrix,
    statistics: dict[str, Statistics],
    tmp_path: Path,
) -> None:
    neurons.save(tmp_path / "neurons.json")
    unchanged = mean_nats(model, slices["ur"])
    changes = []
    for seed in range(2):
        drawn = lnbench.select(f"random:like={tmp_path / 'neurons.json'}:seed={seed}", statistics)
        with lnbench.override(model, drawn["hi"], "zero"):
            changes.append(mean_nats(model, slices["ur"]) - unchanged)
    cell = matrix.cell("hi", "ur")
    assert (cell.control_min, cell.control_max) == (
        pytest.approx(min(changes), abs=1e-6),
        pytest.approx(max(changes), abs=1e-6),
    )
    assert cell.control_delta_nats == pytest.approx(sum(changes) / 2, abs=1e-6)
    assert cell.n_controls == 2


def test_what_is_told_of_it(matrix: PerplexityMatrix, neurons: NeuronSet, slices: dict[str, Slice]) -> None:
    assert matrix.changed == matrix.read == ["en", "hi", "ur"]
    assert [(cell.changed, cell.read) for cell in matrix.row("hi")] == [("hi", "en"), ("hi", "hi"), ("hi", "ur")]
    assert matrix.neurons == {"en": 4, "hi": 5, "ur": 0}
    assert matrix.shared["hi"] == {"en": 2, "ur": 0}
    assert matrix.neuron_set == neurons.fingerprint
    assert matrix.slices == {language: text.account() for language, text in slices.items()}
    assert matrix.length == 32
    assert matrix.dtype == "float32"
    assert matrix.command is None


def test_a_language_without_neurons_is_not_run(
    model: Any, tokenizer: Any, neurons: NeuronSet, slices: dict[str, Slice], matrix: PerplexityMatrix
) -> None:
    assert {cell.delta_nats for cell in matrix.row("ur")} == {0.0}
    assert any(not lacks(note, "ur", "neurons", "0") for note in matrix.notes)
    runs: list[int] = []
    with pytest.MonkeyPatch.context() as patch:
        real = module.block_nats
        patch.setattr(module, "block_nats", lambda *args, **options: runs.append(1) or real(*args, **options))
        measure(model, tokenizer, neurons, {}, slices, controls=0)
    assert len(runs) == (1 + 2) * 3


def test_the_unchanged_model_is_read_once_and_passes_are_kept(
    model: Any,
    tokenizer: Any,
    neurons: NeuronSet,
    slices: dict[str, Slice],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """A run that ends in the middle, at any pass, goes on there, and comes to the same."""
    options: dict[str, Any] = {"controls": 1, "batch_size": 4}
    whole = measure(model, tokenizer, neurons, {}, slices, **options)
    runs: list[str] = []
    real = module.block_nats

    def until(last: int) -> Any:
        def block_nats(sites: Any, text: Slice, *args: Any, **given: Any) -> Any:
            if len(runs) == last:
                raise KeyboardInterrupt
            runs.append(text.language)
            return real(sites, text, *args, **given)

        return block_nats

    path = tmp_path / "passes.safetensors"
    for last in (2, 9):
        monkeypatch.setattr(module, "block_nats", until(last))
        with pytest.raises(KeyboardInterrupt):
            measure(model, tokenizer, neurons, {}, slices, path=path, **options)
    monkeypatch.setattr(module, "block_nats", until(1000))
    resumed = measure(model, tokenizer, neurons, {}, slices, path=path, **options)
    assert len(runs) == (1 + 2 * 2) * 3
    assert resumed.model_copy(update={"finished_at": whole.finished_at}) == whole
    again = measure(model, tokenizer, neurons, {}, slices, path=path, **options)
    assert again.cells == whole.cells
    assert len(runs) == (1 + 2 * 2) * 3


def test_passes_of_another_request_are_not_taken(
    model: Any, tokenizer: Any, neurons: NeuronSet, slices: dict[str, Slice], tmp_path: Path
) -> None:
    path = tmp_path / "passes.safetensors"
    one = {"en": slices["en"]}
    measure(model, tokenizer, neurons, {}, one, controls=0, changed=["en"], path=path)
    with refused(tmp_path, "intervention", "--out"):
        measure(model, tokenizer, neurons, {}, one, controls=0, intervention="constant:value=1", path=path)
    path.write_bytes(path.read_bytes()[:100])
    with refused(path, "truncated"):
        measure(model, tokenizer, neurons, {}, one, controls=0, changed=["en"], path=path)


def test_controls_that_cannot_do_without_its_neurons_are_told(
    model: Any, tokenizer: Any, neurons: NeuronSet, slices: dict[str, Slice]
) -> None:
    crowded = NeuronSet(neurons.model, neurons.layers, neurons.width, {"en": {0: list(range(20))}})
    found = measure(model, tokenizer, crowded, {}, {"en": slices["en"]}, controls=1)
    assert any(not lacks(note, "16", "20 neurons") for note in found.notes)


def test_errors(model: Any, tokenizer: Any, neurons: NeuronSet, slices: dict[str, Slice]) -> None:
    with refused("zh", "en, hi, ur"):
        measure(model, tokenizer, neurons, {}, slices, changed=["zh"])
    with refused():
        measure(model, tokenizer, neurons, {}, {})
    with refused("batch_size=0"):
        measure(model, tokenizer, neurons, {}, slices, batch_size=0)
    with refused("'p10'", "statistics="):
        measure(model, tokenizer, neurons, {}, slices, intervention="p10")
    with refused("'none'", "'en'"):
        measure(model, tokenizer, neurons, {}, slices, intervention="none")
    with refused("other", "2", "3"):
        measure(model, tokenizer, NeuronSet("other", 2, 24, {"en": {0: [1]}}), {}, slices)


def test_divergences_are_those_of_all_logits(
    model: Any, tokenizer: Any, neurons: NeuronSet, slices: dict[str, Slice], tmp_path: Path
) -> None:
    some = {language: slices[language] for language in ("en", "ur")}
    options: dict[str, Any] = {
        "controls": 0,
        "changed": ["hi"],
        "kl_tokens": 70,
        "path": tmp_path / "blocks.safetensors",
    }
    found = measure(model, tokenizer, neurons, {}, some, batch_size=2, **options)
    again = measure(model, tokenizer, neurons, {}, some, batch_size=3, **options)
    for read, text in some.items():
        first = int(np.flatnonzero(text.tokens.cumsum() >= 70)[0]) + 1
        total = 0.0
        for block, counted in zip(text.blocks[:first], text.counted[:first], strict=True):
            with torch.no_grad():
                before = model(block.unsqueeze(0)).logits[0, :-1].double().log_softmax(-1)
                with lnbench.override(model, neurons["hi"], "zero"):
                    after = model(block.unsqueeze(0)).logits[0, :-1].double().log_softmax(-1)
            total += float((before.exp() * (before - after)).sum(-1)[counted].sum())
        cell = found.cell("hi", read)
        assert cell.kl == pytest.approx(total / text.tokens[:first].sum(), rel=1e-4)
        assert cell.kl_low <= cell.kl <= cell.kl_high  # type: ignore[operator]
        assert again.cell("hi", read).kl == cell.kl
    assert measure(model, tokenizer, neurons, {}, some, controls=0).cell("hi", "en").kl is None


@pytest.mark.parametrize("control", ["random_active:bar=0.5", "other_language"])
def test_a_control_is_a_choice(
    control: str,
    model: Any,
    tokenizer: Any,
    neurons: NeuronSet,
    slices: dict[str, Slice],
    statistics: dict[str, Statistics],
) -> None:
    text = slices["hi"]
    few = {"changed": ["hi"], "controls": 3}
    found = measure(
        model, tokenizer, neurons, {"hi": statistics["hi"]}, {"hi": text}, control=control, compared=statistics, **few
    )
    unchanged, changes = mean_nats(model, text), []
    for seed in range(3):
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            drawn = draw(f"{control}:seed={seed}", neurons, statistics)
        with lnbench.override(model, drawn["hi"], "zero"):
            changes.append(mean_nats(model, text) - unchanged)
    cell = found.cell("hi", "hi")
    assert found.control == control
    assert (cell.control_min, cell.control_max) == (
        pytest.approx(min(changes), abs=1e-6),
        pytest.approx(max(changes), abs=1e-6),
    )
    assert cell.rho == pytest.approx(cell.delta_nats / np.mean(changes), rel=1e-3)


def test_a_control_must_be_one(model: Any, tokenizer: Any, neurons: NeuronSet, slices: dict[str, Slice]) -> None:
    with refused("'lape'", "random", "random_active", "other_language"):
        measure(model, tokenizer, neurons, {}, slices, control="lape")
    with refused("random_active", "Statistics"):
        measure(model, tokenizer, neurons, {}, slices, control="random_active")


def test_an_intervention_sees_all_languages_and_the_source(
    model: Any, tokenizer: Any, neurons: NeuronSet, slices: dict[str, Slice], statistics: dict[str, Statistics]
) -> None:
    text = slices["ur"]
    found = measure(
        model,
        tokenizer,
        neurons,
        statistics,
        {"ur": text},
        intervention="swap",
        source="en",
        changed=["hi"],
        controls=0,
    )
    assert (found.changed, found.source) == (["hi"], "en")
    before = mean_nats(model, text)
    with lnbench.override(model, neurons, "swap", source="en", target="hi", statistics=statistics):
        after = mean_nats(model, text)
    assert found.cell("hi", "ur").delta_nats == pytest.approx(after - before, abs=1e-5)
    with refused("'zh'", "en, hi, ur"):
        measure(model, tokenizer, neurons, statistics, {"ur": text}, intervention="language_mean:of=zh", controls=0)
