"""Recordings to data sets, through the very stages of the live path: triggered windows, and windows cut at random."""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import NamedTuple

import numpy as np

from tscc_stream.ahead import one_ahead
from tscc_stream.components import NEVER_NS, Sensor, cut_together
from tscc_stream.config import Config
from tscc_stream.edges import archive
from tscc_stream.edges.parquet_windows import WindowsWriter
from tscc_stream.learn import dataset, stored, truth
from tscc_stream.learn.dataset import DataSet, DataSetError, Int64Array, WindowShape
from tscc_stream.messages import Block, Float32Array, Float64Array, Gap, Record, RecordBatch, Window
from tscc_stream.package import EACH_CHANNEL, PackageSpec
from tscc_stream.pipeline import FrontHalf
from tscc_stream.sampling import NS_PER_SECOND, offset_ns, samples_in
from tscc_stream.source_id import sensor_of, split_component, to_nslc, with_component
from tscc_stream.stages.assemble import Assemble
from tscc_stream.windows import cut_window, plan_windows

_log = logging.getLogger(__name__)
_ROUNDING_NS = 10_000
_TOGETHER = 256  # windows that are written to Parquet at a time
_TRIES = 50  # random times looked at for each that is wanted

Progress = Callable[[float], None]
"""Told the share of the work that is done, 0 to 1."""


@dataclass(frozen=True, slots=True, eq=False)
class _Cut:
    nslc: str
    onset_ns: int
    waveform: Float32Array
    peak_ratio: float = 0.0  # of its trigger; 0: cut at a random time

    @property
    def holds_a_signal(self) -> bool:
        return bool(dataset.hold_signal(self.waveform[np.newaxis])[0])


class _Onset(NamedTuple):
    """What is remembered of a triggered window."""

    nslc: str
    onset_ns: int


@dataclass(frozen=True, slots=True, eq=False)
class _Job:
    """What is cut, and how: only samples from span_ns[0] up to, and without, span_ns[1]."""

    found: archive.ArchiveIndex
    config: Config
    spec: PackageSpec
    span_ns: tuple[int, int]


def build(
    paths: Sequence[Path],
    config: Config,
    shape: WindowShape,
    *,
    random_windows: int = 0,
    from_ns: int | None = None,
    to_ns: int | None = None,
    seed: int = 0,
    progress: Progress | None = None,
) -> DataSet:
    """The windows of some recordings, in order of onset.

    Triggered windows come from the configuration's assemble, condition and trigger sections. `random_windows` more
    are cut at times that overlap no triggered window of their channel (fewer where there is no such time).
    from_ns, to_ns: only samples within take part. Where a folder holds a simulated mine's truth.csv, y says the kind.
    Raises DataSetError where nothing comes of it, and ArchiveError where a path cannot be read.
    """
    wanted = Wanted(tuple(paths), config, shape, random_windows, from_ns, to_ns, seed)
    cuts = list(_cuts(wanted, progress or _silent))
    if not cuts:
        raise wanted.nothing()
    return _data_set(cuts, wanted).in_time()


