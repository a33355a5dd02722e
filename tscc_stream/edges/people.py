"""What people say: names of clusters, verdicts on detections, answers to alerts. In a file of its own.

So several programs may write (the console, the command line) without touching the journal, and the daemon reads.
Nothing is ever overwritten: the last word on a subject counts, and those before it stay. A row that cannot be read is
left out, and takes nothing else away; where it is the last word, the subject has none.
"""

from __future__ import annotations

import json
import logging
import sqlite3
import threading
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import islice
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tscc_stream.ownership import give_to_owner_of_folder
from tscc_stream.seldom import Seldom
from tscc_stream.writable import of_database

_log = logging.getLogger(__name__)

FILE = "people.sqlite"
APPLICATION_ID = 0x54534350  # "TSCP"
SCHEMA_VERSION = 1
BUSY_MS = 5_000
MOST_BYTES = 65_536
"""Of a document."""
MOST_LETTERS = 300
"""Of who, kind and subject."""

_SCHEMA = (
    """CREATE TABLE said (
        number INTEGER PRIMARY KEY,
        at_ns INTEGER NOT NULL,
        who TEXT NOT NULL,
        kind TEXT NOT NULL,
        subject TEXT NOT NULL,
        document TEXT NOT NULL
    ) STRICT""",
    "CREATE INDEX said_subject ON said (kind, subject, number)",
    f"PRAGMA application_id = {APPLICATION_ID}",
    f"PRAGMA user_version = {SCHEMA_VERSION}",
)
_COLUMNS = "number, at_ns, who, kind, subject, document"
_Row = tuple[int, int, str, str, str, str]
_seldom, _telling = Seldom(), threading.Lock()


class PeopleError(RuntimeError):
    """What the file cannot do, in one sentence."""


class ChangedError(PeopleError):
    """Somebody else said something on the subject since; said: their last word, None where it cannot be read."""

    def __init__(self, subject: str, said: Said | None) -> None:
        super().__init__(f"{subject:.80}: something else was said of it since")
        self.subject, self.said = subject, said


@dataclass(frozen=True, slots=True)
class Said:
    """One thing that somebody said. number: counts up; at_ns: wall time."""

    number: int
    at_ns: int
    who: str
    kind: str
    subject: str
    document: dict[str, Any]


