"""How much time replays may take: the buckets by themselves, and over real sockets."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st
from in_time import PATIENCE_S
from made_messages import mixed

from tscc_stream.bus.limits import Refusal, ReplayBudget, ReplayLimits, Share
from tscc_stream.client import Subscriber
from tscc_stream.config import PublishConfig
from tscc_stream.edges.sqlite import JournalFile, JournalReader
from tscc_stream.edges.zeromq import Bus, BusObserver
from tscc_stream.seldom import Repeats, Seldom

ANY = "tcp://127.0.0.1:0"
TIGHT = ReplayLimits(peer=Share(0.5, 2.0), total=Share(0.8, 3.0))


def test_a_peer_may_take_what_it_has_saved_up_and_then_its_share() -> None:
    budget = ReplayBudget(TIGHT, 0.0)
    assert budget.refusal(b"a", 0.0) is None
    budget.spent(b"a", 2.0, 0.0)
    assert budget.refusal(b"a", 0.0) is None, "nothing is owed yet"
    budget.spent(b"a", 0.5, 0.0)
    assert budget.refusal(b"a", 0.0) == Refusal("peer_rate", 1.0)
    assert budget.refusal(b"b", 0.0) is None, "another peer has its own"
    assert budget.refusal(b"a", 1.0) is None


def test_all_together_have_a_limit_too() -> None:
    budget = ReplayBudget(TIGHT, 0.0)
    for peer in (b"a", b"b", b"c", b"d"):
        assert budget.refusal(peer, 0.0) is None
        budget.spent(peer, 0.95, 0.0)
    assert budget.refusal(b"e", 0.0) == Refusal("total_rate", pytest.approx(1.0))
    assert budget.closed_for(0.0) == pytest.approx(0.01), "so that refusals take no time themselves"
    assert budget.closed_for(0.02) == 0.0


@given(st.lists(st.tuples(st.sampled_from([b"a", b"b", b"c"]), st.floats(0, 1), st.floats(0, 2)), max_size=60))
def test_nobody_gets_more_than_the_share(asked: list[tuple[bytes, float, float]]) -> None:
    """Up to one answer, whose cost is known only afterwards; and whoever waits as told is served."""
    budget, now, taken, largest = ReplayBudget(TIGHT, 0.0), 0.0, Counter[bytes](), 0.0
    for peer, pause, cost in asked:
        now += pause
        if refusal := budget.refusal(peer, now):
            now += refusal.retry_after_s * (1 + 1e-9) + 1e-9
            assert budget.refusal(peer, now) is None
        budget.spent(peer, cost, now)
        taken[peer] += cost
        largest = max(largest, cost)
        assert taken[peer] <= 2.0 + 0.5 * now + largest + 1e-6
        assert taken.total() <= 3.0 + 0.8 * now + largest + 1e-6


def test_the_table_of_peers_is_bounded() -> None:
    budget = ReplayBudget(TIGHT, 0.0)
    for number in range(5_000):
        budget.spent(b"%d" % number, 0.0, 0.0)
    assert len(budget._peers) == 1_000
    assert b"4999" in budget._peers


def test_a_million_messages_fit_into_what_is_saved_up() -> None:
    """At the time that was measured for a page, doubled."""
    budget, now = ReplayBudget(ReplayLimits(), 0.0), 0.0
    for _ in range(1_000_000 // 500):
        assert budget.refusal(b"alone", now) is None
        now += 0.02
        budget.spent(b"alone", 0.02, now)


def test_seldom_is_once_a_minute_for_each_of_a_bounded_number_of_things() -> None:
    seldom = Seldom(seconds=60.0, most=2)
    assert [seldom.due("a", second) for second in (0.0, 30.0, 59.9, 60.0, 61.0)] == [True, False, False, True, False]
    assert [seldom.due(what, 61.0) for what in ("b", "c")] == [True, False]
    assert seldom.due("c", 121.0)


def test_what_repeats_is_told_once_a_minute_with_what_went_untold() -> None:
    repeats = Repeats(seconds=60.0)
    assert [repeats.due("a", second) for second in (0.0, 1.0, 59.9, 60.0, 61.0, 200.0)] == [0, None, None, 2, None, 1]
    assert repeats.due("b", 61.0) == 0


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[JournalFile]:
    with JournalFile(tmp_path / "journal.sqlite") as opened:
        yield opened


@contextmanager
def running(journal: JournalFile, limits: ReplayLimits, refused: Callable[[str], None]) -> Iterator[Bus]:
    reader = JournalReader(journal.path)
    config = PublishConfig(bind=ANY, replay_bind=ANY, heartbeat_seconds=0.02)
    bus = Bus(config, "demo", reader, observer=BusObserver(replay_refused=refused), limits=limits)
    bus.start()
    yield bus
    bus.stop()
    reader.close()


@contextmanager
def asking(bus: Bus, kind: int = zmq.REQ) -> Iterator[zmq.Socket[bytes]]:
    with zmq.Context() as context, context.socket(kind) as asker:
        asker.setsockopt(zmq.RCVTIMEO, round(1000 * PATIENCE_S))
        asker.setsockopt(zmq.LINGER, 0)
        asker.setsockopt(zmq.SNDHWM, 50)
        asker.connect(bus.replay_endpoint)
        yield asker


def answer(asker: zmq.Socket[bytes], request: bytes = b'{"since": 0}') -> dict[str, Any]:
    asker.send(request)
    return dict(json.loads(asker.recv_multipart()[0]))


def test_a_request_over_the_limit_is_told_when_to_ask_again(journal: JournalFile) -> None:
    journal.append(mixed(range(1, 101)))
    refused: list[str] = []
    limits = ReplayLimits(peer=Share(1e-6, 0.0))
    with running(journal, limits, refused.append) as bus, asking(bus) as first, asking(bus) as second:
        assert answer(first)["count"] == 100
        told = answer(first)
        assert answer(second)["count"] == 100
    assert told["epoch"] == journal.epoch
    assert told["retry_after_s"] > 10
    assert told["error"] == f"too many requests: ask again in {told['retry_after_s']:.3f} s"
    assert refused == ["peer_rate"]


@pytest.mark.parametrize("limits", [ReplayLimits(peer=Share(0.2, 0.0)), ReplayLimits(total=Share(0.2, 0.0))])
def test_a_subscriber_waits_as_told_and_gets_everything(journal: JournalFile, limits: ReplayLimits) -> None:
    journal.append(mixed(range(1, 1001)))
    refused: list[str] = []
    notices: list[str] = []
    with (
        running(journal, limits, refused.append) as bus,
        Subscriber(bus.endpoint, bus.replay_endpoint, since=0, page=100, notice=notices.append) as subscriber,
    ):
        received = []
        while len(received) < 1000:
            one = subscriber.receive(PATIENCE_S)
            assert one is not None
            received.append(one.seq)
    assert received == list(range(1, 1001))
    assert refused
    assert notices == []


def test_live_messages_go_on_beside_a_flood_of_requests(journal: JournalFile) -> None:
    """Peers that never wait: refused for ever, while a subscriber gets what is new."""
    journal.append(mixed(range(1, 101)))
    refused: list[str] = []
    limits = ReplayLimits(peer=Share(1e-3, 0.0))
    with (
        running(journal, limits, refused.append) as bus,
        asking(bus, zmq.DEALER) as one,
        asking(bus, zmq.DEALER) as another,
        Subscriber(bus.endpoint, bus.replay_endpoint, since=100) as subscriber,
    ):
        for number in range(101, 151):
            for flood in (one, another):
                while flood.poll(0, zmq.POLLOUT):
                    flood.send(b'{"since": 0}')
            bus.publish(journal.append(mixed(range(number, number + 1))))
            received = subscriber.receive(PATIENCE_S)
            assert received is not None
            assert received.seq == number
    assert refused


@pytest.mark.parametrize("request_", [b"garbage", b'{"since": 0, "topic": "foo"}', b"x" * 60_000])
def test_what_is_malformed_is_counted(journal: JournalFile, request_: bytes) -> None:
    refused: list[str] = []
    with running(journal, ReplayLimits(), refused.append) as bus, asking(bus) as asker:
        assert "expected" in answer(asker, request_)["error"]
        assert "retry_after_s" not in answer(asker, request_)
    assert refused == ["malformed"] * 2
