"""Watches: silence begins and ends, once each; what is known of it outlives a restart; sensor health."""

from __future__ import annotations

from collections.abc import Sequence
from itertools import pairwise
from typing import Any
from zoneinfo import ZoneInfo

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tscc_stream.apps.alert_health import Facts, SensorHealth
from tscc_stream.apps.alert_told import Alert, Repetition
from tscc_stream.apps.alert_watches import Watches
from tscc_stream.config_alerts import AlertsConfig
from tscc_stream.stages.journal import GapEntry

SECOND = 10**9
NOON = 1_767_268_800 * SECOND  # 2026-01-01T12:00:00Z
SHIFTS = {"day": "06:00-18:00", "night": "18:00-06:00"}
A, B = "FDSN:SM_S001__G_H_Z", "FDSN:SM_S002__G_H_Z"
WELL = Facts(state="ok")


class Clock:
    """Watches with a time that goes on: wall and monotonic seconds move together, unless they are told not to."""

    def __init__(self, *watches: dict[str, Any], states: dict[str, bytes] | None = None, s: float = 0.0) -> None:
        named = [{"name": f"watch {number}", **watch} for number, watch in enumerate(watches)]
        alerts = AlertsConfig.model_validate({"watches": named})
        self.s = self.heard_s = s
        self.watches = Watches(alerts, SHIFTS, ZoneInfo("UTC"), s, states)

    @property
    def now_ns(self) -> int:
        return NOON + round(self.s * SECOND)

    def say(self, kind: str, **data: Any) -> None:
        self.watches.status(kind, data, self.now_ns)

    def wall(self, one: Watches | SensorHealth) -> tuple[int, ...]:
        """What `status` is given beside the message."""
        return (self.now_ns,) if isinstance(one, Watches) else ()

    def at(self, s: float, facts: Facts = WELL, heard: bool = True) -> list[str]:
        """Kinds of alerts at a second."""
        self.s = s
        self.heard_s = s if heard else self.heard_s
        self.told: Sequence[Alert | Repetition] = self.watches.poll(self.now_ns, s, self.heard_s, facts)
        return [one.kind if isinstance(one, Alert) else f"repetition {one.round}" for one in self.told]


@pytest.mark.parametrize(
    ("kind", "ill"),
    [
        ("data", Facts(state="ok", silent={"s:1": 600.0})),
        ("data", Facts(state="ok", away=frozenset({"s:2"}))),
        ("journal", Facts(state="journal", reason="disk full")),
        ("daemon", Facts(state="stalled", stalled=("back",))),
    ],
)
def test_a_daemon_that_does_not_answer_is_not_well_again(kind: str, ill: Facts) -> None:
    """Nobody is told that it is over, nor told anew, only because /healthz cannot be read for a while."""
    clock = Clock({"kind": kind, "after_seconds": 10.0, "cooldown_seconds": 0.0})
    assert [*clock.at(0, ill), *clock.at(10, ill)] == ["silence"]
    assert [*clock.at(15, Facts()), *clock.at(100, Facts()), *clock.at(105, ill)] == []
    assert clock.at(110) == ["over"]


def test_the_daemon_falls_silent_and_is_back() -> None:
    clock = Clock({"kind": "daemon", "after_seconds": 30.0, "repeat_seconds": 100.0})
    assert clock.at(0) == []
    assert clock.at(29, heard=False) == []
    assert clock.at(30, heard=False) == ["silence"]
    assert clock.told[0].cause["sentences"] == ["nothing heard from the daemon for 30 s"]  # type: ignore[union-attr]  # the test has put it there
    assert clock.at(31, heard=False) == []
    assert clock.at(131, heard=False) == ["repetition 1"]
    assert clock.at(132) == ["over"]
    assert clock.at(1000) == []


def test_silence_is_counted_in_monotonic_time() -> None:
    """The wall clock is set forward by a year: nothing has been silent for a year."""
    clock = Clock({"kind": "daemon"}, {"kind": "triggers"})
    assert clock.watches.poll(NOON + 365 * 86_400 * SECOND, 1.0, 0.5, WELL) == []


def test_stuck_threads_of_the_daemon() -> None:
    clock = Clock({"kind": "daemon"})
    assert clock.at(1, Facts(state="stalled", stalled=("back",))) == ["silence"]
    assert clock.at(2) == ["over"]


