"""What the daemon measures, for Prometheus. Names: prefix tscc_, base units; the registry is passed in.

Per channel there are counters and gauges only: a histogram per channel would make a scrape of 5,000 channels take
seconds. What changes with every record lies in arrays and becomes series when it is asked for (Channels). Children of
other labelled families are looked up once and kept: `metrics.gaps[sid].inc()`.
"""

from __future__ import annotations

import platform
from collections.abc import Callable, Iterator, Mapping
from typing import Generic, TypeVar

import numpy as np
from prometheus_client import CollectorRegistry, Counter, Gauge, Histogram, Metric, ProcessCollector
from prometheus_client.metrics_core import CounterMetricFamily, GaugeMetricFamily
from prometheus_client.registry import Collector

from tscc_stream import __version__
from tscc_stream.channel_rows import NONE, ChannelRows, grown
from tscc_stream.messages import Int64Array, Record, RecordBatch
from tscc_stream.sampling import NS_PER_SECOND, offset_ns, offsets_ns

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


class Channels(Collector):
    """tscc_samples_total and tscc_last_sample_timestamp_seconds: told by one thread, collected by any.

    Channels beyond MOST_CHILDREN are counted together, under the source id `other`. Those that sent before a restart
    and are awaited have a time, though no samples yet: a restart makes no dead sensor well.
    """

    def __init__(self, registry: CollectorRegistry) -> None:
        self._rows = ChannelRows(MOST_CHILDREN)
        self._samples: Int64Array = np.zeros(0, np.int64)  # by row
        self._last_ns: Int64Array = np.zeros(0, np.int64)
        self._others: Int64Array = np.zeros(2, np.int64)
        registry.register(self)

    def awaited(self, last_ns: Mapping[str, int]) -> None:
        """Before the first record: the data time that channels had come to in an earlier process, by source id."""
        for sid, at_ns in last_ns.items():
            row = self._rows.row(sid)
            if row == NONE:
                return
            self._make_room()
            self._last_ns[row] = at_ns

    def took(self, record: Record) -> None:
        """One record came in."""
        row, count = self._rows.row(record.sid), record.samples.size
        last_ns = record.start_ns + offset_ns(count - 1, record.sample_rate_hz)
        if row == NONE:
            self._others = np.array([self._others[0] + count, last_ns])
            return
        self._make_room()
        self._samples[row] += count
        self._last_ns[row] = last_ns

    def took_batch(self, server: str, batch: RecordBatch, _now_ns: int = 0) -> None:
        """The same of many records, one after the other: the last one of a channel says how far it has come."""
        if not len(batch):
            return
        rows, counts = self._rows.of(server, batch), np.diff(batch.begin)
        last_ns = batch.start_ns + offsets_ns(counts - 1, batch.sample_rate_hz)
        known = rows != NONE
        if not known.all():
            self._others = np.array([self._others[0] + counts[~known].sum(), last_ns[~known][-1]])
            rows, counts, last_ns = rows[known], counts[known], last_ns[known]
        self._make_room()
        np.add.at(self._samples, rows, counts)
        self._last_ns[rows] = last_ns  # of a row that is named twice, the later value stays

    def _make_room(self) -> None:
        self._samples, self._last_ns = grown(self._samples, len(self._rows)), grown(self._last_ns, len(self._rows))

    def collect(self) -> Iterator[Metric]:
        """As series, of channels that have sent or are awaited."""
        samples, last_ns, (others, others_ns) = self._samples, self._last_ns, self._others
        sids = self._rows.sids[: min(samples.size, last_ns.size)]
        counter = CounterMetricFamily("tscc_samples", "Samples taken in, per channel.", labels=["sid"])
        gauge = GaugeMetricFamily(
            "tscc_last_sample_timestamp_seconds",
            "Data time of the newest sample of a channel, be it of before a restart, Unix time.",
            labels=["sid"],
        )
        for sid, count, at_ns in zip(sids, samples.tolist(), last_ns.tolist(), strict=False):
            if count:  # else it is awaited, or its row is there, but not yet what came
                counter.add_metric([sid], count)
            if at_ns:
                gauge.add_metric([sid], at_ns / NS_PER_SECOND)
        if others:
            counter.add_metric([OVERFLOW], int(others))
            gauge.add_metric([OVERFLOW], int(others_ns) / NS_PER_SECOND)
        return iter((counter, gauge))


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
        self._add_process()

    def _counters(self, name: str, text: str, label: str) -> ByLabel[Counter]:
        family = Counter(f"tscc_{name}", text, [label], registry=self.registry)
        return ByLabel(family.labels)

    def _gauges(self, name: str, text: str, label: str) -> ByLabel[Gauge]:
        family = Gauge(f"tscc_{name}", text, [label], registry=self.registry)
        return ByLabel(family.labels)

    def _counter(self, name: str, text: str) -> Counter:
        return Counter(f"tscc_{name}", text, registry=self.registry)

    def _add_channels(self) -> None:
        self.channels = Channels(self.registry)
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
        self.records_of_other_shards = self._counters(
            "records_of_other_shards", "Records that were left to the shards whose stations they are of.", "server"
        )
        self._shard_info = Gauge(
            "tscc_shard_info",
            "1 for the share of the stations that this daemon serves: shard index of count; 1 of 1 without shards.",
            ["index", "count"],
            registry=self.registry,
        )
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
        self.network_events = self._counters(
            "network_events",
            "Network events committed to the journal, their last words, by the winning cluster.",
            "cluster",
        )
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

    def _add_process(self) -> None:
        ProcessCollector(registry=self.registry)  # process_*: memory, processor, open files, time of the start
        self.healthy = Gauge("tscc_healthy", "1 while /healthz answers 200, else 0.", registry=self.registry)
        self.state_free_bytes = Gauge(
            "tscc_state_free_bytes", "Room left on the disk of the state folder.", registry=self.registry
        )
        self._cluster_info = Gauge(
            "tscc_cluster_info",
            "1 for each cluster of the model in use, with the name that people gave it.",
            ["cluster", "name"],
            registry=self.registry,
        )

    def set_shard(self, index: int, count: int) -> None:
        """Which share of the stations is served. To be called once."""
        self._shard_info.labels(index, count).set(1)

    def set_clusters(self, names: Mapping[str, str]) -> None:
        """What people call the clusters from now on, by id; detections of none of them are `unknown`."""
        self._cluster_info.clear()
        for cluster, name in {**names, "unknown": "unknown"}.items():
            self._cluster_info.labels(cluster, name).set(1)

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
