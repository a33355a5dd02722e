"""`bench latency` and `bench memory`: what the load is, that a real daemon tells all of it, how figures come about."""

from __future__ import annotations

import itertools
import struct
from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from tscc_stream import miniseed
from tscc_stream.bench import latency, live, memory
from tscc_stream.bench.latency import LatencyError, latencies_ms
from tscc_stream.bench.live import Detection, LiveError, Watched
from tscc_stream.bench.load import SAMPLES, Frames, Scene
from tscc_stream.bench.measure import FIELD
from tscc_stream.messages import Record

T0 = 1_700_000_000_123_000_000
REACH = 1640


def payloads(data: bytes, version: int) -> Iterator[tuple[int, bytes]]:
    """Number and record of each frame, read as the specification has them (SeedLink v4.0, "Data Transfer")."""
    at = 0
    while at < len(data):
        if version == 3:
            assert data[at : at + 2] == b"SL"
            number, at = int(data[at + 2 : at + 8], 16), at + 8
            size = 512
        else:
            assert data[at : at + 4] == b"SE2D"
            size, number, station = struct.unpack_from("<IQB", data, at + 4)
            assert data[at + 17 : at + 17 + station].startswith(b"XX_L")
            at += 17 + station
        yield number, data[at : at + size]
        at += size


def played(scene: Scene, version: int) -> dict[str, list[Record]]:
    """What a client gets, by source id."""
    frames, channels = Frames(scene, version), dict[str, list[Record]]()
    data = b"".join(frames.of(first, min(first + 7, scene.records)) for first in range(0, scene.records, 7))
    for expected, (number, payload) in enumerate(payloads(data, version), 1):
        assert number == expected
        record = miniseed.decode(payload)
        channels.setdefault(record.sid, []).append(record)
    return channels


@pytest.mark.parametrize("version", [3, 4])
def test_the_load_is_whole_records_that_follow_one_another_with_the_events_where_it_says(version: int) -> None:
    scene = Scene(5, 20.0, 1.0, begin_ns=T0, quiet_s=8.0, blast_s=14.0)
    channels = played(scene, version)
    assert list(channels) == scene.sids
    runs = []
    for number, records in enumerate(channels.values()):
        assert records[0].start_ns == scene.time_ns(number, 0)
        assert {record.samples.size for record in records} == {SAMPLES}
        assert {b.start_ns - a.start_ns for a, b in itertools.pairwise(records)} == {SAMPLES * 10**6}
        runs.append(np.concatenate([record.samples for record in records]).astype(float))
    assert len(scene.planted) > 5
    for event in scene.planted:
        run = runs[event.channel]
        before, after = run[event.onset - 200 : event.onset], run[event.onset : event.onset + 100]
        assert np.abs(after).max() > 100 > np.abs(before - before.mean()).max()


def test_records_are_due_when_their_last_sample_is_and_staggered_over_the_channels() -> None:
    scene = Scene(100, 5.0, 0.0, begin_ns=T0)
    ends_ns = scene.start_ns(np.arange(scene.records)) + SAMPLES * scene.step_ns - T0
    assert ends_ns.tolist() == scene.due_ns.tolist() == sorted(scene.due_ns.tolist())
    assert np.diff(scene.due_ns).max() <= 12_000_000


def watched(scene: Scene, detections: list[Detection], sent_ns: np.ndarray | None = None) -> Watched:
    counters = {
        "tscc_stage_seconds_count infer": 4.0,
        "tscc_stage_seconds_sum infer": 0.02,
        "tscc_sample_to_publish_seconds_count": 2.0,
        "tscc_sample_to_publish_seconds_sum": 0.04,
        "tscc_windows_dropped_total shed": 0.0,
    }
    sent_ns = scene.due_ns + 7 if sent_ns is None else sent_ns
    return Watched(scene, sent_ns, detections, {"front": 0.5, "back": 0.1}, 300.0, counters, 0.01)


