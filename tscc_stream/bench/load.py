"""What a whole mine sends: background noise with planted events, as SeedLink frames, cheap to make on the fly.

Records are 512-byte miniSEED 2 (SEED 2.4, chapter 8) in Steim2 whose words all hold four 8-bit differences, so that
every record has SAMPLES samples and a tick's frames are put together by a few numpy calls. Recorders mix the codes of
Steim2, which costs a decoder a little more: `bench ingest` measures that. Records end staggered over the channels.
"""

from __future__ import annotations

import struct
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property

import numpy as np
import numpy.typing as npt

from tscc_stream.messages import Int64Array

SAMPLES = 412
"""Of each record: 13 words in the first of 7 frames, 15 in the others, 4 differences each."""
STATIONS = 10_000
_RECORD, _DATA = 512, 64
_PATTERNS, _LOOP = 16, 16  # background: so many tracks, which repeat after so many records
_NOISE_COUNTS, _PEAK_COUNTS = 12.0, 200.0
_EVENT_SECONDS, _EVENT_HZ = 0.8, 60.0
_EVENT_RATE_HZ = 1000.0  # below it events are as many samples, and slower: what Steim2 words of 8 bits can tell
_TRAVEL_SECONDS = 0.2  # of a blast, between the nearest and the farthest channel
_APART_SECONDS = 3.0  # between a blast and anything else
_BTIME = np.dtype(
    [("year", ">u2"), ("day", ">u2"), ("hour", "u1"), ("minute", "u1"), ("second", "u1"), ("_", "u1"), ("tick", ">u2")]
)
_Bytes = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True)
class Planted:
    """An event: its channel by number, and its first sample, counted from the channel's start."""

    channel: int
    onset: int


@dataclass(frozen=True)
class Scene:
    """What is sent. triggers_per_second: over all channels, from quiet_s on; blast_s: when all of them see
    one (None: never). begin_ns: data time at which the sending begins, a whole number of milliseconds.

    Record n of all, in the order in which they end, is of channel `n % channels`, its `n // channels`-th.
    """

    channels: int
    seconds: float
    triggers_per_second: float
    begin_ns: int = 0
    rate_hz: float = 1000.0
    quiet_s: float = 12.0
    blast_s: float | None = None
    seed: int = 0

    @cached_property
    def sids(self) -> list[str]:
        """A station code has five characters at most: beyond STATIONS channels the location tells them apart."""
        return [f"FDSN:XX_L{n % STATIONS:04d}_{n // STATIONS or ''}_G_H_Z" for n in range(self.channels)]

    @property
    def step_ns(self) -> int:
        """Between two samples."""
        return round(1e9 / self.rate_hz)

    @cached_property
    def phase_ns(self) -> Int64Array:
        """When each channel's first sample is, after begin_ns [channels]."""
        steps = np.arange(self.channels, dtype=np.int64) * SAMPLES // self.channels
        return steps * self.step_ns

    @property
    def records(self) -> int:
        """Of all channels."""
        return int(self.seconds * self.rate_hz / SAMPLES) * self.channels

    @cached_property
    def due_ns(self) -> Int64Array:
        """When each record is complete, after begin_ns [records], ascending."""
        nth, channel = np.divmod(np.arange(self.records, dtype=np.int64), self.channels)
        return (nth + 1) * (SAMPLES * self.step_ns) + self.phase_ns[channel]

    def start_ns(self, record: Int64Array) -> Int64Array:
        """Data time of each record's first sample."""
        return self.begin_ns + self.due_ns[record] - SAMPLES * self.step_ns

    @cached_property
    def planted(self) -> list[Planted]:
        """In order of time, one anywhere in each interval, every channel as seldom as can be; then the blast."""
        draw = np.random.Generator(np.random.PCG64(self.seed))
        turns = draw.permutation(self.channels)
        events: list[Planted] = []
        for interval in range(int((self.seconds - self.quiet_s) * self.triggers_per_second)):
            at_s = self.quiet_s + (interval + draw.uniform()) / self.triggers_per_second
            if self.blast_s is None or abs(at_s - self.blast_s) > _APART_SECONDS:
                events.append(Planted(int(turns[len(events) % self.channels]), int(at_s * self.rate_hz)))
        if self.blast_s is not None:
            delay = draw.uniform(0.0, _TRAVEL_SECONDS, self.channels)
            events += [Planted(c, int((self.blast_s + delay[c]) * self.rate_hz)) for c in range(self.channels)]
        return events

    def record_with(self, channel: int, sample: int) -> int:
        """Number of the record that holds a sample of a channel."""
        return sample // SAMPLES * self.channels + channel

    def time_ns(self, channel: int, sample: int) -> int:
        """Data time of a sample, counted from the channel's start."""
        return self.begin_ns + int(self.phase_ns[channel]) + sample * self.step_ns

    def sample_at(self, channel: int, time_ns: int) -> int:
        """The inverse."""
        return round((time_ns - self.time_ns(channel, 0)) / self.step_ns)


