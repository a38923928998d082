"""The table of what was right before the faults were mended names tests that there are."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.faults import RIGHT_BEFORE


@pytest.mark.parametrize("name", RIGHT_BEFORE)
def test_a_row_of_the_table_is_a_test(name: str) -> None:
    file, _, test = name.partition("::")
    assert f"def {test.partition('[')[0]}(" in Path(__file__).with_name(file).read_text(encoding="utf-8")
