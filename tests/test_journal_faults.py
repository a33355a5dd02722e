"""A disk that is full, locked or limited under a daemon: it keeps what it received, says so, and goes on."""

from __future__ import annotations

import contextlib
import json
import os
import re
import resource
import shlex
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import urllib.error
import urllib.request
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from in_time import PATIENCE_S
from made_messages import mixed
from made_site import BURSTS_S, CHANNELS, Running, command, make_archive, write_settings
from prometheus_client import CollectorRegistry

from tscc_stream.client import Received, Subscriber
from tscc_stream.edges.sqlite import JournalError, JournalFile
from tscc_stream.health import Health
from tscc_stream.metrics import Metrics
from tscc_stream.patience import Patience
from tscc_stream.stages.journal import JournalBlockedError, JournalDamagedError

DETECTIONS = len(BURSTS_S) * len(CHANNELS)
UNSHARE = ("unshare", "--mount", "sh", "-c")


def _inside(mount: str) -> subprocess.CompletedProcess[bytes]:
    return subprocess.run([*UNSHARE, mount], check=False, capture_output=True)


def _own_file_system(folder: Path, state: Path) -> str:
    """How to mount a few MiB there: ext4 out of a file, or memory. Skips where this user may do neither."""
    if shutil.which("unshare") is None:
        pytest.skip("needs unshare(1)")
    image = folder / "image"
    image.write_bytes(b"\0" * 16 * 2**20)
    ways = [f"mount -t tmpfs -o size=4m none {state}"]
    if shutil.which("mkfs.ext4") and subprocess.run(["mkfs.ext4", "-q", "-F", image], check=False).returncode == 0:
        ways.insert(0, f"mount -t ext4 -o loop,errors=remount-ro {image} {state}")
    for way in ways:
        if _inside(way).returncode == 0:
            return way
    pytest.skip("needs the right to mount a file system (root)")


@dataclass
class Daemon:
    """A daemon whose state folder is a small file system of its own, which only it sees."""

    running: Running
    state: Path
    where: dict[str, Any]
    way: str

    def seen_by_it(self, name: str) -> Path:
        return Path(f"/proc/{self.running.pid}/root{self.state}") / name

    def health(self) -> tuple[int, dict[str, Any]]:
        try:
            with urllib.request.urlopen(f"http://{self.where['metrics']}/healthz", timeout=PATIENCE_S) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as error:
            with error:
                return error.code, json.load(error)

    def failing(self) -> float:
        with urllib.request.urlopen(f"http://{self.where['metrics']}/metrics", timeout=PATIENCE_S) as answer:
            [line] = [x for x in answer.read().decode().splitlines() if x.startswith("tscc_journal_failing ")]
        return float(line.split()[1])

    def until_health(self, status: int) -> dict[str, Any]:
        """What /healthz says once it has this status; a subscriber's time limit paces the asking."""
        with self.listen(None) as pace:
            for _ in range(int(PATIENCE_S / 0.2)):
                got, said = self.health()
                if got == status:
                    return said
                pace.receive(0.2)
        raise AssertionError(f"/healthz: {said}")

    def listen(self, since: int | None = 0) -> Subscriber:
        return Subscriber(self.where["publish"], self.where["replay"], since=since)


WITHOUT_MARK = """
import sys
from pathlib import Path
from tscc_stream.edges.sqlite import JournalFile
JournalFile(Path(sys.argv[1])).close()
Path(sys.argv[1] + '.mark').unlink()
"""
"""As a journal that was restored alone."""


@pytest.fixture(scope="module")
def port() -> int:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        return int(reserved.getsockname()[1])


@pytest.fixture(scope="module")
def daemon(tmp_path_factory: pytest.TempPathFactory, port: int) -> Iterator[Daemon]:
    folder = tmp_path_factory.mktemp("site")
    state = folder / "state"
    state.mkdir()
    way = _own_file_system(folder, state)
    path = write_settings(folder, f"127.0.0.1:{port}")
    script = f'{way} && {sys.executable} -c "{WITHOUT_MARK}" {state}/journal.sqlite && exec "$@"'
    with Running("run", "--config", path, inside=(*UNSHARE, script, "sh")) as running:
        running.wait_for("ready: ")
        made = Daemon(running, state, {}, way)
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
        received = subscriber.receive(PATIENCE_S)
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


