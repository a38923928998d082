"""Whatever a stranger's file holds: a right result, or one line; no traceback, no hang, no memory without bounds.

``--hypothesis-profile=long`` tries four hundred files of each kind.
"""

from __future__ import annotations

import gzip
import io
import json
import resource
import shutil
import sys
import tempfile
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
import yaml
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from lnbench import NeuronSet, Statistics
from lnbench.analysis.overlap import language_overlap
from lnbench.choices import plan, select
from lnbench.corpora.corpus import Corpus
from lnbench.errors import LnbenchError
from lnbench.finetuning import training_record
from lnbench.leaderboard import rows
from lnbench.leaderboard.compared import build
from lnbench.leaderboard.merged_records import read_runs
from lnbench.lm.head import ClassificationHead
from lnbench.perplexity.matrix import PerplexityMatrix
from lnbench.report.inputs import find
from lnbench.report.overview import overview
from lnbench.sweeps import spec
from lnbench.tables.findings import leaderboard_findings, reproduction_finding
from lnbench.tables.leaderboard import leaderboard_tables
from lnbench.tables.neurons import averages_table, layers_table, overlap_table
from lnbench.tables.perplexity import matrix_tables
from lnbench.tables.render import markdown, terminal
from lnbench.tables.reproduction import Reproduction

SEEDS = Path(__file__).parents[1] / "formats" / "v0_1_0"
EXAMPLES = max(20, settings.default.max_examples // 5) if settings.default else 20
"""Of each kind: 400 with ``--hypothesis-profile=long``."""
MOST_SECONDS, MOST_BYTES = 20, 400_000_000


def use_neurons(file: Path) -> None:
    neurons = NeuronSet.load(file)
    assert NeuronSet.load(file) == neurons
    for table in (layers_table(neurons), overlap_table(neurons)):
        markdown(table)
    language_overlap(neurons)
    assert all(0 <= int(i) < neurons.width for code in neurons for part in neurons[code].values() for i in part)
    neurons.save(file.with_name("again.json"))
    assert NeuronSet.load(file.with_name("again.json")) == neurons


def use_statistics(file: Path) -> None:
    loaded = {language: Statistics.load(file.parent, language) for language in ("en", "hi")}
    for statistics in loaded.values():
        assert statistics.quantile(0.33).shape == statistics.mean.shape
        statistics.pooled_quantile(0.9)
    neurons = select("lape:top_fraction=0.2", loaded)
    for intervention in ("mean", "p10"):
        plan(neurons["hi"], intervention, loaded["hi"])
    markdown(averages_table(file.parent))


def use_run(file: Path) -> None:
    run = next(folder for folder in file.parents if folder.name == "run")
    board = build(read_runs([run]))
    for table in leaderboard_tables(board):
        terminal(table)
    leaderboard_findings(board)
    overview(find([run]))


def use_leaderboard(file: Path) -> None:
    board = rows.load(file)
    for table in leaderboard_tables(board):
        markdown(table)
    leaderboard_findings(board)


def use_reproduction(file: Path) -> None:
    reproduction = Reproduction.load(file)
    for table in reproduction.shown:
        markdown(table)
    reproduction_finding(reproduction)


def use_matrix(file: Path) -> None:
    for table in matrix_tables(PerplexityMatrix.load(file)):
        markdown(table)


def use_training(file: Path) -> None:
    training_record.base_model(training_record.read(file.parent))


def use_corpus(file: Path) -> None:
    for text in Corpus(str(file), "en"):
        assert text.strip()
        text.encode()


def use_published(file: Path) -> None:
    neurons = NeuronSet.import_pth(file, ["en", "hi"], model="any", width=16)
    assert neurons.languages == ["en", "hi"]
    layers_table(neurons)


class Kind(NamedTuple):
    """A kind of file: an example, what lies beside it, and what is done with it."""

    seed: str | bytes
    """A file of :data:`SEEDS`, or the content."""
    use: Callable[[Path], object]
    name: str = ""
    beside: str = ""
    """A folder of :data:`SEEDS` that the file is a part of."""


def pth(content: Any) -> bytes:
    buffer = io.BytesIO()
    torch.save(content, buffer)
    return buffer.getvalue()


CORPUS = b"".join(json.dumps({"text": f"The river rose by {number} metres."}).encode() + b"\n" for number in range(6))
SWEEP = {
    "models": ["gemma-3-270m", {"pretrained": "x", "dtype": "float32"}],
    "adapters": {"mine": {"path": "adapter", "head": True}},
    "selectors": ["lape:top_fraction=0.02"],
    "interventions": ["none", "p10"],
    "languages": ["en", "hi"],
    "tasks": ["lnbench_demo_nli_{lang}", {"en": "a", "hi": "b"}],
    "limit": 5,
    "seeds": [0, 1],
    "metadata": {"xquad_part": "last20"},
}
KINDS = {
    "NeuronSet": Kind("neurons.json", use_neurons),
    "Statistics: manifest": Kind("statistics/manifest.json", use_statistics, beside="statistics"),
    "Statistics: tensors": Kind("statistics/hi.safetensors", use_statistics, beside="statistics"),
    "records": Kind("run/records.jsonl", use_run, beside="run"),
    "samples": Kind("run/cells/1b37984429dca2cb/samples.jsonl", use_run, beside="run"),
    "results": Kind("run/cells/1b37984429dca2cb/results.json", use_run, beside="run"),
    "leaderboard": Kind("leaderboard.json", use_leaderboard),
    "perplexity": Kind("ppl/perplexity.json", use_matrix),
    "reproduction": Kind("reproduction.json", use_reproduction),
    "training": Kind("adapter/training.json", use_training),
    "head": Kind("adapter/head.safetensors", lambda file: ClassificationHead.load(str(file))),
    "sweep": Kind(yaml.safe_dump(SWEEP).encode(), lambda file: spec.load(file), "sweep.yaml"),
    "corpus: jsonl": Kind(CORPUS, use_corpus, "en.jsonl"),
    "corpus: jsonl.gz": Kind(gzip.compress(CORPUS), use_corpus, "en.jsonl.gz"),
    "corpus: txt": Kind(b"one\ntwo\n\xe0\xa4\xa8\xe0\xa4\xa6\xe0\xa5\x80\n", use_corpus, "en.txt"),
    "published neurons": Kind(pth([[torch.tensor([1, 5]), torch.tensor([0])]] * 2), use_published, "neurons.pth"),
}  # fmt: skip

DEEP = "@deep@"
PLAIN = st.one_of(
    st.none(),
    st.booleans(),
    st.integers(-(2**70), 2**70),
    st.integers(-3, 30),
    st.floats(),
    st.text(max_size=12),
    st.sampled_from(
        [
            "",
            "hi",
            "nan",
            "1e999",
            "../../x",
            "/etc/passwd",
            "\x00",
            "\ud800",
            "é" * 300,
            "<script>",
            DEEP,
            10**400,
            1e308,
        ]
    ),
)
VALUES = st.recursive(
    PLAIN,
    lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=6), inner, max_size=4),
    max_leaves=6,
)