def test_data_of_servers_and_channels() -> None:
    clock = Clock({"kind": "data", "cooldown_seconds": 60.0}, {"kind": "data", "channels": ["*.S002.*"]})
    clock.say("data", server="s:1", sid=A, state="SILENT", age_s=61.0)
    assert [one.told.name for one in _alerts(clock, 0)] == ["watch 0"]
    clock.say("data", server="s:1", sid=B, state="SILENT", age_s=61.0)
    assert [one.told.name for one in _alerts(clock, 1)] == ["watch 1"], "the first one's cool-down holds it back"
    (both,) = _alerts(clock, 60)
    assert both.cause["sentences"] == ["SM.S001..GHZ: no data for 61 s", "SM.S002..GHZ: no data for 61 s"]
    clock.say("data", server="s:1", sid=A, state="OK", age_s=0.0)
    assert clock.at(61) == []
    clock.say("data", server="s:1", sid=B, state="OK", age_s=0.0)
    assert clock.at(62) == ["over", "over"]


def _alerts(clock: Clock, s: float, facts: Facts = WELL) -> list[Alert]:
    clock.at(s, facts)
    return [one for one in clock.told if isinstance(one, Alert)]


def test_a_server_that_never_sent() -> None:
    clock = Clock({"kind": "data"})
    (alert,) = _alerts(clock, 1, Facts(state="ok", silent={"s:1": None}))
    assert alert.cause["sentences"] == ["s:1: no data since the daemon started"]


def test_a_link_that_stays_away() -> None:
    clock = Clock({"kind": "data", "after_seconds": 60.0})
    clock.say("seedlink", server="s:1", actual="s:1", connected=False, text="refused")
    assert clock.at(59) == []
    clock.say("seedlink", server="s:1", actual="s:1", connected=False, text="refused again")
    assert clock.at(60) == ["silence"]
    clock.say("seedlink", server="s:1", actual="s:1", connected=True)
    assert clock.at(61) == ["over"]


def test_what_was_said_before_the_first_start() -> None:
    """The messages of then are not read; the daemon still says so when it is asked."""
    clock = Clock({"kind": "data", "after_seconds": 60.0, "cooldown_seconds": 0.0})
    silent = Facts(state="ok", silent={"s:1": 600.0, A: 700.0}, away=frozenset({"s:2"}))
    (alert,) = _alerts(clock, 0, silent)
    assert alert.cause["sentences"] == ["SM.S001..GHZ: no data for 700 s", "s:1: no data for 600 s"]
    assert clock.at(59, silent) == []
    (alert,) = _alerts(clock, 60, silent)
    assert alert.cause["sentences"][2] == "s:2: not connected"
    assert clock.at(61) == ["over"]


def test_flapping_is_told_once_per_cool_down() -> None:
    clock = Clock({"kind": "data", "cooldown_seconds": 300.0})
    told = []
    for s in range(0, 600, 10):
        clock.say("data", server="s:1", state="SILENT" if s % 20 == 0 else "OK", age_s=60.0)
        told += clock.at(s)
    assert told == ["silence", "over", "silence", "over"]


def test_no_triggers_where_there_should_be() -> None:
    clock = Clock({"kind": "triggers", "after_seconds": 600.0, "hours": ["12:00-13:00"]})
    clock.watches.detection("SM.S001..GHZ", 0.0)
    assert clock.at(599) == []
    assert clock.at(601) == ["silence"]
    clock.watches.detection("SM.S001..GHZ", 700.0)
    assert clock.at(701) == ["over"]
    assert clock.at(3601) == [], "outside its hours"


def test_hours_hold_over_the_whole_silence() -> None:
    clock = Clock({"kind": "triggers", "after_seconds": 600.0, "hours": ["12:30-13:30"]})
    assert clock.at(1810) == [], "silent since long, in a time when nothing is expected"
    assert clock.at(2410) == ["silence"]


def test_a_journal_that_cannot_be_written() -> None:
    clock = Clock({"kind": "journal", "after_seconds": 30.0})
    failing = Facts(state="journal", reason="disk full")
    assert clock.at(0, failing) == []
    assert clock.at(30, failing) == ["silence"]
    assert clock.told[0].title == "the journal cannot be written: disk full"  # type: ignore[union-attr]  # the test has put it there
    assert clock.at(31) == ["over"]
    assert [clock.at(s, failing) for s in (400, 429)] == [[], []], "counted anew"


def test_losses_of_data() -> None:
    def lost(sid: str, seconds: int, noted_s: int = 0) -> GapEntry:
        return GapEntry(sid, NOON, NOON + seconds * SECOND, "link", NOON + noted_s * SECOND)

    clock = Clock({"kind": "gaps", "after_seconds": 60.0, "cooldown_seconds": 100.0})
    old = GapEntry(A, 0, 3600 * SECOND, "link", NOON - 7200 * SECOND)
    assert clock.at(0, Facts(gaps=(lost(A, 59), old))) == []
    assert clock.at(1, Facts(gaps=(lost(A, 60),))) == ["silence"]
    assert clock.told[0].title == "SM.S001..GHZ: 60 s lost (link)"  # type: ignore[union-attr]  # the test has put it there
    assert clock.at(2, Facts(gaps=(lost(A, 60), lost(B, 99)))) == []
    assert clock.at(101, Facts(gaps=(lost(A, 60), lost(B, 99)))) == ["silence"]
    assert clock.told[0].cause["held_before"] == 1  # type: ignore[union-attr]  # the test has put it there
    assert clock.at(300, Facts(gaps=(lost(A, 60), lost(B, 99)))) == []


