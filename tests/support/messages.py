"""Messages to users: tests name the values that an error must tell, and each sentence is kept once, in a snapshot."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

import pytest

from lnbench.errors import LnbenchError


def lacks(text: str, *values: object) -> list[str]:
    """Return the values that the text does not hold as whole words."""
    return [str(value) for value in values if not re.search(rf"(?<!\w){re.escape(str(value))}(?!\w)", text)]


@contextmanager
def refused(
    *values: object, error: type[BaseException] | tuple[type[BaseException], ...] = LnbenchError
) -> Iterator[pytest.ExceptionInfo[BaseException]]:
    """Assert that the block raises ``error`` with a message that names every value.

    Values are what a reader acts on, and what distinguishes one error from another: names, paths, numbers, options,
    technical terms. The sentence around them is in the snapshot of ``tests/test_messages.py``.
    """
    with pytest.raises(error) as caught:
        yield caught
    message = str(caught.value)
    missing = lacks(message, *values)
    assert not missing, f"{missing} not named in: {message}"
