"""Trigger state machine per channel, and coincidence over channels.

Both give what obspy computes offline (`trigger_onset`, `coincidence_trigger`), for any cut into blocks and any
interleaving of channels.
"""

from __future__ import annotations

from bisect import bisect_left, insort
from collections import Counter
from collections.abc import Callable, Collection, Iterable
from dataclasses import dataclass, replace
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count, islice

import numpy as np

from tscc_stream.config import NetworkConfig, TriggerConfig
from tscc_stream.messages import Characteristic, EndOfStream, Gap, NetworkTrigger, Trigger
from tscc_stream.sampling import offset_ns, seconds_to_ns, seconds_to_samples

_RETRACTED = frozenset({"flat", "invalid"})
"""Breaks whose own edge made the trigger that is still open."""


@dataclass(slots=True)
class TriggerState:
    """last_*: the latest sample. above_on: it reached the on threshold. earliest: where a trigger may open again."""

    last_index: int = -1
    last_ns: int = 0
    above_on: bool = False
    above_off: bool = False
    open: Trigger | None = None
    announced: bool = False
    earliest: int = 0


DetectState = dict[str, TriggerState]
"""By source id."""


class Detect:
    """Characteristic functions to triggers: sent when they open, again when they close.

    Opens at the first sample at or above trigger_on, closes at the last at or above trigger_off, or after max_seconds.
    """

    def __init__(self, config_of: Callable[[str], TriggerConfig]) -> None:
        self._config_of = config_of
        self._states: dict[str, TriggerState] = {}

    def feed(self, message: Characteristic | Gap | EndOfStream) -> list[Trigger]:
        """Triggers that open or close, in order of time."""
        if isinstance(message, Characteristic):
            return self._advance(message)
        state = self._states.pop(message.sid, None)
        retract = isinstance(message, Gap) and message.cause in _RETRACTED
        if state is None or state.open is None or not state.announced or retract:
            return []
        return [replace(state.open, off_index=state.last_index, off_ns=state.last_ns)]

    def snapshot(self) -> DetectState:
        """Every channel's state, to be written down before the next `feed`."""
        return self._states

    def restore(self, state: DetectState) -> None:
        """Go on from a snapshot."""
        self._states = state

    def state(self, sid: str) -> TriggerState:
        """One channel's, amid a segment; whoever takes its samples over moves it on."""
        return self._states[sid]

    def _advance(self, message: Characteristic) -> list[Trigger]:
        block = message.block
        if block.index == 0:
            self._states[block.sid] = TriggerState()
        state = self._states[block.sid]
        out = _Walk(message, state, self._config_of(block.sid)).run()
        state.last_index = block.index + block.samples.size - 1
        state.last_ns = block.start_ns + offset_ns(block.samples.size - 1, block.sample_rate_hz)
        return out


class _Walk:
    """One block's walk through the state machine, from edge to edge of the two thresholds."""

    def __init__(self, message: Characteristic, state: TriggerState, config: TriggerConfig) -> None:
        self._block = message.block
        self._state = state
        rate = message.block.sample_rate_hz
        self._minimum = seconds_to_samples(config.min_seconds, rate)
        self._longest = int(config.max_seconds * rate + 0.5)
        self._dead = seconds_to_samples(config.dead_seconds, rate)
        on, off = message.values >= config.trigger_on, message.values >= config.trigger_off
        before_on = np.concatenate(([state.above_on], on[:-1]))
        before_off = np.concatenate(([state.above_off], off[:-1]))
        self._rises = (np.flatnonzero(on & ~before_on) + message.block.index).tolist()
        self._falls = (np.flatnonzero(~off & before_off) + message.block.index).tolist()
        self._end = message.block.index + message.block.samples.size
        state.above_on, state.above_off = bool(on[-1]), bool(off[-1])

    def run(self) -> list[Trigger]:
        """Triggers that open or close within the block."""
        out: list[Trigger] = []
        while (opened := self._state.open or self._open_next()) is not None:
            fall = _first_from(self._falls, opened.on_index + 1, self._end)
            forced = opened.on_index + self._longest + 1
            last = min(fall, forced) - 1
            if not self._state.announced and last - opened.on_index >= self._minimum:
                self._state.announced = True
                out.append(opened)
            if min(fall, forced) >= self._end:
                break
            out += self._close(opened, last)
        return out

    def _open_next(self) -> Trigger | None:
        state = self._state
        rise = _first_from(self._rises, state.earliest, self._end)
        if rise < self._end:
            state.open = Trigger(self._block.sid, self._block.sample_rate_hz, rise, self._time(rise))
            state.announced = False
        return state.open

    def _close(self, opened: Trigger, last: int) -> list[Trigger]:
        """The trigger ends; one too short to have been announced leaves no trace and no dead time."""
        state = self._state
        state.open = None
        state.earliest = last + 1 + (self._dead if state.announced else 0)
        closed = replace(opened, off_index=last, off_ns=self._time(last))
        return [closed] if state.announced else []

    def _time(self, index: int) -> int:
        return self._block.start_ns + offset_ns(index - self._block.index, self._block.sample_rate_hz)


