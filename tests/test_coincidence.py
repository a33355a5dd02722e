"""Network triggers against obspy's `coincidence_trigger`, in any interleaving; what a live network adds to it."""

from __future__ import annotations

import random
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from itertools import pairwise

import numpy as np
import pytest
from made_streams import SECOND, T0, characteristics, sid_of

from tscc_stream.config import NetworkConfig, TriggerConfig
from tscc_stream.messages import EndOfStream, Float64Array, NetworkTrigger, Trigger
from tscc_stream.sampling import offset_ns
from tscc_stream.source_id import to_nslc
from tscc_stream.stages import detect_network
from tscc_stream.stages.detect import Detect
from tscc_stream.stages.detect_network import Coincidence

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from obspy import Stream, Trace, UTCDateTime
    from obspy.signal.trigger import coincidence_trigger

RATE = 64.0  # sample times are whole microseconds, to which obspy's float seconds are rounded
Final = tuple[int, int, list[str]]


def _uid(sid: str, onset_ns: int) -> str:
    return f"{sid}@{onset_ns}"


def _ratios(rng: np.random.Generator, channels: int, samples: int) -> list[Float64Array]:
    """Steps between quiet, below off, between off and on, and above: some alone, some in step with other channels."""
    common = rng.integers(0, samples, 4)
    out = []
    for _ in range(channels):
        values = np.zeros(samples)
        for begin in [*(common + rng.integers(-15, 15, common.size)), *rng.integers(0, samples, 3)]:
            length = int(rng.integers(1, 60))
            values[max(0, begin) : max(0, begin) + length] = 9.0
            values[max(0, begin) + length : max(0, begin) + length + int(rng.integers(0, 25))] = 2.0
        out.append(values)
    return out


def _obspys(ratios: list[Float64Array], least: int, extension: float, longest: float) -> list[Final]:
    traces = Stream()
    for number, values in enumerate(ratios):
        network, station, location, channel = to_nslc(sid_of(number)).split(".")
        header = {"network": network, "station": station, "location": location, "channel": channel,
                  "sampling_rate": RATE, "starttime": UTCDateTime(ns=T0)}  # fmt: skip
        traces += Trace(values.copy(), header)
    found = coincidence_trigger(
        None, 3.5, 1.0, traces, least, trigger_off_extension=extension, max_trigger_length=longest
    )
    ids = {to_nslc(sid_of(number)): sid_of(number) for number in range(len(ratios))}
    return [
        (
            round(event["time"].ns, -3),
            round(event["duration"] * RATE),
            [ids[trace] for trace in event["trace_ids"]],
        )
        for event in found
    ]


def _streamed(
    rng: random.Random, ratios: list[Float64Array], network: NetworkConfig, longest: float, ends: str
) -> list[NetworkTrigger]:
    config = TriggerConfig(max_seconds=longest)
    detect, coincidence = Detect(lambda _: config), Coincidence(network, _uid)
    queues = {
        sid_of(number): characteristics(
            values, RATE, [rng.randrange(1, len(values)) for _ in range(rng.randrange(25))], sid=sid_of(number)
        )
        for number, values in enumerate(ratios)
    }
    out: list[NetworkTrigger] = []
    for sid in queues:
        coincidence.expect(sid, T0)
    while queues:
        sid = rng.choice(list(queues))
        for part in queues[sid][: rng.randrange(1, 4)]:
            queues[sid].pop(0)
            for trigger in detect.feed(part):
                coincidence.feed(trigger, "window of " + _uid(sid, trigger.on_ns))
            out += coincidence.advance(sid, part.block.start_ns + offset_ns(part.block.samples.size, RATE), 0)
        if not queues[sid]:
            del queues[sid]
            for trigger in detect.feed(EndOfStream(sid)):
                coincidence.feed(trigger, "window of " + _uid(sid, trigger.on_ns))
            out += coincidence.end(sid, 0) if ends == "one by one" else []
    return out + coincidence.flush()


def _finals(triggers: list[NetworkTrigger]) -> list[Final]:
    return [
        (t.onset_ns, round((t.off_ns - t.onset_ns) * RATE / SECOND), [sid for sid, _, _ in t.members])
        for t in triggers
        if t.final
    ]


