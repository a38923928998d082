"""Faults of the network that pass by themselves, and how long to wait for that."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from typing import TypeVar

log = logging.getLogger(__name__)
Result = TypeVar("Result")
WAITS = (1.0, 2.0, 4.0, 8.0)
"""Seconds before each further attempt."""
_CLIENTS = {"requests", "urllib3", "httpx", "httpcore", "httpx2", "httpcore2", "aiohttp", "fsspec", "huggingface_hub"}
_PASSING_STATUS = {408, 425, 429, 500, 502, 503, 504}
_TIMEOUTS = ("Timeout", "TimedOut")
_BROKEN = (
    "ConnectError",
    "ConnectionError",
    "ReadError",
    "ProtocolError",
    "ChunkedEncodingError",
    "ClientConnectorError",
    "ClientOSError",
    "ClientPayloadError",
    "ServerDisconnectedError",
    "IncompleteRead",
)


def is_passing(error: BaseException, *, begun: bool = True) -> bool:
    """Return whether a fault, or one that it was raised from, is of the kind that passes by itself.

    Args:
        error: The fault.
        begun: Whether the host was reached before; where it was not, a refused connection is a missing network.
    """
    seen: set[int] = set()
    current: BaseException | None = error
    while current is not None and id(current) not in seen:
        seen.add(id(current))
        kinds = [kind for kind in type(current).__mro__ if kind is not object]
        names = [kind.__name__ for kind in kinds if kind.__module__.partition(".")[0] in _CLIENTS]
        if any("Offline" in kind.__name__ for kind in kinds):
            return False
        status = getattr(getattr(current, "response", None), "status_code", getattr(current, "status", None))
        if status in _PASSING_STATUS or isinstance(current, TimeoutError):
            return True
        if any(name.endswith(part) or part in name for name in names for part in _TIMEOUTS):
            return True
        if begun and (isinstance(current, ConnectionError) or any(name.endswith(_BROKEN) for name in names)):
            return True
        current = current.__cause__ or current.__context__
    return False


def retried(call: Callable[[], Result], what: str) -> Result:
    """Return what ``call`` returns, after up to four more attempts where a passing fault ends it."""
    for wait in WAITS:
        try:
            return call()
        except Exception as error:
            if not is_passing(error, begun=False):
                raise
            log.warning("%s: %s; trying again", what, (str(error).splitlines() or [type(error).__name__])[0])
            time.sleep(wait)
    return call()
