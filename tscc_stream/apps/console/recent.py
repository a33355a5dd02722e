"""What the journal got of late: the last detections and network events, the shift's counts, who is in quarantine.

Read from the journal and not from the bus, so that it is whole for a page that has just been opened, and while the
daemon is down. Used by one thread.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Callable
from typing import Any

import msgspec

from tscc_stream.apps.console import shift
from tscc_stream.apps.console.shift import UNKNOWN, Shift, Tally
from tscc_stream.edges.sqlite import JournalReader
from tscc_stream.messages import Committed

MOST_DETECTIONS = 400
"""Remembered, to be marked on traces."""
MOST_EVENTS = 40
BACK = 5_000
"""Messages that are looked at before the shift's own, at least."""
PAGES_A_TURN = 40
MOST_QUARANTINED = 1_000
_EARLY_NS = 600 * 10**9
"""Messages come nearly in the order of their onsets: so much earlier it is begun."""
_decode = msgspec.json.decode


class Recent:
    """`read` now and then. shift_of: the shift that is on, for a wall time. begin_ns: where the journal begins."""

    def __init__(self, shift_of: Callable[[int], Shift]) -> None:
        self._shift_of = shift_of
        self._epoch = ""
        self._through = 0
        self.begin_ns: int | None = None
        self.tally = Tally(Shift("", 0, 1))
        self.detections: deque[dict[str, Any]] = deque(maxlen=MOST_DETECTIONS)
        self.events: dict[str, dict[str, Any]] = {}
        self.quarantined: dict[str, str] = {}

    def read(self, journal: JournalReader, now_ns: int) -> bool:
        """What is new; where a shift began or the journal is another, all of the shift. Whether that is everything.

        Raises JournalError.
        """
        now = self._shift_of(now_ns)
        if (now, journal.epoch) != (self.tally.shift, self._epoch):
            self._begin(journal, now)
        if self.begin_ns is None:
            self.begin_ns = journal.begin_ns()
        for _ in range(PAGES_A_TURN):
            page = journal.since(self._through)
            for one in page.messages:
                self._take(one)
            self._through = max(self._through, page.through)
            if self._through >= page.head:
                return True
        return False

    def _begin(self, journal: JournalReader, now: Shift) -> None:
        self._epoch, self.tally, self.begin_ns = journal.epoch, Tally(now), None
        self.detections.clear()
        self.events.clear()
        self.quarantined.clear()
        first = first_since(journal, now.begin_ns - _EARLY_NS)
        self._through = max(0, min(first, journal.head() - BACK) - 1)

    def _take(self, one: Committed) -> None:
        message = one.message
        kind = message.topic.partition(".")[0]
        if kind == "status" and not message.topic.startswith("status.channel."):
            return
        body = _decode(message.body)
        if kind == "detection":
            self.detections.append({"topic": message.topic, "body": body})
            self.tally.add(cluster_of(body["data"]), body["data"]["onset_ns"])
        elif kind == "network":
            self.events.pop(body["id"], None)
            self.events[body["id"]] = {"topic": message.topic, "body": body}
            while len(self.events) > MOST_EVENTS:
                del self.events[next(iter(self.events))]
        else:
            self._take_channel(body["data"])

    def _take_channel(self, data: dict[str, Any]) -> None:
        sid = data["sid"]
        if "quarantined" in data and len(self.quarantined) < MOST_QUARANTINED:
            self.quarantined[sid] = data["quarantined"]
        else:
            self.quarantined.pop(sid, None)


def cluster_of(data: dict[str, Any]) -> shift.Cluster:
    """What a detection counts as."""
    return data["model"]["sha256"], data["cluster"]["id"] if data["cluster"]["known"] else UNKNOWN


def first_since(journal: JournalReader, onset_ns: int) -> int:
    """About the first seq whose detections are from `onset_ns` on, found by halving; head + 1 where none is."""
    low, high = journal.oldest(), journal.head() + 1
    while low < high:
        middle = (low + high) // 2
        page = journal.since(middle - 1, "detection.", 1)
        while not page.messages and page.through < page.head:
            page = journal.since(page.through, "detection.", 1)
        if not page.messages or page.messages[0].message.onset_ns >= onset_ns:
            high = middle
        else:
            low = middle + 1
    return low
