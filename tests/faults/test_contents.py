"""Inputs that are known by what they hold, files that are equal to the byte, and neurons that others published."""

from __future__ import annotations

import json

import numpy as np
import pytest
import torch

from lnbench import content_hash
from lnbench.errors import LnbenchError
from lnbench.formats import read_tensors, write_tensors
from lnbench.neurons import NeuronSet
from lnbench.sweeps.cells import plan
from lnbench.sweeps.model_variants import loadings
from lnbench.sweeps.spec import Sweep
from tests.support.messages import refused

# A local input of a sweep, as (file in the folder, settings that name it); its change must change the cells' keys.
INPUTS = {
    "corpus file": ("corpus/hi.txt", {"corpus": "{root}/corpus/*.txt"}),
    "corpus shard": ("shards/hi/b.txt", {"corpus": "{root}/shards/*"}),
    "models folder": ("model/model.safetensors", {}),
    "tokenizer folder": ("tokenizer/tokenizer.json", {"options": {"tokenizer": "{root}/tokenizer"}}),
    "adapter": ("adapter/adapter_model.safetensors", {"adapters": {"own": "{root}/adapter"}}),
    "adapter in the older format": ("adapter/adapter_model.bin", {"adapters": {"own": "{root}/adapter"}}),
    "head of an adapter": ("adapter/head.safetensors", {"adapters": {"own": "{root}/adapter"}}),
    "NeuronSet": ("neurons.json", {"neurons": ["{root}/neurons.json"]}),
    "file of a parameter": ("other.json", {"selectors": ["random:like={root}/other.json"]}),
    "data of a task": ("rows.jsonl", {"include_path": "{root}/tasks"}),
    "YAML of a task": ("tasks/mine.yaml", {"include_path": "{root}/tasks"}),
    "code of a task": ("tasks/metric.py", {"include_path": "{root}/tasks"}),
    "data of our task": (
        "data/xnli/hi.test.jsonl",
        {"metadata": {"lnbench_data": "{root}/data"}, "tasks": ["lnbench_xnli_hi"]},
    ),
}
NEURONS = {"model": "m", "layers": 1, "width": 4}


def filled(value, root):
    if isinstance(value, dict):
        return {key: filled(part, root) for key, part in value.items()}
    if isinstance(value, list):
        return [filled(part, root) for part in value]
    return value.replace("{root}", str(root)) if isinstance(value, str) else value


@pytest.fixture
def root(tmp_path):
    for folder in ("corpus", "shards/hi", "model", "tokenizer", "adapter", "tasks", "data/xnli"):
        (tmp_path / folder).mkdir(parents=True)
    for name in ("corpus/hi.txt", "shards/hi/a.txt", "shards/hi/b.txt"):
        (tmp_path / name).write_text("some text")
    for name in ("model/config.json", "model/model.safetensors", "tokenizer/tokenizer.json", "tasks/metric.py"):
        (tmp_path / name).write_text("{}")
    for name in ("adapter_config.json", "adapter_model.safetensors", "adapter_model.bin", "head.safetensors"):
        (tmp_path / "adapter" / name).write_text("{}")
    for name in ("neurons.json", "other.json"):
        NeuronSet(neurons={"hi": {0: [1]}}, **NEURONS).save(tmp_path / name)
    (tmp_path / "rows.jsonl").write_text('{"text": "a"}\n')
    (tmp_path / "data" / "xnli" / "hi.test.jsonl").write_text("{}\n")
    (tmp_path / "tasks" / "mine.yaml").write_text(
        f"task: mine\ndataset_path: json\ndataset_kwargs:\n  data_files:\n    test: {tmp_path}/rows.jsonl\n"
        "output_type: loglikelihood\ntest_split: test\ndoc_to_text: ''\ndoc_to_target: text\n"
        "process_results: !function metric.score\n"
    )
    return tmp_path


def keys(root, given):
    settings = filled(given, root)
    spec = Sweep(
        models=[{"pretrained": str(root / "model"), **settings.pop("options", {})}],
        languages=["hi"],
        **{
            "tasks": ["mine"],
            "corpus": f"{root}/corpus/*.txt",
            "interventions": ["none", "zero"],
            "selectors": ["lape"],
            "controls": 0,
            **settings,
        },
    )
    return {cell.key for cell in plan(spec, list(loadings(spec, root / "out")))}


@pytest.mark.parametrize("case", INPUTS)
def test_a_local_input_counts_by_what_it_holds(case, root):
    name, given = INPUTS[case]
    before = keys(root, given)
    assert keys(root, given) == before
    if name.endswith(".json") and "tokenizer" not in name:
        NeuronSet(neurons={"hi": {0: [2]}}, **NEURONS).save(root / name)
    else:
        with (root / name).open("a") as file:
            file.write("\n# more\n")
    content_hash.forget()
    assert keys(root, given) != before


def test_the_place_of_an_input_does_not_count(root):
    assert content_hash.of_path(str(root / "model")) == content_hash.of_path("model", str(root))
    assert content_hash.of_path("no such thing") is content_hash.of_path(7) is content_hash.of_path("x\0y") is None


METADATA = [
    {"format": "lnbench.head/1", "pooling": "paper", "length": "128", "pad": "0", "task": "lnbench_xnli_en"},
    {"b": "हिन्दी", "a": "\u2028", "c": ""},
    {str(number): "x" for number in range(40)},
]