class PeopleFile:
    """The file, made where there is none unless read_only. For one thread at a time; several processes may have it
    open, those of root as well: the file belongs to whom its folder belongs to.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        """Raises PeopleError where it cannot be opened, or is something else."""
        self._path = path
        with self._explained("open"):
            if not read_only:
                give_to_owner_of_folder(path)
            where = f"file:{quote(str(path.absolute()))}?mode={'ro' if read_only else 'rwc'}"
            self._db = sqlite3.connect(
                where, uri=True, timeout=BUSY_MS / 1000, isolation_level=None, check_same_thread=False
            )
            self._db.text_factory = _text
            if not read_only:
                self._db.execute("PRAGMA journal_mode = WAL")
                self._db.execute("PRAGMA synchronous = FULL")
                self._prepare()
            self._recognise()

    def close(self) -> None:
        self._db.close()

    def say(self, kind: str, subject: str, document: dict[str, Any], who: str, at_ns: int) -> int:
        """Keep it; its number. Raises PeopleError."""
        text = json.dumps(document, allow_nan=False)
        if len(text.encode()) > MOST_BYTES or max(map(len, (kind, subject, who))) > MOST_LETTERS:
            raise PeopleError(
                f"{kind} {subject:.40}: too long, expected at most {MOST_BYTES} bytes and names of {MOST_LETTERS}"
            )
        with self._explained("write"):
            return int(
                self._db.execute(
                    "INSERT INTO said (at_ns, who, kind, subject, document) VALUES (?, ?, ?, ?, ?)",
                    (at_ns, who, kind, subject, text),
                ).lastrowid
                or 0
            )

    def say_where_unchanged(
        self,
        kind: str,
        documents: Mapping[str, dict[str, Any]],
        who: str,
        at_ns: int,
        unchanged: Callable[[str, Said | None], bool],
    ) -> int:
        """All of it by subject, or nothing; the last number. unchanged: whether the last word on a subject is what its
        speaker knew. Raises ChangedError where it is not, and PeopleError.
        """
        number = 0
        with self._explained("write"):
            self._db.execute("BEGIN IMMEDIATE")
        try:
            for subject, document in documents.items():
                last = self.on(kind, subject)
                if not unchanged(subject, last):
                    raise ChangedError(subject, last)
                number = self.say(kind, subject, document, who, at_ns)
        except PeopleError:
            with suppress(sqlite3.Error):
                self._db.execute("ROLLBACK")
            raise
        with self._explained("write"):
            self._db.execute("COMMIT")
        return number

    def head(self) -> int:
        """The last number; 0: nothing was said yet."""
        with self._explained("read"):
            return int(self._db.execute("SELECT coalesce(max(number), 0) FROM said").fetchone()[0])

    def latest(self, kind: str, beginning: str = "") -> dict[str, Said]:
        """Subject -> the last word on it, of subjects that begin so."""
        with self._explained("read"):
            rows = self._db.execute(
                f"SELECT {_COLUMNS} FROM said WHERE number IN "  # noqa: S608  # a constant
                "(SELECT max(number) FROM said WHERE kind = ? AND substr(subject, 1, ?) = ? GROUP BY subject) "
                "ORDER BY number",
                (kind, len(beginning), beginning),
            ).fetchall()
        return {said.subject: said for said in self._readable(rows)}

    def on(self, kind: str, subject: str) -> Said | None:
        """The last word on one subject."""
        with self._explained("read"):
            row = self._db.execute(
                f"SELECT {_COLUMNS} FROM said WHERE kind = ? AND subject = ? ORDER BY number DESC LIMIT 1",  # noqa: S608  # a constant
                (kind, subject),
            ).fetchone()
        return None if row is None else next(self._readable([row]), None)

    def all_on(self, kind: str, subject: str, most: int = 1000) -> list[Said]:
        """Everything that was said on one subject, in order; of more than `most` the latest."""
        with self._explained("read"):
            rows = self._db.execute(
                f"SELECT {_COLUMNS} FROM said WHERE kind = ? AND subject = ? ORDER BY number DESC LIMIT ?",  # noqa: S608  # a constant
                (kind, subject, most),
            ).fetchall()
        return list(self._readable(reversed(rows)))

    def after(self, number: int, most: int = 1000) -> list[Said]:
        """Everything that was said later, in order, at most so much."""
        query = f"SELECT {_COLUMNS} FROM said WHERE number > ? ORDER BY number"  # noqa: S608  # a constant
        with self._explained("read"), closing(self._db.execute(query, (number,))) as rows:
            return list(islice(self._readable(rows), most))

    def _readable(self, rows: Iterable[_Row]) -> Iterator[Said]:
        for row in rows:
            try:
                yield _said(row)
            except (ValueError, TypeError, RecursionError) as error:
                tell_unreadable(f"{self._path}: row {row[0]}", error)

    def _prepare(self) -> None:
        self._db.execute("BEGIN IMMEDIATE")
        try:
            if not self._db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
                for statement in _SCHEMA:
                    self._db.execute(statement)
        finally:
            self._db.execute("COMMIT")

    def _recognise(self) -> None:
        ours = self._db.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if not ours or version != SCHEMA_VERSION:
            self._db.close()
            what = f"has format {version}, expected {SCHEMA_VERSION}" if ours else "is a database of something else"
            raise PeopleError(f"{self._path}: {what}")

    @contextmanager
    def _explained(self, doing: str) -> Iterator[None]:
        try:
            yield
        except (sqlite3.Error, OSError, ValueError) as error:
            raise PeopleError(f"{self._path}: cannot {doing}: {of_database(error, self._path)}") from error


class PeopleThere:
    """The file that lies there now: opened when it is first asked for, anew where another one took its place."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._file: PeopleFile | None = None
        self._which: tuple[int, int] | None = None

    def file(self) -> PeopleFile:
        """The same object as before while the file is the same. Raises PeopleError."""
        if self._file is None or self._which != self._there():
            self.close()
            self._file = PeopleFile(self._path)
            self._which = self._there()
        return self._file

    def _there(self) -> tuple[int, int] | None:
        """Which file lies there: a backup may have taken its place."""
        try:
            now = self._path.stat()
        except OSError:
            return None
        return now.st_dev, now.st_ino

    def close(self) -> None:
        if self._file is not None:
            self._file.close()
            self._file = None


def tell_unreadable(what: str, why: object) -> None:
    """Into the log, once a minute for each; from any thread."""
    with _telling:
        due = _seldom.due(what, time.monotonic())
    if due:
        _log.error("%s cannot be read, and is left out: %.300s", what, why)


def _text(of_file: bytes) -> str:
    """So that SQLite hands a damaged text over, and only its row is left out."""
    return of_file.decode(errors="surrogateescape")


def _said(row: _Row) -> Said:
    """Raises ValueError, TypeError or RecursionError."""
    number, at_ns, who, kind, subject, text = row
    "".join((who, kind, subject, text)).encode()
    document = json.loads(text)
    if not isinstance(document, dict):
        raise TypeError("expected a JSON object")
    return Said(number, at_ns, who, kind, subject, document)