def _check_words(triggers: list[NetworkTrigger]) -> None:
    """Every early notice has its last word later, with at least the same members."""
    finals = {t.uid: i for i, t in enumerate(triggers) if t.final}
    early = [t for t in triggers if not t.final]
    assert len(finals) == sum(t.final for t in triggers)
    assert len({t.uid for t in early}) == len(early)
    for i, notice in enumerate(triggers):
        assert all(window == "window of " + _uid(sid, on_ns) for sid, on_ns, window in notice.members)
        if not notice.final:
            assert i < finals[notice.uid]
            last_word = triggers[finals[notice.uid]]
            assert {sid for sid, _, _ in notice.members} <= {sid for sid, _, _ in last_word.members}
            assert notice.onset_ns == last_word.onset_ns


# No extension is a multiple of the sample interval: there obspy compares rounding errors.
@pytest.mark.parametrize("extension", [0.0, 0.26])
@pytest.mark.parametrize("ends", ["one by one", "together"])
@pytest.mark.parametrize("seed", range(20))
def test_equals_obspy_in_any_interleaving(seed: int, extension: float, ends: str) -> None:
    rng = np.random.default_rng(seed)
    channels, least = int(rng.integers(3, 8)), int(rng.integers(2, 4))
    longest = [1e6, 0.3][seed % 2]
    ratios = _ratios(rng, channels, 900)
    expected = _obspys(ratios, least, extension, longest)
    assert expected
    network = NetworkConfig(min_channels=least, association_seconds=extension)
    order = random.Random(seed)  # noqa: S311  # an order, not a secret
    for _ in range(2):
        triggers = _streamed(order, ratios, network, longest, ends)
        assert _finals(triggers) == expected
        _check_words(triggers)


def test_the_trials_hold_retriggering_subsets_and_early_notices() -> None:
    """Otherwise the test above would say less than it seems to."""
    seen = {"overlapping": 0, "subset": 0, "early": 0}
    for seed in range(20):
        rng = np.random.default_rng(seed)
        channels, least = int(rng.integers(3, 8)), int(rng.integers(2, 4))
        ratios = _ratios(rng, channels, 900)
        triggers = _streamed(random.Random(seed), ratios, NetworkConfig(min_channels=least), 1e6, "together")  # noqa: S311  # made-up data, no secret
        finals = [t for t in triggers if t.final]
        seen["overlapping"] += sum(b.onset_ns <= a.off_ns for a, b in pairwise(finals))
        seen["subset"] += sum(len(t.members) > least for t in finals)
        seen["early"] += len(triggers) - len(finals)
    assert all(count > 3 for count in seen.values())


def _coincidence(least: int = 2, patience: float = 10.0, association: float = 0.0) -> Coincidence:
    network = NetworkConfig(min_channels=least, patience_seconds=patience, association_seconds=association)
    return Coincidence(network, _uid)


def _trigger(number: int, on: float, off: float | None = None) -> Trigger:
    """Times in seconds after T0."""
    on_ns = T0 + round(on * SECOND)
    off_ns = None if off is None else T0 + round(off * SECOND)
    return Trigger(sid_of(number), RATE, round(on * RATE), on_ns, None if off is None else round(off * RATE), off_ns)


def _feed(coincidence: Coincidence, number: int, on: float, off: float | None = None) -> None:
    coincidence.feed(_trigger(number, on), "w")
    if off is not None:
        coincidence.feed(_trigger(number, on, off), "w")


def _advance(coincidence: Coincidence, number: int, to: float, now: float = 0.0) -> list[bool]:
    """Whether each network trigger is final."""
    return [t.final for t in coincidence.advance(sid_of(number), T0 + round(to * SECOND), round(now * SECOND))]


def test_an_early_notice_waits_for_channels_that_may_know_an_earlier_onset() -> None:
    coincidence = _coincidence()
    for number in range(3):
        coincidence.expect(sid_of(number), T0)
    _feed(coincidence, 0, 5.0)
    assert _advance(coincidence, 0, 6.0) == []
    _feed(coincidence, 1, 5.5)
    assert _advance(coincidence, 1, 6.0) == []
    assert _advance(coincidence, 2, 5.2) == []
    assert _advance(coincidence, 2, 5.5) == []
    assert _advance(coincidence, 2, 5.51) == [False]
    assert _advance(coincidence, 2, 7.0) == []
    assert coincidence.oldest_open_ns() == T0 + 5 * SECOND
    for number in (0, 1):
        coincidence.feed(_trigger(number, 5.0 + number / 2, 6.5), "w")
        assert _advance(coincidence, number, 7.0) == [True] * number
        assert coincidence.unsettled == 1 - number, "the first waits for the second"
    assert coincidence.oldest_open_ns() == 1 << 62


