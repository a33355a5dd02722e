"""When which record of an archive enters the ring: pacing by recorded time, shifts of time, endless repetition.

A record is due when its last sample would have been recorded. No clock is read here: monotonic and wall time are passed
in.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

from tscc_stream import miniseed
from tscc_stream.edges.archive import ArchiveIndex, RawRecord, iter_raw
from tscc_stream.sampling import NS_PER_SECOND, offset_ns
from tscc_stream.serve.ring import Ring

Speed = float | Literal["max"]
_TENTH_MS = 100_000  # shifts by whole tenths of a millisecond leave packed samples alone
_AT_ONCE = 2_000  # records per turn, so that clients are looked after in between


@dataclass(frozen=True, slots=True)
class ReplayOptions:
    """speed: data time per real time, or "max": as fast as it is read. start_at "now": the first sample is now;
    "ended": the last one is, and all before it is there at once (with `loop` it goes on from there).
    """

    speed: Speed = 1.0
    loop: bool = False
    start_at: Literal["recorded", "now", "ended"] = "recorded"

    def __post_init__(self) -> None:
        if self.speed != "max" and not 0.0 < self.speed < float("inf"):
            raise ValueError(f"speed {self.speed}: expected a number above 0, or max")


class Replay:
    """Feeds a ring from an archive, once `begin` was called."""

    def __init__(self, archive: ArchiveIndex, ring: Ring, options: ReplayOptions) -> None:
        self.skipped = 0
        self._archive = archive
        self._ring = ring
        self._options = options
        self._records: Iterator[RawRecord] | None = None
        self._next: RawRecord | None = None
        self._origin_ns = 0
        self._origin = 0.0

    @property
    def begun(self) -> bool:
        return self._records is not None

    def begin(self, now: float, wall_ns: int) -> None:
        """Starts the replay at monotonic time `now` (s) and wall time `wall_ns`."""
        archive, start_at = self._archive, self._options.start_at
        first = archive.stop_ns if start_at == "ended" else archive.start_ns
        shift = 0 if start_at == "recorded" else (wall_ns - first) // _TENTH_MS * _TENTH_MS
        self._origin_ns, self._origin = first + shift, now
        self._records = self._passes(shift)
        self._next = next(self._records, None)
        self._ring.complete = self._next is None

    def next_due(self) -> float | None:
        """Monotonic time in s at which the next record is due; None where nothing is left or nothing has begun."""
        if self._next is None:
            return None
        if self._options.speed == "max":
            return self._origin
        return self._origin + (self._next.end_ns - self._origin_ns) / NS_PER_SECOND / self._options.speed

    def feed(self, now: float, slowest: int | None) -> None:
        """Puts into the ring what is due by `now`, a limited number of records per call.

        At speed "max" nothing is pushed out of the ring that the slowest client (the number that it is about to read;
        None where nobody reads) has not had yet.
        """
        for _ in range(_AT_ONCE):
            due = self.next_due()
            if self._next is None or due is None or due > now or self.must_wait(slowest):
                break
            self._put(self._next)
            self._next = next(self._records or iter(()), None)
        self._ring.complete = self.begun and self._next is None

    def must_wait(self, slowest: int | None) -> bool:
        """Whether the next record would push out one that the slowest client has not had (speed "max" only)."""
        if self._options.speed != "max" or self._next is None or self._ring.fits(len(self._next.payload)):
            return False
        return slowest is None or slowest <= self._ring.oldest

    def _put(self, record: RawRecord) -> None:
        try:
            self._ring.append(record.sid, record.start_ns, record.end_ns, record.payload)
        except (ValueError, miniseed.RecordError):  # a source id without six parts, a corrupt header
            self.skipped += 1

    def _passes(self, shift: int) -> Iterator[RawRecord]:
        """The archive, and again and again right after its own end where it loops."""
        span = -(-(self._archive.stop_ns - self._archive.start_ns) // 1000) * 1000
        while True:
            for record in iter_raw(self._archive):
                yield from self._shifted(record, shift)
            if not self._options.loop:
                return
            shift += span

    def _shifted(self, record: RawRecord, shift: int) -> Iterator[RawRecord]:
        if shift == 0:
            yield record
            return
        try:
            pieces = miniseed.shifted(record.payload, shift)
        except miniseed.RecordError:
            self.skipped += 1
            return
        if len(pieces) == 1:
            yield record._replace(start_ns=record.start_ns + shift, end_ns=record.end_ns + shift, payload=pieces[0])
            return
        for piece in pieces:
            head = miniseed.header(piece)
            start, samples = int(head.starttime), int(head.samplecnt)
            end = start + offset_ns(samples - 1, record.sample_rate_hz)
            yield RawRecord(start, end, record.sid, record.sample_rate_hz, piece)
