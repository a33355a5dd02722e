"""One part of one chain: from the state at the end of the part before to its results and the state at its own end."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np

from tscc_stream import package, recovery
from tscc_stream.ahead import one_ahead
from tscc_stream.calibration import calibration_scores
from tscc_stream.config import Config
from tscc_stream.edges import archive
from tscc_stream.edges.parquet_windows import Layout as WindowsLayout
from tscc_stream.edges.parquet_windows import WindowsWriter
from tscc_stream.learn.dataset import hold_signal, shape_of, written_shape
from tscc_stream.messages import (
    AnyArray,
    Detection,
    Float32Array,
    Gap,
    Quarantined,
    RecordBatch,
    Refusal,
    Window,
    WindowDropped,
)
from tscc_stream.pipeline import BackHalf, BackMessage, FrontHalf, FrontMessage, FrontState
from tscc_stream.scan import index, part_file, plan, rows
from tscc_stream.scan.encoders import EncoderOf
from tscc_stream.scan.job import Job, stored_job
from tscc_stream.scan.layout import Layout, ScanError
from tscc_stream.scan.part_file import Marker, State
from tscc_stream.scan.triggers import Settled, Triggers
from tscc_stream.source_id import to_nslc
from tscc_stream.stages.infer import Encoded, Encoder, Infer

CHUNK_SECONDS, FIRST_SECONDS = 60.0, 5.0
CHUNK_SAMPLES = 2_000_000
"""Data time, and samples of the chain, after which the windows found are classified; that much is in memory."""
MOST_WINDOWS = 4096
"""That go to the encoder at a time: nobody waits for the first of them, and a graphics card likes many."""


@dataclass(frozen=True, slots=True)
class Tools:
    """What every part of a job needs."""

    layout: Layout
    job: Job
    config: Config
    loaded: package.Package
    encoder: Callable[[], Encoder]

    @classmethod
    def of(cls, layout: Layout, encoder_of: EncoderOf) -> Tools:
        """Out of a scan's folder. encoder_of: called once, when there is something to classify.

        Raises ScanError and PackageError.
        """
        job = stored_job(layout)
        config, loaded = job.settings(), package.load_live(Path(job.model))
        if loaded.sha256 != job.made_of["model"]:
            raise ScanError(f"{job.model}: the model has changed since the scan began; expected {job.made_of['model']}")
        made: list[Encoder] = []

        def encoder() -> Encoder:
            if not made:
                made.append(encoder_of(config, loaded, bool(job.few)))
            return made[0]

        return cls(layout, job, config, loaded, encoder)


@dataclass(slots=True)
class _Found:
    """What a part came to so far."""

    detections: list[dict[str, object]] = field(default_factory=list)
    windows: list[dict[str, AnyArray]] = field(default_factory=list)
    settled: list[Settled] = field(default_factory=list)
    gaps: dict[str, Counter[str]] = field(default_factory=dict)
    dropped: dict[str, Counter[str]] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    quarantined: dict[str, str] = field(default_factory=dict)
    records: int = 0
    samples: int = 0
    without_signal: int = 0


class Run:
    """A chain from some state on."""

    def __init__(self, tools: Tools, state: State | None) -> None:
        spec = tools.loaded.spec
        self._model = spec.name, spec.version, tools.loaded.sha256
        self._windows = tools.job.windows
        self._triggers = Triggers(state.triggers if state else None)
        inference = tools.config.inference.model_copy(update={"max_batch": MOST_WINDOWS})
        apart = tools.config.model_copy(update={"network": None, "inference": inference})
        self._front = FrontHalf(apart, spec, on_trigger=self._triggers.tell)
        if state:
            self._front.restore(recovery.decode(state.front, FrontState), 0, state.served)
        infer = Infer(_Late(tools.encoder))
        self._back = BackHalf(infer, tools.loaded.name_of, calibration_scores(tools.loaded), apart)
        self.found = _Found()

    def feed(self, batch: RecordBatch) -> None:
        """The next records."""
        self.found.records += len(batch)
        self.found.samples += batch.samples.size
        self._through(self._front.feed_batch(batch))
        self.found.settled += self._triggers.settled(self._front.window_of)

    def end(self) -> None:
        """There are no more."""
        self._through(self._front.flush())
        self.found.settled += self._triggers.settled(self._front.window_of, at_end=True)

    def state(self) -> State:
        """Of now."""
        front = recovery.encode(self._front.snapshot())
        return State(front, self._front.served(), self._triggers.snapshot())

    def _through(self, messages: list[FrontMessage]) -> None:
        for message in messages:
            if isinstance(message, Window):
                self._keep(self._back.feed(message))
            elif isinstance(message, WindowDropped):
                self._triggers.hear(message)
                self.found.dropped.setdefault(message.sid, Counter())[message.reason] += 1
            else:
                self._note(message)
        self._keep(self._back.flush())

    def _keep(self, results: Sequence[BackMessage]) -> None:
        """As rows, so that a part's windows are not all in memory, but where they are stored."""
        found = [result for result in results if isinstance(result, Detection)]
        if not found:
            return
        for detection in found:
            self._triggers.hear(detection)
        self.found.detections += [rows.detection(one, self._model) for one in found]
        if self._windows:
            self._keep_windows(found)

    def _keep_windows(self, found: Sequence[Detection]) -> None:
        """Those that training can use."""
        fit = hold_signal(np.stack([one.assignment.window.waveform for one in found]))
        self.found.without_signal += int((~fit).sum())
        if fit.any():
            usable = [one for one, holds in zip(found, fit, strict=True) if holds]
            self.found.windows.append(_windows(usable, self._model[-1]))

    def _note(self, message: FrontMessage) -> None:
        if isinstance(message, Refusal):
            self.found.refused[message.sid] = message.reason
        elif isinstance(message, Quarantined):
            self.found.quarantined[message.sid] = message.reason
        elif isinstance(message, Gap) and message.to_ns is not None:
            self.found.gaps.setdefault(message.sid, Counter())[message.cause] += 1


