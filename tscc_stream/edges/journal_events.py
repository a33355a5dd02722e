"""Reads of the journal for those who look at events: a stretch by seq, single ones by uid, their windows.

Each read is one short transaction over rows that an index names: seq, or (uid, final).
"""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from tscc_stream.edges.sqlite import JournalReader

MOST_ROWS = 2_000
"""Messages of one read."""
_COLUMNS = "seq, kind, uid, final, onset_ns, sid, body"


@dataclass(frozen=True, slots=True)
class StoredEvent:
    """A detection or a network event as it was committed. sid: empty for a network event."""

    seq: int
    kind: str
    uid: str
    final: bool
    onset_ns: int
    sid: str
    body: bytes


@dataclass(frozen=True, slots=True)
class StoredSamples:
    """A detection's window, float32 little-endian [samples, channels]: as the encoder saw it, and in counts before.

    band_passed: None where the journal was begun by a version that did not keep it.
    """

    normalised: bytes
    band_passed: bytes | None


class EventReader(JournalReader):
    """Raises JournalError as JournalReader does."""

    def between(self, first: int, last: int) -> list[StoredEvent]:
        """Detections and network events of the seqs from `first` to `last`, in order; MOST_ROWS seqs at most."""
        query = f"""SELECT {_COLUMNS} FROM message WHERE seq BETWEEN ? AND ?
                    AND kind IN ('detection', 'network') ORDER BY seq"""  # noqa: S608  # names of columns only
        with self._snapshot():
            return [_event(row) for row in self._db.execute(query, (first, min(last, first + MOST_ROWS - 1)))]

    def of_uids(self, uids: Iterable[str]) -> dict[str, StoredEvent]:
        """By uid, those that are there; of a network event its last word."""
        query = f"SELECT {_COLUMNS} FROM message WHERE uid = ? ORDER BY final DESC LIMIT 1"  # noqa: S608  # names of columns only
        with self._snapshot():
            rows = [row for uid in uids for row in self._db.execute(query, (uid,))]
        return {event.uid: event for event in map(_event, rows)}

    def samples_of(self, seqs: Iterable[int]) -> dict[int, StoredSamples]:
        """Windows by seq, of those that have one."""
        query = "SELECT samples, band_passed FROM waveform WHERE seq = ?"
        with self._snapshot():
            return {seq: StoredSamples(*row) for seq in seqs for row in self._db.execute(query, (seq,))}


def _event(row: tuple[int, str, str, int, int, str, bytes]) -> StoredEvent:
    seq, kind, uid, final, onset_ns, sid, body = row
    return StoredEvent(seq, kind, uid, bool(final), onset_ns, sid, body)
