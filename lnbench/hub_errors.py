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
    "HFValidationError": "there is no such folder, and it is no name of the hub, as owner/name",
    "LocalEntryNotFoundError": "it is not in the cache, and the hub cannot be reached: run the command once with a "
    "network, or name a folder",
    "OfflineModeIsEnabled": "it is not in the cache, and HF_HUB_OFFLINE is set: unset it once, or name a folder",
}
"""Class of the client's error → what it means; the first that an error comes from is taken."""


def hub_error(what: str, error: Exception) -> LnbenchError:
    """Return the error of something that could not be had from the hub.

    Args:
        what: What was wanted, with its name.
        error: What the client, or a library that calls it, raised.
    """
    names = [kind.__name__ for cause in _causes(error) for kind in type(cause).__mro__]
    remedy = next((meaning for name, meaning in _REMEDIES.items() if name in names), None)
    if remedy is None:
        again = "; the same command tries it again" if is_passing(error) else ""
        remedy = one_line_error(error) + again
    return LnbenchError(f"cannot load {what}: {remedy}")


def _causes(error: BaseException | None) -> Iterator[BaseException]:
    seen: set[int] = set()
    while error is not None and id(error) not in seen:
        seen.add(id(error))
        yield error
        error = error.__cause__ or error.__context__