@pytest.mark.parametrize("ended", [False, True])
def test_a_restart_neither_repeats_a_silence_nor_forgets_it(ended: bool) -> None:
    watches = ({"kind": "data"}, {"kind": "daemon"})
    clock = Clock(*watches)
    clock.say("data", server="s:1", state="SILENT", age_s=61.0)
    assert clock.at(0) == ["silence"]
    assert clock.at(100, heard=False) == ["silence"]
    again = Clock(*watches, states=clock.watches.changes(), s=200.0)
    assert again.at(205, heard=False) == [], "its silence is counted anew, which is not its end"
    if ended:
        assert [again.at(s, heard=False) for s in (229, 230, 300)] == [[], [], []]
        return
    assert again.at(206) == ["over"]
    again.say("data", server="s:1", state="OK", age_s=0.0)
    assert again.at(207) == ["over"]


@pytest.mark.parametrize(
    ("kind", "ill"),
    [("journal", Facts(state="journal", reason="disk full")), ("data", Facts(state="ok", away=frozenset({"s:2"})))],
)
def test_a_restart_is_not_the_end_of_what_healthz_says(kind: str, ill: Facts) -> None:
    clock = Clock({"kind": kind, "after_seconds": 10.0, "cooldown_seconds": 0.0})
    assert [*clock.at(0, ill), *clock.at(10, ill)] == ["silence"]
    again = Clock(
        {"kind": kind, "after_seconds": 10.0, "cooldown_seconds": 0.0}, states=clock.watches.changes(), s=20.0
    )
    assert [*again.at(21, Facts()), *again.at(25, ill), *again.at(40, ill)] == []
    assert again.at(45) == ["over"]
    once_more = Clock({"kind": kind, "after_seconds": 10.0}, states=clock.watches.changes(), s=20.0)
    assert once_more.at(21) == []


def test_a_server_that_has_never_sent_anything() -> None:
    clock = Clock({"kind": "data"})
    assert clock.at(0, Facts(state="ok", silent={"s:1": None})) == ["silence"]
    assert clock.told[0].title == "s:1: no data since the daemon started"  # type: ignore[union-attr]  # the test has put it there


def test_a_restart_is_not_a_trigger() -> None:
    watch = {"kind": "triggers", "after_seconds": 100.0, "cooldown_seconds": 0.0}
    clock = Clock(watch)
    assert clock.at(100) == ["silence"]
    again = Clock(watch, states=clock.watches.changes(), s=200.0)
    assert [*again.at(201), *again.at(299), *again.at(300)] == []
    again.watches.detection("SM.S001..GHZ", 301.0)
    assert again.at(301) == ["over"]


def test_a_daemon_that_starts_says_anew_who_is_silent() -> None:
    clock = Clock({"kind": "data"})
    clock.say("data", server="s:1", state="SILENT", age_s=61.0)
    clock.at(0)
    clock.say("daemon", state="started")
    assert clock.at(1) == ["over"]


def test_a_restart_of_the_daemon_does_not_bring_a_dead_sensor_back() -> None:
    clock, health = Clock({"kind": "data", "cooldown_seconds": 0.0}), SensorHealth()
    for one in (clock.watches, health):
        for sid in (A, B):
            one.status("data", {"server": "s:1", "sid": sid, "state": "SILENT", "age_s": 61.0}, *clock.wall(one))
    assert clock.at(0) == ["silence"]
    for one in (clock.watches, health):
        one.status("daemon", {"state": "started"}, *clock.wall(one))
    assert clock.at(1) == []
    again = Clock({"kind": "data", "cooldown_seconds": 0.0}, states=clock.watches.changes())
    for one in (again.watches, health):
        one.status("data", {"server": "s:1", "sid": A, "state": "SILENT", "age_s": 90.0}, *clock.wall(one))
    health.learn(WELL, 2.0, 2.0)
    assert health.report(NOON)["silent"] == ["SM.S001..GHZ", "SM.S002..GHZ"]
    for s in (2, 121, 122, 400):
        assert again.at(s) == []
        health.learn(WELL, s, s)
    assert health.report(NOON)["silent"] == ["SM.S001..GHZ"], "what the daemon does not name again is forgotten"
    for one in (again.watches, health):
        one.status("data", {"server": "s:1", "sid": A, "state": "OK", "age_s": 0.0}, *clock.wall(one))
    assert again.at(401) == ["over"]
    assert health.report(NOON)["silent"] == []


