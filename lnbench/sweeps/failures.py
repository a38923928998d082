"""Which errors are the disk's, and end a sweep."""

from __future__ import annotations

import errno

_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG, errno.EROFS, errno.EIO}


def disk_error(error: BaseException | None) -> OSError | None:
    """The error of the disk that another error comes from."""
    while error is not None and not (isinstance(error, OSError) and error.errno in _DISK):
        error = error.__cause__ or error.__context__
    return error