def build_parquet(wanted: Wanted, out: Path, progress: Progress | None = None) -> int:
    """The same windows into Parquet (see WindowsWriter), a row group's in memory at a time: triggered ones as they
    come, then those at random times. Returns how many there are. Raises as `build`, and WindowsError.
    """
    cuts = _cuts(wanted, progress or _silent)
    first = list(islice(cuts, _TOGETHER))
    if not first:
        raise wanted.nothing()
    data = _data_set(first, wanted)
    with WindowsWriter(out, stored.layout_of(wanted.shape, data)) as writer:
        while True:
            writer.write(stored.columns_of(data))
            if not (more := list(islice(cuts, _TOGETHER))):
                return writer.written
            data = _data_set(more, wanted)


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which windows of which recordings: as the arguments of `build`."""

    paths: tuple[Path, ...]
    config: Config
    shape: WindowShape
    random_windows: int = 0
    from_ns: int | None = None
    to_ns: int | None = None
    seed: int = 0

    def nothing(self) -> DataSetError:
        """What is said where no window came of it."""
        named = ", ".join(str(path) for path in self.paths)
        return DataSetError(f"{named}: no window came of it; check the trigger settings and the rates")


def _cuts(wanted: Wanted, tell: Progress) -> Iterator[_Cut]:
    """All that hold a signal; how many others there are is said in the log at the end."""
    found = archive.index(wanted.paths)
    low = found.start_ns if wanted.from_ns is None else wanted.from_ns
    high = found.stop_ns if wanted.to_ns is None else wanted.to_ns
    job = _Job(found, wanted.config, wanted.shape.draft(), (low, high))
    half = 0.5 if wanted.random_windows else 1.0
    onsets: list[_Onset] = []
    left_out = 0
    for cut in _triggered(job, lambda share: tell(half * share)):
        onsets.append(_Onset(cut.nslc, cut.onset_ns))
        if cut.holds_a_signal:
            yield cut
        else:
            left_out += 1
    if wanted.random_windows:
        rng = np.random.Generator(np.random.PCG64(wanted.seed))
        times = _random_times(job, onsets, wanted.random_windows, rng)
        for cut in _random(job, times, lambda share: tell(half + half * share)):
            if cut.holds_a_signal:
                yield cut
            else:
                left_out += 1
    if left_out:
        _log.warning("%d windows left out: %s", left_out, dataset.NO_SIGNAL)


def _silent(_share: float) -> None:
    pass


def _data_set(cuts: list[_Cut], wanted: Wanted) -> DataSet:
    data = DataSet(
        x=np.stack([cut.waveform for cut in cuts]),
        sid=np.array([cut.nslc for cut in cuts]),
        onset_ns=np.array([cut.onset_ns for cut in cuts], np.int64),
        sample_rate_hz=wanted.shape.sample_rate_hz,
        triggered=np.array([cut.peak_ratio > 0.0 for cut in cuts]),
        peak_ratio=np.array([cut.peak_ratio for cut in cuts], np.float32),
        window=wanted.shape,
    )
    tables = [path / truth.NAME for path in wanted.paths if (path / truth.NAME).is_file()]
    if not tables:
        return data
    names, y = truth.kinds(tables, data.sid, data.onset_ns)
    return replace(data, y=y, y_names=names)


def _batches(job: _Job, progress: Progress) -> Iterator[RecordBatch]:
    """The archive's records, cut to the job's span."""
    low, high = job.span_ns
    for batch in one_ahead(archive.iter_batches(job.found)):
        begin_ns = int(batch.start_ns.min())
        progress(min(1.0, max(0.0, (begin_ns - low) / max(1, high - low))))
        if low <= begin_ns and _ends_before(batch, high):
            yield batch
        elif records := [record for place in range(len(batch)) for record in _cut(batch.record(place), low, high)]:
            yield RecordBatch.of(records)


def _ends_before(batch: RecordBatch, high_ns: int) -> bool:
    """All of its records, with room for rounding."""
    lasting_ns = np.diff(batch.begin) / batch.sample_rate_hz * NS_PER_SECOND
    return bool((batch.start_ns + lasting_ns).max() < high_ns - _ROUNDING_NS)


def _cut(record: Record, low: int, high: int) -> list[Record]:
    """What of a record lies in a span; at most one."""
    rate = record.sample_rate_hz
    skip = max(0, -(-(low - record.start_ns) * rate // NS_PER_SECOND)) if record.start_ns < low else 0
    first, last = int(skip), min(record.samples.size, samples_in(high - record.start_ns, rate))
    if first >= last:
        return []
    return [replace(record, start_ns=record.start_ns + offset_ns(first, rate), samples=record.samples[first:last])]


def _triggered(job: _Job, progress: Progress) -> Iterator[_Cut]:
    front = FrontHalf(job.config.model_copy(update={"network": None}), job.spec)
    for batch in _batches(job, progress):
        yield from _windows(front.feed_batch(batch))
    yield from _windows(front.flush())


def _windows(messages: Iterable[object]) -> list[_Cut]:
    return [_Cut(to_nslc(m.sid), m.onset_ns, m.waveform, m.peak_ratio) for m in messages if isinstance(m, Window)]


def _random_times(job: _Job, cuts: list[_Onset], n: int, rng: np.random.Generator) -> dict[str, deque[int]]:
    """Source id -> about n onset times in all, ascending, at least a window away from every triggered onset."""
    rows, sids = job.found.rows, job.found.sids
    starts = np.maximum(rows["start_ns"], job.span_ns[0])
    lengths = np.maximum(np.minimum(rows["end_ns"], job.span_ns[1]) - starts, 0)
    lengths = lengths * np.array([_leads(sid, job.spec) for sid in sids])[rows["sid"]]
    if not lengths.sum():
        return {}
    apart = round(job.spec.samples / job.spec.sample_rate_hz * NS_PER_SECOND)
    onsets = {sid: _onsets_of(sid, cuts, job.spec) for sid in sids if _leads(sid, job.spec)}
    which = rng.choice(len(starts), _TRIES * n, p=lengths / lengths.sum())
    times = starts[which] + (rng.random(_TRIES * n) * lengths[which]).astype(np.int64)
    wanted: dict[str, list[int]] = {}
    left = n
    for row, at in zip(which, times, strict=True):
        sid = sids[rows["sid"][row]]
        if left and _far(onsets[sid], int(at), apart):
            wanted.setdefault(sid, []).append(int(at))
            left -= 1
    return {sid: deque(sorted(some)) for sid, some in wanted.items()}


def _leads(sid: str, spec: PackageSpec) -> bool:
    """Whether a channel has windows of its own: a sensor's time is counted once, by its first component. The live path
    refuses a source id that names no channel.
    """
    try:
        _, component = split_component(sid)
    except ValueError:
        return False
    return spec.components == EACH_CHANNEL or component == spec.components[0]


def _onsets_of(sid: str, cuts: list[_Onset], spec: PackageSpec) -> Int64Array:
    """Ascending onsets of the windows of a channel, or of its sensor."""
    if spec.components == EACH_CHANNEL:
        found = [cut.onset_ns for cut in cuts if cut.nslc == to_nslc(sid)]
    else:
        found = [cut.onset_ns for cut in cuts if sensor_of(cut.nslc) == sensor_of(to_nslc(sid))]
    return np.sort(np.array(found, np.int64))


def _far(onsets: Int64Array, at: int, apart: int) -> bool:
    near = int(np.searchsorted(onsets, at))
    return all(abs(int(onset) - at) >= apart for onset in onsets[max(0, near - 1) : near + 1])


def _random(job: _Job, wanted: dict[str, deque[int]], progress: Progress) -> Iterator[_Cut]:
    assemble = Assemble(lambda sid: job.config.for_channel(to_nslc(sid))[0])
    cutters = _cutters(job, wanted)
    for record in (batch.record(place) for batch in _batches(job, progress) for place in range(len(batch))):
        if record.sid in cutters:
            for part in assemble.feed(record):
                yield from cutters[record.sid].feed(part)
            yield from cutters[record.sid].advance(record.sid, assemble.reached_ns(record.sid))
    for sid, cutter in cutters.items():
        if parts := assemble.release(sid):
            yield from (cut for part in parts for cut in cutter.feed(part))
            yield from cutter.advance(sid, assemble.reached_ns(sid))


def _cutters(job: _Job, wanted: dict[str, deque[int]]) -> dict[str, _Cutter | _SensorCutter]:
    """Source id -> who cuts its windows; the components of a sensor share one."""
    if job.spec.components == EACH_CHANNEL:
        return {sid: _Cutter(job.spec, times) for sid, times in wanted.items()}
    cutters: dict[str, _Cutter | _SensorCutter] = {}
    for sid, times in wanted.items():
        sensor, _ = split_component(sid)
        cutter = _SensorCutter(job.spec, sid, times)
        cutters |= {with_component(sensor, component): cutter for component in job.spec.components}
    return cutters


class _SensorCutter:
    """Cuts one sensor's windows at given times (ascending): onsets are the nearest samples of the first component."""

    def __init__(self, spec: PackageSpec, lead_sid: str, wanted: deque[int]) -> None:
        self._sensor = Sensor(spec)
        self._lead = spec.components[0]
        self._nslc = to_nslc(lead_sid)
        self._wanted = wanted

    def feed(self, part: Block | Gap) -> list[_Cut]:
        _, component = split_component(part.sid)
        if isinstance(part, Gap):
            self._sensor.tracks[component].close("gap")
            return []
        self._sensor.append(component, part, np.zeros(part.samples.size))
        return self._settle()

    def advance(self, sid: str, reached_ns: int) -> list[_Cut]:
        """Everything before `reached_ns` was fed, be it a break."""
        return self._settle() if self._sensor.tracks[split_component(sid)[1]].advance(reached_ns) else []

    def _settle(self) -> list[_Cut]:
        cuts = []
        while self._wanted:
            lead = self._sensor.tracks[self._lead].find(self._wanted[0])
            onset_ns = self._wanted[0] if lead is None else lead[0].time_of(lead[1])
            spots = self._sensor.look(onset_ns)
            if spots is None:
                break
            self._wanted.popleft()
            waveform = cut_together(spots, spots[0]) if isinstance(spots, list) else spots
            if not isinstance(waveform, str):
                cuts.append(_Cut(self._nslc, onset_ns, waveform))
        self._sensor.forget(min(self._sensor.known_ns(), self._wanted[0] if self._wanted else NEVER_NS))
        return cuts


