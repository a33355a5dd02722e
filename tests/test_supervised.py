"""What a supervisor hears from a real daemon: when it is ready, that it lives, that a thread is stuck, that it ends."""

from __future__ import annotations

import ctypes
import json
import os
import socket
import time
import urllib.error
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest
from in_time import PATIENCE_S
from made_site import Running, make_archive, serving, write_settings

from tscc_stream.client import Subscriber

INTERVAL_S = 4.0


@dataclass
class Supervisor:
    """The datagrams of one daemon, in order."""

    receiver: socket.socket

    def hear(self, seconds: float = PATIENCE_S) -> dict[str, str]:
        """The next datagram; empty where none comes for so long."""
        self.receiver.settimeout(seconds)
        try:
            text = self.receiver.recv(4096).decode()
        except TimeoutError:
            return {}
        return dict(line.split("=", 1) for line in text.splitlines())

    def until(self, name: str, word: str) -> None:
        """Read until a datagram says so."""
        deadline = time.monotonic() + PATIENCE_S
        while word not in (heard := self.hear(deadline - time.monotonic())).get(name, ""):
            assert heard, f"no {name} with {word!r}"


@dataclass
class Supervised:
    daemon: Running
    supervisor: Supervisor
    state: Path

    @property
    def where(self) -> dict[str, Any]:
        return dict(json.loads((self.state / "endpoints.json").read_text()))

    def health(self) -> tuple[int, dict[str, Any]]:
        """Status and text of /healthz; the status is 0 where nobody answers."""
        try:
            with urllib.request.urlopen(f"http://{self.where['metrics']}/healthz", timeout=PATIENCE_S) as answer:
                return answer.status, json.load(answer)
        except urllib.error.HTTPError as refusal:
            return refusal.code, json.load(refusal)
        except OSError:
            return 0, {}


@pytest.fixture(scope="module")
def supervised(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Supervised]:
    """The tests below use it in their order: started, working, stuck, ended."""
    folder = tmp_path_factory.mktemp("supervised")
    seedlink, address = serving(make_archive(folder / "archive"), "--speed", 20)
    with seedlink, socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver, pytest.MonkeyPatch.context() as patch:
        receiver.bind(str(folder / "notify"))
        patch.setenv("NOTIFY_SOCKET", str(folder / "notify"))
        patch.setenv("WATCHDOG_USEC", str(int(INTERVAL_S * 1e6)))
        with Running("run", "--config", write_settings(folder, address), fresh=True) as daemon:
            yield Supervised(daemon, Supervisor(receiver), folder / "state")


def test_it_is_ready_only_once_it_serves(supervised: Supervised) -> None:
    first = supervised.supervisor.hear()
    assert first["READY"] == "1"
    assert first["STATUS"].startswith("running: 127.0.0.1:")
    assert supervised.health()[0] == 200
    where = supervised.where
    with Subscriber(where["publish"], where["replay"], since=0) as everything:
        assert everything.receive(PATIENCE_S) is not None


def test_it_says_twice_per_interval_that_it_lives(supervised: Supervised) -> None:
    heard_at = []
    while len(heard_at) < 4:
        if supervised.supervisor.hear() == {"WATCHDOG": "1"}:
            heard_at.append(time.monotonic())
    gaps = [later - earlier for earlier, later in pairwise(heard_at)]
    assert max(gaps) <= INTERVAL_S / 2


def test_it_says_so_no_longer_while_one_thread_is_stuck(supervised: Supervised) -> None:
    """The thread `front` is stopped from outside, with ptrace; all others, main and http too, go on."""
    supervisor = supervised.supervisor
    with stopped_thread(supervised, "front"):
        supervisor.until("STATUS", "stuck threads: front")
        status, health = supervised.health()
        assert (status, health["state"], health["stalled"]) == (503, "stalled", ["front"])
        assert supervisor.hear(INTERVAL_S) == {}
    supervisor.until("STATUS", "stuck threads: none")
    supervisor.until("WATCHDOG", "1")
    assert supervised.health()[0] == 200


def test_it_says_that_it_ends(supervised: Supervised) -> None:
    assert supervised.daemon.stop() == 0
    supervised.supervisor.until("STOPPING", "1")
    assert supervised.supervisor.hear(0.01) == {}


@contextmanager
def stopped_thread(supervised: Supervised, name: str) -> Iterator[None]:
    """One thread of a daemon stands still. It must not hold the interpreter's lock: then another moment is tried."""
    pid = supervised.where["pid"]
    tasks = [task for task in Path(f"/proc/{pid}/task").iterdir() if (task / "comm").read_text().strip() == name]
    (thread,) = (int(task.name) for task in tasks)
    for _ in range(10):
        resume = _stop(thread)
        if supervised.health()[0]:
            break
        resume()
    else:
        raise AssertionError(f"{name} was never caught without the interpreter's lock")
    try:
        yield
    finally:
        resume()


_SEIZE, _INTERRUPT, _DETACH, _ANY_THREAD = 0x4206, 0x4207, 17, 0x40000000


def _stop(thread: int) -> Callable[[], None]:
    """Stop one thread of a child process; what is returned lets it go on. See ptrace(2)."""
    ptrace = ctypes.CDLL(None, use_errno=True).ptrace
    ptrace.argtypes = [ctypes.c_long, ctypes.c_long, ctypes.c_void_p, ctypes.c_void_p]
    ptrace.restype = ctypes.c_long
    if ptrace(_SEIZE, thread, None, None) != 0:
        pytest.skip(f"this machine lets nobody stop a thread of a child: {os.strerror(ctypes.get_errno())}")
    assert ptrace(_INTERRUPT, thread, None, None) == 0
    os.waitpid(thread, _ANY_THREAD)

    def resume() -> None:
        ptrace(_DETACH, thread, None, None)

    return resume
