"""Subscribers in processes of their own, killed and stopped at random moments: nothing is missed."""

from __future__ import annotations

import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from itertools import pairwise
from pathlib import Path

import pytest
import zmq
from in_time import PATIENCE_S

from tscc_stream.bus.position import PositionFile
from tscc_stream.config import PublishConfig
from tscc_stream.edges.sqlite import JournalFile, JournalReader
from tscc_stream.edges.zeromq import Bus
from tscc_stream.messages import Message, NetworkEvent
from tscc_stream.stages.publish import ModelIdentity, Publish, iso_time

ANY = "tcp://127.0.0.1:0"
HERE = Path(__file__).parent
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(HERE.parent)}
MESSAGES = int(os.environ.get("TSCC_SOAK_MESSAGES", "20000"))

FOLLOWS = """
import os
from tscc_stream.client import Subscriber

log = os.open({log!r}, os.O_WRONLY | os.O_APPEND | os.O_CREAT)
with Subscriber({bind!r}, {replay!r}, since=0, position={position!r}, receive_queue=1000) as messages:
    for message in messages:
        os.write(log, b"%d\\n" % message.seq)
"""


class Script:
    """A program of a user, started again whenever it was killed."""

    def __init__(self, text: str) -> None:
        self._text = text
        self.start()

    def start(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-P", "-c", self._text], env=ENVIRONMENT, stderr=subprocess.PIPE, text=True
        )

    def kill(self) -> str:
        """What it said on stderr."""
        if self.process.returncode is not None:
            return ""
        self.process.send_signal(signal.SIGKILL)
        return self.process.communicate()[1]


@contextmanager
def running(text: str) -> Iterator[Script]:
    script = Script(text)
    try:
        yield script
    finally:
        script.kill()


def wait_until(condition: Callable[[], bool], script: Script, seconds: float = PATIENCE_S) -> None:
    end = time.monotonic() + seconds
    while not condition():
        assert script.process.poll() is None, script.kill()
        assert time.monotonic() < end, "it did not come about in time"
        threading.Event().wait(0.002)


def lines(path: Path) -> list[str]:
    return path.read_text().splitlines() if path.exists() else []


def event(number: int) -> NetworkEvent:
    onset_ns = number * 1_000_000_000
    return NetworkEvent(
        f"n-{number}", onset_ns, 1.0, ("a", "b", "c"), (), {"seismic event": 3}, 0, "seismic event", True
    )


def alarm_script(bus: Bus, position: Path, alarms: Path) -> str:
    """The one that README shows, with this bus's addresses and an alarm that leaves a line behind."""
    [text] = re.findall(r"```python\n(.*?)```", (HERE.parent / "README.md").read_text(), re.DOTALL)
    for old, new in (
        ('"tcp://127.0.0.1:5556"', repr(bus.endpoint)),
        ('"tcp://127.0.0.1:5557"', repr(bus.replay_endpoint)),
        ('"/var/lib/alarm/position"', repr(str(position))),
        ('"raise-alarm"', f'"sh", "-c", "echo $0 >> {alarms}"'),
    ):
        assert old in text
        text = text.replace(old, new)
    assert len(text.strip().splitlines()) <= 11
    return text


def test_the_alarm_of_the_readme_misses_nothing_and_repeats_one_message_at_most(tmp_path: Path) -> None:
    chance = random.Random(7)  # noqa: S311  # reproducible moments, no secret
    publish, alarms, position = Publish("demo", ModelIdentity("demo", "1", "ab")), tmp_path / "alarms", tmp_path / "p"
    reader_path, total, kills = tmp_path / "journal.sqlite", 150, 0
    with JournalFile(reader_path) as journal:
        reader = JournalReader(reader_path)
        bus = Bus(PublishConfig(bind=ANY, replay_bind=ANY, heartbeat_seconds=0.05), "demo", reader)
        bus.start()
        with running(alarm_script(bus, position, alarms)) as script:
            wait_until(lambda: position.exists() and position.stat().st_size > 0, script)
            for number in range(1, total + 1):
                bus.publish(journal.append([publish.network_event(event(number))]))
                if chance.random() < 0.05:
                    due = number - chance.randrange(20)
                    wait_until(lambda due=due: len(lines(alarms)) >= due, script)
                    script.kill()
                    kills += 1
                    script.start()
            wait_until(lambda: lines(alarms)[-1:] == [iso_time(total * 1_000_000_000)], script)
        bus.stop()
        reader.close()
    raised = lines(alarms)
    assert kills >= 4
    assert sorted(set(raised)) == [iso_time(number * 1_000_000_000) for number in range(1, total + 1)]
    assert len(raised) - len(set(raised)) <= kills