def test_a_journal_that_may_be_a_copy_is_said_on_the_bus_and_in_the_log(daemon: Daemon) -> None:
    with daemon.listen() as everything:
        told = take_until(everything, topic="status.journal.")[-1]
    assert told.seq == 2, "after that the daemon has started"
    assert told.body["data"] == {"epoch": told.epoch, "reason": "its mark is missing or cannot be read"}
    daemon.running.wait_for(f"new epoch {told.epoch}: its mark is missing")


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


def test_a_file_system_that_turns_read_only_after_an_error(daemon: Daemon) -> None:
    """For good: the last test of this daemon, which is killed. Its journal is whole."""
    mounts = Path(f"/proc/{daemon.running.pid}/mounts").read_text().splitlines()
    [device] = [line.split()[0] for line in mounts if line.split()[1] == str(daemon.state)]
    trigger = Path("/sys/fs/ext4") / Path(device).name / "trigger_fs_error"
    if not trigger.exists():
        pytest.skip("needs ext4 on a loop device")
    trigger.write_text("1")
    daemon.running.send(signal.SIGHUP)
    state = daemon.until_health(503)
    assert (state["state"], state["stalled"]) == ("journal", [])
    assert re.search("disk I/O error|readonly database", state["reason"])
    with daemon.listen() as late:
        assert late.receive(PATIENCE_S).topic == "status.daemon.", "what is stored is replayed meanwhile"
    assert daemon.running.stop(signal.SIGKILL) == -signal.SIGKILL
    check = shlex.join(command("journal", "check", "--state-dir", daemon.state))
    ended = _inside(f"{daemon.way} && {check}")
    assert (ended.returncode, ended.stderr) == (0, b""), ended.stdout


def test_a_read_only_file_system_is_refused_at_start_in_one_sentence(tmp_path: Path) -> None:
    state = tmp_path / "state"
    state.mkdir()
    _own_file_system(tmp_path, state)
    with JournalFile(state / "journal.sqlite") as journal:
        journal.append(mixed(range(1, 10)))
    run = shlex.join(command("run", "--config", write_settings(tmp_path)))
    ended = _inside(f"mount --bind {state} {state} && mount -o remount,bind,ro {state} && {run}")
    [sentence] = [line for line in ended.stderr.decode().splitlines() if line.startswith("tscc-stream: ")]
    assert ended.returncode == 1
    assert sentence == (
        f"tscc-stream: journal {state / 'journal.sqlite'}: cannot open it for writing: Read-only file system"
    )


def test_a_file_that_may_not_be_written_is_refused_in_one_sentence() -> None:
    was = os.geteuid()
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "journal.sqlite"
        JournalFile(path).close()
        path.chmod(0o444)
        Path(folder).chmod(0o777)
        path.with_name("journal.sqlite.lock").chmod(0o666)
        if was == 0:
            os.seteuid(65534)  # the superuser may write everywhere
        try:
            with pytest.raises(JournalError, match="cannot open it for writing: attempt to write a readonly database"):
                JournalFile(path)
        finally:
            os.seteuid(was)


class _Waits(threading.Event):
    """Does not wait, and remembers how long it should have."""

    def __init__(self) -> None:
        super().__init__()
        self.seconds: list[float] = []

    def wait(self, timeout: float | None = None) -> bool:
        self.seconds.append(timeout or 0.0)
        return self.is_set()


def test_patience_waits_longer_each_time_up_to_five_seconds_and_tells_once(caplog: pytest.LogCaptureFixture) -> None:
    waits, shown = _Waits(), Health()
    patience = Patience("back", shown, Metrics(CollectorRegistry()), waits)
    answers: Iterator[int | Exception] = iter([JournalBlockedError("no room")] * 7 + [5])

    def write() -> int:
        answer = next(answers)
        if isinstance(answer, Exception):
            raise answer
        return answer

    assert patience.until_done(write) == 5
    assert waits.seconds == [0.2, 0.4, 0.8, 1.6, 3.2, 5.0, 5.0]
    assert [record.levelname for record in caplog.records] == ["ERROR", "WARNING"]
    assert shown.journal == ""


def test_patience_ends_when_nobody_waits_any_longer_and_with_what_does_not_pass() -> None:
    given_up = threading.Event()
    given_up.set()
    patience = Patience("back", Health(), Metrics(CollectorRegistry()), given_up)

    def fail(error: Exception) -> None:
        raise error

    with pytest.raises(JournalBlockedError):
        patience.until_done(lambda: fail(JournalBlockedError("no room")))
    with pytest.raises(JournalDamagedError):
        patience.until_done(lambda: fail(JournalDamagedError("rot")))
