"""Asks the daemon and its journal how the sensors are, on a thread of its own: a daemon that hangs delays no alert."""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tscc_stream import activation
from tscc_stream.activation import ActivationError
from tscc_stream.apps.alert_health import Facts
from tscc_stream.config import Config
from tscc_stream.edges.daemon_view import DaemonView, Login, ViewError, newest_samples
from tscc_stream.edges.sqlite import JournalError, JournalReader
from tscc_stream.edges.supervision import name_this_thread
from tscc_stream.gap_causes import LOST
from tscc_stream.sampling import NS_PER_SECOND
from tscc_stream.seldom import Seldom

_log = logging.getLogger(__name__)

EVERY_SECONDS = 5.0
LOOK_SECONDS = 1.0
"""How often it is looked where the daemon listens."""
METRICS_EVERY = 3
"""Turns between two looks at /metrics, which is long."""
GAPS_NS = 3600 * NS_PER_SECOND
MOST_GAPS = 10_000


class Endpoints:
    """Where the daemon listens: as it wrote down where that can be read, else as configured."""

    def __init__(self, config: Config, state_dir: Path) -> None:
        self._config, self._state_dir = config, state_dir

    def find(self) -> dict[str, str]:
        """publish, replay and metrics."""
        try:
            said = activation.endpoints(self._state_dir)
        except ActivationError:  # another user's process: then what is configured holds
            said = {}
        return activation.addresses(said, self._config.publish, self._config.metrics)


class Probe:
    """facts: what was said last. where: the daemon's addresses. Both are replaced whole.

    state_dir: the daemon's, where it runs on this machine. at: its addresses, where it does not; without one under
    metrics nothing is asked.
    """

    def __init__(self, config: Config, state_dir: Path | None, at: Mapping[str, str] | None = None) -> None:
        self.facts = Facts()
        self._find = Endpoints(config, state_dir).find if state_dir is not None else lambda: dict(at or {})
        self.where = self._find()
        monitor = config.alerts.monitor
        self._view = DaemonView(config.metrics, Login(monitor.user, monitor.password_file, "alerts.monitor."))
        self._journal = None if state_dir is None else state_dir / "journal.sqlite"
        self._seldom = Seldom()
        self._turns = 0
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="probe", daemon=True)

    def start(self) -> None:
        self._thread.start()

    @property
    def alive(self) -> bool:
        return self._thread.is_alive()

    def stop(self) -> None:
        """It ends by itself, and is not waited for."""
        self._stopping.set()

    def _run(self) -> None:
        name_this_thread("probe")
        asked_s = float("-inf")
        while not self._stopping.is_set():
            self.where = self._find()
            if self.where["metrics"] and time.monotonic() - asked_s >= EVERY_SECONDS:
                self.facts, asked_s = self._asked(), time.monotonic()
            self._stopping.wait(LOOK_SECONDS)

    def _asked(self) -> Facts:
        """Nothing is known where the answer is not of the form that it should have: alerts go on without it."""
        try:
            return self._ask()
        except (ArithmeticError, AttributeError, LookupError, TypeError, ValueError) as error:
            self._tell(f"what the daemon says of itself cannot be read: {type(error).__name__}: {error}")
            return Facts()

    def _ask(self) -> Facts:
        address = self.where["metrics"]
        health = self._said(lambda: self._view.health(address)) or {}
        channels = self.facts.channels
        if self._turns % METRICS_EVERY == 0 and health:
            channels = self._said(lambda: newest_samples(self._view.metrics(address))) or channels
        self._turns += 1
        now_s = time.time()
        open_gaps, gaps = self._ledger(
            min(now_s, max(channels.values(), default=now_s))
        )  # not by a clock that is ahead
        servers = health.get("servers", {})
        ages = health.get("data", {})
        silent = {name: one["age_s"] for name, one in ages.items() if one.get("state") in ("SILENT", "OLD")}
        silent = silent or health.get("silent", {})  # of a silent server, its streams are not told one by one
        away = frozenset(name for name, state in servers.items() if state != "connected")
        return Facts(
            state=health.get("state"),
            reason=str(health.get("reason") or ""),
            stalled=tuple(map(str, health.get("stalled", ()))),
            cut_off=bool(servers) and servers.keys() <= (silent.keys() | away),
            channels=channels,
            silent={name: None if age_s is None else float(age_s) for name, age_s in silent.items()},
            away=away,
            open_gaps=open_gaps,
            gaps=gaps,
        )

    def _said(self, ask: Callable[[], Any]) -> Any:  # noqa: ANN401  # whatever it asks for
        try:
            return ask()
        except ViewError as error:
            self._tell(str(error))
            return None

    def _ledger(self, newest_s: float) -> tuple[tuple[tuple[str, str], ...], tuple[Any, ...]]:
        """Breaks that still last, and losses that ended within the last hour of data."""
        if self._journal is None or not self._journal.is_file():
            return (), ()
        try:
            reader = JournalReader(self._journal)
            try:
                entries = reader.gaps(int(newest_s) * NS_PER_SECOND - GAPS_NS, MOST_GAPS)
            finally:
                reader.close()
        except JournalError as error:
            self._tell(str(error))
            return (), ()
        lasting = tuple((entry.sid, entry.cause) for entry in entries if entry.to_ns is None)
        return lasting, tuple(entry for entry in entries if entry.cause in LOST and entry.to_ns is not None)

    def _tell(self, sentence: str) -> None:
        if self._seldom.due(sentence, time.monotonic()):
            _log.warning("%s", sentence)
