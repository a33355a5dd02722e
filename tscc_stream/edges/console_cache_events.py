"""Detections and network events by time, with what they can be chosen by. Filled from the journal by its reader."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

from tscc_stream.edges.console_cache import CacheFile, explained, joined, touches, transaction

EVENTS = "events"
VERDICTS = "verdicts"
QUALITY_BITS = {"clipped": 1, "flat": 2, "timing": 4}
NO_CLUSTER = -1
MOST_PAGE = 200


@dataclass(frozen=True, slots=True)
class Indexed:
    """What an event can be chosen by. model: SHA-256 of the one that named it, empty where that is not known.

    cluster: None where a network event has no winner. membership: of its cluster, 1 for a network event. votes:
    channels for a network event's winner, else 1. members: a network event's detections.
    """

    seq: int
    uid: str
    network: bool
    onset_ns: int
    model: str
    cluster: int | None
    name: str
    unknown: bool
    membership: float
    votes: int
    quality: tuple[str, ...]
    channels: tuple[str, ...]
    members: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Label:
    """A name that was given at the time, by which model to which cluster."""

    number: int
    model: str
    cluster: int
    name: str


@dataclass(frozen=True, slots=True)
class Verdict:
    """The last word of a person on an event."""

    uid: str
    name: str
    agrees: bool
    who: str
    at_ns: int


@dataclass(frozen=True, slots=True)
class Choice:
    """Which events. None, 0 and False: all. labels, channels: numbers in the cache; to_ns is not included.

    least_votes concerns network events only, least_membership detections only. quality: a flag, "clean" (none of them).
    """

    from_ns: int | None = None
    to_ns: int | None = None
    labels: frozenset[int] | None = None
    channels: frozenset[str] | None = None
    network: bool | None = None
    least_votes: int = 0
    least_membership: float = 0.0
    unknown: bool = False
    unjudged: bool = False
    quality: str = ""


@dataclass(frozen=True, slots=True)
class Place:
    """Where an event stands in the list: newest first, by onset and then by seq."""

    onset_ns: int
    seq: int
    uid: str


class EventIndex:
    """The events of a cache file. Raises CacheError."""

    def __init__(self, file: CacheFile) -> None:
        self._file, self._db = file, file.db
        self._wanted: frozenset[str] = frozenset()
        self._db.create_function("on_wanted", 1, self._on_wanted, deterministic=False)

    def _on_wanted(self, channels: str) -> bool:
        return not self._wanted.isdisjoint(channels.split(","))

    def done(self) -> tuple[int, int] | None:
        """The stretch of the journal that is in it."""
        with explained(self._file.path):
            return self._file.progress(EVENTS)

    def add(self, events: Sequence[Indexed], piece: tuple[int, int], oldest: int) -> None:
        """A stretch of the journal; what the journal no longer holds goes. Of one uid the highest seq stays."""
        with explained(self._file.path), transaction(self._db):
            done = self._file.progress(EVENTS)
            if not touches(done, piece, oldest):
                return  # somebody else was faster: what lies between comes first
            if done is not None and done[0] < oldest:
                self._forget_before(oldest)
            for event in events:
                self._add_one(event)
            self._file.note_progress(EVENTS, *joined(done, piece, oldest))

    def forget_before(self, oldest: int) -> None:
        """What the journal no longer holds."""
        with explained(self._file.path), transaction(self._db):
            done = self._file.progress(EVENTS)
            if done is not None and done[0] < oldest:
                self._forget_before(oldest)
                self._file.note_progress(EVENTS, min(oldest, done[1] + 1), done[1])

    def _forget_before(self, oldest: int) -> None:
        self._db.execute(
            "DELETE FROM member WHERE network IN (SELECT uid FROM event WHERE seq < ? AND network)", (oldest,)
        )
        self._db.execute("DELETE FROM event WHERE seq < ?", (oldest,))

    def _add_one(self, event: Indexed) -> None:
        self._db.execute("DELETE FROM event WHERE uid = ? AND seq < ?", (event.uid, event.seq))
        row = (
            event.seq,
            event.uid,
            event.network,
            event.onset_ns,
            self._label(event),
            event.unknown,
            event.membership,
            event.votes,
            sum(QUALITY_BITS.get(flag, 0) for flag in set(event.quality)),
            ",".join(str(self._channel(nslc)) for nslc in event.channels),
        )
        self._db.execute("INSERT OR IGNORE INTO event VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?)", row)
        self._db.executemany(
            "INSERT OR REPLACE INTO member VALUES (?, ?)", [(member, event.uid) for member in event.members]
        )

    def _label(self, event: Indexed) -> int:
        key = (event.model, NO_CLUSTER if event.cluster is None else event.cluster, event.name)
        found = self._db.execute(
            "SELECT number FROM label WHERE model = ? AND cluster = ? AND name = ?", key
        ).fetchone()
        if found is None:
            found = self._db.execute(
                "INSERT INTO label (model, cluster, name) VALUES (?, ?, ?) RETURNING number", key
            ).fetchone()
        return int(found[0])

    def _channel(self, nslc: str) -> int:
        found = self._db.execute("SELECT number FROM channel WHERE nslc = ?", (nslc,)).fetchone()
        if found is None:
            found = self._db.execute("INSERT INTO channel (nslc) VALUES (?) RETURNING number", (nslc,)).fetchone()
        return int(found[0])

    def labels(self) -> list[Label]:
        """Every name that any event has had."""
        with explained(self._file.path):
            return [Label(*row) for row in self._db.execute("SELECT number, model, cluster, name FROM label")]

    def channels(self) -> dict[str, str]:
        """Number of every channel by its code."""
        with explained(self._file.path):
            return {nslc: str(number) for nslc, number in self._db.execute("SELECT nslc, number FROM channel")}

    def page(self, choice: Choice, before: tuple[int, int] | None = None, limit: int = 50) -> list[Place]:
        """The newest that are chosen, or those after `before` (onset_ns, seq) in the list."""
        return self._places(choice, before, limit, newer=False)

    def newer_than(self, choice: Choice, after: tuple[int, int], limit: int = 50) -> list[Place]:
        """Those next before `after` in the list, nearest first."""
        return self._places(choice, after, limit, newer=True)

    def since(self, choice: Choice, seq: int, limit: int = MOST_PAGE) -> list[Place]:
        """Those that were committed after `seq`, in order of seq."""
        with self._asking(choice) as (where, values):
            return self._read(f"{where} AND seq > ? ORDER BY seq LIMIT ?", (*values, seq, min(limit, MOST_PAGE)))

    def _places(self, choice: Choice, beside: tuple[int, int] | None, limit: int, *, newer: bool) -> list[Place]:
        sign, order = (">", "ASC") if newer else ("<", "DESC")
        with self._asking(choice) as (where, values):
            rest = f"ORDER BY onset_ns {order}, seq {order} LIMIT ?"
            if beside is not None:
                rest = f"AND onset_ns {sign}= ? AND (onset_ns {sign} ? OR seq {sign} ?) {rest}"
                values += [beside[0], beside[0], beside[1]]
            return self._read(f"{where} {rest}", (*values, min(limit, MOST_PAGE)))

    def _read(self, rest: str, values: Iterable[object]) -> list[Place]:
        query = f"SELECT onset_ns, seq, uid FROM event WHERE {rest}"  # noqa: S608  # made of constants
        return [Place(*row) for row in self._db.execute(query, tuple(values))]

    @contextmanager
    def _asking(self, choice: Choice) -> Iterator[tuple[str, list[object]]]:
        self._wanted = choice.channels or frozenset()
        conditions = list(_conditions(choice))
        where = " AND ".join(condition for condition, _ in conditions) or "TRUE"
        with explained(self._file.path):
            yield where, [value for _, values in conditions for value in values]

    def place_of(self, uid: str) -> Place | None:
        """Where an event stands."""
        with explained(self._file.path):
            found = self._read("uid = ?", (uid,))
        return found[0] if found else None

    def network_of(self, detection: str) -> str | None:
        """The network event that a detection takes part in."""
        with explained(self._file.path):
            row = self._db.execute("SELECT network FROM member WHERE detection = ?", (detection,)).fetchone()
        return None if row is None else str(row[0])

    def uids_of(self, seqs: Iterable[int]) -> dict[int, str]:
        """Uids by seq."""
        with explained(self._file.path):
            found = (self._db.execute("SELECT seq, uid FROM event WHERE seq = ?", (seq,)).fetchone() for seq in seqs)
            return dict(row for row in found if row is not None)


def _conditions(choice: Choice) -> Iterator[tuple[str, Sequence[object]]]:
    if choice.from_ns is not None:
        yield "onset_ns >= ?", (choice.from_ns,)
    if choice.to_ns is not None:
        yield "onset_ns < ?", (choice.to_ns,)
    if choice.network is not None:
        yield "network = ?", (choice.network,)
    if choice.unknown:
        yield "unknown", ()
    if choice.labels is not None:
        yield f"label IN ({', '.join('?' * len(choice.labels))})", tuple(choice.labels)
    yield from _thresholds(choice)
    if choice.unjudged:
        yield "NOT EXISTS (SELECT 1 FROM verdict v WHERE v.uid = event.uid)", ()
    if choice.channels is not None:
        yield "on_wanted(channels)", ()


def _thresholds(choice: Choice) -> Iterator[tuple[str, Sequence[object]]]:
    if choice.least_votes:
        yield "(NOT network OR votes >= ?)", (choice.least_votes,)
    if choice.least_membership:
        yield "(network OR membership >= ?)", (choice.least_membership,)
    if choice.quality == "clean":
        yield "quality = 0", ()
    elif choice.quality:
        yield "quality & ?", (QUALITY_BITS[choice.quality],)


class VerdictMirror:
    """The last verdict on each event, beside the events so that they can be chosen by it."""

    def __init__(self, file: CacheFile) -> None:
        self._file, self._db = file, file.db

    def through(self) -> int:
        """Number of the last thing that people said and that is in it."""
        with explained(self._file.path):
            return (self._file.progress(VERDICTS) or (0, 0))[1]

    def begin_anew(self) -> None:
        """People's file is another one."""
        with explained(self._file.path), transaction(self._db):
            self._db.execute("DELETE FROM verdict")
            self._file.note_progress(VERDICTS, 0, 0)

    def take(self, said: Iterable[Verdict], withdrawn: Iterable[str], through: int) -> None:
        """The last verdict on each uid among what was said up to `through`, and those on which none holds any more."""
        with explained(self._file.path), transaction(self._db):
            rows = [(one.uid, one.name, one.agrees, one.who, one.at_ns) for one in said]
            self._db.executemany("INSERT OR REPLACE INTO verdict VALUES (?, ?, ?, ?, ?)", rows)
            self._db.executemany("DELETE FROM verdict WHERE uid = ?", [(uid,) for uid in withdrawn])
            self._file.note_progress(VERDICTS, 0, through)

    def of(self, uids: Iterable[str]) -> dict[str, Verdict]:
        """By uid, where there is one."""
        query = "SELECT uid, name, agrees, who, at_ns FROM verdict WHERE uid = ?"
        with explained(self._file.path):
            rows = [row for uid in uids for row in self._db.execute(query, (uid,))]
        return {verdict.uid: verdict for verdict in map(_verdict, rows)}

    def counts(self) -> dict[int, tuple[int, int]]:
        """Label -> how many of its detections were judged, and of how many people agree."""
        query = """SELECT e.label, count(*), sum(v.agrees) FROM verdict v JOIN event e ON e.uid = v.uid
                   WHERE NOT e.network GROUP BY e.label"""
        with explained(self._file.path):
            return {label: (judged, agreed) for label, judged, agreed in self._db.execute(query)}


def _verdict(row: tuple[str, str, int, str, int]) -> Verdict:
    uid, name, agrees, who, at_ns = row
    return Verdict(uid, name, bool(agrees), who, at_ns)
