"""Triggers and history to windows: one of each channel, or one of each sensor across its components.

How samples become a window is `windows`' affair, and how the components of a sensor lie on one clock that of
`components`; here it is decided which triggers make windows, when those are complete, and what is said of them.
"""

from __future__ import annotations

from bisect import insort
from collections import Counter, OrderedDict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field

import numpy as np

from tscc_stream.components import NEVER_NS, RATE_TOLERANCE, Flag, Sensor, SensorState, Spot, cut_together
from tscc_stream.messages import (
    Characteristic,
    EndOfStream,
    Float32Array,
    Float64Array,
    Gap,
    Trigger,
    Window,
    WindowDropped,
    read_only,
)
from tscc_stream.package import EACH_CHANNEL, PackageSpec
from tscc_stream.sampling import offset_ns, seconds_to_ns
from tscc_stream.source_id import split_component, with_component
from tscc_stream.windows import WindowPlan, cut_window, normalise, plan_windows, uid_of

__all__ = ["Extract", "ExtractTogether", "cut_window", "extract_for", "normalise", "plan_windows", "uid_of"]

LONG_RUN_SAMPLES = 16
"""Equal samples in a row from which a window is flagged "flat": healthy recordings hold up to 7."""
MOST_REMEMBERED = 16_384
"""Triggers whose window is remembered for network triggers that may still name them."""


@dataclass(slots=True)
class _Pending:
    """A window that waits for its samples. window_end and needed_end: indices, inclusive."""

    uid: str
    onset_ns: int
    onset_index: int
    window_end: int
    needed_end: int
    off_index: int | None = None


@dataclass(slots=True)
class History:
    """history and ratios start at sample `origin` of the segment. flags: (first index, end index, flags).

    latest_uid and latest_end: the latest window, finished or not, and its last sample.
    """

    plan: WindowPlan
    origin: int = 0
    history: Float64Array = field(default_factory=lambda: np.empty(0))
    ratios: Float64Array = field(default_factory=lambda: np.empty(0))
    flags: list[Flag] = field(default_factory=list)
    pending: list[_Pending] = field(default_factory=list)
    latest_uid: str = ""
    latest_end: int = -1


@dataclass(frozen=True, slots=True)
class HistoryState:
    """One channel as it can be written down: its plan follows from the package and the rate.

    ratios: of the last samples of `history` only, those that a window may still ask for.
    """

    rate_hz: float
    origin: int
    history: Float64Array
    ratios: Float64Array
    flags: list[Flag]
    pending: list[_Pending]
    latest_uid: str
    latest_end: int


ExtractState = dict[str, HistoryState]
"""By source id."""


