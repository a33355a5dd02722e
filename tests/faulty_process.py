"""The faulty servers as a process: their addresses, orders to them, and the log of what happened."""

from __future__ import annotations

import json
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from in_time import PATIENCE_S

Event = dict[str, Any]


class FaultyProcess:
    """`faults` as --fault takes them, options as --fault-option. addresses: HOST:PORT by label. Ended by `with`."""

    def __init__(self, *faults: str, archive: Path | None = None, options: tuple[str, ...] = (), speed: object = "max"):
        command = [sys.executable, str(Path(__file__).with_name("faulty_server.py"))]
        command += [str(archive)] if archive else []
        command += [word for fault in faults for word in ("--fault", fault)]
        command += [word for option in options for word in ("--fault-option", option)]
        self._process = subprocess.Popen(
            [*command, "--speed", str(speed)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
        )
        self.addresses: dict[str, str] = {}
        self.events: list[Event] = []
        self._grown = threading.Condition()
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()
        try:
            self._wait(lambda: self._ready, "ready", PATIENCE_S)
        except BaseException:
            self.stop()
            raise

    _ready = _ended = False

    def _read(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            with self._grown:
                self._take(line.strip())
                self._grown.notify_all()
        with self._grown:
            self._ended = True
            self._grown.notify_all()

    def _take(self, line: str) -> None:
        if line.startswith("{"):
            self.events.append(json.loads(line))
        elif line == "ready":
            self._ready = True
        else:
            label, _, address = line.partition(" ")
            self.addresses[label] = address

    def _wait(self, done: Callable[[], object], what: str, timeout: float) -> None:
        with self._grown:
            if not self._grown.wait_for(lambda: done() or self._ended, timeout) or not done():
                raise AssertionError(f"no {what} within {timeout:g} s; events: {self.events[-20:]}")

    def tell(self, order: str, label: str) -> None:
        """`down` or `return`."""
        assert self._process.stdin is not None
        self._process.stdin.write(f"{order} {label}\n")
        self._process.stdin.flush()

    def of(self, label: str, event: str) -> list[Event]:
        """So far."""
        with self._grown:
            return [one for one in self.events if one.get("port") == label and one["event"] == event]

    def wait_for(
        self,
        label: str,
        event: str,
        after: float = 0.0,
        *,
        count: int = 1,
        timeout: float = PATIENCE_S,
        **values: object,
    ) -> Event:
        """The `count`-th such event after monotonic time `after` (s), with these values."""

        def fits(one: Event) -> bool:
            return all(one.get(key) == value for key, value in {"port": label, "event": event, **values}.items())

        def found() -> list[Event]:
            return [one for one in self.events if fits(one) and one["t"] > after]

        self._wait(lambda: len(found()) >= count, f"{event} of {label}", timeout)
        return found()[count - 1]

    def recovery_seconds(self, label: str, timeout: float = PATIENCE_S) -> float:
        """From the last `up` to the first packet after it, waiting for that."""
        up = self.of(label, "up")[-1]["t"]
        return float(self.wait_for(label, "first_packet", up, timeout=timeout)["t"]) - up

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    def stop(self) -> None:
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._process.stdin.close()
        try:
            self._process.wait(PATIENCE_S)
        finally:
            self._process.kill()
            self._reader.join(PATIENCE_S)
            self._process.stdout.close()


def now() -> float:
    """The clock of the events."""
    return time.monotonic()
