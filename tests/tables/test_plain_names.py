"""What readers are shown in place of what users type."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any, ClassVar

import pytest

from lnbench.hookspecs import hookimpl
from lnbench.host import get_host
from lnbench.parameters import target_of
from lnbench.tables import plain_names as names
from lnbench.tables.plain_names import metric_title, pair_name, plain_action, plain_name, task_title


@pytest.mark.parametrize(
    ("kind", "choice", "expected"),
    [
        ("selector", "lape", "LAPE, top 1\u00a0%"),
        ("selector", "lape:top_fraction=0.02:bar=0.9", "LAPE, top 2\u00a0%, bar 0.9"),
        ("selector", "act_prob:fraction=0.004", "Activation Probability, top 0.4\u00a0%"),
        ("selector", "act_prob", "Activation Probability, top 0.125\u00a0%"),
        ("selector", "top:of=lape:count=1200", "best 1,200 by lape"),
        ("selector", "/home/somebody/neurons/mine.json", "mine.json"),
        ("selector", "of_another_machine:x=1", "of_another_machine:x=1"),
        ("intervention", "zero", "zero-ablation"),
        ("intervention", "constant:value=0", "zero-ablation"),
        ("intervention", "constant:value=0.5", "set to 0.5"),
        ("intervention", "zero:layers=2-4", "zero-ablation, layers 2-4"),
        ("intervention", "p1", "1st percentile"),
        ("intervention", "p12", "12th percentile"),
        ("intervention", "p22", "22nd percentile"),
        ("intervention", "p2.5", "2.5th percentile"),
        ("intervention", "p50", "median"),
        ("intervention", "max", "maximum"),
        ("intervention", "none", "no intervention"),
        ("intervention", "scale:factor=2", "activation × 2"),
    ],
)
def test_choices(kind: str, choice: str, expected: str) -> None:
    assert plain_name(kind, choice) == expected


@pytest.mark.parametrize("kind", ["selector", "intervention"])
def test_every_built_in_declares_one(kind: str) -> None:
    entries = [
        entry for entry in get_host().describe() if entry.kind == kind and entry.source.distribution == "lnbench"
    ]
    assert len(entries) > 10
    assert [entry.name for entry in entries if not hasattr(target_of(entry.factory), "plain_name")] == []


def test_actions() -> None:
    assert plain_action("zero", "Hindi's neurons") == "setting Hindi's neurons to zero"
    assert plain_action("p90", "its neurons") == "setting its neurons to their 90th percentile"
    assert plain_action("scale:factor=2", "its neurons") == "multiplying its neurons by 2"
    assert plain_action("of_another_machine", "its neurons") == "applying of_another_machine to its neurons"


@dataclass
class Mine:
    """A third party's selector."""

    plain_name: ClassVar[str] = "my neurons, {share:share}"

    share: float = 0.1
    strict: bool = False

    def select(self, statistics: Any) -> Any:
        raise NotImplementedError


@pytest.fixture
def third_party() -> Iterator[None]:
    class Plugin:
        @hookimpl
        def lnbench_register_selectors(self, register: Any) -> None:
            register("mine", Mine)

    plugin = Plugin()
    get_host().register(plugin)
    plain_name.cache_clear()
    yield
    get_host().unregister(plugin)
    plain_name.cache_clear()


@pytest.mark.usefixtures("third_party")
def test_a_plugin_declares_its_own() -> None:
    assert plain_name("selector", "mine") == "my neurons, 10\u00a0%"
    assert plain_name("selector", "mine:share=0.005:strict=true") == "my neurons, 0.5\u00a0%, strict True"


def test_equal_names_keep_their_choice() -> None:
    shown = names.plain_names("intervention", ["zero", "constant:value=0", "p10"])
    assert shown == {
        "zero": "zero-ablation (zero)",
        "constant:value=0": "zero-ablation (constant:value=0)",
        "p10": "10th percentile",
    }


def test_languages() -> None:
    assert [names.language_name(code) for code in ("hi", "ur", "xx-nowhere")] == ["Hindi", "Urdu", "xx-nowhere"]
    assert pair_name("hi", "en") == "English→Hindi"


def test_metrics_and_tasks() -> None:
    assert metric_title("bits_per_byte", False) == "surprise at the text (bits per byte, lower is better)"
    assert metric_title("acc", True) == "accuracy (higher is better)"
    assert metric_title("my_metric,strict-match") == "my metric, strict match"
    assert task_title("lnbench_xnli_{lang}") == "Inference (XNLI)"
    assert task_title("lnbench_xnli_pair_{source}_{lang}") == "Inference across languages (XNLI)"
    assert [task_title(pattern) for pattern in ("belebele_{lang}", "mmlu", "{lang}")] == ["belebele", "mmlu", "{lang}"]
    assert task_title("quiz_{lang}", "A quiz") == "A quiz"
