"""Rules: what they match, what a blast hides and what it never hides, rates, cool-down, acknowledgement, restarts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from itertools import combinations, pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tscc_stream.apps.alert_events import Event, EventReader
from tscc_stream.apps.alert_rules import Outcome, Rate, Rules
from tscc_stream.apps.alert_times import Announced
from tscc_stream.apps.alert_told import Alert, Repetition, Withheld
from tscc_stream.config_alerts import AlertsConfig, RateConfig

SECOND = 10**9
NOON = 1_767_268_800 * SECOND  # 2026-01-01T12:00:00Z
UTC = ZoneInfo("UTC")
SHIFTS = {"day": "06:00-18:00", "night": "18:00-06:00"}


def event(number: int = 0, **over: Any) -> Event:
    made = Event(
        "network",
        f"uid-{number}",
        NOON + number * SECOND,
        "microseismic",
        ("SM.S001..GHZ", "SM.S002..GHZ"),
        100.0,
        votes=2,
    )
    return replace(made, **over)


def rules_of(*rules: dict[str, Any], states: dict[str, bytes] | None = None, **over: Any) -> Rules:
    named = [{"name": f"rule {number}", **rule} for number, rule in enumerate(rules)]
    return Rules(AlertsConfig.model_validate({"rules": named, **over}), SHIFTS, UTC, states)


def whys(outcomes: Sequence[Outcome | Repetition]) -> list[str]:
    return [one.why if isinstance(one, Withheld) else getattr(one, "kind", "repetition") for one in outcomes]


@pytest.mark.parametrize(
    ("rule", "one", "matches"),
    [
        ({}, {}, True),
        ({"kind": "detection"}, {}, False),
        ({"clusters": ["microseismic", "blast"]}, {}, True),
        ({"clusters": ["blast"]}, {}, False),
        ({"clusters": ["unknown"]}, {"cluster": "unknown"}, True),
        ({"channels": ["*.S002.*"]}, {}, True),
        ({"channels": ["*.S003.*"]}, {}, False),
        ({"least_votes": 2}, {}, True),
        ({"least_votes": 3}, {}, False),
        ({"least_channels": 2}, {}, True),
        ({"least_channels": 3}, {}, False),
        ({"least_amplitude": 100.0}, {}, True),
        ({"least_amplitude": 100.5}, {}, False),
        ({"least_amplitude": 100.5}, {"amplitude": None}, True),
        ({"kind": "detection", "least_membership": 0.9}, {"kind": "detection", "membership": 0.9}, True),
        ({"kind": "detection", "least_membership": 0.9}, {"kind": "detection", "membership": 0.8}, False),
        ({"hours": ["11:00-12:00"]}, {}, False),
        ({"hours": ["12:00-12:01"]}, {}, True),
        ({"shifts": ["night"]}, {}, False),
        ({"shifts": ["day"], "days": ["thu"]}, {}, True),
        ({"days": ["fri"]}, {}, False),
        ({"wait_for_final": True}, {"final": False}, False),
        ({}, {"final": False}, True),
        ({}, {"final": False, "voted": False, "cluster": "unknown"}, False),
    ],
)
def test_everything_that_a_rule_asks_must_hold(rule: dict[str, Any], one: dict[str, Any], matches: bool) -> None:
    assert whys(rules_of(rule).feed(event(**one), NOON)) == ["event"] * matches


def test_an_early_notice_and_its_last_word_are_one_alert() -> None:
    rules = rules_of({"cooldown_seconds": 0.0}, {"least_votes": 3, "cooldown_seconds": 0.0})
    early = rules.feed(event(final=False), NOON)
    assert [one.told.name for one in early if isinstance(one, Alert)] == ["rule 0"]
    last = rules.feed(event(votes=3), NOON + SECOND)
    assert [one.told.name for one in last if isinstance(one, Alert)] == ["rule 1"]
    assert rules.feed(event(votes=3), NOON + SECOND) == []


BLASTING = {
    "suppression": [{"reason": "blast", "hours": ["12:00-12:10"]}],
    "suppress_below_amplitude": 1000.0,
}


@pytest.mark.parametrize(
    ("rule", "one", "why"),
    [
        ({}, {}, "suppressed"),
        ({}, {"amplitude": 999.9}, "suppressed"),
        ({}, {"amplitude": 1000.0}, "event"),
        ({}, {"amplitude": None}, "event"),
        ({}, {"cluster": "unknown"}, "event"),
        ({"always": True}, {}, "event"),
        ({}, {"onset_ns": NOON - 1}, "event"),
        ({}, {"onset_ns": NOON + 600 * SECOND}, "event"),
    ],
)
def test_a_blast_hides_what_is_known_and_small(rule: dict[str, Any], one: dict[str, Any], why: str) -> None:
    assert whys(rules_of(rule, **BLASTING).feed(event(**one), NOON)) == [why]


@given(
    amplitude=st.none() | st.floats(0, 2000),
    cluster=st.sampled_from(["unknown", "blast", "microseismic"]),
    always=st.booleans(),
    announced=st.booleans(),
    below=st.floats(0, 2000),
)
def test_no_window_ever_hides_an_event_that_is_unknown_or_large(
    amplitude: float | None, cluster: str, always: bool, announced: bool, below: float
) -> None:
    rules = rules_of({"always": always}, **{**BLASTING, "suppress_below_amplitude": below})
    if announced:
        rules.announce([Announced(0, 2 * NOON, "drilling")])
    told = whys(rules.feed(event(amplitude=amplitude, cluster=cluster), NOON))
    may_be_hidden = not always and cluster != "unknown" and amplitude is not None and amplitude < below
    assert told == (["suppressed"] if may_be_hidden else ["event"])


def test_an_event_that_turns_out_larger_or_unknown_is_told_after_all() -> None:
    for later in ({"amplitude": 5000.0}, {"cluster": "unknown"}):
        rules = rules_of({}, **BLASTING)
        assert whys(rules.feed(event(final=False), NOON)) == ["suppressed"]
        assert whys(rules.feed(event(final=False), NOON)) == [], "counted once"
        assert whys(rules.feed(event(**later), NOON)) == ["event"]


@given(st.lists(st.integers(0, 60), min_size=1, max_size=14), st.integers(2, 4), st.integers(1, 20))
def test_a_rate_is_reached_where_some_window_with_the_event_holds_enough(
    onsets: list[int], count: int, seconds: int
) -> None:
    rate = Rate(RateConfig(count=count, seconds=float(seconds)))
    for at, onset in enumerate(onsets):
        before = onsets[max(0, at + 1 - 4 * count) : at]
        expected = any(max(*those, onset) - min(*those, onset) < seconds for those in combinations(before, count - 1))
        uids = rate.add(onset * SECOND, str(at))
        assert bool(uids) == expected
        assert not uids or (str(at) in uids and len(uids) == count)


_STEP = st.tuples(st.integers(0, 40), st.booleans())


@given(st.lists(_STEP, max_size=25), st.integers(1, 60))
def test_within_a_cool_down_there_is_one_alert_and_none_is_forgotten(
    steps: list[tuple[int, bool]], cooldown: int
) -> None:
    """Alerts are at least the cool-down apart, and each event is told, or counted by a later alert, or still held."""
    rules = rules_of({"cooldown_seconds": float(cooldown)})
    now, told, counted, fed = NOON, list[int](), 0, 0
    for number, (seconds, fires) in enumerate(steps):
        now += seconds * SECOND
        outcomes: list[Any] = list(rules.poll(now))
        if fires:
            outcomes += rules.feed(event(number, onset_ns=now), now)
            fed += 1
        for one in outcomes:
            if isinstance(one, Alert):
                told.append(now)
                counted += one.cause["held_before"] + (one.kind == "event")
    assert all(later - earlier >= cooldown * SECOND for earlier, later in pairwise(told))
    last = [one for one in rules.poll(now + cooldown * SECOND) if isinstance(one, Alert)]
    assert counted + sum(one.cause["held_before"] for one in last) == fed


def test_a_clock_that_was_set_back_ends_a_cool_down() -> None:
    rules = rules_of({"cooldown_seconds": 300.0}, stale_after_seconds=None)
    assert whys(rules.feed(event(1), NOON)) == ["event"]
    assert whys(rules.feed(event(2), NOON + SECOND)) == ["cooldown"]
    assert whys(rules.feed(event(3), NOON - 3600 * SECOND)) == ["event"]


def test_repetition_ends_with_an_answer_and_so_does_what_was_held_back() -> None:
    rules = rules_of({"cooldown_seconds": 10.0, "repeat_seconds": 60.0})
    (alert,) = rules.feed(event(), NOON)
    assert isinstance(alert, Alert)
    assert rules.poll(NOON + 59 * SECOND) == []
    (first,) = rules.poll(NOON + 60 * SECOND)
    assert isinstance(first, Repetition)
    assert (first.alert, first.round) == (alert.id, 1)
    assert rules.poll(NOON + 61 * SECOND) == []
    rules.acknowledge("another")
    assert whys(rules.poll(NOON + 120 * SECOND)) == ["repetition"]
    rules.acknowledge(alert.id)
    assert rules.poll(NOON + 1000 * SECOND) == []
    (again,) = rules.feed(event(1001), NOON + 1001 * SECOND)
    assert whys(rules.feed(event(1002), NOON + 1002 * SECOND)) == ["cooldown"]
    assert isinstance(again, Alert)
    rules.acknowledge(again.id)
    assert rules.poll(NOON + 1050 * SECOND) == []
    (last,) = rules.feed(event(1051), NOON + 1051 * SECOND)
    assert isinstance(last, Alert)
    assert last.cause["held_before"] == 1


def test_what_comes_after_an_answer_is_told_when_the_cooldown_ends() -> None:
    rules = rules_of({"cooldown_seconds": 3600.0})
    (alert,) = rules.feed(event(0), NOON)
    assert isinstance(alert, Alert)
    rules.feed(event(60), NOON + 60 * SECOND)
    rules.acknowledge(alert.id)
    assert whys(rules.feed(event(120), NOON + 120 * SECOND)) == ["cooldown"]
    rules.acknowledge(alert.id)  # as with whatever else people say
    assert rules.next_more_ns() == NOON + 3600 * SECOND
    (more,) = rules.poll(NOON + 3600 * SECOND)
    assert isinstance(more, Alert)
    assert (more.kind, more.cause["held_before"]) == ("more", 2)


def test_repetitions_come_to_an_end() -> None:
    rules = rules_of({"repeat_seconds": 1.0})
    rules.feed(event(), NOON)
    rounds = [whys(rules.poll(NOON + s * SECOND)) for s in range(1, 40)]
    assert sum(len(one) for one in rounds) == 12


def test_old_events_are_told_once_as_a_digest() -> None:
    rules = rules_of({}, stale_after_seconds=600.0)
    now = NOON + 3600 * SECOND
    for number in range(5):
        (late,) = rules.feed(event(number), now)
        assert isinstance(late, Withheld)
        assert late.why == "late"
        assert rules.poll(now) == []
    assert whys(rules.feed(event(9, onset_ns=now - 60 * SECOND), now)) == ["event"], "a minute old is not old"
    (digest,) = rules.poll(now + 5 * SECOND)
    assert isinstance(digest, Alert)
    assert (digest.kind, digest.cause["count"]) == ("digest", 5)
    assert rules.poll(now + 100 * SECOND) == []


@given(st.lists(st.tuples(st.integers(0, 30), st.booleans()), max_size=20), st.integers(0, 20))
def test_a_restart_changes_nothing(steps: list[tuple[int, bool]], restart: int) -> None:
    rule = {"cooldown_seconds": 20.0, "repeat_seconds": 45.0, "rate": {"count": 2, "seconds": 30.0}}

    def outcomes(restarts: bool) -> list[Any]:
        rules, states, now, got = rules_of(rule), dict[str, bytes](), NOON, list[Any]()
        for number, (seconds, fires) in enumerate(steps):
            now += seconds * SECOND
            got += rules.poll(now)
            got += rules.feed(event(number, onset_ns=now - 5 * SECOND), now) if fires else []
            states |= rules.changes()
            if restarts and number == restart:
                rules = rules_of(rule, states=states)
        return got

    assert outcomes(restarts=True) == outcomes(restarts=False)


def test_events_are_read_out_of_messages() -> None:
    reader = EventReader()

    def detection(uid: str, amplitude: float | None, quality: Sequence[str] = (), known: bool = True) -> Event:
        cluster = {"id": 1, "name": "blast" if known else "unknown", "membership": [0.1, 0.9], "known": known}
        data = {"onset_ns": 5, "peak_amplitude": amplitude, "quality": list(quality), "cluster": cluster}
        body = {"type": "tscc.detection.v1", "id": uid, "subject": "FDSN:SM_S001__G_H_Z", "data": data}
        made = reader.read(body)
        assert made is not None
        return made

    first = detection("a", 10.0)
    assert (first.cluster, first.membership, first.channels) == ("blast", 0.9, ("SM.S001..GHZ",))
    assert detection("b", 30.0, known=False).unknown
    assert detection("c", 99.0, ["clipped"]).amplitude is None, "what the recorder cut off may have been larger"

    def network(detections: list[str], **over: Any) -> Event:
        data = {
            "onset_ns": 7, "channels": ["FDSN:SM_S001__G_H_Z"], "detections": detections, "final": True,
            "votes": {"blast": 2, "drilling": 1}, "cluster": {"id": 1, "name": "blast"}, **over,
        }  # fmt: skip
        made = reader.read({"type": "tscc.network_event.v1", "id": "n", "data": data})
        assert made is not None
        return made

    assert (network(["a", "b"]).amplitude, network(["a"]).votes) == (30.0, 2)
    assert [network(those).amplitude for those in (["a", "c"], ["a", "never seen"], [])] == [None, None, None]
    four = {"channels": [f"FDSN:SM_S00{number}__G_H_Z" for number in range(4)]}
    assert network(["a", "b"], **four, votes={"blast": 4}).amplitude == 30.0
    dropped = [network(["a", "b"], **four, votes={"blast": 3}, final=final) for final in (False, True)]
    assert [one.amplitude for one in dropped] == [None, None], "the window that was dropped may have been the largest"
    assert network(["a"], cluster={"id": None, "name": "unknown"}).unknown
    assert reader.read({"type": "tscc.status.v1"}) is None
    with pytest.raises(KeyError):
        reader.read({"type": "tscc.detection.v1", "id": "x", "subject": "y"})
