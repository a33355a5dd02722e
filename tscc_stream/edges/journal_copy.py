"""Whole copies of a journal: for a backup, and to give back the room that is free in its file."""

from __future__ import annotations

import os
import shutil
import sqlite3
from collections.abc import Callable
from pathlib import Path

from tscc_stream.edges.journal_mark import check_log
from tscc_stream.edges.journal_salvage import connect_read_only
from tscc_stream.edges.journal_schema import BUSY_MS, check_format, explained, flush, number_of, remove_part
from tscc_stream.edges.sqlite import Lock
from tscc_stream.stages.journal import JournalError

_SPARE = 1 << 20
_STEPS = 10_000  # of SQLite's machine between two looks at how far it is
Progress = Callable[[int, int], None]
"""Bytes written, of about so many."""


def backup(path: Path, target: Path, on_progress: Progress) -> int:
    """A copy as of this moment, beside a daemon that writes; its size in bytes. Raises JournalError.

    target: not there yet. It is whole or not there.
    """
    if target.exists():
        raise JournalError(f"{target}: is there already; give another name, or move it away")
    db = connect_read_only(path)
    try:
        return _copy(db, path, target, on_progress)
    finally:
        db.close()


def compact(path: Path, on_progress: Progress) -> tuple[int, int]:
    """Give the room that is free in the file back to the disk; its size before and after. For a stopped daemon.

    The new file takes the old one's place when it is whole and on the disk. Raises JournalError.
    """
    if not path.exists():
        raise JournalError(f"journal {path}: is not there")
    with explained(path, "lock it"):
        lock = Lock(path)
    try:
        with explained(path, "compact it"):
            return _compact(path, on_progress)
    finally:
        lock.release()


def _compact(path: Path, on_progress: Progress) -> tuple[int, int]:
    check_log(path)
    db = sqlite3.connect(path, isolation_level=None)
    try:
        db.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
        check_format(db, path, oldest=1)
        if number_of(db, "PRAGMA wal_checkpoint(TRUNCATE)"):
            raise JournalError(f"journal {path}: another program reads it; end that first")
        fresh = path.with_name(f"{path.name}.compact")
        fresh.unlink(missing_ok=True)  # of one that was killed
        before = path.stat().st_size
        after = _copy(db, path, fresh, on_progress)
    finally:
        db.close()  # before its file is replaced: the last one to close removes the log
    if path.with_name(f"{path.name}-wal").exists():
        fresh.unlink()
        raise JournalError(f"journal {path}: another program reads it; end that first")
    _belong_as(fresh, path)
    fresh.replace(path)
    flush(path.parent)
    return before, after


def _belong_as(fresh: Path, old: Path) -> None:
    """Whoever compacts it, the daemon must be able to write it."""
    was = old.stat()
    fresh.chmod(was.st_mode & 0o777)
    if (was.st_uid, was.st_gid) != (fresh.stat().st_uid, fresh.stat().st_gid):
        os.chown(fresh, was.st_uid, was.st_gid)


def _copy(db: sqlite3.Connection, path: Path, target: Path, on_progress: Progress) -> int:
    part = target.with_name(f"{target.name}.part")
    remove_part(part)
    needed = _needed(db)
    free = shutil.disk_usage(target.parent).free
    if free < needed + _SPARE:
        raise JournalError(
            f"{target.parent}: {free / 2**20:.1f} MiB are free there, a copy of the journal needs "
            f"{(needed + _SPARE) / 2**20:.1f} MiB"
        )

    def look() -> int:
        on_progress(min(part.stat().st_size if part.exists() else 0, needed), needed)
        return 0

    db.set_progress_handler(look, _STEPS)
    try:
        with explained(path, f"copy it to {target}"):
            db.execute("VACUUM INTO ?", (str(part),))
            flush(part)
            part.replace(target)
            flush(target.parent)
    except BaseException:
        remove_part(part)
        raise
    finally:
        db.set_progress_handler(None, 0)
    return target.stat().st_size


def _needed(db: sqlite3.Connection) -> int:
    pages = number_of(db, "PRAGMA page_count") - number_of(db, "PRAGMA freelist_count")
    return pages * number_of(db, "PRAGMA page_size")
