"""What the console computed from the journal, kept in a file that may be deleted at any time: it is made anew.

The journal itself has no index by time over all channels, and needs none to serve the bus; here is one. Nothing here is
anybody's word: what people say is in people.sqlite, and only mirrored.

A file of another format, of another journal (epoch) or a damaged one is thrown away and begun again.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

FILE = "console.sqlite"
FORMAT = 1
BUSY_MS = 5_000

_SCHEMA = (
    "CREATE TABLE cache (epoch TEXT NOT NULL) STRICT",
    "CREATE TABLE progress (what TEXT PRIMARY KEY, low INTEGER NOT NULL, high INTEGER NOT NULL) STRICT, WITHOUT ROWID",
    """CREATE TABLE label (
        number INTEGER PRIMARY KEY,
        model TEXT NOT NULL,
        cluster INTEGER NOT NULL,
        name TEXT NOT NULL,
        UNIQUE (model, cluster, name)
    ) STRICT""",
    "CREATE TABLE channel (number INTEGER PRIMARY KEY, nslc TEXT NOT NULL UNIQUE) STRICT",
    """CREATE TABLE event (
        seq INTEGER PRIMARY KEY,
        uid TEXT NOT NULL UNIQUE,
        network INTEGER NOT NULL,
        onset_ns INTEGER NOT NULL,
        label INTEGER NOT NULL,
        unknown INTEGER NOT NULL,
        membership REAL NOT NULL,
        votes INTEGER NOT NULL,
        quality INTEGER NOT NULL,
        channels TEXT NOT NULL
    ) STRICT""",
    "CREATE INDEX event_onset ON event (onset_ns)",
    "CREATE TABLE member (detection TEXT PRIMARY KEY, network TEXT NOT NULL) STRICT, WITHOUT ROWID",
    """CREATE TABLE verdict (
        uid TEXT PRIMARY KEY,
        name TEXT NOT NULL,
        agrees INTEGER NOT NULL,
        who TEXT NOT NULL,
        at_ns INTEGER NOT NULL
    ) STRICT, WITHOUT ROWID""",
    "CREATE TABLE embedding (seq INTEGER PRIMARY KEY, vector BLOB NOT NULL) STRICT",
    f"PRAGMA user_version = {FORMAT}",
)


class CacheError(RuntimeError):
    """The file cannot be read or written for the moment, in one sentence."""


class CacheFile:
    """One connection, for one thread at a time. Made anew where it is not the cache of this journal."""

    def __init__(self, path: Path, epoch: str) -> None:
        """Raises CacheError."""
        self.path = path
        self.epoch = epoch
        with explained(path):
            try:
                self.db = self._opened()
            except _ThrownAwayError:
                for name in (path.name, f"{path.name}-wal", f"{path.name}-shm"):
                    path.with_name(name).unlink(missing_ok=True)
                self.db = self._opened()

    def _opened(self) -> sqlite3.Connection:
        db = sqlite3.connect(self.path, timeout=BUSY_MS / 1000, isolation_level=None, check_same_thread=False)
        try:
            db.execute("PRAGMA journal_mode = WAL")
            db.execute("PRAGMA synchronous = NORMAL")  # the last seconds may be lost with the power: they are made anew
            if _is_empty(db):
                self._fill(db)
            known = db.execute("PRAGMA user_version").fetchone()[0] == FORMAT
            if not known or db.execute("SELECT epoch FROM cache").fetchone() != (self.epoch,):
                raise _ThrownAwayError
        except sqlite3.DatabaseError as error:
            db.close()
            if error.sqlite_errorcode & 0xFF in (sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB):
                raise _ThrownAwayError from error
            raise
        except _ThrownAwayError:
            db.close()
            raise
        return db

    def _fill(self, db: sqlite3.Connection) -> None:
        with transaction(db):
            if _is_empty(db):  # still, now that no other may write
                for statement in _SCHEMA:
                    db.execute(statement)
                db.execute("INSERT INTO cache VALUES (?)", (self.epoch,))

    def close(self) -> None:
        self.db.close()

    def progress(self, what: str) -> tuple[int, int] | None:
        """The stretch of numbers that is done, both ends included; None: nothing yet."""
        row: tuple[int, int] | None = self.db.execute(
            "SELECT low, high FROM progress WHERE what = ?", (what,)
        ).fetchone()
        return row

    def note_progress(self, what: str, low: int, high: int) -> None:
        """Within the caller's transaction."""
        self.db.execute("INSERT OR REPLACE INTO progress VALUES (?, ?, ?)", (what, low, high))


def _is_empty(db: sqlite3.Connection) -> bool:
    return not db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]


class _ThrownAwayError(Exception):
    """It is not ours, or not of this journal."""


@contextmanager
def explained(path: Path) -> Iterator[None]:
    """SQLite's errors and the system's as CacheError."""
    try:
        yield
    except sqlite3.Error as error:
        raise CacheError(f"{path}: {error}; it may be deleted, the console makes it anew") from error
    except OSError as error:
        raise CacheError(f"{path}: {error.strerror}") from error


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All of it or nothing."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def next_stretch(done: tuple[int, int] | None, oldest: int, head: int, most: int) -> tuple[int, int] | None:
    """Which seqs to do next, at most so many: what came since, from the lower end; else what lies before, newest first.

    None: everything from `oldest` to `head` is done.
    """
    if oldest > head:
        return None
    if done is None or done[1] < oldest - 1:
        return max(oldest, head - most + 1), head
    low, high = done
    if high < head:
        return max(high + 1, oldest), min(head, high + most)
    if low > oldest:
        return max(oldest, low - most), low - 1
    return None


def touches(done: tuple[int, int] | None, piece: tuple[int, int], oldest: int) -> bool:
    """Whether no seq would be left out between what is done and the piece."""
    if done is None or done[1] < oldest - 1:
        return True
    return piece[0] <= done[1] + 1 and piece[1] >= max(done[0], oldest) - 1


def joined(done: tuple[int, int] | None, piece: tuple[int, int], oldest: int) -> tuple[int, int]:
    """The stretch that is done when the piece is."""
    if done is None or done[1] < oldest - 1:
        return piece
    return max(oldest, min(done[0], piece[0])), max(done[1], piece[1])
