"""Which shard a station belongs to: rendezvous hashing (Thaler and Ravishankar 1998), the same on every machine.

Each shard has a score for each station, and the highest wins. With one shard more, a station stays or goes to the new
one: about 1 / count of them go, and none goes from one old shard to another.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from functools import lru_cache

MOST_SHARDS = 1000


@dataclass(frozen=True, slots=True)
class Shard:
    """One of `count` shards; index from 1 to count."""

    index: int
    count: int

    def holds(self, station: str) -> bool:
        """Whether a station (NET_STA) is its own."""
        return owner(station, self.count) == self.index

    def holds_sid(self, sid: str) -> bool:
        """Whether a source id's station is its own. What is no FDSN source id counts as a station by its whole."""
        return self.holds(station_of(sid))

    def __str__(self) -> str:
        return f"{self.index}/{self.count}"


def station_of(sid: str) -> str:
    """`FDSN:BW_UH1__S_H_Z` -> `BW_UH1`: a sensor's components and a station's channels have one."""
    return "_".join(sid.removeprefix("FDSN:").split("_")[:2])


@lru_cache(maxsize=65536)
def owner(station: str, count: int) -> int:
    """Index (from 1) of the shard, among `count`, that serves a station (NET_STA)."""
    return max(range(1, count + 1), key=lambda index: (_score(station, index), index))


def _score(station: str, index: int) -> int:
    """64 bits out of BLAKE2b (RFC 7693) over the station's name and the shard's number."""
    return int.from_bytes(hashlib.blake2b(f"{station} {index}".encode(), digest_size=8).digest(), "big")
