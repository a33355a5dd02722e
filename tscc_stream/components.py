"""The components of one sensor on one clock: what was received of each lately, and windows cut across all of them.

The components of a sensor are the channels whose source ids differ in the subsource only (FDSN: `..._H_Z`, `..._H_N`,
`..._H_E`). Each is recorded, sent and broken on its own. A window is cut from the raw history of every one of them
around the same time; whether it can be, and what it holds, depends on their samples and stated times alone, never on
who came first. Only for a component that is more than LAG_* behind the others is not waited: history is finite.
"""

from __future__ import annotations

from bisect import bisect_right
from dataclasses import dataclass, field
from operator import itemgetter

import numpy as np

from tscc_stream.messages import Block, Float32Array, Float64Array
from tscc_stream.package import PackageSpec
from tscc_stream.sampling import NS_PER_SECOND, offset_ns, samples_in, seconds_to_ns
from tscc_stream.windows import WindowPlan, cut_window, plan_windows

LAG_SECONDS = 30.0
LAG_SAMPLES = 10_000
"""Beside a window's own length, how far (in data time, whichever is longer) a component may be behind the foremost
one of its sensor: more than any record of 4,096 bytes holds."""
NEVER_NS = 1 << 62
RATE_TOLERANCE = 1e-4
"""Relative: the components' headers may state one rate with differing precision."""
_SLACK_NS = 1000
"""Stated times are rounded: what is nearer than this to the middle between two samples belongs to the earlier one."""

Flag = tuple[int, int, frozenset[str]]
"""What recorders say of samples: first index, end index, flags."""


@dataclass(frozen=True, slots=True)
class SegmentState:
    """A segment as it can be written down: its plan follows from the package and the rate."""

    rate_hz: float
    origin: int
    samples: Float64Array
    ratios: Float64Array
    places: list[tuple[int, int]]
    flags: list[Flag]
    closed: str


@dataclass(frozen=True, slots=True)
class TrackState:
    """A track as it can be written down."""

    segments: list[SegmentState]
    reached_ns: int
    step_ns: int
    unannounced_ns: int
    ended: bool


@dataclass(frozen=True, slots=True)
class SensorState:
    """A sensor as it can be written down: its tracks by component."""

    lag_ns: int
    tracks: dict[str, TrackState]


@dataclass(slots=True)
class Segment:
    """Samples of one component without a break. Indices count from the segment's start; `origin` is the first held.

    ratios: the characteristic function beside the samples. places: (index, stated time) of every block held. closed:
    why nothing more comes ("gap", "end"), empty while it may.
    """

    plan: WindowPlan
    origin: int
    samples: Float64Array = field(default_factory=lambda: np.empty(0))
    ratios: Float64Array = field(default_factory=lambda: np.empty(0))
    places: list[tuple[int, int]] = field(default_factory=list)
    flags: list[Flag] = field(default_factory=list)
    closed: str = ""

    @property
    def end(self) -> int:
        """Index of the sample after the last."""
        return self.origin + self.samples.size

    @property
    def end_ns(self) -> int:
        """Time of the sample after the last."""
        return self.time_of(self.end)

    def snapshot(self) -> SegmentState:
        return SegmentState(
            self.plan.stream_rate_hz, self.origin, self.samples, self.ratios, self.places, self.flags, self.closed
        )

    @classmethod
    def restored(cls, state: SegmentState, spec: PackageSpec) -> Segment:
        plan = plan_windows(spec, state.rate_hz)
        return cls(plan, state.origin, state.samples, state.ratios, state.places, state.flags, state.closed)

    def append(self, block: Block, ratios: Float64Array) -> None:
        """The block that continues the segment."""
        self.places.append((block.index, block.start_ns))
        if block.quality:
            self.flags.append((block.index, block.index + block.samples.size, block.quality))
        self.samples = np.concatenate((self.samples, block.samples))
        self.ratios = np.concatenate((self.ratios, ratios))

    def time_of(self, index: int) -> int:
        """Stated time of a sample, by the block that holds it."""
        first, start_ns = self.places[max(0, bisect_right(self.places, index, key=itemgetter(0)) - 1)]
        return start_ns + offset_ns(index - first, self.plan.stream_rate_hz)

    def index_at(self, at_ns: int) -> int | None:
        """The sample nearest to a time, at most half a sample away; None where none is held."""
        place = max(0, bisect_right(self.places, at_ns, key=itemgetter(1)) - 1)
        first, start_ns = self.places[place]
        index = first + samples_in(at_ns - start_ns - _SLACK_NS, self.plan.stream_rate_hz)
        return index if self.origin <= index < self.end else None

    def cut(self, onset: int) -> Float32Array | None:
        """The window [samples] around an index; None where the segment is too young for it.

        A segment that lost its beginning has no warm-up to spare: its windows would depend on what was lost.
        """
        before = onset - self.origin
        if self.origin > 0 and before < self.plan.history - self.plan.down:
            return None
        return cut_window(self.samples, before, self.plan)

    def forget(self, before_ns: int) -> None:
        """Lose what only windows with onsets before a time would need."""
        index = self.end if before_ns >= self.end_ns else self.index_at(before_ns)
        drop = 0 if index is None else index - self.plan.history - 1 - self.origin
        if drop <= 0:
            return
        self.origin += drop
        self.samples, self.ratios = self.samples[drop:], self.ratios[drop:]
        self.flags = [flag for flag in self.flags if flag[1] > self.origin]
        del self.places[: bisect_right(self.places, self.origin, key=itemgetter(0)) - 1]