@st.composite
def changed_tree(draw: st.DrawFn, tree: Any) -> Any:
    """A document in which one value is another, or gone, or a key is another."""
    tree = json.loads(json.dumps(tree))
    holder, key = {"": tree}, ""
    here: Any = tree
    for _ in range(draw(st.integers(0, 7))):
        if not isinstance(here, dict | list) or not here:
            break
        holder, key = (
            here,
            draw(st.sampled_from(sorted(here)))
            if isinstance(here, dict)
            else draw(st.integers(0, min(len(here) - 1, 40))),
        )
        here = holder[key]
    how = draw(st.sampled_from(["replace", "replace", "replace", "delete", "rename", "repeat"]))
    if how == "replace" or holder.get("") is tree if isinstance(holder, dict) else how == "replace":
        holder[key] = draw(VALUES)
    elif how == "delete":
        del holder[key]
    elif isinstance(holder, dict):
        holder[draw(st.text(max_size=8))] = holder[key] if how == "repeat" else holder.pop(key)
    else:
        holder.insert(0, holder[key])
    return holder[""] if isinstance(holder, dict) and "" in holder and key == "" else tree


def dumped(tree: Any) -> bytes:
    text = json.dumps(tree).replace(f'"{DEEP}"', "[" * 50_000 + "]" * 50_000)
    return text.encode("utf-8", "surrogatepass")


@st.composite
def changed_bytes(draw: st.DrawFn, content: bytes) -> bytes:
    """Bytes cut off, flipped, put in, doubled, or others altogether."""
    place = draw(st.integers(0, len(content)))
    extra = draw(
        st.binary(max_size=20) | st.sampled_from([b"\xef\xbb\xbf", b"\x00" * 50, b"\r", b"\xff\xfe", b"[" * 50_000])
    )
    match draw(st.sampled_from(["cut", "flip", "insert", "twice", "other", "head"])):
        case "cut":
            return content[:place]
        case "flip":
            return content[:place] + extra + content[place + len(extra) :]
        case "insert":
            return content[:place] + extra + content[place:]
        case "twice":
            return content[:place] + content[max(0, place - 30) :]
        case "head":
            return extra + content
    return extra