class Frames:
    """Records of a scene as frames of SeedLink, version 3 or 4."""

    def __init__(self, scene: Scene, version: int) -> None:
        self._scene, self._version = scene, version
        self._template = np.stack([_frame(sid, version, scene.rate_hz) for sid in scene.sids])
        self._head = self._template.shape[1] - _RECORD
        noise = background(scene.rate_hz, scene.seed)
        self._noise = noise.reshape(_PATTERNS, _LOOP, SAMPLES)
        self._before = np.roll(noise, 1, axis=1).reshape(_PATTERNS, _LOOP, SAMPLES)
        self._payload = _steim2(self._noise.reshape(-1, SAMPLES), self._before.reshape(-1, SAMPLES)[:, 0])
        self._offset = np.arange(scene.channels) * 7 % _LOOP  # each channel is somewhere else in its track
        self._event = _event(scene.rate_hz)
        self._with_events = dict(self._planted())

    def _planted(self) -> Iterator[tuple[int, _Bytes]]:
        """Records that hold part of an event: number, and their samples packed."""
        added: dict[int, Int64Array] = {}
        for event in self._scene.planted:
            first, last = event.onset // SAMPLES, (event.onset + self._event.size) // SAMPLES
            run = np.zeros((last - first + 1) * SAMPLES, np.int64)
            run[event.onset - first * SAMPLES :][: self._event.size] = self._event
            for number, part in enumerate(run.reshape(-1, SAMPLES), first):
                record = number * self._scene.channels + event.channel
                added[record] = added.get(record, 0) + part
        for record, part in added.items():
            before = added.get(record - self._scene.channels)
            yield record, self._changed(record, part, 0 if before is None else int(before[-1]))

    def _changed(self, record: int, added: Int64Array, added_before: int) -> _Bytes:
        pattern, turn = self._track(np.array([record]))
        samples = self._noise[pattern, turn] + added
        packed: _Bytes = _steim2(samples, self._before[pattern, turn][:, 0] + added_before)[0]
        return packed

    def _track(self, record: Int64Array) -> tuple[Int64Array, Int64Array]:
        nth, channel = np.divmod(record, self._scene.channels)
        return channel % _PATTERNS, (nth + self._offset[channel]) % _LOOP

    def of(self, first: int, end: int) -> bytes:
        """Frames of records first ... end - 1."""
        record = np.arange(first, end, dtype=np.int64)
        out = self._template[record % self._scene.channels]
        pattern, turn = self._track(record)
        out[:, self._head + _DATA :] = self._payload[pattern * _LOOP + turn]
        for number in record[[int(r) in self._with_events for r in record]] if self._with_events else ():
            out[number - first, self._head + _DATA :] = self._with_events[int(number)]
        out[:, self._head + 20 : self._head + 30] = _btime(self._scene.start_ns(record))
        if self._version == 4:
            out[:, 8:16] = (record + 1).astype("<u8")[:, None].view(np.uint8)
        else:
            numbers = b"".join(b"%06X" % (int(one) + 1 & 0xFFFFFF) for one in record)
            out[:, 2:8] = np.frombuffer(numbers, np.uint8).reshape(-1, 6)
        return out.tobytes()


