"""Text and benchmarks of the hub: shards, revisions, columns, faults in the middle."""

from __future__ import annotations

import json
from itertools import islice
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from lnbench.corpora.corpus import open_corpus
from tests.support.hub import Fault, Hub
from tests.support.messages import refused

LANGUAGES = ("en", "hi")
DOCUMENTS = 120


def wikipedia(folder: Path, edition: str = "") -> Path:
    """A dataset of one configuration per language, each in three Parquet files, as Wikipedia's is laid out."""
    for language in LANGUAGES:
        directory = folder / f"20231101.{language}"
        directory.mkdir(parents=True)
        for shard in range(3):
            texts = [f"{edition}{language} document {number}." for number in range(shard, DOCUMENTS, 3)]
            table = pa.table({"id": [str(number) for number in range(len(texts))], "text": texts})
            pq.write_table(table, directory / f"train-{shard:05}-of-00003.parquet", row_group_size=10)
    configurations = "".join(
        f"- config_name: 20231101.{language}\n  data_files:\n  - split: train\n    path: 20231101.{language}/train-*\n"
        for language in LANGUAGES
    )
    (folder / "README.md").write_text(f"---\nconfigs:\n{configurations}---\n")
    return folder


def pattern(repo: str) -> str:
    return f"{repo}:20231101.{{lang}}"


def test_all_shards_of_a_language_are_streamed(hub: Hub, repo: str, tmp_path: Path) -> None:
    commit = hub.commit("datasets", repo, wikipedia(tmp_path / "files"))
    for language in LANGUAGES:
        corpus = open_corpus(pattern(repo), language, shuffle=False)
        texts = list(corpus)
        assert sorted(texts) == sorted(f"{language} document {number}." for number in range(DOCUMENTS))
        assert corpus.source["revision"] == commit
    shuffled = [list(open_corpus(pattern(repo), "hi", seed=seed)) for seed in (3, 3, 4)]
    assert shuffled[0] == shuffled[1] != shuffled[2]
    assert sorted(shuffled[0]) == sorted(shuffled[2]) == sorted(texts)


def test_a_run_reads_the_revision_that_it_began_with(hub: Hub, repo: str, tmp_path: Path) -> None:
    first = hub.commit("datasets", repo, wikipedia(tmp_path / "first"))
    before = open_corpus(pattern(repo), "en", shuffle=False)
    begun = list(islice(before, 5))
    hub.commit("datasets", repo, wikipedia(tmp_path / "second", edition="new "))
    assert list(before)[:5] == begun
    pinned = open_corpus(f"{pattern(repo)}@{first}", "en", shuffle=False)
    assert not any(text.startswith("new") for text in pinned)


@pytest.mark.parametrize(
    "fault",
    [Fault(r"00001-of.*parquet", 429, 2), Fault(r"00001-of.*parquet", 503), Fault(r"00001-of.*parquet", 0)],
    ids=["429", "503", "a connection that breaks"],
)
def test_a_fault_in_the_middle_loses_and_repeats_nothing(fault: Fault, hub: Hub, repo: str, tmp_path: Path) -> None:
    hub.commit("datasets", repo, wikipedia(tmp_path / "files"))
    whole = list(open_corpus(pattern(repo), "hi", shuffle=False))
    hub.faults.append(fault)
    assert list(open_corpus(pattern(repo), "hi", shuffle=False)) == whole
    assert fault.times == 0


def test_what_cannot_be_read_is_named(hub: Hub, repo: str, tmp_path: Path) -> None:
    hub.commit("datasets", repo, wikipedia(tmp_path / "files"))
    with refused("20231101.xx", repo):
        list(open_corpus(pattern(repo), "xx"))
    with refused("body", "id, text", repo):
        list(open_corpus(pattern(repo), "hi", text_column="body"))
    hub.faults.append(Fault("/datasets/somebody", 403, 99, "GatedRepo"))
    gated = f"{repo}-other"
    with refused(gated):
        list(open_corpus(pattern(gated), "hi"))


def test_json_lines_are_read_too(hub: Hub, repo: str, tmp_path: Path) -> None:
    folder = tmp_path / "files" / "hi"
    folder.mkdir(parents=True)
    (folder / "train.jsonl").write_text("".join(json.dumps({"text": f"line {number}"}) + "\n" for number in range(7)))
    (tmp_path / "files" / "README.md").write_text(
        "---\nconfigs:\n- config_name: hi\n  data_files: hi/train.jsonl\n---\n"
    )
    hub.commit("datasets", repo, tmp_path / "files")
    texts = list(open_corpus(f"{repo}:{{lang}}", "hi", shuffle=False))
    assert texts == [f"line {number}" for number in range(7)]
