"""Both halves together: records in any cut, interleaving and batch size give the same detections and events."""

from __future__ import annotations

import random
from collections.abc import Iterable
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_streams import SECOND, T0, FakeEncoder, blocks, noise_with_bursts, package_spec, records, sid_of

from tscc_stream.config import Config
from tscc_stream.messages import (
    Detection,
    EndOfStream,
    Gap,
    NetworkEvent,
    NetworkTrigger,
    Record,
    Refusal,
    Window,
    WindowDropped,
)
from tscc_stream.pipeline import BackHalf, BackMessage, FrontHalf, FrontMessage
from tscc_stream.stages.condition import Condition
from tscc_stream.stages.detect import Detect
from tscc_stream.stages.extract import uid_of
from tscc_stream.stages.infer import Infer

RATE = 100.0
SAMPLES = 1500
EVENT = 700
STEP = SECOND // 100
TRIGGER = {"sta_seconds": 0.2, "lta_seconds": 2.0, "trigger_on": 4.0, "max_seconds": 2.0}


def _config(**changes: object) -> Config:
    sections = {
        "condition": {"band_hz": (5.0, 20.0)},
        "trigger": TRIGGER,
        "network": {"min_channels": 3},
        "inference": {"max_batch": 4},
        **changes,
    }
    return Config.model_validate(sections)


def _signal(number: int, bursts: Iterable[int] = ()) -> np.ndarray:
    return noise_with_bursts(number, SAMPLES, [EVENT + 5 * number, *bursts], gain=60.0, offset=1e5 * number)


def _records(
    number: int, cuts: Iterable[int] = (), signal: np.ndarray | None = None, rate: float = RATE
) -> list[Record]:
    return records(_signal(number) if signal is None else signal, rate, list(cuts), sid=sid_of(number))


def _front(config: Config | None = None, channels: int = 3) -> FrontHalf:
    front = FrontHalf(config or _config(), package_spec())
    for number in range(channels):
        front.expect(sid_of(number), T0)
    return front


def _back(config: Config | None = None) -> tuple[BackHalf, FakeEncoder]:
    encoder = FakeEncoder()
    return BackHalf(
        Infer(encoder), lambda cluster: f"cluster {cluster}", np.linspace(0, 1, 1000), config or _config()
    ), encoder


def _through(messages: Iterable[Record], config: Config, order: random.Random | None = None) -> list[BackMessage]:
    """Everything: flushed now and then, as whoever drives it likes."""
    front, (back, _) = _front(config), _back(config)
    found: list[FrontMessage] = []
    for message in messages:
        found += front.feed(message)
    found += front.flush()
    out: list[BackMessage] = []
    for item in found:
        if isinstance(item, Window | WindowDropped | NetworkTrigger):
            out += back.feed(item)
        if order is not None and order.random() < 0.3:
            out += back.flush()
    return out + back.end()


def _content(out: Iterable[BackMessage]) -> set[object]:
    """Detections and last words, in no order; early notices depend on who came first."""
    content: set[object] = set()
    for item in out:
        if isinstance(item, Detection):
            window, assignment = item.assignment.window, item.assignment
            content.add((window.uid, window.normalised.tobytes(), window.peak_ratio, window.duration_s, window.quality))
            content.add((window.uid, assignment.cluster, assignment.embedding.tobytes(), item.name, item.p_value))
        elif item.final:
            content.add((item.uid, item.channels, item.detections, tuple(sorted(item.votes.items())), item.cluster_id,
                         item.onset_ns, item.duration_s))  # fmt: skip
    return content