class Extract:
    """Triggers and blocks to windows of one channel each.

    For each block, its triggers are fed first and then the block itself. A trigger whose onset falls inside a pending
    window makes no window of its own. counts: "suppressed" triggers.
    """

    def __init__(
        self, spec: PackageSpec, clip_of: Callable[[str], float | None], min_seconds_of: Callable[[str], float]
    ) -> None:
        self._spec = spec
        self._clip_of = clip_of
        self._min_seconds_of = min_seconds_of
        self._channels: dict[str, History] = {}
        self.counts: Counter[str] = Counter()

    def check(self, rate_hz: float, _sid: str = "") -> None:
        """Raises RateError where the model cannot be served from a stream of this rate."""
        plan_windows(self._spec, rate_hz)

    def covering(self, sid: str) -> str:
        """The uid of the window, finished or not, that covers the onset of the channel's latest trigger."""
        return self._channels[sid].latest_uid

    def window_of(self, uid: str, binding: bool = True) -> str:  # as WindowsTogether has it
        """What `covering` says holds at once."""
        return uid

    def advance(self, _sid: str, _reached_ns: int) -> list[Window | WindowDropped]:
        """A channel that comes to nothing within a break says nothing new."""
        return []

    def flush(self) -> list[Window | WindowDropped]:
        """Nothing is held beyond the end of a channel."""
        return []

    def snapshot(self) -> ExtractState:
        """Every channel's state, to be written down before the next `feed`."""
        return {sid: self._written(sid, channel) for sid, channel in self._channels.items()}

    def _written(self, sid: str, channel: History) -> HistoryState:
        """No trigger that is still to be announced has an onset more than min_seconds ago."""
        end = channel.origin + channel.ratios.size
        unannounced = end - round(self._min_seconds_of(sid) * channel.plan.stream_rate_hz) - 1
        first = min([unannounced, *(pending.onset_index for pending in channel.pending)])
        return HistoryState(
            channel.plan.stream_rate_hz,
            channel.origin,
            channel.history,
            channel.ratios[max(0, first - channel.origin) :],
            channel.flags,
            channel.pending,
            channel.latest_uid,
            channel.latest_end,
        )

    def restore(self, state: ExtractState) -> None:
        """Go on from a snapshot that was taken for the same package."""
        for sid, kept in state.items():
            ratios = np.zeros(kept.history.size)
            ratios[kept.history.size - kept.ratios.size :] = kept.ratios
            plan = plan_windows(self._spec, kept.rate_hz)
            self._channels[sid] = History(
                plan, kept.origin, kept.history, ratios, kept.flags, kept.pending, kept.latest_uid, kept.latest_end
            )

    def forget(self, _sid: str) -> list[Window | WindowDropped]:
        """Nothing is kept beyond the end of a channel."""
        return []

    def oldest_pending_ns(self) -> int:
        """Onset of the oldest window that still waits for samples; far in the future where none does."""
        return min(self.oldest_pending_by_channel().values(), default=1 << 62)

    def oldest_pending_by_channel(self) -> dict[str, int]:
        """Onset of the oldest window that still waits for samples, of channels that have one."""
        return {sid: channel.pending[0].onset_ns for sid, channel in self._channels.items() if channel.pending}

    def feed(self, message: Trigger | Characteristic | Gap | EndOfStream) -> list[Window | WindowDropped]:
        """Windows that become complete, in order of onset, and windows that never will."""
        if isinstance(message, Trigger):
            self._trigger(message)
            return []
        if isinstance(message, Characteristic):
            return self._advance(message)
        reason = "gap" if isinstance(message, Gap) else "end"
        channel = self._channels.pop(message.sid, None)
        pending = channel.pending if channel else []
        return [WindowDropped(p.uid, message.sid, p.onset_ns, reason) for p in pending]

    def _trigger(self, trigger: Trigger) -> None:
        channel = self._channel(trigger.sid, trigger.sample_rate_hz)
        if trigger.off_index is not None:
            latest = channel.pending[-1] if channel.pending else None
            if latest is not None and latest.onset_index == trigger.on_index:
                latest.off_index = trigger.off_index
            return
        if trigger.on_index <= channel.latest_end:
            self.counts["suppressed"] += 1
            return
        uid, plan = uid_of(trigger.sid, trigger.on_ns), channel.plan
        channel.latest_uid, channel.latest_end = uid, trigger.on_index + plan.after
        needed_end = trigger.on_index + plan.reach
        channel.pending.append(_Pending(uid, trigger.on_ns, trigger.on_index, channel.latest_end, needed_end))

    def _channel(self, sid: str, rate_hz: float) -> History:
        channel = self._channels.get(sid)
        if channel is None:
            channel = self._channels[sid] = History(plan_windows(self._spec, rate_hz))
        return channel

    def _advance(self, message: Characteristic) -> list[Window | WindowDropped]:
        block = message.block
        channel = self._channel(block.sid, block.sample_rate_hz)
        self._append(channel, message)
        return self._complete(channel, block.sid, block.received_ns)

    def history(self, sid: str) -> History:
        """One channel's, amid a segment; whoever takes its samples over keeps history and ratios elsewhere."""
        return self._channels[sid]

    def complete(
        self, sid: str, origin: int, samples: Float64Array, ratios: Float64Array, received_ns: int
    ) -> list[Window | WindowDropped]:
        """Windows that become complete of a channel whose samples [n] and ratios [n], from sample `origin` on, are kept
        elsewhere.
        """
        channel = self._channels[sid]
        channel.origin, channel.history, channel.ratios = origin, samples, ratios
        out = self._complete(channel, sid, received_ns)
        channel.history = channel.ratios = np.empty(0)
        return out

    def lookback(self, sid: str) -> int:
        """Samples before an onset, or before what comes next, that windows may still need."""
        plan = self._channels[sid].plan
        return plan.history + round(self._min_seconds_of(sid) * plan.stream_rate_hz) + 1

    def _complete(self, channel: History, sid: str, received_ns: int) -> list[Window | WindowDropped]:
        end = channel.origin + channel.history.size
        ready = [p for p in channel.pending if p.needed_end < end]
        channel.pending = channel.pending[len(ready) :]
        return [self._window(channel, pending, sid, received_ns) for pending in ready]

    def _append(self, channel: History, message: Characteristic) -> None:
        """History grows by a block and loses what no window can need any more."""
        block = message.block
        oldest = min([block.index, *(p.onset_index for p in channel.pending)]) - self.lookback(block.sid)
        drop = max(0, oldest - channel.origin)
        channel.origin += drop
        channel.history = np.concatenate((channel.history[drop:], block.samples))
        channel.ratios = np.concatenate((channel.ratios[drop:], message.values))
        channel.flags = [flag for flag in channel.flags if flag[1] > channel.origin]
        if block.quality:
            channel.flags.append((block.index, block.index + block.samples.size, block.quality))

    def _window(self, channel: History, pending: _Pending, sid: str, received_ns: int) -> Window | WindowDropped:
        plan = channel.plan
        onset = pending.onset_index - channel.origin
        cut = cut_window(channel.history, onset, plan)
        if cut is None:
            return WindowDropped(pending.uid, sid, pending.onset_ns, "history")
        last = pending.window_end if pending.off_index is None else min(pending.off_index, pending.window_end)
        begin, end = pending.onset_index - plan.before, pending.window_end + 1
        raw = channel.history[max(0, begin - channel.origin) : end - channel.origin]
        quality = _quality(raw, _flags_within(channel.flags, begin, end), self._clip_of(sid))
        ratios = channel.ratios[onset : last - channel.origin + 1]
        trigger = pending.uid, sid, pending.onset_ns
        return _window(self._spec, plan, trigger, cut[:, np.newaxis], ratios, quality, received_ns)