class Daemon:
    """Journal and bus in a process of their own, which publishes so many messages."""

    def __init__(self, journal: Path, until: int) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "bus_process.py"), str(journal), ANY, ANY, str(until)],
            stdout=subprocess.PIPE,
            env=ENVIRONMENT,
        )
        assert self.process.stdout is not None
        self.bind, self.replay = self.process.stdout.readline().decode().split()

    def head(self) -> int:
        with zmq.Context() as context, context.socket(zmq.REQ) as socket:
            socket.setsockopt(zmq.RCVTIMEO, round(1000 * PATIENCE_S))
            socket.setsockopt(zmq.LINGER, 0)
            socket.connect(self.replay)
            socket.send(b"{}")
            return int(json.loads(socket.recv())["head"])

    def peak_mib(self) -> float:
        """The most memory that it ever held."""
        status = Path(f"/proc/{self.process.pid}/status").read_text()
        [kib] = re.findall(r"^VmHWM:\s+(\d+) kB$", status, re.MULTILINE)
        return int(kib) / 1024

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


@pytest.mark.soak
def test_no_message_is_missed_through_kills_and_stalls(tmp_path: Path) -> None:
    """A subscriber killed (SIGKILL) and stalled (SIGSTOP) by turns, while another process publishes without pause.

    Prints its figures (`pytest -s`).
    """
    chance = random.Random(11)  # noqa: S311  # reproducible moments, no secret
    patience, begin = PATIENCE_S + MESSAGES / 500, time.monotonic()
    log, position = tmp_path / "log", tmp_path / "position"
    daemon = Daemon(tmp_path / "journal.sqlite", MESSAGES)
    moments = sorted(chance.sample(range(1, MESSAGES), min(40, 6 + MESSAGES // 50_000)))
    script_text = FOLLOWS.format(log=str(log), bind=daemon.bind, replay=daemon.replay, position=str(position))
    kills = 0
    try:
        with running(script_text) as script:
            counted = Counted(log)
            for turn, moment in enumerate(moments):
                wait_until(lambda due=moment: counted.lines() >= due, script, patience)
                if turn % 2:
                    stall(script, daemon)
                else:
                    script.kill()
                    script.start()
                    kills += 1
            wait_until(lambda: counted.last() == MESSAGES, script, patience)
        seconds, peak_mib = time.monotonic() - begin, daemon.peak_mib()
    finally:
        daemon.kill()
    steps = [0, *map(int, lines(log))]
    assert steps[-1] == MESSAGES
    assert {after - before for before, after in pairwise(steps)} <= {0, 1}, "in order, none missed"
    assert len(steps) - 1 - MESSAGES <= kills, "each kill repeats one message at most"
    repeated = len(steps) - 1 - MESSAGES
    stalls = len(moments) - kills
    sys.stdout.write(
        f"{MESSAGES} messages, {kills} kills, {stalls} stalls: 0 missed, {repeated} repeated, {seconds:.1f} s, "
        f"publisher's peak {peak_mib:.1f} MiB\n"
    )


class Counted:
    """A file that grows, of which only what is new is read."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read = self._lines = 0
        self._last = b""

    def lines(self) -> int:
        if self._path.exists():
            with self._path.open("rb") as file:
                file.seek(self._read)
                new = file.read()
            new = new[: new.rfind(b"\n") + 1]
            self._read += len(new)
            self._lines += new.count(b"\n")
            self._last = new.splitlines()[-1] if new else self._last
        return self._lines

    def last(self) -> int:
        self.lines()
        return int(self._last or b"0")


def stall(script: Script, daemon: Daemon) -> None:
    """Stopped until the publisher has gone on by some thousand messages, or has nothing more."""
    script.process.send_signal(signal.SIGSTOP)
    ahead = min(daemon.head() + 3_000, MESSAGES)
    wait_until(lambda: daemon.head() >= ahead, script)
    script.process.send_signal(signal.SIGCONT)


def test_a_script_whose_place_is_damaged_starts_again_and_says_so(tmp_path: Path) -> None:
    path = tmp_path / "journal.sqlite"
    log, position = tmp_path / "log", tmp_path / "position"
    with JournalFile(path) as journal:
        reader = JournalReader(path)
        bus = Bus(PublishConfig(bind=ANY, replay_bind=ANY), "demo", reader)
        bus.start()
        bus.publish(journal.append([Message(f"s-{n}", "status", "status.a.", b"{}", n) for n in range(1, 11)]))
        position.write_bytes(b"\0" * 600)
        text = FOLLOWS.format(log=str(log), bind=bus.endpoint, replay=bus.replay_endpoint, position=str(position))
        with running(text) as script:
            wait_until(lambda: len(lines(log)) == 10, script)
            second = subprocess.run(
                [sys.executable, "-P", "-c", text], env=ENVIRONMENT, capture_output=True, text=True, check=False
            )
            said = script.kill()
        bus.stop()
        reader.close()
    assert lines(log) == [str(n) for n in range(1, 11)]
    assert said == f"position {position}: is damaged (kept as position.damaged): starting as if there were none\n"
    assert second.stderr.endswith(f"SubscriberError: position {position}: another subscriber uses it\n")
    assert PositionFile(position).start is not None
