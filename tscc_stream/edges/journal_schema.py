"""The journal's tables, and how files of earlier versions are brought up to date.

Version 2 adds to version 1: the window before normalisation (data sets are made of it; the normalised one stays as it
is, so that a replay gives the bytes that were published, whatever numpy computes by then); model.json of every model
that was live; and when, to the hour, which seq was committed, by which old messages are found without a look at each.
Version 3 adds what a restart goes on from (`snapshot`), the ledger of gaps (`gap`), windows that wait to be classified
(`spilled`), and those that are not given to the encoder any more (`quarantine`).
"""

from __future__ import annotations

import os
import shutil
import sqlite3
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

from tscc_stream.stages.journal import JournalBlockedError, JournalDamagedError, JournalError
from tscc_stream.writable import of_database

SCHEMA_VERSION = 3
APPLICATION_ID = 0x54534343  # "TSCC": file(1) and we tell the journal from other databases by it
NS_PER_HOUR = 3_600_000_000_000
Clock = Callable[[], int]
"""Wall time, ns."""
Copying = Callable[[int, int], None]
"""Bytes that are copied, of so many; called every few MB."""

_BLOCKED = {
    sqlite3.SQLITE_BUSY,
    sqlite3.SQLITE_LOCKED,
    sqlite3.SQLITE_FULL,
    sqlite3.SQLITE_IOERR,
    sqlite3.SQLITE_READONLY,
    sqlite3.SQLITE_CANTOPEN,
}
_DAMAGED = {sqlite3.SQLITE_CORRUPT, sqlite3.SQLITE_NOTADB}
_COPY_PAGES = 1024  # at a time: 4 MB
_SPARE = 16 << 20  # free beside the copy: the log that SQLite writes meanwhile
BUSY_MS = 5_000  # how long one statement waits for another program that has locked the file

_MESSAGE = (
    """CREATE TABLE message (
        seq INTEGER PRIMARY KEY,
        topic_seq INTEGER NOT NULL,
        topic TEXT NOT NULL,
        kind TEXT NOT NULL,
        uid TEXT NOT NULL,
        final INTEGER NOT NULL,
        sid TEXT NOT NULL,
        onset_ns INTEGER NOT NULL,
        tolerance_ns INTEGER NOT NULL,
        body BLOB NOT NULL
    ) STRICT""",
    "CREATE UNIQUE INDEX message_uid ON message (uid, final)",
    "CREATE INDEX message_onset ON message (sid, onset_ns) WHERE kind = 'detection'",
)
_ADDED_IN_2 = (
    "CREATE TABLE model (sha256 TEXT PRIMARY KEY, document BLOB NOT NULL) STRICT",
    "CREATE TABLE hour (hour INTEGER PRIMARY KEY, first_seq INTEGER NOT NULL) STRICT",
)
_ADDED_IN_3 = (
    """CREATE TABLE snapshot (
        one INTEGER PRIMARY KEY CHECK (one = 1),
        format INTEGER NOT NULL,
        made_of BLOB NOT NULL,
        head INTEGER NOT NULL,
        positions BLOB NOT NULL,
        reached BLOB NOT NULL,
        state BLOB NOT NULL,
        checksum BLOB NOT NULL
    ) STRICT""",
    """CREATE TABLE gap (
        sid TEXT NOT NULL,
        from_ns INTEGER NOT NULL,
        to_ns INTEGER,
        cause TEXT NOT NULL,
        noted_ns INTEGER NOT NULL,
        PRIMARY KEY (sid, from_ns, cause)
    ) STRICT, WITHOUT ROWID""",
    "CREATE INDEX gap_noted ON gap (noted_ns)",
    "CREATE TABLE spilled (place INTEGER PRIMARY KEY, uid TEXT NOT NULL UNIQUE, window BLOB NOT NULL) STRICT",
    """CREATE TABLE quarantine (
        uid TEXT PRIMARY KEY,
        sid TEXT NOT NULL,
        onset_ns INTEGER NOT NULL,
        reason TEXT NOT NULL,
        window BLOB NOT NULL,
        noted_ns INTEGER NOT NULL
    ) STRICT""",
)
_SCHEMA = (
    "CREATE TABLE journal (epoch TEXT NOT NULL) STRICT",
    *_MESSAGE,
    """CREATE TABLE waveform (
        seq INTEGER PRIMARY KEY REFERENCES message (seq),
        samples BLOB NOT NULL,
        band_passed BLOB
    ) STRICT""",
    "CREATE TABLE head (topic_group TEXT PRIMARY KEY, topic_seq INTEGER NOT NULL) STRICT, WITHOUT ROWID",
    *_ADDED_IN_2,
    *_ADDED_IN_3,
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)


@contextmanager
def explained(path: Path, doing: str) -> Iterator[None]:
    """SQLite's errors, and the system's, as one sentence with the file's name."""
    try:
        yield
    except sqlite3.Error as error:
        cannot_open = getattr(error, "sqlite_errorcode", 0) & 0xFF == sqlite3.SQLITE_CANTOPEN
        why = of_database(error, path) if cannot_open else error
        raise _explanation(error, path, f"journal {path}: cannot {doing}: {why}") from error
    except OSError as error:
        raise JournalBlockedError(f"journal {path}: cannot {doing}: {error.strerror}") from error


def _explanation(error: sqlite3.Error, path: Path, sentence: str) -> JournalError:
    code = getattr(error, "sqlite_errorcode", 0) & 0xFF  # the rest tells more of the same
    if code in _BLOCKED:
        return JournalBlockedError(sentence)
    if code in _DAMAGED:
        return JournalDamagedError(f"{sentence}; {advice_where_damaged(path)}")
    return JournalError(sentence)


