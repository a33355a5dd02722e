"""The journal's events into the console's cache, where they can be found by time and by what they are."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import msgspec

from tscc_stream.apps.console import event_verdicts
from tscc_stream.apps.console.site import JOURNAL, NotThereError, Site, is_there
from tscc_stream.edges.console_cache import FILE, CacheFile, next_stretch
from tscc_stream.edges.console_cache_events import EventIndex, Indexed, VerdictMirror
from tscc_stream.edges.journal_events import MOST_ROWS, EventReader, StoredEvent
from tscc_stream.source_id import to_nslc
from tscc_stream.stages.interpret import UNKNOWN

_log = logging.getLogger(__name__)

_PIECES_OF_A_REQUEST = 5
"""What a request waits for at most: so many stretches of MOST_ROWS messages, some 50 ms each."""


@dataclass(frozen=True, slots=True)
class Look:
    """What one request reads from: the journal, the cache of its events, and the verdicts."""

    journal: EventReader
    file: CacheFile
    index: EventIndex
    verdicts: VerdictMirror


@contextmanager
def look(site: Site) -> Iterator[Look]:
    """For one request or one thread. Raises NotThereError, JournalError and CacheError."""
    path = site.state_dir / JOURNAL
    if not is_there(path):
        raise NotThereError(f"no journal in {site.state_dir}: the daemon has not run here yet")
    journal = EventReader(path)
    try:
        file = CacheFile(site.state_dir / FILE, journal.epoch)
        try:
            yield Look(journal, file, EventIndex(file), VerdictMirror(file))
        finally:
            file.close()
    finally:
        journal.close()


def catch_up(site: Site, now: Look) -> None:
    """What was committed and said since, so far as a request can wait for it."""
    for _ in range(_PIECES_OF_A_REQUEST):
        done = now.index.done()
        if (done is not None and done[1] >= now.journal.head()) or not add_stretch(now):
            break
    event_verdicts.follow(site, now.verdicts)


def add_stretch(now: Look) -> bool:
    """One stretch of the journal, newest first; False: everything is there."""
    oldest = now.journal.oldest()
    piece = next_stretch(now.index.done(), oldest, now.journal.head(), MOST_ROWS)
    if piece is None:
        now.index.forget_before(oldest)
        return False
    stored = now.journal.between(*piece)
    members = {uid for event in stored if event.kind == "network" for uid in _members(event)}
    known = now.journal.of_uids(members)
    now.index.add([found for event in stored if (found := _readable(event, known)) is not None], piece, oldest)
    return True


def _readable(event: StoredEvent, known: Mapping[str, StoredEvent]) -> Indexed | None:
    """None: its body is not as this version writes it; it is left out, and the log says so."""
    try:
        return _indexed(event, known)
    except (AttributeError, KeyError, IndexError, TypeError, ValueError) as error:
        _log.warning(
            "%s %s, seq %d, is left out of Events: %s %s", event.kind, event.uid, event.seq, type(error), error
        )
        return None


def share_done(now: Look) -> float:
    """0 to 1: of the journal's messages, those that can be found."""
    oldest, head, done = now.journal.oldest(), now.journal.head(), now.index.done()
    if head < oldest:
        return 1.0
    return 0.0 if done is None else min(1.0, (done[1] - max(done[0], oldest) + 1) / (head - oldest + 1))


def _members(event: StoredEvent) -> list[str]:
    """Empty where its body is not as this version writes it: `_readable` says so."""
    try:
        return [str(uid) for uid in _body(event)["data"]["detections"]]
    except (KeyError, TypeError, ValueError):
        return []


def _body(event: StoredEvent) -> dict[str, Any]:
    body: dict[str, Any] = msgspec.json.decode(event.body)
    return body


def _indexed(event: StoredEvent, known: Mapping[str, StoredEvent]) -> Indexed:
    data = _body(event)["data"]
    return _detection(event, data) if event.kind == "detection" else _network(event, data, known)


def _detection(event: StoredEvent, data: dict[str, Any]) -> Indexed:
    cluster = data["cluster"]
    return Indexed(
        seq=event.seq,
        uid=event.uid,
        network=False,
        onset_ns=event.onset_ns,
        model=data["model"]["sha256"],
        cluster=cluster["id"],
        name=cluster["name"],
        unknown=not cluster["known"],
        membership=cluster["membership"][cluster["id"]] or 0.0,
        votes=1,
        quality=tuple(data["quality"]),
        channels=(to_nslc(event.sid),),
    )


def _network(event: StoredEvent, data: dict[str, Any], known: Mapping[str, StoredEvent]) -> Indexed:
    """Its model and quality are those of its detections."""
    members = [_body(known[uid])["data"] for uid in data["detections"] if uid in known]
    cluster = data["cluster"]
    return Indexed(
        seq=event.seq,
        uid=event.uid,
        network=True,
        onset_ns=event.onset_ns,
        model=members[0]["model"]["sha256"] if members else "",
        cluster=cluster["id"],
        name=cluster["name"],
        unknown=cluster["id"] is None,
        membership=1.0,
        votes=data["votes"].get(cluster["name"] if cluster["id"] is not None else UNKNOWN, 0),
        quality=tuple({flag for member in members for flag in member["quality"]}),
        channels=tuple(to_nslc(sid) for sid in data["channels"]),
        members=tuple(data["detections"]),
    )
