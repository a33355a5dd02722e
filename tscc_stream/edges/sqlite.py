"""The journal in an SQLite file: one writer, any number of readers, every group of messages in one transaction.

Write-ahead log with synchronous=FULL: when `append` has returned, its messages are on the disk, and a process that is
killed at any moment leaves either the whole group or nothing of it (https://sqlite.org/wal.html, /pragma.html).
"""

from __future__ import annotations

import fcntl
import math
import os
import sqlite3
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from tscc_stream.edges.journal_check import check_heads, check_start
from tscc_stream.edges.journal_mark import MarkFile, check_log, why_another
from tscc_stream.edges.journal_schema import (
    BUSY_MS,
    NS_PER_HOUR,
    SCHEMA_VERSION,
    Clock,
    Copying,
    WrongTypeError,
    check_format,
    epoch_of,
    explained,
    heads_of,
    kept_of,
    new_epoch,
    number_of,
    prepare,
    transaction,
)
from tscc_stream.edges.journal_spilled import SpilledWindows
from tscc_stream.gap_causes import LOST
from tscc_stream.messages import Committed, Gap, Message
from tscc_stream.stages.journal import GapEntry, JournalError, Snapshot, StoredSnapshot, number
from tscc_stream.stages.publish import WAVEFORM, Page

__all__ = ["JournalError", "JournalFile", "JournalReader"]

SCAN = 10_000  # rows that one read looks at, at most: what bounds its time when hardly any topic matches
TRIM_ROWS = 200  # messages that one transaction removes, at most: a few milliseconds
WITNESSES = 72  # hours of operation without which nothing is old: a clock that leaps ahead has them only after days
MOST_QUARANTINED = 10_000  # windows that are kept in quarantine; beyond, the oldest are forgotten

_OLD_GAPS = """DELETE FROM gap WHERE (sid, from_ns, cause) IN (
    SELECT sid, from_ns, cause FROM gap WHERE noted_ns < ? AND to_ns IS NOT NULL ORDER BY noted_ns LIMIT ?)"""
_OLD_QUARANTINE = """DELETE FROM quarantine WHERE rowid IN (
    SELECT rowid FROM quarantine WHERE noted_ns < ? ORDER BY rowid LIMIT ?)"""
_COLUMNS = "m.seq, m.topic_seq, m.topic, m.kind, m.uid, m.final, m.sid, m.onset_ns, m.tolerance_ns, m.body"


