"""The journal of alerts in an SQLite file: what was told and why, each delivery with its attempts, what was not told.

An alert, its deliveries, what rules remember and the place in the daemon's messages go in one transaction, so that a
process that is killed at any moment neither loses an alert nor makes one twice. Deliveries wait in the file: a restart
goes on with them. Several connections may have the file open; `hold` keeps a second alert process out.

Where the file cannot be written, the process has the same in memory until it can (`in_memory`, `make_lasting`).
"""

from __future__ import annotations

import json
import logging
import os
import sqlite3
import threading
import time
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

from tscc_stream.edges import alert_makeshift
from tscc_stream.edges.alert_journal_file import (
    APPLICATION_ID,
    BUSY_MS,
    SCHEMA,
    SCHEMA_VERSION,
    AlertJournalError,
    damage_of,
    locked,
    locked_if_possible,
    put_aside,
)
from tscc_stream.ownership import give_to_owner_of_folder
from tscc_stream.seldom import Seldom
from tscc_stream.writable import of_database

_log = logging.getLogger(__name__)

FILE = "alerts.sqlite"
MOST_WAITING = 1000
"""Deliveries of one action that may wait; further ones fail at once, which the other actions are told."""
MOST_LETTERS = 500
"""Of an outcome."""
KEPT_NS = 400 * 86_400_000_000_000
"""After as long, alerts and what was not told are removed."""
REMOVED_AT_ONCE = 500
MOST_WITHHELD = 500_000
"""Rows of what was not told, some 100 MB; a rule over every detection would fill the daemon's disk with them."""
WITHHELD_REMOVED_AT_ONCE = 20_000

STARTED = "process started"
"""Name of a state of this file's own: when, in ns."""


class AlertJournalUnfitError(AlertJournalError):
    """What was to be kept can be kept in no file: not a number, beyond 64 bits, half a letter."""


@dataclass(frozen=True, slots=True)
class NewAlert:
    """An alert to keep. document: all of it, as actions get it; actions: those that shall deliver it."""

    id: str
    at_ns: int
    rule: str
    kind: str
    severity: str
    title: str
    document: Mapping[str, Any]
    actions: Sequence[str]


@dataclass(frozen=True, slots=True)
class NewWithheld:
    """An event that matched a rule and was not told by itself. why: suppressed, late or cooldown."""

    at_ns: int
    onset_ns: int
    rule: str
    uid: str
    why: str
    reason: str


@dataclass(frozen=True, slots=True)
class NewRound:
    """A repetition of an alert that is kept already."""

    alert: str
    round: int
    at_ns: int
    actions: Sequence[str]


@dataclass(frozen=True, slots=True)
class Attempt:
    """One try of a delivery."""

    at_ns: int
    delivered: bool
    outcome: str


@dataclass(frozen=True, slots=True)
class Delivery:
    """One alert for one action. state: waiting, delivered or failed; round: 0, or the number of the repetition."""

    number: int
    alert: str
    action: str
    round: int
    made_ns: int
    state: str
    attempts: int
    next_ns: int
    outcome: str


@dataclass(frozen=True, slots=True)
class StoredAlert:
    """An alert as it was kept. document: as actions got it."""

    number: int
    id: str
    at_ns: int
    rule: str
    kind: str
    severity: str
    title: str
    document: dict[str, Any]
    deliveries: tuple[Delivery, ...] = field(default=())


@dataclass(frozen=True, slots=True)
class Outline:
    """What tells which alerts matter most, without their documents."""

    id: str
    at_ns: int
    severity: str


@dataclass(frozen=True, slots=True)
class Place:
    """Everything up to `through` of the daemon's journal `epoch` was looked at."""

    epoch: str
    through: int


_DELIVERY = "number, alert, action, round, made_ns, state, attempts, next_ns, outcome"
_AlertRow = tuple[int, str, int, str, str, str, str, str]
_seldom, _telling = Seldom(), threading.Lock()
_ALERT = "number, id, at_ns, rule, kind, severity, title, document"


