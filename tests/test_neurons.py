"""NeuronSet: its content, its file, and the published format."""

from __future__ import annotations

import copy
import csv
import json
import os
import warnings
from functools import partial

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from lnbench.neurons import PUBLISHED_LANGUAGES, NeuronSet
from tests.support.messages import refused

SELECTOR = {"name": "lape", "parameters": {"top_fraction": 0.01}}


@pytest.fixture
def neurons():
    return NeuronSet(
        "tiny", 3, 8, {"hi": {2: [5, 1, 5], 0: torch.tensor([7])}, "en": {0: [7, 0]}, "ur": {}}, SELECTOR, "abc"
    )


def sets():
    rows = st.dictionaries(st.integers(0, 3), st.lists(st.integers(0, 9)), max_size=4)
    languages = st.dictionaries(st.text(min_size=1, max_size=3), rows, max_size=4)
    return st.builds(partial(NeuronSet, "m", 4, 10), languages)


def test_content_is_sorted_and_unique(neurons):
    assert neurons.languages == ["en", "hi", "ur"] == list(neurons)
    assert list(neurons["hi"]) == [0, 2]
    assert neurons["hi"][2].tolist() == [1, 5]
    assert neurons["hi"][2].dtype == torch.long
    assert neurons["ur"] == {} and "ur" in neurons and "fr" not in neurons
    assert neurons.count("hi") == 3
    assert neurons.per_layer("hi").tolist() == [1, 0, 2]
    assert neurons.mask("hi").nonzero().tolist() == [[0, 7], [2, 1], [2, 5]]
    assert "hi: 3" in repr(neurons)


def test_content_cannot_be_changed_from_outside(neurons):
    before = neurons.fingerprint
    neurons["hi"][2].zero_()
    neurons["hi"].clear()
    assert neurons.fingerprint == before


def test_unknown_language_lists_the_known(neurons):
    with refused("fr", "en, hi, ur"):
        neurons["fr"]


@pytest.mark.parametrize(
    ("content", "named"),
    [
        ({3: [0]}, ["layer 3", "0 to 2"]),
        ({-1: [0]}, ["layer -1", "0 to 2"]),
        ({True: [0]}, ["layer True", "0 to 2"]),
        ({1.0: [0]}, ["layer 1.0", "0 to 2"]),
        ({0: [8]}, ["layer 0", "index 8", "0 to 7"]),
        ({0: [-1, 2]}, ["layer 0", "index -1", "0 to 7"]),
        ({0: [0.5]}, ["layer 0", "indices"]),
        ({0: [True]}, ["layer 0", "indices"]),
        ({0: ["a"]}, ["layer 0", "indices"]),
        ({0: [2**70]}, ["layer 0", "indices"]),
        ({0: [[1]]}, ["layer 0", "indices"]),
    ],
)
def test_impossible_content_is_refused(content, named):
    with refused(*named):
        NeuronSet("m", 3, 8, {"hi": content})


@pytest.mark.parametrize("shape", [(0, 8), (3, 0), (10**15, 8)])
def test_impossible_shapes_are_refused(shape):
    with refused(*shape):
        NeuronSet("m", *shape, {})


@pytest.mark.parametrize("selector", [{"parameters": {}}, {"name": "x", "parameters": {"a": object()}}, {"name": 1}])
def test_impossible_selectors_are_refused(selector):
    with refused("selector"):
        NeuronSet("m", 3, 8, {}, selector)


@given(sets())
def test_masks_round_trip(neurons):
    masks = {language: neurons.mask(language) for language in neurons}
    if masks:
        assert NeuronSet.from_masks("m", masks) == neurons


def test_masks_of_different_shapes_are_refused():
    masks = {"a": torch.zeros(2, 3, dtype=torch.bool), "b": torch.zeros(2, 4, dtype=torch.bool)}
    for bad in (masks, {}, {"a": torch.zeros(2, 3)}, {"a": torch.zeros(3, dtype=torch.bool)}):
        with refused("masks"):
            NeuronSet.from_masks("m", bad)


@given(sets())
def test_overlap_and_union_match_the_masks(neurons):
    languages, counts, jaccard = neurons.overlap()
    assert languages == neurons.languages
    assert counts.shape == jaccard.shape == (len(languages), len(languages))
    for i, a in enumerate(languages):
        for j, b in enumerate(languages):
            both = int((neurons.mask(a) & neurons.mask(b)).sum())
            either = int((neurons.mask(a) | neurons.mask(b)).sum())
            assert counts[i, j] == both
            assert jaccard[i, j] == pytest.approx(both / either if either else 0)
    together = NeuronSet("m", 4, 10, {"x": neurons.union(languages)})
    everything = torch.zeros(4, 10, dtype=torch.bool)
    for language in languages:
        everything |= neurons.mask(language)
    assert torch.equal(together.mask("x"), everything)


