"""Several sources merged in time: the order by itself, and the subscriber over real sockets and killed processes."""

from __future__ import annotations

import signal
import subprocess
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from dataclasses import replace
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st
from in_time import PATIENCE_S
from made_messages import SECOND, detection_message, status_message

from tscc_stream.client import SubscriberError
from tscc_stream.client_merged import MergedSubscriber, Source
from tscc_stream.config import PublishConfig
from tscc_stream.edges.sqlite import JournalFile, JournalReader
from tscc_stream.edges.zeromq import Bus
from tscc_stream.merge_order import MergeOrder
from tscc_stream.messages import Message

ANY = "tcp://127.0.0.1:0"


class Event(NamedTuple):
    """A message of source `name` that happens at time_s and arrives lag_s later."""

    name: str
    time_s: int
    lag_s: int


class Given(NamedTuple):
    at_s: float
    name: str
    event: Event


def simulated(events: list[Event], names: str, patience_s: float) -> list[Given]:
    """Sources that are up to date and always heard, second by second; in each, everything that may go, goes."""
    order: MergeOrder[Event] = MergeOrder(names, patience_s, max(5.0, patience_s), 0.0)
    arrivals: defaultdict[int, list[Event]] = defaultdict(list)
    for event in events:
        arrivals[event.time_s + event.lag_s].append(event)
    given: list[Given] = []
    last_s = max(arrivals, default=0) + int(patience_s) + 2
    for now_s in range(last_s):
        for event in sorted(arrivals[now_s], key=lambda one: one.time_s):
            order.came(event.name, event, event.time_s * SECOND, now_s)
        for name in names:
            order.looked(name, up_to_date=True, heard_s=now_s, now_s=now_s)
        while (taken := order.take(now_s)) is not None:
            given.append(Given(now_s, *taken))
    return given


events = st.lists(st.builds(Event, st.sampled_from("abc"), st.integers(0, 40), st.integers(0, 4)), max_size=40)


@given(events, st.sampled_from([0.0, 4.0, 7.0]))
def test_every_message_is_given_once_in_its_sources_order_and_none_is_held_longer_than_said(
    made: list[Event], patience_s: float
) -> None:
    given = simulated(made, "abc", patience_s)
    assert sorted(one.event for one in given) == sorted(made)
    for name in "abc":
        arrived = sorted((e.time_s + e.lag_s, e.time_s) for e in made if e.name == name)
        assert [(g.event.time_s + g.event.lag_s, g.event.time_s) for g in given if g.name == name] == arrived
    held = [one.at_s - (one.event.time_s + one.event.lag_s) for one in given]
    assert all(0 <= seconds <= patience_s for seconds in held)


@given(events)
def test_what_comes_within_the_patience_is_given_in_order_of_time(made: list[Event]) -> None:
    in_order = [replace_lag(one, made) for one in made]
    times = [one.event.time_s for one in simulated(in_order, "abc", 5.0)]
    assert times == sorted(times)


def replace_lag(event: Event, made: list[Event]) -> Event:
    """One lag for each source, so that each sends in order of time."""
    return event._replace(lag_s=next(one.lag_s for one in made if one.name == event.name))


def test_with_patience_that_is_too_short_a_late_message_comes_late_with_its_own_time() -> None:
    late, early = Event("a", 1, 9), Event("b", 5, 0)
    given = simulated([late, early], "ab", 2.0)
    assert [(one.at_s, one.event) for one in given] == [(7, early), (10, late)]


def order_of_two(live: str = "ab") -> MergeOrder[int]:
    order: MergeOrder[int] = MergeOrder("ab", 2.0, 5.0, 0.0)
    for name in live:
        order.looked(name, up_to_date=True, heard_s=0.0, now_s=0.0)
    return order


def test_who_is_dead_holds_nobody() -> None:
    order = order_of_two()
    order.came("a", 1, 1, 10.0)
    assert order.deaf(10.0) == ["b"]
    assert order.take(10.0) == ("a", 1)


def test_who_catches_up_is_waited_for_once_and_not_for_every_message() -> None:
    order = order_of_two(live="")
    for number in range(100):
        order.came("a", number, number, 0.0)
    order.looked("a", up_to_date=False, heard_s=0.0, now_s=0.0)
    assert order.take(1.0) is None
    assert order.next_s(1.0) == 2.0
    assert [order.take(2.0) for _ in range(100)] == [("a", number) for number in range(100)]


def test_a_long_past_does_not_keep_what_is_new() -> None:
    """One reads a year out of its journal; a message of another, which is up to date, comes meanwhile."""
    order = order_of_two(live="a")
    for number in range(100):
        order.came("b", number, number, 0.0)
    order.came("a", 1000, 10**15, 0.0)
    order.came("a", 1001, 10**15 + 1, 0.0)
    assert [order.take(1.0) for _ in range(3)] == [("b", 0), ("b", 1), ("b", 2)]
    assert [order.take(2.0) for _ in range(4)] == [("a", 1000), ("b", 3), ("a", 1001), ("b", 4)]