def told(scene: Scene, after_ns: int) -> list[Detection]:
    """Every planted event 3 samples late, received so long after the record that completes its window was sent."""
    detections = []
    for event in scene.planted:
        onset = event.onset + 3
        record = scene.record_with(event.channel, onset + REACH)
        if record < scene.records:
            at_ns = int(scene.due_ns[record]) + 7 + after_ns
            detections.append(Detection(event.channel, scene.time_ns(event.channel, onset), at_ns))
    return detections


def test_a_latency_runs_from_the_record_that_completes_the_window() -> None:
    scene = Scene(5, 30.0, 1.0, begin_ns=T0, quiet_s=8.0)
    assert set(latencies_ms(watched(scene, told(scene, 25_000_000)), REACH)) == {25.0}
    with pytest.raises(LatencyError, match="1 of"):
        latencies_ms(watched(scene, told(scene, 25_000_000)[1:]), REACH)


def test_figures_are_against_the_field_and_our_own_undisturbed_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(latency, "_needed", lambda: (REACH, REACH))
    monkeypatch.setattr(latency, "_watch_field", lambda scene: watched(scene, told(scene, 60_000_000)))
    monkeypatch.setattr(
        live, "watch_daemon", lambda scene: watched(scene, told(scene, 20_000_000 + 10_000 * len(scene.sids)))
    )
    results = latency.run((5, 10), (40.0, 40.0), (1.0, 2.0), blast_channels=10)
    p99 = results["latency_p99"]
    assert {name: round(figure.value, 2) for name, figure in p99.items()} == {
        FIELD: 60.0,
        "channels_5": 20.05,
        "channels_10": 20.1,
    }
    assert p99["channels_5"].ratio == pytest.approx(60 / 20.05)
    assert results["latency_blast_slowest"]["blast_on_10"].ratio == pytest.approx(1.0)
    assert results["stages_channels_5"]["infer"].value == pytest.approx(5.0)
    assert results["cores_channels_5"]["front"].ratio == pytest.approx(1.2)
    assert results["waited_or_shed"]["blast"].value == 0


def test_a_real_daemon_tells_a_blast_and_the_field_s_way_tells_it_too() -> None:
    scene = Scene(3, 9.5, 0.0, quiet_s=5.0, blast_s=5.5)
    after, reach = latency._needed()
    ours = live.watch_daemon(scene)
    assert len(latencies_ms(ours, reach)) == len(latencies_ms(latency._watch_field(scene), after)) == 3
    assert {"front", "back", "inference"} <= set(ours.cores)
    assert ours.counters["tscc_triggers_total"] >= 3
    assert latency._pressure(ours).value == 0
    assert {"infer", "journal", FIELD} <= set(latency._stages(ours))


def test_a_daemon_that_does_not_start_is_told_with_its_own_words(monkeypatch: pytest.MonkeyPatch) -> None:
    plain = live.settings
    monkeypatch.setattr(live, "settings", lambda *some: plain(*some) | {"site": 7})
    monkeypatch.setattr(live, "START_SECONDS", 6.0)
    with pytest.raises(LiveError, match="site"):
        live.watch_daemon(Scene(2, 5.0, 0.0))


def test_memory_is_told_per_channel() -> None:
    results = memory.run(channels=(60,))
    assert set(results) == {"memory_60"}
    for figure in results["memory_60"].values():
        assert 0.005 < figure.value < 1.0  # a window and its history are some 10 kB


def test_cpu_is_told_by_name_of_thread() -> None:
    before = {(1, "front"): 1.0, (2, "bus"): 0.5}
    after = {(1, "front"): 3.0, (2, "bus"): 0.5, (3, "front"): 1.0}
    assert live.by_name(before, after, 2.0) == {"front": 1.5, "bus": 0.0}
    assert live.rss_mib() == pytest.approx(live.rss_mib(Path("/proc/self").resolve().name), rel=0.05)