def test_compare(neurons):
    other = NeuronSet("tiny", 3, 8, {"hi": {2: [1, 6]}, "ur": {}, "fr": {}})
    result = neurons.compare(other)
    assert set(result) == {"hi", "ur"}
    assert result["hi"] == (3, 2, 1, 0.25)
    assert result["ur"] == (0, 0, 0, 0)
    with refused("hi, ur", "fr"):
        neurons.compare(NeuronSet("tiny", 3, 8, {"fr": {}}))
    with refused("tiny", "big"):
        neurons.compare(NeuronSet("big", 4, 8, {"hi": {}}))


def test_check(neurons):
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        neurons.check("/some/folder/Tiny", 3, 8)
    with pytest.warns(UserWarning, match="tiny.*other"):
        neurons.check("other", 3, 8)
    with refused("tiny", "3", "4", "8"):
        neurons.check("tiny", 4, 8)


def test_equality_and_fingerprint(neurons):
    same = NeuronSet("tiny", 3, 8, {"ur": {}, "hi": {2: [1, 5], 0: [7]}, "en": {0: [0, 7]}}, SELECTOR, "abc")
    assert same == neurons and same.fingerprint == neurons.fingerprint and hash(same) == hash(neurons)
    for change in ({"model": "x"}, {"layers": 4}, {"statistics": None}, {"selector": None}, {"neurons": {}}):
        given = {"model": "tiny", "layers": 3, "width": 8, "neurons": same_content(neurons)}
        given |= {"selector": SELECTOR, "statistics": "abc"}
        assert NeuronSet(**given) == neurons
        other = NeuronSet(**(given | change))
        assert other != neurons and other.fingerprint != neurons.fingerprint
    assert neurons != "neurons"


def same_content(neurons):
    return {language: neurons[language] for language in neurons}


def test_file(neurons, tmp_path):
    path = tmp_path / "neurons.json"
    neurons.save(path)
    assert json.loads(path.read_text(encoding="utf-8")) == {
        "format": "lnbench.neurons/2",
        "model": "tiny",
        "layers": 3,
        "width": 8,
        "site": "post",
        "unit_size": 1,
        "selector": SELECTOR,
        "statistics": "abc",
        "neurons": {"en": {"0": [0, 7]}, "hi": {"0": [7], "2": [1, 5]}, "ur": {}},
    }
    assert '\n      "2": [1, 5]\n' in path.read_text(encoding="utf-8")
    assert NeuronSet.load(path) == neurons


def test_units_of_other_sites(tmp_path):
    heads = NeuronSet("m", 3, 8, {"hi": {0: [3], 2: [7]}}, site="attention", unit_size=16, widths=(4, 0, 8))
    heads.save(tmp_path / "heads.json")
    loaded = NeuronSet.load(tmp_path / "heads.json")
    assert loaded == heads
    assert (loaded.site, loaded.unit_size, loaded.widths) == ("attention", 16, (4, 0, 8))
    assert json.loads((tmp_path / "heads.json").read_text())["widths"] == [4, 0, 8]
    plain = NeuronSet("m", 3, 8, heads._neurons)
    assert len({plain.fingerprint, heads.fingerprint, NeuronSet("m", 3, 8, heads._neurons, site="x").fingerprint}) == 3
    assert NeuronSet("m", 3, 8, heads._neurons, site="pre").fingerprint == plain.fingerprint
    with refused("layer 0", "index 4", "0 to 3"):
        NeuronSet("m", 3, 8, {"hi": {0: [4]}}, widths=(4, 0, 8))


@given(sets())
def test_file_round_trip(tmp_path_factory, neurons):
    path = tmp_path_factory.mktemp("sets") / "neurons.json"
    neurons.save(path)
    assert NeuronSet.load(path) == neurons


def test_layers_are_sorted_by_number(tmp_path):
    neurons = NeuronSet("m", 12, 4, {"hi": {10: [1], 9: [1], 2: [1]}})
    neurons.save(tmp_path / "n.json")
    assert list(json.loads((tmp_path / "n.json").read_text())["neurons"]["hi"]) == ["2", "9", "10"]


def broken_documents(neurons):
    good = neurons._document()

    def changed(**changes):
        return json.dumps({**copy.deepcopy(good), **changes})

    return {
        "truncated": (json.dumps(good)[:-10], ["JSON"]),
        "empty": ("", ["JSON"]),
        "other JSON": ("[1, 2]", ["lnbench.neurons/2"]),
        "null": ("null", ["lnbench.neurons/2"]),
        "other format": (changed(format="lnbench.leaderboard/1"), ["lnbench.neurons/2"]),
        "other version": (changed(format="lnbench.neurons/3"), ["lnbench.neurons/2"]),
        "text for a number": (changed(layers="3"), ["layers"]),
        "truth for an index": (changed(neurons={"hi": {"0": [True]}}), ["neurons.hi.0.0"]),
        "fraction for an index": (changed(neurons={"hi": {"0": [1.0]}}), ["neurons.hi.0.0"]),
        "word for a layer": (changed(neurons={"hi": {"first": [1]}}), ["neurons.hi.first"]),
        "index out of range": (changed(neurons={"hi": {"0": [8]}}), ["layer 0", "index 8", "0 to 7"]),
        "layer out of range": (changed(neurons={"hi": {"3": [0]}}), ["layer 3", "0 to 2"]),
        "a list of neurons": (changed(neurons=[]), ["neurons"]),
        "unknown key": (changed(extra=1), ["extra"]),
        "widths that do not fit": (changed(widths=[8, 8]), ["[8, 8]", "3"]),
        "huge": (changed(layers=10**18), [10**18, 8]),
        "huge index": (changed(neurons={"hi": {"0": [2**80]}}), ["layer 0", "indices"]),
    }