def test_what_has_no_time_goes_at_once_in_its_turn() -> None:
    order = order_of_two()
    order.came("a", 1, 7 * SECOND, 0.0)
    order.came("b", 2, None, 0.0)
    order.came("b", 3, SECOND, 0.0)
    assert [order.take(0.0), order.take(0.0)] == [("b", 2), ("b", 3)]
    assert order.take(0.0) is None, "b may still bring something earlier"
    assert order.take(2.0) == ("a", 1)


# Over real sockets


class Publisher:
    """A journal and its bus in this process."""

    def __init__(self, folder: Path, name: str) -> None:
        self.journal = JournalFile(folder / f"{name}.sqlite")
        self._reader = JournalReader(self.journal.path)
        self.bus = Bus(PublishConfig(bind=ANY, replay_bind=ANY, heartbeat_seconds=0.05), name, self._reader)
        self.bus.start()

    def source(self, name: str) -> Source:
        return Source(name, self.bus.endpoint, self.bus.replay_endpoint)

    def say(self, *messages: Message) -> None:
        self.bus.publish(self.journal.append(list(messages)))

    def close(self) -> None:
        self.bus.stop()
        self._reader.close()
        self.journal.close()


@pytest.fixture
def publisher(tmp_path: Path) -> Iterator[Callable[[str], Publisher]]:
    with ExitStack() as stack:

        def make(name: str) -> Publisher:
            made = Publisher(tmp_path, name)
            stack.callback(made.close)
            return made

        yield make


def timed(number: int, second: float) -> Message:
    body = b'{"number":%d,"data":{"onset_ns":%d}}' % (number, round(second * SECOND))
    return replace(detection_message(number), body=body)


def take(subscriber: MergedSubscriber, count: int) -> list[tuple[str, int]]:
    got = []
    for _ in range(count):
        given = subscriber.receive(PATIENCE_S)
        assert given is not None, f"only {len(got)} of {count} came: {got[-5:]}"
        got.append((given[0], given[1].body["number"]))
    return got


def test_the_past_of_three_journals_comes_in_order_of_time_and_new_messages_follow(
    publisher: Callable[[str], Publisher],
) -> None:
    all_three = {name: publisher(name) for name in ("north", "south", "west")}
    expected = []
    for place, (name, one) in enumerate(all_three.items()):
        one.say(*(timed(n, 3 * n + place) for n in range(300)))
        expected += [(3 * n + place, name, n) for n in range(300)]
    sources = [one.source(name) for name, one in all_three.items()]
    with MergedSubscriber(sources, since=0, patience_seconds=0.2) as subscriber:
        assert take(subscriber, 900) == [(name, n) for _, name, n in sorted(expected)]
        all_three["south"].say(status_message(1000), timed(1001, 2000))
        all_three["north"].say(timed(1002, 1999))
        assert sorted(take(subscriber, 3)) == [("north", 1002), ("south", 1000), ("south", 1001)]
        given = [subscriber.place(name) for name in subscriber.names]
        assert [place and place[1] for place in given] == [301, 302, 300]


def test_a_message_out_of_the_future_does_not_end_the_order_of_those_that_follow(
    publisher: Callable[[str], Publisher],
) -> None:
    wrong, right = publisher("wrong"), publisher("right")
    with MergedSubscriber([wrong.source("wrong"), right.source("right")], since=0, patience_seconds=1.0) as subscriber:
        while any(subscriber.place(name) is None for name in subscriber.names):
            assert subscriber.receive(0.1) is None
        now_s = time.time()
        wrong.say(timed(0, now_s + 1e8))
        assert take(subscriber, 1) == [("wrong", 0)]
        wrong.say(timed(1, now_s + 20))
        assert subscriber.receive(0.3) is None, "the other may bring an earlier one"
        right.say(timed(2, now_s))
        assert take(subscriber, 2) == [("right", 2), ("wrong", 1)]