@st.composite
def damaged(draw: st.DrawFn, content: bytes, name: str) -> bytes:
    """A file that differs from a good one in one or two places."""
    structured = name.endswith((".json", ".jsonl", ".yaml", ".jsonl.gz"))
    if structured and draw(st.integers(0, 3)):
        plain = gzip.decompress(content) if name.endswith(".gz") else content
        if ".jsonl" in name:
            lines = plain.splitlines()
            number = draw(st.integers(0, len(lines) - 1))
            lines[number] = dumped(draw(changed_tree(json.loads(lines[number]))))
            plain = b"\n".join(lines) + b"\n"
        else:
            plain = dumped(draw(changed_tree(yaml.safe_load(plain) if name.endswith(".yaml") else json.loads(plain))))
        return gzip.compress(plain) if name.endswith(".gz") else plain
    if name.endswith(".safetensors") and draw(st.booleans()):
        size = int.from_bytes(content[:8], "little")
        header = dumped(draw(changed_tree(json.loads(content[8 : 8 + size]))))
        return len(header).to_bytes(8, "little") + header + content[8 + size :]
    return draw(changed_bytes(content))


TENSORS = st.one_of(
    st.lists(st.integers(-2, 20), max_size=5).map(torch.tensor),
    st.lists(st.integers(0, 15), max_size=5).map(lambda values: torch.tensor(values, dtype=torch.int64)),
    st.lists(st.floats(), max_size=3).map(torch.tensor),
    st.just(torch.zeros(1, dtype=torch.long).expand(10**12)),
    st.just(torch.zeros(2, 8) > 0),
    st.just(torch.zeros(0, 3)),
    st.just(torch.eye(3).to_sparse()),
)
PUBLISHED = st.recursive(
    TENSORS | st.integers(-2, 20) | st.none() | st.text(max_size=3) | st.booleans(),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.sampled_from(["en", "hi", 0, 1, "0"]), inner, max_size=2)
    ),
    max_leaves=8,
).map(pth)


def written(folder: Path, kind: Kind, content: bytes) -> Path:
    if kind.beside:
        shutil.copytree(SEEDS / kind.beside, folder / kind.beside)
    file = folder / (kind.name or str(kind.seed))
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_bytes(content)
    return file


def check(kind: Kind, content: bytes) -> LnbenchError | None:
    """Use a file, and return the refusal if there was one."""
    started, before = time.monotonic(), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    refusal = None
    with tempfile.TemporaryDirectory() as folder, warnings.catch_warnings():
        warnings.simplefilter("ignore")
        try:
            kind.use(written(Path(folder), kind, content))
        except LnbenchError as error:
            refusal = error
            assert "\n" not in str(error).strip(), str(error)
            assert len(str(error)) < 3_000, str(error)[:300]
    assert time.monotonic() - started < MOST_SECONDS
    scale = 1 if sys.platform == "darwin" else 1024
    assert (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * scale < MOST_BYTES
    return refusal


def seed_of(kind: Kind) -> bytes:
    return kind.seed if isinstance(kind.seed, bytes) else (SEEDS / kind.seed).read_bytes()


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
def test_a_good_file_is_read(kind: Kind) -> None:
    assert check(kind, seed_of(kind)) is None


@pytest.mark.parametrize("kind", KINDS.values(), ids=KINDS)
@given(data=st.data())
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_a_damaged_file(kind: Kind, data: st.DataObject) -> None:
    name = kind.name or str(kind.seed)
    content = data.draw(PUBLISHED) if name.endswith(".pth") and data.draw(st.booleans()) else None
    check(kind, content if content is not None else data.draw(damaged(seed_of(kind), name)))


@given(data=st.data())
@settings(max_examples=EXAMPLES, deadline=None, suppress_health_check=list(HealthCheck))
def test_numbers_that_were_changed_are_no_result(data: st.DataObject) -> None:
    """A bit that flipped on a disk, in any tensor of the Statistics."""
    kind = KINDS["Statistics: tensors"]
    content = bytearray(seed_of(kind))
    first = 8 + int.from_bytes(content[:8], "little")
    content[data.draw(st.integers(first, len(content) - 1))] ^= 1 << data.draw(st.integers(0, 7))
    refusal = check(kind, bytes(content))
    assert refusal is not None and "hi" in str(refusal)
