"""Errors of the Hugging Face hub's client, in one line each that says what to do."""

from __future__ import annotations

from collections.abc import Iterator

from lnbench.errors import LnbenchError, one_line_error
from lnbench.passing_faults import is_passing

_REMEDIES = {
    "GatedRepoError": "it is gated: accept its terms on its page on the hub, then log in with hf auth login, or set "
    "HF_TOKEN",
    "RevisionNotFoundError": "it has no such revision",
    "RepositoryNotFoundError": "the hub has none of that name, or it is private: check the name, or log in with "
    "hf auth login",
    "RemoteEntryNotFoundError": "the repository has no such file",
    "HFValidationError": "there is no such folder, and it is no name of the hub, as owner/name",
    "LocalEntryNotFoundError": "it is not in the cache, and the hub cannot be reached: run the command once with a "
    "network, or name a folder",
    "OfflineModeIsEnabled": "it is not in the cache, and HF_HUB_OFFLINE is set: unset it once, or name a folder",
}
"""Class of the client's error → what it means; the first that an error comes from is taken."""


_OF_STATUS = {
    401: "the hub does not know you: log in with hf auth login, or set HF_TOKEN",
    403: "your token does not allow it: log in with one that has write access there",
    429: "the hub answers too many requests (429): wait some minutes",
}
"""Status of the hub's answer → what it means, where the error's class does not say it."""
_FAILING = range(500, 600)


def hub_error(what: str, error: Exception, verb: str = "load") -> LnbenchError:
    """Return the error of something that could not be had from the hub.

    Args:
        what: What was wanted, with its name.
        error: What the client, or a library that calls it, raised.
        verb: What could not be done with it.
    """
    causes = list(_causes(error))
    answers = [getattr(getattr(cause, "response", None), "status_code", None) for cause in causes]
    of_status = [_OF_STATUS[status] for status in answers if status in _OF_STATUS]
    passing = is_passing(error)
    names = [kind.__name__ for cause in causes for kind in type(cause).__mro__]
    remedy = next((meaning for name, meaning in _REMEDIES.items() if name in names), None)
    # The client says that nothing is in its cache also where the hub has answered, and could not.
    if remedy is None or passing:
        refused = next((f"the hub answers {status}" for status in answers if status in _FAILING), None)
        remedy = next(iter(of_status), None) or refused or remedy or one_line_error(error)
        remedy += "; the same command tries it again" if passing else ""
    return LnbenchError(f"cannot {verb} {what}: {remedy}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