class _Cutter:
    """Cuts one channel's windows at given times (ascending), out of as little history as that takes."""

    def __init__(self, spec: PackageSpec, wanted: deque[int]) -> None:
        self._spec = spec
        self._wanted = wanted
        self._origin = 0
        self._samples: Float64Array = np.empty(0)

    def feed(self, part: Block | Gap) -> list[_Cut]:
        if isinstance(part, Gap):
            return []
        plan = plan_windows(self._spec, part.sample_rate_hz)
        if part.index == 0:
            self._origin, self._samples = 0, np.empty(0)
        self._samples = np.concatenate((self._samples, part.samples))
        end = self._origin + self._samples.size
        cuts = []
        while self._wanted:
            index = part.index + samples_in(self._wanted[0] - part.start_ns, part.sample_rate_hz)
            if index + plan.reach >= end:
                break
            self._wanted.popleft()
            waveform = cut_window(self._samples, index - self._origin, plan) if index >= self._origin else None
            if waveform is not None:
                onset_ns = part.start_ns + offset_ns(index - part.index, part.sample_rate_hz)
                cuts.append(_Cut(to_nslc(part.sid), onset_ns, waveform[:, np.newaxis]))
        spare = max(0, self._samples.size - plan.history - plan.reach)
        self._origin, self._samples = self._origin + spare, self._samples[spare:]
        return cuts

    def advance(self, _sid: str, _reached_ns: int) -> list[_Cut]:
        """What lies within a break is no news for one channel."""
        return []
