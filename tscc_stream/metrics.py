"""What the daemon measures, for Prometheus. Names: prefix tscc_, base units; the registry is passed in.

Per channel there are counters and gauges only: a histogram per channel would make a scrape of 5,000 channels take
seconds. Children of a labelled family are looked up once and kept: `metrics.samples[sid].inc(n)`.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Mapping
from typing import Generic, TypeVar

from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram

from tscc_stream import __version__

MOST_CHILDREN = 50_000  # what a server can make a family grow to, by sending ever new channels
OVERFLOW = "other"

_SECONDS = (0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0)
_LATENCY_SECONDS = (0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 0.5, 1.0, 2.5, 5.0, 10.0, 30.0, 60.0, 300.0)
_WINDOWS = (1, 2, 4, 8, 16, 32, 64, 128, 256, 512, 1024)

_Metric = TypeVar("_Metric", bound=Counter | Gauge | Histogram)


class ByLabel(dict[str, _Metric], Generic[_Metric]):
    """The children of a family with one label, made when first asked for; beyond MOST_CHILDREN they share `other`."""

    def __init__(self, child: Callable[[str], _Metric]) -> None:
        super().__init__()
        self._child = child

    def __missing__(self, label: str) -> _Metric:
        if len(self) >= MOST_CHILDREN and label != OVERFLOW:
            return self[OVERFLOW]
        made = self._child(label)
        self[label] = made
        return made


class Metrics:
    """Every family, registered in `registry` at construction, so that all of them are there from the first scrape."""

    def __init__(self, registry: CollectorRegistry) -> None:
        self.registry = registry
        self._drifting: set[str] = set()
        self._add_channels()
        self._add_connections()
        self._add_detections()
        self._add_stages()
        self._add_model()

    def _counters(self, name: str, text: str, label: str) -> ByLabel[Counter]:
        family = Counter(f"tscc_{name}", text, [label], registry=self.registry)
        return ByLabel(family.labels)

    def _gauges(self, name: str, text: str, label: str) -> ByLabel[Gauge]:
        family = Gauge(f"tscc_{name}", text, [label], registry=self.registry)
        return ByLabel(family.labels)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"tscc_{name}", text, registry=self.registry)

    def _add_channels(self) -> None:
        self.samples = self._counters("samples", "Samples taken in, per channel.", "sid")
        self.last_sample_timestamp_seconds = self._gauges(
            "last_sample_timestamp_seconds", "Data time of the newest sample of a channel, Unix time.", "sid"
        )
        self.gaps = self._counters("gaps", "Breaks in a channel's data after which it started afresh.", "sid")
        self.gaps_by_cause = self._counters("gaps_by_cause", "Breaks in channels' data, by cause.", "cause")
        self.lost_seconds = self._counters("lost_seconds", "Data of a channel that never came.", "sid")
        self.samples_left_out = self._counters("samples_left_out", "Samples that were not used, by reason.", "reason")
        self.channels_quarantined = Gauge(
            "tscc_channels_quarantined",
            "Channels left out at present since they broke again and again.",
            registry=self.registry,
        )

    def _add_connections(self) -> None:
        self.records_rejected = self._counters("records_rejected", "Records that were not used, by reason.", "reason")
        self.seedlink_connected = self._gauges(
            "seedlink_connected", "1 while the SeedLink server is connected and negotiated, else 0.", "server"
        )
        self.seedlink_reconnects = self._counters("seedlink_reconnects", "Connections lost and tried again.", "server")
        self._seedlink_actual = Gauge(
            "tscc_seedlink_actual",
            "1 for the server that a configured entry is connected to, itself or a fallback.",
            ["server", "actual"],
            registry=self.registry,
        )
        self._actual: dict[str, str] = {}
        self._seedlink_resumes = Counter(
            "tscc_seedlink_resumes",
            "Connections, by how each went on: sequence, time, oldest or now.",
            ["server", "step"],
            registry=self.registry,
        )
        self.seedlink_waiting_seconds = self._counters(
            "seedlink_waiting_seconds", "Time in which nothing was read for want of room.", "server"
        )
        self.seedlink_ring_left = self._gauges(
            "seedlink_ring_left",
            "Share of the server's ring that is left before unread data are lost; NaN where it was not asked.",
            "server",
        )
        self.seedlink_last_data_timestamp_seconds = self._gauges(
            "seedlink_last_data_timestamp_seconds", "When the last record came in from a server, Unix time.", "server"
        )

    def _add_detections(self) -> None:
        self.triggers = self._counter("triggers", "Triggers of single channels.")
        self.windows_dropped = self._counters("windows_dropped", "Triggers without a window, by reason.", "reason")
        self.spilled = self._counter("spilled", "Windows journalled unclassified because of overload.")
        self.spilled_windows = Gauge(
            "tscc_spilled_windows", "Windows in the journal that wait to be classified.", registry=self.registry
        )
        self.detections = self._counters("detections", "Detections committed to the journal, by cluster.", "cluster")
        self.unknown = self._counter("unknown", "Detections that belong to no known cluster.")
        self.journal_head_seq = Gauge(
            "tscc_journal_head_seq", "Seq of the last message in the journal.", registry=self.registry
        )
        self.journal_failing = Gauge(
            "tscc_journal_failing", "1 while the journal cannot be written, else 0.", registry=self.registry
        )
        self._add_bus()

    def _add_bus(self) -> None:
        self.replay_requests = self._counter("replay_requests", "Replay requests answered, refused ones included.")
        self.replay_refused = self._counters("replay_refused", "Replay requests refused, by reason.", "reason")
        self.bus_refused = self._counters("bus_refused", "Connections to the bus refused, by reason.", "reason")

    def _add_stages(self) -> None:
        self.queue_depth = self._gauges("queue_depth", "Items that wait in front of a stage.", "stage")
        self.batch_size = Histogram(
            "tscc_batch_size", "Windows per batch through the encoder.", buckets=_WINDOWS, registry=self.registry
        )
        self.inference_restarts = self._counters(
            "inference_restarts", "Fresh encoders after one failed (error) or did not answer (timeout).", "reason"
        )
        stage = Histogram(
            "tscc_stage_seconds",
            "Time that one call of a stage took.",
            ["stage"],
            buckets=_SECONDS,
            registry=self.registry,
        )
        self.stage_seconds: ByLabel[Histogram] = ByLabel(stage.labels)
        self.sample_to_publish_seconds = Histogram(
            "tscc_sample_to_publish_seconds",
            "From the receipt of the last sample that a message needed until it was published.",
            buckets=_LATENCY_SECONDS,
            registry=self.registry,
        )

    def _add_model(self) -> None:
        self._model_info = Gauge(
            "tscc_model_info", "1 for the model in use.", ["name", "version", "sha256"], registry=self.registry
        )
        self._drift_score = Gauge(
            "tscc_drift_score",
            "Drift of recent windows from the model's own; NaN until it is known.",
            ["cluster"],
            registry=self.registry,
        )
        self.set_drift({"all": float("nan")})
        self._shadow = Counter(
            "tscc_shadow",
            "Windows by the live model's cluster and the candidate's.",
            ["live", "shadow"],
            registry=self.registry,
        )
        self.shadow_skipped = self._counter("shadow_skipped", "Windows that the candidate had no time for.")
        build = Gauge("tscc_build_info", "1 for the program that runs.", ["version", "python"], registry=self.registry)
        build.labels(__version__, platform.python_version()).set(1)

    def seedlink_linked(self, server: str, actual: str, step: str) -> None:
        """A configured entry is connected, to itself or a fallback."""
        before = self._actual.get(server)
        if before not in (None, actual):
            self._seedlink_actual.remove(server, before)
        self._actual[server] = actual
        self._seedlink_actual.labels(server, actual).set(1)
        self._seedlink_resumes.labels(server, step).inc()

    def seedlink_unlinked(self, server: str) -> None:
        """A configured entry is not connected."""
        if server in self._actual:
            self._seedlink_actual.labels(server, self._actual[server]).set(0)

    def set_model(self, name: str, version: str, sha256: str) -> None:
        """The model in use from now on; the one before disappears."""
        self._model_info.clear()
        self._model_info.labels(name, version, sha256).set(1)

    def set_drift(self, scores: Mapping[str, float]) -> None:
        """By cluster, and `all`: the same clusters each time until the model changes."""
        if self._drifting != scores.keys():
            self._drift_score.clear()
            self._drifting = set(scores)
        for cluster, score in scores.items():
            self._drift_score.labels(cluster).set(score)

    def shadow(self, live: str, shadow: str) -> Counter:
        """How often the live model said the one cluster and the candidate the other."""
        return self._shadow.labels(live, shadow)

    def forget_shadow(self) -> None:
        """Another pair of models: counts from zero."""
        self._shadow.clear()
