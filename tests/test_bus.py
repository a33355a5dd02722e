"""The bus over real sockets on 127.0.0.1: order, heartbeats, replay, refusals, clean end."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import zmq
from hypothesis import given
from hypothesis import strategies as st
from in_time import PATIENCE_S
from made_messages import detection_message, mixed

from tscc_stream.config import PublishConfig
from tscc_stream.edges.sqlite import JournalFile, JournalReader
from tscc_stream.edges.zeromq import Bus, BusError, BusObserver, split_envelope
from tscc_stream.messages import Committed, Message
from tscc_stream.stages.journal import JournalError
from tscc_stream.stages.publish import Page

ANY = "tcp://127.0.0.1:0"
PATIENCE_MS = round(1000 * PATIENCE_S)
Request = Callable[..., list[bytes]]
Connected = Callable[..., zmq.Socket[bytes]]


class Seen:
    """What the bus told its observer."""

    def __init__(self) -> None:
        self.alive = self.replayed = 0
        self.latencies: list[float] = []

    def observer(self) -> BusObserver:
        return BusObserver(alive=self._alive, replayed=self._replayed, sent=self.latencies.append)

    def _alive(self) -> None:
        self.alive += 1

    def _replayed(self) -> None:
        self.replayed += 1


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[JournalFile]:
    with JournalFile(tmp_path / "journal.sqlite") as opened:
        yield opened


@pytest.fixture
def reader(journal: JournalFile) -> Iterator[JournalReader]:
    opened = JournalReader(journal.path)
    yield opened
    opened.close()


@pytest.fixture
def seen() -> Seen:
    return Seen()


def config(heartbeat_seconds: float = 0.05, bind: str = ANY, replay_bind: str = ANY) -> PublishConfig:
    return PublishConfig(bind=bind, replay_bind=replay_bind, heartbeat_seconds=heartbeat_seconds)


@pytest.fixture
def bus(reader: JournalReader, seen: Seen) -> Iterator[Bus]:
    started = Bus(config(), "demo", reader, observer=seen.observer())
    started.start()
    yield started
    started.stop()


@pytest.fixture
def connected() -> Iterator[Connected]:
    """Sockets that are closed when the test ends: kind, address, topics to subscribe to."""
    context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
    made: list[zmq.Socket[bytes]] = []

    def connect(kind: int, address: str, *topics: bytes) -> zmq.Socket[bytes]:
        socket = context.socket(kind)
        made.append(socket)
        socket.setsockopt(zmq.RCVTIMEO, PATIENCE_MS)
        socket.setsockopt(zmq.RCVHWM, 0)
        for topic in topics:
            socket.setsockopt(zmq.SUBSCRIBE, topic)
        socket.connect(address)
        return socket

    yield connect
    for socket in made:
        socket.close(linger=0)
    context.term()


@pytest.fixture
def subscriber(bus: Bus, connected: Connected) -> zmq.Socket[bytes]:
    """Subscribed to everything: it has seen a heartbeat."""
    socket = connected(zmq.SUB, bus.endpoint, b"")
    assert socket.recv_multipart()[0] == b"heartbeat."
    return socket


@pytest.fixture
def request_(bus: Bus, connected: Connected) -> Request:
    socket = connected(zmq.REQ, bus.replay_endpoint)

    def ask(*frames: bytes) -> list[bytes]:
        socket.send_multipart(frames)
        return socket.recv_multipart()

    return ask


def published(subscriber: zmq.Socket[bytes], count: int) -> list[list[bytes]]:
    """The next `count` messages that are no heartbeats."""
    messages: list[list[bytes]] = []
    while len(messages) < count:
        frames = subscriber.recv_multipart()
        if frames[0] != b"heartbeat.":
            messages.append(frames)
    return messages


def header(frames: Sequence[bytes]) -> dict[str, object]:
    return dict(json.loads(frames[1]))


def test_messages_go_out_in_order_with_their_numbers(
    bus: Bus, journal: JournalFile, subscriber: zmq.Socket[bytes]
) -> None:
    committed = []
    for first in range(1, 200, 20):
        group = journal.append(mixed(range(first, first + 20)))
        committed += group
        bus.publish(group)
    waveforms = sum(one.message.waveform is not None for one in committed)
    frames = published(subscriber, len(committed) + waveforms)
    plain = [one for one in frames if not one[0].startswith(b"waveform.")]
    assert [header(one) for one in plain] == [
        {"epoch": journal.epoch, "seq": one.seq, "topic_seq": one.topic_seq} for one in committed
    ]
    assert [one[2] for one in plain] == [one.message.body for one in committed]
    copies = {str(header(one)["seq"]): one for one in frames if one[0].startswith(b"waveform.")}
    assert len(copies) == waveforms
    for one in plain:
        if one[0].startswith(b"detection."):
            copy = copies[str(header(one)["seq"])]
            assert copy == [b"waveform." + one[0], one[1], one[2], b"\0" * 40]


def test_heartbeats_carry_the_heads_of_what_was_sent(
    bus: Bus, journal: JournalFile, subscriber: zmq.Socket[bytes]
) -> None:
    committed = journal.append(mixed(range(1, 30)))
    heads = [header(subscriber.recv_multipart())["seq"] for _ in range(2)]
    assert heads == [0, 0], "committed, but not handed over yet"
    bus.publish(committed)
    published(subscriber, 1)
    while header(frames := subscriber.recv_multipart())["seq"] != 29 or frames[0] != b"heartbeat.":
        pass
    assert header(frames) == {"epoch": journal.epoch, "seq": 29, "topic_seq": 0}
    assert json.loads(frames[2])["data"] == {"head": 29, "heads": journal.topic_heads}
    assert json.loads(frames[2])["source"] == "/tscc-stream/demo"


def test_a_new_bus_announces_what_was_committed_before_it(
    journal: JournalFile, reader: JournalReader, connected: Connected
) -> None:
    """A daemon that was killed between commit and publication: subscribers learn it from the first heartbeat."""
    journal.append(mixed(range(1, 30)))
    bus = Bus(config(), "demo", reader)
    bus.start()
    socket = connected(zmq.SUB, bus.endpoint, b"heartbeat.")
    assert header(socket.recv_multipart())["seq"] == 29
    bus.stop()


def test_stop_sends_what_was_handed_over_and_a_last_heartbeat(
    reader: JournalReader, journal: JournalFile, connected: Connected
) -> None:
    bus = Bus(config(heartbeat_seconds=3600.0), "demo", reader)
    bus.start()
    socket = connected(zmq.SUB, bus.endpoint, b"status.", b"heartbeat.")
    publish_until_heard(bus, journal, socket)
    for number in range(22, 11 * 400, 11):
        bus.publish(journal.append(mixed(range(number, number + 1))))
    bus.stop()
    last = heard = 0
    while heard < journal.head:  # the heartbeat of the start may come too, where the subscription was early
        frames = socket.recv_multipart()
        if frames[0] == b"heartbeat.":
            heard = int(str(header(frames)["seq"]))
            continue
        assert header(frames)["seq"] == last + 1 or not last
        last = int(str(header(frames)["seq"]))
    assert heard == last == journal.head
    assert not bus.running


def publish_until_heard(bus: Bus, journal: JournalFile, socket: zmq.Socket[bytes]) -> None:
    """Without heartbeats only messages show that a subscription has arrived."""
    for number in range(1_000_000, 1_001_000):
        status = Message(f"s-{number}", "status", "status.daemon.", b"{}", number)
        bus.publish(journal.append([status]))
        if socket.poll(20):
            return
    pytest.fail("the subscription never arrived")


def test_publish_after_the_end_says_so(bus: Bus, journal: JournalFile) -> None:
    committed = journal.append([detection_message(1)])
    bus.stop()
    bus.stop()
    with pytest.raises(BusError, match="the bus has ended: it was stopped"):
        bus.publish(committed)


def test_a_failure_in_its_thread_reaches_those_who_publish_and_stop(
    reader: JournalReader, journal: JournalFile
) -> None:
    def fail() -> None:
        raise ZeroDivisionError("broken observer")

    bus = Bus(config(), "demo", reader, observer=BusObserver(alive=fail))
    bus.start()
    bus._thread.join(PATIENCE_MS / 1000)
    with pytest.raises(BusError, match="the bus has ended: broken observer"):
        bus.publish(journal.append([detection_message(1)]))
    with pytest.raises(BusError, match="the bus has ended: broken observer"):
        bus.stop()


def test_an_address_in_use_is_said_in_one_sentence(bus: Bus, reader: JournalReader) -> None:
    for key, other in (
        ("publish.bind", config(bind=bus.endpoint)),
        ("publish.replay_bind", config(replay_bind=bus.endpoint)),
    ):
        second = Bus(other, "demo", reader)
        with pytest.raises(BusError, match=f"{key} {bus.endpoint}: cannot bind: the address is in use by another"):
            second.start()
        second.stop()


def test_an_address_of_another_machine_is_refused(reader: JournalReader) -> None:
    with pytest.raises(BusError, match=r"publish\.bind tcp://192\.0\.2\.1:0: cannot bind: this machine has no such"):
        Bus(config(bind="tcp://192.0.2.1:0"), "demo", reader).start()


def test_replay_pages(bus: Bus, journal: JournalFile, request_: Request, seen: Seen) -> None:
    committed = journal.append(mixed(range(1, 101)))
    frames = request_(b'{"since": 10, "topic": "network.", "limit": 3}')
    state = json.loads(frames[0])
    expected = [one for one in committed if one.seq > 10 and one.message.kind == "network"][:3]
    assert state == {
        "epoch": journal.epoch,
        "oldest": 1,
        "head": 100,
        "heads": journal.topic_heads,
        "through": expected[-1].seq,
        "count": 3,
        "complete": False,
        "frames": 3,
    }
    assert frames[1::3] == [one.message.topic.encode() for one in expected]
    assert frames[3::3] == [one.message.body for one in expected]
    frames = request_(b'{"since": 99, "topic": "waveform.detection."}')
    assert json.loads(frames[0])["count"] == 0
    frames = request_(b'{"since": 97, "topic": "waveform.detection."}')
    assert frames[1:][3::4] == [b"\0" * 40] * 1
    assert json.loads(request_(b"{}")[0])["head"] == 100
    assert seen.replayed == 4


@pytest.mark.parametrize(
    "frames",
    [[b"garbage"], [b""], [b'{"since": -1}'], [b"x" * 60_000], [b"{}", b"{}"], [b'{"since": 0, "topic": "foo"}']],
)
def test_a_malformed_request_is_answered_and_harms_nobody(
    journal: JournalFile, subscriber: zmq.Socket[bytes], request_: Request, frames: list[bytes]
) -> None:
    [answer] = request_(*frames)
    assert set(json.loads(answer)) == {"epoch", "error"}
    assert "expected" in json.loads(answer)["error"]
    journal.append(mixed(range(1, 10)))
    assert json.loads(request_(b'{"since": 0}')[0])["count"] == 9
    assert subscriber.recv_multipart()


def test_a_frame_beyond_every_limit_costs_its_sender_the_connection_only(
    bus: Bus, request_: Request, connected: Connected
) -> None:
    rude = connected(zmq.DEALER, bus.replay_endpoint)
    rude.send(b"x" * 1_000_000)
    assert json.loads(request_(b"{}")[0])["head"] == 0
    assert not rude.poll(100)


def test_a_journal_that_cannot_be_read_is_said_to_who_asked(journal: JournalFile, connected: Connected) -> None:
    class Broken:
        epoch = "e"

        def topic_heads(self) -> dict[str, int]:
            return {}

        def since(self, seq: int | None, topic: str, limit: int, max_bytes: int) -> Page:
            raise JournalError("journal x: cannot read it: disk I/O error")

    bus = Bus(config(), "demo", Broken())
    bus.start()
    socket = connected(zmq.REQ, bus.replay_endpoint)
    socket.send(b'{"since": 0}')
    assert json.loads(socket.recv())["error"] == "journal x: cannot read it: disk I/O error"
    bus.stop()


@pytest.mark.parametrize("delimited", [True, False])
def test_a_dealer_may_ask_ahead_with_or_without_a_delimiter(
    bus: Bus, journal: JournalFile, connected: Connected, delimited: bool
) -> None:
    journal.append(mixed(range(1, 10)))
    socket = connected(zmq.DEALER, bus.replay_endpoint)
    envelope = [b""] if delimited else []
    for since in range(3):
        socket.send_multipart([*envelope, b'{"since": %d}' % since])
    for since in range(3):
        answer = socket.recv_multipart()
        assert answer[: len(envelope)] == envelope
        assert json.loads(answer[len(envelope)])["count"] == 9 - since


@given(st.lists(st.sampled_from([b"", b"a", b"bc"]), min_size=1, max_size=5))
def test_envelopes_are_split_at_the_first_delimiter(frames: list[bytes]) -> None:
    envelope, request = split_envelope([b"identity", *frames])
    assert [*envelope, *request] == [b"identity", *frames]
    assert envelope == [b"identity"] or (envelope[-1] == b"" and b"" not in envelope[:-1])


def test_latency_is_told_of_messages_that_were_received(
    bus: Bus, journal: JournalFile, subscriber: zmq.Socket[bytes], seen: Seen
) -> None:
    first, second = journal.append([detection_message(1), detection_message(2)])
    received = Message("r", "status", "status.a.", b"{}", 1, received_ns=time.monotonic_ns() - 2_000_000_000)
    bus.publish([first, second, Committed(3, 1, received)])
    published(subscriber, 5)
    bus.stop()
    assert len(seen.latencies) == 1
    assert 2.0 <= seen.latencies[0] < 20.0


def test_a_heartbeat_that_is_due_goes_out_before_the_next_page(
    journal: JournalFile, reader: JournalReader, connected: Connected
) -> None:
    """Heartbeats are always due here: however many requests wait, none is answered without one in between."""
    journal.append([detection_message(n, size=2000) for n in range(1, 1001)])
    bus = Bus(config(heartbeat_seconds=1e-9), "demo", reader)
    bus.start()
    heartbeats = connected(zmq.SUB, bus.endpoint, b"heartbeat.")
    assert heartbeats.recv_multipart()
    askers = [connected(zmq.DEALER, bus.replay_endpoint) for _ in range(4)]
    for asker in askers:
        for _ in range(20):
            asker.send(b'{"since": 0, "limit": 1000}')
    answers = [asker.recv_multipart() for asker in askers for _ in range(20)]
    bus.stop()
    assert {len(answer) for answer in answers} == {3001}
    heard = 0
    while heartbeats.poll(200):
        heard += heartbeats.recv_multipart()[0] == b"heartbeat."
    assert heard >= len(answers)


def test_publish_waits_while_the_bus_is_far_behind(
    reader: JournalReader, journal: JournalFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The journal thread is held back, not memory filled: with room for two groups the third waits for the bus."""
    monkeypatch.setattr("tscc_stream.edges.zeromq.HANDED_OVER_GROUPS", 2)
    monkeypatch.setattr("tscc_stream.edges.zeromq._TURN_SECONDS", 0.01)
    gate, waiting = threading.Event(), threading.Event()

    def hold() -> None:
        waiting.set()
        gate.wait()

    bus = Bus(config(), "demo", reader, observer=BusObserver(alive=hold))
    bus.start()
    waiting.wait()
    handed = []

    def hand_over() -> None:
        for number in range(1, 4):
            bus.publish(journal.append([detection_message(number)]))
            handed.append(number)

    producer = threading.Thread(target=hand_over)
    producer.start()
    producer.join(0.1)
    assert producer.is_alive()
    assert len(handed) == 2
    gate.set()
    producer.join(PATIENCE_MS / 1000)
    assert handed == [1, 2, 3]
    bus.stop()


def test_a_bus_that_hangs_is_told_apart_from_one_that_stopped(reader: JournalReader) -> None:
    gate = threading.Event()
    bus = Bus(config(), "demo", reader, observer=BusObserver(alive=lambda: gate.wait() and None))
    bus.start()
    with pytest.raises(BusError, match=r"the bus did not stop within 0.1 s"):
        bus.stop(timeout_s=0.1)
    gate.set()
    bus.stop()


def test_a_context_that_never_ends_does_not_hold_up_the_end(
    reader: JournalReader, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As zmq_ctx_term sometimes does when a subscriber leaves at the wrong moment."""
    gate = threading.Event()
    term = zmq.Context.term

    def hang(context: zmq.Context[zmq.Socket[bytes]]) -> None:
        gate.wait()
        term(context)

    monkeypatch.setattr(zmq.Context, "term", hang)
    bus = Bus(config(), "demo", reader)
    bus.start()
    bus.stop()
    assert not bus.running
    gate.set()
    for thread in threading.enumerate():
        if thread.name == "bus-linger":
            thread.join(PATIENCE_MS / 1000)