@given(
    order=st.randoms(use_true_random=False),
    cuts=st.lists(st.lists(st.integers(1, SAMPLES - 1), max_size=12), min_size=3, max_size=3),
    most=st.integers(1, 5),
    least_seconds=st.sampled_from([0.0, 0.1]),
)
def test_any_cut_interleaving_and_batch_size_gives_the_same(
    order: random.Random, cuts: list[list[int]], most: int, least_seconds: float
) -> None:
    trigger = {**TRIGGER, "min_seconds": least_seconds}
    whole = _through([r for number in range(3) for r in _records(number)], _config(trigger=trigger))
    queues = [_records(number, cuts[number]) for number in range(3)]
    mixed = []
    while any(queues):
        mixed.append(order.choice([queue for queue in queues if queue]).pop(0))
    out = _through(mixed, _config(trigger=trigger, inference={"max_batch": most}), order)
    assert _content(out) == _content(whole)
    assert sum(isinstance(item, NetworkEvent) and item.final for item in whole) == 1


def test_an_event_on_three_channels_is_one_network_event_of_their_detections() -> None:
    out = _through([r for number in range(3) for r in _records(number, [400, 800])], _config())
    detections = {d.assignment.window.sid: d.assignment.window for d in out if isinstance(d, Detection)}
    (event,) = [item for item in out if isinstance(item, NetworkEvent) and item.final]
    assert event.channels == tuple(sid_of(number) for number in range(3))
    for number, (sid, uid) in enumerate(zip(event.channels, event.detections, strict=True)):
        window = detections[sid]
        assert uid == window.uid == uid_of(sid, window.onset_ns)
        assert abs(window.onset_ns - T0 - (EVENT + 5 * number) * STEP) < 10 * STEP
    first = detections[sid_of(0)]
    assert event.uid == f"network-{first.uid}"
    assert event.onset_ns == first.onset_ns
    assert sum(event.votes.values()) == 3
    assert 0 < event.duration_s < 5


def test_a_member_whose_trigger_made_no_window_is_named_by_the_window_that_covers_it() -> None:
    quiet = np.zeros(SAMPLES)
    for begin in (EVENT, EVENT + 40):
        quiet[begin : begin + 12] = 3e4 * (-1.0) ** np.arange(12)
    trigger = {"sta_seconds": 0.05, "lta_seconds": 2.0, "trigger_on": 4.0, "trigger_off": 2.0}
    front = _front(_config(trigger=trigger, network={"min_channels": 2}), channels=2)
    noise = [np.rint(np.random.default_rng(number).normal(0, 10, SAMPLES)) for number in range(2)]
    late = noise[1].copy()
    late[EVENT + 40 : EVENT + 52] += 3e4 * (-1.0) ** np.arange(12)
    found = [m for n, s in enumerate((noise[0] + quiet, late)) for r in _records(n, [], s) for m in front.feed(r)]
    found += front.flush()
    assert front.counts["suppressed"] >= 1
    windows = {m.uid: m for m in found if isinstance(m, Window)}
    finals = [m for m in found if isinstance(m, NetworkTrigger) and m.final]
    second = finals[-1].members[[sid for sid, _, _ in finals[-1].members].index(sid_of(0))]
    assert uid_of(second[0], second[1]) not in windows
    assert windows[second[2]].onset_ns < second[1]


def test_jitter_of_record_times_does_not_matter_to_what_covers_what() -> None:
    """Sample counts say that an onset lies within a window although the times of its record say that it does not."""
    spec = package_spec()
    config = _config(trigger={"sta_seconds": 0.05, "lta_seconds": 2.0, "trigger_on": 4.0, "trigger_off": 2.0})
    signal = np.rint(np.random.default_rng(0).normal(0, 10, SAMPLES))
    for gap in range(50, 64):
        front = FrontHalf(config, spec)
        bursts = signal.copy()
        for begin in (EVENT, EVENT + gap):
            bursts[begin : begin + 8] += 3e4 * (-1.0) ** np.arange(8)
        late = 0
        for record in _records(0, range(10, SAMPLES, 10), bursts):
            late += 4 * STEP // 10
            moved = Record(record.sid, record.start_ns + late, RATE, record.samples)
            assert not any(isinstance(message, Gap) for message in front.feed(moved))
        front.flush()
        assert front.counts["triggers"] >= 2


