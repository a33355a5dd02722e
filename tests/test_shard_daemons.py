"""Two daemons that share the stations of one server, beside one that serves all: real processes, real sockets."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pytest
from in_time import PATIENCE_S
from made_site import (
    BURSTS_S,
    CHANNELS,
    RATE_HZ,
    SECONDS,
    START_NS,
    Running,
    finished,
    make_archive,
    samples_of,
    serving,
    write_settings,
)
from test_daemon import DETECTIONS, get, listen, take
from test_support import parts_of

from tscc_stream import miniseed
from tscc_stream.cli import main
from tscc_stream.client import Received
from tscc_stream.edges.sqlite import JournalFile, JournalReader
from tscc_stream.shard import Shard, station_of
from tscc_stream.source_id import from_nslc


class Site(NamedTuple):
    """whole: where the daemon of all stations listens; shards: where each shard does. state: their folder."""

    whole: dict[str, Any]
    shards: list[dict[str, Any]]
    path: Path
    state: Path


def started(running: Running, state: Path) -> dict[str, Any]:
    running.wait_for(r"ready: ")
    where: dict[str, Any] = json.loads((state / "endpoints.json").read_text())
    return where


@pytest.fixture(scope="module")
def site(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Site]:
    folder = tmp_path_factory.mktemp("site")
    server, address = serving(make_archive(folder / "archive"), "--speed", "max")
    with ExitStack() as stack:
        stack.enter_context(server)
        whole, shards = folder / "whole", folder / "shards"
        whole.mkdir()
        shards.mkdir()
        path = write_settings(shards, address, shard={"count": 2})
        running = [stack.enter_context(Running("run", "--config", write_settings(whole, address)))]
        running += [stack.enter_context(Running("run", "--config", path, "--shard", index)) for index in (1, 2)]
        folders = [whole / "state", shards / "state/shard-1", shards / "state/shard-2"]
        one, *others = [started(*both) for both in zip(running, folders, strict=True)]
        yield Site(one, others, path, shards / "state")


def detections(where: dict[str, Any], count: int) -> list[Received]:
    with listen(where, "detection.") as subscriber:
        return take(subscriber, count)


def own_channels(index: int) -> list[str]:
    return [nslc for nslc in CHANNELS if Shard(index, 2).holds(nslc.split("..")[0].replace(".", "_"))]


def test_together_they_find_what_one_daemon_finds_and_nothing_twice(site: Site) -> None:
    per_channel = DETECTIONS // len(CHANNELS)
    whole = {one.body["id"]: one.body["data"] for one in detections(site.whole, DETECTIONS)}
    found: dict[str, Any] = {}
    for index, where in enumerate(site.shards, 1):
        mine = detections(where, per_channel * len(own_channels(index)))
        assert {station_of(one.body["subject"]) for one in mine} == {
            name.split("..")[0].replace(".", "_") for name in own_channels(index)
        }
        assert found.keys().isdisjoint(one.body["id"] for one in mine)
        found |= {one.body["id"]: one.body["data"] for one in mine}
    assert found.keys() == whole.keys()
    for uid, data in whole.items():
        same = {key: value for key, value in data.items() if key != "cluster"}
        assert {key: value for key, value in found[uid].items() if key != "cluster"} == same
        assert found[uid]["cluster"]["id"] == data["cluster"]["id"]
        assert found[uid]["cluster"]["membership"] == pytest.approx(data["cluster"]["membership"], abs=1e-6)


def test_metrics_health_and_messages_are_of_the_shards_stations_alone(site: Site) -> None:
    records = 0.0
    for index, where in enumerate(site.shards, 1):
        detections(where, len(own_channels(index)))
        text = get(where, "/metrics")
        assert f'tscc_shard_info{{count="2",index="{index}"}} 1.0' in text
        told = {line.split('"')[1] for line in text.splitlines() if line.startswith("tscc_samples_total{")}
        assert {station_of(sid) for sid in told} == {
            name.split("..")[0].replace(".", "_") for name in own_channels(index)
        }
        left = [line for line in text.splitlines() if line.startswith("tscc_records_of_other_shards_total{")]
        records += float(left[0].split()[1])
        assert "tscc_gaps_total{" not in text
        assert json.loads(get(where, "/healthz"))["state"] == "ok"
        with listen(where, "status.daemon.") as subscriber:
            (said,) = take(subscriber, 1)
        assert said.body["data"]["shard"] == f"{index}/2"
    assert records > 0
    assert 'tscc_shard_info{count="1",index="1"} 1.0' in get(site.whole, "/metrics")


def test_a_support_bundle_has_what_each_shard_says(site: Site, tmp_path: Path) -> None:
    done = finished("support-bundle", "--config", site.path, "--out", tmp_path / "support.tar.gz", "--log", os.devnull)
    assert done.returncode == 0, done.stderr
    parts = parts_of(tmp_path / "support.tar.gz")
    for index in (1, 2):
        assert f'tscc_shard_info{{count="2",index="{index}"}} 1.0' in parts[f"shard-{index}/metrics.txt"]
        assert json.loads(parts[f"shard-{index}/healthz.json"])["state"] == "ok"
        assert json.loads(parts[f"shard-{index}/journal.json"])["head"] > 0
        assert f"shard-{index}/gaps.jsonl" in parts


def sources(site: Site) -> list[str]:
    pairs = [f"shard{index}={where['publish']},{where['replay']}" for index, where in enumerate(site.shards, 1)]
    return [word for pair in pairs for word in ("--source", pair)]


def test_tail_prints_both_merged_in_time_and_says_whose_each_line_is(site: Site) -> None:
    told = ["tail", *sources(site), "--since", 0, "--topic", "detection.", "--count", DETECTIONS]
    shown = finished(*told, "--jsonl")
    assert shown.returncode == 0, shown.stderr
    bodies = [json.loads(line) for line in shown.stdout.splitlines()]
    assert len({body["id"] for body in bodies}) == DETECTIONS
    queues = {name: [body for body in bodies if body["publisher"] == name] for name in ("shard1", "shard2")}
    for index, mine in enumerate(queues.values(), 1):
        assert [body["seq"] for body in mine] == sorted(body["seq"] for body in mine)
        assert {body["subject"] for body in mine} == {from_nslc(nslc) for nslc in own_channels(index)}
    for body in bodies:
        first = min((queue for queue in queues.values() if queue), key=lambda queue: queue[0]["data"]["onset_ns"])
        assert body == first.pop(0), "the earlier of what both have next"
    lines = finished(*told).stdout.splitlines()
    assert [line.split()[0] for line in lines] == [body["publisher"] for body in bodies]


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["--connect", "tcp://127.0.0.1:1"], "expected --connect and --replay, or --source"),
        (["--source", "a=tcp://127.0.0.1:1"], "--source a=tcp://127.0.0.1:1: expected NAME=tcp://HOST:PORT,tcp://HOST"),
        (["--source", "a=b,c", "--connect", "d"], "expected no --connect, --replay or --server-key beside --source"),
    ],
)
def test_what_tail_cannot_follow_is_one_sentence(
    arguments: list[str], words: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["tail", *arguments]) == 2
    assert words in capsys.readouterr().err


def heard_until(where: dict[str, Any]) -> float:
    """Up to when (s) both channels of shard 1 have come, 0 before."""
    lines = [line for line in get(where, "/metrics").splitlines() if line.startswith("tscc_last_sample_timestamp_s")]
    return min((float(line.split()[1]) for line in lines), default=0.0) if len(lines) == len(own_channels(1)) else 0.0


def test_a_dead_shards_stations_come_whole_to_those_that_take_them_over(site: Site, tmp_path: Path) -> None:
    """Shard 2 never ran. What its stations sent lies farther back in the ring than a restart goes for a warm-up."""
    expected = {one.body["id"] for one in detections(site.whole, DETECTIONS)}
    archive = make_archive(tmp_path / "archive")
    rng = np.random.default_rng(9)
    for number, nslc in enumerate(CHANNELS):
        later = np.round(30.0 * rng.standard_normal(int(900 * RATE_HZ))).astype(np.int32)
        samples = np.concatenate((samples_of(number), later))
        records = miniseed.encode(from_nslc(nslc), START_NS, RATE_HZ, samples)
        (archive / f"{nslc}.mseed").write_bytes(b"".join(records))
    server, address = serving(archive, "--speed", "max")
    state = tmp_path / "state/shard-1"
    with server:
        with Running("run", "--config", write_settings(tmp_path, address, shard={"count": 2}), "--shard", 1) as one:
            where = started(one, state)
            deadline = time.monotonic() + PATIENCE_S
            while heard_until(where) < START_NS / 1e9 + SECONDS + 890:
                assert time.monotonic() < deadline
            assert one.stop() == 0
        with Running("run", "--config", write_settings(tmp_path, address, shard={"count": 1}), "--shard", 1) as one:
            where = started(one, state)
            found: set[str] = set()
            with listen(where, "detection.") as subscriber:
                while not expected <= found:
                    found |= {received.body["id"] for received in take(subscriber, 1)}
            others = len(CHANNELS) - len(own_channels(1))
            one.wait_for(f"stations new to this shard, from the oldest data of the server's ring: {others}")


def finals(where: dict[str, Any], count: int) -> dict[str, dict[str, Any]]:
    """Last words by uid, as soon as there are so many."""
    found: dict[str, dict[str, Any]] = {}
    with listen(where, "network.") as subscriber:
        while len(found) < count:
            (received,) = take(subscriber, 1)
            if received.body["data"]["final"]:
                found[received.body["id"]] = received.body["data"]
    return found


def test_network_events_over_both_are_those_of_one_daemon_also_after_a_kill(site: Site, tmp_path: Path) -> None:
    """Each shard alone has too few channels for any."""
    expected = finals(site.whole, len(BURSTS_S))
    publishers = [
        {"name": f"shard{index}", "connect": where["publish"], "replay": where["replay"], "metrics": where["metrics"]}
        for index, where in enumerate(site.shards, 1)
    ]
    over = {"coincide": {"sources": publishers, "early_seconds": 2.0, "settle_seconds": 4.0}, "seedlink": []}
    path, state = write_settings(tmp_path, **over), tmp_path / "state"
    with Running("coincide", "--config", path) as running:
        where = started(running, state)
        assert finals(where, len(BURSTS_S)) == expected
        assert all(data["channels"] and len(data["detections"]) == len(data["channels"]) for data in expected.values())
        assert 'tscc_coincide_source_heard{source="shard1"} 1.0' in get(where, "/metrics")
        assert json.loads(get(where, "/healthz"))["servers"] == {"shard1": "connected", "shard2": "connected"}
        running.stop(signal.SIGKILL)
    with Running("coincide", "--config", path) as running:
        where = started(running, state)
        assert running.stop() == 0
    with JournalFile(state / "journal.sqlite") as journal:
        assert journal.duplicates == 0
        reader = JournalReader(journal.path)
        stored = reader.since(0, "network.").messages
        reader.close()
    assert sorted(one.message.uid for one in stored if one.message.final) == sorted(expected)


def test_a_disk_that_takes_no_removal_does_not_end_coincide(tmp_path: Path) -> None:
    begin = """
from tscc_stream.edges.sqlite import JournalFile
from tscc_stream.stages.journal import JournalBlockedError
def full(*_):
    raise JournalBlockedError("cannot remove old messages: disk is full")
JournalFile.trim = full
"""
    nobody = {"name": "one", "connect": "tcp://127.0.0.1:9", "replay": "tcp://127.0.0.1:9"}
    path = write_settings(tmp_path, coincide={"sources": [nobody]})
    with Running("coincide", "--config", path, begin=begin) as running:
        running.wait_for("cannot remove old messages")
        running.wait_for("ready: ")
        assert running.stop() == 0


def test_what_coincide_needs_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["coincide", "--config", str(write_settings(tmp_path, network=None))]) == 2
    said = capsys.readouterr().err
    assert "coincide.sources: none is given" in said
    assert "network: not given" in said