Spot = tuple[Segment, int]
"""A sample: its segment and its index."""


@dataclass(slots=True)
class Track:
    """One component. reached_ns: where its next sample is expected, also within a break. unannounced_ns: how long
    after its onset a trigger may become known. ended: nothing more will come, unless it begins again.
    """

    segments: list[Segment] = field(default_factory=list)
    reached_ns: int = -NEVER_NS
    step_ns: int = 0
    unannounced_ns: int = 0
    ended: bool = False

    def snapshot(self) -> TrackState:
        segments = [segment.snapshot() for segment in self.segments]
        return TrackState(segments, self.reached_ns, self.step_ns, self.unannounced_ns, self.ended)

    @classmethod
    def restored(cls, state: TrackState, spec: PackageSpec) -> Track:
        segments = [Segment.restored(segment, spec) for segment in state.segments]
        return cls(segments, state.reached_ns, state.step_ns, state.unannounced_ns, state.ended)

    @property
    def known_ns(self) -> int:
        """Every trigger with an onset before is known. Times that records state may jump by half a sample."""
        return NEVER_NS if self.ended else self.reached_ns - self.unannounced_ns - self.step_ns

    @property
    def rate_hz(self) -> float:
        """Of the latest samples; 0 where there are none, or no more will come."""
        return self.segments[-1].plan.stream_rate_hz if self.segments and not self.ended else 0.0

    def advance(self, reached_ns: int) -> bool:
        """Nothing but a break comes before. Whether that is news."""
        further = reached_ns > self.reached_ns
        self.reached_ns = max(self.reached_ns, reached_ns)
        return further

    def end(self) -> None:
        """Nothing more comes."""
        self.close("end")
        self.ended = True

    def close(self, why: str) -> None:
        """The segment that is open ends."""
        if self.segments and not self.segments[-1].closed:
            self.segments[-1].closed = why

    def find(self, at_ns: int) -> Spot | None:
        """The sample nearest to a time, where there is one within half a sample."""
        found = ((segment, segment.index_at(at_ns)) for segment in self.segments)
        return next(((segment, index) for segment, index in found if index is not None), None)

    def look(self, at_ns: int, floor_ns: int) -> Spot | str | None:
        """Where a window's onset stands once its samples are there; why they never will be; None: not yet known."""
        spot = self.find(at_ns)
        if spot is not None:
            segment, index = spot
            if index + segment.plan.reach < segment.end:
                return spot
            if segment.closed:
                return segment.closed
        elif self.reached_ns > at_ns + self.step_ns:
            return "gap"
        elif self.ended:
            return "end"
        return "component" if floor_ns > at_ns else None

    def broken_ns(self, at_ns: int) -> int:
        """From when on a window with this onset cannot become whole any more; far in the future where it may."""
        spot = self.find(at_ns)
        if spot is None:
            return at_ns
        return spot[0].end_ns if spot[0].closed else NEVER_NS

    def forget(self, before_ns: int) -> None:
        """Lose what only windows with onsets before a time would need."""
        before_ns = min(before_ns, self.reached_ns)
        self.segments = [one for one in self.segments if not one.closed or one.end_ns > before_ns]
        for segment in self.segments:
            segment.forget(before_ns)


