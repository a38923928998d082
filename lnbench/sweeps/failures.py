"""What errors say of a sweep: whose fault they are, and how they are told in a record."""

from __future__ import annotations

import errno

from lnbench.errors import LnbenchError

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


def told(error: BaseException) -> str:
    """An error in one line."""
    text = " ".join(str(error).split())
    return text if isinstance(error, LnbenchError) else f"{type(error).__name__}: {text}"


def disk_error(error: BaseException | None) -> OSError | None:
    """The error of the disk that another error comes from."""
    while error is not None and not (isinstance(error, OSError) and error.errno in _DISK):
        error = error.__cause__ or error.__context__
    return error
