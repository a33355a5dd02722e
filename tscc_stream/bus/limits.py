"""How much of the bus thread's time replays may take, together and for one peer: token buckets of seconds.

The bus thread answers one request at a time and sends what is new and the heartbeats first, so that one page is all
that they ever wait for. But it shares the interpreter with the threads that detect, and must not be kept busy for ever,
by a script that asks for everything in a loop, say. Hence what a request costs is the time that its answer took, and
much may be saved up: enough for a subscriber to catch up on 1,000,000 messages and more as fast as it can. Measured: 15
to 30 microseconds a message.
"""

from __future__ import annotations

from collections import OrderedDict
from dataclasses import dataclass

_MOST_PEERS = 1_000
_PAUSE_SECONDS = 0.01
"""After a refusal: so that refusals themselves take next to no time."""


@dataclass(frozen=True, slots=True)
class Share:
    """of_time: seconds that may be taken per second; at_once: seconds that may be saved up for later."""

    of_time: float
    at_once: float


@dataclass(frozen=True, slots=True)
class ReplayLimits:
    """For one peer, and for all of them together."""

    peer: Share = Share(0.5, 60.0)
    total: Share = Share(0.7, 90.0)


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

    def wait(self, now_s: float) -> float:
        """Seconds until nothing is owed."""
        return max(0.0, -self.level(now_s) / self._share.of_time)


class ReplayBudget:
    """Asked before each answer, told afterwards. Times are monotonic seconds.

    Of more than _MOST_PEERS the one that has been silent for longest is forgotten. It would begin again with a full
    bucket; what all take together stays bounded.
    """

    def __init__(self, limits: ReplayLimits, now_s: float) -> None:
        self._limits = limits
        self._total = _Bucket(limits.total, now_s)
        self._peers: OrderedDict[bytes, _Bucket] = OrderedDict()
        self._open_at = now_s

    def refusal(self, peer: bytes, now_s: float) -> Refusal | None:
        """Why this peer must wait; None where it need not."""
        bucket = self._peers.get(peer)
        waits = {"peer_rate": bucket.wait(now_s) if bucket else 0.0, "total_rate": self._total.wait(now_s)}
        reason = max(waits, key=lambda name: waits[name])
        if not waits[reason]:
            return None
        self._open_at = now_s + _PAUSE_SECONDS
        return Refusal(reason, waits[reason])

    def spent(self, peer: bytes, cost_s: float, now_s: float) -> None:
        """An answer took so long."""
        bucket = self._peers.pop(peer, None) or _Bucket(self._limits.peer, now_s)
        self._peers[peer] = bucket
        if len(self._peers) > _MOST_PEERS:
            self._peers.popitem(last=False)
        bucket.take(cost_s, now_s)
        self._total.take(cost_s, now_s)

    def closed_for(self, now_s: float) -> float:
        """Seconds during which no request should be read."""
        return max(0.0, self._open_at - now_s)
