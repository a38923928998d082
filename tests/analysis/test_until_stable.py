"""Reading until two halves agree: the halves are independent, add up, resume, and the curve says why it stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from lnbench import Statistics, blocks, collect_statistics
from lnbench.analysis.until_stable import StabilityCurve, collect_until_stable
from lnbench.choices import select
from lnbench.cli import app
from lnbench.corpora.corpus import open_corpus
from lnbench.settings import UntilStable
from lnbench.statistics import store
from lnbench.statistics.accumulator import Accumulator
from lnbench.statistics.corpus_statistics import Reading
from tests.support.messages import refused
from tests.support.tiny import build, tokenizer

SELECTORS = ("lape:top_fraction=0.2", "act_prob:fraction=0.2")
LANGUAGES = ("en", "hi")


def readings(corpus: str, stable: float = 0.8, tokens: int | None = 1_000, **changes: Any) -> dict[str, Reading]:
    asked = UntilStable(stable=stable, selectors=SELECTORS)
    reading = Reading(corpus=corpus, tokens=tokens, length=32, batch_size=2, until_stable=asked, **changes)
    return dict.fromkeys(LANGUAGES, reading)


def collect(out: Path, wanted: dict[str, Reading], **options: Any) -> StabilityCurve:
    return collect_until_stable(
        build("llama"), tokenizer(), out, wanted, first=200, progress=False, say=lambda _: None, **options
    )


def contents(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir()) if path.is_file() and path.name[0] != "."}


def test_halves_are_every_other_document(tiny_corpus: str) -> None:
    whole = list(open_corpus(tiny_corpus, "hi", seed=2))
    halves = [list(open_corpus(tiny_corpus, "hi", seed=2, half=half)) for half in (0, 1)]
    assert halves == [whole[::2], whole[1::2]]
    prints = {open_corpus(tiny_corpus, "hi", seed=2, half=half).fingerprint for half in (None, 0, 1)}
    assert len(prints) == 3


def test_the_statistics_are_those_of_both_halves(tiny_corpus: str, tmp_path: Path) -> None:
    curve = collect(tmp_path / "out", readings(tiny_corpus, stable=1.0))
    assert curve.stopped in ("stable", "text")
    last = curve.points[-1]
    model = build("llama")
    halves: list[dict[str, Statistics]] = []
    for half in (0, 1):
        own = {}
        for language in LANGUAGES:
            texts = open_corpus(tiny_corpus, language, half=half)
            cut = blocks(texts, tokenizer(), length=32, batch_size=2, tokens=500)
            own[language] = collect_statistics(model, cut, language=language)
        halves.append(own)
    for language in LANGUAGES:
        found = Statistics.load(tmp_path / "out", language)
        parts = [own[language] for own in halves]
        assert found.tokens == last.tokens[language]
        if curve.stopped == "text":
            assert found.tokens == sum(part.tokens for part in parts)
            rate = sum(part.positive_rate * part.tokens for part in parts) / found.tokens
            torch.testing.assert_close(found.positive_rate, rate)
        assert found.provenance["stopped"]["reason"] == curve.stopped
    if curve.stopped == "text":
        for selector in SELECTORS:
            one, other = (select(selector, own) for own in halves)
            for language, agreement in one.compare(other).items():
                assert last.jaccard[selector][language] == pytest.approx(agreement.jaccard)


def test_it_stops_as_soon_as_all_agree(tiny_corpus: str, tmp_path: Path) -> None:
    curve = collect(tmp_path, readings(tiny_corpus, stable=0.01))
    assert curve.stopped == "stable"
    assert [point.least >= 0.01 for point in curve.points] == [False] * (len(curve.points) - 1) + [True]
    tokens = [max(point.tokens.values()) for point in curve.points]
    assert tokens == sorted(tokens)
    assert "0.01" in curve.why()


@pytest.mark.parametrize("stop_after", [7, 30])
def test_an_interruption_changes_nothing(
    stop_after: int, tiny_corpus: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    wanted = readings(tiny_corpus, stable=1.0)
    collect(tmp_path / "whole", wanted)
    check, seen = Accumulator.check, []

    def stopping(self: Accumulator, *args: Any, **options: Any) -> None:
        check(self, *args, **options)
        seen.append(1)
        if len(seen) == stop_after:
            raise KeyboardInterrupt

    monkeypatch.setattr(Accumulator, "check", stopping)
    with pytest.raises(KeyboardInterrupt):
        collect(tmp_path / "again", wanted, save_every=0)
    collect(tmp_path / "again", wanted, save_every=0)
    monkeypatch.undo()
    assert contents(tmp_path / "again") == contents(tmp_path / "whole")
    # And what is done stays.
    before = contents(tmp_path / "again")
    collect(tmp_path / "again", wanted)
    assert contents(tmp_path / "again") == before


def test_the_command(tiny_model: str, tiny_corpus: str, tmp_path: Path) -> None:
    words = ["stats", "--model", tiny_model, "--corpus", tiny_corpus, "--languages", "en+hi", "--out", str(tmp_path)]
    words += ["--length", "32", "--selectors", "act_prob:fraction=0.2", "--stable", "0.9", "--tokens"]
    run = CliRunner().invoke
    done = run(app, [*words, "auto:1k"])
    assert done.exit_code == 0, done.output
    assert store.languages(tmp_path) == ["en", "hi"]
    shown = run(app, ["stats", "show", str(tmp_path)])
    assert "by tokens read" in shown.output
    assert "--shard" in str(run(app, [*words, "auto:1k", "--shard", "1/2"]).exception)


def test_readings_that_ask_for_nothing(tiny_corpus: str, tmp_path: Path) -> None:
    with refused("until_stable"):
        collect(tmp_path, {"en": Reading(corpus=tiny_corpus)})
