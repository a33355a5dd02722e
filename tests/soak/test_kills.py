"""The daemon is killed at random moments, its subscriber stalled and killed: nothing is lost, nothing comes twice.

TSCC_SOAK_KILLS says how often (10 by default, which is what every change is tested with; 200 is what the project
promises), TSCC_SOAK_SEED which moments.
"""

from __future__ import annotations

import io
import json
import os
import random
import signal
import socket
import subprocess
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from in_time import PATIENCE_S
from made_site import Running, command, settings

from tscc_stream import classifier, config, miniseed, package
from tscc_stream.client import Received, Subscriber
from tscc_stream.edges.sqlite import JournalReader
from tscc_stream.messages import AnyArray
from tscc_stream.source_id import from_nslc
from tscc_stream.stages.journal import GapEntry

pytestmark = pytest.mark.soak

KILLS = int(os.environ.get("TSCC_SOAK_KILLS", "10"))
SEED = int(os.environ.get("TSCC_SOAK_SEED", "1"))
CHANNELS = tuple(f"XX.S{number:02}..HHZ" for number in range(6))
RATE_HZ = 100.0
START_NS = 1_700_000_000 * 10**9
START_SECONDS = 1.0
"""A start of the daemon, about; a program that is loaded already (`forked`)."""
SPEED = 10
WINDOW_NS = 12 * 10**9
RING_SECONDS = 450
"""Of data, or a third of it all: a restart that began at the oldest would not find everything any more, and most of a
minute in which nothing but starts succeeds loses nothing.
"""