def test_a_daemon_that_is_not_heard_again_ends_no_silence() -> None:
    clock = Clock({"kind": "data"})
    clock.say("data", server="s:1", sid=A, state="SILENT", age_s=61.0)
    clock.at(0)
    clock.say("daemon", state="started")
    assert [kind for s in (1, 60, 121, 600) for kind in clock.at(s, heard=False)] == []
    assert [kind for s in (601, 602) for kind in clock.at(s)] == ["over"]


_SAID = st.tuples(st.sampled_from([A, B]), st.booleans(), st.integers(1, 50))


@given(st.lists(_SAID, max_size=30), st.integers(0, 100))
def test_alerts_of_a_watch_begin_and_end_in_turn_and_keep_apart(
    said: list[tuple[str, bool, int]], cooldown: int
) -> None:
    clock = Clock({"kind": "data", "cooldown_seconds": float(cooldown)})
    s, begun, silent = 0.0, list[float](), set[str]()
    open_ = False
    for sid, is_silent, seconds in said:
        s += seconds
        clock.say("data", server="s:1", sid=sid, state="SILENT" if is_silent else "OK", age_s=60.0)
        (silent.add if is_silent else silent.discard)(sid)
        for kind in clock.at(s):
            assert kind == "silence" or open_
            open_ = kind == "silence"
            begun += [s] if open_ else []
        assert not open_ or silent
    assert all(later - earlier >= cooldown for earlier, later in pairwise(begun))
    if silent:
        clock.at(s + cooldown)
        assert clock.watches._watches[0].told == sorted(silent)  # nothing that lasts goes untold


def test_one_clock_that_is_ahead_blinds_nobody_else() -> None:
    health = SensorHealth()
    now_s = NOON / SECOND
    ages = {A: 0.0, B: 300.0, "FDSN:SM_S003__G_H_Z": -86_400.0}
    health.learn(Facts(state="ok", channels={sid: now_s - age_s for sid, age_s in ages.items()}))
    assert health.report(NOON)["silent"] == ["SM.S002..GHZ"]


def test_sensor_health() -> None:
    health = SensorHealth()
    assert health.report(NOON)["text"] == "not known yet (the daemon's own view cannot be read)"
    sids = [f"FDSN:SM_S{n:03d}__G_H_Z" for n in range(12)]
    facts = Facts(
        state="ok",
        channels={sid: 1000.0 if n else 800.0 for n, sid in enumerate(sids)},
        open_gaps=((sids[1], "flat"), (sids[2], "quarantined"), (sids[3], "server")),
    )
    health.learn(facts)
    health.detection(sids[1], clipped=True, now_ns=NOON)
    report = health.report(NOON)
    assert (report["text"], report["silent"]) == ("3 of 12 blind", ["SM.S000..GHZ"])
    assert (report["flat"], report["clipped"], report["quarantined"]) == (["SM.S001..GHZ"],) * 2 + (["SM.S002..GHZ"],)
    health.status("data", {"server": "s", "sid": sids[4], "state": "SILENT", "age_s": 70.0})
    health.status("channel", {"sid": sids[5], "quarantined": "too many breaks"})
    assert health.report(NOON)["text"] == "5 of 12 blind"
    health.status("data", {"server": "s", "sid": sids[4], "state": "OK", "age_s": 0.0})
    health.status("channel", {"sid": sids[5], "released": "well"})
    health.detection(sids[1], clipped=False, now_ns=NOON)
    report = health.report(NOON)
    assert (report["blind"], report["clipped"]) == (3, [])
    health.learn(Facts(state="ok", channels=facts.channels, silent={sids[7]: 99.0, "s:1": 99.0}))
    assert health.report(NOON)["silent"] == ["SM.S000..GHZ", "SM.S007..GHZ"]
    health.learn(Facts(state="disconnected", cut_off=True, channels=facts.channels))
    assert health.report(NOON)["text"] == "12 of 12 blind"
    health.learn(facts, now_s=30.0)
    assert health.report(NOON)["text"] == "12 of 12 blind (nothing heard from the daemon)"
    health.learn(facts)
    health.status("seedlink", {"server": "s:1", "connected": False})
    assert health.report(NOON)["blind"] == 12
    health.status("seedlink", {"server": "s:1", "connected": True})
    assert health.report(NOON)["blind"] == 3
    health.status("data", {"server": "s:1", "state": "SILENT", "age_s": 61.0})
    assert health.report(NOON)["blind"] == 12, "connected, and nobody sends"
    health.status("data", {"server": "s:1", "state": "OK", "age_s": 0.0})
    assert health.report(NOON)["blind"] == 3
