"""A secured bus over real sockets: who is on the list gets everything, nobody else anything, and both ends say so."""

from __future__ import annotations

import json
import logging
import os
import socket
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import zmq
from in_time import PATIENCE_S
from made_keys import Keyring
from made_messages import mixed

from tscc_stream import client
from tscc_stream.apps.console.feed import Feed
from tscc_stream.bus import access, monitor
from tscc_stream.bus.access import Access
from tscc_stream.bus.keys import AllowList, CurveKeys, text_of
from tscc_stream.bus.monitor import Event
from tscc_stream.client import Received, Subscriber, SubscriberError
from tscc_stream.config import PublishConfig
from tscc_stream.credentials import CredentialError
from tscc_stream.edges import zeromq
from tscc_stream.edges.sqlite import JournalFile, JournalReader
from tscc_stream.edges.zeromq import Bus, BusObserver

Subscribe = Callable[..., Subscriber]


@pytest.fixture
def keyring(tmp_path: Path) -> Keyring:
    made = Keyring(tmp_path)
    made.allow("alarm", "console")
    return made


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[JournalFile]:
    with JournalFile(tmp_path / "journal.sqlite") as opened:
        yield opened


@pytest.fixture
def refused() -> Counter[str]:
    return Counter()


@pytest.fixture
def start(journal: JournalFile, refused: Counter[str]) -> Iterator[Callable[[PublishConfig], Bus]]:
    reader = JournalReader(journal.path)
    started: list[Bus] = []

    def run(config: PublishConfig) -> Bus:
        bus = Bus(config, "demo", reader, observer=BusObserver(refused=lambda reason: refused.update([reason])))
        bus.start()
        started.append(bus)
        return bus

    yield run
    for bus in started:
        bus.stop()
    reader.close()


@pytest.fixture
def bus(start: Callable[[PublishConfig], Bus], keyring: Keyring) -> Bus:
    return start(keyring.config())


@pytest.fixture
def notices() -> list[str]:
    return []


@pytest.fixture
def subscribe(bus: Bus, notices: list[str]) -> Iterator[Subscribe]:
    made: list[Subscriber] = []

    def subscriber(curve: CurveKeys | None, **options: object) -> Subscriber:
        options = {"connect": bus.endpoint, "replay": bus.replay_endpoint, "notice": notices.append, **options}
        made.append(Subscriber(curve=curve, **options))  # type: ignore[arg-type]  # options of any kind
        return made[-1]

    yield subscriber
    for one in made:
        one.close()


@pytest.fixture(autouse=True)
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(client, "ANSWER_SECONDS", 0.3)
    monkeypatch.setattr(client, "QUIET_SECONDS", 0.3)


def take(subscriber: Subscriber, count: int) -> list[Received]:
    received = []
    for _ in range(count):
        one = subscriber.receive(PATIENCE_S)
        assert one is not None, f"{count - len(received)} of {count} messages did not come"
        received.append(one)
    return received


def until(condition: Callable[[], object], turn: Callable[[], object]) -> None:
    """Turn until it is so; fails when it takes too long."""
    end = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < end, "it did not come about"
        turn()


def test_keys_of_the_list_get_past_and_present(
    bus: Bus, subscribe: Subscribe, keyring: Keyring, journal: JournalFile, notices: list[str]
) -> None:
    bus.publish(journal.append(mixed(range(1, 101))))
    both = [subscribe(keyring.subscriber(name), since=0) for name in ("alarm", "console")]
    for subscriber in both:
        take(subscriber, 100)
    bus.publish(journal.append(mixed(range(101, 201))))
    for subscriber in both:
        assert [one.seq for one in take(subscriber, 100)] == list(range(101, 201))
    assert notices == []


