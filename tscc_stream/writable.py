"""Why a folder cannot be written to, in words: SQLite's own do not tell a full disk from a missing right."""

from __future__ import annotations

import errno
import os
import sqlite3
import tempfile
from pathlib import Path

_FULL = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
_UNTOLD = {
    sqlite3.SQLITE_CANTOPEN,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_PERM,
}
"""Of SQLite's errors, those behind which the folder may stand."""
_TRIED = b"\0" * 8192


def why_not(folder: Path) -> str:
    """Empty where a file can be written there, which is tried."""
    try:
        with tempfile.TemporaryFile(dir=folder) as file:
            file.write(_TRIED)
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return _said(error, folder.absolute())
    return ""


def _said(error: OSError, folder: Path) -> str:
    if error.errno == errno.EROFS:
        return f"{folder} is mounted read-only"
    if error.errno in _FULL:
        return f"the disk of {folder} is full"
    if error.errno in (errno.EACCES, errno.EPERM):
        return f"user {os.geteuid()} has no right to write to {folder}"
    if error.errno == errno.ENOENT:
        return f"there is no folder {folder}"
    return f"{folder} cannot be written to: {error.strerror}"


def of_database(error: Exception, path: Path) -> str:
    """What stands behind an error of SQLite's or the system's over a database file, as far as that can be told."""
    if isinstance(error, OSError):
        return why_not(path.parent) or str(error.strerror or error)
    if not isinstance(error, sqlite3.Error) or getattr(error, "sqlite_errorcode", 0) & 0xFF not in _UNTOLD:
        return str(error)
    return why_not(path.parent) or _of_file(path) or str(error)


def _of_file(path: Path) -> str:
    if not path.exists():
        return "there is no such file"
    if path.is_dir():
        return "it is a folder"
    for wanted, doing in ((os.R_OK, "read"), (os.W_OK, "write")):
        if not os.access(path, wanted):
            return f"user {os.geteuid()} has no right to {doing} it"
    return ""
