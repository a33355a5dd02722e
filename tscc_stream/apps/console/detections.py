"""The journal's latest detections as columns, kept up to date: what statistics of clusters are made of.

Only the newest are kept, so that a site's years do not fill the console's memory, and each look at the journal takes a
bounded time. How old the first one is, a page says.
"""

from __future__ import annotations

import threading
import time

import msgspec
import numpy as np
import numpy.typing as npt

from tscc_stream.apps.console.site import Site

MOST = 200_000
"""Detections that are kept, about 150 bytes each."""
MOST_SECONDS = 2.0
"""For one look; the next one goes on where it ended."""
_PAGE, _PAGE_BYTES = 2_000, 4_000_000

ROW = np.dtype(
    [
        ("seq", "i8"),
        ("onset_ns", "i8"),
        ("uid", "S64"),
        ("sid", "i4"),  # place in `sids`
        ("model", "i2"),  # place in `models`
        ("cluster", "i2"),  # of the nearest centre, also where it is unknown
        ("known", "?"),
        ("membership", "f4"),  # in that cluster
        ("margin", "f4"),  # to the next cluster's
        ("runner_up", "i2"),  # that next cluster; -1: there is none
        ("p_value", "f4"),  # NaN: the model is not calibrated
        ("amplitude", "f4"),  # counts, in the model's band; NaN: not stated
        ("clipped", "?"),
    ]
)
Rows = npt.NDArray[np.void]


class _Cluster(msgspec.Struct):
    id: int
    membership: list[float | None]
    known: bool
    p_value: float | None


class _Model(msgspec.Struct):
    sha256: str


class _Data(msgspec.Struct):
    onset_ns: int
    peak_amplitude: float | None
    cluster: _Cluster
    model: _Model
    quality: list[str]


class _Body(msgspec.Struct):
    id: str
    subject: str
    data: _Data


_decode = msgspec.json.Decoder(_Body).decode


class Names(list[str]):
    """Names by the number under which columns hold them."""

    def __init__(self) -> None:
        super().__init__()
        self._place: dict[str, int] = {}

    def place(self, name: str) -> int:
        """The same for the same name."""
        found = self._place.setdefault(name, len(self))
        if found == len(self):
            self.append(name)
        return found


class Detections:
    """`look` before reading `rows`. Used by many threads at once."""

    def __init__(self, most: int = MOST) -> None:
        self._most = most
        self._lock = threading.Lock()
        self._begin_anew("")

    def _begin_anew(self, epoch: str) -> None:
        self._epoch, self._through = epoch, 0
        self._rows: Rows = np.zeros(0, ROW)
        self.sids, self.models = Names(), Names()
        self.complete = False
        """Whether the last look came to the journal's end."""

    def look(self, site: Site) -> Rows:
        """[n] of ROW in the order of the journal. Raises NotThereError and JournalError."""
        deadline = time.monotonic() + MOST_SECONDS
        with self._lock, site.journal() as journal:
            if journal.epoch != self._epoch:
                self._begin_anew(journal.epoch)
            self._through = max(self._through, journal.head() - self._most)
            fresh: list[Rows] = []
            while True:
                page = journal.since(self._through, "detection.", _PAGE, _PAGE_BYTES)
                fresh.append(np.array([self._row(one.seq, _decode(one.message.body)) for one in page.messages], ROW))
                self._through = page.through
                self.complete = page.through >= page.head
                if self.complete or time.monotonic() > deadline:
                    break
            self._rows = np.concatenate((self._rows, *fresh))[-self._most :]
            return self._rows

    def _row(self, seq: int, body: _Body) -> tuple[object, ...]:
        data, cluster = body.data, body.data.cluster
        shares = [-1.0 if share is None else share for share in cluster.membership]
        others = [(share, place) for place, share in enumerate(shares) if place != cluster.id]
        beyond, runner_up = max(others, default=(0.0, -1))
        mine = shares[cluster.id]
        return (
            seq,
            data.onset_ns,
            body.id.encode(),
            self.sids.place(body.subject),
            self.models.place(data.model.sha256),
            cluster.id,
            cluster.known,
            mine,
            mine - beyond,
            runner_up,
            np.nan if cluster.p_value is None else cluster.p_value,
            np.nan if data.peak_amplitude is None else data.peak_amplitude,
            "clipped" in data.quality,
        )


def of_period(rows: Rows, hours: float | None) -> Rows:
    """Those whose onset lies within so many hours before the newest one's; None: all."""
    if hours is None or not rows.size:
        return rows
    within: Rows = rows[rows["onset_ns"] > rows["onset_ns"].max() - round(hours * 3.6e12)]
    return within
