"""Snapshots at barriers: what is written down while the daemon runs, and what a restart goes on from.

The front thread takes a snapshot between two records and sends it down the same queue as the windows before it. When
the back thread meets it, everything before it is committed, and it is committed with the position in every server's
data. This is the asynchronous barrier snapshot of stream engines (Carbone et al., arXiv:1506.08603). A restart goes on
from there: windows that had been published after the barrier are made again, and the journal refuses them.

A snapshot of another version or configuration is of no use but for its positions: a restart then asks for earlier data,
so that filters and histories are warm again, and suppresses what lies before the time up to which all is journalled.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, TypeVar

import msgspec
import numpy as np

from tscc_stream import __version__
from tscc_stream.config import Config
from tscc_stream.messages import AnyArray, Detection, NetworkEvent
from tscc_stream.package import WINDOW_KEYS, PackageSpec
from tscc_stream.pipeline import FrontHalf, FrontState
from tscc_stream.sampling import NS_PER_SECOND, seconds_to_ns
from tscc_stream.seedlink.position import Position
from tscc_stream.stages.interpret import VoteState
from tscc_stream.stages.journal import Snapshot, StoredSnapshot

_State = TypeVar("_State", FrontState, VoteState)
LatestOnsets = Callable[[int], dict[str, int]]

FORMAT = 3
"""Of the state: to be raised whenever a stage's state changes its form or meaning."""
_LONG_AGO_NS = -(1 << 62)
FIRST_NS = NS_PER_SECOND // 4
"""A process that is killed again and again soon after its start gets on all the same."""
SHORTEST_NS = 2 * NS_PER_SECOND
BYTES_PER_SECOND = 500_000
"""What snapshots may write on average: 43 GB a day. Of 100 channels of 1 kHz one takes about 0.8 MB."""
SETTLE_SECONDS = 10.0
"""What a warm-up restart reads beyond the long average and the window's history, so that filters have settled."""
_SECTIONS = ("assemble", "condition", "trigger", "channels", "network", "shard")


@dataclass(frozen=True, slots=True, eq=False)
class Barrier:
    """Everything before it in the queue belongs to this snapshot. state: of the front half, encoded.

    reached: by source id, as FrontHalf.reached_ns has it. unsettled_ns: no network trigger that is still to come has an
    earlier onset. named: windows that later network triggers may name. silent: streams that were told to be silent.
    """

    state: bytes
    positions: bytes
    reached: dict[str, tuple[int, int]]
    unsettled_ns: int
    named: frozenset[str] = frozenset()
    silent: tuple[str, ...] = ()


@dataclass(frozen=True, slots=True)
class Floors:
    """What was journalled before this start, and is not published again under another onset.

    channels: by source id, detections with earlier onsets (ns). network_ns: network events with earlier onsets.
    """

    channels: dict[str, int] = field(default_factory=dict)
    network_ns: int = _LONG_AGO_NS

    def hold_back(self, result: Detection | NetworkEvent) -> bool:
        """Whether it was journalled before."""
        if isinstance(result, NetworkEvent):
            return result.onset_ns < self.network_ns
        window = result.assignment.window
        return window.onset_ns < self.channels.get(window.sid, window.onset_ns)

    def after(self, barrier: Barrier, unsettled_ns: int) -> Floors:
        """Those that still hold: a restart before a channel has passed its floor must know it. unsettled_ns: of both
        halves.
        """
        channels = {
            sid: floor_ns
            for sid, floor_ns in self.channels.items()
            if sid not in barrier.reached or barrier.reached[sid][0] < floor_ns
        }
        passed = _settled_ns(barrier, unsettled_ns) >= self.network_ns
        return Floors(channels, _LONG_AGO_NS if passed else self.network_ns)

    def without(self, sid: str) -> Floors:
        """A channel's clock was set back: its past says nothing of what comes."""
        return replace(self, channels={other: at_ns for other, at_ns in self.channels.items() if other != sid})