@pytest.mark.parametrize("metadata", METADATA)
def test_equal_tensors_and_metadata_make_equal_bytes(metadata, tmp_path):
    tensors = {"weight": torch.arange(12.0).reshape(3, 4), "bias": torch.zeros(3)}
    contents = set()
    for number in range(12):
        shuffled = dict(np.random.default_rng(number).permutation(list(metadata.items())).tolist())
        write_tensors(tmp_path / "head.safetensors", tensors, shuffled)
        contents.add((tmp_path / "head.safetensors").read_bytes())
    assert len(contents) == 1
    read, stored = read_tensors(tmp_path / "head.safetensors", "head", "")
    assert stored == metadata and all(torch.equal(read[name], value) for name, value in tensors.items())


# Layouts of published neurons of two languages, two layers of four neurons: en {0: 1 3, 1: 2}, hi {1: 0}.
INDICES = {"en": [[1, 3], [2]], "hi": [[], [0]]}
MASKS = torch.tensor([[[0, 1, 0, 1], [0, 0, 1, 0]], [[0, 0, 0, 0], [1, 0, 0, 0]]])


def tensors(layers):
    return [torch.tensor(layer, dtype=torch.long) for layer in layers]


LAYOUTS = {
    "lists of index tensors": [tensors(layers) for layers in INDICES.values()],
    "lists of numbers": list(INDICES.values()),
    "tuples": tuple(tuple(layers) for layers in INDICES.values()),
    "dictionary of lists": INDICES,
    "dictionary of dictionaries": {name: dict(enumerate(tensors(layers))) for name, layers in INDICES.items()},
    "layers by module name": {
        name: {f"model.layers.{number}": layer for number, layer in enumerate(layers)}
        for name, layers in INDICES.items()
    },
    "by layer, then by language": {
        number: {name: layers[number] for name, layers in INDICES.items()} for number in range(2)
    },
    "one mask of all": MASKS.bool(),
    "one mask of numbers": MASKS.float(),
    "a mask per language": {"en": MASKS[0].bool(), "hi": MASKS[1].bool()},
    "a list of masks": [MASKS[0].bool(), MASKS[1].bool()],
    "a mask per layer": [list(MASKS[0].bool()), list(MASKS[1].bool())],
    "beside other entries": {"neurons": INDICES, "model": "m", "threshold": 0.95},
}


@pytest.mark.parametrize("suffix", [".pth", ".json"])
@pytest.mark.parametrize("case", LAYOUTS)
def test_published_neurons_are_read_in_every_layout(case, suffix, tmp_path):
    path = tmp_path / f"published{suffix}"
    if suffix == ".json":
        try:
            path.write_text(json.dumps(LAYOUTS[case]))
        except TypeError:
            pytest.skip("JSON has no tensors")
    else:
        torch.save(LAYOUTS[case], path)
    neurons = NeuronSet.import_pth(path, ["en", "hi"], "m", 4)
    assert neurons == NeuronSet("m", 2, 4, {name: dict(enumerate(layers)) for name, layers in INDICES.items()})


OTHERS = {
    "weights of a model": (
        {"weight": torch.zeros(3, 4), "bias": torch.zeros(3)},
        ["dictionary of 2", "weight", "[3, 4]"],
    ),
    "a number": (7, ["a number"]),
    "texts": (["en", "hi"], ["a text"]),
    "scores": ([[[0.5, 0.1]], [[0.2]]], ["number"]),
    "an empty list": ([], ["a list of 0"]),
    "a flat list": ([1, 2], ["a number"]),
    "another number of languages": ([[[1]], [[1]], [[1]]], ["3", "2"]),
    "a language that is missing": ({"en": [[1]]}, ["hi", "en"]),
    "a mask of another width": ([[torch.ones(3, dtype=torch.bool)]] * 2, ["3", "4"]),
    "a huge tensor of one value": ([[torch.zeros(1).expand(10**12)]] * 2, ["1000000000000"]),
    "a huge mask of one value": (torch.zeros(1).expand(2, 10**6, 10**6), ["1000000"]),
}


@pytest.mark.parametrize("case", OTHERS)
def test_another_layout_is_described(case, tmp_path):
    data, named = OTHERS[case]
    torch.save(data, tmp_path / "other.pth")
    with refused("other.pth", *named) as caught:
        NeuronSet.import_pth(tmp_path / "other.pth", ["en", "hi"], "m", 4)
    assert "\n" not in str(caught.value)


def test_code_in_a_published_file_is_refused(tmp_path):
    class Code:
        def __reduce__(self):
            return print, ("run",)

    torch.save([[Code()]], tmp_path / "code.pth")
    with pytest.raises(LnbenchError):
        NeuronSet.import_pth(tmp_path / "code.pth", ["en"], "m", 4)


def test_where_the_file_names_its_languages_none_are_asked_for(tmp_path):
    torch.save(INDICES, tmp_path / "named.pth")
    assert NeuronSet.import_pth(tmp_path / "named.pth", None, "m", 4).languages == ["en", "hi"]
    assert NeuronSet.import_pth(tmp_path / "named.pth", ["hi"], "m", 4).languages == ["hi"]
