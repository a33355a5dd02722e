"""Tell systemd that we are ready, what we do and that we live: sd_notify(3), a datagram to NOTIFY_SOCKET."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Mapping
from contextlib import suppress
from pathlib import Path

_log = logging.getLogger(__name__)


EXTEND_SECONDS = 300.0
"""What a start asks for more each time: SQLite's last step flushes all that it copied, which a slow disk takes minutes
for."""
EXTEND_EACH_SECONDS = 5.0


class Notifier:
    """Does nothing where nobody supervises. address: a path, or @NAME for an abstract socket; None: nobody.

    watchdog_seconds: how long the supervisor waits for a sign of life, None where it does not watch.
    """

    def __init__(self, address: str | None, watchdog_seconds: float | None = None) -> None:
        self._address = f"\0{address[1:]}" if address and address.startswith("@") else address
        self.watchdog_seconds = watchdog_seconds
        self._fed_at: float | None = None
        self._extended_at: float | None = None

    @classmethod
    def from_environment(cls, environment: Mapping[str, str], pid: int | None = None) -> Notifier:
        """From NOTIFY_SOCKET, WATCHDOG_USEC and WATCHDOG_PID (the latter two may be meant for another process)."""
        microseconds = environment.get("WATCHDOG_USEC", "")
        meant_for = environment.get("WATCHDOG_PID", "")
        ours = meant_for in ("", str(pid or os.getpid()))
        watched = ours and microseconds.isascii() and microseconds.isdigit() and int(microseconds) > 0
        return cls(environment.get("NOTIFY_SOCKET") or None, int(microseconds) / 1e6 if watched else None)

    def ready(self, status: str) -> None:
        self._send(f"READY=1\nSTATUS={_one_line(status)}")

    def status(self, status: str) -> None:
        self._send(f"STATUS={_one_line(status)}")

    def extend(self, now: float, status: str) -> None:
        """The start takes longer, and goes on: call it every turn of what takes so long. now: monotonic seconds."""
        if self._extended_at is None or now - self._extended_at >= EXTEND_EACH_SECONDS:
            self._extended_at = now
            self._send(f"EXTEND_TIMEOUT_USEC={EXTEND_SECONDS * 1e6:.0f}\nSTATUS={_one_line(status)}")

    def stopping(self) -> None:
        self._send("STOPPING=1")

    def watchdog(self, now: float) -> None:
        """We live: call it every turn, and only while all threads turn. now: monotonic seconds.

        It is sent when a quarter of the interval has passed, so that one lost or late turn does no harm.
        """
        if self.watchdog_seconds is None:
            return
        if self._fed_at is None or now - self._fed_at >= self.watchdog_seconds / 4:
            self._fed_at = now
            self._send("WATCHDOG=1")

    def _send(self, state: str) -> None:
        """A supervisor that cannot be told is logged and is no reason to stop: it will notice by itself."""
        if self._address is None:
            return
        try:
            with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM | socket.SOCK_CLOEXEC) as sender:
                sender.setblocking(False)
                sender.sendto(state.encode(), self._address)
        except OSError as error:
            _log.warning("cannot notify the supervisor: %s", error)


def name_this_thread(name: str) -> None:
    """So that `top -H`, `ps -L` and debuggers show it, in the 15 bytes that Linux keeps."""
    with suppress(OSError):  # a system without /proc: then it has none
        Path(f"/proc/self/task/{threading.get_native_id()}/comm").write_bytes(name.encode()[:15])


def _one_line(text: str) -> str:
    return " ".join(text.split())
