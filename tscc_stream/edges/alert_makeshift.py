"""The journal of alerts in memory, while its file cannot be written: what waits there comes in, all goes out later."""

from __future__ import annotations

import sqlite3
from collections.abc import Sequence
from contextlib import closing
from pathlib import Path
from urllib.parse import quote

from tscc_stream.writable import of_database

MOST_PAGES = 65_536
"""Of 4 KiB each."""
_NUMBER = "number INTEGER PRIMARY KEY"
_OPEN = "(state = 'waiting' OR state = 'failed' AND told = 0)"
_FILLED = (
    ("state", "SELECT * FROM state"),
    ("place", "SELECT * FROM place"),
    ("delivery", f"SELECT * FROM delivery WHERE {_OPEN}"),  # noqa: S608  # a constant
    ("alert", f"SELECT * FROM alert WHERE id IN (SELECT alert FROM delivery WHERE {_OPEN})"),  # noqa: S608  # a constant
)
_CARRIED = (
    ("SELECT * FROM alert ORDER BY number",
     "INSERT INTO alert VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (id) DO NOTHING"),
    ("SELECT * FROM delivery ORDER BY number",
     "INSERT OR REPLACE INTO delivery VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)"),
    ("SELECT * FROM attempt ORDER BY number", "INSERT INTO attempt VALUES (?, ?, ?, ?, ?)"),
    ("SELECT at_ns, onset_ns, rule, uid, why, reason FROM withheld ORDER BY number",
     "INSERT INTO withheld (at_ns, onset_ns, rule, uid, why, reason) VALUES (?, ?, ?, ?, ?, ?)"),
    ("SELECT * FROM state", "INSERT OR REPLACE INTO state VALUES (?, ?)"),
    ("SELECT * FROM place", "INSERT OR REPLACE INTO place VALUES (?, ?, ?)"),
)  # fmt: skip


def made(schema: Sequence[str], now_ns: int) -> sqlite3.Connection:
    """An empty one. Its numbers begin with the time (us): they stay when it is carried over, and the file's, which
    count from 1 or from an earlier such time, are smaller.
    """
    db = sqlite3.connect(":memory:", isolation_level=None, check_same_thread=False)
    db.execute(f"PRAGMA max_page_count = {MOST_PAGES}")
    for statement in schema:
        db.execute(statement.replace(_NUMBER, f"{_NUMBER} AUTOINCREMENT"))
    for table in ("alert", "delivery", "attempt"):
        db.execute("INSERT INTO sqlite_sequence VALUES (?, ?)", (table, now_ns // 1000))
    return db


def fill(db: sqlite3.Connection, path: Path, kind: tuple[int, int]) -> str:
    """Take over from the file what rules remember, the place, and what waits, all of it or nothing.

    Why that could not be done, in words; empty where it could, or where there is no file. kind: application_id and
    user_version that it must have.
    """
    if not path.exists():
        return ""
    try:
        with closing(_readable(path)) as file:
            found = tuple(file.execute(f"PRAGMA {name}").fetchone()[0] for name in ("application_id", "user_version"))
            if found != kind:
                return "it is of another kind or format"
            taken = [(table, file.execute(query).fetchall()) for table, query in _FILLED]
        _put(db, taken)
    except (sqlite3.Error, OSError, UnicodeError) as error:
        return of_database(error, path)
    return ""


def _put(db: sqlite3.Connection, taken: Sequence[tuple[str, Sequence[Sequence[object]]]]) -> None:
    """All of it or nothing: a damaged page may hold what no table takes."""
    db.execute("BEGIN")
    try:
        for table, rows in taken:
            for row in rows:
                db.execute(f"INSERT INTO {table} VALUES ({', '.join('?' * len(row))})", row)  # noqa: S608  # a name of ours
    except BaseException:
        db.execute("ROLLBACK")
        raise
    db.execute("COMMIT")


def _readable(path: Path) -> sqlite3.Connection:
    """Where not even the log's index can be made, as on a read-only disk, a file without a log is read as it lies."""
    where, log = f"file:{quote(str(path.absolute()))}?mode=ro", path.with_name(path.name + "-wal")
    db = sqlite3.connect(where, uri=True, isolation_level=None)
    try:
        db.execute("SELECT count(*) FROM sqlite_schema")
    except sqlite3.OperationalError:
        db.close()
        if log.exists() and log.stat().st_size:
            raise
        return sqlite3.connect(f"{where}&immutable=1", uri=True, isolation_level=None)
    return db


def carry_over(db: sqlite3.Connection, file: sqlite3.Connection) -> None:
    """Everything into the file, within its transaction. What the file had is replaced where it went on in memory."""
    for query, statement in _CARRIED:
        file.executemany(statement, db.execute(query))