def test_a_key_that_is_not_listed_gets_nothing_on_either_socket_and_both_ends_say_so(
    bus: Bus,
    subscribe: Subscribe,
    keyring: Keyring,
    journal: JournalFile,
    notices: list[str],
    refused: Counter[str],
    caplog: pytest.LogCaptureFixture,
) -> None:
    bus.publish(journal.append(mixed(range(1, 101))))
    stranger = subscribe(keyring.subscriber("stranger"), since=0)
    with caplog.at_level(logging.WARNING, logger=access.__name__):
        until(lambda: refused["unknown_key"] >= 6 and len(notices) >= 2, lambda: stranger.receive(0.1))
        assert stranger.receive(0) is None
    key = keyring.pair("stranger").public[:8]
    assert caplog.messages == [f"refused a subscriber from 127.0.0.1: its key {key}... is not in {keyring.allowed}"], (
        "once a minute, however often it tries"
    )
    refusal = f"refuses the key {key}...: it must be in the daemon's list of keys"
    assert sorted(notices) == sorted([f"{bus.endpoint} {refusal}", f"{bus.replay_endpoint} {refusal}"])
    assert set(refused) == {"unknown_key"}


def test_a_subscriber_without_keys(
    bus: Bus, subscribe: Subscribe, journal: JournalFile, notices: list[str], refused: Counter[str]
) -> None:
    bus.publish(journal.append(mixed(range(1, 101))))
    plain = subscribe(None, since=0)
    said = {
        f"{endpoint} is secured: it takes subscribers with a key only"
        for endpoint in (bus.endpoint, bus.replay_endpoint)
    }
    until(lambda: said <= set(notices), lambda: plain.receive(0.1))
    assert plain.receive(0) is None
    assert set(refused) & {"no_curve", "handshake"}, "whichever end notices first closes the connection"


def test_another_daemon_s_key(
    bus: Bus, subscribe: Subscribe, keyring: Keyring, notices: list[str], refused: Counter[str]
) -> None:
    wrong = CurveKeys(keyring.pair("another daemon").public, keyring.subscriber("alarm").secret_file)
    subscriber = subscribe(wrong, since=0)
    until(lambda: len(notices) >= 2 and refused["server_key"], lambda: subscriber.receive(0.1))
    assert {told.partition(" ")[2] for told in notices} <= {
        "breaks the handshake off: the server key may be another daemon's",
    }


def test_a_subscriber_with_keys_at_an_open_bus(
    start: Callable[[PublishConfig], Bus], keyring: Keyring, notices: list[str], refused: Counter[str]
) -> None:
    bus = start(PublishConfig(bind="tcp://127.0.0.1:0", replay_bind="tcp://127.0.0.1:0"))
    with Subscriber(
        bus.endpoint, bus.replay_endpoint, curve=keyring.subscriber("alarm"), notice=notices.append
    ) as subscriber:
        until(lambda: len(notices) >= 2 and refused["handshake"], lambda: subscriber.receive(0.1))
    assert all("handshake" in told or "is not secured" in told for told in notices)


def test_a_connection_that_was_given_up_does_not_hold_up_whoever_receives(
    bus: Bus, subscribe: Subscribe, keyring: Keyring
) -> None:
    """ZeroMQ has no connection left that a request could wait for; sending it would take for ever."""
    stranger = subscribe(keyring.subscriber("stranger"), since=0)
    until(lambda: stranger._journal.is_refused, lambda: stranger._journal.readable(time.monotonic() + 0.01))
    received: list[Received | None] = []
    receiving = threading.Thread(target=lambda: received.append(stranger.receive(0.1)), daemon=True)
    receiving.start()
    receiving.join(PATIENCE_S)
    assert received == [None]


def test_whoever_does_not_speak_zeromq_harms_nobody(
    bus: Bus, subscribe: Subscribe, keyring: Keyring, journal: JournalFile, refused: Counter[str]
) -> None:
    for endpoint in (bus.endpoint, bus.replay_endpoint):
        host, port = endpoint.removeprefix("tcp://").split(":")
        with socket.create_connection((host, int(port))) as rude:
            rude.sendall(os.urandom(100_000))
        socket.create_connection((host, int(port))).close()
    bus.publish(journal.append(mixed(range(1, 11))))
    subscriber = subscribe(keyring.subscriber("alarm"), since=0)
    take(subscriber, 10)
    until(lambda: refused["handshake"], lambda: subscriber.receive(0.05))


