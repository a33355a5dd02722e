"""How much of the bus thread's time replays may take, together and for one peer: token buckets of seconds.

The bus thread also sends what is new and the heartbeats, and it shares the interpreter with the threads that detect.
What a request costs is therefore the time that its answer took. Whoever waits for each answer before the next request,
and looks at what it got, stays below its share, and so runs at full speed.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

_MOST_PEERS = 1_000


@dataclass(frozen=True, slots=True)
class Share:
    """of_time: seconds that may be taken per second; at_once: seconds that may be saved up for later."""

    of_time: float
    at_once: float


@dataclass(frozen=True, slots=True)
class ReplayLimits:
    """For one peer, and for all of them together."""

    peer: Share = Share(0.7, 1.0)
    total: Share = Share(0.9, 2.0)


@dataclass(frozen=True, slots=True)
class Refusal:
    """reason: peer_rate or total_rate; retry_after_s: when there is time for another request."""

    reason: str
    retry_after_s: float


class _Bucket:
    def __init__(self, share: Share, now_s: float) -> None:
        self._share = share
        self._level = share.at_once
        self._at = now_s

    def level(self, now_s: float) -> float:
        """Seconds that are there; below zero: owed."""
        self._level = min(self._share.at_once, self._level + self._share.of_time * (now_s - self._at))
        self._at = now_s
        return self._level

    def take(self, cost_s: float, now_s: float) -> None:
        self._level = self.level(now_s) - cost_s

    def wait(self, now_s: float, down_to: float = 0.0) -> float:
        """Seconds until the level has risen above `down_to`; 0 where it has."""
        return max(0.0, (down_to - self.level(now_s)) / self._share.of_time)


class ReplayBudget:
    """Asked before each answer, told afterwards. Times are monotonic seconds.

    Of more than _MOST_PEERS the one that has been silent for longest is forgotten. It would begin again with a full
    bucket; what all take together stays bounded.
    """

    def __init__(self, limits: ReplayLimits, now_s: float) -> None:
        self._limits = limits
        self._total = _Bucket(limits.total, now_s)
        self._peers: OrderedDict[bytes, _Bucket] = OrderedDict()

    def refusal(self, peer: bytes, now_s: float) -> Refusal | None:
        """Why this peer must wait; None where it need not."""
        bucket = self._peers.get(peer)
        if bucket and (wait := bucket.wait(now_s)):
            return Refusal("peer_rate", wait)
        if wait := self._total.wait(now_s):
            return Refusal("total_rate", wait)
        return None

    def spent(self, peer: bytes, cost_s: float, now_s: float) -> None:
        """An answer, refusals included, took so long."""
        bucket = self._peers.pop(peer, None) or _Bucket(self._limits.peer, now_s)
        self._peers[peer] = bucket
        if len(self._peers) > _MOST_PEERS:
            self._peers.popitem(last=False)
        bucket.take(cost_s, now_s)
        self._total.take(cost_s, now_s)

    def closed_for(self, now_s: float) -> float:
        """Seconds during which requests had better not even be read: refusals alone have used up the time."""
        return self._total.wait(now_s, down_to=-self._limits.total.at_once)