def samples_of(number: int, seconds: int) -> AnyArray:
    """Noise, with bursts every eight seconds or so, a little later on every channel; none so late that only the end of
    the data would settle it, which is for files alone to know.
    """
    rng = np.random.default_rng(number)
    data = 300.0 * rng.standard_normal(int(seconds * RATE_HZ))
    t = np.arange(int(2 * RATE_HZ)) / RATE_HZ
    moments = np.cumsum(np.random.default_rng(99).uniform(5.0, 11.0, seconds // 5)) + 20.0
    for count, moment in enumerate(moments[moments < seconds - 20]):
        at = int((moment + 0.07 * number) * RATE_HZ)
        data[at : at + t.size] += 2e4 * (1 + count % 4) * np.exp(-4.0 * t) * np.sin(2 * np.pi * (11 + count % 7) * t)
    return np.round(data).astype(np.int32)


def write_archive(folder: Path, seconds: int, lost: Sequence[GapEntry] = ()) -> Path:
    """One file per channel, without the samples that a ledger says are lost."""
    folder.mkdir()
    for number, nslc in enumerate(CHANNELS):
        sid, samples = from_nslc(nslc), samples_of(number, seconds)
        missing = [entry for entry in lost if entry.sid == sid]
        with (folder / f"{nslc}.mseed").open("wb") as file:
            for first, part in _kept(samples, missing):
                start_ns = START_NS + round(first / RATE_HZ * 1e9)
                file.writelines(miniseed.encode(sid, start_ns, RATE_HZ, part))
    return folder


def _kept(samples: AnyArray, missing: Sequence[GapEntry]) -> Iterator[tuple[int, AnyArray]]:
    keep = np.ones(samples.size, dtype=bool)
    for entry in missing:
        assert entry.to_ns is not None
        first, last = (round((at_ns - START_NS) / 1e9 * RATE_HZ) for at_ns in (entry.from_ns, entry.to_ns))
        keep[first:last] = False
    edges = np.flatnonzero(np.diff(keep.astype(np.int8), prepend=0, append=0))
    for first, last in edges.reshape(-1, 2).tolist():
        yield first, samples[first:last]


def free_port() -> int:
    with socket.socket() as reserved:
        reserved.bind(("127.0.0.1", 0))
        return int(reserved.getsockname()[1])


class Site:
    """A replay server, a daemon and a subscriber, each a process that can be killed."""

    def __init__(self, folder: Path, archive: Path, ring_seconds: float, speed: object = SPEED) -> None:
        self.folder, self._archive, self._speed = folder, archive, speed
        folder.mkdir()
        port = free_port()
        self._ring_mib = ring_seconds / 1000 * len(CHANNELS) * RATE_HZ * 1.6e-3  # about 1.6 bytes a sample
        self._address = f"127.0.0.1:{port}"
        publish = {
            "bind": f"tcp://127.0.0.1:{free_port()}",
            "replay_bind": f"tcp://127.0.0.1:{free_port()}",
            "heartbeat_seconds": 0.2,
        }
        streams = [{"server": self._address, "streams": ["XX_*:HHZ"], "timeout_seconds": 2.0}]
        self.publish = publish
        network = {"min_channels": 3, "patience_seconds": 60.0}  # a busy machine silences no channel
        self.settings = settings(folder, seedlink=streams, publish=publish, network=network)
        self.path = folder / "site.yaml"
        self.path.write_text(json.dumps(self.settings))
        self.tail_lines = folder / "tail.jsonl"
        self.tail_lines.touch()

    def serve(self, archive: Path | None = None) -> Running:
        server = Running(
            "serve",
            archive or self._archive,
            *("--bind", self._address, "--speed", self._speed, "--ring-mib", f"{self._ring_mib:.3f}"),
        )
        server.wait_for("listening on")
        return server

    @contextmanager
    def daemon(self) -> Iterator[Running]:
        with Running("run", "--config", self.path) as running:
            yield running

    def tail(self) -> subprocess.Popen[bytes]:
        """Goes on after the last whole line of the one before."""
        whole = self.tail_lines.read_bytes().rpartition(b"\n")[0]
        self.tail_lines.write_bytes(whole + b"\n" if whole else b"")
        since = json.loads(whole.rpartition(b"\n")[2])["seq"] if whole else 0
        with self.tail_lines.open("ab") as out:
            return subprocess.Popen(
                command(
                    *("tail", "--connect", self.publish["bind"], "--replay", self.publish["replay_bind"]),
                    *("--since", since, "--jsonl"),
                ),
                stdout=out,
                stderr=subprocess.DEVNULL,
            )

    def state(self) -> JournalReader:
        return JournalReader(self.folder / "state" / "journal.sqlite")

    def gaps(self) -> list[GapEntry]:
        reader = self.state()
        try:
            return reader.gaps()
        finally:
            reader.close()

    def everything(self, detections: int, timeout: float = PATIENCE_S) -> list[Received]:
        """All messages from the first on, until so many detections are among them."""
        got: list[Received] = []
        deadline = time.monotonic() + timeout
        with Subscriber(self.publish["bind"], self.publish["replay_bind"], since=0) as subscriber:
            while sum(one.topic.startswith("detection.") for one in got) < detections:
                received = subscriber.receive(1.0)
                if received is not None:
                    got.append(received)
                assert time.monotonic() < deadline, f"{len(got)} messages, expected {detections} detections"
            while (received := subscriber.receive(3.0)) is not None:
                got.append(received)
        return got


Found = dict[str, tuple[int, list[float]]]
"""Uid of a detection: its cluster and memberships."""


def found_in(bodies: Sequence[dict[str, Any]]) -> Found:
    detections = [body for body in bodies if body["type"] == "tscc.detection.v1"]
    found = {body["id"]: (body["data"]["cluster"]["id"], body["data"]["cluster"]["membership"]) for body in detections}
    assert len(found) == len(detections), "a detection came twice"
    return found


def events_in(bodies: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Last words of network events."""
    events = [body for body in bodies if body["type"] == "tscc.network_event.v1" and body["data"]["final"]]
    return {body["id"]: (body["data"]["votes"], sorted(body["data"]["detections"])) for body in events}


def classified(archive: Path, known: dict[str, Any]) -> list[dict[str, Any]]:
    out = io.StringIO()
    classifier.classify([archive], config.parse(json.dumps(known)), package.find("models/demo"), "jsonl", out)
    return [json.loads(line) for line in out.getvalue().splitlines()]


def assert_same(found: Found, expected: Found) -> None:
    assert set(found) == set(expected), (
        f"{len(set(expected) - set(found))} lost, {len(set(found) - set(expected))} unexpected of {len(expected)}"
    )
    for uid, (cluster, membership) in expected.items():
        assert found[uid][0] == cluster
        assert np.allclose(found[uid][1], membership, rtol=0.0, atol=1e-5)


def kill(process: subprocess.Popen[bytes]) -> None:
    with suppress(ProcessLookupError):
        process.send_signal(signal.SIGCONT)
        process.kill()
    process.wait(PATIENCE_S)


def test_killed_at_random_moments_nothing_is_lost_and_nothing_comes_twice(tmp_path: Path) -> None:
    dice = random.Random(SEED)  # noqa: S311  # made-up data, no secret
    seconds = 150 + int(SPEED * KILLS * (START_SECONDS + 1.5))
    archive = write_archive(tmp_path / "archive", seconds)
    site = Site(tmp_path / "site", archive, max(RING_SECONDS, seconds // 3))
    expected = classified(archive, site.settings)
    assert len(found_in(expected)) > seconds / 3
    tail = site.tail()
    with site.serve():
        for _ in range(KILLS):
            with site.daemon() as running:
                if dice.random() < 0.8:
                    running.wait_for("ready: ")
                else:
                    time.sleep(dice.uniform(0.0, START_SECONDS))  # a moment, not a synchronisation
                tail = _trouble(site, tail, dice)
                time.sleep(dice.uniform(0.0, 2.0))
                running.stop(signal.SIGKILL)
        with site.daemon() as running:
            running.wait_for("going on from the snapshot")
            everything = site.everything(len(found_in(expected)), timeout=PATIENCE_S + seconds / SPEED)
            tailed = _wait_for_tail(site, everything[-1].seq)
            assert running.stop() == 0
    kill(tail)
    _check(everything, tailed, expected)
    assert site.gaps() == []


def _trouble(site: Site, tail: subprocess.Popen[bytes], dice: random.Random) -> subprocess.Popen[bytes]:
    """The subscriber stalls, goes on, or is killed and started again."""
    choice = dice.random()
    if choice < 0.3:
        tail.send_signal(signal.SIGSTOP)
    elif choice < 0.6:
        tail.send_signal(signal.SIGCONT)
    elif choice < 0.8:
        kill(tail)
        return site.tail()
    return tail


def _wait_for_tail(site: Site, seq: int) -> list[dict[str, Any]]:
    tail = site.tail()
    deadline = time.monotonic() + PATIENCE_S
    while True:
        lines = site.tail_lines.read_bytes().splitlines()
        bodies = [json.loads(line) for line in lines]
        if bodies and bodies[-1]["seq"] >= seq:
            kill(tail)
            return bodies
        assert time.monotonic() < deadline, f"the subscriber has {len(bodies)} messages, expected {seq}"
        time.sleep(0.2)


def _check(everything: list[Received], tailed: list[dict[str, Any]], expected: list[dict[str, Any]]) -> None:
    """In the journal and at the subscriber: the same as without interruption, numbered without holes."""
    bodies = [one.body for one in everything]
    assert [one.seq for one in everything] == list(range(1, len(everything) + 1))
    assert [body["seq"] for body in tailed][: len(everything)] == list(range(1, len(everything) + 1))
    assert len({one.epoch for one in everything}) == 1
    for got in (bodies, tailed):
        assert_same(found_in(got), found_in(expected))
        assert events_in(got) == events_in(expected)


def _until(subscriber: Subscriber, second: float) -> None:
    """A detection with an onset at or after a second of the archive has come."""
    deadline = time.monotonic() + PATIENCE_S
    while True:
        received = subscriber.receive(1.0)
        if received is not None and received.body["data"]["onset_ns"] >= START_NS + second * 1e9:
            return
        assert time.monotonic() < deadline, f"no detection at or after {second} s"


def test_what_is_lost_is_exactly_what_the_ledger_says(tmp_path: Path) -> None:
    """The server is killed and comes back without a stretch; its ring passes a daemon that is dead, then stalled."""
    seconds, speed, ring_seconds = 640, 30, 60
    archive = write_archive(tmp_path / "archive", seconds)
    sids = [from_nslc(nslc) for nslc in CHANNELS]
    late = [GapEntry(sid, START_NS, START_NS + 170 * 10**9, "server", 0) for sid in sids]
    without_beginning = write_archive(tmp_path / "late", seconds, late)
    site = Site(tmp_path / "site", archive, ring_seconds, speed)
    with site.daemon() as running:
        running.wait_for("ready: ")
        follow = Subscriber(site.publish["bind"], site.publish["replay_bind"], since=0, topic="detection.")
        with follow:
            with site.serve() as server:
                _until(follow, 90.0)
                server.stop(signal.SIGKILL)
            with site.serve(without_beginning):
                _until(follow, 250.0)
                running.stop(signal.SIGKILL)
                time.sleep(2.0 * ring_seconds / speed)  # until the ring has passed
                with site.daemon() as again:
                    again.wait_for("going on from the snapshot")
                    _until(follow, 480.0)
                    again.send(signal.SIGSTOP)
                    time.sleep(2.0 * ring_seconds / speed)
                    again.send(signal.SIGCONT)
                    _until(follow, seconds - 60.0)
                    everything = site.everything(1)
                    assert again.stop() == 0
    lost = site.gaps()
    assert {entry.cause for entry in lost} == {"ring overrun"}
    assert sorted(entry.sid for entry in lost) == sorted([*sids, *sids])
    bodies = [one.body for one in everything if one.topic.startswith("detection.")]
    left = found_in(classified(write_archive(tmp_path / "left", seconds, lost), site.settings))
    assert len(left) < len(found_in(classified(archive, site.settings)))
    before_the_kill = [body["id"] for body in bodies if body["id"] not in left]
    _within(before_the_kill, bodies, lost)
    assert_same(found_in([body for body in bodies if body["id"] in left]), left)


def _within(uids: Sequence[str], bodies: Sequence[dict[str, Any]], lost: Sequence[GapEntry]) -> None:
    """Published after the last snapshot before the kill: in the ledger, since a restart knows no better.

    A window that the snapshot still waited for begins at most its own length before what is in the ledger.
    """
    onset_of = {body["id"]: body["data"]["onset_ns"] for body in bodies}
    for uid in uids:
        assert any((entry.to_ns or 0) > onset_of[uid] >= entry.from_ns - WINDOW_NS for entry in lost), uid
