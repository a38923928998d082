"""Published neuron files: what is written in each layout is read back, whatever the set; what does not fit is named."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lnbench.neurons import NeuronSet
from tests.support.messages import refused

WIDTH = 6
Sets = dict[str, list[list[int]]]


def long(indices: list[int]) -> torch.Tensor:
    return torch.tensor(indices, dtype=torch.long)


def mask(layers: list[list[int]]) -> torch.Tensor:
    whole = torch.zeros(len(layers), WIDTH, dtype=torch.bool)
    for row, indices in zip(whole, layers, strict=True):
        row[indices] = True
    return whole


def pairs(layers: list[list[int]]) -> list[list[int]]:
    return [[layer, index] for layer, indices in enumerate(layers) for index in indices]


def by_layer(sets: Sets, place: Callable[[int], Any]) -> dict[Any, Any]:
    return {place(layer): {code: layers[layer] for code, layers in sets.items()} for layer in range(len(sets["en"]))}


LAYOUTS: dict[str, Callable[[Sets], Any]] = {
    "LAPE: lists of index tensors": lambda sets: [list(map(long, layers)) for layers in sets.values()],
    "lists by language": lambda sets: list(sets.values()),
    "lists under each language": dict,
    "lists under a key of the file": lambda sets: {"model": "m", "language_neurons": sets},
    "index tensors under each language": lambda sets: {code: list(map(long, own)) for code, own in sets.items()},
    "dictionaries by language and layer": lambda sets: {
        code: {f"model.layers.{layer}.mlp.gate_proj"[:-14]: own for layer, own in enumerate(layers)}
        for code, layers in sets.items()
    },
    "only layers with a neuron": lambda sets: {
        code: {layer: own for layer, own in enumerate(layers) if own} for code, layers in sets.items()
    },
    "dictionaries by layer and language": lambda sets: by_layer(sets, "layer_{}".format),
    "a list of layers by language": lambda sets: list(by_layer(sets, int).values()),
    "a dictionary of layers, a list of languages": lambda sets: {
        f"layer_{layer}": [layers[layer] for layers in sets.values()] for layer in range(len(sets["en"]))
    },
    "one mask": lambda sets: torch.stack([mask(layers) for layers in sets.values()]),
    "a mask of numbers": lambda sets: torch.stack([mask(layers) for layers in sets.values()]).float(),
    "a mask under each language": lambda sets: {code: mask(layers) for code, layers in sets.items()},
    "masks in lists": lambda sets: [mask(layers).long().tolist() for layers in sets.values()],
    "pairs of layer and index": lambda sets: {code: torch.tensor(pairs(own)) for code, own in sets.items()},
}


@st.composite
def sets(draw: st.DrawFn) -> Sets:
    """Two or three languages' neurons in a model of up to five layers; none is empty in all layers."""
    layers = draw(st.integers(2, 5))
    units = st.lists(st.integers(0, WIDTH - 1), max_size=4, unique=True).map(sorted)
    own = st.lists(units, min_size=layers, max_size=layers).filter(any)
    return draw(st.fixed_dictionaries({"en": own, "zh": own}, optional={"hi": own}))


def write(folder: Path, content: Any) -> Path:
    """Write a layout as whoever publishes it would: JSON where it holds no tensor."""
    try:
        text = json.dumps(content)
    except TypeError:
        torch.save(content, folder / "published.pth")
        return folder / "published.pth"
    (folder / "published.json").write_text(text)
    return folder / "published.json"


@pytest.mark.parametrize("layout", LAYOUTS)
@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(given_sets=sets())
def test_a_set_is_the_same_after_every_layout(layout: str, given_sets: Sets, tmp_path: Path) -> None:
    layers = len(given_sets["en"])
    path = write(tmp_path, LAYOUTS[layout](given_sets))
    read = NeuronSet.import_pth(path, list(given_sets), "m", WIDTH, layers=layers)
    assert read == NeuronSet("m", layers, WIDTH, {code: dict(enumerate(own)) for code, own in given_sets.items()})


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(given_sets=sets())
def test_what_lnbench_exports_is_read_back(given_sets: Sets, tmp_path: Path) -> None:
    neurons = NeuronSet("m", len(given_sets["en"]), WIDTH, {c: dict(enumerate(own)) for c, own in given_sets.items()})
    neurons.export_pth(tmp_path / "own.pth")
    assert NeuronSet.import_pth(tmp_path / "own.pth", neurons.languages, "m", WIDTH).compare(neurons) == {
        code: (neurons.count(code),) * 3 + (1.0,) for code in given_sets
    }