def test_a_rate_that_cannot_be_served_is_refused_once_and_the_others_go_on() -> None:
    front = _front()
    slow = _records(2, range(100, SAMPLES, 100), _signal(2), rate=20.0)
    good = [_records(number, range(100, SAMPLES, 100)) for number in range(2)]
    found: list[FrontMessage] = []
    for a, b, c in zip(*good, slow, strict=True):
        for record in (a, b, c):
            found += front.feed(record)
    found += front.flush()
    (refusal,) = [message for message in found if isinstance(message, Refusal)]
    assert refusal.sid == sid_of(2)
    assert "20 Hz cannot hold the band 5-20 Hz" in refusal.reason
    assert front.counts["refused"] == len(slow)
    assert {message.sid for message in found if isinstance(message, Window)} == {sid_of(0), sid_of(1)}


def test_a_source_id_that_is_none_is_refused_and_so_is_a_rate_of_the_model() -> None:
    front = _front(_config(condition={"band_hz": (1.0, 4.0)}))
    strange = Record("XX_1", T0, RATE, np.arange(100))
    low = Record(sid_of(0), T0, 25.0, np.arange(100))
    (first,), (second,) = front.feed(strange), front.feed(low)
    assert front.feed(strange) == front.feed(low) == []
    assert isinstance(first, Refusal)
    assert "expected FDSN:NET_STA_LOC" in first.reason
    assert isinstance(second, Refusal)
    assert "25 Hz cannot hold the band 2-20 Hz of model tiny" in second.reason
    assert front.flush() == []


def test_a_refusal_ends_what_was_pending_and_lets_network_events_go() -> None:
    front = _front(_config(network={"min_channels": 2}))
    found: list[FrontMessage] = []
    for number in range(2):
        for record in _records(number):
            found += front.feed(record)
    early = _signal(2)[: EVENT + 20]
    for record in _records(2, [], early):
        found += front.feed(record)
    assert not any(isinstance(message, NetworkTrigger) and message.final for message in found)
    after = front.feed(Record(sid_of(2), T0 + (EVENT + 20) * STEP, 10.0, np.arange(100)))
    kinds = [type(message) for message in after]
    assert kinds.count(Refusal) == 1
    assert [m.reason for m in after if isinstance(m, WindowDropped)] == ["end"]
    assert [m.final for m in after if isinstance(m, NetworkTrigger)] == [True]
    again = front.feed(Record(sid_of(2), T0 + (EVENT + 20) * STEP, RATE, np.arange(100)))
    assert again == []
    assert front.feed(Record(sid_of(2), T0 + 9999 * STEP, 10.0, np.arange(100))) == []


def test_an_end_of_one_channel_lets_the_others_go_and_it_may_begin_again() -> None:
    front = _front(_config(network={"min_channels": 2}))
    found = [m for number in range(2) for record in _records(number) for m in front.feed(record)]
    assert not any(isinstance(message, NetworkTrigger) for message in found)
    ended = front.feed(EndOfStream(sid_of(2)))
    assert [message.final for message in ended if isinstance(message, NetworkTrigger)] == [True]
    for record in _records(0, [], noise_with_bursts(9, 300)):
        assert front.feed(record) == []


