"""`classify`: the daemon's pipeline over files, as fast as it goes, in order of time."""

from __future__ import annotations

import csv
import heapq
import json
import sys
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field
from itertools import chain, islice
from pathlib import Path
from typing import IO, Any, Literal

from tscc_stream import package, progress
from tscc_stream.ahead import one_ahead
from tscc_stream.calibration import calibration_scores
from tscc_stream.config import Config
from tscc_stream.edges import archive
from tscc_stream.edges.numpy_encoder import NumpyEncoder, UntilMany
from tscc_stream.edges.obspy_formats import Meaning, quakeml
from tscc_stream.messages import Gap, Message, Quarantined, RecordBatch, Refusal, Released
from tscc_stream.pipeline import BackHalf, BackMessage, FrontHalf, FrontMessage
from tscc_stream.sampling import seconds_to_ns
from tscc_stream.source_id import name_of, to_nslc
from tscc_stream.spreadsheet import harmless
from tscc_stream.stages.infer import Encoder, Infer
from tscc_stream.stages.publish import ModelIdentity, Publish

Output = Literal["jsonl", "csv", "quakeml"]
CHUNK_SECONDS, LONGEST_CHUNK_SECONDS, FIRST_SECONDS = 10.0, 60.0, 1.25
"""Data time after which results are handed on: more of it where that is not much data. In the first of it channels are
the stages' affair, which take longer."""
CHUNK_SAMPLES = 250_000
CSV_COLUMNS = (
    *("type", "time", "channel", "onset_ns", "cluster_id", "cluster", "known", "membership", "p_value"),
    *("peak_ratio", "duration_s", "peak_amplitude", "quality", "channels", "id"),
)


@dataclass(slots=True)
class Summary:
    """What one pass met. refused, quarantined (for a while): source id -> why."""

    records: int = 0
    samples: int = 0
    gaps: int = 0
    dropped: dict[str, int] = field(default_factory=dict)
    refused: dict[str, str] = field(default_factory=dict)
    quarantined: dict[str, str] = field(default_factory=dict)


class Classifier:
    """Both halves of the pipeline over records in order of start time.

    The encoder is loaded when there is something to classify, and so before there is any message.
    """

    def __init__(self, config: Config, loaded: package.Package) -> None:
        self._config, self._loaded = config, loaded
        self._front = FrontHalf(config, loaded.spec)
        self._back: BackHalf | None = None
        self._publish = Publish(config.site, ModelIdentity(loaded.spec.name, loaded.spec.version, loaded.sha256))
        self._margin_ns = seconds_to_ns(config.trigger.min_seconds)
        self._held: list[tuple[int, str, str, Message]] = []
        self.summary = Summary()

    def run(self, batches: Iterable[RecordBatch], expected: Iterable[tuple[str, int]]) -> Iterator[Message]:
        """Messages in order of onset; network events only with their last word.

        No record starts before the batch before it does. expected: (source id, first sample) of the channels to come,
        so that network events wait for them. Raises PackageError, where the encoder cannot be loaded.
        """
        for sid, start_ns in expected:
            self._front.expect(sid, start_ns)
        for batch in batches:
            self.summary.records += len(batch)
            self.summary.samples += batch.samples.size
            self._through(self._front.feed_batch(batch))
            if self._back is not None:
                self._hold(self._back.flush())
                yield from self._released(self._back, int(batch.start_ns.min()))
        self._through(self._front.flush())
        if self._back is not None:
            self._hold(self._back.end())
            yield from self._released(self._back, 1 << 62)

    def _through(self, messages: list[FrontMessage]) -> None:
        for message in messages:
            if isinstance(message, Refusal):
                self.summary.refused[message.sid] = message.reason
            elif isinstance(message, Gap):
                self.summary.gaps += 1
            elif isinstance(message, Quarantined):
                self.summary.quarantined[message.sid] = message.reason
            elif not isinstance(message, Released):
                self._back = self._back or self._back_half()
                self._hold(self._back.feed(message))

    def _back_half(self) -> BackHalf:
        loaded, device = self._loaded, self._config.inference.device
        by_torch = device not in ("auto", "cpu")
        encoder = self._torch_encoder() if by_torch else UntilMany(NumpyEncoder(loaded), self._torch_encoder)
        return BackHalf(Infer(encoder), loaded.name_of, calibration_scores(loaded), self._config)

    def _torch_encoder(self) -> Encoder:
        from tscc_stream.edges.torchscript import TorchScriptEncoder  # noqa: PLC0415 torch takes a second

        inference = self._config.inference
        return TorchScriptEncoder(self._loaded, inference.device, inference.threads, inference.precision)

    def _hold(self, results: list[BackMessage]) -> None:
        for result in results:
            for message in self._publish.feed(result):
                if message.final:
                    heapq.heappush(self._held, (message.onset_ns, message.kind, message.uid, message))

    def _released(self, back: BackHalf, read_to_ns: int) -> Iterator[Message]:
        """What nothing that is still to come can precede."""
        horizon = min(read_to_ns - self._margin_ns, self._front.unsettled_ns(), back.unsettled_ns())
        while self._held and self._held[0][0] < horizon:
            yield heapq.heappop(self._held)[-1]


