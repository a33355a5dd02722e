"""Windows across the components of a sensor: what they hold, who opens them, and that no packet decides it."""

from __future__ import annotations

import random
from collections.abc import Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_components import (
    AFTER,
    CODES,
    LENGTH,
    RATE,
    REACH,
    SPEC,
    STEP,
    alone_in,
    edges_of,
    mixed,
    plain,
    run,
    sid_of,
    signals_of,
    stage_for,
    stream_of,
    three,
    trigger_of,
)
from made_streams import SECOND, T0, blocks, cuts_of, noise_with_bursts, package_spec

from tscc_stream import components
from tscc_stream.messages import (
    Block,
    Characteristic,
    EndOfStream,
    Gap,
    Window,
    WindowDropped,
)
from tscc_stream.sampling import offset_ns
from tscc_stream.source_id import split_component
from tscc_stream.stages.extract import ComponentError, Extract, RatesDifferError
from tscc_stream.windows import normalise, plan_windows, uid_of


def test_each_column_is_the_window_of_its_component_bit_by_bit() -> None:
    signals = signals_of()
    queues = [stream_of(code, signals[code], [trigger_of("N", 400)] if code == "N" else []) for code in CODES]
    (window,) = run(stage_for(), [message for queue in queues for message in queue])
    assert isinstance(window, Window)
    expected = np.concatenate([alone_in(code, signals[code], 400).waveform for code in CODES], axis=1)
    assert np.array_equal(window.waveform, expected)
    assert np.array_equal(window.normalised, normalise(expected, "z"))
    assert (window.sid, window.uid) == (sid_of("N"), uid_of(sid_of("N"), T0 + 400 * STEP))
    assert window.peak_amplitude == float(np.abs(expected).max())
    assert window.peak_ratio == 7.0
    assert window.duration_s == AFTER / RATE


def test_the_order_of_columns_is_the_package_s() -> None:
    signals = signals_of()
    queues = [
        m for code in CODES for m in stream_of(code, signals[code], [trigger_of("Z", 400)] if code == "Z" else [])
    ]
    (zne,) = run(stage_for(), queues)
    (enz,) = run(stage_for(package_spec(channels=3, components=("E", "N", "Z"))), queues)
    assert isinstance(zne, Window)
    assert isinstance(enz, Window)
    assert np.array_equal(zne.waveform, enz.waveform[:, ::-1])


