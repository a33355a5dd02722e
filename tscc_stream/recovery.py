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
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, TypeVar

import msgspec
import numpy as np

from tscc_stream import __version__
from tscc_stream.config import Config
from tscc_stream.messages import AnyArray
from tscc_stream.package import WINDOW_KEYS, PackageSpec
from tscc_stream.pipeline import FrontHalf, FrontState
from tscc_stream.sampling import NS_PER_SECOND, seconds_to_ns
from tscc_stream.seedlink.position import Position
from tscc_stream.stages.interpret import VoteState
from tscc_stream.stages.journal import Snapshot, StoredSnapshot

_State = TypeVar("_State", FrontState, VoteState)

FORMAT = 2
"""Of the state: to be raised whenever a stage's state changes its form or meaning."""
SHORTEST_NS = 2 * NS_PER_SECOND
BYTES_PER_SECOND = 500_000
"""What snapshots may write on average: 43 GB a day. Of 100 channels of 1 kHz one takes about 0.8 MB."""
SETTLE_SECONDS = 10.0
"""What a warm-up restart reads beyond the long average and the window's history, so that filters have settled."""
_SECTIONS = ("assemble", "condition", "trigger", "channels", "network")


@dataclass(frozen=True, slots=True, eq=False)
class Barrier:
    """Everything before it in the queue belongs to this snapshot. state: of the front half, encoded.

    reached: by source id, every window with an earlier onset (ns) is in the queue before, or never will be. named:
    windows that later network triggers may name.
    """

    state: bytes
    positions: bytes
    reached: dict[str, int]
    named: frozenset[str] = frozenset()


@dataclass(frozen=True, slots=True, eq=False)
class Resume:
    """What a restart goes on from. told: one sentence for people.

    front, vote: None where there is nothing to restore. positions: by server. floors: by source id, detections with
    earlier onsets (ns) are journalled already.
    """

    told: str
    positions: dict[str, Position] = field(default_factory=dict)
    front: FrontState | None = None
    vote: VoteState | None = None
    floors: dict[str, int] = field(default_factory=dict)


class Barriers:
    """When the front thread takes its next snapshot: every two seconds, or as seldom as BYTES_PER_SECOND wants it."""

    def __init__(self, now_ns: int) -> None:
        self._due_ns = now_ns + SHORTEST_NS

    def due(self, now_ns: int) -> bool:
        return now_ns >= self._due_ns

    def take(self, front: FrontHalf, positions: Mapping[str, Position], now_ns: int) -> Barrier:
        """A snapshot of now."""
        state = encode(front.snapshot())
        where = {server: position.as_dict() for server, position in positions.items()}
        self._due_ns = now_ns + max(SHORTEST_NS, len(state) * NS_PER_SECOND // BYTES_PER_SECOND)
        return Barrier(state, json.dumps(where).encode(), front.reached_ns(), front.unsettled_windows())


def snapshot_at(barrier: Barrier, vote: VoteState, made_of: bytes, floors: Mapping[str, int]) -> Snapshot:
    """What the journal keeps of a barrier that it has reached. floors: those that still hold."""
    state = msgspec.msgpack.encode([barrier.state, encode(vote)])
    reached = {**barrier.reached, **floors}
    return Snapshot(FORMAT, made_of, barrier.positions, json.dumps(reached).encode(), state)


def still_hold(floors: Mapping[str, int], barrier: Barrier) -> dict[str, int]:
    """Floors that a channel has not passed yet: a restart before it has must know them."""
    return {sid: floor_ns for sid, floor_ns in floors.items() if barrier.reached.get(sid, floor_ns - 1) < floor_ns}


def made_of(config: Config, spec: PackageSpec) -> bytes:
    """What a state depends on, each by a digest, so that a refusal can name it."""
    parts = {name: _digest(config.model_dump(mode="json")[name]) for name in _SECTIONS}
    windows = {key: spec.model_dump(mode="json").get(key) for key in WINDOW_KEYS}
    return json.dumps({"program": __version__, **parts, "the model's windows": _digest(windows)}).encode()


def _digest(value: object) -> str:
    return hashlib.sha256(json.dumps(value, sort_keys=True).encode()).hexdigest()[:16]


def resume(stored: StoredSnapshot | None, config: Config, spec: PackageSpec) -> Resume:
    """What to go on from, by what the journal holds."""
    if stored is None:
        return Resume("no snapshot yet: starting where the configuration says")
    if not stored.intact:
        return Resume("the snapshot is damaged: starting where the configuration says; the journal refuses repeats")
    snapshot = stored.snapshot
    positions = {server: Position.from_dict(value) for server, value in json.loads(snapshot.positions).items()}
    reached: dict[str, int] = json.loads(snapshot.reached)
    if differing := _differing(snapshot, config, spec):
        return _warm_up(differing, positions, reached, config, spec)
    front, vote = msgspec.msgpack.decode(snapshot.state, type=tuple[bytes, bytes])
    told = f"going on from the snapshot at seq {stored.head}, {len(reached)} channels"
    return Resume(told, positions, decode(front, FrontState), decode(vote, VoteState), reached)


def _differing(snapshot: Snapshot, config: Config, spec: PackageSpec) -> list[str]:
    """Names of what has changed since a snapshot."""
    if snapshot.format != FORMAT:
        return [f"format {snapshot.format} instead of {FORMAT}"]
    then, now = json.loads(snapshot.made_of), json.loads(made_of(config, spec))
    return [name for name in now if then.get(name) != now[name]]


def _warm_up(
    differing: list[str], positions: dict[str, Position], reached: dict[str, int], config: Config, spec: PackageSpec
) -> Resume:
    seconds = _longest_average(config) + spec.warmup_seconds + spec.samples / spec.sample_rate_hz + SETTLE_SECONDS
    rewound = {server: position.rewound(seconds_to_ns(seconds)) for server, position in positions.items()}
    told = (
        f"the snapshot was made with another {', '.join(differing)} and is refused: "
        f"reading {seconds:.0f} s more to warm up; what is journalled is not published again"
    )
    return Resume(told, rewound, floors=reached)


def _longest_average(config: Config) -> float:
    overrides = (override.trigger.get("lta_seconds", 0.0) for override in config.channels.values())
    return max([config.trigger.lta_seconds, *map(float, overrides)])


def encode(state: FrontState | VoteState) -> bytes:
    """MessagePack (msgpack.org), arrays as their type, shape and bytes."""
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


def _narrow(array: AnyArray) -> AnyArray:
    """Counts of recorders are 32-bit integers: half the room, where every bit comes back."""
    if array.dtype != np.float64:
        return array
    with np.errstate(invalid="ignore"):
        counts = array.astype(np.int32)
    same = np.array_equal(counts.astype(np.float64).view(np.int64), np.ascontiguousarray(array).view(np.int64))
    return counts if same else array


def _unpacked(_: type, value: list[Any]) -> AnyArray:
    kind, kept, shape, data = value
    array: AnyArray = np.frombuffer(data, kept).astype(kind).reshape(shape)
    return array
