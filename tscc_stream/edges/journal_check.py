"""Whether a journal is whole: what SQLite says of its file, and what must hold of the messages in it.

Everything but SQLite's own check is read in short transactions, so that a daemon goes on writing beside it.
"""

from __future__ import annotations

import sqlite3
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from tscc_stream.edges.journal_schema import (
    NS_PER_HOUR,
    advice_where_damaged,
    explained,
    heads_of,
    number_of,
)
from tscc_stream.messages import topic_group
from tscc_stream.stages.journal import JournalDamagedError, Snapshot

START_SECONDS = 2.0  # what a start spends on SQLite's check: some 100 MB of a disk
STRETCH = 5_000  # messages that one transaction looks at
Progress = Callable[[int, int], None]
"""Done, of so many."""


@contextmanager
def _interrupted_after(db: sqlite3.Connection, seconds: float) -> Iterator[None]:
    timer = threading.Timer(seconds, db.interrupt)
    timer.daemon = True
    timer.start()
    try:
        yield
    finally:
        timer.cancel()
        timer.join()  # or it would interrupt whatever comes next


def sqlite_findings(db: sqlite3.Connection, pragma: str, seconds: float) -> tuple[list[str], bool]:
    """What `integrity_check`, or the faster `quick_check`, says in so many seconds, and whether it came to its end."""
    try:
        with _interrupted_after(db, seconds):
            rows = [str(row[0]) for row in db.execute(f"PRAGMA {pragma}(20)")]
    except sqlite3.DatabaseError as error:
        if error.sqlite_errorcode == sqlite3.SQLITE_INTERRUPT:
            return [], False
        if error.sqlite_errorcode == sqlite3.SQLITE_CORRUPT:
            return [str(error)], True
        raise
    lines = [line for row in rows for line in row.splitlines() if not line.startswith("***") and line != "ok"]
    return [line for line in lines if "interrupted" not in line], not any("interrupted" in line for line in lines)


def check_start(db: sqlite3.Connection, path: Path) -> None:
    """As much as a start can wait for: the whole of a small file, the beginning of a large one. Raises JournalError."""
    with explained(path, "open it for writing"):
        findings, _ = sqlite_findings(db, "quick_check", START_SECONDS)
    if findings:
        raise JournalDamagedError(f"journal {path}: is damaged: {findings[0]}; {advice_where_damaged(path)}")


def check_heads(db: sqlite3.Connection, path: Path, head: int) -> None:
    """The numbers that come next must be free. Raises JournalDamagedError."""
    last = number_of(db, "SELECT coalesce(max(seq), ?) FROM message", (head,))
    if last != head:
        raise JournalDamagedError(
            f"journal {path}: is damaged: its last message has seq {last}, its heads add up to {head}; "
            f"{advice_where_damaged(path)}"
        )


@dataclass
class Numbering:
    """Walks through all messages, stretch by stretch. findings: one line each."""

    db: sqlite3.Connection
    findings: list[str] = field(default_factory=list)
    _last: dict[str, int] = field(default_factory=dict)  # topic_seq per group; unknown after a hole

    def walk(self, on_progress: Progress) -> None:
        at, head = 0, 1
        while at < head:
            try:
                at, head = self._stretch(at)
            except sqlite3.DatabaseError as error:
                head = sum(heads_of(self.db).values())
                self.findings.append(f"seq {at + 1} to {min(at + STRETCH, head)}: cannot be read: {error}")
                self._last.clear()
                at += STRETCH
            on_progress(min(at, head), head)
        self._compare_heads()

    def _stretch(self, at: int) -> tuple[int, int]:
        """Look at what comes after `at`; how far it came, and the head. Retention may remove messages meanwhile."""
        self.db.execute("BEGIN")
        try:
            head = sum(heads_of(self.db).values())
            oldest = number_of(self.db, "SELECT coalesce(min(seq), ?) FROM message", (head + 1,))
            if oldest - 1 > at:
                self._last.clear()
            start = max(at, oldest - 1)
            end = min(start + STRETCH, head)
            self._look_at(start, end)
            return end, head
        finally:
            self.db.execute("COMMIT")

    def _look_at(self, start: int, end: int) -> None:
        rows = self.db.execute(
            "SELECT seq, topic_seq, topic FROM message WHERE seq > ? AND seq <= ? ORDER BY seq", (start, end)
        )
        expected = start + 1
        for seq, topic_seq, topic in rows:
            if seq != expected:
                self._hole(expected, seq - 1)
            if isinstance(topic_seq, int) and isinstance(topic, str):
                self._count(seq, topic_seq, topic_group(topic))
            else:
                self._hole(seq, seq)
            expected = seq + 1
        if expected <= end:
            self._hole(expected, end)
        for query, text in (
            (_TWICE, "its uid is not exactly once in the index"),
            (_ORPHANS, "a waveform without a message"),
        ):
            self.findings += [f"seq {seq}: {text}" for (seq,) in self.db.execute(query, (start, end))]

    def _hole(self, first: int, last: int) -> None:
        self.findings.append(f"seq {first} to {last}: missing, or not to be read")
        self._last.clear()

    def _count(self, seq: int, topic_seq: int, group: str) -> None:
        before = self._last.get(group)
        if before is not None and topic_seq != before + 1:
            self.findings.append(f"seq {seq}: has topic_seq {topic_seq} of {group}, expected {before + 1}")
        self._last[group] = topic_seq

    def _compare_heads(self) -> None:
        self.db.execute("BEGIN")
        try:
            heads = heads_of(self.db)
            last = number_of(self.db, "SELECT coalesce(max(seq), 0) FROM message")
        finally:
            self.db.execute("COMMIT")
        if last > (head := sum(heads.values())):
            self.findings.append(f"seq {head + 1} to {last}: beyond the head {head}")
        for group, topic_seq in self._last.items():
            if heads.get(group, 0) < topic_seq:
                self.findings.append(f"head of {group}: is {heads.get(group, 0)}, its last message has {topic_seq}")


