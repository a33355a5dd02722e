"""What the alert process measures, for Prometheus, and its /healthz."""

from __future__ import annotations

from prometheus_client import CollectorRegistry, Counter, Gauge


class AlertMetrics:
    """Families of one registry; labels are names of the configuration."""

    def __init__(self) -> None:
        self.registry = CollectorRegistry()
        self._alerts = Counter(
            "tscc_alerts", "Alerts made, by rule or watch.", ["rule", "kind"], registry=self.registry
        )
        self._withheld = Counter(
            "tscc_alerts_withheld", "Events that matched a rule and were not told one by one.", ["why"],
            registry=self.registry,
        )  # fmt: skip
        self._deliveries = Counter(
            "tscc_alert_deliveries", "Tries of deliveries, by what came of them.", ["action", "outcome"],
            registry=self.registry,
        )  # fmt: skip
        self._waiting = Gauge(
            "tscc_alert_deliveries_waiting", "Deliveries that wait, by action.", ["action"], registry=self.registry
        )
        self.journal_failing = Gauge(
            "tscc_alert_journal_failing", "1 while the journal of alerts cannot be written.", registry=self.registry
        )
        self.unreadable = Counter(
            "tscc_alert_messages_unreadable", "Messages that were not of the form expected.", registry=self.registry
        )

    def made(self, rule: str, kind: str) -> None:
        self._alerts.labels(rule, kind).inc()

    def withheld(self, why: str) -> None:
        self._withheld.labels(why).inc()

    def tried(self, action: str, outcome: str) -> None:
        self._deliveries.labels(action, outcome).inc()

    def waiting(self, action: str, count: int) -> None:
        self._waiting.labels(action).set(count)
