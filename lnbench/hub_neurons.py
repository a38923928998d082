"""NeuronSets in dataset repositories of the Hugging Face hub: their names, and the file of one."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from functools import cache
from pathlib import Path

from lnbench.errors import LnbenchError
from lnbench.hub_errors import hub_error
from lnbench.passing_faults import retried

PREFIX = "hub:"
"""What a repository's name begins with where a file can be named too: ``hub:owner/name@revision``."""
FILE = "neurons.json"
"""The NeuronSet's file in a repository."""
_NAME = re.compile(r"(?P<repo>[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*)(@(?P<revision>[^@\s]+))?")


def repository(name: str, revision: str | None = None) -> tuple[str, str | None]:
    """Return repository and revision of ``owner/name`` or ``owner/name@revision``, with or without ``hub:`` before it.

    Args:
        name: The name.
        revision: A branch, tag or commit, where the name has none.

    Raises:
        LnbenchError: it is no such name, or there are two revisions.
    """
    match = _NAME.fullmatch(name.removeprefix(PREFIX))
    if match is None:
        raise LnbenchError(f"{name!r} is no repository of the hub: expected owner/name or owner/name@revision")
    if revision is not None and match["revision"] not in (None, revision):
        raise LnbenchError(f"{name} names the revision {match['revision']}, and --revision {revision}: give one")
    return match["repo"], revision or match["revision"]


def is_repository(name: str) -> bool:
    """Return whether a name has the form of a repository's, without a revision."""
    match = _NAME.fullmatch(name)
    return match is not None and match["revision"] is None


@cache
def download(repo: str, revision: str | None) -> Path:
    """Return the file of a repository's NeuronSet in the hub's cache, asked for once per process.

    Its folder is named after the commit.

    Raises:
        LnbenchError: there is no such repository, revision or file, or it cannot be had.
    """
    from huggingface_hub import hf_hub_download

    named = f"{repo}@{revision}" if revision else repo
    try:
        return Path(
            retried(lambda: hf_hub_download(repo, FILE, repo_type="dataset", revision=revision), f"neurons {named}")
        )
    except Exception as error:  # The client, and what it calls, raise their own kinds.
        raise hub_error(f"the neurons {named} ({FILE})", error) from error


def local_file(path: str | os.PathLike[str]) -> Path:
    """Return a NeuronSet's file on this machine: ``path`` itself, or that of ``hub:owner/name@revision``.

    Raises:
        LnbenchError: as :func:`download`.
    """
    text = os.fspath(path)
    return download(*repository(text)) if text.startswith(PREFIX) else Path(text)


def upload(repo: str, files: Mapping[str, bytes], message: str, *, private: bool = False) -> str:
    """Put files into a dataset repository, which is made if it is not there, in one commit; return the commit.

    Args:
        repo: ``owner/name``.
        files: Path in the repository → content.
        message: Of the commit.
        private: Whether a repository that is made is private.

    Raises:
        LnbenchError: the hub refuses, or cannot be reached.
    """
    from huggingface_hub import CommitOperationAdd, HfApi

    def commit() -> str:
        api = HfApi()
        api.create_repo(repo, repo_type="dataset", private=private, exist_ok=True)
        operations = [CommitOperationAdd(path, content) for path, content in files.items()]
        done = api.create_commit(repo, operations, commit_message=message, repo_type="dataset")
        return str(done.oid)

    try:
        return retried(commit, f"push to {repo}")
    except Exception as error:  # The client, and what it calls, raise their own kinds.
        raise hub_error(f"to {repo}", error, "push") from error
