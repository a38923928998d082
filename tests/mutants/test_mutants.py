"""The list of mutants fits the code; ``make test-mutants`` runs them."""

from __future__ import annotations

from collections import Counter

import pytest

from tests.mutants.__main__ import CHECKOUT, mutants
from tests.mutants.mutants import MUTANTS


@pytest.mark.parametrize("file", MUTANTS)
def test_every_mutant_is_a_change_of_one_place(file: str) -> None:
    source = (CHECKOUT / file).read_text(encoding="utf-8")
    tests, changes = MUTANTS[file]
    stale = [text for text, _ in changes if source.count(text) != 1]
    assert len(stale) <= len(changes) // 4, f"{stale} are no longer in {file}: write mutants of what is there now"
    assert [text for text, other in changes if text == other] == []
    assert all((CHECKOUT / test).exists() for test in tests)


def test_there_are_enough() -> None:
    lines = [*mutants()]
    assert len(lines) >= 60
    assert max(Counter((file, text, other) for file, text, other, _ in lines).values()) == 1
    for file, text, other, _ in lines:
        compile((CHECKOUT / file).read_text(encoding="utf-8").replace(text, other), file, "exec")