@pytest.mark.parametrize("components", [("*",), ("Z", "N", "E")])
@settings(max_examples=25)
@given(missing=st.lists(st.sets(st.integers(1, 29), max_size=9), min_size=3, max_size=3), away=st.integers(0, 2))
def test_records_in_order_of_time_give_the_same_whether_gaps_are_waited_for_or_not(
    components: tuple[str, ...], missing: list[set[int]], away: int
) -> None:
    """So do archives, whose records are sorted."""
    spec = package_spec(channels=len(components), components=components)
    channels = [
        [
            replace(record, sid=sid_of(0)[:-1] + "ZNE"[number], start_ns=record.start_ns + (i > 20) * away * 10**12)
            for i, record in enumerate(_records(number, range(50, SAMPLES, 50)))
            if i not in gone
        ]
        for number, gone in enumerate(missing)
    ]
    ordered = sorted((record for channel in channels for record in channel), key=lambda record: record.start_ns)
    found: list[list[str]] = []
    for seconds in (2.0, 0.0, 10.0):
        front = FrontHalf(_config(assemble={"reorder_seconds": seconds}, network={"min_channels": 2}), spec)
        for code in "ZNE":
            front.expect(sid_of(0)[:-1] + code, T0)
        out = [message for record in ordered for message in front.feed(record)] + front.flush()
        kept = [m for m in out if not isinstance(m, NetworkTrigger) or m.final]
        found.append(sorted(repr((m, m.normalised.tobytes() if isinstance(m, Window) else b"")) for m in kept))
    assert found[0] == found[1] == found[2]


def test_what_is_held_may_still_give_the_oldest_onset() -> None:
    front = _front(_config(network=None))
    front.feed(_records(0, [100])[0])
    assert front.unsettled_ns() == 1 << 62
    held = _records(0, [100, 200])[2]
    assert front.feed(held) == []
    assert front.unsettled_ns() == held.start_ns
    front.flush()
    assert front.unsettled_ns() == 1 << 62


def test_a_gap_is_told_and_drops_the_window_that_it_cuts() -> None:
    front = _front(channels=0)
    before = _records(0, [], _signal(0)[: EVENT + 20])[0]
    after = records(_signal(1), RATE, sid=sid_of(0), start_ns=T0 + 60 * SECOND)[0]
    assert [message for record in (before, after) for message in front.feed(record)] == []
    assert [type(message) for message in front.flush()] == [WindowDropped, Gap, Window]
    assert front.counts["triggers"] == 2


def test_a_trigger_that_a_gap_cuts_is_still_a_member() -> None:
    front = _front(_config(network={"min_channels": 2}), channels=2)
    found = [
        m for number in range(2) for r in _records(number, [], _signal(number)[: EVENT + 20]) for m in front.feed(r)
    ]
    for number in range(2):
        found += front.feed(records(np.arange(9), RATE, sid=sid_of(number), start_ns=T0 + 60 * SECOND)[0], SECOND)
    assert front.next_deadline() == 3 * SECOND
    assert front.poll(3 * SECOND - 1) == []
    found += front.poll(3 * SECOND)
    assert [len(m.members) for m in found if isinstance(m, NetworkTrigger) and m.final] == [2]


@pytest.mark.parametrize("dies_at", [0, EVENT, EVENT + 20])
def test_a_dead_sensor_does_not_hold_network_events(dies_at: int) -> None:
    """Nor does the trigger that was open when it died."""
    front = _front(_config(network={"min_channels": 2}))
    signal = _signal(2, [EVENT - 20])
    signal[dies_at:] = 17.0
    dead = _records(2, range(100, SAMPLES, 100), signal)
    found = [message for record in dead for message in front.feed(record)]
    found += [m for number in range(2) for record in _records(number) for m in front.feed(record)]
    assert [message.final for message in found if isinstance(message, NetworkTrigger)][-1:] == [True]


def test_a_silent_channel_holds_network_events_for_as_long_as_patience_says() -> None:
    front = FrontHalf(_config(network={"min_channels": 2, "patience_seconds": 5.0}), package_spec())
    front.feed(_records(2, [100])[0], 100 * SECOND)
    found: list[FrontMessage] = []
    for a, b in zip(_records(0, range(100, SAMPLES, 100)), _records(1, range(100, SAMPLES, 100)), strict=True):
        found += [*front.feed(a, 101 * SECOND), *front.feed(b, 101 * SECOND)]
    assert not any(isinstance(message, NetworkTrigger) for message in found)
    deadline = front.next_deadline()
    assert deadline == 105 * SECOND
    assert front.unsettled_ns() < T0 + SAMPLES * STEP
    assert front.poll(deadline - 1) == []
    assert [m.final for m in front.poll(deadline) if isinstance(m, NetworkTrigger)] == [True]
    assert front.next_deadline() is None
    assert front.unsettled_ns() == 1 << 62


