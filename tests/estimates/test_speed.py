"""An estimate is made of long work only, from a probe that reads a few tokens."""

from __future__ import annotations

import math
from pathlib import Path
from typing import Any

import pytest
import torch

from lnbench import estimates
from lnbench.estimates import LoadedAs, ModelSize, Room, Speed, Work, foretold, may_be_long, probe, probe_shape, read_of
from lnbench.estimates import speed as module
from lnbench.statistics.corpus_statistics import Reading
from tests.support.tiny import tiny_model

ROOM = Room("cpu", 2**33, 2**33, lambda _: math.inf)


def test_short_work_is_not_probed(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "probe", lambda _: pytest.fail("probed"))
    assert foretold(tiny_model("llama"), Work("reading", read=10_000), LoadedAs(), ROOM) is None


@pytest.mark.parametrize(("seconds", "said"), [(59.0, None), (61.0, "61 s"), (3600.0, "60 min"), (36000.0, "10.0 h")])
def test_a_line_from_a_minute_on(seconds: float, said: str | None, monkeypatch: pytest.MonkeyPatch) -> None:
    model = tiny_model("llama")
    monkeypatch.setattr(module, "probe", lambda _: Speed(seconds / 10**9, 0.0))
    line = foretold(model, Work("reading", read=10**9), LoadedAs(), ROOM)
    assert (line is None) == (said is None)
    if said is not None:
        assert line is not None
        assert said in line
        assert "8.0 GiB memory (cpu)" in line


def test_an_announcement_is_on_stderr(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(module, "probe", lambda _: Speed(1.0, 0.0))
    estimates.announce(tiny_model("llama"), Work("reading", read=10**9))
    estimates.announce(tiny_model("llama"), None)
    printed = capsys.readouterr()
    assert printed.out == ""
    assert printed.err.startswith("reading: about 11574.1 days")
    assert printed.err.count("\n") == 1


def test_a_probe_reads_few_tokens(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LEAST", 0.0)
    model: Any = tiny_model("llama")
    read: list[int] = []

    def note(_: Any, __: Any, given: dict[str, Any]) -> None:
        read.append(given["input_ids"].numel())

    model.model.register_forward_pre_hook(note, with_kwargs=True)
    training = model.training
    speed = probe(model)
    assert speed.read > 0
    assert sum(read) <= 1000
    assert model.training == training


def test_a_model_that_is_not_loaded_is_as_fast_as_its_matrices(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_timed", lambda _run, _device: 64.0)
    size = ModelSize(1000 + 400, 400, 2, 20, 8, 2, 50)
    speed = probe_shape(size, LoadedAs(device="cpu"))
    assert speed.read == pytest.approx(1000 / (8 * 10))
    assert speed.scored == pytest.approx(8 * 50 / (8 * 10))


def test_what_may_be_long_is_judged_by_operations() -> None:
    size = ModelSize(10**9, 0, 2, 20, 8, 2, 50)
    assert not may_be_long(size, Work("work", read=100), "cpu")
    assert may_be_long(size, Work("work", read=200), "cpu")
    assert not may_be_long(size, Work("work", read=10_000), "cuda:0")
    assert may_be_long(size, Work("work", trained=100_000), "cuda:0")


class Letters:
    """A tokenizer whose tokens are letters."""

    def encode(self, text: str, **_: Any) -> list[str]:
        return list(text)


def test_tokens_of_a_text_by_its_first_documents(tmp_path: Path) -> None:
    (tmp_path / "en.jsonl").write_text("\n".join(['{"text": "seven77"}'] * 30))
    text = str(tmp_path / "{lang}.jsonl")
    of_all = Work("reading", counted=1)
    whole = read_of(of_all, {"en": Reading(corpus=text)}, Letters())
    assert whole is not None
    assert whole.read == 30 * 7
    budget = read_of(of_all, {"en": Reading(corpus=text, tokens=50)}, Letters(), parts=2)
    assert budget is not None
    assert budget.read == 25


def test_a_stream_without_a_budget_is_not_known() -> None:
    reading = Reading(corpus="wikimedia/wikipedia:20231101.{lang}")
    assert read_of(Work("reading"), {"en": reading}, Letters()) is None


def test_nothing_is_probed_in_inference_mode_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(module, "_LEAST", 0.0)
    model = tiny_model("llama")
    probe(model)
    assert all(not parameter.is_inference() for parameter in model.parameters())
    assert torch.is_grad_enabled()
