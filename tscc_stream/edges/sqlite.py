"""The journal in an SQLite file: one writer, any number of readers, every group of messages in one transaction.

Write-ahead log with synchronous=FULL: when `append` has returned, its messages are on the disk, and a process that is
killed at any moment leaves either the whole group or nothing of it (https://sqlite.org/wal.html, /pragma.html).
"""

from __future__ import annotations

import fcntl
import os
import sqlite3
import uuid
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from types import TracebackType
from urllib.parse import quote

from tscc_stream.messages import Committed, Message
from tscc_stream.stages.journal import JournalError, number
from tscc_stream.stages.publish import WAVEFORM, Page

__all__ = ["JournalError", "JournalFile", "JournalReader"]

SCHEMA_VERSION = 1
APPLICATION_ID = 0x54534343  # "TSCC": file(1) and we tell the journal from other databases by it
SCAN = 10_000  # rows that one read looks at, at most: what bounds its time when hardly any topic matches
_BUSY_MS = 5_000

_SCHEMA = (
    "CREATE TABLE journal (epoch TEXT NOT NULL) STRICT",
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
    "CREATE TABLE waveform (seq INTEGER PRIMARY KEY REFERENCES message (seq), samples BLOB NOT NULL) STRICT",
    "CREATE TABLE head (topic_group TEXT PRIMARY KEY, topic_seq INTEGER NOT NULL) STRICT, WITHOUT ROWID",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
_COLUMNS = "m.seq, m.topic_seq, m.topic, m.kind, m.uid, m.final, m.sid, m.onset_ns, m.tolerance_ns, m.body"


@contextmanager
def _explained(path: Path, doing: str) -> Iterator[None]:
    """SQLite's errors, and the system's, as one sentence with the file's name."""
    try:
        yield
    except sqlite3.Error as error:
        raise JournalError(f"journal {path}: cannot {doing}: {error}") from error
    except OSError as error:
        raise JournalError(f"journal {path}: cannot {doing}: {error.strerror}") from error


def _number_of(db: sqlite3.Connection, query: str, parameters: Sequence[object] = ()) -> int:
    return int(db.execute(query, parameters).fetchone()[0])


def _check_format(db: sqlite3.Connection, path: Path) -> None:
    if _number_of(db, "PRAGMA application_id") != APPLICATION_ID:
        raise JournalError(f"journal {path}: this is an SQLite database of something else")
    version = _number_of(db, "PRAGMA user_version")
    if version != SCHEMA_VERSION:
        raise JournalError(
            f"journal {path}: has format {version}, this program reads format {SCHEMA_VERSION}: "
            "use the tscc-stream that wrote it, or a newer one"
        )


def _epoch(db: sqlite3.Connection) -> str:
    return str(db.execute("SELECT epoch FROM journal").fetchone()[0])


def _heads(db: sqlite3.Connection) -> dict[str, int]:
    return dict(db.execute("SELECT topic_group, topic_seq FROM head ORDER BY topic_group"))


class _Lock:
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
    """The one writer. Used by one thread at a time. Raises JournalError, with the file's name, for whatever fails."""

    def __init__(self, path: Path) -> None:
        self.path = path
        with _explained(path, "open it for writing"):
            path.parent.mkdir(parents=True, exist_ok=True)
            self._lock = _Lock(path)
        try:
            with _explained(path, "open it for writing"):
                self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
                self._open()
        except JournalError:
            self.close()
            raise

    def _open(self) -> None:
        self._db.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
        if not _number_of(self._db, "SELECT count(*) FROM sqlite_schema"):
            self._create()
        _check_format(self._db, self.path)
        self._db.execute("PRAGMA journal_mode = WAL")
        self._db.execute("PRAGMA synchronous = FULL")
        self.epoch = _epoch(self._db)
        self._heads = _heads(self._db)
        self._head = sum(self._heads.values())
        self.duplicates = 0

    def _create(self) -> None:
        with self._transaction():
            for statement in _SCHEMA:
                self._db.execute(statement)
            self._db.execute("INSERT INTO journal VALUES (?)", (str(uuid.uuid4()),))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """All of it or nothing."""
        self._db.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._db.execute("COMMIT")
        except BaseException:
            if self._db.in_transaction:
                self._db.execute("ROLLBACK")
            raise

    @property
    def head(self) -> int:
        """Seq of the last message; 0 where there is none."""
        return self._head

    @property
    def topic_heads(self) -> dict[str, int]:
        """Last topic_seq per first two parts of the topic."""
        return dict(self._heads)

    def append(self, messages: Iterable[Message]) -> list[Committed]:
        """Store what is new among `messages`, in one transaction; on return it is on the disk.

        What is there already is refused and counted in `duplicates`. After a JournalError nothing of the group is
        stored, and the same group may be appended again.
        """
        with _explained(self.path, "write to it"), self._transaction():
            numbered = number(messages, self._head, self._heads, self)
            self._insert(numbered.committed)
            self._db.executemany("INSERT OR REPLACE INTO head VALUES (?, ?)", numbered.heads.items())
        self._head, self._heads = numbered.head, numbered.heads
        self.duplicates += numbered.duplicates
        return list(numbered.committed)

    def _insert(self, committed: Sequence[Committed]) -> None:
        self._db.executemany("INSERT INTO message VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", map(_row, committed))
        self._db.executemany(
            "INSERT INTO waveform VALUES (?, ?)",
            [(one.seq, one.message.waveform) for one in committed if one.message.waveform is not None],
        )

    def has_uid(self, uid: str, final: bool) -> bool:
        """Whether the last word of this uid is there (final True), or anything of it at all (final False)."""
        query = "SELECT EXISTS (SELECT 1 FROM message WHERE uid = ? AND final >= ?)"
        return _number_of(self._db, query, (uid, int(final))) == 1

    def has_onset(self, sid: str, from_ns: int, to_ns: int) -> bool:
        """Whether a detection of this channel is there with from_ns <= onset_ns <= to_ns."""
        query = """SELECT EXISTS (SELECT 1 FROM message
                   WHERE kind = 'detection' AND sid = ? AND onset_ns BETWEEN ? AND ?)"""
        return _number_of(self._db, query, (sid, from_ns, to_ns)) == 1

    def contains(self, uid: str) -> bool:
        """Whether anything of this uid is there."""
        return self.has_uid(uid, final=False)

    def close(self) -> None:
        if hasattr(self, "_db"):
            self._db.close()
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
    message = Message(
        uid=str(uid),
        kind=str(kind),
        topic=str(topic),
        body=body,  # type: ignore[arg-type]  # STRICT table: BLOB columns hold bytes
        onset_ns=onset_ns,  # type: ignore[arg-type]  # STRICT table: INTEGER
        sid=str(sid),
        tolerance_ns=tolerance_ns,  # type: ignore[arg-type]  # STRICT table: INTEGER
        final=bool(final),
        waveform=waveform,  # type: ignore[arg-type]  # STRICT table: BLOB, or NULL where it was not asked for
    )
    return Committed(seq, topic_seq, message)  # type: ignore[arg-type]  # STRICT table: INTEGER


class JournalReader:
    """Reads a journal beside its writer, on a connection of its own. Used by one thread at a time.

    Every read is a short transaction, so that a slow reader never keeps the write-ahead log from being folded back.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        with _explained(path, "read it"):
            uri = f"file:{quote(str(path.absolute()))}?mode=ro"
            self._db = sqlite3.connect(uri, uri=True, isolation_level=None, check_same_thread=False)
        try:
            with _explained(path, "read it"):
                self._db.execute(f"PRAGMA busy_timeout = {_BUSY_MS}")
                _check_format(self._db, path)
                self.epoch = _epoch(self._db)
        except JournalError:
            self.close()
            raise

    @contextmanager
    def _snapshot(self) -> Iterator[None]:
        with _explained(self.path, "read it"):
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
        with _explained(self.path, "read it"):
            return _heads(self._db)

    def oldest(self) -> int:
        """Seq of the first message that is there; head + 1 where there is none."""
        with self._snapshot():
            return self._oldest(sum(_heads(self._db).values()))

    def _oldest(self, head: int) -> int:
        return _number_of(self._db, "SELECT coalesce(min(seq), ?) FROM message", (head + 1,))

    def since(self, seq: int | None, topic: str = "", limit: int = 500, max_bytes: int = 4_000_000) -> Page:
        """What was committed after `seq` under topics that begin with `topic`; None: no messages, only the heads.

        At most `limit` messages, about `max_bytes` of body and waveform (one message always fits), and SCAN rows
        looked at: ask again from `page.through` until it reaches `page.head`. Waveforms come only with topics that
        begin with `waveform.`, and then only messages that have one.
        """
        with self._snapshot():
            heads = _heads(self._db)
            head = sum(heads.values())
            oldest = self._oldest(head)
            if seq is None or seq >= head:
                return Page(oldest, head, heads, head, ())
            start = max(seq, oldest - 1)
            end = min(start + SCAN, head)
            messages, full = _take(self._matching(start, end, topic), limit, max_bytes)
            return Page(oldest, head, heads, messages[-1].seq if full else end, tuple(messages))

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
