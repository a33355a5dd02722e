"""Receivers of alerts as a process, and an alert process over a state folder, for tests."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, Self

from in_time import PATIENCE_S
from made_site import Running

from tscc_stream.config import CurveConfig, PublishConfig
from tscc_stream.edges.sqlite import JournalFile, JournalReader
from tscc_stream.edges.zeromq import Bus
from tscc_stream.messages import Gap, Message

PROGRAM = Path(__file__).with_name("alert_receivers.py")
SID = "FDSN:SM_S001__G_H_Z"


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


class Site:
    """A journal and its bus, as a daemon has them, and messages that the test makes up."""

    def __init__(self, folder: Path, curve: CurveConfig | None = None, metrics: str = "127.0.0.1:9") -> None:
        folder.mkdir(exist_ok=True)
        self._journal = JournalFile(folder / "journal.sqlite")
        any_port = "tcp://127.0.0.1:0"
        config = PublishConfig(bind=any_port, replay_bind=any_port, heartbeat_seconds=0.2, curve=curve)
        self._reader = JournalReader(folder / "journal.sqlite")
        self._bus = Bus(config, "test", self._reader)
        self._bus.start()
        where = {"publish": self._bus.endpoint, "replay": self._bus.replay_endpoint, "metrics": metrics}
        (folder / "endpoints.json").write_text(json.dumps({**where, "pid": os.getpid()}))

    def event(self, uid: str, age_s: float = 0.0, cluster: str = "microseismic", amplitude: float = 50.0) -> None:
        """A detection and the network event that it makes, so old."""
        self.detection(uid, age_s, cluster, amplitude)
        self.network(uid, age_s, cluster)

    def detection(self, uid: str, age_s: float = 0.0, cluster: str = "microseismic", amplitude: float = 50.0) -> None:
        onset_ns = time.time_ns() - round(age_s * 1e9)
        about = {"id": 1, "name": cluster, "membership": [0.1, 0.9], "known": cluster != "unknown"}
        data = {"onset_ns": onset_ns, "peak_amplitude": amplitude, "quality": [], "cluster": about}
        self.say(_message(f"detection-{uid}", "detection.1.SM.S001..GHZ.", "tscc.detection.v1", SID, data))

    def network(self, uid: str, age_s: float = 0.0, cluster: str = "microseismic") -> None:
        data = {
            "onset_ns": time.time_ns() - round(age_s * 1e9),
            "channels": [SID],
            "detections": [f"detection-{uid}"],
            "final": True,
            "votes": {cluster: 1},
            "cluster": {"id": None if cluster == "unknown" else 1, "name": cluster},
        }
        self.say(_message(uid, "network.1.", "tscc.network_event.v1", "network", data))

    def say(self, *messages: Message) -> None:
        self._bus.publish(self._journal.append(messages))

    def lose(self, *gaps: Gap) -> None:
        """Enter breaks into the ledger."""
        self._journal.append([], gaps)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self._bus.stop()
        self._reader.close()
        self._journal.close()


def _message(uid: str, topic: str, kind: str, subject: str, data: dict[str, Any]) -> Message:
    body = {"type": kind, "id": uid, "subject": subject, "data": data}
    sid = subject if kind == "tscc.detection.v1" else ""
    encoded = json.dumps(body).encode()
    return Message(uid, topic.partition(".")[0], topic, encoded, int(data["onset_ns"]), sid, tolerance_ns=0)


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