def classify(paths: list[Path], config: Config, model: Path, output: Output, out: IO[str]) -> int:
    """Writes one row per detection and network event to `out`; what was left out is said on stderr. Returns 0.

    Raises ArchiveError and PackageError with one sentence each.
    """
    loaded = package.load_live(model)
    index = archive.index(paths)
    classifier = Classifier(config, loaded)
    messages = messages_of(index, classifier)
    first = list(islice(messages, 1))  # the encoder, if it is needed, can be loaded: nothing is written before
    _WRITERS[output](chain(first, messages), out, loaded)
    _report(classifier.summary, index.faults)
    return 0


def _chunk_seconds(index: archive.ArchiveIndex) -> float:
    return min(max(CHUNK_SECONDS, CHUNK_SAMPLES / index.samples_per_second), LONGEST_CHUNK_SECONDS)


def messages_of(index: archive.ArchiveIndex, classifier: Classifier) -> Iterator[Message]:
    """Everything that is found in an archive, as `Classifier.run` gives it."""
    channels = archive.channels(index)
    batches = _with_progress(
        one_ahead(archive.iter_batches(index, chunk_seconds=_chunk_seconds(index), first_seconds=FIRST_SECONDS)), index
    )
    return classifier.run(batches, [(channel.sid, channel.start_ns) for channel in channels])


def _with_progress(batches: Iterator[RecordBatch], index: archive.ArchiveIndex) -> Iterator[RecordBatch]:
    """The same batches, with a bar of data time."""
    span_ns = index.stop_ns - index.start_ns
    with progress.bar("classify") as update:
        for batch in batches:
            update(int(batch.start_ns[0]) - index.start_ns, span_ns)
            yield batch


def _report(summary: Summary, faults: archive.Faults) -> None:
    for sid, reason in sorted(summary.refused.items()):
        print(f"tscc-stream: channel {name_of(sid)} left out: {reason}", file=sys.stderr)  # noqa: T201 a command's own output
    for sid, reason in sorted(summary.quarantined.items()):
        print(f"tscc-stream: channel {name_of(sid)} left out for a while: {reason}", file=sys.stderr)  # noqa: T201  # said to people
    for text in faults.texts:
        print(f"tscc-stream: skipped: {text}", file=sys.stderr)  # noqa: T201  # said to people
    if faults.count > len(faults.texts):
        print(f"tscc-stream: and {faults.count - len(faults.texts)} more skipped", file=sys.stderr)  # noqa: T201  # said to people


def _write_jsonl(messages: Iterable[Message], out: IO[str], _loaded: package.Package) -> None:
    for message in messages:
        out.write(message.body.decode() + "\n")


def _write_csv(messages: Iterable[Message], out: IO[str], _loaded: package.Package) -> None:
    writer = csv.DictWriter(out, CSV_COLUMNS, lineterminator="\n")
    writer.writeheader()
    for message in messages:
        writer.writerow(harmless(csv_row(json.loads(message.body), message.sid)))


def csv_row(body: dict[str, Any], sid: str) -> dict[str, Any]:
    """A message's body as the columns of CSV_COLUMNS. sid: of a detection; empty for a network event."""
    data, cluster = body["data"], body["data"]["cluster"]
    row = {name: data[name] for name in ("onset_ns", "peak_ratio", "duration_s", "peak_amplitude") if name in data}
    return row | {
        "type": "detection" if sid else "network_event",
        "time": body["time"],
        "channel": to_nslc(sid) if sid else "",
        "cluster_id": cluster["id"],
        "cluster": cluster["name"],
        "known": cluster.get("known", ""),
        "membership": " ".join(f"{value:.6g}" for value in cluster.get("membership", [])),
        "p_value": cluster.get("p_value", ""),
        "quality": " ".join(data.get("quality", [])),
        "channels": " ".join(to_nslc(name) for name in data.get("channels", [])),
        "id": body["id"],
    }


def _write_quakeml(messages: Iterable[Message], out: IO[str], loaded: package.Package) -> None:
    def meaning_of(body: Mapping[str, Any]) -> Meaning:
        cluster = body["data"]["cluster"]
        known = cluster["id"] is not None and cluster.get("known", True)
        label = loaded.labels.get(cluster["id"]) if known else None
        return Meaning(cluster["name"], label.event_type if label else "not reported")

    def complain(sentence: str) -> None:
        print(f"tscc-stream: {sentence}", file=sys.stderr)  # noqa: T201  # said to people

    out.write(quakeml([json.loads(message.body) for message in messages], meaning_of, complain))


_WRITERS = {"jsonl": _write_jsonl, "csv": _write_csv, "quakeml": _write_quakeml}
