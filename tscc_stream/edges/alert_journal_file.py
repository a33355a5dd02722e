"""The file of the journal of alerts: its format, the lock that keeps a second alert process out, damage."""

from __future__ import annotations

import fcntl
import os
import sqlite3
from contextlib import closing
from datetime import UTC, datetime
from pathlib import Path
from urllib.parse import quote

from tscc_stream.ownership import give_to_owner_of_folder
from tscc_stream.writable import of_database

APPLICATION_ID = 0x54534341  # "TSCA"
SCHEMA_VERSION = 1
BUSY_MS = 10_000
MOST_LETTERS = 500
"""Of what is told of damage."""
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}

SCHEMA = (
    """CREATE TABLE alert (
        number INTEGER PRIMARY KEY,
        id TEXT NOT NULL UNIQUE,
        at_ns INTEGER NOT NULL,
        rule TEXT NOT NULL,
        kind TEXT NOT NULL,
        severity TEXT NOT NULL,
        title TEXT NOT NULL,
        document TEXT NOT NULL
    ) STRICT""",
    "CREATE INDEX alert_at ON alert (at_ns)",
    """CREATE TABLE delivery (
        number INTEGER PRIMARY KEY,
        alert TEXT NOT NULL REFERENCES alert (id),
        action TEXT NOT NULL,
        round INTEGER NOT NULL,
        made_ns INTEGER NOT NULL,
        state TEXT NOT NULL,
        attempts INTEGER NOT NULL,
        next_ns INTEGER NOT NULL,
        outcome TEXT NOT NULL,
        told INTEGER NOT NULL,
        UNIQUE (alert, action, round)
    ) STRICT""",
    "CREATE INDEX delivery_waiting ON delivery (action, attempts, number) WHERE state = 'waiting'",
    "CREATE INDEX delivery_untold ON delivery (number) WHERE state = 'failed' AND told = 0",
    """CREATE TABLE attempt (
        number INTEGER PRIMARY KEY,
        delivery INTEGER NOT NULL REFERENCES delivery (number),
        at_ns INTEGER NOT NULL,
        delivered INTEGER NOT NULL,
        outcome TEXT NOT NULL
    ) STRICT""",
    "CREATE INDEX attempt_delivery ON attempt (delivery)",
    """CREATE TABLE withheld (
        number INTEGER PRIMARY KEY,
        at_ns INTEGER NOT NULL,
        onset_ns INTEGER NOT NULL,
        rule TEXT NOT NULL,
        uid TEXT NOT NULL,
        why TEXT NOT NULL,
        reason TEXT NOT NULL
    ) STRICT""",
    "CREATE INDEX withheld_at ON withheld (at_ns)",
    "CREATE TABLE state (name TEXT PRIMARY KEY, document BLOB NOT NULL) STRICT, WITHOUT ROWID",
    """CREATE TABLE place (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        epoch TEXT NOT NULL,
        through INTEGER NOT NULL
    ) STRICT""",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)


class AlertJournalError(RuntimeError):
    """What the file cannot do, in one sentence."""


class AlertJournalHeldError(AlertJournalError):
    """Another alert process has the file."""


def locked(journal: Path) -> int:
    """The lock of a journal, for the caller to close. Raises AlertJournalHeldError, AlertJournalError."""
    path = journal.with_name(journal.name + ".lock")
    lock = -1
    try:
        lock = _opened(path)
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except OSError as error:
        if lock >= 0:
            os.close(lock)
        if isinstance(error, BlockingIOError):
            raise AlertJournalHeldError(f"{journal}: another `tscc-stream alert run` uses it") from error
        raise AlertJournalError(f"{path}: cannot be locked: {of_database(error, path)}") from error
    return lock


def locked_if_possible(journal: Path) -> int:
    """As `locked`; -1 where there is nothing to lock: then nobody else is kept out. Raises AlertJournalHeldError."""
    try:
        return locked(journal)
    except AlertJournalHeldError:
        raise
    except AlertJournalError:
        return -1


def _opened(path: Path) -> int:
    try:
        lock = os.open(path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    except OSError:
        if not path.is_file():
            raise
        return os.open(path, os.O_RDONLY | os.O_CLOEXEC)  # a lock holds on a read-only disk as well
    give_to_owner_of_folder(path)
    return lock


def damage_of(path: Path) -> str:
    """What is wrong with the file, in words; empty where nothing is, or where it cannot be looked at now.

    The whole file is read: some 300 MB a second. A file of a newer format, or a sound one of something else, is not
    damaged, whatever else it is.
    """
    if not path.is_file():
        return ""
    where = f"file:{quote(str(path.absolute()))}?mode=ro"  # a log beside it stays as it is
    try:
        with closing(sqlite3.connect(where, uri=True, isolation_level=None, timeout=BUSY_MS / 1000)) as db:
            ours = db.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
            if ours and db.execute("PRAGMA user_version").fetchone()[0] > SCHEMA_VERSION:
                return ""
            found = str(db.execute("PRAGMA quick_check(1)").fetchone()[0])
    except sqlite3.Error as error:
        return str(error) if getattr(error, "sqlite_errorcode", 0) & 0xFF in _DAMAGED else ""
    return "" if found == "ok" else found.replace("\n", " ")[:MOST_LETTERS]


def put_aside(path: Path, now_ns: int) -> str:
    """Its name now. Raises AlertJournalError."""
    at = datetime.fromtimestamp(now_ns / 1e9, UTC)
    aside = f"{path.name}.damaged-{at:%Y%m%dT%H%M%S.%fZ}"
    try:
        for end in ("", "-wal", "-shm"):
            part = path.with_name(path.name + end)
            if part.exists():
                part.rename(path.with_name(aside + end))
    except OSError as error:
        raise AlertJournalError(f"{path}: is damaged, and cannot be put aside: {of_database(error, path)}") from error
    return aside
