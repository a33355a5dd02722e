"""Network events out of the detections of many daemons: pure, the time is passed in.

A detection says when a channel's trigger opened (`onset_ns`) and for how long it lasted within its window
(`duration_s`): that is a trigger for the coincidence of the stages (stages/detect_network), and its cluster a vote
(stages/interpret). What it does not say:

- when a trigger ended that outlasted its window: it counts as ended with the window;
- triggers that made no window (inside another one's window, or before a gap): they do not count;
- how far a channel has been processed that triggers seldom. So a group is settled `settle_seconds` after the
  detections of its time came in, and an early notice goes out after `early_seconds`, by the clock of this process: what
  comes later still is late, and counted.

Where every trigger has a window that outlasts it, and no detection comes later than `settle_seconds` after others of
its time, the final network events equal those of one daemon that serves all stations.
"""

from __future__ import annotations

from collections import Counter, OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass, replace
from itertools import islice

import msgspec

from tscc_stream.config import NetworkConfig
from tscc_stream.messages import NetworkEvent, NetworkTrigger, Trigger
from tscc_stream.sampling import NS_PER_SECOND, seconds_to_ns
from tscc_stream.stages.detect_network import Coincidence, CoincidenceState
from tscc_stream.stages.interpret import NetworkVote, VoteState
from tscc_stream.windows import uid_of

MOST_CHANNELS = 50_000
MOST_AHEAD = 10_000
"""Detections that wait for their time to come, beyond which those of wrong clocks, which may wait for years, are left
out. Below the limit of the coincidence, where all that waits would be settled, and what comes later with it.
"""
MOST_REMEMBERED = 65_536
"""Detections that are known to have been seen, should another publisher send them as well."""
MOST_WRITTEN = 4_000
"""Of these, the latest, which a restart knows again."""
SET_BACK_NS = 5 * NS_PER_SECOND
"""By which data time goes back at the least: smaller corrections of a clock it waits out."""
_NEVER_NS = 1 << 62
_NEVER_S = 1e9


class _Cluster(msgspec.Struct):
    id: int
    name: str
    known: bool
    membership: list[float | None]


class _Window(msgspec.Struct):
    sample_rate_hz: float


class _Data(msgspec.Struct):
    onset_ns: int
    duration_s: float | None
    cluster: _Cluster
    window: _Window


class _Body(msgspec.Struct):
    id: str
    subject: str
    data: _Data


class UnreadableError(ValueError):
    """A message that is no detection of the form that docs/messages.md states."""


@dataclass(frozen=True, slots=True)
class FleetState:
    """Everything but the clocks. reached_ns: up to which data time all was settled, and all noticed."""

    reached_ns: tuple[int, int]
    final: CoincidenceState
    early: CoincidenceState
    vote: VoteState
    channels: list[str]
    seen: list[str]


class _Clock:
    """Up to which data time every detection is there, if none comes later than so long after others of its time.

    Data time goes on as this process's clock does, from the detection that came soonest after its onset. It is never
    ahead of this machine's clock: where that was wrong for a while, and set back, data time goes back with it.
    """

    def __init__(self) -> None:
        self._ahead_ns: int | None = None

    def came(self, onset_ns: int, now_ns: int, wall_ns: int) -> None:
        """now_ns: monotonic. An onset that this machine's clock has not reached counts as of now: a wrong clock of one
        recorder must not make everything else late.
        """
        ahead_ns = min(onset_ns, wall_ns) - now_ns
        self._ahead_ns = ahead_ns if self._ahead_ns is None else max(self._ahead_ns, ahead_ns)

    def go_on(self, reached_ns: int, now_ns: int) -> None:
        """After a restart nobody knows what came meanwhile: data time goes on from where it stood."""
        if reached_ns > -_NEVER_NS:
            self._ahead_ns = reached_ns - now_ns

    def reached_ns(self, now_ns: int, wall_ns: int, after_ns: int) -> int | None:
        if self._ahead_ns is None:
            return None
        self._ahead_ns = min(self._ahead_ns, wall_ns - now_ns)
        return now_ns + self._ahead_ns - after_ns


class _Pass:
    """One coincidence, that is settled so long after the detections of a time came in."""

    def __init__(self, config: NetworkConfig, clock: _Clock, after_s: float) -> None:
        patient = config.model_copy(update={"patience_seconds": _NEVER_S})  # `after_s` says for how long here
        self.coincidence = Coincidence(patient, uid_of)
        self._clock, self._after_ns = clock, seconds_to_ns(after_s)
        self.reached_ns = -_NEVER_NS

    def feed(self, trigger: Trigger, uid: str) -> None:
        """An onset says nothing of what its channel may still send from before it: only `turn` does."""
        self.coincidence.expect(trigger.sid, self.reached_ns)
        self.coincidence.feed(trigger, uid)

    def turn(self, channels: Mapping[str, None], now_ns: int, wall_ns: int) -> list[NetworkTrigger]:
        reached_ns = self._clock.reached_ns(now_ns, wall_ns, self._after_ns)
        if reached_ns is None or self.reached_ns - SET_BACK_NS < reached_ns <= self.reached_ns:
            return []
        if reached_ns < self.reached_ns:  # how far the channels had come was by a wrong clock
            for sid in channels:
                self.coincidence.forget(sid)
        self.reached_ns = reached_ns
        return self.coincidence.advance_all(((sid, reached_ns) for sid in channels), now_ns)


