"""Coincidence of triggers over channels: what obspy computes offline (`coincidence_trigger`), in any interleaving.

Two things come on top of obspy's rule, since a live network is never complete. Channels that are silent, or lie far
behind, do not hold up the others. And what is known of the past is local: triggers that come late, be it out of a
backlog or after a clock was wrong, are settled among themselves, whatever times others have come to.
"""

from __future__ import annotations

from bisect import bisect_left, bisect_right, insort
from collections import Counter, deque
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from heapq import heapify, heappop, heappush, heapreplace
from itertools import count, islice

from tscc_stream.config import NetworkConfig
from tscc_stream.messages import NetworkTrigger, Trigger
from tscc_stream.sampling import offset_ns, seconds_to_ns

_Key = tuple[int, int, str, str]
"""(on, off, source id, uid of the window that covers the onset): obspy's order."""
_NEVER_NS = 1 << 62
_SPARE_ENTRIES = 64
MOST_TRIGGERS = 50_000
"""Live triggers that may wait to be settled. Beyond, those of clocks far ahead of the others, which may wait for years,
are left out; where that is not enough, all are settled with what is known.
"""
_MOST_GROUPS = 64
"""Settled groups that are known by their times, the latest."""
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
        self._lagging: set[int] = set()
        self._looked_ns = 0
        self._reached_ns = -_NEVER_NS
        self._mark = (0, -_NEVER_NS)
        self._raced_ns = 0

    def look(self, channels: Mapping[str, _Progress], now_ns: int) -> bool:
        """To be called often; looks eight times in the patience, and never where now_ns is always 0. Whether it did."""
        if now_ns - self._looked_ns < self._patience_ns // 8:
            return False
        self._looked_ns = now_ns
        moving = sorted(p.processed_ns for p in channels.values() if now_ns - p.moved_ns < self._patience_ns)
        ahead = max(self._least, (len(moving) + 1) // 2)
        self._reached_ns = moving[-ahead] if len(moving) >= ahead else -_NEVER_NS
        self._since = {p.serial: self._since.get(p.serial, now_ns) for p in channels.values() if self.far_behind(p)}
        self._watch_pace(now_ns)
        self._lagging = {
            serial for serial, at_ns in self._since.items() if now_ns - max(at_ns, self._raced_ns) >= self._patience_ns
        }
        return True

    def has(self, progress: _Progress) -> bool:
        """Whether the others go on without this channel: it did at the latest look, and has not caught up since."""
        return progress.serial in self._lagging and self.far_behind(progress)

    def far_behind(self, progress: _Progress) -> bool:
        """Whether it is far behind by now, for however short a time."""
        return progress.processed_ns < self._reached_ns - self._limit_ns

    @property
    def ahead_ns(self) -> int:
        """What lies later is far ahead of the others; the far future where that is not known."""
        return _NEVER_NS if self._reached_ns == -_NEVER_NS else self._reached_ns + self._limit_ns

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


class _Lane:
    """Closed triggers that wait to be settled, in obspy's order.

    needs_ns: everything before it must be known before the first can be settled, as far as was looked.
    """

    def __init__(self, keys: list[_Key]) -> None:
        self.keys = keys
        self.needs_ns = -_NEVER_NS

    def add(self, key: _Key) -> None:
        insort(self.keys, key)
        if self.keys[0] is key:
            self.needs_ns = -_NEVER_NS

    def pop(self, heads: int) -> None:
        if heads:
            del self.keys[:heads]
            self.needs_ns = -_NEVER_NS


@dataclass(slots=True)
class _Group:
    """Triggers that overlap, directly or through others, of which some are settled: from the first onset, up to where
    an onset still belongs to it. last_off_ns: of its last network trigger.
    """

    from_ns: int
    until_ns: int
    last_off_ns: int = -_NEVER_NS


class _Groups:
    """The groups that were settled last. Nothing is known of others: what comes late is settled as if it were first."""

    def __init__(self, groups: Iterable[_Group] = ()) -> None:
        self.latest = deque(groups, _MOST_GROUPS)

    def of(self, onset_ns: int) -> _Group | None:
        return next((one for one in reversed(self.latest) if one.from_ns <= onset_ns <= one.until_ns), None)

    def reach(self, onset_ns: int, until_ns: int) -> _Group:
        """The group of this onset, made where there is none, reaches as far as that."""
        group = self.of(onset_ns)
        if group is None:
            group = _Group(onset_ns, until_ns)
            self.latest.append(group)
        elif group is not self.latest[-1]:
            self.latest.remove(group)
            self.latest.append(group)
        group.until_ns = max(group.until_ns, until_ns)
        return group


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
    late: list[_Key]
    groups: list[_Group]
    settled_ns: int
    unseen: list[int]
    noticed: set[int]


class Coincidence:
    """Triggers of single channels to network triggers, by obspy's rule, as soon as no later data can change them.

    A head is settled when the watermark, before which every trigger is known, has passed its chained off time plus
    association_seconds. Channels silent for patience_seconds do not hold the watermark, nor, live, those that lag far
    behind the others for as long: these have a watermark of their own, so that their triggers are settled among
    themselves. An early notice goes out for the first trigger of a group as soon as the group has enough channels; none
    for channels that lag.
    counts: "late" triggers, which came before what was settled last; "ahead", which MOST_TRIGGERS left out.
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
        self._behind = _Lowest(lambda progress: progress.certain_ns)
        self._closed, self._late = _Lane([]), _Lane([])
        self._groups = _Groups()
        self._settled_ns = -_NEVER_NS
        self._unseen: list[int] = []
        self._noticed: set[int] = set()
        self.counts: Counter[str] = Counter()

    def expect(self, sid: str, from_ns: int) -> None:
        """A channel whose data will begin at `from_ns` (archives know): nothing is settled without it."""
        self._progress(sid, from_ns)

    def feed(self, trigger: Trigger, window_uid: str) -> None:
        """A trigger that opens or closes, and the window that covers its onset. Settling waits for `advance`."""
        progress = self._progress(trigger.sid, trigger.on_ns)
        lags = self._laggards.has(progress)
        if trigger.off_ns is None:
            progress.opened = trigger.on_ns, offset_ns(1, trigger.sample_rate_hz), window_uid
            if not lags:
                heappush(self._unseen, trigger.on_ns)
            return
        progress.opened = None
        if trigger.on_ns < self._settled_ns:
            self.counts["late"] += 1
        (self._late if lags else self._closed).add((trigger.on_ns, trigger.off_ns, trigger.sid, window_uid))

    def advance(self, sid: str, processed_ns: int, now_ns: int) -> list[NetworkTrigger]:
        """Every trigger of a channel with an onset before `processed_ns` is known; what that settles."""
        self._move(sid, processed_ns, now_ns)
        return self.poll(now_ns)

    def _move(self, sid: str, processed_ns: int, now_ns: int) -> None:
        progress = self._progress(sid, processed_ns, now_ns)
        if processed_ns > progress.processed_ns:
            progress.processed_ns, progress.moved_ns = processed_ns, now_ns
        self._hold(sid, progress)

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
        """No more data of this channel, or none that go on from where it was; what that settles."""
        self.forget(sid)
        return self.poll(now_ns)

    def forget(self, sid: str) -> None:
        """How far this channel has come is of no use: by a clock that was wrong. Whatever waits goes on waiting."""
        ended = self._channels.pop(sid, None)
        if ended is not None:
            for lowest in (self._certain, self._processed, self._behind):
                lowest.drop(ended)

    def flush(self) -> list[NetworkTrigger]:
        """No more data of any channel, come or only expected: everything is settled."""
        self._channels.clear()
        return self._settle(self._late, _NEVER_NS) + self._settle(self._closed, _NEVER_NS)

    def next_deadline(self) -> int | None:
        """When a channel that holds a watermark may be silent for too long (monotonic ns). Call `poll` before."""
        tops = [
            self._certain.top(self._channels.get) if self._closed.keys else None,
            self._behind.top(self._far_behind) if self._late.keys else None,
        ]
        return min((self._channels[top[1]].moved_ns + self._patience_ns for top in tops if top), default=None)

    def poll(self, now_ns: int) -> list[NetworkTrigger]:
        """What is settled by now, and early notices."""
        out: list[NetworkTrigger] = []
        if self._laggards.look(self._channels, now_ns):
            self._part()
        if now_ns and max(len(self._closed.keys), len(self._unseen)) > MOST_TRIGGERS:
            out += self._make_room()
        if self._late.keys:
            out += self._settle(self._late, self._lowest_behind(now_ns))
        if self._closed.keys:
            out += self._settle(self._closed, self._lowest(self._certain, now_ns))
        if self._unseen:
            out += self._notices(self._lowest(self._processed, now_ns))
        return out

    def oldest_open_ns(self) -> int:
        """Onset of the oldest trigger that is not settled; far in the future where all are."""
        heads = (*self._late.keys[:1], *self._closed.keys[:1], *self._still_open())
        return min((key[0] for key in heads), default=_NEVER_NS)

    @property
    def unsettled(self) -> int:
        """Closed triggers that wait to be settled."""
        return len(self._closed.keys) + len(self._late.keys)

    def open_windows(self) -> set[str]:
        """Windows of triggers that are not settled, which network triggers may still name."""
        return {uid for _, _, _, uid in (*self._closed.keys, *self._late.keys, *self._still_open())}

    def snapshot(self) -> CoincidenceState:
        """To be written down before anything else is fed."""
        return CoincidenceState(
            {sid: (progress.processed_ns, progress.opened) for sid, progress in self._channels.items()},
            self._closed.keys,
            self._late.keys,
            list(self._groups.latest),
            self._settled_ns,
            self._unseen,
            self._noticed,
        )

    def restore(self, state: CoincidenceState, now_ns: int) -> None:
        """Go on from a snapshot; how long channels have been silent or far behind counts from now_ns."""
        for sid, (processed_ns, opened) in state.channels.items():
            self._add(sid, _Progress(next(self._serials), processed_ns, now_ns, opened))
        self._closed, self._late, self._groups = _Lane(state.closed), _Lane(state.late), _Groups(state.groups)
        self._settled_ns, self._unseen, self._noticed = state.settled_ns, state.unseen, state.noticed

    def _progress(self, sid: str, from_ns: int, now_ns: int = 0) -> _Progress:
        progress = self._channels.get(sid)
        return progress or self._add(sid, _Progress(next(self._serials), from_ns, now_ns))

    def _add(self, sid: str, progress: _Progress) -> _Progress:
        self._channels[sid] = progress
        self._hold(sid, progress)
        return progress

    def _hold(self, sid: str, progress: _Progress) -> None:
        self._certain.hold(sid, progress)
        self._processed.hold(sid, progress)
        if self._laggards.far_behind(progress):
            self._behind.hold(sid, progress)

    def _part(self) -> None:
        """After a look: channels that lag hold back one another only, and so do their triggers."""
        for sid, progress in self._channels.items():
            if self._laggards.far_behind(progress):
                self._behind.hold(sid, progress)
        lagging = {sid for sid, progress in self._channels.items() if self._laggards.has(progress)}
        late = [key for key in self._closed.keys if key[2] in lagging]
        if late:
            self._closed = _Lane([key for key in self._closed.keys if key[2] not in lagging])
            self._late = _Lane(sorted([*self._late.keys, *late]))

    def _lowest(self, lowest: _Lowest, now_ns: int) -> int:
        """Over all channels that moved within the patience and do not lag."""

        def awake(sid: str) -> _Progress | None:
            progress = self._channels.get(sid)
            if progress is None or now_ns - progress.moved_ns >= self._patience_ns:
                return None
            return None if self._laggards.has(progress) else progress

        top = lowest.top(awake)
        return _NEVER_NS if top is None else top[0]

    def _lowest_behind(self, now_ns: int) -> int:
        """Over the channels far behind the others that moved within the patience."""

        def awake(sid: str) -> _Progress | None:
            progress = self._far_behind(sid)
            return None if progress is None or now_ns - progress.moved_ns >= self._patience_ns else progress

        top = self._behind.top(awake)
        return _NEVER_NS if top is None else top[0]

    def _far_behind(self, sid: str) -> _Progress | None:
        progress = self._channels.get(sid)
        return progress if progress is not None and self._laggards.far_behind(progress) else None

    def _make_room(self) -> list[NetworkTrigger]:
        ahead_ns, keys = self._laggards.ahead_ns, self._closed.keys
        keep = max(MOST_TRIGGERS, bisect_right(keys, ahead_ns, key=lambda key: key[0]))
        self.counts["ahead"] += len(keys[keep:])
        del keys[keep:]
        self._unseen = sorted(onset_ns for onset_ns in self._unseen if onset_ns <= ahead_ns)[:MOST_TRIGGERS]
        return self._settle(self._closed, _NEVER_NS) if len(keys) > MOST_TRIGGERS else []

    def _settle(self, lane: _Lane, watermark: int) -> list[NetworkTrigger]:
        out = []
        while lane.keys and max(lane.keys[0][0], lane.needs_ns) < watermark:
            chain = self._chain(lane.keys)
            lane.needs_ns = needs_ns = chain.off_ns + self._extension_ns
            if needs_ns >= watermark:
                break
            uid = self._network_uid(chain)
            group = self._groups.reach(chain.times[0], needs_ns)
            self._pop(lane, 1)
            if len(chain.members) >= self._least and chain.off_ns > group.last_off_ns:
                group.last_off_ns = chain.off_ns
                out.append(NetworkTrigger(uid, *chain.times, tuple(chain.members), final=True))
                self._pop(lane, self._subsets(lane.keys, chain.off_ns))
        return out

    def _pop(self, lane: _Lane, heads: int) -> None:
        onsets_ns = [key[0] for key in lane.keys[:heads]]
        if onsets_ns and lane is self._closed:
            self._settled_ns = onsets_ns[-1]
        self._noticed.difference_update(onsets_ns)
        lane.pop(heads)

    def _subsets(self, keys: list[_Key], last_off_ns: int) -> int:
        """How many heads can give no more than a subset of the last network trigger, in one look at the whole group."""
        subsets = 0
        for on_ns, off_ns, _, _ in keys:
            if on_ns > last_off_ns + self._extension_ns:
                break
            if off_ns > last_off_ns:
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
        groups = self._waiting(reached_ns)
        for group in groups:
            onset_ns = group[0][0]
            if len(group) < self._least or onset_ns in self._noticed or self._groups.of(onset_ns):
                continue
            chain = self._chain(group)
            if len(chain.members) >= self._least:
                self._noticed.add(onset_ns)
                out.append(NetworkTrigger(self._network_uid(chain), *chain.times, tuple(chain.members), final=False))
        heads = {group[0][0] for group in groups}
        self._noticed = {onset_ns for onset_ns in self._noticed if onset_ns in heads or onset_ns >= reached_ns}
        return out

    def _waiting(self, reached_ns: int) -> list[list[_Key]]:
        """Known triggers with onsets before `reached_ns`, in groups between which nothing overlaps; none that lag."""
        groups: list[list[_Key]] = []
        until_ns = -_NEVER_NS
        closed = self._closed.keys[: bisect_left(self._closed.keys, (reached_ns,))]
        opened = [key for key in self._still_open() if not self._laggards.has(self._channels[key[2]])]
        for key in sorted([*closed, *opened]):
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
        if self._groups.of(onset_ns):
            return "network-again-" + self._uid_of(head, onset_ns)
        return "network-" + self._uid_of(min(sid for sid, on_ns, _ in chain.members if on_ns == onset_ns), onset_ns)