_TWICE = """SELECT m.seq FROM message m WHERE m.seq > ? AND m.seq <= ? AND 1 <> (
    SELECT count(*) FROM message i INDEXED BY message_uid WHERE i.uid = m.uid AND i.final = m.final)"""
_ORPHANS = """SELECT w.seq FROM waveform w LEFT JOIN message m USING (seq)
    WHERE w.seq > ? AND w.seq <= ? AND m.seq IS NULL"""


def ledger_findings(db: sqlite3.Connection) -> list[str]:
    """The ledger of gaps, quarantine, what waits to be classified, and the snapshot: readable and sensible."""
    findings = []
    for table, query in _LEDGER.items():
        try:
            findings += [f"{table}: {wrong}" for (wrong,) in db.execute(query)]
        except sqlite3.DatabaseError as error:
            findings.append(f"{table}: cannot be read: {error}")
    try:
        findings += _snapshot_findings(db)
    except (sqlite3.DatabaseError, TypeError) as error:
        findings.append(f"snapshot: cannot be read: {error}")
    return findings


_LEDGER = {
    "gap": "SELECT sid || ' ends before it begins' FROM gap WHERE to_ns < from_ns AND cause <> 'clock' LIMIT 20",
    "spilled": "SELECT uid || ' has no window' FROM spilled WHERE length(window) = 0 LIMIT 20",
    "quarantine": "SELECT uid || ' has no reason' FROM quarantine WHERE length(window) >= 0 AND reason = '' LIMIT 20",
    "model": "SELECT sha256 || ' has no document' FROM model WHERE length(document) = 0 LIMIT 20",
}


def _snapshot_findings(db: sqlite3.Connection) -> list[str]:
    query = "SELECT format, made_of, positions, reached, state, head, checksum FROM snapshot"
    return [
        "snapshot: its checksum does not hold: a start will not use it"
        for *parts, head, checksum in db.execute(query)
        if Snapshot(*parts).checksum(head) != checksum
    ]


@dataclass(frozen=True, slots=True)
class Extent:
    """hours: age of the oldest message by its commit, None where none is there; used_bytes: without what is free."""

    messages: int
    oldest: int
    head: int
    hours: float | None
    used_bytes: int
    file_bytes: int


def extent(db: sqlite3.Connection, path: Path, now_ns: int) -> Extent:
    """How much is there, and since when. Raises JournalError."""
    with explained(path, "read it"):
        head = sum(heads_of(db).values())
        oldest = number_of(db, "SELECT coalesce(min(seq), ?) FROM message", (head + 1,))
        hour = db.execute("SELECT max(hour) FROM hour WHERE first_seq <= ?", (oldest,)).fetchone()[0]
        page = number_of(db, "PRAGMA page_size")
        pages, free = number_of(db, "PRAGMA page_count"), number_of(db, "PRAGMA freelist_count")
    hours = None if hour is None or oldest > head else now_ns / NS_PER_HOUR - hour
    return Extent(head - oldest + 1, oldest, head, hours, (pages - free) * page, pages * page)