def _flags_within(flags: Iterable[Flag], begin: int, end: int) -> set[str]:
    return {name for first, last, names in flags if first < end and begin < last for name in names}


def _quality(raw: Float64Array, said: set[str], clip_counts: float | None) -> set[str]:
    """What the recorder said, and what the raw samples within the window say of themselves."""
    found = set(said)
    if clip_counts is not None and np.abs(raw).max() >= clip_counts:
        found.add("clipped")
    changes = np.flatnonzero(raw[1:] != raw[:-1])
    if np.diff(changes, prepend=-1, append=raw.size - 1).max() >= LONG_RUN_SAMPLES:
        found.add("flat")
    return found


def _window(
    spec: PackageSpec,
    plan: WindowPlan,
    trigger: tuple[str, str, int],
    cut: Float32Array,
    ratios: Float64Array,
    quality: set[str],
    received_ns: int,
) -> Window:
    """trigger: uid, source id, onset; cut: [samples, channels]; ratios: from the onset to the trigger's last sample."""
    uid, sid, onset_ns = trigger
    waveform = read_only(cut)
    return Window(
        uid=uid,
        sid=sid,
        onset_ns=onset_ns,
        start_ns=onset_ns - offset_ns(spec.onset_sample, spec.sample_rate_hz),
        sample_rate_hz=spec.sample_rate_hz,
        stream_rate_hz=plan.stream_rate_hz,
        waveform=waveform,
        normalised=read_only(normalise(waveform, spec.normalisation)),
        peak_ratio=float(ratios.max()),
        peak_amplitude=float(np.abs(cut).max()),
        duration_s=(ratios.size - 1) / plan.stream_rate_hz,
        quality=tuple(sorted(quality)),
        received_ns=received_ns,
    )


class ComponentError(ValueError):
    """A channel that is no component of any window, and why."""


class RatesDifferError(ComponentError):
    """A component at another rate than the rest of its sensor has at the time."""


@dataclass(slots=True, eq=False)
class _Onset:
    """A trigger of one component. cover: uid of the window that covers it, empty until that is known. asked: its own
    uid was given for that meanwhile. until_ns: end of the window, if it makes one. broken_ns: from when on that cannot
    become whole any more, once it is settled.
    """

    trigger: Trigger
    component: str
    uid: str
    until_ns: int
    off_index: int | None = None
    cover: str = ""
    asked: bool = False
    broken_ns: int | None = None

    def dropped(self, reason: str) -> WindowDropped:
        self.cover = self.cover or self.uid
        return WindowDropped(self.uid, self.trigger.sid, self.trigger.on_ns, reason)