def advice_where_damaged(path: Path) -> str:
    """What a person can do with a damaged journal."""
    return (
        f"`tscc-stream journal export --state-dir {path.parent} --out FILE` saves what can be read; then move "
        f"{path.name} and {path.name}-wal away, and the next start makes a new journal, which is a new epoch"
    )


class WrongTypeError(sqlite3.DatabaseError):
    """A damaged page holds a value that no STRICT table takes; SQLite does not look when it reads."""

    sqlite_errorcode = sqlite3.SQLITE_CORRUPT

    def __init__(self) -> None:
        super().__init__("a value has another type than its column")


def number_of(db: sqlite3.Connection, query: str, parameters: tuple[object, ...] = ()) -> int:
    """The one number that a query gives."""
    row = db.execute(query, parameters).fetchone()
    if row is None or not isinstance(row[0], int):
        raise WrongTypeError
    return row[0]


def epoch_of(db: sqlite3.Connection) -> str:
    row = db.execute("SELECT epoch FROM journal").fetchone()
    if row is None or not isinstance(row[0], str):
        raise WrongTypeError
    return row[0]


def new_epoch() -> str:
    return str(uuid.uuid4())


def heads_of(db: sqlite3.Connection) -> dict[str, int]:
    """Last topic_seq per first two parts of the topic."""
    heads = dict(db.execute("SELECT topic_group, topic_seq FROM head ORDER BY topic_group"))
    if not all(isinstance(group, str) and isinstance(last, int) for group, last in heads.items()):
        raise WrongTypeError
    return heads


@contextmanager
def transaction(db: sqlite3.Connection) -> Iterator[None]:
    """All of it or nothing."""
    db.execute("BEGIN IMMEDIATE")
    try:
        yield
        db.execute("COMMIT")
    except BaseException:
        if db.in_transaction:
            db.execute("ROLLBACK")
        raise


def check_format(db: sqlite3.Connection, path: Path, oldest: int = SCHEMA_VERSION) -> int:
    """The file's version. oldest: what the caller can do something with. Raises JournalError."""
    if number_of(db, "PRAGMA application_id") != APPLICATION_ID:
        raise JournalError(f"journal {path}: this is an SQLite database of something else")
    version = number_of(db, "PRAGMA user_version")
    if oldest <= version <= SCHEMA_VERSION:
        return version
    advice = (
        "start the daemon on it once, which brings it up to date"
        if 1 <= version < SCHEMA_VERSION
        else "use the tscc-stream that wrote it, or a newer one"
    )
    raise JournalError(f"journal {path}: has format {version}, this program reads format {SCHEMA_VERSION}: {advice}")


def prepare(db: sqlite3.Connection, path: Path, clock: Clock, copying: Copying) -> int:
    """Make the tables of a new file, or bring those of an earlier version up to date. For the one writer.

    The version that was found; 0: the file is new. copying: is told how far the copy is that is kept of an earlier one.
    """
    if not number_of(db, "SELECT count(*) FROM sqlite_schema"):
        with transaction(db):
            for statement in _SCHEMA:
                db.execute(statement)
            db.execute("INSERT INTO journal VALUES (?)", (new_epoch(),))
        return 0
    version = check_format(db, path, oldest=1)
    if version < SCHEMA_VERSION:
        _copy(db, path, kept_of(path, version), copying)
        with transaction(db):
            for bring in (_from_1_to_2, _from_2_to_3)[version - 1 :]:
                bring(db, clock)
            db.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    return version


def kept_of(path: Path, version: int) -> Path:
    """Where the journal lies as it was in that format."""
    return path.with_name(f"{path.name}.format-{version}")


def _copy(db: sqlite3.Connection, path: Path, beside: Path, copying: Copying) -> None:
    """The file as it was, whole or not there: SQLite's own backup, since part of it may be in the write-ahead log."""
    fresh = beside.with_name(f".{beside.name}")
    remove_part(fresh)
    page = number_of(db, "PRAGMA page_size")
    _look_for_room(path, beside, number_of(db, "PRAGMA page_count") * page + _SPARE)
    target = sqlite3.connect(fresh)
    try:
        db.backup(
            target,
            pages=_COPY_PAGES,
            progress=lambda _status, left, pages: copying((pages - left) * page, pages * page),
        )
    except BaseException:
        target.close()
        remove_part(fresh)
        raise
    target.close()
    fresh.replace(beside)
    flush(beside.parent)  # before the original changes


def remove_part(part: Path) -> None:
    """Of a copy, with SQLite's own file beside it, which a copy that was killed leaves as well."""
    for path in (part, part.with_name(f"{part.name}-journal")):
        path.unlink(missing_ok=True)


def _look_for_room(path: Path, beside: Path, needed: int) -> None:
    free = shutil.disk_usage(path.parent).free
    if free < needed:
        raise JournalBlockedError(
            f"journal {path}: this version brings it to format {SCHEMA_VERSION} and keeps a copy of it as it was, "
            f"{beside}: that needs {needed / 2**20:.0f} MiB, and {free / 2**20:.0f} MiB are free; nothing was changed"
        )


def flush(path: Path) -> None:
    """A file, or a folder and so the names in it, is on the disk. Raises OSError."""
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def _from_1_to_2(db: sqlite3.Connection, clock: Clock) -> None:
    """When its messages were committed the old file does not say: their age counts from now."""
    for statement in ("ALTER TABLE waveform ADD COLUMN band_passed BLOB", *_ADDED_IN_2):
        db.execute(statement)
    db.execute("INSERT INTO hour VALUES (?, 1)", (clock() // NS_PER_HOUR,))


def _from_2_to_3(db: sqlite3.Connection, _clock: Clock) -> None:
    for statement in _ADDED_IN_3:
        db.execute(statement)