@given(
    order=st.randoms(use_true_random=False),
    cuts=st.lists(cuts_of(LENGTH), min_size=3, max_size=3),
    onsets=st.lists(st.tuples(st.sampled_from(CODES), st.integers(150, 950), st.integers(1, 60)), max_size=8),
    gap=st.integers(100, 900),
    min_seconds=st.sampled_from([0.0, 0.3]),
    phase=st.sampled_from([0, STEP // 3, STEP // 2]),
)
def test_no_cut_and_no_interleaving_decides_anything(
    order: random.Random, cuts: list[list[int]], onsets: list[tuple[str, int, int]], gap: int, min_seconds: float,
    phase: int,
) -> None:  # fmt: skip
    """Triggers of any component, a gap in one of them, grids that are shifted by up to half a sample."""
    signals = signals_of()

    def queue(number: int, chosen: Sequence[int]) -> list[Any]:
        code, start_ns = CODES[number], T0 + number * phase
        mine = [(on, length) for c, on, length in onsets if c == code]
        end = EndOfStream(sid_of(code))
        if number != 1:
            triggers = edges_of(code, mine, LENGTH - 1, start_ns=start_ns)
            return [*stream_of(code, signals[code], triggers, chosen, start_ns=start_ns), end]
        resumed = start_ns + (gap + 20) * STEP
        before = edges_of(code, [(on, n) for on, n in mine if on < gap], gap - 1, start_ns=start_ns)
        after = edges_of(code, [(on - gap, n) for on, n in mine if on >= gap], LENGTH - gap - 1, start_ns=resumed)
        return [
            *stream_of(code, signals[code][:gap], before, chosen, start_ns=start_ns),
            Gap(sid_of(code), start_ns + gap * STEP, resumed, "gap"),
            *stream_of(code, signals[code][gap:], after, [c - gap for c in chosen], start_ns=resumed),
            end,
        ]

    whole, other = stage_for(min_seconds=min_seconds), stage_for(min_seconds=min_seconds)
    expected = run(whole, [m for number in range(3) for m in queue(number, [])])
    got = run(other, mixed([queue(number, cuts[number]) for number in range(3)], order))
    assert plain(got) == plain(expected)
    assert whole.flush() == other.flush() == []
    assert whole.counts == other.counts


@given(
    onsets=st.lists(st.tuples(st.integers(0, 700), st.integers(1, 150)), max_size=8),
    cuts=cuts_of(LENGTH, 30),
    gaps=st.lists(st.integers(1, LENGTH - 1), max_size=2),
    rate=st.sampled_from([50.0, 100.0, 125.0]),
)
def test_a_package_of_one_component_makes_the_windows_of_a_single_channel(
    onsets: list[tuple[int, int]], cuts: list[int], gaps: list[int], rate: float
) -> None:
    signal = signals_of()["Z"]
    single = Extract(package_spec(), lambda _: 150.0, lambda _: 0.0)
    alone = stage_for(package_spec(components=("Z",)), clip=150.0)
    bounds = [0, *sorted(set(gaps)), LENGTH]
    messages: list[Any] = []
    for i, (begin, end) in enumerate(pairwise(bounds)):
        start_ns = T0 + i * 30 * SECOND + offset_ns(begin, rate)
        mine = [(on - begin, n) for on, n in onsets if begin <= on < end]
        triggers = edges_of("Z", mine, end - begin - 1, rate=rate, start_ns=start_ns)
        inside = [cut - begin for cut in cuts]
        messages += stream_of("Z", signal[begin:end], triggers, inside, rate=rate, start_ns=start_ns)
        messages.append(Gap(sid_of("Z"), start_ns + offset_ns(end - begin, rate), None, "gap"))
    messages.append(EndOfStream(sid_of("Z")))
    one, other = run(single, messages), run(alone, messages)
    assert sorted(plain(other)) == sorted(plain(one))
    assert alone.counts == single.counts


@pytest.mark.parametrize("arrival", ["ZNE", "ENZ", "NZE"])
def test_the_first_onset_opens_whoever_comes_first_and_the_others_are_counted(arrival: str) -> None:
    triggers = {"Z": [trigger_of("Z", 400)], "N": [trigger_of("N", 398)], "E": [trigger_of("E", 398 + AFTER)]}
    queues = dict(zip(CODES, three(triggers), strict=True))
    stage = stage_for()
    (window,) = run(stage, [message for code in arrival for message in queues[code]])
    assert (window.sid, window.onset_ns) == (sid_of("N"), T0 + 398 * STEP)
    assert stage.counts["suppressed"] == 2


def test_an_onset_is_decided_on_when_all_before_it_is_known_and_no_sample_earlier() -> None:
    """The last component's data are cut right before its own onset, which is the earlier one."""
    z, _, e = three({"Z": [trigger_of("Z", 400)]})
    before, trigger, after = stream_of("N", signals_of()["N"], [trigger_of("N", 398)], [398])
    stage = stage_for()
    assert run(stage, [*z, *e, before]) == []
    assert [m.sid for m in run(stage, [trigger, after])] == [sid_of("N")]


def test_what_has_not_come_yet_is_no_gap() -> None:
    sensor = components.Sensor(SPEC)
    for code in CODES:
        (block,) = blocks(signals_of()[code][:400], RATE, sid=sid_of(code))
        sensor.append(code, block, np.zeros(400))
    assert sensor.look(T0 + 400 * STEP) is None
    assert sensor.look(T0 + 398 * STEP) is None
    assert sensor.look(T0 + 395 * STEP - REACH * STEP) is not None
    sensor.tracks["N"].advance(T0 + 402 * STEP)
    assert sensor.look(T0 + 400 * STEP) is None
    for code in CODES:
        sensor.tracks[code].advance(T0 + 402 * STEP)
    assert sensor.look(T0 + 400 * STEP) == "gap"


def test_an_onset_after_the_window_makes_its_own_and_of_equal_onsets_the_package_s_first() -> None:
    late = 400 + AFTER + 1
    triggers = {"Z": [trigger_of("Z", 400)], "N": [trigger_of("N", 400)], "E": [trigger_of("E", late)]}
    queues = three(triggers)
    stage = stage_for()
    found = run(stage, [message for queue in reversed(queues) for message in queue])
    assert [(m.sid, m.onset_ns) for m in found] == [(sid_of("Z"), T0 + 400 * STEP), (sid_of("E"), T0 + late * STEP)]
    assert stage.counts["suppressed"] == 1


def test_every_trigger_knows_the_window_that_covers_it() -> None:
    stage = stage_for()
    z, n, e = three({"Z": [trigger_of("Z", 400)], "N": [trigger_of("N", 398)]})
    run(stage, z)
    mine = stage.covering(sid_of("Z"))
    assert mine == uid_of(sid_of("Z"), T0 + 400 * STEP)
    run(stage, n)
    opened = stage.covering(sid_of("N"))
    run(stage, e)
    assert stage.window_of(mine) == stage.window_of(opened) == opened
    assert stage.window_of("another") == "another"


def test_a_window_that_was_named_before_it_was_known_not_to_come_is_dropped_by_that_name() -> None:
    stage = stage_for()
    z, n, e = three({"Z": [trigger_of("Z", 400)], "N": [trigger_of("N", 398)]})
    run(stage, z)
    named = stage.window_of(stage.covering(sid_of("Z")))
    dropped, window = run(stage, [*n, *e])
    assert dropped == WindowDropped(named, sid_of("Z"), T0 + 400 * STEP, "pending")
    assert isinstance(window, Window)
    assert stage.counts["suppressed"] == 0


def test_only_so_many_triggers_are_remembered(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tscc_stream.stages.extract.MOST_REMEMBERED", 2)
    stage = stage_for()
    run(stage, stream_of("Z", signals_of()["Z"], [trigger_of("Z", on) for on in (200, 400, 600)]))
    assert len(stage._onsets) == 2


@pytest.mark.parametrize("arrival", ["ZNE", "EZN"])
@pytest.mark.parametrize("at", [390, 400, 420, 400 + REACH, 400 + REACH + 1])
def test_a_gap_in_any_component_drops_the_window_that_it_cuts(at: int, arrival: str) -> None:
    signals = signals_of()
    resumed = T0 + (at + 30) * STEP
    broken = [
        *stream_of("E", signals["E"][:at]),
        Gap(sid_of("E"), T0 + at * STEP, resumed, "gap"),
        *stream_of("E", signals["E"], start_ns=resumed),
    ]
    queues = {"Z": stream_of("Z", signals["Z"], [trigger_of("Z", 400)]), "N": stream_of("N", signals["N"]), "E": broken}
    (out,) = run(stage_for(), [message for code in arrival for message in queues[code]])
    assert getattr(out, "reason", "whole") == ("gap" if at <= 400 + REACH else "whole")


def test_after_a_break_has_spoilt_a_window_the_next_onset_opens_its_own() -> None:
    """As a single channel, where a break is a fresh start."""
    signals = signals_of()
    at, again = 402, 402 + plan_windows(SPEC, RATE).before + 3
    resumed = T0 + (at + 1) * STEP
    broken = [
        *stream_of("E", signals["E"][:at]),
        Gap(sid_of("E"), T0 + at * STEP, resumed, "gap"),
        *stream_of("E", signals["E"], start_ns=resumed),
    ]
    assert again < 400 + AFTER
    stage = stage_for()
    z = stream_of("Z", signals["Z"], [trigger_of("Z", 400), trigger_of("Z", 401)])
    n = stream_of("N", signals["N"], [trigger_of("N", again)])
    dropped, window = run(stage, [*broken, *n, *z])
    assert isinstance(dropped, WindowDropped)
    assert (dropped.onset_ns, dropped.reason) == (T0 + 400 * STEP, "gap")
    assert isinstance(window, Window)
    assert window.sid == sid_of("N")
    assert stage.counts["suppressed"] == 1


@pytest.mark.parametrize(("at", "windows"), [(LENGTH, 1), (420, 2)])
def test_an_onset_that_becomes_known_after_the_window_was_settled_still_lies_within_it(at: int, windows: int) -> None:
    """Unless the window came to nothing before it, here by a gap in another component."""
    signals, on = signals_of(), 450
    late = {on + 300: trigger_of("Z", on)}
    z: list[Any] = []
    for message in stream_of("Z", signals["Z"], [], range(50, LENGTH, 50)):
        due = [trigger for known, trigger in late.items() if message.block.index == known]
        z += [*([trigger_of("Z", 400)] if message.block.index == 700 else []), *due, message]
    resumed = T0 + (at + 1) * STEP
    gap = [Gap(sid_of("E"), T0 + at * STEP, resumed, "gap"), *stream_of("E", signals["E"], start_ns=resumed)]
    e = [*stream_of("E", signals["E"][:at]), *(gap if at < LENGTH else [])]
    out = run(stage_for(min_seconds=3.0), [*e, *stream_of("N", signals["N"]), *z])
    assert [m.onset_ns for m in out] == [T0 + 400 * STEP, T0 + on * STEP][:windows]
    assert [getattr(m, "reason", "") for m in out] == ["gap", ""][2 - windows :]


def test_a_component_too_young_for_the_window_makes_none() -> None:
    signals = signals_of()
    young = stream_of("N", signals["N"], start_ns=T0 + 395 * STEP)
    z, _, e = three({"Z": [trigger_of("Z", 400)]})
    (out,) = run(stage_for(), [*z, *young, *e])
    assert getattr(out, "reason", "") == "history"


def test_a_component_that_begins_after_the_onset_makes_none() -> None:
    z, _, e = three({"Z": [trigger_of("Z", 400)]})
    (out,) = run(stage_for(), [*z, *stream_of("N", signals_of()["N"], start_ns=T0 + 450 * STEP), *e])
    assert getattr(out, "reason", "") == "gap"


def _far(code: str, seconds: float) -> list[Any]:
    """Noise for so long, in blocks of a second."""
    samples = int(seconds * RATE)
    return stream_of(code, noise_with_bursts(9, samples), [trigger_of(code, 400)] if code == "Z" else [],
                   range(100, samples, 100))  # fmt: skip


def test_a_component_that_never_comes_is_waited_for_only_so_long() -> None:
    stage, out = stage_for(), []
    longest = components.LAG_SAMPLES / RATE + SPEC.samples / SPEC.sample_rate_hz
    for message in _far("Z", longest + 30):
        out = stage.feed(message)
        if out:
            break
    else:
        pytest.fail("still waits")
    assert [m.reason for m in out if isinstance(m, WindowDropped)] == ["component"]
    reached_ns = message.block.start_ns + SECOND - T0
    assert 400 * STEP < reached_ns - longest * SECOND < 400 * STEP + 2 * SECOND
    assert stage.oldest_pending_ns() == components.NEVER_NS
    (track,) = [track for track in next(iter(stage._groups.values())).sensor.tracks.values() if track.segments]
    assert track.segments[0].samples.size < components.LAG_SAMPLES + 1000


def test_the_end_of_all_data_settles_what_waits() -> None:
    stage = stage_for()
    assert run(stage, [*_far("Z", 10), *_far("N", 2), EndOfStream(sid_of("Z"))]) == []
    assert stage.oldest_pending_ns() == T0 + 400 * STEP
    assert [m.reason for m in stage.flush() if isinstance(m, WindowDropped)] == ["component"]
    assert stage.flush() == []


def test_a_component_that_ends_before_the_window_drops_it() -> None:
    z, _, e = three({"Z": [trigger_of("Z", 400)]})
    short = stream_of("N", signals_of()["N"][:390])
    (dropped,) = run(stage_for(), [*z, *e, *short, EndOfStream(sid_of("N"))])
    assert getattr(dropped, "reason", "") == "end"
    (dropped,) = run(stage_for(), [*z, *e, *stream_of("N", signals_of()["N"][:410]), EndOfStream(sid_of("N"))])
    assert getattr(dropped, "reason", "") == "end"
    assert stage_for().feed(EndOfStream(sid_of("N"))) == stage_for().feed(Gap(sid_of("N"), T0, None, "gap")) == []


def test_lasting_silence_is_waited_for_and_a_lasting_break_is_not() -> None:
    """A dead sensor's component sends records of one value: what was reached is known, though nothing is fed."""
    stage = stage_for()
    z, _, e = three({"Z": [trigger_of("Z", 400)]})
    dead = [*stream_of("N", signals_of()["N"][:300]), Gap(sid_of("N"), T0 + 300 * STEP, None, "flat")]
    assert run(stage, [*z, *e, *dead]) == []
    assert stage.advance(sid_of("N"), T0 + 350 * STEP) == []
    (dropped,) = stage.advance(sid_of("N"), T0 + 500 * STEP)
    assert getattr(dropped, "reason", "") == "gap"


@pytest.mark.parametrize(("shift_ns", "reason"), [(STEP // 2 - 2000, ""), (STEP // 2, "history"), (-STEP // 2, "")])
def test_grids_may_be_shifted_by_half_a_sample(shift_ns: int, reason: str) -> None:
    """The nearest sample is taken, in the middle the earlier one: here that is one too few before the onset."""
    signals = signals_of()
    before = plan_windows(SPEC, RATE).before
    z = stream_of("Z", signals["Z"], [trigger_of("Z", before)])
    n = stream_of("N", signals["N"], start_ns=T0 + shift_ns)
    (out,) = run(stage_for(), [*z, *n, *stream_of("E", signals["E"])])
    assert getattr(out, "reason", "") == reason


def _retimed(messages: list[Any], drift_ns: int) -> list[Any]:
    """Blocks whose stated times run away, each by less than half a sample, as where a clock is being corrected."""
    out = []
    for i, message in enumerate(messages):
        b = message.block
        moved = Block(b.sid, b.index, b.start_ns + i * drift_ns, b.sample_rate_hz, b.samples, b.quality)
        out.append(Characteristic(moved, message.values))
    return out


@pytest.mark.parametrize(("drift_ns", "reason"), [(0, ""), (STEP // 100, ""), (STEP // 3, "misaligned"),
                                                 (-STEP // 3, "misaligned")])  # fmt: skip
def test_components_whose_clocks_run_apart_within_the_window_make_none(drift_ns: int, reason: str) -> None:
    z, _, e = three({"Z": [trigger_of("Z", 400)]})
    n = _retimed(stream_of("N", signals_of()["N"], cuts=range(20, LENGTH, 20)), drift_ns)
    (out,) = run(stage_for(), [*z, *n, *e])
    assert getattr(out, "reason", "") == reason


def test_a_component_follows_its_stated_times() -> None:
    """Two samples were lost, less than makes a gap each: the window's column is cut at the time, not at the count."""
    signals = signals_of()
    z, _, e = three({"Z": [trigger_of("Z", 700)]})
    n = _retimed(stream_of("N", signals["N"], cuts=range(100, 500, 100)), STEP // 2 - 1)
    (window,) = run(stage_for(), [*z, *n, *e])
    assert isinstance(window, Window)
    assert np.array_equal(window.waveform[:, 1], alone_in("N", signals["N"], 698).waveform[:, 0])


def test_rates_that_differ_are_refused_by_name() -> None:
    stage = stage_for()
    stage.check(RATE, sid_of("Z"))
    run(stage, stream_of("Z", signals_of()["Z"]))
    stage.check(RATE * (1 + 1e-6), sid_of("N"))
    stage.check(200.0, sid_of("Z"))
    with pytest.raises(
        RatesDifferError, match="200 Hz, but component Z of its sensor has 100 Hz; model tiny takes Z, N"
    ):
        stage.check(200.0, sid_of("N"))
    with pytest.raises(ComponentError, match="component 'H' is none of those of model tiny: Z, N, E"):
        stage.check(RATE, sid_of("H"))
    with pytest.raises(ValueError, match="expected FDSN:"):
        stage.check(RATE, "Z")
    stage.feed(EndOfStream(sid_of("Z")))
    stage.check(200.0, sid_of("N"))


def test_windows_across_rates_are_dropped() -> None:
    signals = signals_of()
    z, n, _ = three({"Z": [trigger_of("Z", 400)]})
    fast = stream_of("E", np.repeat(signals["E"], 2), rate=200.0)
    (out,) = run(stage_for(), [*z, *n, *fast])
    assert getattr(out, "reason", "") == "rate"


@pytest.mark.parametrize("announced", [True, False])
def test_a_clock_that_is_set_back_begins_the_sensor_anew(announced: bool) -> None:
    """Nothing stays suppressed, nothing waits for the old times, and no window mixes the two."""
    signals, stage = signals_of(), stage_for()
    future = T0 + 10**17
    ahead = [stream_of(code, signals[code], start_ns=future) for code in CODES]
    opened = stream_of("Z", signals["Z"], [trigger_of("Z", 400, start_ns=future)], start_ns=future)
    assert run(stage, opened) == []
    back: list[Any] = [Gap(sid_of("Z"), future, T0, "clock")] if announced else []
    first = run(stage, [*back, *stream_of("Z", signals["Z"], [trigger_of("Z", 400)])])
    assert [m.reason for m in first if isinstance(m, WindowDropped)] == ["gap"]
    rest = run(stage, [*stream_of("N", signals["N"]), *stream_of("E", signals["E"])])
    assert [(m.sid, m.onset_ns) for m in rest] == [(sid_of("Z"), T0 + 400 * STEP)]
    assert len(ahead) == 3


def test_a_segment_that_lost_its_beginning_makes_no_window_before_it_has_a_warm_up() -> None:
    """Set back by one component, the others go on in the middle of their segments."""
    signals = signals_of()
    for on, reason in ((560, "history"), (700, "")):
        stage = stage_for()
        early = {code: stream_of(code, signals[code][:500]) for code in CODES}
        run(stage, [m for code in CODES for m in early[code]])
        stage.feed(Gap(sid_of("E"), T0 + 500 * STEP, T0 + 499 * STEP, "clock"))
        later = [
            *stream_of("Z", signals["Z"], [trigger_of("Z", on)], [500])[1:],
            *stream_of("N", signals["N"], [], [500])[1:],
            *stream_of("E", signals["E"], start_ns=T0 + 499 * STEP),
        ]
        (out,) = run(stage, [m for m in later if not isinstance(m, Characteristic) or m.block.index in (0, 500)])
        assert getattr(out, "reason", "") == reason


def test_flags_of_any_component_flag_the_window() -> None:
    signals = signals_of()
    signals["N"][410] = -5000.0
    signals["E"][405:425] = 7.0
    z = stream_of("Z", signals["Z"], [trigger_of("Z", 400)], [390, 450], quality=frozenset({"timing"}))
    (window,) = run(stage_for(clip=5000.0), [*z, *stream_of("N", signals["N"]), *stream_of("E", signals["E"])])
    assert isinstance(window, Window)
    assert window.quality == ("clipped", "flat", "timing")


def test_sensors_do_not_know_one_another() -> None:
    z, n, e = three({"Z": [trigger_of("Z", 400)]})
    elsewhere = [m for m in n if isinstance(m, Characteristic)]
    moved = [Characteristic(Block(sid_of("N", 1), m.block.index, m.block.start_ns, RATE, m.block.samples), m.values)
             for m in elsewhere]  # fmt: skip
    stage = stage_for()
    assert run(stage, [*z, *moved, *e]) == []
    assert len(run(stage, n)) == 1


def test_components_split_off_the_source_id() -> None:
    assert split_component("FDSN:BW_UH1__S_H_Z") == ("FDSN:BW_UH1__S_H", "Z")
    with pytest.raises(ValueError, match="expected FDSN:NET_STA"):
        split_component("FDSN:BW_UH1")


def test_what_ended_can_be_forgotten_and_with_the_last_component_its_sensor() -> None:
    stage = stage_for()
    assert stage.forget(sid_of("Z")) == []
    trigger = trigger_of("Z", 400)
    run(stage, stream_of("Z", signals_of()["Z"], [trigger]) + stream_of("N", signals_of()["N"]))
    for code in "ZN":
        assert stage.feed(EndOfStream(sid_of(code))) == []
    assert stage.forget(sid_of("N")) == []
    assert stage.oldest_pending_ns() == trigger.on_ns
    assert [(drop.onset_ns, drop.reason) for drop in stage.forget(sid_of("Z"))] == [(trigger.on_ns, "component")]  # type: ignore[union-attr]  # the test has put it there
    assert not stage._groups
    assert not stage._places
    alone = Extract(package_spec(), lambda _: None, lambda _: 0.0)
    assert alone.forget(sid_of("Z")) == []
