"""A disk that is full, locked or limited under a daemon: it keeps what it received, says so, and goes on."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import signal
import socket
import subprocess
import sys
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from made_site import BURSTS_S, CHANNELS, Running, make_archive, write_settings

from tscc_stream.client import Received, Subscriber

DETECTIONS = len(BURSTS_S) * len(CHANNELS)
SECONDS = 40.0
UNSHARE = ("unshare", "--mount", "sh", "-c")


def _may_mount(folder: Path) -> bool:
    try:
        made = subprocess.run([*UNSHARE, f"mount -t tmpfs -o size=1m none {folder}"], check=False, capture_output=True)
    except FileNotFoundError:
        return False
    return made.returncode == 0


@dataclass
class Daemon:
    """A daemon whose state folder is a small file system of its own, which only it sees."""

    running: Running
    state: Path
    where: dict[str, Any]

    def seen_by_it(self, name: str) -> Path:
        return Path(f"/proc/{self.running.pid}/root{self.state}") / name

    def health(self) -> tuple[int, dict[str, Any]]:
        try:
            with urllib.request.urlopen(f"http://{self.where['metrics']}/healthz", timeout=10) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def failing(self) -> float:
        with urllib.request.urlopen(f"http://{self.where['metrics']}/metrics", timeout=10) as answer:
            [line] = [x for x in answer.read().decode().splitlines() if x.startswith("tscc_journal_failing ")]
        return float(line.split()[1])

    def until_health(self, status: int) -> dict[str, Any]:
        """What /healthz says once it has this status; a subscriber's time limit paces the asking."""
        with self.listen(None) as pace:
            for _ in range(int(SECONDS / 0.2)):
                got, said = self.health()
                if got == status:
                    return said
                pace.receive(0.2)
        raise AssertionError(f"/healthz: {said}")

    def listen(self, since: int | None = 0) -> Subscriber:
        return Subscriber(self.where["publish"], self.where["replay"], since=since)


@pytest.fixture(scope="module")
def port() -> int:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        return int(reserved.getsockname()[1])


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("site")
    if not _may_mount(folder):
        pytest.skip("needs the right to mount a file system (root)")
    state = folder / "state"
    state.mkdir()
    path = write_settings(folder, f"127.0.0.1:{port}")
    script = f'mount -t tmpfs -o size=4m none {state} && exec "$@"'
    with Running("run", "--config", path, inside=(*UNSHARE, script, "sh")) as running:
        running.wait_for("ready: ")
        made = Daemon(running, state, {})
        made.where = json.loads(made.seen_by_it("endpoints.json").read_text())
        yield made


@contextmanager
def full(daemon: Daemon) -> Iterator[str]:
    """Not a byte is left in the file system."""
    filler = daemon.seen_by_it("filler")
    with filler.open("wb", buffering=0) as file, contextlib.suppress(OSError):
        while file.write(b"\0" * 4096):
            pass
    assert os.statvfs(filler.parent).f_bavail == 0
    try:
        yield "database or disk is full|disk I/O error"
    finally:
        filler.unlink()


@contextmanager
def limited(daemon: Daemon) -> Iterator[str]:
    """No file of the process may grow, or be written beyond its first bytes."""
    before = resource.prlimit(daemon.running.pid, resource.RLIMIT_FSIZE)
    resource.prlimit(daemon.running.pid, resource.RLIMIT_FSIZE, (16, before[1]))
    try:
        yield "database or disk is full|disk I/O error"
    finally:
        resource.prlimit(daemon.running.pid, resource.RLIMIT_FSIZE, before)


LOCKER = """
import sqlite3, sys
db = sqlite3.connect(sys.argv[1], isolation_level=None)
db.execute("BEGIN IMMEDIATE")
print("locked", flush=True)
sys.stdin.read()
"""


@contextmanager
def locked(daemon: Daemon) -> Iterator[str]:
    """Another SQLite program holds the right to write."""
    arguments = [sys.executable, "-c", LOCKER, str(daemon.state / "journal.sqlite")]
    with subprocess.Popen(
        ["nsenter", "--target", str(daemon.running.pid), "--mount", *arguments],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as locker:
        assert locker.stdout is not None
        assert locker.stdin is not None
        assert locker.stdout.readline() == b"locked\n"
        try:
            yield "database is locked"
        finally:
            locker.stdin.close()


def take_until(subscriber: Subscriber, *, topic: str, count: int = 1, **data: Any) -> list[Received]:
    """All messages up to the count-th whose topic begins so and whose data hold these values."""
    got: list[Received] = []
    while count:
        received = subscriber.receive(SECONDS)
        assert received is not None, f"{len(got)} messages, {count} of {topic} are missing"
        got.append(received)
        count -= received.topic.startswith(topic) and data.items() <= received.body["data"].items()
    return got


def test_a_full_disk_loses_nothing_while_it_lasts(daemon: Daemon, tmp_path: Path, port: int) -> None:
    archive = make_archive(tmp_path / "archive")
    with daemon.listen() as follower:
        before = take_until(follower, topic="status.seedlink.")
        with ExitStack() as stack:
            with full(daemon) as said, daemon.listen() as late:
                stack.enter_context(Running("serve", archive, "--bind", f"127.0.0.1:{port}", "--speed", "max"))
                state = daemon.until_health(503)
                assert (state["state"], state["stalled"], daemon.failing()) == ("journal", [], 1)
                assert re.search(said, state["reason"])
                replayed = take_until(late, topic="status.seedlink.")
                assert [m.raw for m in replayed] == [m.raw for m in before], "what is stored is replayed meanwhile"
                assert late.receive(0.3) is None
            after = take_until(follower, topic="detection.", count=DETECTIONS)
            assert daemon.until_health(200)["reason"] is None
    assert daemon.failing() == 0
    everything = [*before, *after]
    assert [m.seq for m in everything] == list(range(1, len(everything) + 1))
    said_once = {(m.body["id"], m.body["data"].get("final")) for m in everything}  # an early notice, then the last word
    assert len(said_once) == len(everything)


@pytest.mark.parametrize("fault", [limited, locked])
def test_other_faults_of_a_disk_that_pass(daemon: Daemon, fault: Any) -> None:
    with daemon.listen(None) as follower:
        follower.receive(0.3)
        with fault(daemon) as said:
            daemon.running.send(signal.SIGHUP)  # answered by a message: which model is served
            state = daemon.until_health(503)
            assert (state["state"], state["stalled"], daemon.failing()) == ("journal", [], 1)
            assert re.search(said, state["reason"])
        told = take_until(follower, topic="status.model.")[-1]
        assert told.body["data"]["state"] == "unchanged"
        daemon.until_health(200)
