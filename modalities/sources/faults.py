"""A file cannot be read: is it this file that is at fault, and what is said of it?"""

from __future__ import annotations

import errno

OF_FILE = (FileNotFoundError, PermissionError, NotADirectoryError, IsADirectoryError, EOFError)

CODES = (None, errno.ELOOP, errno.ENAMETOOLONG, errno.EIO)
"""Of plain OSErrors: that of a link to itself, of a bad sector, and of what Arrow finds damaged (none)."""


def is_its_own(error: BaseException) -> bool:
    """Tell whether a file is at fault, as it is gone, closed to us or damaged.

    Otherwise it is the way to it, a network say, and the same may be true of every file.
    """
    return isinstance(error, OF_FILE) or (type(error) is OSError and error.errno in CODES)


def told(error: BaseException) -> str:
    """Say in one sentence why a file cannot be read."""
    if isinstance(error, FileNotFoundError):
        return "The file is gone, or is no regular file."
    if isinstance(error, PermissionError):
        return "The file may not be read (permission denied)."
    code = getattr(error, "errno", None)
    why = errno.errorcode.get(code, type(error).__name__) if code else type(error).__name__
    return f"The file cannot be read ({why})."
