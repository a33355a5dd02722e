"""What the alert process needs of whatever it listens to: its own daemon, or many publishers."""

from __future__ import annotations

from collections.abc import Mapping
from contextlib import ExitStack
from dataclasses import dataclass
from typing import Any, Final, Protocol

from tscc_stream.apps.alert_told import Alert, Repetition
from tscc_stream.client import Received

REMEMBERED: Final = 1000
"""Messages before the start whose detections network events to come may name."""


@dataclass(frozen=True, slots=True)
class Heard:
    """One message. source: the publisher's name, empty for the own daemon. looked_at: by the process before."""

    source: str
    received: Received
    looked_at: bool = False


class Listening(Protocol):
    """Where messages come from, how the sensors behind them are, and which silence is to be told."""

    def start(self, stack: ExitStack) -> None:
        """Raises SubscriberError where an address or a key cannot be used."""

    def receive(self, seconds: float) -> Heard | None:
        """The next message, if one comes in time. Raises SubscriberError."""

    def handled(self, heard: Heard) -> None:
        """A message need not come again once its place is kept."""

    def idle(self) -> None:
        """No message came: the place moves on to what was found to be nothing of interest."""

    def status(self, heard: Heard, kind: str, data: Mapping[str, Any], now_ns: int) -> None:
        """A message `status.<kind>.`. now_ns: wall time."""

    def detection(self, heard: Heard, channel: str, clipped: bool, now_ns: int) -> None:
        """A window of a channel (NET.STA.LOC.CHA) was classified."""

    def poll(self, now_s: float) -> None:
        """To be called about once a second (monotonic)."""

    def silences(self, now_ns: int, now_s: float) -> list[Alert | Repetition]:
        """What is silent now, or no longer."""

    def acknowledge(self, alert: str) -> None:
        """Somebody answered an alert."""

    def report(self, now_ns: int) -> dict[str, Any]:
        """How the sensors are, for an alert."""

    def changes(self) -> dict[str, bytes]:
        """What is to be remembered over a restart, of that which has changed since the last call."""

    def dead(self) -> list[str]:
        """Threads that have failed."""
