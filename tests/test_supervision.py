"""What systemd is told, read from a real datagram socket."""

from __future__ import annotations

import logging
import os
import socket
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest
from in_time import PATIENCE_S

from tscc_stream.edges.supervision import Notifier, name_this_thread


@pytest.fixture(params=["path", "abstract"])
def supervisor(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[tuple[socket.socket, str]]:
    """A bound socket, and its address as NOTIFY_SOCKET says it."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as receiver:
        receiver.settimeout(PATIENCE_S)
        address = str(tmp_path / "notify") if request.param == "path" else f"@tscc-test-{os.getpid()}"
        receiver.bind(address.replace("@", "\0", 1) if request.param == "abstract" else address)
        yield receiver, address


def test_everything_that_is_said(supervisor: tuple[socket.socket, str]) -> None:
    receiver, address = supervisor
    notifier = Notifier.from_environment({"NOTIFY_SOCKET": address, "WATCHDOG_USEC": "1000000"})
    notifier.ready("running:\n 2 servers")
    notifier.status("draining\nREADY=1")
    notifier.watchdog(17.0)
    notifier.stopping()
    assert [receiver.recv(4096) for _ in range(4)] == [
        b"READY=1\nSTATUS=running: 2 servers",
        b"STATUS=draining READY=1",
        b"WATCHDOG=1",
        b"STOPPING=1",
    ]


def test_the_watchdog_is_fed_four_times_per_interval_however_often_we_turn(
    supervisor: tuple[socket.socket, str],
) -> None:
    receiver, address = supervisor
    notifier = Notifier(address, 2.0)
    for turn in range(100, 200):
        notifier.watchdog(turn / 25)
    notifier.stopping()
    fed = 0
    while receiver.recv(4096) != b"STOPPING=1":
        fed += 1
    assert fed == 8


def test_a_start_that_takes_longer_asks_for_time_again_and_again_but_not_at_every_turn(
    supervisor: tuple[socket.socket, str],
) -> None:
    receiver, address = supervisor
    notifier = Notifier(address)
    for turn in range(100):
        notifier.extend(100.0 + turn / 10, f"copying: {turn}")
    notifier.ready("running")
    assert [receiver.recv(4096) for _ in range(3)] == [
        b"EXTEND_TIMEOUT_USEC=300000000\nSTATUS=copying: 0",
        b"EXTEND_TIMEOUT_USEC=300000000\nSTATUS=copying: 50",
        b"READY=1\nSTATUS=running",
    ]


def test_a_supervisor_that_does_not_watch_is_not_fed(supervisor: tuple[socket.socket, str]) -> None:
    receiver, address = supervisor
    notifier = Notifier(address, None)
    notifier.watchdog(1.0)
    notifier.stopping()
    assert receiver.recv(4096) == b"STOPPING=1"


def test_a_thread_shows_its_name() -> None:
    shown = []

    def look() -> None:
        name_this_thread("seedlink 10.0.0.5:18000")
        shown.append(Path(f"/proc/self/task/{threading.get_native_id()}/comm").read_text())

    thread = threading.Thread(target=look)
    thread.start()
    thread.join()
    assert shown == ["seedlink 10.0.0\n"]


def test_without_a_supervisor_nothing_happens(caplog: pytest.LogCaptureFixture) -> None:
    for environment in ({}, {"NOTIFY_SOCKET": ""}):
        notifier = Notifier.from_environment(environment)
        notifier.ready("")
        notifier.watchdog(0.0)
        assert notifier.watchdog_seconds is None
    assert caplog.records == []


def test_a_supervisor_that_is_gone_is_logged_and_no_reason_to_stop(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    Notifier(str(tmp_path / "gone"), 1.0).watchdog(0.0)
    [record] = caplog.records
    assert record.levelno == logging.WARNING
    assert "cannot notify the supervisor" in record.getMessage()


@pytest.mark.parametrize(
    ("environment", "seconds"),
    [
        ({"WATCHDOG_USEC": "60000000"}, 60.0),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "17"}, 0.5),
        ({"WATCHDOG_USEC": "500000", "WATCHDOG_PID": "18"}, None),
        ({"WATCHDOG_USEC": "0"}, None),
        ({"WATCHDOG_USEC": "soon"}, None),
        ({"WATCHDOG_USEC": "²"}, None),
        ({"WATCHDOG_PID": "17"}, None),
    ],
)
def test_watchdog_interval(environment: dict[str, str], seconds: float | None) -> None:
    assert Notifier.from_environment(environment, pid=17).watchdog_seconds == seconds