def test_a_clock_set_back_holds_nothing_for_ever() -> None:
    front = _front(_config(network={"min_channels": 2}))
    future = Record(sid_of(2), T0 + 10**17, RATE, np.arange(10))
    front.feed(future)
    rng = np.random.default_rng(0)
    found: list[FrontMessage] = []
    for minute in range(12):
        found += front.feed(Record(sid_of(2), T0 + minute * 60 * SECOND, RATE, rng.normal(0, 9, 6000)))
    assert [message.cause for message in found if isinstance(message, Gap)] == ["clock", "conflict"]
    later = T0 + 800 * SECOND
    found = [
        m for n in range(2) for r in records(_signal(n), RATE, sid=sid_of(n), start_ns=later) for m in front.feed(r)
    ]
    assert [message.final for message in found if isinstance(message, NetworkTrigger)] == []
    found = front.feed(Record(sid_of(2), T0 + 900 * SECOND, RATE, rng.normal(0, 9, 6000)), SECOND)
    found += front.poll(3 * SECOND)
    assert [message.final for message in found if isinstance(message, NetworkTrigger)] == [True]


def test_without_a_network_section_there_are_no_network_events() -> None:
    config = _config(network=None)
    front = _front(config)
    found = [m for number in range(3) for r in _records(number) for m in front.feed(r)] + front.flush()
    assert {type(message) for message in found} == {Window}
    later = records(_signal(0), RATE, sid=sid_of(0), start_ns=T0 + 60 * SECOND)
    assert [type(message) for message in _front(config).feed(later[0])] == [Window]
    gapped = FrontHalf(config, package_spec())
    assert [type(m) for r in (*_records(0), *later) for m in gapped.feed(r)] == [Window]
    assert [type(m) for m in gapped.flush()] == [Gap, Window]
    assert front.poll(0) == []
    assert front.next_deadline() is None
    assert front.unsettled_ns() == 1 << 62
    assert not any(isinstance(item, NetworkEvent) for item in _through(_records(0), config))


def test_overrides_hold_for_their_channels() -> None:
    config = _config(
        channels={"XX.S001.*": {"trigger": {"trigger_on": 9.9}}, "XX.S002.*": {"trigger": {"lta_seconds": 9.0}}}
    )
    front = _front(config)
    found = [m for number in range(3) for r in _records(number, [], _signal(number)) for m in front.feed(r)]
    assert sid_of(0) in {message.sid for message in found if isinstance(message, Window)}
    assert sid_of(2) not in {message.sid for message in found if isinstance(message, Window)}


