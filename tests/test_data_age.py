"""Silence of streams and servers, told once and taken back once, from the times alone."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tscc_stream import data_age
from tscc_stream.data_age import LONGEST_PATIENCE_NS, Change, DataAge
from tscc_stream.messages import Record, RecordBatch

SECOND = 1_000_000_000
MINE = "mine:1"


def connected(stale_seconds: float = 60.0, *sids: str) -> DataAge:
    """A server that is connected from 0 on and has sent these streams then."""
    data = DataAge({MINE: stale_seconds})
    data.link(MINE, True, 0)
    for sid in sids:
        data.arrived(MINE, sid, 0)
    return data


def told(data: DataAge, *seconds: float) -> list[tuple[str | None, str, float]]:
    return [(c.sid, c.state, c.age_s) for second in seconds for c in data.turn(round(second * SECOND))]


def test_a_stream_that_falls_silent_is_told_once_and_once_when_it_is_back() -> None:
    data = connected(60.0, "a", "b")
    for second in range(1, 200):
        data.arrived(MINE, "b", second * SECOND)
        if second == 130:
            data.arrived(MINE, "a", second * SECOND)
        expected = {60: [("a", "SILENT", 60.0)], 130: [("a", "OK", 0.0)], 190: [("a", "SILENT", 60.0)]}
        assert told(data, second) == expected.get(second, [])


def test_a_silent_server_is_told_instead_of_all_its_streams() -> None:
    data = connected(60.0, *(f"s{n}" for n in range(500)))
    assert told(data, *range(1, 100)) == [(None, "SILENT", 60.0)]
    data.arrived(MINE, "s0", 100 * SECOND)
    assert told(data, 100) == [(None, "OK", 0.0)]
    for second in range(101, 160):
        data.arrived(MINE, "s0", second * SECOND)
        assert not told(data, second)  # the others have a while to come as well
    data.arrived(MINE, "s0", 160 * SECOND)
    assert len(told(data, 160)) == data_age.MOST_TOLD
    assert sum(len(told(data, second)) for second in range(161, 166)) == 499 - data_age.MOST_TOLD


def test_a_server_that_is_away_is_told_as_a_whole() -> None:
    data = connected(60.0, "a", "b")
    data.link(MINE, False, 10 * SECOND)
    assert told(data, *range(10, 200)) == [(None, "SILENT", 60.0)]
    assert not data.to_reconnect(200 * SECOND)  # its reader is at it
    data.link(MINE, True, 200 * SECOND)
    assert not told(data, 200, 220)
    data.arrived(MINE, "a", 221 * SECOND)
    assert told(data, 221) == [(None, "OK", 0.0)]


def test_a_server_that_never_sent_is_silent_too() -> None:
    data = connected(60.0)
    assert told(data, 59, 60, 61) == [(None, "SILENT", 60.0)]
    assert data.servers(61 * SECOND) == {MINE: ("SILENT", None)}


def test_a_server_that_was_never_connected_is_not_watched() -> None:
    data = DataAge({MINE: 60.0})
    assert not told(data, 1000)
    assert not data.to_reconnect(1000 * SECOND)
    assert data.servers(0) == {MINE: ("OK", None)}


def test_a_silent_connection_is_made_anew_ever_more_rarely_until_data_come() -> None:
    data, asked = connected(60.0, "a"), []
    for second in range(1, 8 * 3600):
        if data.to_reconnect(second * SECOND):
            asked.append(second)
            data.link(MINE, False, second * SECOND)
            data.link(MINE, True, (second + 1) * SECOND)
    waits = [b - a for a, b in zip([0, *asked], asked, strict=False)]
    assert waits[:6] == [60, 121, 241, 481, 961, 1801]
    assert max(waits) == LONGEST_PATIENCE_NS // SECOND + 1
    at = asked[-1] + 10
    data.arrived(MINE, "a", at * SECOND)
    assert not data.to_reconnect((at + 59) * SECOND)
    assert data.to_reconnect((at + 60) * SECOND) == {MINE: 60 * SECOND}


def test_reconnecting_does_not_make_a_silent_server_look_alive() -> None:
    data = connected(60.0, "a")
    assert told(data, 60) == [(None, "SILENT", 60.0)]
    data.link(MINE, False, 60 * SECOND)
    data.link(MINE, True, 61 * SECOND)
    assert not told(data, 62, 121, 200)
    assert data.servers(200 * SECOND) == {MINE: ("SILENT", 200.0)}


def test_silence_of_our_own_is_nobodys() -> None:
    """A reader without room reads nothing; what it then reads has its time to come."""
    data = connected(60.0, "a", "b")
    for second in range(1, 500):
        data.held(MINE, second * SECOND)
        assert not told(data, second)
        assert not data.to_reconnect(second * SECOND)
    data.arrived(MINE, "a", 500 * SECOND)
    assert not told(data, 500, 558)
    data.arrived(MINE, "a", 559 * SECOND)
    assert told(data, 559.5) == [("b", "SILENT", 559.5)]


def send(data: DataAge, second: int, sid: str, start_s: float, wall_s: float = 1e9, lasts_s: float = 1.0) -> None:
    record = Record(sid, round(start_s * SECOND), 100.0, np.zeros(round(100 * lasts_s), np.int32))
    data.arrived_batch(MINE, RecordBatch.of([record]), second * SECOND, round(wall_s * SECOND))


def test_a_server_that_sends_only_what_was_seen_is_told_once_and_once_when_new_data_come() -> None:
    data = connected(60.0)
    for second in range(1, 101):
        send(data, second, "a", second)
        assert not told(data, second)
    for second in range(101, 150):  # it was started again, and begins where it did before
        send(data, second, "a", second - 100)
        assert told(data, second) == ([(None, "OLD", 10.0)] if second == 111 else [])
    assert data.servers(149 * SECOND) == {MINE: ("OLD", 48.0)}
    assert data.old(149 * SECOND) == {"a": 48 * SECOND}
    send(data, 150, "a", 101)
    assert told(data, 150) == [(None, "OK", 0.0)]
    assert data.old(150 * SECOND) == {}


def test_what_is_sent_again_after_a_connection_is_no_old_data() -> None:
    data = connected(60.0)
    for second in range(1, 101):
        send(data, second, "a", second)
    for second in range(101, 110):
        send(data, second, "a", 8 * (second - 100), lasts_s=8.0)
        assert not told(data, second)
    send(data, 110, "a", 101)
    assert not told(data, 110, 130, 150)


def test_one_of_two_streams_is_old_its_server_is_not() -> None:
    data = connected(60.0)
    for second in range(1, 60):
        send(data, second, "a", second)
        send(data, second, "b", min(second, 60 - second))
        assert not told(data, second)
    assert list(data.old(59 * SECOND)) == ["b"]


def test_a_date_in_the_future_makes_nothing_old_that_comes_after_it() -> None:
    data = connected(60.0)
    for second in range(1, 60):
        send(data, second, "a", 10_000 if second == 2 else second, wall_s=second + 1)
        assert not told(data, second)


def test_a_silent_server_with_old_data_is_silent() -> None:
    data = connected(60.0)
    for second in range(1, 31):
        send(data, second, "a", min(second, 10))
    assert told(data, 30, 31, 95) == [(None, "OLD", 19.0), (None, "SILENT", 65.0)]
    assert data.servers(95 * SECOND) == {MINE: ("SILENT", 65.0)}
    assert data.old(95 * SECOND) == {}


def test_what_an_earlier_process_saw_counts() -> None:
    data = connected(60.0)
    data.seen_before({"a": 1000 * SECOND, "gone": 1000 * SECOND})
    for second in range(1, 30):
        send(data, second, "a", second)
        send(data, second, "b", second)
    assert list(data.old(29 * SECOND)) == ["a"]


def restarted(silent: tuple[str, ...] = ()) -> DataAge:
    """At 0, where an earlier process had seen `a`, `b` and `dead` up to 900 s, and 1000 s is on the wall."""
    data = DataAge({MINE: 60.0, "other:1": 60.0})
    data.seen_before(dict.fromkeys(("a", "b", "dead"), 900 * SECOND))
    data.await_again(dict.fromkeys(("a", "b", "dead"), MINE), silent, 0, 1000 * SECOND)
    return data


def test_a_stream_that_was_silent_before_the_start_is_told_again_at_once() -> None:
    data = restarted(("dead",))
    assert data.told_silent() == ("dead",), "should this process end before it has told it"
    assert told(data, 1) == [("dead", "SILENT", 101.0)]
    assert list(data.silent(2 * SECOND)) == ["dead"]
    data.link(MINE, True, 3 * SECOND)
    for second in range(3, 100):
        send(data, second, "a", 1000 + second)
        send(data, second, "b", 1000 + second)
        assert not told(data, second)
    assert data.told_silent() == ("dead",)
    send(data, 100, "dead", 1100)
    assert told(data, 100) == [("dead", "OK", 0.0)]
    assert data.told_silent() == ()


def test_a_stream_that_an_earlier_process_saw_is_missed() -> None:
    data = restarted()
    assert (data.streams, data.newest_ns(), data.late(800 * SECOND)) == (0, None, 0)
    data.link(MINE, True, 0)
    for second in range(1, 900):
        send(data, second, "a", 1000 + second)
        send(data, second, "b", 1000 + second, lasts_s=1.0)
        assert not told(data, second), "nobody knows how long its records last"
    assert (data.streams, data.newest_ns()) == (2, 899 * SECOND)
    send(data, 900, "a", 1900)
    send(data, 900, "b", 1900)
    assert told(data, 900) == [("dead", "SILENT", 900.0)]


def test_streams_that_have_not_come_yet_do_not_keep_a_server_from_being_old() -> None:
    data = restarted()
    data.link(MINE, True, 0)
    for second in range(1, 30):
        send(data, second, "a", second)
        assert told(data, second) == ([(None, "OLD", 10.0)] if second == 11 else [])


def test_a_stream_of_long_records_has_the_time_of_two_of_them() -> None:
    data = DataAge({MINE: 60.0})
    data.link(MINE, True, 0)
    data.arrived(MINE, "slow", 0, lasts_ns=412 * SECOND)
    for second in range(0, 821, 10):
        data.arrived(MINE, "quick", second * SECOND)
        assert not told(data, second)
    data.arrived(MINE, "quick", 824 * SECOND)
    assert told(data, 829.5) == [("slow", "SILENT", 829.5)]


def test_states_by_age() -> None:
    data = connected(60.0, "a")
    states = [data.servers(second * SECOND)[MINE][0] for second in (0, 30, 31, 59)]
    assert states == ["OK", "OK", "LATE", "LATE"]
    assert [data.late(second * SECOND) for second in (30, 31, 59, 60)] == [0, 1, 1, 0]
    assert [list(data.silent(second * SECOND)) for second in (59, 60)] == [[], ["a"]]


def test_silent_streams_longest_first() -> None:
    data = DataAge({MINE: 10.0})
    for sid, second in (("b", 1), ("a", 2), ("c", 30)):
        data.arrived(MINE, sid, second * SECOND)
    assert data.silent(32 * SECOND) == {"b": 31 * SECOND, "a": 30 * SECOND}
    assert data.newest_ns() == 30 * SECOND


def test_a_server_cannot_grow_it_without_end(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(data_age, "MOST_STREAMS", 2)
    data = connected(60.0, *map(str, range(10)))
    assert data.streams == 2
    data.arrived(MINE, "9", 50 * SECOND)
    assert not data.to_reconnect(100 * SECOND)  # it counts for the server all the same


def test_it_looks_once_a_second() -> None:
    data = connected(1.0)
    assert not told(data, 0.5)
    assert not told(data, 1.4)
    assert told(data, 1.5) == [(None, "SILENT", 1.5)]


def test_a_change_as_message() -> None:
    assert Change(MINE, None, "OK", 1.0).as_dict() == {"server": MINE, "state": "OK", "age_s": 1.0}
    assert Change(MINE, "a", "SILENT", 1.0).as_dict()["sid"] == "a"


actions = st.lists(
    st.tuples(st.sampled_from(["a", "b", "up", "down", "held", "nothing"]), st.integers(1, 90)), max_size=60
)


@given(actions)
@settings(max_examples=200, deadline=None)
def test_whatever_happens_silence_and_return_alternate(happening: list[tuple[str, int]]) -> None:
    data, now, last = DataAge({MINE: 60.0}), 0, dict[str | None, str]()
    for what, seconds in happening:
        now += seconds * SECOND
        if what in ("a", "b"):
            data.arrived(MINE, what, now)
        elif what in ("up", "down"):
            data.link(MINE, what == "up", now)
        elif what == "held":
            data.held(MINE, now)
        for change in data.turn(now):
            assert last.get(change.sid, "OK") != change.state
            last[change.sid] = change.state
        data.to_reconnect(now)