def _first_from(indices: list[int], earliest: int, otherwise: int) -> int:
    """The first of the ascending indices that is not before `earliest`."""
    place = bisect_left(indices, earliest)
    return indices[place] if place < len(indices) else otherwise


_Key = tuple[int, int, str, str]
"""(on, off, source id, uid of the window that covers the onset): obspy's order."""
_NEVER_NS = 1 << 62
_SPARE_ENTRIES = 64
MOST_TRIGGERS = 50_000
"""Live triggers that may wait to be settled; beyond, all are settled with what is known."""
_LIVE_PACE = 2
"""Times as fast as recorded, at most, is how data go on that are not read out of a backlog."""


@dataclass(slots=True)
class _Progress:
    """How far a channel is processed (exclusive), its open trigger, when it last moved (monotonic).

    serial: tells it from the same channel's progress before an end. opened: onset, sample interval and window uid.
    Every trigger with an onset before certain_ns is known and closed.
    """

    serial: int
    processed_ns: int
    moved_ns: int
    opened: tuple[int, int, str] | None = None

    @property
    def certain_ns(self) -> int:
        return self.processed_ns if self.opened is None else min(self.processed_ns, self.opened[0])


class _Lowest:
    """The lowest of many channels' values that only grow, in logarithmic time.

    A heap with one entry per channel, brought up to date only when it comes to the top.
    """

    def __init__(self, value_of: Callable[[_Progress], int]) -> None:
        self._value_of = value_of
        self._heap: list[tuple[int, int, str]] = []
        self._held: set[int] = set()

    def hold(self, sid: str, progress: _Progress) -> None:
        """From now on the channel's value counts (again)."""
        if progress.serial not in self._held:
            self._held.add(progress.serial)
            heappush(self._heap, (self._value_of(progress), progress.serial, sid))

    def drop(self, progress: _Progress) -> None:
        """The channel has ended. Its entry goes with others, so that the heap stays in proportion."""
        self._held.discard(progress.serial)
        if len(self._heap) > 2 * len(self._held) + _SPARE_ENTRIES:
            self._heap = [entry for entry in self._heap if entry[1] in self._held]
            heapify(self._heap)

    def top(self, awake: Callable[[str], _Progress | None]) -> tuple[int, str] | None:
        """The lowest value and its channel, without those that are not awake: these must be held anew."""
        while self._heap:
            noted, serial, sid = self._heap[0]
            progress = awake(sid)
            if progress is None or progress.serial != serial:
                heappop(self._heap)
                self._held.discard(serial)
            elif self._value_of(progress) > noted:
                heapreplace(self._heap, (self._value_of(progress), serial, sid))
            else:
                return noted, sid
        return None