class Sensor:
    """The components that a package wants, in its order, of one sensor."""

    def __init__(self, spec: PackageSpec) -> None:
        self._spec = spec
        self._lag_ns = 0
        self.tracks = {component: Track() for component in spec.components}

    def snapshot(self) -> SensorState:
        """To be written down before anything else is appended."""
        return SensorState(self._lag_ns, {component: track.snapshot() for component, track in self.tracks.items()})

    @classmethod
    def restored(cls, state: SensorState, spec: PackageSpec) -> Sensor:
        """As it was when a snapshot was taken, for the same package."""
        sensor = cls(spec)
        sensor._lag_ns = state.lag_ns
        sensor.tracks = {component: Track.restored(track, spec) for component, track in state.tracks.items()}
        return sensor

    def goes_back(self, component: str, at_ns: int) -> bool:
        """Whether a component's clock was set back, so that nothing here tells its past from its future."""
        track = self.tracks[component]
        return at_ns < track.reached_ns - track.unannounced_ns - 2 * track.step_ns

    def restart(self) -> None:
        """Forget everything but how late triggers may come."""
        for component, track in self.tracks.items():
            self.tracks[component] = Track(unannounced_ns=track.unannounced_ns)

    def append(self, component: str, block: Block, ratios: Float64Array) -> None:
        """A component's next block."""
        track, rate = self.tracks[component], block.sample_rate_hz
        last = track.segments[-1] if track.segments else None
        if last is None or last.closed or block.index != last.end:
            track.close("gap")
            last = Segment(plan_windows(self._spec, rate), block.index)
            track.segments.append(last)
        last.append(block, ratios)
        track.ended, track.step_ns, track.reached_ns = False, offset_ns(1, rate), last.end_ns
        window_ns = offset_ns(self._spec.samples, self._spec.sample_rate_hz)
        self._lag_ns = window_ns + max(seconds_to_ns(LAG_SECONDS), LAG_SAMPLES * track.step_ns)

    def floor_ns(self) -> int:
        """What a component lacks of the time before is not waited for any more."""
        return max((t.reached_ns for t in self.tracks.values() if not t.ended), default=-NEVER_NS) - self._lag_ns

    def known_ns(self) -> int:
        """Every trigger of any component with an onset before is known, or too late."""
        floor_ns = self.floor_ns()
        return min(max(track.known_ns, floor_ns) for track in self.tracks.values())

    def look(self, at_ns: int) -> list[Spot] | str | None:
        """The onset in every component once all have a window's samples; why they never will; None: not yet known."""
        floor_ns = self.floor_ns()
        found = [track.look(at_ns, floor_ns) for track in self.tracks.values()]
        if None in found:
            return None
        reasons = [each for each in found if isinstance(each, str)]
        return reasons[0] if reasons else [each for each in found if isinstance(each, tuple)]

    def broken_ns(self, at_ns: int) -> int:
        """From when on no window with this onset can become whole; far in the future where it may."""
        return min(track.broken_ns(at_ns) for track in self.tracks.values())

    def forget(self, before_ns: int) -> None:
        """Lose what only windows with onsets before a time would need."""
        for track in self.tracks.values():
            track.forget(before_ns)


def cut_together(spots: list[Spot], lead: Spot) -> Float32Array | str:
    """A window [samples, channels] across components, or why there is none: "rate", "history" or "misaligned".

    lead: the component whose trigger it is, one of the spots. Misaligned: at the window's ends the stated times are
    more than half a sample apart, as where a clock was being corrected meanwhile.
    """
    plan = lead[0].plan
    if any((s.plan.up, s.plan.down, s.plan.before) != (plan.up, plan.down, plan.before) for s, _ in spots):
        return "rate"
    cuts = [segment.cut(index) for segment, index in spots]
    columns = [cut for cut in cuts if cut is not None]
    if len(columns) < len(cuts):
        return "history"
    half_ns = NS_PER_SECOND / (2 * plan.stream_rate_hz) + _SLACK_NS
    for offset in (-plan.before, 0, plan.after):
        at_ns = lead[0].time_of(lead[1] + offset)
        if any(abs(segment.time_of(index + offset) - at_ns) > half_ns for segment, index in spots):
            return "misaligned"
    return np.stack(columns, axis=1)