@dataclass(slots=True, eq=False)
class _Group:
    """A sensor and its triggers. undecided: in order of onset, while an earlier one may still come. pending: make
    windows. latest: made the latest window. last: the latest trigger of each component. received_ns: of the last block.
    """

    sensor: Sensor
    undecided: list[_Onset] = field(default_factory=list)
    pending: list[_Onset] = field(default_factory=list)
    latest: _Onset | None = None
    last: dict[str, _Onset] = field(default_factory=dict)
    received_ns: int = 0

    @property
    def onsets(self) -> list[_Onset]:
        """Every trigger that is still spoken of, some more than once."""
        latest = [] if self.latest is None else [self.latest]
        return [*self.undecided, *self.pending, *latest, *self.last.values()]

    def snapshot(self, place: dict[int, int]) -> GroupState:
        """place: number of an onset, by its identity."""
        return GroupState(
            self.sensor.snapshot(),
            [place[id(onset)] for onset in self.undecided],
            [place[id(onset)] for onset in self.pending],
            None if self.latest is None else place[id(self.latest)],
            {component: place[id(onset)] for component, onset in self.last.items()},
        )

    @classmethod
    def restored(cls, state: GroupState, onsets: list[_Onset], spec: PackageSpec) -> _Group:
        return cls(
            Sensor.restored(state.sensor, spec),
            [onsets[place] for place in state.undecided],
            [onsets[place] for place in state.pending],
            None if state.latest is None else onsets[state.latest],
            {component: onsets[place] for component, place in state.last.items()},
        )

    @property
    def oldest_ns(self) -> int:
        """Onset of the oldest trigger that is not settled; far in the future where all are."""
        return min((onset.trigger.on_ns for onset in (*self.pending[:1], *self.undecided[:1])), default=NEVER_NS)


@dataclass(frozen=True, slots=True)
class GroupState:
    """A sensor and its triggers as they can be written down; triggers by their place among TogetherState.onsets."""

    sensor: SensorState
    undecided: list[int]
    pending: list[int]
    latest: int | None
    last: dict[str, int]


@dataclass(frozen=True, slots=True)
class TogetherState:
    """groups: by sensor; places: sensor and component of every source id; remembered: of the last onsets."""

    groups: dict[str, GroupState]
    places: dict[str, tuple[str, str]]
    onsets: list[_Onset]
    remembered: int


MOST_WRITTEN = 2_000
"""Triggers remembered for network triggers that a snapshot holds: more than any of these is old."""


