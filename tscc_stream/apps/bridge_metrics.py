"""What the bridge measures, for Prometheus."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class BridgeMetrics:
    """Families of one registry; the label is a source's name in the configuration."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._published = self._counter("published", "Messages that JetStream has acknowledged.")
        self._duplicates = self._counter("duplicates", "Of these, those that it had already, and dropped.")
        self._refused = self._counter("refused", "Times that JetStream did not take a message; it is sent again.")
        self._omitted = self._counter("omitted", "Messages too large for NATS: an empty one went instead.")
        self._unacknowledged = self._gauge("unacknowledged", "Messages on their way, not acknowledged yet.")
        self._behind = self._gauge("behind", "Messages in the daemon's journal that JetStream has not acknowledged.")
        self._silent = self._gauge("source_silent_seconds", "Since the daemon last said anything, heartbeats included.")
        self._connected = Gauge(
            "tscc_bridge_connected", "1 while NATS is connected and the stream is there.", registry=self.registry
        )

    def _counter(self, name: str, words: str) -> Counter:
        return Counter(f"tscc_bridge_{name}", words, ["source"], registry=self.registry)

    def _gauge(self, name: str, words: str) -> Gauge:
        return Gauge(f"tscc_bridge_{name}", words, ["source"], registry=self.registry)

    def add(self, source: str) -> None:
        """So that every family is there from the start."""
        for family in (self._published, self._duplicates, self._refused, self._omitted, self._unacknowledged):
            family.labels(source)

    def published(self, source: str, *, again: bool) -> None:
        self._published.labels(source).inc()
        if again:
            self._duplicates.labels(source).inc()

    def refused(self, source: str) -> None:
        self._refused.labels(source).inc()

    def omitted(self, source: str) -> None:
        self._omitted.labels(source).inc()

    def measure(self, source: str, unacknowledged: int, behind: int | None, silent_s: float) -> None:
        """behind: None where the daemon does not say."""
        self._unacknowledged.labels(source).set(unacknowledged)
        self._silent.labels(source).set(silent_s)
        if behind is not None:
            self._behind.labels(source).set(behind)

    def connected(self, connected: bool) -> None:
        self._connected.set(connected)