class AlertJournal:
    """The file, made where there is none unless read_only. For one thread at a time; in memory for several.

    lasting: whether it is the file. Raises AlertJournalError where it cannot be opened, or is something else.
    """

    def __init__(self, path: Path, *, read_only: bool = False) -> None:
        self._begin(path)
        with self._explained("open"):
            if read_only:
                where = f"file:{quote(str(path.absolute()))}?mode=ro"
                self._db = sqlite3.connect(where, uri=True, isolation_level=None, check_same_thread=False)
            else:
                give_to_owner_of_folder(path)
                self._db = sqlite3.connect(path, isolation_level=None, check_same_thread=False)
            self._db.text_factory = _text
            self._db.execute(f"PRAGMA busy_timeout = {BUSY_MS}")
        try:
            with self._explained("open"):
                if not read_only:
                    self._db.execute("PRAGMA journal_mode = WAL")
                    self._db.execute("PRAGMA synchronous = FULL")
                    self._prepare()
                self._recognise()
        except AlertJournalError:
            self.close()
            raise

    def _begin(self, path: Path) -> None:
        self._path = path
        self._lock = -1
        self.lasting = True
        self._turns, self._users = threading.RLock(), 1

    @classmethod
    def in_memory(cls, path: Path, now_ns: int) -> tuple[AlertJournal, str]:
        """What stands in for a file that cannot be written, with what waits in it; keeps other processes out where
        that can be done. Second: what of the file could not be read, in words. Raises AlertJournalHeldError.
        """
        journal = cls.__new__(cls)
        journal._begin(path)
        journal.lasting = False
        journal._lock = locked_if_possible(path)
        journal._db = alert_makeshift.made(SCHEMA, now_ns)
        journal._db.text_factory = _text
        return journal, alert_makeshift.fill(journal._db, path, (APPLICATION_ID, SCHEMA_VERSION))

    def make_lasting(self, now_ns: int) -> str:
        """Out of memory into the file, with all that was told meanwhile; threads go on with it as it is.

        What was damaged there, as `of_the_process` says it. Raises AlertJournalError, and then stays in memory.
        """
        with self._turns:
            if self._lock >= 0:
                os.close(self._lock)  # it is taken again at once
                self._lock = -1
            try:
                file, told = self._carried_over(now_ns)
            except AlertJournalError:
                self._lock = locked_if_possible(self._path)
                raise
            self._db.close()
            self._db, self._lock, self.lasting = file._db, file._lock, True
        return told

    def _carried_over(self, now_ns: int) -> tuple[AlertJournal, str]:
        file, told = AlertJournal.of_the_process(self._path, now_ns)
        try:
            with file._transaction():
                alert_makeshift.carry_over(self._db, file._db)
        except AlertJournalError:
            file.close()
            raise
        return file, told

    def for_thread(self) -> AlertJournal:
        """For another thread, which closes it: a connection of its own to the file; out of memory, this one."""
        with self._turns:
            if self.lasting:
                return AlertJournal(self._path)
            self._users += 1
            return self

    def close(self) -> None:
        with self._turns:
            self._users -= 1
            if self._users > 0:
                return
            self._db.close()
            if self._lock >= 0:
                os.close(self._lock)
                self._lock = -1

    def __enter__(self) -> AlertJournal:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def hold(self) -> None:
        """Keep every other alert process out until this one ends. Raises AlertJournalError where one runs."""
        self._lock = locked(self._path)

    @classmethod
    def of_the_process(cls, path: Path, now_ns: int) -> tuple[AlertJournal, str]:
        """Held, looked at as a whole, and written to; a damaged file is put aside under a name with the time and a new
        one begun.

        Second: what was damaged and where it lies now, in words; empty where it is well. now_ns: wall time.
        """
        lock = locked(path)
        try:
            damage = damage_of(path)
            told = f"{damage}; it is kept as {put_aside(path, now_ns)}" if damage else ""
            journal = cls._written(path, now_ns, told)
        except BaseException:
            os.close(lock)
            raise
        journal._lock = lock  # of its own class
        return journal, told

    @classmethod
    def _written(cls, path: Path, now_ns: int, damage: str) -> AlertJournal:
        """Better refused now than with the first alert. damage: of the file before, put aside; told with an error."""
        try:
            journal = cls(path)
            try:
                journal.commit(states={STARTED: str(now_ns).encode()})
            except AlertJournalError:
                journal.close()
                raise
        except AlertJournalError as error:
            if damage:
                raise AlertJournalError(f"{error}; the one before was damaged ({damage})") from error
            raise
        return journal

    def commit(
        self,
        alerts: Sequence[NewAlert] = (),
        withheld: Sequence[NewWithheld] = (),
        rounds: Sequence[NewRound] = (),
        states: Mapping[str, bytes] | None = None,
        place: Place | None = None,
    ) -> None:
        """Keep all of it, in one transaction; on return it is on the disk. An alert that is there already stays."""
        with self._transaction():
            for alert in alerts:
                self._insert(alert)
            for one in rounds:
                self._enqueue(one.alert, one.round, one.at_ns, one.actions)
            self._db.executemany(
                "INSERT INTO withheld (at_ns, onset_ns, rule, uid, why, reason) VALUES (?, ?, ?, ?, ?, ?)",
                [(one.at_ns, one.onset_ns, one.rule, one.uid, one.why, one.reason) for one in withheld],
            )
            self._db.executemany("INSERT OR REPLACE INTO state VALUES (?, ?)", (states or {}).items())
            if place is not None:
                self._db.execute("INSERT OR REPLACE INTO place VALUES (1, ?, ?)", (place.epoch, place.through))

    def _insert(self, alert: NewAlert) -> None:
        text = json.dumps(alert.document, allow_nan=False)
        values = (alert.id, alert.at_ns, alert.rule, alert.kind, alert.severity, alert.title, text)
        added = self._db.execute(
            "INSERT OR IGNORE INTO alert (id, at_ns, rule, kind, severity, title, document) "
            "VALUES (?, ?, ?, ?, ?, ?, ?)",
            values,
        ).rowcount
        if added:
            self._enqueue(alert.id, 0, alert.at_ns, alert.actions)

    def _enqueue(self, alert: str, round_: int, at_ns: int, actions: Sequence[str]) -> None:
        for action in dict.fromkeys(actions):
            query = "SELECT count(*) FROM delivery WHERE state = 'waiting' AND action = ?"
            crowded = self._db.execute(query, (action,)).fetchone()[0] >= MOST_WAITING
            state, why = ("failed", f"{MOST_WAITING} deliveries wait already") if crowded else ("waiting", "")
            self._db.execute(
                "INSERT OR IGNORE INTO delivery (alert, action, round, made_ns, state, attempts, next_ns, outcome, "
                "told) VALUES (?, ?, ?, ?, ?, 0, ?, ?, 0)",
                (alert, action, round_, at_ns, state, at_ns, why),
            )

    def due(self, action: str, now_ns: int, longest_ns: int) -> Delivery | None:
        """What an action is to try next: what was tried least, then the oldest; None: nothing is due yet.

        longest_ns: what waits longer than that, waits since a clock was set back, and is due as well.
        """
        query = f"""SELECT {_DELIVERY} FROM delivery WHERE state = 'waiting' AND action = ?
                    AND (next_ns <= ? OR next_ns > ?) ORDER BY attempts, number LIMIT 1"""  # noqa: S608  # names of columns
        with self._explained("read"):
            row = self._db.execute(query, (action, now_ns, now_ns + longest_ns)).fetchone()
        return None if row is None else Delivery(*row)

    def tried(self, delivery: Delivery, state: str, outcome: str, at_ns: int, next_ns: int = 0) -> None:
        """What came of a try. state: waiting (again at next_ns), delivered or failed."""
        outcome = outcome[:MOST_LETTERS]
        with self._transaction():
            self._db.execute(
                "INSERT INTO attempt (delivery, at_ns, delivered, outcome) VALUES (?, ?, ?, ?)",
                (delivery.number, at_ns, int(state == "delivered"), outcome),
            )
            self._db.execute(
                "UPDATE delivery SET state = ?, attempts = attempts + 1, next_ns = ?, outcome = ? WHERE number = ?",
                (state, next_ns, outcome, delivery.number),
            )

    def hasten(self, action: str) -> None:
        """Whatever waits for an action is due now: it works again, or this process has just started."""
        with self._transaction():
            self._db.execute("UPDATE delivery SET next_ns = 0 WHERE state = 'waiting' AND action = ?", (action,))

    def give_up_on(self, actions: Sequence[str]) -> int:
        """Deliveries of actions that the configuration no longer has fail; how many."""
        marks = ", ".join("?" * len(actions))
        query = f"""UPDATE delivery SET state = 'failed', outcome = 'the configuration has this action no longer'
                    WHERE state = 'waiting' AND action NOT IN ({marks})"""  # noqa: S608  # marks only
        with self._transaction():
            return self._db.execute(query, tuple(actions)).rowcount

    def untold_failures(self, most: int = 100) -> list[Delivery]:
        """Deliveries that failed for good, of which nobody was told yet."""
        query = f"""SELECT {_DELIVERY} FROM delivery WHERE state = 'failed' AND told = 0
                    ORDER BY number LIMIT ?"""  # noqa: S608  # names of columns
        with self._explained("read"):
            return [Delivery(*row) for row in self._db.execute(query, (most,))]

    def tell_failures(self, failures: Sequence[Delivery], alerts: Sequence[NewAlert]) -> None:
        """Keep the alerts that tell of failures, and that these were told, in one transaction."""
        with self._transaction():
            for alert in alerts:
                self._insert(alert)
            self._db.executemany("UPDATE delivery SET told = 1 WHERE number = ?", [(one.number,) for one in failures])

    def waiting(self) -> dict[str, int]:
        """Deliveries that wait, by action."""
        with self._explained("read"):
            return dict(
                self._db.execute("SELECT action, count(*) FROM delivery WHERE state = 'waiting' GROUP BY action")
            )

    def get(self, alert: str) -> StoredAlert | None:
        """One alert with its deliveries; None where there is none, or it cannot be read."""
        with self._explained("read"):
            row = self._db.execute(f"SELECT {_ALERT} FROM alert WHERE id = ?", (alert,)).fetchone()  # noqa: S608  # names of columns
        return None if row is None else next(self._readable([row]), None)

    def beginning_with(self, letters: str, most: int = 10) -> list[str]:
        """Ids that begin so."""
        with self._explained("read"):
            query = "SELECT id FROM alert WHERE substr(id, 1, ?) = ? ORDER BY number DESC LIMIT ?"
            return [one for (one,) in self._db.execute(query, (len(letters), letters, most))]

    def recent(self, most: int = 50, before: int | None = None, since_ns: int = 0) -> list[StoredAlert]:
        """The latest alerts with their deliveries, newest first. before: those with a smaller number."""
        query = f"SELECT {_ALERT} FROM alert WHERE number < ? AND at_ns >= ? ORDER BY number DESC LIMIT ?"  # noqa: S608  # names of columns
        with self._explained("read"):
            rows = self._db.execute(query, (2**63 - 1 if before is None else before, since_ns, most)).fetchall()
        return list(self._readable(rows))

    def outlines(self, span_ns: tuple[int, int]) -> Iterator[Outline]:
        """All alerts made within a span, without its end, in no order."""
        query = "SELECT id, at_ns, severity FROM alert WHERE at_ns >= ? AND at_ns < ?"
        with self._explained("read"):
            yield from (Outline(*row) for row in self._db.execute(query, span_ns))

    def begin_ns(self) -> int | None:
        """Since when this file tells of alerts, as far as that can be seen; None: not at all yet."""
        query = f"""SELECT min(at_ns) FROM (
            SELECT min(at_ns) AS at_ns FROM alert UNION ALL SELECT min(at_ns) FROM withheld
            UNION ALL SELECT CAST(document AS INTEGER) FROM state WHERE name = '{STARTED}')"""  # noqa: S608  # a name of ours
        with self._explained("read"):
            begin_ns: int | None = self._db.execute(query).fetchone()[0]
        return begin_ns

    def attempts(self, delivery: int) -> list[Attempt]:
        """Every try of a delivery, in order."""
        query = "SELECT at_ns, delivered, outcome FROM attempt WHERE delivery = ? ORDER BY number"
        with self._explained("read"):
            return [Attempt(at_ns, bool(done), text) for at_ns, done, text in self._db.execute(query, (delivery,))]

    def withheld(self, most: int = 100, since_ns: int = 0) -> list[NewWithheld]:
        """What was not told, newest first."""
        query = """SELECT at_ns, onset_ns, rule, uid, why, reason FROM withheld WHERE at_ns >= ?
                   ORDER BY number DESC LIMIT ?"""
        with self._explained("read"):
            return [NewWithheld(*row) for row in self._db.execute(query, (since_ns, most))]

    def withheld_counts(self, since_ns: int = 0, until_ns: int = 2**63 - 1) -> dict[str, int]:
        """How many were not told, by why."""
        query = "SELECT why, count(*) FROM withheld WHERE at_ns >= ? AND at_ns < ? GROUP BY why"
        with self._explained("read"):
            return dict(self._db.execute(query, (since_ns, until_ns)))

    def states(self) -> dict[str, bytes]:
        """What rules and watches remembered."""
        with self._explained("read"):
            return dict(self._db.execute("SELECT name, document FROM state"))

    def place(self) -> Place | None:
        """How far the daemon's messages were looked at; None: never."""
        with self._explained("read"):
            row = self._db.execute("SELECT epoch, through FROM place").fetchone()
        return None if row is None else Place(*row)

    def trim(self, now_ns: int) -> None:
        """Remove some of what is too old, or too much."""
        old = f"SELECT id FROM alert WHERE at_ns < {now_ns - KEPT_NS} ORDER BY number LIMIT {REMOVED_AT_ONCE}"  # noqa: S608  # numbers
        with self._transaction():
            for statement in (
                f"DELETE FROM attempt WHERE delivery IN (SELECT number FROM delivery WHERE alert IN ({old}))",  # noqa: S608  # names and numbers of ours only
                f"DELETE FROM delivery WHERE alert IN ({old})",  # noqa: S608  # names and numbers of ours only
                f"DELETE FROM alert WHERE id IN ({old})",  # noqa: S608  # names and numbers of ours only
                f"DELETE FROM withheld WHERE number IN (SELECT number FROM withheld WHERE at_ns < {now_ns - KEPT_NS} "  # noqa: S608  # names and numbers of ours only
                f"OR number <= (SELECT max(number) FROM withheld) - {MOST_WITHHELD} "
                f"ORDER BY number LIMIT {WITHHELD_REMOVED_AT_ONCE})",
            ):
                self._db.execute(statement)

    def _readable(self, rows: Iterable[_AlertRow]) -> Iterator[StoredAlert]:
        """A row that cannot be read, as somebody edited it, is left out and told, and takes nothing else away."""
        for row in rows:
            try:
                yield self._stored(row)
            except (ValueError, TypeError, RecursionError) as error:
                self._tell_unreadable(row[0], error)

    def _stored(self, row: _AlertRow) -> StoredAlert:
        number, identity, at_ns, rule, kind, severity, title, document = row
        "".join((identity, rule, kind, severity, title, document)).encode()
        known = json.loads(document)
        if not isinstance(known, dict) or not isinstance(known.get("sensor_health", {}), dict):
            raise TypeError("expected a JSON object")
        query = f"SELECT {_DELIVERY} FROM delivery WHERE alert = ? ORDER BY number"  # noqa: S608  # names of columns
        with self._explained("read"):
            deliveries = tuple(Delivery(*one) for one in self._db.execute(query, (identity,)))
        return StoredAlert(number, identity, at_ns, rule, kind, severity, title, known, deliveries)

    def _tell_unreadable(self, number: int, why: object) -> None:
        what = f"{self._path}: alert {number}"
        with _telling:
            due = _seldom.due(what, time.monotonic())
        if due:
            _log.error("%s cannot be read, and is left out: %.300s", what, why)

    def _prepare(self) -> None:
        with self._transaction():
            if not self._db.execute("SELECT count(*) FROM sqlite_schema").fetchone()[0]:
                for statement in SCHEMA:
                    self._db.execute(statement)

    def _recognise(self) -> None:
        ours = self._db.execute("PRAGMA application_id").fetchone()[0] == APPLICATION_ID
        version = self._db.execute("PRAGMA user_version").fetchone()[0]
        if not ours or version != SCHEMA_VERSION:
            what = f"has format {version}, expected {SCHEMA_VERSION}" if ours else "is a database of something else"
            raise AlertJournalError(f"{self._path}: {what}")

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        with self._explained("write"):
            self._db.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._db.execute("ROLLBACK")
                raise
            self._db.execute("COMMIT")

    @contextmanager
    def _explained(self, doing: str) -> Iterator[None]:
        try:
            with self._turns:
                yield
        except (ValueError, TypeError, OverflowError, RecursionError) as error:
            raise AlertJournalUnfitError(f"{self._path}: cannot {doing}: {error}") from error
        except (sqlite3.Error, OSError) as error:
            raise AlertJournalError(f"{self._path}: cannot {doing}: {of_database(error, self._path)}") from error


def _text(of_file: bytes) -> str:
    """So that SQLite hands a damaged text over, and only its row is left out."""
    return of_file.decode(errors="surrogateescape")
