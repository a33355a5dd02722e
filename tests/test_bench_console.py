"""`bench console`: how its latencies come about. The bench itself is run by hand, with a browser and in real time."""

from __future__ import annotations

import numpy as np
import pytest

from tscc_stream.bench import console, latency, live
from tscc_stream.bench.console_browser import Drawn
from tscc_stream.bench.live import LiveError
from tscc_stream.bench.load import SAMPLES, Scene
from tscc_stream.bench.measure import FIELD
from tscc_stream.source_id import to_nslc

T0 = 1_700_000_000_123_000_000


def drawn(scene: Scene, after_ms: float) -> list[Drawn]:
    """Every record, so long after it was due."""
    found = []
    for record in range(scene.records):
        channel = record % scene.channels
        newest_ns = scene.time_ns(channel, (record // scene.channels + 1) * SAMPLES - 1)
        at_ms = (scene.begin_ns + int(scene.due_ns[record])) / 1e6 + after_ms
        found.append(Drawn(to_nslc(scene.sids[channel]), newest_ns / 1e6, at_ms))
    return found


def test_a_latency_is_from_the_sending_of_the_record_with_the_newest_sample() -> None:
    scene = Scene(5, 12.0, 0.0, begin_ns=T0, rate_hz=500.0)
    sent_ns = (scene.begin_ns + scene.due_ns).astype(float)
    found = console.latencies_ms(scene, sent_ns, drawn(scene, 80.0))
    warm = int((scene.due_ns > console.WARM_SECONDS * 1e9).sum())
    assert len(found) == warm > 20
    assert found == pytest.approx(np.full(warm, 80.0), abs=0.01)
    with pytest.raises(LiveError, match="4 of 5"):
        console.latencies_ms(scene, sent_ns, [one for one in drawn(scene, 80.0) if "L0003" not in one.channel])


def test_figures_are_of_all_turns_against_the_limit_and_the_daemon_alone(monkeypatch: pytest.MonkeyPatch) -> None:
    times = iter([10.0, 1.0, 2.0, 5.0, 11.0, 12.5])  # two turns of each variant
    monkeypatch.setattr(console, "watch_wall", lambda _scene: np.full(100, 150.0))
    monkeypatch.setattr(latency, "_needed", lambda: (0, 0))
    monkeypatch.setattr(live, "watch_daemon", lambda _scene, _beside=None: None)
    monkeypatch.setattr(latency, "latencies_ms", lambda _watched, _reach: np.full(100, next(times)))
    results = console.run(rounds=2)
    assert results["console_drawn"]["p95"].ratio == pytest.approx(2.0)
    assert {name: figure.value for name, figure in results["console_daemon_p99"].items()} == {
        FIELD: 10.0,
        "consoles_5": 11.0,
        "consoles_5_and_chromium": 12.5,
    }
    assert results["console_daemon_p99"]["consoles_5_and_chromium"].ratio == pytest.approx(0.8)


def test_a_page_that_gets_samples_too_seldom_is_no_console() -> None:
    console._check_read([(300, 1), (250, 1)], 50.0)
    with pytest.raises(LiveError, match=r"4\.9 times a second"):
        console._check_read([(300, 1), (245, 1)], 50.0)
