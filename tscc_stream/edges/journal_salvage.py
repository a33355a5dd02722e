"""Messages out of a journal that may be damaged: as many as can be read, and which cannot."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from tscc_stream.edges.journal_mark import MarkFile
from tscc_stream.edges.journal_schema import BUSY_MS, check_format, epoch_of, explained, heads_of, number_of
from tscc_stream.stages.journal import JournalDamagedError

STRETCH = 1_000  # messages that are read at a time; where that fails, half of it


@dataclass(frozen=True, slots=True)
class Stored:
    seq: int
    topic: str
    body: bytes


@dataclass(frozen=True, slots=True)
class Lost:
    """Messages that are there no more or cannot be read, both ends included."""

    first: int
    last: int


def connect_read_only(path: Path) -> sqlite3.Connection:
    """To a journal of any version, beside its writer; also where nothing can be written. Raises JournalError."""
    where = f"file:{quote(str(path.absolute()))}?mode=ro"
    with explained(path, "read it"):
        try:
            return _connected(where, path)
        except sqlite3.OperationalError:
            if path.with_name(f"{path.name}-wal").exists():
                raise
            return _connected(f"{where}&immutable=1", path)  # no log can be made beside it, and none is needed


def _connected(where: str, path: Path) -> sqlite3.Connection:
    db = sqlite3.connect(where, uri=True, isolation_level=None)
    try:
        db.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
        check_format(db, path, oldest=1)
    except BaseException:
        db.close()
        raise
    return db


class Salvage:
    """epoch: of the journal; head: seq of the last message, as far as anything tells it."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._db = connect_read_only(path)
        self.epoch = self._epoch()
        self.head = max(self._heads())

    def _epoch(self) -> str:
        with suppress(sqlite3.DatabaseError):
            return epoch_of(self._db)
        found = MarkFile(self._path).look()
        return found.mark.epoch if found else ""

    def _heads(self) -> list[int]:
        """What the heads, the table and the mark say; those of them that can be read."""
        heads = []
        with suppress(sqlite3.DatabaseError):
            heads.append(sum(heads_of(self._db).values()))
        with suppress(sqlite3.DatabaseError):
            heads.append(number_of(self._db, "SELECT coalesce(max(seq), 0) FROM message"))
        if not heads and (found := MarkFile(self._path).look()):
            heads.append(found.mark.head)
        if not heads:
            self.close()
            raise JournalDamagedError(f"journal {self._path}: is so damaged that none of its messages can be found")
        return heads

    def after(self, seq: int) -> Iterator[Stored | Lost]:
        """Messages after a seq in order, and between them what is lost."""
        at = max(seq, self._oldest() - 1)
        while at < self.head:
            end = min(at + STRETCH, self.head)
            yield from self._between(at, end)
            at = end

    def _oldest(self) -> int:
        """Where it cannot be told, all that retention removed is lost as well."""
        with suppress(sqlite3.DatabaseError):
            return number_of(self._db, "SELECT coalesce(min(seq), 1) FROM message")
        return 1

    def _between(self, start: int, end: int) -> Iterator[Stored | Lost]:
        try:
            rows = self._rows(start, end)
        except sqlite3.DatabaseError:
            if end - start == 1:
                yield Lost(end, end)
                return
            middle = (start + end) // 2
            yield from self._between(start, middle)
            yield from self._between(middle, end)
        else:
            yield from _with_holes(rows, start, end)

    def _rows(self, start: int, end: int) -> list[Stored]:
        query = "SELECT seq, topic, body FROM message WHERE seq > ? AND seq <= ? ORDER BY seq"
        rows = [Stored(*row) for row in self._db.execute(query, (start, end))]
        return [row for row in rows if isinstance(row.topic, str) and isinstance(row.body, bytes)]  # the rest is damage

    def close(self) -> None:
        self._db.close()


def _with_holes(rows: list[Stored], start: int, end: int) -> Iterator[Stored | Lost]:
    expected = start + 1
    for row in rows:
        if row.seq > expected:
            yield Lost(expected, row.seq - 1)
        yield row
        expected = row.seq + 1
    if expected <= end:
        yield Lost(expected, end)