class ExtractTogether:
    """Triggers and blocks to windows across the components of one sensor, as the package lists them.

    Any component's trigger may open a window; the first in data time does, and later onsets of the sensor within that
    window make none, unless a break has spoilt it before. A window carries the source id of the channel that opened
    it. It is made when all components have its samples, and dropped for "gap" or "end" (of any component), "history",
    "rate" (they differ), "misaligned", or "component" (one is too far behind the others, or never came).
    counts: "suppressed" triggers.
    """

    def __init__(
        self, spec: PackageSpec, clip_of: Callable[[str], float | None], min_seconds_of: Callable[[str], float]
    ) -> None:
        self._spec = spec
        self._clip_of = clip_of
        self._min_seconds_of = min_seconds_of
        self._groups: dict[str, _Group] = {}
        self._places: dict[str, tuple[_Group, str]] = {}
        self._onsets: OrderedDict[str, _Onset] = OrderedDict()
        self.counts: Counter[str] = Counter()

    def check(self, rate_hz: float, sid: str) -> None:
        """Raises RateError where the model cannot be served from a stream of this rate, ComponentError where the
        package does not list the component, RatesDifferError where the others of its sensor have another rate.
        """
        plan_windows(self._spec, rate_hz)
        name, component = split_component(sid)
        wanted = ", ".join(self._spec.components)
        if component not in self._spec.components:
            raise ComponentError(f"component {component!r} is none of those of model {self._spec.name}: {wanted}")
        group = self._groups.get(name)
        tracks = group.sensor.tracks.items() if group else ()
        for other, track in tracks:
            others_hz = track.rate_hz
            if other != component and others_hz and abs(others_hz - rate_hz) > RATE_TOLERANCE * rate_hz:
                raise RatesDifferError(
                    f"{rate_hz:g} Hz, but component {other} of its sensor has {others_hz:g} Hz; "
                    f"model {self._spec.name} takes {wanted} together"
                )

    def covering(self, sid: str) -> str:
        """What to ask `window_of` for, of the channel's latest trigger."""
        group, component = self._places[sid]
        return group.last[component].uid

    def window_of(self, uid: str, binding: bool = True) -> str:
        """The uid of the window, finished or not, that covers a trigger; its own where that is not known yet.

        binding: a trigger's own uid, once given, is kept to.
        """
        onset = self._onsets.get(uid)
        if onset is None:
            return uid
        onset.asked = onset.asked or (binding and not onset.cover)
        return onset.cover or uid

    def oldest_pending_ns(self) -> int:
        """Onset of the oldest trigger whose window is not settled; far in the future where none is."""
        return min((group.oldest_ns for group in self._groups.values()), default=NEVER_NS)

    def oldest_pending_by_channel(self) -> dict[str, int]:
        """Onset of the oldest trigger of its sensor whose window is not settled, of channels that have one."""
        oldest = {sid: group.oldest_ns for sid, (group, _) in self._places.items()}
        return {sid: onset_ns for sid, onset_ns in oldest.items() if onset_ns < NEVER_NS}

    def feed(self, message: Trigger | Characteristic | Gap | EndOfStream) -> list[Window | WindowDropped]:
        """Windows that become complete, by sensor in order of onset, and windows that never will."""
        if isinstance(message, Characteristic):
            return self._block(message)
        if isinstance(message, Trigger):
            return self._trigger(message)
        if message.sid not in self._places:
            return []
        group, component = self._places[message.sid]
        if isinstance(message, Gap):
            group.sensor.tracks[component].close("gap")
            set_back = message.to_ns is not None and message.to_ns < message.from_ns
            return self._restart(group) if set_back else []
        group.sensor.tracks[component].end()
        return self._settle(group)

    def advance(self, sid: str, reached_ns: int) -> list[Window | WindowDropped]:
        """Everything before `reached_ns` was fed, be it a break."""
        group, component = self._place(sid)
        return self._settle(group) if group.sensor.tracks[component].advance(reached_ns) else []

    def snapshot(self) -> TogetherState:
        """Every sensor's state, to be written down before the next `feed`."""
        remembered = list(self._onsets.values())[-MOST_WRITTEN:]
        onsets = {id(onset): onset for group in self._groups.values() for onset in group.onsets}
        for onset in remembered:
            onsets.pop(id(onset), None)
            onsets[id(onset)] = onset
        place = {identity: number for number, identity in enumerate(onsets)}
        groups = {name: group.snapshot(place) for name, group in self._groups.items()}
        names = {id(group): name for name, group in self._groups.items()}
        places = {sid: (names[id(group)], component) for sid, (group, component) in self._places.items()}
        return TogetherState(groups, places, list(onsets.values()), len(remembered))

    def restore(self, state: TogetherState) -> None:
        """Go on from a snapshot that was taken for the same package."""
        onsets = state.onsets
        self._groups = {name: _Group.restored(group, onsets, self._spec) for name, group in state.groups.items()}
        self._places = {sid: (self._groups[name], component) for sid, (name, component) in state.places.items()}
        self._onsets = OrderedDict((onset.uid, onset) for onset in onsets[len(onsets) - state.remembered :])

    def flush(self) -> list[Window | WindowDropped]:
        """The end of all data: what still waits, waits for components that never came."""
        return [drop for group in self._groups.values() for drop in self._drop_all(group, "component")]

    def forget(self, sid: str) -> list[Window | WindowDropped]:
        """A channel that has ended is not kept; with its last component the sensor goes, and what waits for others."""
        if sid not in self._places:
            return []
        group, component = self._places.pop(sid)
        group.last.pop(component, None)
        name, _ = split_component(sid)
        if any(with_component(name, other) in self._places for other in self._spec.components):
            return []
        return self._drop_all(self._groups.pop(name), "component")

    def _place(self, sid: str) -> tuple[_Group, str]:
        if sid not in self._places:
            name, component = split_component(sid)
            group = self._groups.setdefault(name, _Group(Sensor(self._spec)))
            group.sensor.tracks[component].unannounced_ns = seconds_to_ns(self._min_seconds_of(sid))
            self._places[sid] = group, component
        return self._places[sid]

    def _trigger(self, trigger: Trigger) -> list[Window | WindowDropped]:
        group, component = self._place(trigger.sid)
        if trigger.off_index is not None:
            group.last[component].off_index = trigger.off_index
            return []
        drops = self._restart(group) if group.sensor.goes_back(component, trigger.on_ns) else []
        rate_hz = trigger.sample_rate_hz
        after_ns = offset_ns(plan_windows(self._spec, rate_hz).after, rate_hz) + offset_ns(1, rate_hz) // 2
        onset = _Onset(trigger, component, uid_of(trigger.sid, trigger.on_ns), trigger.on_ns + after_ns)
        insort(group.undecided, onset, key=self._order)
        group.last[component] = self._onsets[onset.uid] = onset
        if len(self._onsets) > MOST_REMEMBERED:
            self._onsets.popitem(last=False)
        return drops

    def _order(self, onset: _Onset) -> tuple[int, int]:
        return onset.trigger.on_ns, self._spec.components.index(onset.component)

    def _block(self, message: Characteristic) -> list[Window | WindowDropped]:
        block = message.block
        group, component = self._place(block.sid)
        back = group.sensor.goes_back(component, block.start_ns)
        drops = self._restart(group) if back else []
        group.sensor.append(component, block, message.values)
        group.received_ns = block.received_ns
        return drops + self._settle(group)

    def _restart(self, group: _Group) -> list[Window | WindowDropped]:
        """A clock was set back: nothing tells this sensor's past from its future any more."""
        group.sensor.restart()
        group.latest = None
        return self._drop_all(group, "gap")

    def _drop_all(self, group: _Group, reason: str) -> list[Window | WindowDropped]:
        drops: list[Window | WindowDropped] = [onset.dropped(reason) for onset in (*group.pending, *group.undecided)]
        group.pending, group.undecided = [], []
        return drops

    def _settle(self, group: _Group) -> list[Window | WindowDropped]:
        """Decide on the triggers before which nothing can come any more; make the windows that are complete."""
        out: list[Window | WindowDropped] = []
        known_ns = group.sensor.known_ns()
        while group.undecided and group.undecided[0].trigger.on_ns < known_ns:
            out += self._decide(group, group.undecided.pop(0))
        while group.pending and (made := self._made(group, group.pending[0])) is not None:
            group.pending.pop(0)
            out.append(made)
        group.sensor.forget(min(known_ns, group.oldest_ns))
        return out

    def _decide(self, group: _Group, onset: _Onset) -> list[Window | WindowDropped]:
        """The first opens a window; who comes within it does not, unless a break had ended it before."""
        latest, at_ns = group.latest, onset.trigger.on_ns
        if latest is not None and at_ns <= latest.until_ns:
            broken_ns = latest.broken_ns
            if broken_ns is None:
                broken_ns = group.sensor.broken_ns(latest.trigger.on_ns)
            if broken_ns > at_ns:
                onset.cover = latest.uid
                if onset.asked:
                    return [WindowDropped(onset.uid, onset.trigger.sid, at_ns, "pending")]
                self.counts["suppressed"] += 1
                return []
        onset.cover, group.latest = onset.uid, onset
        group.pending.append(onset)
        return []

    def _made(self, group: _Group, onset: _Onset) -> Window | WindowDropped | None:
        at_ns = onset.trigger.on_ns
        spots = group.sensor.look(at_ns)
        if spots is None:
            return None
        onset.broken_ns = group.sensor.broken_ns(at_ns)
        if isinstance(spots, str):
            return onset.dropped(spots)
        lead = spots[self._spec.components.index(onset.component)]
        cut = cut_together(spots, lead)
        if isinstance(cut, str):
            return onset.dropped(cut)
        segment, index = lead
        trigger, plan = onset.trigger, segment.plan
        lasted = plan.after if onset.off_index is None else min(onset.off_index - trigger.on_index, plan.after)
        ratios = segment.ratios[index - segment.origin : index - segment.origin + lasted + 1]
        quality = self._quality(trigger.sid, spots)
        identity = onset.uid, trigger.sid, trigger.on_ns
        return _window(self._spec, plan, identity, cut, ratios, quality, group.received_ns)

    def _quality(self, sid: str, spots: list[Spot]) -> set[str]:
        """Flags of any component."""
        name, _ = split_component(sid)
        found: set[str] = set()
        for component, (segment, index) in zip(self._spec.components, spots, strict=True):
            begin, end = index - segment.plan.before, index + segment.plan.after + 1
            raw = segment.samples[max(0, begin - segment.origin) : end - segment.origin]
            clip = self._clip_of(with_component(name, component))
            found |= _quality(raw, _flags_within(segment.flags, begin, end), clip)
        return found


def extract_for(
    spec: PackageSpec, clip_of: Callable[[str], float | None], min_seconds_of: Callable[[str], float]
) -> Extract | ExtractTogether:
    """The stage for a package's windows."""
    if spec.components == EACH_CHANNEL:
        return Extract(spec, clip_of, min_seconds_of)
    return ExtractTogether(spec, clip_of, min_seconds_of)