def test_broken_files_are_explained_in_a_sentence(neurons, tmp_path):
    for name, (text, named) in broken_documents(neurons).items():
        path = tmp_path / f"{name}.json"
        path.write_text(text)
        with refused(path, *named) as caught:
            NeuronSet.load(path)
        assert "\n" not in str(caught.value)
    with refused(tmp_path / "absent.json"):
        NeuronSet.load(tmp_path / "absent.json")


def test_published_format_round_trips(tmp_path):
    path = tmp_path / "LLaMA-2-7B.neuron.pth"
    published = [[torch.tensor([k, 7]), torch.tensor([]).long()] for k in range(len(PUBLISHED_LANGUAGES))]
    torch.save(published, path)
    neurons = NeuronSet.import_pth(path, PUBLISHED_LANGUAGES, "LLaMA-2-7B", 8)
    assert neurons.languages == sorted(PUBLISHED_LANGUAGES)
    assert (neurons.model, neurons.layers, neurons.width) == ("LLaMA-2-7B", 2, 8)
    assert neurons["zh"][0].tolist() == [1, 7] and neurons.count("en") == 2

    again = tmp_path / "again.pth"
    neurons.export_pth(again, PUBLISHED_LANGUAGES)
    loaded = torch.load(again, weights_only=True)
    assert all(torch.equal(a, b) for x, y in zip(loaded, published, strict=True) for a, b in zip(x, y, strict=True))
    assert NeuronSet.import_pth(again, PUBLISHED_LANGUAGES, "LLaMA-2-7B", 8) == neurons


class _Hostile:
    def __reduce__(self):
        return os.mkdir, (os.environ["LNBENCH_TEST_TARGET"],)


def test_foreign_pth_files_are_refused(tmp_path, monkeypatch):
    target = tmp_path / "was-run"
    monkeypatch.setenv("LNBENCH_TEST_TARGET", str(target))
    good = torch.tensor([1])
    cases = {
        "code": ([[_Hostile()]], []),
        "state": ({"weight": good}, []),
        "empty": ([], []),
        "flat": ([good], []),
        "ragged": ([[good], [good, good]], []),
        "languages": ([[good]], ["1", "--languages", "2"]),
        "text": ([["a"], [good]], ["8"]),
        "matrix": ([[good[None]], [good]], ["8"]),
        "huge": ([[good.expand(10**12)], [good]], ["8"]),
        "float": ([[good.double()], [good]], ["'en'", "layer 0", "indices"]),
        "range": ([[good + 7], [good]], ["layer 0", "index 8", "0 to 7"]),
    }
    for name, (content, named) in cases.items():
        path = tmp_path / f"{name}.pth"
        torch.save(content, path)
        with refused(path, *named):
            NeuronSet.import_pth(path, ["en", "hi"], "m", 8)
    assert not target.exists()
    (tmp_path / "cut.pth").write_bytes((tmp_path / "range.pth").read_bytes()[:-40])
    with refused(tmp_path / "cut.pth", "damaged"):
        NeuronSet.import_pth(tmp_path / "cut.pth", ["en", "hi"], "m", 8)
    with refused(tmp_path / "absent.pth"):
        NeuronSet.import_pth(tmp_path / "absent.pth", ["en"], "m", 8)


def test_export_by_suffix(neurons, tmp_path):
    neurons.export(tmp_path / "n.json")
    assert NeuronSet.load(tmp_path / "n.json") == neurons
    neurons.export(tmp_path / "n.csv")
    with (tmp_path / "n.csv").open(newline="") as file:
        rows = list(csv.reader(file))
    assert [" ".join(row) for row in rows] == [
        "language layer index",
        "en 0 0",
        "en 0 7",
        "hi 0 7",
        "hi 2 1",
        "hi 2 5",
    ]
    neurons.export(tmp_path / "n.pth")
    imported = NeuronSet.import_pth(tmp_path / "n.pth", neurons.languages, "tiny", 8)
    assert same_lists(imported) == same_lists(neurons)
    with refused(".txt", ".json, .csv, .pth"):
        neurons.export(tmp_path / "n.txt")


def same_lists(neurons):
    return {
        language: {layer: row.tolist() for layer, row in rows.items()}
        for language, rows in same_content(neurons).items()
    }
