"""What notebooks and other programs use; the same as attributes of `tscc_stream` itself. docs/api.md shows how.

Everything here is a thin layer over what the commands do: the same windows, the same clusters, the same ids.
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, fields
from datetime import UTC, datetime, timedelta
from itertools import pairwise
from pathlib import Path
from typing import Any, overload

import msgspec
import numpy as np

from tscc_stream import activation, classifier, package
from tscc_stream import config as configuration
from tscc_stream.client import Subscriber, SubscriberError
from tscc_stream.config import Config
from tscc_stream.edges import archive, obspy_formats
from tscc_stream.messages import AnyArray, Record, read_only
from tscc_stream.package import Package
from tscc_stream.sampling import offset_ns
from tscc_stream.source_id import from_nslc, name_of, to_nslc

Place = str | os.PathLike[str]
_ORIGIN = datetime(1970, 1, 1, tzinfo=UTC)


class _Row:
    """What can be made a row of a table."""

    __slots__ = ()

    def to_dict(self) -> dict[str, Any]:
        """Name -> value, for `pandas.DataFrame`."""
        return {one.name: getattr(self, one.name) for one in fields(self)}  # type: ignore[arg-type]  # dataclasses all


@dataclass(frozen=True, slots=True, eq=False)
class Trace:
    """Unbroken samples [n] of one channel (NET.STA.LOC.CHA; its source id where that is no such name), read-only, in
    the recording's own type.
    """

    channel: str
    start_ns: int
    sample_rate_hz: float
    samples: AnyArray

    @property
    def start(self) -> datetime:
        """UTC, to the microsecond."""
        return _utc(self.start_ns)

    def to_obspy(self) -> Any:  # noqa: ANN401 obspy has no types
        """An obspy Trace with a copy of the samples."""
        import obspy  # noqa: PLC0415 takes a second

        stats = {"station": self.channel}
        if not self.channel.startswith("FDSN:"):
            network, station, location, code = self.channel.split(".")
            stats = {"network": network, "station": station, "location": location, "channel": code.replace("_", "")}
        start = obspy.UTCDateTime(ns=self.start_ns)
        return obspy.Trace(self.samples.copy(), {**stats, "starttime": start, "sampling_rate": self.sample_rate_hz})


@dataclass(frozen=True, slots=True)
class Detection(_Row):
    """One classified window. cluster: its name, `unknown` where known is false; cluster_id: then of the nearest.

    peak_amplitude: counts, in the model's band; p_value: None where the model is not calibrated. docs/messages.md has
    the meaning of each field.
    """

    id: str
    time: datetime
    onset_ns: int
    channel: str
    cluster: str
    cluster_id: int
    known: bool
    membership: tuple[float | None, ...]
    p_value: float | None
    peak_ratio: float | None
    duration_s: float | None
    peak_amplitude: float | None
    quality: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class NetworkEvent(_Row):
    """Triggers of several channels that overlap. votes: cluster -> channels; detections: ids of its windows."""

    id: str
    time: datetime
    onset_ns: int
    duration_s: float | None
    cluster: str
    cluster_id: int | None
    channels: tuple[str, ...]
    detections: tuple[str, ...]
    votes: Mapping[str, int]


@dataclass(frozen=True, slots=True)
class Result(Sequence[Detection]):
    """Detections in order of onset, and network events beside them. left_out: channel -> why, also if for a while."""

    detections: tuple[Detection, ...]
    network_events: tuple[NetworkEvent, ...]
    left_out: Mapping[str, str]

    def __len__(self) -> int:
        return len(self.detections)

    def __iter__(self) -> Iterator[Detection]:
        return iter(self.detections)

    @overload
    def __getitem__(self, place: int) -> Detection: ...
    @overload
    def __getitem__(self, place: slice) -> tuple[Detection, ...]: ...
    def __getitem__(self, place: int | slice) -> Detection | tuple[Detection, ...]:
        return self.detections[place]


def read(paths: Place | Iterable[Place]) -> list[Trace]:
    """Recordings of files and folders as unbroken traces, by channel and time: miniSEED 2 and 3, and what obspy reads.

    All of it is in memory. Raises ArchiveError where a path cannot be read.
    """
    by_channel: dict[str, list[Record]] = {}
    for record in archive.iter_records(archive.index(_paths(paths))):
        by_channel.setdefault(record.sid, []).append(record)
    return [trace for sid in sorted(by_channel) for trace in _joined(sid, by_channel[sid])]


def classify(
    data: Any,  # noqa: ANN401 obspy has no types
    model: Place | None = None,
    config: Config | Place | None = None,
) -> Result:
    """Detections and network events, exactly as the command `classify` finds them.

    data: paths of files or folders, one or several; traces as `read` gives them; an obspy Stream or Trace. model: a
    package, as `models/demo`; default: the configuration's. config: a file, or a Config; default: the shipped one.
    Raises ArchiveError, PackageError or ConfigError with one sentence.
    """
    settings, base = _settings(config)
    loaded = package.load_live(package.find(os.fspath(model or settings.model), None if model else base))
    index = _index(data)
    one = classifier.Classifier(settings, loaded)
    detections: list[Detection] = []
    events: list[NetworkEvent] = []
    for message in classifier.messages_of(index, one):
        body = msgspec.json.decode(message.body)
        if message.sid:
            detections.append(detection_of(body))
        else:
            events.append(network_event_of(body))
    left_out = {name_of(sid): why for sid, why in (one.summary.quarantined | one.summary.refused).items()}
    return Result(tuple(detections), tuple(events), left_out)


def open_package(name: Place) -> Package:
    """A model package by its folder, or one that is shipped by its name (`models/demo`), with its hashes checked.

    Raises PackageError.
    """
    return package.load(package.find(os.fspath(name)))


def subscribe(
    connect: str | None = None,
    replay: str | None = None,
    *,
    state_dir: Place | None = None,
    topic: str = "",
    since: int | None = None,
    **more: Any,  # noqa: ANN401 those of Subscriber
) -> Subscriber:
    """Messages of a running daemon, each once, in order: by its two addresses, or its state folder on this machine.

    topic: prefix, such as `detection.`; since: seq after which to begin, 0 for all that the journal holds, None for
    what comes from now on. More options are those of `tscc_stream.client.Subscriber`. Raises SubscriberError.
    """
    if state_dir is not None:
        where = activation.endpoints(Path(state_dir))
        if not where:
            raise SubscriberError(f"{os.fspath(state_dir)}: no daemon runs there")
        connect, replay = connect or where["publish"], replay or where["replay"]
    if connect is None or replay is None:
        raise SubscriberError("subscribe: expected the daemon's two addresses, or its state_dir")
    return Subscriber(connect, replay, topic=topic, since=since, **more)


def detection_of(body: Mapping[str, Any]) -> Detection:
    """Out of the body of a `tscc.detection.v1` message, as a subscriber gets it."""
    data, cluster = body["data"], body["data"]["cluster"]
    return Detection(
        id=body["id"],
        time=_utc(data["onset_ns"]),
        onset_ns=data["onset_ns"],
        channel=to_nslc(body["subject"]),
        cluster=cluster["name"],
        cluster_id=cluster["id"],
        known=cluster["known"],
        membership=tuple(cluster["membership"]),
        p_value=cluster["p_value"],
        peak_ratio=data["peak_ratio"],
        duration_s=data["duration_s"],
        peak_amplitude=data["peak_amplitude"],
        quality=tuple(data["quality"]),
    )


def network_event_of(body: Mapping[str, Any]) -> NetworkEvent:
    """Out of the body of a `tscc.network_event.v1` message."""
    data = body["data"]
    return NetworkEvent(
        id=body["id"],
        time=_utc(data["onset_ns"]),
        onset_ns=data["onset_ns"],
        duration_s=data["duration_s"],
        cluster=data["cluster"]["name"],
        cluster_id=data["cluster"]["id"],
        channels=tuple(to_nslc(sid) for sid in data["channels"]),
        detections=tuple(data["detections"]),
        votes=data["votes"],
    )


def _utc(at_ns: int) -> datetime:
    return _ORIGIN + timedelta(microseconds=at_ns // 1000)


def _paths(paths: Place | Iterable[Place]) -> list[Place]:
    return [paths] if isinstance(paths, str | os.PathLike) else list(paths)


def _settings(config: Config | Place | None) -> tuple[Config, Path]:
    if config is None:
        return configuration.shipped(), Path.cwd()
    if isinstance(config, Config):
        return config, Path.cwd()
    return configuration.load(Path(config)), Path(config).resolve().parent


def _index(data: Any) -> archive.ArchiveIndex:  # noqa: ANN401 obspy has no types
    if hasattr(data, "split") and not isinstance(data, str):  # an obspy Stream, or one of its traces
        return archive.index_of(obspy_formats.records_of(data))
    several: list[Any] = [data] if isinstance(data, Trace | str | os.PathLike) else list(data)
    traces = [one for one in several if isinstance(one, Trace)]
    if not traces:
        return archive.index(several)
    if len(traces) < len(several):
        raise archive.ArchiveError("expected paths, or traces, not some of both")
    return archive.index_of(
        Record(from_nslc(one.channel), one.start_ns, one.sample_rate_hz, one.samples) for one in traces
    )


def _joined(sid: str, records: list[Record]) -> Iterator[Trace]:
    """Records of one channel in order of start, those that follow one another to half a sample as one trace."""
    records = sorted(records, key=lambda one: one.start_ns)
    cuts = [at + 1 for at, (one, other) in enumerate(pairwise(records)) if not _follows(one, other)]
    for begin, end in pairwise([0, *cuts, len(records)]):
        part = records[begin:end]
        samples = read_only(np.concatenate([one.samples for one in part]))
        yield Trace(name_of(sid), part[0].start_ns, part[0].sample_rate_hz, samples)


def _follows(one: Record, other: Record) -> bool:
    rate = one.sample_rate_hz
    expected_ns = one.start_ns + offset_ns(one.samples.size, rate)
    return other.sample_rate_hz == rate and 2 * abs(other.start_ns - expected_ns) <= offset_ns(1, rate)