@dataclass(frozen=True, slots=True, eq=False)
class Resume:
    """What a restart goes on from. told: one sentence for people.

    front, vote: None where there is nothing to restore. positions: by server. had: by source id, the data time up to
    which a channel had come, where its state is not restored: what begins later leaves a gap. silent: streams that were
    told to be silent.
    """

    told: str
    positions: dict[str, Position] = field(default_factory=dict)
    front: FrontState | None = None
    vote: VoteState | None = None
    floors: Floors = field(default_factory=Floors)
    had: dict[str, int] = field(default_factory=dict)
    silent: frozenset[str] = frozenset()

    @property
    def reached_ns(self) -> dict[str, int]:
        """By source id, the data time that each channel had come to."""
        if self.front is None:
            return self.had
        return {sid: channel.next_ns for sid, channel in self.front.assemble.items()}


class Barriers:
    """When the front thread takes its next snapshot: every two seconds, or as seldom as BYTES_PER_SECOND wants it."""

    def __init__(self, now_ns: int) -> None:
        self._due_ns = now_ns + FIRST_NS

    def due(self, now_ns: int) -> bool:
        return now_ns >= self._due_ns

    def take(
        self, front: FrontHalf, positions: Mapping[str, Position], now_ns: int, silent: tuple[str, ...] = ()
    ) -> Barrier:
        """A snapshot of now."""
        state = encode(front.snapshot())
        where = {server: position.as_dict() for server, position in positions.items()}
        self._due_ns = now_ns + max(SHORTEST_NS, len(state) * NS_PER_SECOND // BYTES_PER_SECOND)
        named = front.unsettled_windows()
        return Barrier(state, json.dumps(where).encode(), front.reached_ns(), front.unsettled_ns(), named, silent)


class Reached(msgspec.Struct, frozen=True, omit_defaults=True):
    """How far everything had come, as JSON. channels: floor and had, by source id; network_ns: as in Floors; silent:
    as in Barrier, in no snapshot of an older version.
    """

    channels: dict[str, tuple[int, int]]
    network_ns: int
    silent: tuple[str, ...] = ()


def _settled_ns(barrier: Barrier, unsettled_ns: int) -> int:
    """No network event that is still to come has an earlier onset, be it of data that are still to come."""
    return (
        min([unsettled_ns, *(floor_ns for floor_ns, _ in barrier.reached.values())])
        if barrier.reached
        else _LONG_AGO_NS
    )


def snapshot_at(barrier: Barrier, vote: VoteState, unsettled_ns: int, made_of: bytes, floors: Floors) -> Snapshot:
    """What the journal keeps of a barrier that it has reached. unsettled_ns: of both halves; floors: still hold."""
    state = msgspec.msgpack.encode([barrier.state, encode(vote)])
    held = {sid: (floor_ns, barrier.reached.get(sid, (0, floor_ns))[1]) for sid, floor_ns in floors.channels.items()}
    settled_ns = _settled_ns(barrier, unsettled_ns)
    reached = Reached({**barrier.reached, **held}, max(settled_ns, floors.network_ns), barrier.silent)
    return Snapshot(FORMAT, made_of, barrier.positions, msgspec.json.encode(reached), state)


def made_of(config: Config, spec: PackageSpec) -> bytes:
    """What a state depends on, each by a digest, so that a refusal can name it."""
    parts = {name: _digest(config.model_dump(mode="json")[name]) for name in _SECTIONS}
    windows = {key: spec.model_dump(mode="json").get(key) for key in WINDOW_KEYS}
    return json.dumps({"program": __version__, **parts, "the model's windows": _digest(windows)}).encode()


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def resume(
    stored: StoredSnapshot | None, config: Config, spec: PackageSpec, latest_onsets: LatestOnsets = lambda _: {}
) -> Resume:
    """What to go on from, by what the journal holds. latest_onsets: of detections after a seq, by source id."""
    if stored is None:
        return Resume("no snapshot yet: starting where the configuration says")
    if not stored.intact:
        return Resume("the snapshot is damaged: starting where the configuration says; the journal refuses repeats")
    try:
        return _of_intact(stored, config, spec, latest_onsets)
    except (
        msgspec.MsgspecError,
        ValueError,
        LookupError,
        TypeError,
        AttributeError,
    ) as error:  # written by a program that went wrong
        return Resume(f"the snapshot cannot be read ({error}): starting where the configuration says")


def _of_intact(stored: StoredSnapshot, config: Config, spec: PackageSpec, latest_onsets: LatestOnsets) -> Resume:
    snapshot = stored.snapshot
    positions = {server: Position.from_dict(value) for server, value in json.loads(snapshot.positions).items()}
    reached = msgspec.json.decode(snapshot.reached, type=Reached)
    floors = Floors({sid: floor_ns for sid, (floor_ns, _) in reached.channels.items()}, reached.network_ns)
    if differing := _differing(snapshot, config, spec):
        told, rewound = _warm_up(differing, positions, config, spec)
        for sid, onset_ns in latest_onsets(stored.head).items():
            floors.channels[sid] = max(floors.channels.get(sid, 0), onset_ns + 1)
        had = {sid: had_ns for sid, (_, had_ns) in reached.channels.items()}
        return Resume(told, rewound, floors=floors, had=had, silent=frozenset(reached.silent))
    front, vote = msgspec.msgpack.decode(snapshot.state, type=tuple[bytes, bytes])
    told = f"going on from the snapshot at seq {stored.head}, {len(reached.channels)} channels"
    states = decode(front, FrontState), decode(vote, VoteState)
    return Resume(told, positions, *states, floors, silent=frozenset(reached.silent))


def _differing(snapshot: Snapshot, config: Config, spec: PackageSpec) -> list[str]:
    """Names of what has changed since a snapshot."""
    if snapshot.format != FORMAT:
        return [f"format {snapshot.format} instead of {FORMAT}"]
    then, now = json.loads(snapshot.made_of), json.loads(made_of(config, spec))
    return [name for name in now if then.get(name) != now[name]]


def _warm_up(
    differing: list[str], positions: dict[str, Position], config: Config, spec: PackageSpec
) -> tuple[str, dict[str, Position]]:
    """What is said, and where to go on from."""
    seconds = _longest_average(config) + spec.warmup_seconds + spec.samples / spec.sample_rate_hz + SETTLE_SECONDS
    rewound = {server: position.rewound(seconds_to_ns(seconds)) for server, position in positions.items()}
    told = (
        f"the snapshot was made with another {', '.join(differing)} and is refused: "
        f"reading {seconds:.0f} s more to warm up; what is journalled is not published again"
    )
    return told, rewound


def _longest_average(config: Config) -> float:
    overrides = (override.trigger.get("lta_seconds", 0.0) for override in config.channels.values())
    return max([config.trigger.lta_seconds, *map(float, overrides)])


def encode(state: FrontState | VoteState) -> bytes:
    """MessagePack (msgpack.org), arrays as their type, shape and bytes."""
    with np.errstate(invalid="ignore"):  # of floats that are no counts
        return msgspec.msgpack.encode(state, enc_hook=_packed)


def decode(data: bytes, kind: type[_State]) -> _State:
    """The inverse of `encode`, exact to the bit."""
    return msgspec.msgpack.decode(data, type=kind, dec_hook=_unpacked)


def _packed(value: object) -> object:
    if isinstance(value, np.ndarray):
        kept = _narrow(value)
        return [value.dtype.str, kept.dtype.str, list(value.shape), kept.tobytes()]
    if isinstance(value, np.generic):
        return value.item()
    raise NotImplementedError(f"{type(value)} in a snapshot")


_FEW = 32  # values, of which half the room is not worth the look


def _narrow(array: AnyArray) -> AnyArray:
    """Counts of recorders are 32-bit integers: half the room, where every bit comes back."""
    if array.dtype != np.float64 or array.size < _FEW:
        return array
    counts = array.astype(np.int32)
    same = (counts.astype(np.float64).view(np.int64) == np.ascontiguousarray(array).view(np.int64)).all()
    return counts if same else array


def _unpacked(_: type, value: list[Any]) -> AnyArray:
    kind, kept, shape, data = value
    array: AnyArray = np.frombuffer(data, kept).astype(kind).reshape(shape)
    return array
