"""Receivers of alerts as a process, and an alert process over a state folder, for tests."""

from __future__ import annotations

import json
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from made_site import Running

PROGRAM = Path(__file__).with_name("alert_receivers.py")
PATIENCE_S = 40.0


class Receivers:
    """The two servers of alert_receivers.py; `stop` and `start` keep their ports."""

    def __init__(self, folder: Path, *tls: Path) -> None:
        self._log = folder / "received.jsonl"
        self._tls = [str(path) for path in tls]
        self._ports = ["0", "0"]
        self.start()

    def start(self, status: int = 200) -> None:
        command = [sys.executable, str(PROGRAM), str(self._log), *self._ports, str(status), *self._tls]
        self._process = subprocess.Popen(command, stdout=subprocess.PIPE, text=True)
        assert self._process.stdout is not None
        self._ports = self._process.stdout.readline().split()

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()
        assert self._process.stdout is not None
        self._process.stdout.close()

    @property
    def url(self) -> str:
        return f"http{'s' if self._tls else ''}://127.0.0.1:{self._ports[0]}/alerts?site=1"

    @property
    def smtp(self) -> str:
        return f"127.0.0.1:{self._ports[1]}"

    def got(self, by: str) -> list[dict[str, Any]]:
        """What a server has taken, in order."""
        lines = self._log.read_text().splitlines() if self._log.exists() else []
        return [one for one in map(json.loads, lines) if one["by"] == by]

    def keys(self, by: str) -> list[str]:
        return [one["key"] for one in self.got(by)]

    def actions(self) -> dict[str, Any]:
        """Sections of a configuration that reach them."""
        mail = {"server": self.smtp, "tls": "none", "sender": "tscc@mine.example", "recipients": ["boss@mine.example"]}
        return {
            "webhooks": {"control room": {"url": self.url, "timeout_seconds": 5.0}},
            "mails": {"boss": {**mail, "timeout_seconds": 5.0}},
        }

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process.poll() is None:
            self.stop()


def until(holds: Callable[[], Any], what: str) -> None:
    """Look again and again, for a bounded time, until it holds."""
    deadline = time.monotonic() + PATIENCE_S
    while not holds():
        assert time.monotonic() < deadline, f"{what} did not come within {PATIENCE_S:g} s"
        time.sleep(0.05)


def alerting(config: Path) -> Running:
    """`alert run`, once it is ready."""
    running = Running("alert", "run", "--config", config)
    running.wait_for("ready: ")
    return running