def _read(body: bytes) -> tuple[_Body, int, float]:
    """A detection, the end of its trigger (ns), and the membership of its cluster. Raises UnreadableError."""
    try:
        one = msgspec.json.decode(body, type=_Body)
        off_ns = one.data.onset_ns + round((one.data.duration_s or 0.0) * NS_PER_SECOND)
        best = one.data.cluster.membership[one.data.cluster.id] or 0.0
    except (msgspec.DecodeError, IndexError, UnicodeDecodeError, OverflowError) as error:
        raise UnreadableError(str(error)) from error
    if not -_NEVER_NS // 2 < one.data.onset_ns <= off_ns < _NEVER_NS // 2:
        raise UnreadableError("onset_ns and duration_s: expected times of 64 bits")
    return one, off_ns, best


class FleetCoincidence:
    """`feed` detections, `poll` often. counts: late, repeated, turned away (more than MOST_CHANNELS), ahead."""

    def __init__(self, config: NetworkConfig, early_s: float, settle_s: float) -> None:
        self._clock = _Clock()
        self._final, self._early = _Pass(config, self._clock, settle_s), _Pass(config, self._clock, early_s)
        self._vote = NetworkVote()
        self._channels: dict[str, None] = {}
        self._seen: OrderedDict[str, None] = OrderedDict()
        self.counts: Counter[str] = Counter()

    def feed(self, body: bytes, now_ns: int, wall_ns: int) -> list[NetworkEvent]:
        """The body of a detection's message; network events that need wait no longer for its vote.

        now_ns: monotonic; wall_ns: since 1970. Raises UnreadableError.
        """
        one, off_ns, best = _read(body)
        if self._known(one.id, one.subject):
            return []
        on_ns, cluster = one.data.onset_ns, one.data.cluster
        self._clock.came(on_ns, now_ns, wall_ns)
        if on_ns > wall_ns and self._final.coincidence.unsettled >= MOST_AHEAD:
            self.counts["ahead"] += 1
            return []
        trigger = Trigger(one.subject, one.data.window.sample_rate_hz, 0, on_ns, 0, off_ns)
        if on_ns >= self._early.reached_ns:
            self._early.feed(trigger, one.id)
        self.counts["late"] += on_ns < self._final.reached_ns
        self._final.feed(trigger, one.id)
        return self._vote.cast(one.id, cluster.id if cluster.known else None, cluster.name, best)

    def _known(self, uid: str, sid: str) -> bool:
        """Whether this is to be left out, and why."""
        if uid in self._seen:
            self.counts["repeated"] += 1
            return True
        if sid not in self._channels and len(self._channels) >= MOST_CHANNELS:
            self.counts["turned away"] += 1
            return True
        self._channels[sid] = None
        self._seen[uid] = None
        if len(self._seen) > MOST_REMEMBERED:
            self._seen.popitem(last=False)
        return False

    def poll(self, now_ns: int, wall_ns: int) -> list[NetworkEvent]:
        """Early notices, and what is settled. now_ns: monotonic; wall_ns: since 1970."""
        notices = [replace(one, final=False) for one in self._early.turn(self._channels, now_ns, wall_ns)]
        settled = self._final.turn(self._channels, now_ns, wall_ns)
        return [event for trigger in (*notices, *settled) for event in self._vote.feed(trigger)]

    def flush(self) -> list[NetworkEvent]:
        """The end of all data."""
        return [event for trigger in self._final.coincidence.flush() for event in self._vote.feed(trigger)]

    def snapshot(self) -> FleetState:
        """To be written down before the next `feed`."""
        named = frozenset(self._final.coincidence.open_windows())
        return FleetState(
            (self._final.reached_ns, self._early.reached_ns),
            self._final.coincidence.snapshot(),
            self._early.coincidence.snapshot(),
            self._vote.snapshot(named),
            list(self._channels),
            list(islice(self._seen, max(0, len(self._seen) - MOST_WRITTEN), None)),
        )

    def restore(self, state: FleetState, now_ns: int) -> None:
        """Go on from a snapshot: what is not settled yet is settled with what comes."""
        self._final.coincidence.restore(state.final, now_ns)
        self._early.coincidence.restore(state.early, now_ns)
        self._vote.restore(state.vote)
        self._channels = dict.fromkeys(state.channels)
        self._seen = OrderedDict.fromkeys(state.seen)
        self._final.reached_ns, self._early.reached_ns = state.reached_ns
        self._clock.go_on(self._final.reached_ns, now_ns)