class _Late:
    """An encoder that is made when the first window comes."""

    def __init__(self, make: Callable[[], Encoder]) -> None:
        self._make = make

    def encode(self, normalised: Float32Array) -> Encoded:
        """As Encoder has it."""
        return self._make().encode(normalised)


def records_of(tools: Tools, chain: plan.Chain, part: plan.Part) -> archive.ArchiveIndex:
    """Those of a part."""
    return index.rows_of(tools.layout, part.batches, chain.sids, plan.span_ns(tools.job, part))


def batches_of(found: archive.ArchiveIndex) -> Iterator[RecordBatch]:
    """Decoded, in order of time."""
    if not len(found):
        return iter(())
    seconds = min(CHUNK_SECONDS, max(1.0, CHUNK_SAMPLES / found.samples_per_second))
    return one_ahead(archive.iter_batches(found, chunk_seconds=seconds, first_seconds=FIRST_SECONDS))


Alive = Callable[[], None]
"""Called now and then; it may raise to end the work."""


def always() -> None:
    """An Alive that never does."""


def run(tools: Tools, name: str, number: int, alive: Alive = always) -> None:
    """One part, unless it is done.

    Raises ScanError where the part before is not done, ArchiveError where records cannot be read, OSError where the
    results cannot be written.
    """
    layout = tools.layout
    chain = plan.stored(layout, name)
    place = next((place for place, part in enumerate(chain.parts) if part.number == number), None)
    if place is None:
        raise ScanError(f"{name}: has no part {number}")
    part = chain.parts[place]
    if plan.marker_of(layout, tools.job, name, part) is not None:
        return
    state = None
    if place:
        before = chain.parts[place - 1]
        if plan.marker_of(layout, tools.job, name, before) is None:
            raise ScanError(f"{name}: part {before.number} is not done yet")
        state = part_file.state(layout.part(name, before.number))
    found = records_of(tools, chain, part)
    _unchanged(tools, part, found)
    at_work = Run(tools, state)
    for batch in batches_of(found):
        alive()
        at_work.feed(batch)
    state = at_work.state()
    if part.last:
        at_work.end()
    _unchanged(tools, part, found)
    alive()  # another scan may have begun since
    _commit(tools, chain, part, found, at_work.found, state)


def _unchanged(tools: Tools, part: plan.Part, found: archive.ArchiveIndex) -> None:
    """Raises ArchiveError where records are no more those of which the key tells."""
    path = index.changed(tools.layout, part.batches, found)
    if path is not None:
        raise archive.ArchiveError(f"{path}: has changed while it was scanned; the next run scans it again")


def _commit(
    tools: Tools, chain: plan.Chain, part: plan.Part, found: archive.ArchiveIndex, came: _Found, state: State
) -> None:
    """Everything of a part: its own file last."""
    layout = tools.layout
    if tools.job.windows:
        _store_windows(tools, layout.windows_of(chain.name, part.number), came.windows)
    detections, triggers = rows.detections(came.detections), rows.triggers(came.settled)
    marker = Marker(
        part.key,
        came.records,
        came.samples,
        found.recorded_by_channel_ns(),
        _extent(detections),
        _extent(triggers),
        {sid: dict(causes) for sid, causes in came.gaps.items()},
        {sid: dict(reasons) for sid, reasons in came.dropped.items()},
        came.refused,
        came.quarantined,
        found.faults.count,
        [index.printable(text) for text in found.faults.texts],
        came.without_signal,
    )
    part_file.store(layout.part(chain.name, part.number), marker, state, detections, triggers)


def _extent(table: rows.Table) -> tuple[int, int, int]:
    onsets = table.column("onset_ns").to_numpy()
    return (len(onsets), int(onsets.min()), int(onsets.max())) if len(onsets) else (0, 0, 0)


def _windows(found: Sequence[Detection], model_sha256: str) -> dict[str, AnyArray]:
    """As training reads them."""
    windows = [one.assignment.window for one in found]
    return {
        "id": np.array([window.uid for window in windows]),
        "sid": np.array([to_nslc(window.sid) for window in windows]),
        "onset_ns": np.array([window.onset_ns for window in windows], np.int64),
        "cluster": np.array([one.assignment.cluster for one in found], np.int64),
        "triggered": np.ones(len(found), np.bool_),
        "peak_ratio": np.array([window.peak_ratio for window in windows], np.float32),
        "model_sha256": np.array([model_sha256] * len(found)),
        "x": np.stack([window.waveform for window in windows]),
    }


def _store_windows(tools: Tools, path: Path, found: list[dict[str, AnyArray]]) -> None:
    path.unlink(missing_ok=True)
    if not found:
        return
    spec = tools.loaded.spec
    facts = {"window": written_shape(shape_of(spec))}
    layout = WindowsLayout(spec.sample_rate_hz, spec.samples, spec.channels, tuple(found[0])[:-1], facts)
    path.parent.mkdir(parents=True, exist_ok=True)
    with WindowsWriter(path, layout) as writer:
        for columns in found:
            writer.write(columns)
