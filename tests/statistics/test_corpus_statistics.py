"""Statistics of a corpus: in one go, in shards, interrupted and gone on with; and who may write to a folder."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import socket
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import pytest
import torch

import lnbench.statistics.corpus_statistics as corpus_module
from lnbench import Statistics, collect_statistics
from lnbench.locks import exclusive_lock
from lnbench.model.locate import locate
from lnbench.statistics import store
from lnbench.statistics.accumulator import Accumulator
from lnbench.statistics.batching import fitting_batch_size
from lnbench.statistics.corpus_statistics import Reading, collect_corpus, count_corpus, request_key
from lnbench.statistics.statistics_folder import collect_folder, merge_folders
from tests.support.messages import lacks, refused
from tests.support.tiny import build, tokenizer

QUIET: dict[str, Any] = {"progress": False}


@pytest.fixture(scope="module")
def model() -> Any:
    return build("llama")


@pytest.fixture
def reading(tmp_path: Path) -> Reading:
    """Some 7,000 tokens in two languages."""
    words = random.Random(0)
    for language in ("en", "hi"):
        texts = ["".join(words.choice("abcdefgh ") for _ in range(words.randint(1, 400))) for _ in range(40)]
        texts += ["", texts[3]]
        (tmp_path / f"{language}.jsonl").write_text("".join(json.dumps({"text": text}) + "\n" for text in texts))
    return Reading(corpus=str(tmp_path / "{lang}.jsonl"), length=32, batch_size=4)


def changed(reading: Reading, **changes: Any) -> Reading:
    return Reading(**(dict(reading) | changes))


def folder(model: Any, out: Path, reading: Reading, languages: tuple[str, ...] = ("en", "hi"), **options: Any) -> None:
    readings = dict.fromkeys(languages, reading)
    collect_folder(model, tokenizer(), out, readings, **QUIET | options)


def contents(out: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in out.iterdir() if path.is_file() and not path.name.startswith(".")}


@pytest.mark.parametrize("mode", ["pack", "truncate"])
@pytest.mark.parametrize("shards", [2, 5])
def test_merged_shards_are_the_whole(model, tmp_path, reading, mode, shards):
    reading = changed(reading, mode=mode, dedup=True, tokens=3_000, batch_levels=(0.9,))
    folder(model, tmp_path / "whole", reading)
    for index in reversed(range(shards)):
        folder(model, tmp_path / f"machine{index % 2}", reading, shard=(index, shards))
    said: list[str] = []
    merge_folders([tmp_path / "machine1", tmp_path / "machine0"], tmp_path / "merged", say=said.append)
    assert [line.split(":")[0] for line in said] == ["en", "hi"]
    for language in ("en", "hi"):
        whole, merged = (Statistics.load(tmp_path / name, language) for name in ("whole", "merged"))
        assert merged.tokens == whole.tokens
        assert merged.provenance == whole.provenance
        for site in ("pre", "post"):
            one, other = merged.at(site), whole.at(site)
            # A matrix product depends in its last bits on what else is in the batch, and so may a bin.
            torch.testing.assert_close(one.positive_rate, other.positive_rate, rtol=0, atol=1.01 / whole.tokens)
            for name in ("mean", "std", "min", "max"):
                torch.testing.assert_close(getattr(one, name), getattr(other, name), rtol=1e-4, atol=1e-5)
            spread = (other.max - other.min).unsqueeze(0)
            assert ((one.values.quantiles - other.values.quantiles).abs() <= 0.02 * spread).all()


def test_more_shards_than_blocks(model, tmp_path, reading):
    reading = changed(reading, tokens=70)
    folder(model, tmp_path / "whole", reading, ("en",))
    for index in range(5):
        folder(model, tmp_path / "shards", reading, ("en",), shard=(index, 5))
    merge_folders([tmp_path / "shards"], tmp_path / "shards")
    assert Statistics.load(tmp_path / "shards", "en").tokens == Statistics.load(tmp_path / "whole", "en").tokens


def test_shards_that_do_not_belong_together(model, tmp_path, reading):
    out = tmp_path / "out"
    with refused(out):
        merge_folders([out], out)
    folder(model, out, reading, ("en",), shard=(0, 3))
    with refused("en", "2/3, 3/3", "lnbench stats --shard"):
        merge_folders([out], out)
    folder(model, out, changed(reading, seed=1), ("en",), shard=(1, 3))
    with refused(out / "shards" / "2-of-3" / "en.safetensors", out / "shards" / "1-of-3" / "en.safetensors"):
        merge_folders([out], out)
    folder(model, tmp_path / "other", changed(reading, seed=1), ("en",), shard=(0, 3))
    with refused(out, tmp_path / "other", "shard 1", "en"):
        merge_folders([out, tmp_path / "other"], out)
    with refused(out / "shards" / "1-of-3", "--out"):
        merge_folders([out / "shards" / "1-of-3"], out / "shards" / "1-of-3")
    folder(model, tmp_path / "empty", reading, ("en",))
    with refused(tmp_path / "empty", "lnbench stats --shard 1/2"):
        merge_folders([tmp_path / "empty"], tmp_path / "merged")
    assert not (out / store.MANIFEST).exists()


def interrupted(monkeypatch: pytest.MonkeyPatch, rows: int) -> None:
    """Stop in the middle of the pass, as Ctrl-C does."""
    real = corpus_module.observing

    def observing(*args: Any, **options: Any) -> Any:
        from contextlib import contextmanager

        @contextmanager
        def wrapped() -> Any:
            with real(*args, **options) as read:
                left = [rows]

                def reads(block: Any) -> int:
                    if left[0] <= 0:
                        raise KeyboardInterrupt
                    left[0] -= len(block)
                    return read(block)

                yield reads

        return wrapped()

    monkeypatch.setattr(corpus_module, "observing", observing)


@pytest.mark.parametrize("shard", [(0, 1), (1, 2)])
def test_goes_on_where_it_was_interrupted(model, tmp_path, reading, shard, monkeypatch, caplog):
    reading = changed(reading, batch_levels=(0.5,))
    folder(model, tmp_path / "whole", reading, shard=shard)
    for rows in (40, 60, 20):
        with monkeypatch.context() as patched:
            interrupted(patched, rows)
            with pytest.raises(KeyboardInterrupt):
                folder(model, tmp_path / "parts", reading, shard=shard, save_every=0)
    assert not lacks(caplog.text, "en", "blocks")
    folder(model, tmp_path / "parts", reading, shard=shard, save_every=0)
    where = "." if shard == (0, 1) else "shards/2-of-2"
    whole, parts = (contents(tmp_path / name / where) for name in ("whole", "parts"))
    assert whole == parts
    assert len(whole) == (3 if shard == (0, 1) else 2)
    assert not (tmp_path / "parts" / "unfinished").exists()


def test_what_is_done_stays_and_what_changed_is_collected_anew(model, tmp_path, reading, monkeypatch):
    out, said = tmp_path / "out", []
    folder(model, out, reading)
    before = {path: path.stat().st_mtime_ns for path in out.glob("*.safetensors")}
    folder(model, out, reading, say=said.append)
    assert said == [f"en: already in {out}", f"hi: already in {out}"]
    assert before == {path: path.stat().st_mtime_ns for path in out.glob("*.safetensors")}
    folder(model, out, changed(reading, tokens=500), ("hi",))
    assert Statistics.load(out, "hi").tokens <= 500 < Statistics.load(out, "en").tokens


def test_the_other_site_is_shown_without_reading_again(model, tmp_path, reading):
    folder(model, tmp_path, reading, ("en",))
    before = Statistics.load(tmp_path, "en")
    folder(model, tmp_path, reading, ("en",), site="pre", say=lambda line: pytest.fail(line) if "→" in line else None)
    after = Statistics.load(tmp_path, "en")
    assert (before.site, after.site) == ("post", "pre")
    assert torch.equal(after.at("post").mean, before.mean)


def test_a_smaller_batch_can_be_asked_for_after_running_out_of_memory(model, tmp_path, reading, monkeypatch, caplog):
    state = tmp_path / "state.safetensors"
    with monkeypatch.context() as patched:
        interrupted(patched, 40)
        with pytest.raises(KeyboardInterrupt):
            count_corpus(model, tokenizer(), "en", changed(reading, batch_size=16), state=state, save_every=0, **QUIET)
    account = count_corpus(model, tokenizer(), "en", changed(reading, batch_size=2), state=state, **QUIET)
    assert "2 blocks" in caplog.text
    assert account.tokens == count_corpus(model, tokenizer(), "en", reading, **QUIET).tokens


def test_the_published_estimate_is_known_by_its_batches(reading):
    paper = changed(reading, batch_levels=(0.9,), batch_size=None)
    assert paper.provenance("en")["batch_size"] == paper.size == 4
    assert "batch_size" not in reading.provenance("en")
    keys = {request_key(changed(paper, batch_size=size).provenance("en")) for size in (None, 4, 8)}
    assert len(keys) == 2


def test_the_papers_reading_is_its_code_written_down(model, tmp_path, reading):
    """One stream with BOS at each article, blocks of 32, batches of 4, every position counted, no padding."""
    words = tokenizer()
    paper = changed(reading, bos="document", skip=0, batch_size=None, batch_levels=(0.9,))
    collected = collect_corpus(model, words, "en", paper, **QUIET)
    texts = list(paper.open("en"))
    ids = [words.bos_token_id] if words.bos_token_id is not None else []
    stream = [token for text in texts for token in ids + words(text, add_special_tokens=False)["input_ids"]]
    rows = [torch.tensor(stream[begin : begin + 32]) for begin in range(0, len(stream), 32)]
    full = [row for row in rows if len(row) == 32]
    batches = [torch.stack(full[begin : begin + 4]) for begin in range(0, len(full), 4)]
    batches += [row[None] for row in rows[len(full) :] if len(row) > 1]
    wanted = collect_statistics(model, batches, language="en", skip=0, batch_levels=(0.9,))
    assert collected.tokens == wanted.tokens
    for site in ("pre", "post"):
        assert torch.allclose(collected.batch_quantiles[site][0.9], wanted.batch_quantiles[site][0.9])
        assert torch.allclose(collected.at(site).mean, wanted.at(site).mean, atol=1e-6)
    recorded = collected.provenance
    assert (recorded["bos"], recorded["batch_size"], recorded["skip"], recorded["mode"]) == ("document", 4, 0, "pack")


def test_progress_of_another_request_is_not_used(model, tmp_path, reading, monkeypatch, caplog):
    out = tmp_path / "out"
    with monkeypatch.context() as patched:
        interrupted(patched, 50)
        with pytest.raises(KeyboardInterrupt):
            folder(model, out, reading, ("en",), save_every=0)
    (state,) = (out / "unfinished").glob("*")
    other = changed(reading, seed=5)
    folder(model, out, other, ("en",))
    assert str(state) in caplog.text
    folder(model, tmp_path / "fresh", other, ("en",))
    assert contents(out) == contents(tmp_path / "fresh")
    state.parent.mkdir(exist_ok=True)
    state.write_bytes(b"half a file")
    folder(model, out, reading, ("en",))
    assert "starting again" in caplog.text.splitlines()[-1]


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_kill_at_random_moments_changes_nothing(model, tmp_path, reading):
    folder(model, tmp_path / "whole", reading)
    out, moments = tmp_path / "killed", random.Random(1)
    kills, check = 0, Accumulator.check

    def slow(*args: Any, **options: Any) -> None:
        time.sleep(0.01)
        check(*args, **options)

    for _ in range(40):
        child = os.fork()
        if child == 0:
            Accumulator.check = slow  # type: ignore[method-assign]
            folder(model, out, reading, save_every=0)
            os._exit(0)
        time.sleep(moments.uniform(0.05, 0.6))
        os.kill(child, signal.SIGKILL)
        kills += os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) != 0
        if kills >= 6:
            break
    assert kills >= 3
    folder(model, out, reading)
    assert contents(out) == contents(tmp_path / "whole")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="no fork here")
def test_processes_started_together_share_every_language(model, tmp_path, reading, monkeypatch):
    """What torchrun does, without the time that two more Pythons take."""
    folder(model, tmp_path / "alone", reading)
    with socket.socket() as free:
        free.bind(("localhost", 0))
        port = free.getsockname()[1]
    children = []
    for rank in range(2):
        child = os.fork()
        if child == 0:
            os.environ |= {"RANK": str(rank), "WORLD_SIZE": "2", "MASTER_ADDR": "localhost", "MASTER_PORT": str(port)}
            code = 1
            try:
                folder(model, tmp_path / "together", reading)
                code = 0
            finally:
                os._exit(code)
        children.append(child)
    assert [os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]) for child in children] == [0, 0]
    for language in ("en", "hi"):
        alone, together = (Statistics.load(tmp_path / name, language) for name in ("alone", "together"))
        assert (alone.tokens, alone.provenance) == (together.tokens, together.provenance)
        torch.testing.assert_close(alone.mean, together.mean, rtol=1e-4, atol=1e-5)
    assert sorted(contents(tmp_path / "together")) == sorted(contents(tmp_path / "alone"))
    assert not (tmp_path / "together" / "shards").exists()


def test_the_bar_tells_the_time_left(model, reading, capsys, monkeypatch):
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    count_corpus(model, tokenizer(), "en", reading)
    bars = re.findall(r"(\d+) ?%", capsys.readouterr().err)
    assert bars and int(bars[-1]) == 100


def test_two_processes_on_one_folder(model, tmp_path, reading):
    hold = (
        "import sys, time; from lnbench import locks\nwith locks.exclusive_lock(sys.argv[1]): print(); time.sleep(60)"
    )
    with subprocess.Popen([sys.executable, "-c", hold, str(tmp_path)], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None
        other.stdout.readline()
        try:
            with refused(tmp_path, other.pid):
                folder(model, tmp_path, reading)
            folder(model, tmp_path, reading, ("en",), shard=(0, 2))
        finally:
            other.kill()
    with exclusive_lock(tmp_path):
        pass
    folder(model, tmp_path, reading)


def test_a_full_disk_keeps_what_is_done(model, tmp_path, reading, monkeypatch):
    folder(model, tmp_path, reading, ("en",))
    before = contents(tmp_path)

    def full(*_: Any, **__: Any) -> None:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched:
        patched.setattr("safetensors.torch.save_file", full)
        with refused(tmp_path / "unfinished" / "hi.safetensors", "No space left on device"):
            folder(model, tmp_path, reading, ("hi",), save_every=0)
    assert contents(tmp_path) == before
    folder(model, tmp_path, reading, ("hi",))
    assert store.languages(tmp_path) == ["en", "hi"]


def test_a_corpus_that_drifts_is_warned_of(model, tmp_path, caplog):
    lines = ["aaaa " * 300] * 4 + ["hijklm" * 300] * 30
    (tmp_path / "en.txt").write_text("\n".join(lines))
    sites = locate(model)
    account = Accumulator(sites.layers, sites.width)
    from lnbench.corpora.packing import blocks
    from lnbench.statistics.collect import observing, statistics_of

    with observing(sites, account, "en", skip=1) as read:
        for block in blocks(lines, tokenizer(), 32, 8):
            read(block)
    statistics = statistics_of(account, sites.activations, "en", site="post", provenance={})
    assert not lacks(caplog.text, "en", "Shuffle")
    assert float(statistics.rank_error.max()) > 0.01


def test_provenance_pins_the_text_and_counts_it(model, tmp_path, reading):
    folder(model, tmp_path / "out", changed(reading, dedup=True), ("en",))
    entry = json.loads((tmp_path / "out" / store.MANIFEST).read_text())["languages"]["en"]
    assert len(entry["corpus_source"]["sha256"]) == 64
    assert entry["text"]["documents"] == 42
    assert (entry["text"]["empty"], entry["text"]["duplicates"]) == (1, 1)
    assert {"mode", "dedup", "seed", "skip", "sequence_length", "corpus_tokens", "request"} <= entry.keys()


def test_the_batch_size_fits_and_is_told(model, caplog):
    sites = locate(model)
    with caplog.at_level("INFO", logger="lnbench"):
        assert fitting_batch_size(sites, 128) == 8
        assert fitting_batch_size(sites, 100_000) == 1
    assert not lacks(caplog.text, "8 blocks", "128 tokens", "cpu")


def test_little_memory_makes_small_batches(model, monkeypatch):
    monkeypatch.setattr("lnbench.statistics.batching.free_memory", lambda _: 400_000)
    assert 1 <= fitting_batch_size(locate(model), 32) < 8


def test_a_file_and_a_call_give_the_same(model, tmp_path, reading):
    folder(model, tmp_path / "out", reading, ("hi",))
    direct = collect_corpus(model, tokenizer(), "hi", reading, **QUIET)
    assert Statistics.load(tmp_path / "out", "hi").fingerprint == direct.fingerprint
    account = count_corpus(model, tokenizer(), "hi", reading, **QUIET)
    assert account.about["done"] and account.tokens == direct.tokens