def test_a_key_that_is_added_may_connect_from_then_on(
    bus: Bus, subscribe: Subscribe, keyring: Keyring, journal: JournalFile, refused: Counter[str]
) -> None:
    """The refused subscriber goes on trying by itself."""
    bus.publish(journal.append(mixed(range(1, 11))))
    stranger = subscribe(keyring.subscriber("stranger"), since=0)
    until(lambda: refused["unknown_key"] >= 2, lambda: stranger.receive(0.1))
    keyring.allow("alarm", "stranger")
    assert bus.reload_keys() == f"2 keys may connect, as {keyring.allowed} says"
    take(stranger, 10)
    bus.publish(journal.append(mixed(range(11, 21))))
    take(stranger, 10)
    until(lambda: not stranger._bus.is_refused, lambda: stranger.receive(0.1))


def test_a_key_that_is_removed_is_cut_off_at_once_and_nobody_else_misses_anything(
    bus: Bus,
    subscribe: Subscribe,
    keyring: Keyring,
    journal: JournalFile,
    refused: Counter[str],
    notices: list[str],
) -> None:
    alarm, console = (subscribe(keyring.subscriber(name), since=0) for name in ("alarm", "console"))
    bus.publish(journal.append(mixed(range(1, 11))))
    for subscriber in (alarm, console):
        take(subscriber, 10)
    where = bus.endpoint, bus.replay_endpoint
    keyring.allow("alarm")
    bus.reload_keys()
    until(lambda: refused["unknown_key"], lambda: console.receive(0.05))
    bus.publish(journal.append(mixed(range(11, 21))))
    assert [one.seq for one in take(alarm, 10)] == list(range(11, 21))
    assert console.receive(0.5) is None
    assert (bus.endpoint, bus.replay_endpoint) == where
    assert not [told for told in notices if "no longer" in told]


@pytest.mark.parametrize("kind", ["tcp", "ipc"])
def test_a_list_that_is_wrong_changes_nothing(
    start: Callable[[PublishConfig], Bus], keyring: Keyring, journal: JournalFile, tmp_path: Path, kind: str
) -> None:
    """Also that a socket of the file system is still there after its lock was changed."""
    where = {"bind": f"ipc://{tmp_path}/b", "replay_bind": f"ipc://{tmp_path}/r"} if kind == "ipc" else {}
    bus = start(keyring.config(**where))
    bus.publish(journal.append(mixed(range(1, 11))))
    keyring.allowed.write_text(keyring.allowed.read_text() + "no key at all\n")
    with pytest.raises(CredentialError, match=r"allowed: line 5: expected a public key of 40 characters"):
        bus.reload_keys()
    with Subscriber(bus.endpoint, bus.replay_endpoint, since=0, curve=keyring.subscriber("alarm")) as subscriber:
        take(subscriber, 10)
        keyring.allow("alarm")
        bus.reload_keys()
        bus.publish(journal.append(mixed(range(11, 21))))
        take(subscriber, 10)


def test_reload_of_an_open_bus_says_so(start: Callable[[PublishConfig], Bus]) -> None:
    bus = start(PublishConfig(bind="tcp://127.0.0.1:0", replay_bind="tcp://127.0.0.1:0"))
    assert bus.reload_keys() == "publish.curve is null: everyone may connect"


def test_a_bus_whose_keys_cannot_be_read_does_not_begin(keyring: Keyring, journal: JournalFile) -> None:
    config = keyring.config()
    keyring.allowed.unlink()
    reader = JournalReader(journal.path)
    with pytest.raises(CredentialError, match=r"allowed_keys_file .*: cannot be read: No such file"):
        Bus(config, "demo", reader)
    reader.close()