@settings(max_examples=15, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    means=st.lists(
        st.lists(st.lists(st.integers(-3, 3), min_size=5, max_size=5), min_size=2, max_size=2), min_size=3, max_size=3
    ),
    count=st.integers(1, 5),
    wrapped=st.booleans(),
)
def test_dimensions_follow_from_published_means(
    means: list[list[list[int]]], count: int, wrapped: bool, tmp_path: Path
) -> None:
    named = dict(zip(("en", "hi", "zh"), means, strict=True))
    data: dict[str, Any] = {
        code: {f"layer_{layer}": {"mean": mean, "std": [1.0] * 5} for layer, mean in enumerate(layers)}
        for code, layers in named.items()
    }
    path = write(tmp_path, {"summary": data} if wrapped else data)
    read = NeuronSet.import_pth(path, None, "m", 5, count=count)
    assert (read.site, read.layers, read.width, read.count("en")) == ("residual", 2, 5, 0)
    for code in ("hi", "zh"):
        far = sorted(range(5), key=lambda dim: (-abs(named[code][1][dim] - named["en"][1][dim]), dim))
        assert read[code][1].tolist() == sorted(far[:count])
    from_hi = NeuronSet.import_pth(path, ["zh"], "m", 5, source="hi", count=count)
    far = sorted(range(5), key=lambda dim: (-abs(named["zh"][1][dim] - named["hi"][1][dim]), dim))
    assert from_hi.languages == ["zh"] and from_hi["zh"][1].tolist() == sorted(far[:count])


def test_a_file_of_one_language(tmp_path: Path) -> None:
    expected = NeuronSet("m", 2, WIDTH, {"hi": {0: [1, 4], 1: [2]}})
    layers = [[1, 4], [2]]
    for content in (list(map(long, layers)), {"layer_0": [1, 4], "layer_1": [2]}, mask(layers), layers):
        assert NeuronSet.import_pth(write(tmp_path, content), ["hi"], "m", WIDTH) == expected
    with refused("1 languages", "names 2"):
        NeuronSet.import_pth(write(tmp_path, layers), ["hi", "zh"], "m", WIDTH)


def test_pairs_are_not_mistaken_for_layers(tmp_path: Path) -> None:
    path = write(tmp_path, {"hi": [[0, 5], [3, 1], [3, 2]]})
    with refused("pairs", "--layers"):
        NeuronSet.import_pth(path, None, "m", WIDTH)
    read = NeuronSet.import_pth(path, None, "m", WIDTH, layers=8)
    assert {layer: own.tolist() for layer, own in read["hi"].items()} == {0: [5], 3: [1, 2]}
    assert read.layers == 8
    assert NeuronSet.import_pth(path, None, "m", WIDTH, layers=3)["hi"][1].tolist() == [1, 3]


def test_dimensions_of_the_last_layer_in_one_list(tmp_path: Path) -> None:
    path = write(tmp_path, {"hi": [1, 5], "zh": [0]})
    read = NeuronSet.import_pth(path, None, "m", WIDTH, layers=4, site="residual")
    assert read == NeuronSet("m", 4, WIDTH, {"hi": {3: [1, 5]}, "zh": {3: [0]}}, site="residual")
    for options in ({}, {"layers": 4}, {"site": "residual"}):
        with refused("--site residual", "--layers"):
            NeuronSet.import_pth(path, None, "m", WIDTH, **options)  # type: ignore[arg-type]


FAULTS: dict[str, tuple[Any, dict[str, Any], list[Any]]] = {
    "more layers than the model": ({"hi": [[1], [2], [3]]}, {"layers": 2}, ["3 layers", 2]),
    "fewer layers in a list": ({"hi": [[1], [2]]}, {"layers": 3}, ["2 layers", 3]),
    "a pair beyond the model": ({"hi": torch.tensor([[7, 0]])}, {"layers": 2}, ["8 layers", 2]),
    "a negative layer": ({"hi": torch.tensor([[-1, 0]])}, {"layers": 2}, ["hi", "0 to 1"]),
    "an index beyond the width": ({"hi": [[1], [WIDTH]]}, {}, ["layer 1", f"index {WIDTH}"]),
    "weights": ({"model.layers.0.w": torch.zeros(3, 2), "lm_head": torch.zeros(2)}, {}, ["dictionary of 2", "lm_head"]),
    "a table of rows": ([{"language": "hi", "layer": 0, "index": 3}], {}, ["a list of 1", "language"]),
    "means of another width": ({"summary": {"en": {"layer_0": {"mean": [0.0]}}}}, {}, [WIDTH, "a list of 1"]),
    "means without the source": ({"hi": {"layer_0": {"mean": [0.0] * WIDTH}}}, {"count": 1}, ["en", "hi"]),
    "means that are no numbers": ({"en": {"layer_0": {"mean": [float("nan")] * WIDTH}}}, {"count": 1}, ["finite"]),
    "more dimensions than there are": ({"en": {"layer_0": {"mean": [0.0] * WIDTH}}}, {}, [400, WIDTH]),
    "means that end at different layers": (
        {"en": {"layer_0": {"mean": [0.0] * WIDTH}}, "hi": {"layer_1": {"mean": [0.0] * WIDTH}}},
        {"count": 1},
        [0, 1, "another"],
    ),
    "nested without end": (json.loads("[" * 60 + "]" * 60), {}, ["a list of 1"]),
}


@pytest.mark.parametrize("case", FAULTS)
def test_what_does_not_fit_is_named_in_a_line(case: str, tmp_path: Path) -> None:
    content, options, named = FAULTS[case]
    path = write(tmp_path, content)
    with refused(path, *named) as caught:
        NeuronSet.import_pth(path, None, "m", WIDTH, **options)
    assert "\n" not in str(caught.value)