def test_a_source_that_never_answers_is_told_and_holds_up_nobody(
    publisher: Callable[[str], Publisher], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tscc_stream.client_merged.DEAF_SECONDS", 1.0)
    alive = publisher("alive")
    alive.say(*(timed(n, n) for n in range(200)))
    nobody = Source("nobody", "tcp://127.0.0.1:9", "tcp://127.0.0.1:9")
    told: list[str] = []
    with MergedSubscriber(
        [alive.source("alive"), nobody], since=0, patience_seconds=0.3, notice=told.append
    ) as subscriber:
        began_s = time.monotonic()
        assert take(subscriber, 200) == [("alive", n) for n in range(200)]
        assert time.monotonic() - began_s < 5.0, "waited for once, not 200 times"
        while not any("nothing is heard" in sentence for sentence in told):
            assert subscriber.receive(0.5) is None
            assert time.monotonic() - began_s < 30.0
    assert all(sentence.startswith("nobody: ") for sentence in told)


def test_a_source_that_answers_with_errors_is_asked_again_after_a_pause(
    publisher: Callable[[str], Publisher], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("tscc_stream.client_merged.AGAIN_SECONDS", 0.5)
    alive, told = publisher("alive"), list[str]()
    asked_s: list[float] = []
    with zmq.Context() as context, context.socket(zmq.ROUTER) as ill:
        wrong = Source("wrong", "tcp://127.0.0.1:9", f"tcp://127.0.0.1:{ill.bind_to_random_port('tcp://127.0.0.1')}")
        with MergedSubscriber([alive.source("alive"), wrong], since=0, notice=told.append) as subscriber:
            began_s = time.monotonic()
            number = 0
            while len(asked_s) < 4 and time.monotonic() - began_s < PATIENCE_S:
                alive.say(timed(number, number))
                number += 1
                subscriber.receive(0.02)
                while ill.poll(0):
                    ill.send_multipart([*ill.recv_multipart()[:-1], b"hello"])
                    asked_s.append(time.monotonic())
        ill.close(linger=0)
    assert all(later - before > 0.4 for before, later in pairwise(asked_s))
    assert len(asked_s) == 4
    assert any("wrong: " in one and "does not speak" in one for one in told)


def test_places_are_kept_for_each_source_and_what_was_held_back_comes_again(
    publisher: Callable[[str], Publisher], tmp_path: Path
) -> None:
    one, other = publisher("one"), publisher("other")
    one.say(*(timed(n, 2 * n) for n in range(20)))
    other.say(*(timed(n, 2 * n + 1) for n in range(20)))
    sources, places = [one.source("one"), other.source("other")], tmp_path / "places"
    seen: list[tuple[str, int]] = []
    for count in (7, 13, 20):
        with MergedSubscriber(sources, since=0, patience_seconds=0.2, positions=places) as subscriber:
            seen += take(subscriber, count)
            subscriber.done()
    assert seen == [(name, n) for n in range(20) for name in ("one", "other")]
    assert sorted(path.name for path in places.iterdir()) == ["one.position", "other.position"]
    with MergedSubscriber(sources, since=0, patience_seconds=0.2, positions=places) as subscriber:
        one.say(timed(50, 100))
        assert take(subscriber, 1) == [("one", 50)], "nothing comes a second time"
        with pytest.raises(SubscriberError, match=r"one: position .*"):
            MergedSubscriber(sources, positions=places)


@pytest.mark.parametrize(
    ("sources", "words"),
    [
        ([], "0 sources: expected 1 to 200"),
        ([Source("a/b", ANY, ANY)], "source 'a/b': expected letters"),
        ([Source("a", ANY, ANY)] * 2, "source a: is given twice"),
        ([Source("a", "nowhere", ANY)], "a: cannot connect to nowhere"),
    ],
)
def test_what_is_no_set_of_sources_is_refused(sources: list[Source], words: str) -> None:
    with pytest.raises(SubscriberError, match=words):
        MergedSubscriber(sources)


def _process(folder: Path, name: str, endpoints: tuple[str, str], until: int) -> subprocess.Popen[str]:
    arguments = [folder / f"{name}.sqlite", *endpoints, until]
    return subprocess.Popen(
        [sys.executable, Path(__file__).parent / "bus_process.py", *map(str, arguments)],
        stdout=subprocess.PIPE,
        text=True,
    )


def _said(process: subprocess.Popen[str]) -> str:
    assert process.stdout is not None
    return process.stdout.readline().strip()


def test_a_publisher_that_is_killed_and_comes_back_loses_nothing_and_repeats_nothing(
    publisher: Callable[[str], Publisher], tmp_path: Path
) -> None:
    """A kill -9 amid its messages; the other one goes on being heard meanwhile."""
    steady = publisher("steady")
    process = _process(tmp_path, "mortal", (ANY, ANY), 2000)
    try:
        connect, replay = _said(process).split()
        sources = [Source("mortal", connect, replay), steady.source("steady")]
        with MergedSubscriber(sources, since=0, patience_seconds=0.1) as subscriber:
            seen = take(subscriber, 100)
            process.send_signal(signal.SIGKILL)
            process.wait(PATIENCE_S)
            steady.say(*(timed(n, n) for n in range(50)))
            while sum(name == "steady" for name, _ in seen) < 50:
                seen += take(subscriber, 1)
            assert process.stdout is not None
            process.stdout.close()
            process = _process(tmp_path, "mortal", (connect, replay), 2000)
            while sum(name == "mortal" for name, _ in seen) < 2000:
                seen += take(subscriber, 1)
            assert subscriber.receive(0.2) is None
    finally:
        process.kill()
        process.wait(PATIENCE_S)
        assert process.stdout is not None
        process.stdout.close()
    assert [n for name, n in seen if name == "mortal"] == list(range(1, 2001))
    assert [n for name, n in seen if name == "steady"] == list(range(50))