def test_a_subscriber_whose_keys_cannot_be_read_says_so(bus: Bus, tmp_path: Path, keyring: Keyring) -> None:
    for keys, sentence in (
        (CurveKeys(keyring.server.public, tmp_path / "none"), "key .*none: cannot be read"),
        (CurveKeys("none", keyring.subscriber("alarm").secret_file), "server key none: cannot be read"),
    ):
        with pytest.raises(SubscriberError, match=sentence):
            Subscriber(bus.endpoint, bus.replay_endpoint, curve=keys)


def test_replay_is_counted_by_key_where_there_is_one(
    bus: Bus, keyring: Keyring, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A second connection of the same subscriber has no budget of its own."""
    seen: list[bytes] = []
    spent = bus._budget.spent
    monkeypatch.setattr(bus._budget, "spent", lambda peer, *rest: (seen.append(peer), spent(peer, *rest)))
    for _ in range(2):
        with Subscriber(bus.endpoint, bus.replay_endpoint, curve=keyring.subscriber("alarm")) as subscriber:
            until(lambda one=subscriber: one.through is not None, lambda one=subscriber: one.receive(0.05))
    until(lambda: len(seen) >= 2, lambda: threading.Event().wait(0.01))
    assert set(seen) == {keyring.pair("alarm").public.encode()}


def question(key: bytes = b"k" * 32, version: bytes = b"1.0", mechanism: bytes = b"CURVE") -> list[bytes]:
    return [version, b"7", b"tscc-stream", b"10.0.0.9", b"", mechanism, key]


def test_answers_to_zeromq_s_questions() -> None:
    reasons: list[str] = []
    key = text_of(b"k" * 32)
    decides = Access(AllowList({key: "alarm"}, "allowed"), reasons.append)
    assert decides.answer(question(), 0.0) == [b"1.0", b"7", b"200", b"OK", key.encode(), b""]
    assert decides.answer(question(b"x" * 32), 0.0)[2:4] == [b"400", b"unknown key"]
    assert decides.answer(question(b"short"), 0.0)[2:4] == [b"400", b"expected CURVE"]
    assert decides.answer([*question(), b"more"], 0.0)[2:4] == [b"400", b"expected CURVE"]
    assert decides.answer(question(mechanism=b"PLAIN"), 0.0)[2:4] == [b"400", b"expected CURVE"]
    assert decides.answer(question(version=b"2.0"), 0.0)[2] == b"500"
    assert decides.answer([b"1.0"], 0.0) == [b"1.0", b"", b"500", b"not ZAP 1.0", b"", b""]
    assert reasons == ["unknown_key", "no_curve", "no_curve", "no_curve"]


def test_the_name_of_who_connects_is_logged(caplog: pytest.LogCaptureFixture) -> None:
    key = text_of(b"k" * 32)
    decides = Access(AllowList({key: "alarm of shaft 3"}, "allowed"), lambda _reason: None)
    with caplog.at_level(logging.INFO, logger=access.__name__):
        for second in (0.0, 1.0, 59.0, 60.0):
            decides.answer(question(), second)
    assert caplog.messages == [f"alarm of shaft 3 (key {key[:8]}...) connected from 10.0.0.9"] * 2


def test_a_flood_of_keys_writes_a_bounded_log(caplog: pytest.LogCaptureFixture) -> None:
    reasons: list[str] = []
    decides = Access(AllowList({}, "allowed"), reasons.append)
    with caplog.at_level(logging.WARNING, logger=access.__name__):
        for number in range(1000):
            decides.answer(question(number.to_bytes(32)), number / 100)
    assert (len(reasons), len(caplog.messages)) == (1000, 100)


@pytest.mark.parametrize(
    ("event", "secured", "reason", "sentence"),
    [
        (Event(monitor.PROTOCOL, monitor.MECHANISM), True, "no_curve", "does not use CURVE"),
        (Event(monitor.PROTOCOL, monitor.MECHANISM), False, "handshake", "uses CURVE, which this bus does not"),
        (Event(monitor.PROTOCOL, monitor.CRYPTOGRAPHIC), True, "server_key", "another public key of this daemon"),
        (Event(monitor.NO_DETAIL, 32), True, "handshake", "the handshake failed"),
    ],
)
def test_what_failed_handshakes_are_called(
    event: Event, secured: bool, reason: str, sentence: str, caplog: pytest.LogCaptureFixture
) -> None:
    reasons: list[str] = []
    decides = Access(AllowList({}, "allowed") if secured else None, reasons.append)
    decides.failed(event, "", 0.0)
    assert reasons == [reason]
    [told] = caplog.messages
    assert told.startswith("refused a subscriber from an unknown address: ")
    assert sentence in told


def test_requests_of_a_secured_bus_are_answered_as_ever(bus: Bus, keyring: Keyring) -> None:
    with zmq.Context() as context, context.socket(zmq.REQ) as asker:
        pair = keyring.pair("alarm")
        asker.setsockopt(zmq.CURVE_SERVERKEY, keyring.server.public.encode())
        asker.setsockopt(zmq.CURVE_PUBLICKEY, pair.public.encode())
        asker.setsockopt(zmq.CURVE_SECRETKEY, pair.secret.encode())
        asker.setsockopt(zmq.RCVTIMEO, round(1000 * PATIENCE_S))
        asker.setsockopt(zmq.LINGER, 0)
        asker.connect(bus.replay_endpoint)
        asker.send(b"{}")
        assert json.loads(asker.recv())["head"] == 0


@pytest.mark.parametrize(
    ("endpoint", "out"),
    [
        ("tcp://127.0.0.1:5556", False),
        ("tcp://[::1]:5556", False),
        ("ipc:///run/bus", False),
        ("tcp://0.0.0.0:5556", True),
        ("tcp://[::]:5556", True),
        ("tcp://10.0.0.2:5556", True),
    ],
)
def test_an_open_bus_that_others_reach_is_warned_of(endpoint: str, out: bool) -> None:
    assert zeromq._reaches_out(endpoint) == out


def test_the_warning_of_an_open_bus(
    start: Callable[[PublishConfig], Bus], keyring: Keyring, caplog: pytest.LogCaptureFixture
) -> None:
    anywhere = {"bind": "tcp://0.0.0.0:0", "replay_bind": "tcp://0.0.0.0:0"}
    start(keyring.config(**anywhere))
    assert caplog.messages == []
    bus = start(PublishConfig(**anywhere))
    assert caplog.messages == [f"publish: whoever reaches {bus.endpoint} can read everything; see publish.curve"]


def test_a_secured_bus_that_starts_again_is_followed_on(
    start: Callable[[PublishConfig], Bus], keyring: Keyring, journal: JournalFile, notices: list[str]
) -> None:
    """A daemon's restart, in which subscribers find nobody for a while."""
    first = start(keyring.config())
    with Subscriber(
        first.endpoint, first.replay_endpoint, since=0, curve=keyring.subscriber("alarm"), notice=notices.append
    ) as subscriber:
        first.publish(journal.append(mixed(range(1, 11))))
        take(subscriber, 10)
        first.stop()
        written = journal.append(mixed(range(11, 21)))
        assert subscriber.receive(0.5) is None
        second = start(keyring.config(bind=first.endpoint, replay_bind=first.replay_endpoint))
        second.publish(written)
        assert [one.seq for one in take(subscriber, 10)] == list(range(11, 21))
    assert not [told for told in notices if "no answer" not in told]


@pytest.mark.parametrize("key", ["stranger", None])
def test_the_console_s_feed_says_that_it_is_refused_until_something_comes(
    bus: Bus, keyring: Keyring, key: str | None
) -> None:
    feed = Feed(
        lambda: {"publish": bus.endpoint, "replay": bus.replay_endpoint},
        curve=None if key is None else keyring.subscriber(key),
    )
    feed.start()
    try:
        until(lambda: feed.refused, lambda: time.sleep(0.01))
        assert bus.endpoint in feed.refused or bus.replay_endpoint in feed.refused
        assert ("refuses the key" if key else "secured") in feed.refused
        if key is not None:
            keyring.allow("alarm", key)
            bus.reload_keys()
            until(lambda: not feed.refused, lambda: time.sleep(0.01))
    finally:
        feed.stop()
