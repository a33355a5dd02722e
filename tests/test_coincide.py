"""Network events out of detections alone: when they equal those of one daemon, and what becomes of the rest."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from typing import Any, NamedTuple

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tscc_stream.apps.coincide_detections import FleetCoincidence, FleetState, UnreadableError
from tscc_stream.config import NetworkConfig
from tscc_stream.messages import NetworkEvent, Trigger
from tscc_stream.sampling import NS_PER_SECOND as SECOND
from tscc_stream.stages.detect_network import Coincidence
from tscc_stream.stages.interpret import NetworkVote
from tscc_stream.windows import uid_of

NETWORK = NetworkConfig(min_channels=3, association_seconds=0.2)
T0 = 1_700_000_000 * SECOND
WALL_NS = 2 * T0
SIDS = [f"FDSN:XX_{name}__H_H_Z" for name in "ABCDE"]


class Excursion(NamedTuple):
    """One trigger of a channel, and what its window was found to be."""

    channel: int
    on_ms: int
    lasts_ms: int
    cluster: int

    @property
    def on_ns(self) -> int:
        return T0 + self.on_ms * 1_000_000

    @property
    def off_ns(self) -> int:
        return self.on_ns + self.lasts_ms * 1_000_000

    @property
    def uid(self) -> str:
        return uid_of(SIDS[self.channel], self.on_ns)


def body(one: Excursion, **data: Any) -> bytes:
    known = one.cluster < 2
    about = {"id": one.cluster % 2, "name": f"kind {one.cluster}" if known else "unknown", "known": known}
    described = {
        "onset_ns": one.on_ns,
        "duration_s": one.lasts_ms / 1000,
        "cluster": {**about, "membership": [0.25, 0.75]},
        "window": {"sample_rate_hz": 1000.0},
        **data,
    }
    return json.dumps({"id": one.uid, "subject": SIDS[one.channel], "data": described}).encode()


def of_one_daemon(made: Sequence[Excursion]) -> list[NetworkEvent]:
    """What the stages give, which see every trigger of every channel."""
    coincidence, vote = Coincidence(NETWORK, uid_of), NetworkVote()
    for one in made:
        trigger = Trigger(SIDS[one.channel], 1000.0, 0, one.on_ns)
        coincidence.feed(replace(trigger, off_index=1, off_ns=one.off_ns), one.uid)
        vote.cast(one.uid, one.cluster if one.cluster < 2 else None, _name(one), (0.25, 0.75)[one.cluster % 2])
    return [event for trigger in coincidence.flush() for event in vote.feed(trigger)]


def _name(one: Excursion) -> str:
    return f"kind {one.cluster}" if one.cluster < 2 else "unknown"


def apart(made: list[Excursion]) -> list[Excursion]:
    """Those that one channel can have: one after the other."""
    kept: list[Excursion] = []
    for one in sorted(made, key=lambda one: one.on_ms):
        if all(one.on_ns > other.off_ns for other in kept if other.channel == one.channel):
            kept.append(one)
    return kept


excursions = st.lists(
    st.builds(Excursion, st.integers(0, 4), st.integers(0, 20_000), st.integers(1, 900), st.integers(0, 2)),
    max_size=40,
).map(apart)


def fed(coincidence: FleetCoincidence, made: Sequence[Excursion], lag_ns: Sequence[int]) -> list[NetworkEvent]:
    """Each detection arrives as long after its onset as its lag says; the time goes on by a tenth of a second."""
    waiting = sorted(((one.on_ns - T0 + lag, one) for one, lag in zip(made, lag_ns, strict=True)), key=lambda x: x[0])
    out: list[NetworkEvent] = []
    for now_ns in range(SECOND, 90 * SECOND, SECOND // 10):
        while waiting and waiting[0][0] <= now_ns:
            out += coincidence.feed(body(waiting.pop(0)[1]), now_ns, WALL_NS)
        out += coincidence.poll(now_ns, WALL_NS)
    return out


@given(excursions, st.data())
def test_where_every_trigger_has_a_window_that_outlasts_it_the_last_words_are_those_of_one_daemon(
    made: list[Excursion], data: st.DataObject
) -> None:
    lags = data.draw(st.lists(st.integers(8 * SECOND, 14 * SECOND), min_size=len(made), max_size=len(made)))
    coincidence = FleetCoincidence(NETWORK, 1.0, 10.0)
    given = fed(coincidence, made, lags)
    assert [one for one in given if one.final] == of_one_daemon(made)
    assert coincidence.counts["late"] == 0


@given(excursions, st.integers(0, 900))
def test_a_restart_amid_it_all_changes_nothing(made: list[Excursion], cut: int) -> None:
    whole = fed(FleetCoincidence(NETWORK, 1.0, 10.0), made, [9 * SECOND] * len(made))
    first, second = FleetCoincidence(NETWORK, 1.0, 10.0), FleetCoincidence(NETWORK, 1.0, 10.0)
    waiting = sorted(((one.on_ns - T0 + 9 * SECOND, one) for one in made), key=lambda pair: pair[0])
    given: list[NetworkEvent] = []
    for number, now_ns in enumerate(range(SECOND, 120 * SECOND, SECOND // 10)):
        if number == cut:
            kept = msgspec.msgpack.encode(first.snapshot())
            second.restore(msgspec.msgpack.decode(kept, type=FleetState), now_ns)
        one = first if number < cut else second
        while waiting and waiting[0][0] <= now_ns:
            given += one.feed(body(waiting.pop(0)[1]), now_ns, WALL_NS)
        given += one.poll(now_ns, WALL_NS)
    assert [event for event in given if event.final] == [event for event in whole if event.final]


def together(*channels: int, at_ms: int = 1000, **data: Any) -> list[bytes]:
    return [body(Excursion(channel, at_ms + 10 * channel, 500, 0), **data) for channel in channels]


def taken(coincidence: FleetCoincidence, bodies: Sequence[bytes], at_s: float) -> None:
    for one in bodies:
        coincidence.feed(one, round(at_s * SECOND), WALL_NS)


def polled(coincidence: FleetCoincidence, *seconds: float) -> list[tuple[float, bool, int]]:
    """When, whether final, how many channels."""
    return [(s, e.final, len(e.channels)) for s in seconds for e in coincidence.poll(round(s * SECOND), WALL_NS)]


def test_an_early_notice_and_a_last_word_of_one_uid() -> None:
    coincidence = FleetCoincidence(NETWORK, 2.0, 20.0)
    taken(coincidence, together(0, 1, 2), 10.0)
    events = [event for s in (11, 13) for event in coincidence.poll(s * SECOND, WALL_NS)]
    taken(coincidence, together(3), 15.0)
    events += [event for s in (16, 29, 31) for event in coincidence.poll(s * SECOND, WALL_NS)]
    assert [(event.final, len(event.channels)) for event in events] == [(False, 3), (True, 4)]
    assert len({event.uid for event in events}) == 1
    assert events[1].votes == {"kind 0": 4}


def test_what_comes_after_it_was_settled_is_counted_and_makes_no_second_event() -> None:
    coincidence = FleetCoincidence(NETWORK, 2.0, 5.0)
    taken(coincidence, together(0, 1, 2), 10.0)
    assert polled(coincidence, 13.0, 16.0) == [(13.0, False, 3), (16.0, True, 3)]
    taken(coincidence, together(3), 17.0)
    assert (polled(coincidence, 18.0, 30.0), coincidence.counts["late"]) == ([], 1)


def test_one_recorder_with_a_clock_that_is_ahead_makes_nothing_else_late() -> None:
    coincidence = FleetCoincidence(NETWORK, 2.0, 20.0)
    wall_ns = T0 + 12 * SECOND  # the others' detections come eleven seconds after their onsets
    ahead = body(Excursion(4, 3_600_000, 500, 0))
    coincidence.feed(ahead, 10 * SECOND, wall_ns)
    for one in together(0, 1, 2):
        coincidence.feed(one, 10 * SECOND, wall_ns)
    given = coincidence.poll(31 * SECOND, wall_ns + 21 * SECOND)
    assert [(event.final, len(event.channels)) for event in given if event.final] == [(True, 3)]
    assert coincidence.counts["late"] == 0


def test_recorders_that_are_years_ahead_do_not_end_network_events_for_good(monkeypatch: pytest.MonkeyPatch) -> None:
    """Their detections wait to be settled, and what waits is bounded."""
    monkeypatch.setattr("tscc_stream.stages.detect_network.MOST_TRIGGERS", 60)
    monkeypatch.setattr("tscc_stream.apps.coincide_detections.MOST_AHEAD", 20)
    coincidence = FleetCoincidence(NETWORK, 2.0, 20.0)
    years_ms, found = 5 * 365 * 86_400 * 1000, 0
    for number in range(50):
        at_ms = 30_000 * number
        made = [Excursion(channel, at_ms, 500, 0) for channel in (0, 1, 2)]
        made += [Excursion(channel, at_ms + years_ms, 500, 0) for channel in (3, 4)]
        for one in made:
            coincidence.feed(body(one), at_ms * 1_000_000, T0 + at_ms * 1_000_000 + SECOND)
        given = coincidence.poll(at_ms * 1_000_000 + 25 * SECOND, T0 + at_ms * 1_000_000 + 26 * SECOND)
        found += sum(event.final for event in given)
    assert (found, coincidence.counts["late"]) == (50, 0)
    assert coincidence.counts["ahead"] > 50


@pytest.mark.parametrize("restarted", [False, True])
def test_a_time_server_that_was_ahead_for_a_while_leaves_nothing_behind(restarted: bool) -> None:
    """Of the recorders and of this machine; how far data had come is written down, and read by a restart."""
    coincidence = FleetCoincidence(NETWORK, 2.0, 20.0)
    found: list[tuple[int, bool]] = []
    for at in range(1200):
        ahead = 3600 if 300 <= at < 400 else 0
        now_ns, wall_ns = (50 + at) * SECOND, T0 + (at + ahead) * SECOND
        if restarted and at == 390:
            state, coincidence = coincidence.snapshot(), FleetCoincidence(NETWORK, 2.0, 20.0)
            coincidence.restore(state, now_ns)
        if at % 20 == 10:
            for one in together(0, 1, 2, at_ms=1000 * (at + ahead - 3)):
                coincidence.feed(one, now_ns, wall_ns)
        found += [(at, event.final) for event in coincidence.poll(now_ns, wall_ns)]
    late = [final for at, final in found if at >= 410]
    assert (late.count(True), late.count(False)) == (39, 40)


def test_what_is_written_down_of_detections_that_were_seen_is_bounded(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tscc_stream.apps.coincide_detections.MOST_WRITTEN", 3)
    first, second = FleetCoincidence(NETWORK, 1.0, 10.0), FleetCoincidence(NETWORK, 1.0, 10.0)
    made = [together(0, at_ms=1000 * number)[0] for number in range(1, 6)]
    taken(first, made, 9.0)
    second.restore(first.snapshot(), 10 * SECOND)
    assert len(first.snapshot().seen) == 3
    taken(second, made[-3:], 10.0)
    assert second.counts["repeated"] == 3, "the latest are known again"


def test_the_same_detection_of_two_publishers_counts_once() -> None:
    """As after a station has gone to another shard, which reads a little of the past again."""
    coincidence = FleetCoincidence(NETWORK, 2.0, 20.0)
    taken(coincidence, [*together(0, 1), *together(0, 1)], 10.0)
    assert (polled(coincidence, 40.0), coincidence.counts["repeated"]) == ([], 2)


def test_a_trigger_that_outlasts_its_window_counts_as_ended_with_it() -> None:
    """The difference to one daemon: here two events, there one chain of three channels."""
    made = [Excursion(0, 0, 3000, 0), Excursion(1, 2000, 500, 0), Excursion(2, 2200, 500, 0)]
    assert [len(event.channels) for event in of_one_daemon(made)] == [3]
    coincidence = FleetCoincidence(NETWORK, 2.0, 20.0)
    cut_short = [body(made[0], duration_s=1.5), body(made[1]), body(made[2])]
    taken(coincidence, cut_short, 10.0)
    assert polled(coincidence, 40.0) == []


@pytest.mark.parametrize(
    "wrong",
    [
        b"",
        b"{}",
        b"\xff",
        body(Excursion(0, 0, 1, 0), onset_ns=2**70),
        body(Excursion(0, 0, 1, 0), onset_ns=2**63 - 1),
        body(Excursion(0, 0, 1, 0), duration_s=-1.0),
        body(Excursion(0, 0, 1, 0), duration_s=1e300),
        body(Excursion(0, 0, 1, 0), cluster={"id": 7, "name": "x", "known": True, "membership": []}),
    ],
)
def test_what_is_no_detection_is_said_and_changes_nothing(wrong: bytes) -> None:
    coincidence = FleetCoincidence(NETWORK, 2.0, 20.0)
    with pytest.raises(UnreadableError):
        coincidence.feed(wrong, SECOND, WALL_NS)
    taken(coincidence, together(0, 1, 2), 10.0)
    assert polled(coincidence, 40.0)[-1] == (40.0, True, 3)