class Lock:
    """A lock file beside the journal, held as long as the process lives: it cannot outlive a kill -9."""

    def __init__(self, path: Path) -> None:
        self._fd = os.open(path.with_name(path.name + ".lock"), os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o644)
        try:
            fcntl.flock(self._fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            owner = os.read(self._fd, 32).decode("ascii", "replace").strip() or "unknown"
            os.close(self._fd)
            raise JournalError(f"journal {path}: process {owner} is writing it; one daemon per state_dir") from None
        os.ftruncate(self._fd, 0)
        os.write(self._fd, f"{os.getpid()}\n".encode("ascii"))

    def release(self) -> None:
        """Any number of times: a number of a closed file may already be somebody else's."""
        fd, self._fd = self._fd, -1
        if fd >= 0:
            os.close(fd)


class JournalFile:
    """The one writer. Used by one thread at a time. Raises JournalError, with the file's name, for whatever fails.

    clock: wall time (ns), by which messages grow old. A file of an earlier version is copied, then brought up to date:
    copying is told how far that is, in bytes of all, and `kept` is the copy (None: there was nothing to bring).
    renewed: why this opening gave the journal a new epoch, since it is or may be a copy of the one that stood here;
    empty where it did not.
    """

    def __init__(self, path: Path, clock: Clock = time.time_ns, copying: Copying = lambda _copied, _all: None) -> None:
        self.path = path
        self.kept: Path | None = None
        self._clock = clock
        self._mark = MarkFile(path)
        self.renewed = ""
        with explained(path, "open it for writing"):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = Lock(path)
        try:
            with explained(path, "open it for writing"):
                check_log(path)
                self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
                self._open(copying)
        except JournalError:
            self.close()
            raise

    def _open(self, copying: Copying) -> None:
        self._db.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
        check_start(self._db, self.path)
        found = prepare(self._db, self.path, self._clock, copying)
        self.kept = kept_of(self.path, found) if 0 < found < SCHEMA_VERSION else None
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        with transaction(self._db):
            self._db.execute("UPDATE journal SET epoch = epoch")  # better refused now than with the first message
        self._heads = heads_of(self._db)
        self._head = sum(self._heads.values())
        check_heads(self._db, self.path, self._head)
        self._recognise(found)
        self.epoch = epoch_of(self._db)
        self._mark.begin(self.epoch, self._head)
        self.duplicates = 0
        self._spilled = SpilledWindows(self._db)
        self._ledger_hour = 0
        self._aged: tuple[tuple[int, float], int] = ((0, 0.0), 0)

    def _recognise(self, found: int) -> None:
        """A copy of the journal that stood here becomes another epoch, or its numbers would be given out twice."""
        mark = self._mark.look()
        is_first_mark = mark is None and found < SCHEMA_VERSION  # earlier versions wrote none
        why = "" if found == 0 or is_first_mark else why_another(mark, epoch_of(self._db), self._head)
        if why:
            with transaction(self._db):
                self._db.execute("UPDATE journal SET epoch = ?", (new_epoch(),))
        self.renewed = why

    @property
    def head(self) -> int:
        """Seq of the last message; 0 where there is none."""
        return self._head

    @property
    def topic_heads(self) -> dict[str, int]:
        """Last topic_seq per first two parts of the topic."""
        return dict(self._heads)

    def append(
        self, messages: Iterable[Message], gaps: Iterable[Gap] = (), snapshot: Snapshot | None = None
    ) -> list[Committed]:
        """Store what is new among `messages`, in one transaction; on return it is on the disk.

        gaps: for the ledger, in the same transaction. snapshot: to go on from after these messages; it takes the place
        of the one before.

        What is there already is refused and counted in `duplicates`. A spilled window whose detection is among them, or
        that `unspill` or `quarantine` named, waits no longer; it leaves the file with a snapshot, which knows what
        became of it. After a JournalError nothing of the group is stored, and the same group may be appended again.
        """
        group = list(messages)
        with explained(self.path, "write to it"), transaction(self._db):
            numbered = number(group, self._head, self._heads, self)
            self._insert(numbered.committed)
            self._db.executemany(
                "INSERT OR REPLACE INTO head VALUES (?, ?)", numbered.heads.items() - self._heads.items()
            )
            done = self._spilled.held(one.uid for one in group if one.kind == "detection")
            self._note(gaps)
            if snapshot is not None:
                self._replace_snapshot(snapshot, numbered.head)
                self._spilled.delete(done)
        self._spilled.finish(done, deleted=snapshot is not None)
        self._head, self._heads = numbered.head, numbered.heads
        if numbered.committed:
            self._mark.note(self._head)
        self.duplicates += numbered.duplicates
        return list(numbered.committed)

    def _insert(self, committed: Sequence[Committed]) -> None:
        self._db.executemany("INSERT INTO message VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", map(_row, committed))
        self._db.executemany(
            "INSERT INTO waveform VALUES (?, ?, ?)",
            [
                (one.seq, one.message.waveform, one.message.band_passed)
                for one in committed
                if one.message.waveform is not None
            ],
        )
        if committed:
            hour = self._clock() // NS_PER_HOUR
            self._db.execute("INSERT OR IGNORE INTO hour VALUES (?, ?)", (hour, committed[0].seq))

    def _note(self, gaps: Iterable[Gap]) -> None:
        """What was noted before keeps its cause, since data that are read again after a restart have the same gaps; it
        ends where the longest of them does.
        """
        noted_ns = self._clock()
        for gap in gaps:
            if gap.cause in LOST and self._lengthen(gap):
                continue
            self._db.execute(
                """INSERT INTO gap VALUES (?, ?, ?, ?, ?) ON CONFLICT (sid, from_ns, cause)
                   DO UPDATE SET to_ns = excluded.to_ns WHERE gap.to_ns IS NULL""",
                (gap.sid, gap.from_ns, gap.to_ns, gap.cause, noted_ns),
            )

    def _lengthen(self, gap: Gap) -> bool:
        """Whether a loss that begins there is known, which then ends no earlier than this one."""
        query = f"""UPDATE gap SET to_ns = max(coalesce(to_ns, ?1), coalesce(?1, to_ns))
                    WHERE sid = ? AND from_ns = ? AND cause IN ({", ".join("?" * len(LOST))})"""  # noqa: S608  # marks only
        return self._db.execute(query, (gap.to_ns, gap.sid, gap.from_ns, *LOST)).rowcount > 0

    def close_gaps(self, until_ns: Mapping[str, int]) -> None:
        """Who could end the breaks that still last is gone: they end where their channels had come to, by source id."""
        with explained(self.path, "write to it"), transaction(self._db):
            for sid, from_ns in self._db.execute("SELECT sid, from_ns FROM gap WHERE to_ns IS NULL").fetchall():
                end_ns = max(from_ns, until_ns.get(sid, from_ns))
                self._db.execute("UPDATE gap SET to_ns = ? WHERE sid = ? AND from_ns = ?", (end_ns, sid, from_ns))

    def latest_onsets(self, after: int) -> dict[str, int]:
        """Latest onset (ns) of the detections after a seq, by source id."""
        query = "SELECT sid, max(onset_ns) FROM message WHERE seq > ? AND kind = 'detection' GROUP BY sid"
        with explained(self.path, "read it"):
            return dict(self._db.execute(query, (after,)))

    def _replace_snapshot(self, snapshot: Snapshot, head: int) -> None:
        self._db.execute(
            "INSERT OR REPLACE INTO snapshot VALUES (1, ?, ?, ?, ?, ?, ?, ?)",
            (
                snapshot.format,
                snapshot.made_of,
                head,
                snapshot.positions,
                snapshot.reached,
                snapshot.state,
                snapshot.checksum(head),
            ),
        )

    def snapshot(self) -> StoredSnapshot | None:
        """What to go on from; None where none was stored yet."""
        query = "SELECT format, made_of, positions, reached, state, head, checksum FROM snapshot"
        with explained(self.path, "read its snapshot"):
            row = self._db.execute(query).fetchone()
        if row is None:
            return None
        *parts, head, checksum = row
        snapshot = Snapshot(*parts)
        return StoredSnapshot(snapshot, head, intact=snapshot.checksum(head) == checksum)

    @property
    def spilled_count(self) -> int:
        """Spilled windows that wait to be classified."""
        return self._spilled.waiting

    @property
    def spilled_rows(self) -> int:
        """The same, and those that wait no longer and leave the file with the next snapshot."""
        return self._spilled.rows

    def spill(self, windows: Sequence[tuple[str, bytes]]) -> int:
        """Keep windows (uid, bytes) to be classified later, in one transaction; one that is kept already stays.

        How many were not kept yet.
        """
        with explained(self.path, "write to it"), transaction(self._db):
            rows = self._spilled.add(windows)
        self._spilled.added((uid for uid, _ in windows), rows)
        return rows

    def spilled(self, limit: int) -> list[tuple[str, bytes]]:
        """Windows that wait to be classified, in the order in which they came, at most `limit`."""
        with explained(self.path, "read it"):
            return self._spilled.oldest(limit)

    def spilled_among(self, uids: Iterable[str]) -> set[str]:
        """Windows that the file still has as spilled."""
        with explained(self.path, "read it"):
            return self._spilled.held(uids)

    def settled_among(self, uids: Iterable[str]) -> set[str]:
        """Windows whose detection is stored, or that are in quarantine."""
        query = "SELECT EXISTS (SELECT 1 FROM quarantine WHERE uid = ?)"
        with explained(self.path, "read it"):
            return {uid for uid in uids if self.contains(uid) or number_of(self._db, query, (uid,))}

    def unspill(self, uids: Iterable[str]) -> None:
        """Windows that will not be classified: they wait no longer, and leave the file with the next snapshot."""
        with explained(self.path, "read it"):
            done = self._spilled.held(uids)
        self._spilled.finish(done, deleted=False)

    def quarantine(self, uid: str, sid: str, onset_ns: int, reason: str, window: bytes) -> list[str]:
        """Keep a window that is not given to the encoder any more; it waits no longer if it is spilled.

        Windows that are forgotten in its place.
        """
        with explained(self.path, "write to it"), transaction(self._db):
            row = (uid, sid, onset_ns, reason, window, self._clock())
            self._db.execute("INSERT OR REPLACE INTO quarantine VALUES (?, ?, ?, ?, ?, ?)", row)
            query = "SELECT uid FROM quarantine ORDER BY noted_ns DESC, uid LIMIT -1 OFFSET ?"
            forgotten = [one for (one,) in self._db.execute(query, (MOST_QUARANTINED,))]
            self._db.executemany("DELETE FROM quarantine WHERE uid = ?", [(one,) for one in forgotten])
            done = self._spilled.held((uid,))
        self._spilled.finish(done, deleted=False)
        return forgotten

    def quarantined(self) -> dict[str, str]:
        """Reasons by uid, of the windows in quarantine."""
        with explained(self.path, "read it"):
            return dict(self._db.execute("SELECT uid, reason FROM quarantine"))

    def remember_model(self, sha256: str, document: bytes) -> None:
        """Keep model.json of the model whose detections follow: what their windows are is stated there."""
        with explained(self.path, "write to it"), transaction(self._db):
            self._db.execute("INSERT OR REPLACE INTO model VALUES (?, ?)", (sha256, document))

    def trim(self, days: float, max_bytes: float, most: int = TRIM_ROWS) -> int:
        """Remove up to `most` of the oldest messages, with their windows, that are older than `days` or too many.

        Age counts up to WITNESSES hours of operation ago, not up to now, since the machine's clock may be wrong.
        How many were removed: fewer than `most` where nothing more is to be done. The file does not shrink: the room
        is used again, so that it stops growing at about max_bytes.
        """
        with explained(self.path, "remove old messages from it"):
            self._hourly(days, most)
            first = number_of(self._db, "SELECT coalesce(min(seq), ?) FROM message", (self._head + 1,))
            end = min(max(self._last_too_old(days), self._last_too_many(first, max_bytes)), first + most - 1)
            if end < first:
                return 0
            with transaction(self._db):
                self._db.execute("DELETE FROM waveform WHERE seq <= ?", (end,))
                self._db.execute("DELETE FROM message WHERE seq <= ?", (end,))
            return end - first + 1

    def _hourly(self, days: float, most: int) -> None:
        """Note the hour. Up to `most` gaps that have ended go, and as many quarantined windows, noted longer ago."""
        hour = self._clock() // NS_PER_HOUR
        if hour == self._ledger_hour:
            return
        with transaction(self._db):
            self._witness()
            from_hour = self._oldest_hour(days)
            last = self._last_before(from_hour)
            self._db.execute("DELETE FROM hour WHERE hour < ? AND first_seq <= ?", (from_hour, last + 1))
            old = from_hour * NS_PER_HOUR, most
            removed = [self._db.execute(query, old).rowcount for query in (_OLD_GAPS, _OLD_QUARANTINE)]
        if max(removed) < most:
            self._ledger_hour = hour

    def _witness(self) -> None:
        """In this hour the journal was written to, or would have been."""
        hour = self._clock() // NS_PER_HOUR
        self._db.execute("INSERT OR IGNORE INTO hour VALUES (?, ?)", (hour, self._head + 1))

    def _oldest_hour(self, days: float) -> int:
        """What was noted in an earlier hour is too old; looked at once an hour.

        Neither a clock that is ahead for a while nor a long pause makes anything old: the latest WITNESSES hours in
        which the journal was in operation have to say so, all of them. Hours that the clock has not reached say
        nothing.
        """
        asked = self._clock() // NS_PER_HOUR, days
        if self._aged[0] != asked:
            query = """SELECT count(*), min(hour) FROM (SELECT hour FROM hour WHERE hour <= ?
                       ORDER BY first_seq DESC, hour DESC LIMIT ?)"""
            count, hour = self._db.execute(query, (asked[0], WITNESSES)).fetchone()
            self._aged = asked, max(0, math.floor(hour - 24 * days)) if count == WITNESSES else 0
        return self._aged[1]

    def _last_too_many(self, first: int, max_bytes: float) -> int:
        """Seq up to which messages must go to make room, taking all for equally large; 0: none must."""
        used = self.used_bytes
        excess = math.ceil((self._head - first + 1) * (1.0 - max_bytes / used))
        return first + excess - 1 if used > max_bytes else 0

    def _last_too_old(self, days: float) -> int:
        """Seq up to which messages were committed longer ago, to the hour; 0: none was."""
        return self._last_before(self._oldest_hour(days))

    def _last_before(self, hour: int) -> int:
        query = "SELECT coalesce(min(first_seq), 1) FROM hour WHERE hour >= ?"
        return number_of(self._db, query, (hour,)) - 1

    @property
    def used_bytes(self) -> int:
        """Room that messages take in the file, without what is free in it again."""
        free = number_of(self._db, "PRAGMA freelist_count")
        return (number_of(self._db, "PRAGMA page_count") - free) * number_of(self._db, "PRAGMA page_size")

    def has_uid(self, uid: str, final: bool) -> bool:
        """Whether the last word of this uid is there (final True), or anything of it at all (final False)."""
        query = "SELECT EXISTS (SELECT 1 FROM message WHERE uid = ? AND final >= ?)"
        return number_of(self._db, query, (uid, int(final))) == 1

    def has_onset(self, sid: str, from_ns: int, to_ns: int) -> bool:
        """Whether a detection of this channel is there with from_ns <= onset_ns <= to_ns."""
        query = """SELECT EXISTS (SELECT 1 FROM message
                   WHERE kind = 'detection' AND sid = ? AND onset_ns BETWEEN ? AND ?)"""
        return number_of(self._db, query, (sid, from_ns, to_ns)) == 1

    def contains(self, uid: str) -> bool:
        """Whether anything of this uid is there."""
        return self.has_uid(uid, final=False)

    def close(self) -> None:
        if hasattr(self, "_db"):
            self._db.close()
        self._mark.close()
        self._lock.release()

    def __enter__(self) -> JournalFile:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()


def _row(committed: Committed) -> tuple[object, ...]:
    message = committed.message
    return (
        committed.seq,
        committed.topic_seq,
        message.topic,
        message.kind,
        message.uid,
        int(message.final),
        message.sid,
        message.onset_ns,
        message.tolerance_ns,
        message.body,
    )


def _committed(row: Sequence[object]) -> Committed:
    seq, topic_seq, topic, kind, uid, final, sid, onset_ns, tolerance_ns, body, waveform = row
    if not (isinstance(topic_seq, int) and isinstance(body, bytes) and isinstance(waveform, bytes | None)):
        raise WrongTypeError
    message = Message(
        uid=str(uid),
        kind=str(kind),
        topic=str(topic),
        body=body,
        onset_ns=onset_ns,  # type: ignore[arg-type]  # STRICT table: INTEGER
        sid=str(sid),
        tolerance_ns=tolerance_ns,  # type: ignore[arg-type]  # STRICT table: INTEGER
        final=bool(final),
        waveform=waveform,  # None where it was not asked for
    )
    return Committed(seq, topic_seq, message)  # type: ignore[arg-type]  # STRICT table: INTEGER


@dataclass(frozen=True, slots=True)
class StoredWindow:
    """A detection's window before normalisation, float32 little-endian, with the body of its message."""

    seq: int
    sid: str
    onset_ns: int
    body: bytes
    band_passed: bytes


class JournalReader:
    """Reads a journal beside its writer, on a connection of its own. Used by one thread at a time.

    Every read is a short transaction, so that a slow reader never keeps the write-ahead log from being folded back.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with explained(path, "read it"):
            uri = f"file:{quote(str(path.absolute()))}?mode=ro"
            self._db = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        try:
            with explained(path, "read it"):
                self._db.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
                check_format(self._db, path)
                self.epoch = epoch_of(self._db)
        except JournalError:
            self.close()
            raise

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        with explained(self.path, "read it"):
            self._db.execute("BEGIN")
            try:
                yield
            finally:
                self._db.execute("COMMIT")

    def head(self) -> int:
        """Seq of the last message; 0 where there is none."""
        return sum(self.topic_heads().values())

    def topic_heads(self) -> dict[str, int]:
        """Last topic_seq per first two parts of the topic."""
        with explained(self.path, "read it"):
            return heads_of(self._db)

    def oldest(self) -> int:
        """Seq of the first message that is there; head + 1 where there is none."""
        with self._snapshot():
            return self._oldest(sum(heads_of(self._db).values()))

    def _oldest(self, head: int) -> int:
        return number_of(self._db, "SELECT coalesce(min(seq), ?) FROM message", (head + 1,))

    def since(self, seq: int | None, topic: str = "", limit: int = 500, max_bytes: int = 4_000_000) -> Page:
        """What was committed after `seq` under topics that begin with `topic`; None: no messages, only the heads.

        At most `limit` messages, about `max_bytes` of body and waveform (one message always fits), and SCAN rows
        looked at: ask again from `page.through` until it reaches `page.head`. Waveforms come only with topics that
        begin with `waveform.`, and then only messages that have one.
        """
        with self._snapshot():
            heads = heads_of(self._db)
            head = sum(heads.values())
            oldest = self._oldest(head)
            if seq is None or seq >= head:
                return Page(oldest, head, heads, head, ())
            start = max(seq, oldest - 1)
            end = min(start + SCAN, head)
            messages, full = _take(self._matching(start, end, topic), limit, max_bytes)
            return Page(oldest, head, heads, messages[-1].seq if full else end, tuple(messages))

    def gaps(self, from_ns: int = -(2**63), limit: int = 1_000_000) -> list[GapEntry]:
        """The ledger of gaps that end at or after a data time, or still last, in order of their beginning. Of more than
        `limit`, those that still last and then those that ended last.
        """
        query = """SELECT * FROM (SELECT sid, from_ns, to_ns, cause, noted_ns FROM gap WHERE to_ns IS NULL OR to_ns >= ?
                                  ORDER BY to_ns DESC NULLS FIRST, from_ns DESC, sid DESC LIMIT ?)
                   ORDER BY from_ns, sid"""
        with explained(self.path, "read it"):
            return [GapEntry(*row) for row in self._db.execute(query, (from_ns, limit))]

    def begin_ns(self) -> int | None:
        """Data time from which on the messages tell: of the oldest, or of the oldest detection, since recordings may
        be older than the clock; None where there is no message.
        """
        query = """SELECT min(onset_ns) FROM (
            SELECT * FROM (SELECT onset_ns FROM message ORDER BY seq LIMIT 1)
            UNION ALL SELECT * FROM (SELECT onset_ns FROM message WHERE kind = 'detection' ORDER BY seq LIMIT 1))"""
        with explained(self.path, "read it"):
            begin_ns: int | None = self._db.execute(query).fetchone()[0]
        return begin_ns

    def heard(self, span_ns: tuple[int, int]) -> dict[str, tuple[int, int]]:
        """By source id, the first and the last data time at which the journal tells of a channel: onsets of detections
        within a span, and ends of gaps.
        """
        gaps = "SELECT sid, min(from_ns), max(coalesce(to_ns, from_ns)) FROM gap GROUP BY sid"
        with explained(self.path, "read it"):
            heard = {sid: (first_ns, last_ns) for sid, first_ns, last_ns in self._db.execute(gaps)}
            for sid in self._detecting():
                for onset_ns in self._outermost(sid, span_ns):
                    first_ns, last_ns = heard.get(sid, (onset_ns, onset_ns))
                    heard[sid] = min(first_ns, onset_ns), max(last_ns, onset_ns)
            return heard

    def _detecting(self) -> Iterator[str]:
        """Source ids of detections, by one step of the index for each: going through all detections takes minutes."""
        query, sid = "SELECT min(sid) FROM message WHERE kind = 'detection' AND sid > ?", ""
        while (row := self._db.execute(query, (sid,)).fetchone())[0] is not None:
            yield (sid := row[0])

    def _outermost(self, sid: str, span_ns: tuple[int, int]) -> Iterator[int]:
        """The first and the last onset of a channel's detections within a span."""
        for order in ("ASC", "DESC"):
            query = f"""SELECT onset_ns FROM message WHERE kind = 'detection' AND sid = ? AND onset_ns >= ?
                        AND onset_ns < ? ORDER BY onset_ns {order} LIMIT 1"""  # noqa: S608  # a word of ours
            yield from (onset_ns for (onset_ns,) in self._db.execute(query, (sid, *span_ns)))

    def models(self) -> dict[str, bytes]:
        """model.json of every model that was live, by its SHA-256, the latest last."""
        with explained(self.path, "read it"):
            return dict(self._db.execute("SELECT sha256, document FROM model ORDER BY rowid"))

    def before(self, wall_ns: int) -> int:
        """A seq up to which everything was committed before a wall time, to the hour; 0 where nothing was.

        Also where the clock was wrong for a while: what was committed then is taken for later.
        """
        query = """SELECT min(coalesce((SELECT max(first_seq) FROM hour WHERE hour <= ?1), 1),
                              coalesce((SELECT min(first_seq) FROM hour WHERE hour >= ?1), ?2))"""
        with explained(self.path, "read it"):
            return number_of(self._db, query, (wall_ns // NS_PER_HOUR, 2**63 - 1)) - 1

    def last_word(self, uid: str) -> Committed | None:
        """The message of this uid that is final; None where there is none, or retention has removed it."""
        query = f"SELECT {_COLUMNS}, NULL FROM message m WHERE m.uid = ? AND m.final = 1"  # noqa: S608  # names of columns only
        with explained(self.path, "read it"):
            row = self._db.execute(query, (uid,)).fetchone()
        return None if row is None else _committed(row)

    def snapshot(self) -> Snapshot | None:
        """What a restart would go on from; None where there is none yet. Not checked for damage."""
        query = "SELECT format, made_of, positions, reached, state FROM snapshot"
        with explained(self.path, "read its snapshot"):
            row = self._db.execute(query).fetchone()
        return None if row is None else Snapshot(*row)

    def windows(self, after: int, limit: int = 500) -> list[StoredWindow]:
        """Detections after a seq whose window before normalisation is kept, in order, at most `limit`."""
        query = """SELECT m.seq, m.sid, m.onset_ns, m.body, w.band_passed FROM waveform w JOIN message m USING (seq)
                   WHERE w.seq > ? AND w.band_passed IS NOT NULL ORDER BY w.seq LIMIT ?"""
        with self._snapshot():
            return [StoredWindow(*row) for row in self._db.execute(query, (after, limit))]

    def _matching(self, start: int, end: int, topic: str) -> Iterator[Committed]:
        prefix = topic.removeprefix(WAVEFORM)
        samples, join = ("w.samples", "JOIN waveform w USING (seq)") if prefix != topic else ("NULL", "")
        query = f"""SELECT {_COLUMNS}, {samples} FROM message m {join}
                    WHERE m.seq > ? AND m.seq <= ? AND substr(m.topic, 1, ?) = ? ORDER BY m.seq"""  # noqa: S608  # names of columns only
        return map(_committed, self._db.execute(query, (start, end, len(prefix), prefix)))

    def close(self) -> None:
        self._db.close()


def _take(messages: Iterator[Committed], limit: int, max_bytes: int) -> tuple[list[Committed], bool]:
    """The first messages within both limits, and whether a limit ended them."""
    taken: list[Committed] = []
    size = 0
    for one in messages:
        taken.append(one)
        size += len(one.message.body) + len(one.message.waveform or b"")
        if len(taken) >= limit or size >= max_bytes:
            return taken, True
    return taken, False
