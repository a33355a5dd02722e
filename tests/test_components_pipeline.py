"""Three-component packages from records to detections and network events, whatever the packets."""

from __future__ import annotations

import random
from collections.abc import Iterable
from typing import Any

import numpy as np
from hypothesis import given
from hypothesis import strategies as st
from made_components import (
    CODES,
    RATE,
    SPEC,
    mixed,
    sid_of,
)
from made_streams import SECOND, T0, FakeEncoder, cuts_of, noise_with_bursts, records

from tscc_stream.config import Config
from tscc_stream.messages import (
    Detection,
    NetworkEvent,
    NetworkTrigger,
    Record,
    Refusal,
    Window,
    WindowDropped,
)
from tscc_stream.pipeline import BackHalf, BackMessage, FrontHalf, FrontMessage
from tscc_stream.stages.infer import Infer

TRIGGER = {"sta_seconds": 0.2, "lta_seconds": 2.0, "trigger_on": 4.0, "max_seconds": 2.0}
SAMPLES, EVENT = 1500, 700


def _config(**changes: Any) -> Config:
    return Config.model_validate(
        {"condition": {"band_hz": (5.0, 20.0)}, "trigger": TRIGGER, "network": {"min_channels": 4},
         "inference": {"max_batch": 4}, **changes}
    )  # fmt: skip


def _records(sensor: int, code: str, cuts: Iterable[int] = (), rate: float = RATE) -> list[Record]:
    number = 3 * sensor + CODES.index(code)
    signal = noise_with_bursts(number, SAMPLES, [EVENT + 5 * number, 1200 - 9 * number], gain=60.0, offset=1e4 * number)
    return records(signal, rate, list(cuts), sid=sid_of(code, sensor))


def _front(config: Config | None = None, sensors: int = 2, spec: Any = SPEC) -> FrontHalf:
    front = FrontHalf(config or _config(), spec)
    for sensor in range(sensors):
        for code in CODES:
            front.expect(sid_of(code, sensor), T0)
    return front


def _through(messages: Iterable[Record]) -> tuple[FrontHalf, list[BackMessage]]:
    front, out = _front(), []
    back = BackHalf(Infer(FakeEncoder()), lambda cluster: f"cluster {cluster}", np.linspace(0, 1, 1000), _config())
    found: list[FrontMessage] = [m for message in messages for m in front.feed(message)]
    for item in [*found, *front.flush()]:
        if isinstance(item, Window | WindowDropped | NetworkTrigger):
            out += back.feed(item)
    return front, out + back.end()


def _content(out: Iterable[BackMessage]) -> set[object]:
    content: set[object] = set()
    for item in out:
        if isinstance(item, Detection):
            window = item.assignment.window
            content.add((window.uid, window.normalised.tobytes(), window.peak_ratio, window.duration_s, item.name))
        elif item.final:
            content.add((item.uid, item.channels, item.detections, tuple(sorted(item.votes.items())), item.duration_s))
    return content


@given(order=st.randoms(use_true_random=False), cuts=st.lists(cuts_of(SAMPLES), min_size=6, max_size=6))
def test_records_to_detections_whatever_the_cut_and_the_interleaving(
    order: random.Random, cuts: list[list[int]]
) -> None:
    channels = [(sensor, code) for sensor in range(2) for code in CODES]
    front, whole = _through([record for sensor, code in channels for record in _records(sensor, code)])
    queues = [_records(*channel, cuts[i]) for i, channel in enumerate(channels)]
    _, other = _through(mixed(queues, order))
    assert _content(other) == _content(whole)
    assert sum(isinstance(item, Detection) for item in whole) == 4
    assert front.counts["triggers"] - front.counts["suppressed"] == 4
    events = [item for item in whole if isinstance(item, NetworkEvent) and item.final]
    assert len(events) == 2
    for event in events:
        assert len(event.channels) == sum(event.votes.values()) >= 5
        assert len(event.detections) == 2


def test_a_package_of_components_leaves_other_channels_out_by_name() -> None:
    front = _front(sensors=0)
    (refusal,) = front.feed(Record(sid_of("H"), T0, RATE, np.arange(100)))
    assert isinstance(refusal, Refusal)
    assert refusal.reason == "component 'H' is none of those of model tiny: Z, N, E"
    assert front.flush() == []


def test_a_sensor_that_is_set_to_another_rate_is_taken_up_again() -> None:
    """One after the other its components are refused, until none is left at the old rate."""
    front = _front(sensors=0)
    for code in CODES:
        assert front.feed(_records(0, code, [100])[0]) == []
    told: list[str] = []
    for turn in range(3):
        for code in CODES:
            record = Record(sid_of(code), T0 + (1 + 30 * turn) * SECOND, 50.0, _records(0, code)[0].samples)
            told += [m.reason for m in front.feed(record) if isinstance(m, Refusal)]
    assert told == [f"50 Hz, but component {code} of its sensor has 100 Hz; model tiny takes Z, N, E together"
                    for code in "NE"]  # fmt: skip
    assert front.counts["refused"] == 2
    assert sum(isinstance(m, Window) for m in front.flush()) >= 0


def test_a_dead_component_s_sensor_still_lets_network_events_go() -> None:
    front = _front(_config(network={"min_channels": 3}), sensors=2)
    back = BackHalf(Infer(FakeEncoder()), str, None, _config())
    out: list[BackMessage] = []
    dead = records(np.full(SAMPLES, 17.0), RATE, range(100, SAMPLES, 100), sid=sid_of("E", 1))
    queues = [_records(s, code, range(100, SAMPLES, 100)) for s in range(2) for code in CODES if (s, code) != (1, "E")]
    for turn in zip(*queues, dead, strict=True):
        for record in turn:
            for item in front.feed(record):
                out += back.feed(item) if isinstance(item, Window | WindowDropped | NetworkTrigger) else []
        out += back.flush()
    events = [item for item in out if isinstance(item, NetworkEvent) and item.final]
    assert events
    assert {uid for event in events for uid in event.detections} <= {
        item.assignment.window.uid for item in out if isinstance(item, Detection)
    }
    assert all(item.assignment.window.sid.startswith("FDSN:XX_S000") for item in out if isinstance(item, Detection))
