"""Every causal-LM type of transformers: what works on it is what the page says, so an upgrade shows as a difference."""

from __future__ import annotations

import pytest
import transformers

from tests.support.type_table import NAMES, PAGE, YES, TypeRow, frozen, measure

_QUICK = ("llama", "phi3", "gpt2", "lfm2", "bitnet", "openai-gpt", "mixtral", "mamba", "blt", "granitemoehybrid, dense")
"""One per form of feed-forward and per reason of refusal; ``pytest -m architectures`` runs the others."""


def _measured_on_this_version() -> bool:
    return f"transformers {transformers.__version__} " in PAGE.read_text(encoding="utf-8")


def test_the_page_has_every_type() -> None:
    assert list(frozen()) == list(NAMES)


@pytest.mark.parametrize(
    "name", [name if name in _QUICK else pytest.param(name, marks=pytest.mark.architectures) for name in NAMES]
)
def test_a_type_works_as_the_page_says(name: str) -> None:
    if not _measured_on_this_version():
        pytest.skip("the page was measured on another version of transformers; run make architectures")
    assert measure(name).line() == frozen()[name]


def test_what_is_located_passes_every_check_that_decides() -> None:
    located = {name: line for name, line in frozen().items() if f"| {YES} |" in line}
    assert len(located) >= 80
    assert sum("experts" in line for line in located.values()) >= 57
    assert not [name for name, line in located.items() if "**no**" in line]


def test_a_row_shows_what_went_wrong() -> None:
    row = TypeRow("novel", "2 × 48; plain", (YES, "no: reason", YES, YES, YES))
    assert row.line() == "| `novel` | 2 × 48; plain | yes | no: reason | yes | yes | yes |"