class _Laggards:
    """Channels that lie far behind the others: behind what half of those that move, and enough for an event, reached.

    So neither a backlog nor a clock that runs ahead, of one station, decides for the others. That they lie behind
    counts once it has lasted for the patience (monotonic), in which the others went on no faster than time: while all
    read a backlog, one may be far ahead of another.
    """

    def __init__(self, config: NetworkConfig) -> None:
        self._least = config.min_channels
        self._limit_ns = seconds_to_ns(config.lag_seconds)
        self._patience_ns = seconds_to_ns(config.patience_seconds)
        self._since: dict[int, int] = {}
        self._looked_ns = 0
        self._reached_ns = -_NEVER_NS
        self._mark = (0, -_NEVER_NS)
        self._raced_ns = 0

    def look(self, channels: Collection[_Progress], now_ns: int) -> None:
        """To be called often; looks eight times in the patience, and never where now_ns is always 0."""
        if now_ns - self._looked_ns < self._patience_ns // 8:
            return
        self._looked_ns = now_ns
        moving = sorted(p.processed_ns for p in channels if now_ns - p.moved_ns < self._patience_ns)
        ahead = max(self._least, (len(moving) + 1) // 2)
        self._reached_ns = moving[-ahead] if len(moving) >= ahead else -_NEVER_NS
        self._since = {p.serial: self._since.get(p.serial, now_ns) for p in channels if self._far_behind(p)}
        self._watch_pace(now_ns)

    def has(self, progress: _Progress, now_ns: int) -> bool:
        """Whether the others go on without this channel."""
        since_ns = max(self._since.get(progress.serial, now_ns), self._raced_ns)
        return self._far_behind(progress) and now_ns - since_ns >= self._patience_ns

    def _far_behind(self, progress: _Progress) -> bool:
        return progress.processed_ns < self._reached_ns - self._limit_ns

    def _watch_pace(self, now_ns: int) -> None:
        """Whether the others race through a backlog; a long record, or another set of channels, is no race."""
        marked_ns, mark_ns = self._mark
        passed_ns = now_ns - marked_ns
        advance_ns = self._reached_ns - mark_ns
        raced = abs(advance_ns) > self._limit_ns + _LIVE_PACE * min(passed_ns, self._patience_ns)
        if raced:
            self._raced_ns = now_ns
        if raced or passed_ns >= self._patience_ns:
            self._mark = now_ns, self._reached_ns


@dataclass(slots=True)
class _Chain:
    off_ns: int
    members: list[tuple[str, int, str]]

    @property
    def times(self) -> tuple[int, int]:
        return self.members[0][1], self.off_ns


@dataclass(frozen=True, slots=True)
class CoincidenceState:
    """channels: how far each is processed, and its open trigger. The rest is as Coincidence has it."""

    channels: dict[str, tuple[int, tuple[int, int, str] | None]]
    closed: list[_Key]
    head_needs_ns: int
    last_off_ns: int
    settled_ns: int
    group_until_ns: int
    unseen: list[int]
    noticed: set[int]


class Coincidence:
    """Triggers of single channels to network triggers, by obspy's rule, as soon as no later data can change them.

    A head is settled when the watermark, before which every trigger is known, has passed its chained off time plus
    association_seconds. Channels silent for patience_seconds do not hold the watermark, nor, live, those that lag far
    behind the others for as long. An early notice goes out for the first trigger of a group as soon as the group has
    enough channels.
    counts: "late" triggers, which came before what was already settled.
    """

    def __init__(self, config: NetworkConfig, uid_of: Callable[[str, int], str]) -> None:
        self._uid_of = uid_of
        self._least = config.min_channels
        self._extension_ns = seconds_to_ns(config.association_seconds)
        self._patience_ns = seconds_to_ns(config.patience_seconds)
        self._laggards = _Laggards(config)
        self._channels: dict[str, _Progress] = {}
        self._serials = count()
        self._certain = _Lowest(lambda progress: progress.certain_ns)
        self._processed = _Lowest(lambda progress: progress.processed_ns)
        self._closed: list[_Key] = []
        self._head_needs_ns = -_NEVER_NS
        self._last_off_ns = 0
        self._settled_ns = -_NEVER_NS
        self._group_until_ns = -_NEVER_NS
        self._unseen: list[int] = []
        self._noticed: set[int] = set()
        self.counts: Counter[str] = Counter()

    def expect(self, sid: str, from_ns: int) -> None:
        """A channel whose data will begin at `from_ns` (archives know): nothing is settled without it."""
        self._progress(sid, from_ns)

    def feed(self, trigger: Trigger, window_uid: str) -> None:
        """A trigger that opens or closes, and the window that covers its onset. Settling waits for `advance`."""
        progress = self._progress(trigger.sid, trigger.on_ns)
        if trigger.off_ns is None:
            progress.opened = trigger.on_ns, offset_ns(1, trigger.sample_rate_hz), window_uid
            heappush(self._unseen, trigger.on_ns)
            return
        progress.opened = None
        if trigger.on_ns < self._settled_ns:
            self.counts["late"] += 1
        insort(self._closed, (trigger.on_ns, trigger.off_ns, trigger.sid, window_uid))

    def advance(self, sid: str, processed_ns: int, now_ns: int) -> list[NetworkTrigger]:
        """Every trigger of a channel with an onset before `processed_ns` is known; what that settles."""
        self._move(sid, processed_ns, now_ns)
        return self.poll(now_ns)

    def _move(self, sid: str, processed_ns: int, now_ns: int) -> None:
        progress = self._progress(sid, processed_ns, now_ns)
        if processed_ns > progress.processed_ns:
            progress.processed_ns, progress.moved_ns = processed_ns, now_ns
        self._certain.hold(sid, progress)
        self._processed.hold(sid, progress)

    def advance_all(self, processed: Iterable[tuple[str, int]], now_ns: int) -> list[NetworkTrigger]:
        """As `advance` for each (source id, processed_ns), where no trigger is fed in between."""
        for sid, processed_ns in processed:
            self._move(sid, processed_ns, now_ns)
        return self.poll(now_ns)

    def retract(self, sid: str) -> None:
        """The channel's open trigger came to nothing."""
        if sid in self._channels:
            self._channels[sid].opened = None

    def end(self, sid: str, now_ns: int) -> list[NetworkTrigger]:
        """No more data of this channel; what that settles."""
        ended = self._channels.pop(sid, None)
        if ended is not None:
            self._certain.drop(ended)
            self._processed.drop(ended)
        return self.poll(now_ns)

    def flush(self) -> list[NetworkTrigger]:
        """No more data of any channel, come or only expected: everything is settled."""
        self._channels.clear()
        return self._settle(_NEVER_NS)

    def next_deadline(self) -> int | None:
        """When the channel that holds the watermark may be silent for too long (monotonic ns). Call `poll` before."""
        top = self._certain.top(self._channels.get) if self._closed else None
        return None if top is None else self._channels[top[1]].moved_ns + self._patience_ns

    def poll(self, now_ns: int) -> list[NetworkTrigger]:
        """What is settled by now, and early notices."""
        out: list[NetworkTrigger] = []
        self._laggards.look(self._channels.values(), now_ns)
        if now_ns and max(len(self._closed), len(self._unseen)) > MOST_TRIGGERS:
            self._unseen.clear()
            out += self._settle(_NEVER_NS)
        if self._closed:
            out += self._settle(self._lowest(self._certain, now_ns))
        if self._unseen:
            out += self._notices(self._lowest(self._processed, now_ns))
        return out

    def oldest_open_ns(self) -> int:
        """Onset of the oldest trigger that is not settled; far in the future where all are."""
        return min([key[0] for key in self._closed[:1]] + [key[0] for key in self._still_open()], default=_NEVER_NS)

    @property
    def unsettled(self) -> int:
        """Closed triggers that wait to be settled."""
        return len(self._closed)

    def open_windows(self) -> set[str]:
        """Windows of triggers that are not settled, which network triggers may still name."""
        return {uid for _, _, _, uid in (*self._closed, *self._still_open())}

    def snapshot(self) -> CoincidenceState:
        """To be written down before anything else is fed."""
        return CoincidenceState(
            {sid: (progress.processed_ns, progress.opened) for sid, progress in self._channels.items()},
            self._closed,
            self._head_needs_ns,
            self._last_off_ns,
            self._settled_ns,
            self._group_until_ns,
            self._unseen,
            self._noticed,
        )

    def restore(self, state: CoincidenceState, now_ns: int) -> None:
        """Go on from a snapshot; how long channels have been silent or far behind counts from now_ns."""
        for sid, (processed_ns, opened) in state.channels.items():
            self._add(sid, _Progress(next(self._serials), processed_ns, now_ns, opened))
        self._closed, self._unseen, self._noticed = state.closed, state.unseen, state.noticed
        self._head_needs_ns, self._last_off_ns = state.head_needs_ns, state.last_off_ns
        self._settled_ns, self._group_until_ns = state.settled_ns, state.group_until_ns

    def _progress(self, sid: str, from_ns: int, now_ns: int = 0) -> _Progress:
        progress = self._channels.get(sid)
        return progress or self._add(sid, _Progress(next(self._serials), from_ns, now_ns))

    def _add(self, sid: str, progress: _Progress) -> _Progress:
        self._channels[sid] = progress
        self._certain.hold(sid, progress)
        self._processed.hold(sid, progress)
        return progress

    def _lowest(self, lowest: _Lowest, now_ns: int) -> int:
        """Over all channels that moved within the patience and do not lag."""

        def awake(sid: str) -> _Progress | None:
            progress = self._channels.get(sid)
            if progress is None or now_ns - progress.moved_ns >= self._patience_ns:
                return None
            return None if self._laggards.has(progress, now_ns) else progress

        top = lowest.top(awake)
        return _NEVER_NS if top is None else top[0]

    def _settle(self, watermark: int) -> list[NetworkTrigger]:
        out = []
        while self._closed and max(self._closed[0][0], self._head_needs_ns) < watermark:
            chain = self._chain(self._closed)
            self._head_needs_ns = chain.off_ns + self._extension_ns
            if self._head_needs_ns >= watermark:
                break
            uid = self._network_uid(chain)
            self._group_until_ns = max(self._group_until_ns, self._head_needs_ns)
            self._pop_heads(1)
            if len(chain.members) >= self._least and chain.off_ns > self._last_off_ns:
                self._last_off_ns = chain.off_ns
                out.append(NetworkTrigger(uid, *chain.times, tuple(chain.members), final=True))
                self._pop_heads(self._subsets())
        return out

    def _pop_heads(self, heads: int) -> None:
        if heads:
            self._settled_ns = max(self._settled_ns, self._closed[heads - 1][0])
            self._head_needs_ns = -_NEVER_NS
            del self._closed[:heads]
            self._noticed = {onset_ns for onset_ns in self._noticed if onset_ns > self._settled_ns}

    def _subsets(self) -> int:
        """How many heads can give no more than a subset of the last network trigger, in one look at the whole group."""
        subsets = 0
        for on_ns, off_ns, _, _ in self._closed:
            if on_ns > self._last_off_ns + self._extension_ns:
                break
            if off_ns > self._last_off_ns:
                return 0
            subsets += 1
        return subsets

    def _chain(self, triggers: list[_Key]) -> _Chain:
        """Triggers that overlap the first, directly or through others, one per channel (obspy's inner loop)."""
        on_ns, off_ns, sid, uid = triggers[0]
        chain = _Chain(off_ns, [(sid, on_ns, uid)])
        present = {sid}
        for other_on, other_off, other, other_uid in islice(triggers, 1, None):
            if other in present:
                continue
            if other_on > chain.off_ns + self._extension_ns:
                break
            present.add(other)
            chain.members.append((other, other_on, other_uid))
            chain.off_ns = max(chain.off_ns, other_off)
        return chain

    def _notices(self, reached_ns: int) -> list[NetworkTrigger]:
        """Early notices, looked for whenever a trigger's onset is reached: no earlier one can come any more."""
        if self._unseen[0] >= reached_ns:
            return []
        while self._unseen and self._unseen[0] < reached_ns:
            heappop(self._unseen)
        out = []
        for group in self._groups(reached_ns):
            onset_ns = group[0][0]
            if len(group) < self._least or onset_ns <= self._group_until_ns or onset_ns in self._noticed:
                continue
            chain = self._chain(group)
            if len(chain.members) >= self._least:
                self._noticed.add(onset_ns)
                out.append(NetworkTrigger(self._network_uid(chain), *chain.times, tuple(chain.members), final=False))
        return out

    def _groups(self, reached_ns: int) -> list[list[_Key]]:
        """Known triggers with onsets before `reached_ns`, in groups between which nothing overlaps."""
        groups: list[list[_Key]] = []
        until_ns = -_NEVER_NS
        for key in sorted([*self._closed, *self._still_open()]):
            if key[0] >= reached_ns:
                break
            if not groups or key[0] > until_ns + self._extension_ns:
                groups.append([])
            groups[-1].append(key)
            until_ns = max(until_ns, key[1])
        return groups

    def _still_open(self) -> list[_Key]:
        """Open triggers as if they closed with the last sample there is."""
        opened = [(sid, p.processed_ns, *p.opened) for sid, p in self._channels.items() if p.opened is not None]
        return [
            (on_ns, max(on_ns, processed_ns - step_ns), sid, uid) for sid, processed_ns, on_ns, step_ns, uid in opened
        ]

    def _network_uid(self, chain: _Chain) -> str:
        """Made from the first trigger; of equal onsets from the first source id, since early no more is known.

        What a later head of the same group adds is another event, with its own name even where the onset is the same.
        """
        head, onset_ns, _ = chain.members[0]
        if onset_ns <= self._group_until_ns:
            return "network-again-" + self._uid_of(head, onset_ns)
        return "network-" + self._uid_of(min(sid for sid, on_ns, _ in chain.members if on_ns == onset_ns), onset_ns)