def background(rate_hz: float, seed: int) -> Int64Array:
    """Coloured noise in counts [_PATTERNS, _LOOP * SAMPLES], each track periodic."""
    draw = np.random.Generator(np.random.PCG64(seed))
    n = _LOOP * SAMPLES
    frequency = np.fft.rfftfreq(n, 1 / rate_hz)
    shape = np.where(frequency > 1.0, np.maximum(frequency, 5.0) ** -0.5, 0.0) * (frequency < 0.4 * rate_hz)
    track = np.fft.irfft(np.fft.rfft(draw.standard_normal((_PATTERNS, n))) * shape, n)
    counts: Int64Array = np.rint(_NOISE_COUNTS * track / track.std()).astype(np.int64)
    return counts


def _event(rate_hz: float) -> Int64Array:
    """A sharp onset and a decay, in counts; nothing is left at the end."""
    rate_hz = max(rate_hz, _EVENT_RATE_HZ)
    at_s = np.arange(int(_EVENT_SECONDS * rate_hz)) / rate_hz
    wave = np.sin(2 * np.pi * _EVENT_HZ * at_s) * np.exp(-at_s / 0.1)
    return np.rint(_PEAK_COUNTS * wave).astype(np.int64)


def _steim2(samples: Int64Array, before: Int64Array) -> _Bytes:
    """Samples [n, SAMPLES] after the sample before [n], packed [n, 448]. SEED 2.4, appendix B."""
    differences = np.diff(samples, axis=1, prepend=before[:, None])
    if np.abs(differences).max(initial=0) > 127:
        raise ValueError(f"a difference of {np.abs(differences).max()} counts: expected at most 127")
    frames = np.zeros((len(samples), 7, 64), np.uint8)
    packed = differences.astype(np.int8).view(np.uint8)
    frames[:, 0, :4] = list(struct.pack(">I", 0x01555555))  # nothing, first and last sample, then 13 words of 8-bit
    frames[:, 0, 4:8] = samples[:, 0].astype(">i4")[:, None].view(np.uint8)
    frames[:, 0, 8:12] = samples[:, -1].astype(">i4")[:, None].view(np.uint8)
    frames[:, 0, 12:] = packed[:, :52]
    frames[:, 1:, :4] = list(struct.pack(">I", 0x15555555))
    frames[:, 1:, 4:] = packed[:, 52:].reshape(-1, 6, 60)
    return frames.reshape(len(samples), 448)


def _frame(sid: str, version: int, rate_hz: float) -> _Bytes:
    """A frame of one channel without number, time and samples."""
    network, station, location, *channel = sid.removeprefix("FDSN:").split("_")
    header = b"000001D " + station.encode().ljust(5) + location.encode().ljust(2) + "".join(channel).encode()
    header += network.encode().ljust(2) + bytes(10)
    header += struct.pack(">HhhBBBBiHH", SAMPLES, round(rate_hz), 1, 0, 0, 0, 1, 0, _DATA, 48)
    header += struct.pack(">HHBBBB", 1000, 0, 11, 1, 9, 0)
    record = header.ljust(_RECORD, b"\0")
    name = f"{network}_{station}".encode()
    head = b"SL000000" if version == 3 else b"SE2D" + struct.pack("<IQB", _RECORD, 0, len(name)) + name
    return np.frombuffer(head + record, np.uint8)


def _btime(time_ns: Int64Array) -> _Bytes:
    """SEED 2.4, chapter 3, to the tenth of a millisecond [n, 10]."""
    second, rest = np.divmod(time_ns, 1_000_000_000)
    day, of_day = np.divmod(second, 86_400)
    year = day.astype("M8[D]").astype("M8[Y]")
    out = np.zeros(len(time_ns), _BTIME)
    out["year"] = year.astype(np.int64) + 1970
    out["day"] = (day.astype("M8[D]") - year.astype("M8[D]")).astype(np.int64) + 1
    out["hour"], out["minute"], out["second"] = of_day // 3600, of_day // 60 % 60, of_day % 60
    out["tick"] = rest // 100_000
    return out.view(np.uint8).reshape(len(time_ns), 10)