def test_every_stage_is_timed_and_every_batch_is_told() -> None:
    stages: list[str] = []

    def timer(stage: str) -> AbstractContextManager[object]:
        stages.append(stage)
        return nullcontext()

    front = FrontHalf(_config(), package_spec(), timer)
    back = BackHalf(Infer(FakeEncoder()), str, None, _config(inference={"max_batch": 2}), timer)
    windows = [m for n in range(3) for r in _records(n) for m in front.feed(r) if isinstance(m, Window)]
    out = [item for window in windows for item in back.feed(window)] + back.flush()
    assert set(stages) == {"assemble", "condition", "detect", "extract", "infer"}
    assert back.batch_sizes == [2] * (len(windows) // 2) + [1] * (len(windows) % 2)
    assert [item.assignment.window.uid for item in out if isinstance(item, Detection)] == [w.uid for w in windows]
    assert back.unsettled_ns() == 1 << 62


def test_events_wait_in_the_back_half_until_their_windows_are_classified() -> None:
    back, encoder = _back()
    window = next(m for r in _records(0) for m in _front().feed(r) if isinstance(m, Window))
    trigger = NetworkTrigger("network-1", T0, T0 + SECOND, ((window.sid, T0, window.uid),), final=True)
    assert back.feed(trigger) == back.feed(window) == []
    assert back.unsettled_ns() == T0
    assert encoder.sizes == []
    assert [type(item) for item in back.flush()] == [Detection, NetworkEvent]
    lost = NetworkTrigger("network-2", T0, T0 + SECOND, ((window.sid, T0, "never"),), final=True)
    assert back.feed(lost) == []
    assert [item.detections for item in back.end() if isinstance(item, NetworkEvent)] == [()]


def test_another_model_begins_where_the_one_before_has_ended() -> None:
    (back, first), front = _back(), _front()
    window, after, *_ = (m for n in range(3) for r in _records(n) for m in front.feed(r) if isinstance(m, Window))
    assert back.feed(window) == []
    second = FakeEncoder()
    [held] = back.use(Infer(second), lambda cluster: f"kind {cluster}", None)
    assert isinstance(held, Detection)
    assert (held.assignment.window.uid, first.sizes, second.sizes) == (window.uid, [1], [])
    assert held.p_value is not None
    assert back.feed(after) == []
    [next_one] = back.flush()
    assert isinstance(next_one, Detection)
    assert (next_one.p_value, first.sizes, second.sizes) == (None, [1], [1])
    assert next_one.name.startswith("kind ")


def test_nothing_held_grows_with_time() -> None:
    """Bursts for hours (of data): whatever a front half holds stays as it was after minutes."""
    front = _front(_config(network={"min_channels": 2}), channels=2)
    found = 0
    for minute in range(120):
        for number in range(2):
            signal = noise_with_bursts(minute, 6000, [3000], gain=60.0)
            record = Record(sid_of(number), T0 + minute * 60 * SECOND, RATE, signal)
            found += sum(isinstance(message, Window) for message in front.feed(record))
    assert found > 200
    sizes = {name: len(value) for name, value in vars(front).items() if isinstance(value, dict)}
    assert all(size <= 3 for size in sizes.values()), sizes
    assert front._coincidence is not None
    held = {
        name: len(value) for name, value in vars(front._coincidence).items() if isinstance(value, list | dict | set)
    }
    assert all(size <= 4 for size in held.values()), held


def test_a_channel_that_never_comes_does_not_keep_network_events_from_the_end() -> None:
    front = _front(channels=4)
    found = [m for number in range(3) for r in _records(number) for m in front.feed(r)]
    assert not any(isinstance(message, NetworkTrigger) for message in found)
    assert [m.final for m in front.flush() if isinstance(m, NetworkTrigger)] == [True]
    assert front.flush() == []


def test_network_events_wait_for_excursions_that_may_yet_be_long_enough() -> None:
    """The second channel's onset lies within the first one's trigger, but its data end before it is announced."""
    config = _config(trigger={**TRIGGER, "min_seconds": 0.5}, network={"min_channels": 2})
    condition, detect = Condition(lambda _: (config.condition, config.trigger)), Detect(lambda _: config.trigger)
    (ratio,) = condition.feed(blocks(_signal(0), RATE)[0])
    off = max(trigger.off_index or 0 for trigger in detect.feed(ratio))
    assert off > EVENT
    front = _front(config, channels=2)
    found = [message for record in _records(0) for message in front.feed(record)]
    for record in _records(1, [off + 20], noise_with_bursts(1, SAMPLES, [off - 8], gain=60.0)):
        found += front.feed(record)
    found += front.flush()
    assert [len(m.members) for m in found if isinstance(m, NetworkTrigger) and m.final] == [2]
