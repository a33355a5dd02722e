"""Silence of a real daemon: its disk is full, its server goes, it is killed; each is told, and the ends too."""

from __future__ import annotations

import json
import resource
import signal
from collections.abc import Iterator
from pathlib import Path

import pytest
from made_alerts import Receivers, alerting, until
from made_site import CHANNELS, RATE_HZ, START_NS, make_archive, samples_of, serving, write_settings
from test_daemon import daemon, get, listen
from test_daemon import until as message

from tscc_stream import miniseed
from tscc_stream.source_id import from_nslc

WATCHES = [
    {"name": name, "kind": name, "after_seconds": 1.0, "cooldown_seconds": 0.0}
    for name in ("journal", "data", "daemon")
]


@pytest.fixture
def receivers(tmp_path: Path) -> Iterator[Receivers]:
    with Receivers(tmp_path) as both:
        yield both


def test_a_full_disk_a_server_that_goes_and_a_daemon_that_is_killed(tmp_path: Path, receivers: Receivers) -> None:
    def told(kind: str, words: str) -> bool:
        documents = [one["document"] for one in receivers.got("webhook")]
        return any(one["kind"] == kind and words in one["title"] for one in documents)

    server, address = serving(make_archive(tmp_path / "archive"), "--speed", "10", "--loop")
    actions = {"webhooks": receivers.actions()["webhooks"]}
    path = write_settings(tmp_path, address, alerts={"watches": WATCHES, **actions})
    with server, daemon(path) as (running, _), alerting(path) as alert:
        limit = resource.prlimit(running.pid, resource.RLIMIT_FSIZE)
        resource.prlimit(running.pid, resource.RLIMIT_FSIZE, (16, limit[1]))
        until(lambda: told("silence", "the journal cannot be written"), "the full disk")
        resource.prlimit(running.pid, resource.RLIMIT_FSIZE, limit)
        until(lambda: told("over", "journal"), "its end")
        assert not told("silence", "daemon"), "a daemon with a full disk is alive"
        server.stop()
        until(lambda: told("silence", f"{address}: not connected"), "the server")
        running.stop(signal.SIGKILL)
        until(lambda: told("silence", "nothing heard from the daemon"), "the daemon")
        assert receivers.got("webhook")[-1]["document"]["sensor_health"]["text"].startswith("4 of 4 blind")
        with daemon(path):
            until(lambda: told("over", "daemon"), "its return")
        assert alert.stop() == 0


def test_a_dead_sensor_is_missed_over_restarts_until_it_is_asked_for_no_longer(tmp_path: Path) -> None:
    archive, dead = make_archive(tmp_path / "archive"), from_nslc(CHANNELS[3])
    records = miniseed.encode(dead, START_NS, RATE_HZ, samples_of(3)[:1000])
    (archive / f"{CHANNELS[3]}.mseed").write_bytes(b"".join(records))
    server, address = serving(archive, "--speed", "5", "--wait-for-client")
    site = {"server": address, "stale_seconds": 2.0}
    path = write_settings(tmp_path, seedlink=[{**site, "streams": ["XX_*:HHZ"]}])
    with server:
        with daemon(path) as (running, where), listen(where, "status.") as status:
            message(status, "status.data.", sid=dead, state="SILENT")
            running.stop()
        with daemon(path) as (running, where), listen(where, "status.") as status:
            message(status, "status.daemon.", state="stopping")
            message(status, "status.daemon.", state="started")
            message(status, "status.data.", sid=dead, state="SILENT")
            assert dead in json.loads(get(where, "/healthz"))["silent"]
            running.stop(signal.SIGKILL)
        with daemon(path) as (_, where), listen(where, "status.") as status:
            for _ in range(2):
                message(status, "status.daemon.", state="started")
            message(status, "status.daemon.", state="started")
            message(status, "status.data.", sid=dead, state="SILENT")
        streams = [f"{name.replace('.', '_', 1).partition('.')[0]}:HHZ" for name in CHANNELS[:3]]
        path = write_settings(tmp_path, seedlink=[{**site, "streams": streams}])
        with daemon(path) as (_, where):
            assert json.loads(get(where, "/healthz"))["silent"] == {}