def test_a_trigger_that_begins_with_the_last_sample_of_another_belongs_to_it() -> None:
    coincidence = _coincidence()
    _advance(coincidence, 1, 6.0)
    _feed(coincidence, 0, 5.0, 6.0)
    assert _advance(coincidence, 0, 20.0) == []
    _feed(coincidence, 1, 6.0, 7.0)
    assert _advance(coincidence, 1, 20.0) == [True]


def test_an_open_trigger_reaches_to_its_last_sample_and_not_to_the_next() -> None:
    coincidence = _coincidence()
    _advance(coincidence, 2, 1.0)
    _feed(coincidence, 0, 5.0)
    _advance(coincidence, 0, 6.0)
    _feed(coincidence, 1, 5.99)
    assert _advance(coincidence, 1, 7.0) == []
    assert _advance(coincidence, 2, 7.0) == []
    coincidence.feed(_trigger(0, 5.0, 6.0 - 1 / RATE), "w")
    coincidence.feed(_trigger(1, 5.99, 6.5), "w")
    assert [_advance(coincidence, number, 9.0) for number in range(3)] == [[], [], []]


def test_what_is_left_of_a_settled_group_has_no_early_notice() -> None:
    coincidence = _coincidence()
    _advance(coincidence, 2, 1.0)
    _feed(coincidence, 0, 5.0, 6.0)
    _feed(coincidence, 0, 6.4, 20.0)
    _advance(coincidence, 0, 30.0)
    _feed(coincidence, 1, 5.5, 6.5)
    assert _advance(coincidence, 1, 8.0) == []
    _feed(coincidence, 2, 7.5)
    assert _advance(coincidence, 2, 7.0) == [True]
    assert _advance(coincidence, 2, 8.0) == []
    coincidence.feed(_trigger(2, 7.5, 8.5), "w")
    assert _advance(coincidence, 1, 30.0) == []
    (again,) = coincidence.advance(sid_of(2), T0 + 30 * SECOND, 0)
    assert (again.final, again.uid) == (True, "network-again-" + _uid(sid_of(1), T0 + 11 * SECOND // 2))


def test_an_onset_at_the_very_time_that_all_have_reached_may_still_be_tied() -> None:
    coincidence = _coincidence()
    _advance(coincidence, 2, 1.0)
    _feed(coincidence, 0, 3.0, 3.5)
    _feed(coincidence, 1, 5.0)
    _feed(coincidence, 0, 5.0)
    for number in (0, 1):
        assert _advance(coincidence, number, 6.0) == []
    assert _advance(coincidence, 2, 5.0) == []
    assert _advance(coincidence, 2, 5.01) == [False]


def test_one_channel_twice_is_no_network() -> None:
    coincidence = _coincidence(association=2.0)
    _feed(coincidence, 0, 5.0, 6.0)
    _feed(coincidence, 0, 7.0)
    assert _advance(coincidence, 0, 9.0) == []
    coincidence.feed(_trigger(0, 7.0, 8.0), "w")
    assert _advance(coincidence, 0, 20.0) == []
    assert coincidence.oldest_open_ns() == 1 << 62


def test_a_silent_channel_holds_network_events_until_patience_ends() -> None:
    coincidence = _coincidence(patience=10.0)
    _advance(coincidence, 2, 1.0, now=100.0)
    for number in (0, 1):
        _feed(coincidence, number, 2.0, 3.0)
        assert _advance(coincidence, number, 20.0, now=105.0) == []
    assert coincidence.next_deadline() == 110 * SECOND
    assert coincidence.poll(109 * SECOND) == []
    assert [t.final for t in coincidence.poll(110 * SECOND)] == [True]
    assert coincidence.next_deadline() is None


def test_no_deadline_lies_in_the_past_however_long_a_channel_is_dead() -> None:
    coincidence = _coincidence(patience=10.0)
    _advance(coincidence, 2, 1.0, now=0.0)
    _feed(coincidence, 0, 50.0, 60.0)
    _advance(coincidence, 1, 40.0, now=1000.0)
    _advance(coincidence, 0, 70.0, now=1000.0)
    assert coincidence.next_deadline() == 1010 * SECOND
    coincidence.poll(1010 * SECOND)
    assert coincidence.next_deadline() is None


def test_a_channel_that_wakes_up_counts_again() -> None:
    coincidence = _coincidence(patience=10.0)
    _advance(coincidence, 2, 1.0, now=0.0)
    _feed(coincidence, 0, 5.0, 6.0)
    _advance(coincidence, 0, 7.0, now=100.0)
    _advance(coincidence, 2, 30.0, now=101.0)
    for number in (0, 1):
        _feed(coincidence, number, 40.0, 41.0)
        assert _advance(coincidence, number, 50.0, now=102.0) == []
    assert _advance(coincidence, 2, 40.5, now=103.0) == [False]
    assert _advance(coincidence, 2, 41.5, now=103.0) == [True]


def test_what_comes_before_the_settled_is_counted() -> None:
    coincidence = _coincidence(patience=1.0)
    for number in (0, 1):
        _feed(coincidence, number, 5.0, 6.0)
        _advance(coincidence, number, 20.0, now=0.0)
    assert coincidence.counts["late"] == 0
    _feed(coincidence, 2, 4.0, 4.5)
    assert coincidence.counts["late"] == 1


def test_a_retracted_trigger_takes_no_part_and_holds_nothing() -> None:
    coincidence = _coincidence()
    _feed(coincidence, 0, 5.0)
    _feed(coincidence, 1, 5.0, 6.0)
    coincidence.retract(sid_of(0))
    coincidence.retract("FDSN:XX_NOBODY__E_H_Z")
    assert _advance(coincidence, 0, 10.0) == []
    assert _advance(coincidence, 1, 10.0) == []
    assert coincidence.oldest_open_ns() == 1 << 62


def test_a_channel_that_ends_holds_nothing_and_may_begin_again_earlier() -> None:
    coincidence = _coincidence()
    _advance(coincidence, 2, 9000.0)
    coincidence.end(sid_of(2), 0)
    _advance(coincidence, 2, 1.0)
    for number in (0, 1):
        _feed(coincidence, number, 5.0, 6.0)
        assert _advance(coincidence, number, 20.0) == []
    assert [t.final for t in coincidence.end(sid_of(2), 0)][-1:] == [True]


def test_flush_does_not_wait_for_channels_that_never_came() -> None:
    coincidence = _coincidence()
    coincidence.expect(sid_of(7), T0)
    for number in (0, 1):
        _feed(coincidence, number, 5.0, 6.0)
        _advance(coincidence, number, 20.0)
    assert [t.final for t in coincidence.flush()] == [True]


def test_memory_does_not_grow_with_time() -> None:
    coincidence = _coincidence()
    for second in range(0, 4000, 4):
        for number in range(3):
            _feed(coincidence, number, second + number, second + number + 1.5)
            _advance(coincidence, number, second + 4.0, now=float(second))
    state = coincidence.snapshot()
    assert all(len(held) < 20 for held in (state.channels, state.closed, state.late, state.unseen, state.noticed))
    assert len(state.groups) < 100
    assert len(coincidence._certain._heap) == len(coincidence._processed._heap) == 3
    for second in range(4000, 8000, 4):
        coincidence.end(sid_of(2), 0)
        _advance(coincidence, 2, second, now=float(second))
        for number in range(2):
            _feed(coincidence, number, second + number, second + number + 1.5)
            _advance(coincidence, number, second + 4.0, now=float(second))
        _advance(coincidence, 2, second + 4.0, now=float(second))
    assert len(coincidence._certain._heap) < 10
    assert len(coincidence._processed._heap) < 10


def test_channels_that_end_leave_nothing_behind() -> None:
    """Nor does one that begins again and again, though nothing ever triggers."""
    stage = Coincidence(NetworkConfig(min_channels=2), _uid)
    stage.advance(sid_of(0), T0, 0)
    for turn in range(5000):
        sid = sid_of(1 + turn % 700)
        stage.advance(sid, T0 + turn, 0)
        stage.end(sid, 0)
    assert len(stage._certain._heap) < 100
    assert len(stage._processed._heap) < 100
    assert [len(stage._certain._held), len(stage._channels)] == [1, 1]
    assert stage.end(sid_of(5), 0) == []
    for number in range(2):
        stage.feed(Trigger(sid_of(number), RATE, 5, T0 + SECOND, 9, T0 + 2 * SECOND), "w")
    assert stage.advance(sid_of(1), T0 + 9 * SECOND, 0) == []
    assert [len(found.members) for found in stage.advance(sid_of(0), T0 + 9 * SECOND, 0)] == [2]


class _Mine:
    """Five channels in a live mine, each second of which brings a second of data, and every 20 s an event on four."""

    def __init__(self, coincidence: Coincidence) -> None:
        self.stage = coincidence
        self.now_s = 1000

    def run(self, seconds: int, ordinary: Sequence[int], others: Mapping[int, Callable[[int], float]]) -> list[bool]:
        """Whether each network trigger is final. others: where a channel is that second, in seconds after T0."""
        out = []
        for _ in range(seconds):
            self.now_s += 1
            for number in ordinary:
                if self.now_s % 20 == 10:
                    _feed(self.stage, number, self.now_s - 1)
                if self.now_s % 20 == 12:
                    self.stage.feed(_trigger(number, self.now_s - 3, self.now_s - 1.5), "w")
                out += _advance(self.stage, number, self.now_s, now=self.now_s)
            for number, place_of in others.items():
                out += _advance(self.stage, number, place_of(self.now_s), now=self.now_s)
        return out


def test_a_channel_that_replays_a_backlog_holds_network_events_for_no_longer_than_patience() -> None:
    mine = _Mine(_coincidence(least=3, patience=10.0))
    assert mine.run(65, range(5), {}).count(True) == 3
    assert mine.stage.counts["late"] == 0
    mine.stage.end(sid_of(4), mine.now_s * SECOND)  # as when its clock is set back
    begun = mine.now_s
    held = mine.run(10, range(4), {4: lambda now: begun - 3600 + 3 * (now - begun)})
    assert held == []
    found = mine.run(90, range(4), {4: lambda now: begun - 3600 + 3 * (now - begun)})
    assert found == [True] + [False, True] * 4
    _feed(mine.stage, 4, begun - 3400, begun - 3390)
    assert mine.stage.counts["late"] == 1
    assert _advance(mine.stage, 4, begun - 3300, now=mine.now_s) == []
    _feed(mine.stage, 4, begun - 3300, begun - 3290)
    assert mine.stage.counts["late"] == 2
    assert mine.run(40, range(4), {4: float}) == [False, True] * 2
    _feed(mine.stage, 4, mine.now_s - 20, mine.now_s - 19)
    assert mine.stage.counts["late"] == 3
    assert mine.run(12, range(4), {4: lambda now: now - 8}) == []
    assert mine.run(8, range(4), {4: lambda now: now - 8}) == [False, True]


def test_a_channel_that_comes_back_with_the_backlog_of_its_silence_holds_nothing() -> None:
    mine = _Mine(_coincidence(least=3, patience=10.0))
    mine.run(60, range(5), {})
    mine.run(300, range(4), {})
    back = mine.now_s
    assert mine.run(20, range(4), {4: lambda now: back - 300 + 2 * (now - back)}) == [False, True]


@pytest.mark.parametrize("ahead", [[4], [3, 4]])
def test_clocks_of_fewer_than_half_that_run_ahead_do_not_part_the_others(ahead: list[int]) -> None:
    mine = _Mine(_coincidence(least=3, patience=10.0))
    found = mine.run(100, [0, 1, 2], {number: lambda now: now + 86_400 for number in ahead})
    assert found == [False, True] * 5


def test_what_is_possible_only_with_the_channel_that_lags_waits_for_it() -> None:
    mine = _Mine(_coincidence(least=3, patience=10.0))
    assert mine.run(100, [0, 1], {2: lambda now: now - 3600}) == []
    _feed(mine.stage, 2, 1009, 1010.5)
    assert _advance(mine.stage, 2, 1100, now=mine.now_s) == [True]


def test_a_channel_that_comes_back_with_the_present_counts_at_once() -> None:
    mine = _Mine(_coincidence(least=3, patience=40.0))
    mine.run(60, range(5), {})
    mine.run(307, range(4), {})
    assert mine.now_s % 20 == 7
    assert mine.run(4, range(4), {4: lambda now: now - 5}) == []


def test_while_all_read_a_backlog_one_may_be_far_ahead_of_another() -> None:
    """After an hour without the daemon: read in 36 s by four channels, in 46 s by the fifth, part of every event."""
    stage = _coincidence(least=3, patience=10.0)
    mine = _Mine(stage)
    mine.run(60, range(5), {})
    begun, found = mine.now_s, []
    mine.stage = _coincidence(least=3, patience=10.0)
    mine.stage.restore(stage.snapshot(), (begun + 3600) * SECOND)
    for second in range(1, 50):
        now = begun + 3600 + second
        for number in range(5):
            pace = 80 if number == 4 else 100
            fed = range(begun + pace * (second - 1), min(begun + pace * second, begun + 3600))
            for at in fed:
                if at % 20 == 10:
                    _feed(mine.stage, number, at, at + 1.5)
            to = min(begun + pace * second, now)
            found += mine.stage.advance(sid_of(number), T0 + to * SECOND, now * SECOND)
    finals = [t for t in found if t.final]
    assert len(finals) == 180
    assert {len(t.members) for t in finals} == {5}
    assert mine.stage.counts["late"] == 0


def test_a_race_is_no_lag_but_what_lasts_after_it_is() -> None:
    stage = _coincidence(least=2, patience=10.0)
    for now in range(1000, 1040):
        for number in range(2):
            _advance(stage, number, 100.0 * (now - 1000), now=now)
        _advance(stage, 2, now - 1000, now=now)
    reached = 3900
    for number in range(2):
        _feed(stage, number, reached + 0.1, reached + 0.5)
    found = {}
    for now in range(1040, 1060):
        for number in range(2):
            found[now] = _advance(stage, number, reached + now - 1039, now=now) or found.get(now, [])
        found[now] = _advance(stage, 2, now - 1000, now=now) or found[now]
    (settled,) = (now for now in found if found[now])
    assert 1049 <= settled <= 1051


def test_no_more_than_so_many_triggers_wait(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detect_network, "MOST_TRIGGERS", 100)
    stage = _coincidence(least=2, patience=1e6)
    _advance(stage, 2, 1.0, now=1000.0)
    found = []
    for second in range(2, 200):
        for number in range(2):
            _feed(stage, number, second, second + 0.5)
            found += _advance(stage, number, second + 1, now=1000.0 + second)
    assert stage.unsettled <= 101
    assert found.count(True) > 100
    for _ in range(300):
        _feed(stage, 0, 201.0)
        stage.retract(sid_of(0))
        _advance(stage, 0, 202.0, now=1500.0)
    assert len(stage._unseen) <= 101


class _Levels:
    """Two levels of a mine, three channels each, in turns an event on one and on the other, ten seconds apart."""

    def __init__(self) -> None:
        self.stage = _coincidence(least=3)
        self.found: list[NetworkTrigger] = []

    def second(self, numbers: Iterable[int], at: int, now: float) -> None:
        for number in numbers:
            if at % 20 == (5 if number < 3 else 15):
                _feed(self.stage, number, at - 1.0, at - 0.5)
            self.found += self.stage.advance(sid_of(number), T0 + at * SECOND, round(now * SECOND))

    def events(self, of: Iterable[int]) -> list[int]:
        """Seconds of the last words of these channels."""
        sids = {sid_of(number) for number in of}
        return [(t.onset_ns - T0) // SECOND for t in self.found if t.final and {sid for sid, _, _ in t.members} == sids]


@pytest.mark.parametrize("pace", [2, 20, 600])
def test_events_of_an_outage_come_with_its_backlog_however_far_the_others_are(pace: int) -> None:
    """They overlap nothing that was settled meanwhile. The three channels are read one after the other."""
    levels, queue = _Levels(), []
    for at in range(1, 1700):
        levels.second(range(3), at, 1000 + at)
        queue.append(at)
        if not 300 <= at < 900:
            for past in queue[:pace]:
                levels.second(range(3, 6), past, 1000 + at)
            queue = queue[pace:]
    assert levels.events(range(3)) == list(range(4, 1699, 20))
    assert levels.events(range(3, 6)) == list(range(14, 1699, 20))
    assert not [t for t in levels.found if not t.final and t.uid not in {u.uid for u in levels.found if u.final}]


def test_after_a_rest_one_server_may_be_read_ten_times_as_fast_as_another() -> None:
    levels, places = _Levels(), [0, 0]
    for turn in range(200):
        for level, pace in enumerate((200, 20)):
            begin, places[level] = places[level], min(places[level] + pace, 1200 + turn)
            for at in range(begin, places[level]):
                levels.second(range(3 * level, 3 * level + 3), at + 1, 2000 + turn)
    assert levels.events(range(3)) == list(range(4, 1399, 20))
    assert levels.events(range(3, 6)) == list(range(14, 1399, 20))


def test_a_clock_of_all_that_was_ahead_for_a_while_leaves_nothing_behind() -> None:
    levels, state_of = _Levels(), []
    for at in range(1, 900):
        if at == 480:
            for number in range(6):
                levels.stage.end(sid_of(number), (1000 + at) * SECOND)  # as when a clock is set back
        levels.second(range(6), at + (3600 if 300 <= at < 480 else 0), 1000 + at)
        if at == 700:
            state_of.append(levels.stage.snapshot())
            again = _coincidence(least=3)
            again.restore(state_of[0], (1000 + at) * SECOND)
            levels.stage = again
    assert [at for at in levels.events(range(3)) if 480 < at < 3000] == list(range(484, 899, 20))
    assert [at for at in levels.events(range(3, 6)) if 480 < at < 3000] == list(range(494, 899, 20))


def test_a_recorder_whose_clock_is_a_year_ahead_takes_nothing_from_the_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """Its triggers wait for the others to get there; they are bounded, and the first to go."""
    monkeypatch.setattr(detect_network, "MOST_TRIGGERS", 60)
    year, levels = 365 * 86_400, _Levels()
    for at in range(1, 1400):
        levels.second((0, 1, 2, 6), at, 1000 + at)
        levels.second(range(3, 6), year + at, 1000 + at)
    assert levels.events(range(3)) == list(range(4, 1399, 20))
    assert levels.events(range(3, 6)) == []
    assert levels.stage.unsettled <= 66
    assert levels.stage.counts["ahead"] > 100


def test_what_waits_of_channels_that_begin_to_lag_waits_on_for_the_slowest_of_them() -> None:
    levels, past = _Levels(), -3000
    for at in range(1, 61):
        levels.second(range(6), at, 1000 + at)
    for number in range(3, 6):
        levels.stage.end(sid_of(number), 1060 * SECOND)
    for at in range(61, 90):
        levels.second(range(3), at, 1000 + at)
        for number in range(3, 6):
            if at == 62 and number < 5:
                _feed(levels.stage, number, past + 0.5, past + 1.0)
            place = past + (at - 60) / (1 if number < 5 else 1000)
            levels.found += levels.stage.advance(sid_of(number), T0 + round(place * SECOND), (1000 + at) * SECOND)
    assert levels.events(range(3)) == [4, 24, 44, 64, 84], "which wait for none of them"
    assert levels.stage.unsettled == 2
    _feed(levels.stage, 5, past + 0.6, past + 0.9)
    (found,) = levels.stage.advance(sid_of(5), T0 + (past + 30) * SECOND, 1090 * SECOND)
    assert (found.final, {sid for sid, _, _ in found.members}) == (True, {sid_of(number) for number in range(3, 6)})


def test_an_early_notice_is_not_given_for_what_lags() -> None:
    levels = _Levels()
    for at in range(1, 400):
        levels.second(range(3), at, 1000 + at)
    for number in range(3, 6):
        levels.stage.advance(sid_of(number), T0 + 100 * SECOND, 1400 * SECOND)
    for at in range(400, 430):
        levels.second(range(3), at, 1000 + at)
    before = len(levels.found)
    for number in range(3, 6):
        _feed(levels.stage, number, 105.0)
        assert levels.stage.advance(sid_of(number), T0 + 106 * SECOND, 1430 * SECOND) == []
    assert len(levels.found) == before


def test_a_group_that_goes_on_is_known_however_many_late_ones_are_settled_meanwhile() -> None:
    groups = detect_network._Groups()
    goes_on = groups.reach(0, 10)
    for late in range(1, 200):
        groups.reach(-1000 * late, -1000 * late + 10)
        assert groups.reach(10 * late, 10 * late + 10) is goes_on
    assert (groups.of(5), len(groups.latest)) == (goes_on, detect_network._MOST_GROUPS)


def test_archives_wait_for_every_channel_however_far_behind(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(detect_network, "MOST_TRIGGERS", 100)
    stage = _coincidence(least=3)
    stage.expect(sid_of(4), T0)
    for number in range(4):
        for second in range(2, 200):
            _feed(stage, number, second, second + 0.5)
        assert _advance(stage, number, 86_400.0) == []
    assert len(stage.end(sid_of(4), 0)) == 198
