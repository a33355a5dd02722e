"""What flows through the pipeline: frozen values, integer nanoseconds, read-only arrays.

Data time is `*_ns`: integer nanoseconds since 1970-01-01 UTC, from the records. `received_ns` is monotonic time at
which the last needed byte came in (0 where nothing was received, as from files); it takes no part in equality, since
results depend on data alone.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any, TypeVar

import numpy as np
import numpy.typing as npt

Int32Array = npt.NDArray[np.int32]
Float64Array = npt.NDArray[np.float64]
Float32Array = npt.NDArray[np.float32]
Int64Array = npt.NDArray[np.int64]
AnyArray = npt.NDArray[Any]
_Array = TypeVar("_Array", bound=AnyArray)


def read_only(array: _Array) -> _Array:
    """The same array, locked against writing."""
    array.flags.writeable = False
    return array


@dataclass(frozen=True, slots=True, eq=False)
class Record:
    """One decoded miniSEED record.

    samples: [n] int32, float32 or float64, read-only, in counts; n > 0.
    quality: any of "clipped" (the recorder says so) and "timing" (its clock is questionable).
    """

    sid: str
    start_ns: int
    sample_rate_hz: float
    samples: AnyArray
    quality: frozenset[str] = frozenset()
    received_ns: int = 0


QUALITIES = (frozenset[str](), frozenset({"clipped"}), frozenset({"timing"}), frozenset({"clipped", "timing"}))
"""What can be said of a record, by number."""


@dataclass(frozen=True, slots=True, eq=False)
class RecordBatch:
    """Decoded records of any channels side by side, in the order in which they came.

    Record i is of sids[channel[i]], came under stations[channel[i]] (NET_STA, empty where nobody says), starts at
    start_ns[i], and has samples[begin[i]:begin[i + 1]]. channel [n], start_ns [n], begin [n + 1] int64; sample_rate_hz
    [n] float64; quality [n] int64: places in QUALITIES; samples [m] float64 or int32, read-only, in counts. sids may
    name more channels than occur, and may grow.
    """

    sids: Sequence[str]
    stations: Sequence[str]
    channel: Int64Array
    start_ns: Int64Array
    sample_rate_hz: Float64Array
    begin: Int64Array
    quality: Int64Array
    samples: Float64Array | Int32Array
    received_ns: int = 0

    @classmethod
    def of(cls, records: Sequence[Record], received_ns: int = 0) -> RecordBatch:
        """Records of the same receipt side by side."""
        sids = list(dict.fromkeys(record.sid for record in records))
        number = {sid: place for place, sid in enumerate(sids)}
        with np.errstate(invalid="ignore"):  # a signalling NaN is no number to any stage
            samples = np.concatenate([np.empty(0), *(record.samples.astype(np.float64) for record in records)])
        return cls(
            sids,
            ["_".join(sid.removeprefix("FDSN:").split("_")[:2]) for sid in sids],
            np.array([number[record.sid] for record in records], np.int64),
            np.array([record.start_ns for record in records], np.int64),
            np.array([record.sample_rate_hz for record in records], np.float64),
            np.cumsum([0, *(record.samples.size for record in records)]),
            np.array([QUALITIES.index(record.quality) for record in records], np.int64),
            read_only(samples),
            received_ns,
        )

    def __len__(self) -> int:
        return len(self.channel)

    def record(self, i: int) -> Record:
        """One of them."""
        return Record(
            self.sids[self.channel[i]],
            int(self.start_ns[i]),
            float(self.sample_rate_hz[i]),
            self.samples[self.begin[i] : self.begin[i + 1]],
            QUALITIES[self.quality[i]],
            self.received_ns,
        )

    def part(self, first: int, last: int) -> RecordBatch:
        """Those from `first` up to `last`; their samples stay where they are."""
        rows = slice(first, last)
        return RecordBatch(
            self.sids,
            self.stations,
            *(self.channel[rows], self.start_ns[rows], self.sample_rate_hz[rows]),
            begin=self.begin[first : last + 1],
            quality=self.quality[rows],
            samples=self.samples,
            received_ns=self.received_ns,
        )

    def only(self, keep: AnyArray) -> RecordBatch:
        """Those that `keep` [n] (bool) says, with a copy of their samples."""
        counts = np.diff(self.begin)
        samples = self.samples[self.begin[0] : self.begin[-1]][np.repeat(keep, counts)]
        return RecordBatch(
            self.sids,
            self.stations,
            *(self.channel[keep], self.start_ns[keep], self.sample_rate_hz[keep]),
            begin=np.concatenate(([0], np.cumsum(counts[keep]))),
            quality=self.quality[keep],
            samples=read_only(samples),
            received_ns=self.received_ns,
        )


@dataclass(frozen=True, slots=True, eq=False)
class Block:
    """Contiguous samples of one channel.

    A segment is a run of samples without a break; `index` counts the samples from its start, and index 0 means that
    everything before is forgotten. samples: [n] float64, read-only, in counts.
    """

    sid: str
    index: int
    start_ns: int
    sample_rate_hz: float
    samples: Float64Array
    quality: frozenset[str] = frozenset()
    received_ns: int = 0


@dataclass(frozen=True, slots=True, eq=False)
class Characteristic:
    """A block with its characteristic function (STA/LTA ratio), sample by sample: values [n] float64."""

    block: Block
    values: Float64Array


@dataclass(frozen=True, slots=True)
class Gap:
    """A break in one channel: what follows is a fresh start.

    cause: "gap" (samples missing), "rate" (sampling rate changed), "clock" (the recorder's clock was set back; to_ns is
    before from_ns), "flat" (a dead sensor's constant value), "invalid" (not finite, or beyond any recorder's range),
    "quarantined" (left out since it broke again and again), "conflict" (no break: data lost, since other data had come
    for their time). For the ledger gap_causes tells "gap" apart.
    to_ns is None while the break still lasts.
    """

    sid: str
    from_ns: int
    to_ns: int | None
    cause: str


@dataclass(frozen=True, slots=True)
class EndOfStream:
    """No more data will come for this channel."""

    sid: str


@dataclass(frozen=True, slots=True)
class Refusal:
    """A channel that cannot be served, and why in one sentence; its records are left out from now on."""

    sid: str
    reason: str


@dataclass(frozen=True, slots=True)
class Quarantined:
    """A channel that breaks again and again, and why in one sentence; from from_ns it is left out until it is well."""

    sid: str
    reason: str
    from_ns: int


@dataclass(frozen=True, slots=True)
class Released:
    """A channel that was quarantined from from_ns on has been well, as the sentence says, and starts afresh."""

    sid: str
    reason: str
    from_ns: int


@dataclass(frozen=True, slots=True)
class Trigger:
    """One excursion of the characteristic function; sent when it opens (off_* None) and again when it closes.

    Indices count from the segment's start; off is the last sample at or above the off threshold, as obspy has it.
    """

    sid: str
    sample_rate_hz: float
    on_index: int
    on_ns: int
    off_index: int | None = None
    off_ns: int | None = None


@dataclass(frozen=True, slots=True)
class NetworkTrigger:
    """Triggers of several channels that overlap in time.

    uid: made from the first trigger's. members: (source id, onset ns, uid of the window that covers the onset), in
    order of onset. final: False for the early notice, True once no later data can change it.
    """

    uid: str
    onset_ns: int
    off_ns: int
    members: tuple[tuple[str, int, str], ...]
    final: bool


@dataclass(frozen=True, slots=True, eq=False)
class Window:
    """One window around an onset at the model's rate.

    waveform: [samples, channels] float32, band-passed and resampled, in counts; normalised: the same as the encoder
    sees it. peak_ratio and duration_s are taken over onset to min(trigger off, window end).
    """

    uid: str
    sid: str
    onset_ns: int
    start_ns: int
    sample_rate_hz: float
    stream_rate_hz: float
    waveform: Float32Array
    normalised: Float32Array
    peak_ratio: float
    peak_amplitude: float
    duration_s: float
    quality: tuple[str, ...] = ()
    received_ns: int = 0


@dataclass(frozen=True, slots=True)
class WindowDropped:
    """A window that will never come: its uid and why.

    "gap", "end", "history", "pending", "shed", "quarantined"; across components also "component", "rate", "misaligned".
    """

    uid: str
    sid: str
    onset_ns: int
    reason: str


@dataclass(frozen=True, slots=True)
class WindowSpilled:
    """A window that waits in the journal, to be classified once there is time: its uid."""

    uid: str


@dataclass(frozen=True, slots=True, eq=False)
class Batch:
    """Windows that go through the encoder together: normalised [B, samples, channels] float32."""

    windows: tuple[Window, ...]
    normalised: Float32Array


@dataclass(frozen=True, slots=True, eq=False)
class Assignment:
    """What the encoder says of one window: embedding [D], membership [K], cluster and squared distances [K]."""

    window: Window
    embedding: Float32Array
    membership: Float32Array
    cluster: int
    squared_distance: Float32Array


@dataclass(frozen=True, slots=True, eq=False)
class Detection:
    """An assigned window with what people read: name, whether it is known, p-value (None if uncalibrated)."""

    assignment: Assignment
    name: str
    known: bool
    p_value: float | None
    late: bool = False


@dataclass(frozen=True, slots=True)
class NetworkEvent:
    """A network trigger with the clusters its channels voted for. votes: cluster name -> number of channels."""

    uid: str
    onset_ns: int
    duration_s: float
    channels: tuple[str, ...]
    detections: tuple[str, ...]
    votes: dict[str, int] = field(hash=False)
    cluster_id: int | None
    cluster_name: str
    final: bool


@dataclass(frozen=True, slots=True, eq=False)
class Message:
    """What goes out on the bus, before the journal has numbered it.

    kind: "detection", "network" or "status". body: JSON, UTF-8. waveform: the window as the encoder saw it, float32
    little-endian, for detections; band_passed: the same before normalisation, for the journal alone. sid, onset_ns and
    tolerance_ns (half a sample) are a detection's identity beside its uid. received_ns: as in Window.
    """

    uid: str
    kind: str
    topic: str
    body: bytes
    onset_ns: int
    sid: str = ""
    tolerance_ns: int = 0
    final: bool = True
    waveform: bytes | None = None
    received_ns: int = 0
    band_passed: bytes | None = None


@dataclass(frozen=True, slots=True, eq=False)
class Committed:
    """A message that the journal holds, with its numbers: seq over all, topic_seq per first two parts of the topic."""

    seq: int
    topic_seq: int
    message: Message


def topic_group(topic: str) -> str:
    """First two parts of a topic, over which topic_seq counts: `detection.1.BW.UH1..SHZ.` -> `detection.1`.

    A copy with its waveform counts with the message that it is a copy of.
    """
    kind, _, rest = topic.removeprefix("waveform.").partition(".")
    return f"{kind}.{rest.partition('.')[0]}"
