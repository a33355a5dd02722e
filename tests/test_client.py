"""The subscriber: nothing missed, nothing twice, in order; whatever is lost, filtered, killed or replaced."""

from __future__ import annotations

import io
import json
import os
import random
import re
import signal
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import pytest
import zmq
from in_time import PATIENCE_S
from made_messages import STATIONS, detection, detection_message, mixed, status_message

from tscc_stream import client
from tscc_stream.client import Received, Subscriber, SubscriberError
from tscc_stream.config import PublishConfig
from tscc_stream.edges import zeromq
from tscc_stream.edges.journal_copy import backup
from tscc_stream.edges.sqlite import JournalFile, JournalReader
from tscc_stream.edges.zeromq import Bus
from tscc_stream.messages import Committed, NetworkEvent
from tscc_stream.stages.publish import ModelIdentity, Publish
from tscc_stream.tail import as_json, as_text, tail

ANY = "tcp://127.0.0.1:0"
HERE = Path(__file__).parent


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[JournalFile]:
    with JournalFile(tmp_path / "journal.sqlite") as opened:
        yield opened


@contextmanager
def running(journal: JournalFile, bind: str = ANY, replay_bind: str = ANY, send_queue: int = 10_000) -> Iterator[Bus]:
    reader = JournalReader(journal.path)
    config = PublishConfig(bind=bind, replay_bind=replay_bind, heartbeat_seconds=0.02)
    bus = Bus(config, "demo", reader, send_queue=send_queue)
    bus.start()
    try:
        yield bus
    finally:
        bus.stop()
        reader.close()


@pytest.fixture
def bus(journal: JournalFile) -> Iterator[Bus]:
    with running(journal) as started:
        yield started


@pytest.fixture
def notices() -> list[str]:
    return []


@pytest.fixture
def subscribe(bus: Bus, notices: list[str]) -> Iterator[Callable[..., Subscriber]]:
    """Subscribers to the bus, closed when the test ends."""
    made: list[Subscriber] = []

    def subscriber(**options: object) -> Subscriber:
        options = {"connect": bus.endpoint, "replay": bus.replay_endpoint, "notice": notices.append, **options}
        made.append(Subscriber(**options))  # type: ignore[arg-type]  # options of any kind
        return made[-1]

    yield subscriber
    for one in made:
        one.close()


def take(subscriber: Subscriber, count: int) -> list[Received]:
    received = []
    for _ in range(count):
        one = subscriber.receive(PATIENCE_S)
        assert one is not None, f"{count - len(received)} of {count} messages did not come"
        received.append(one)
    return received


def seqs(messages: Sequence[Received | Committed]) -> list[int]:
    return [one.seq for one in messages]


def test_past_then_present(subscribe: Callable[..., Subscriber], bus: Bus, journal: JournalFile) -> None:
    written = journal.append(mixed(range(1, 1201)))
    bus.publish(written)
    subscriber = subscribe(since=0)
    received = take(subscriber, 1200)
    more = journal.append(mixed(range(1201, 1301)))
    bus.publish(more)
    received += take(subscriber, 100)
    written += more
    assert seqs(received) == list(range(1, 1301))
    assert [(one.topic, one.topic_seq, one.raw) for one in received] == [
        (one.message.topic, one.topic_seq, one.message.body) for one in written
    ]
    assert received[0].body == json.loads(received[0].raw)
    assert received[0].waveform is None
    assert {one.epoch for one in received} == {journal.epoch} == {subscriber.epoch}
    assert subscriber.receive(0.1) is None
    assert subscriber.receive(0) is None


def test_from_now_on_gives_nothing_old(subscribe: Callable[..., Subscriber], bus: Bus, journal: JournalFile) -> None:
    bus.publish(journal.append(mixed(range(1, 101))))
    subscriber = subscribe()
    assert subscriber.receive(0.1) is None
    assert subscriber.through == 100
    bus.publish(journal.append(mixed(range(101, 111))))
    assert seqs(take(subscriber, 10)) == list(range(101, 111))


def test_from_a_seq_on_and_by_iteration(subscribe: Callable[..., Subscriber], bus: Bus, journal: JournalFile) -> None:
    bus.publish(journal.append(mixed(range(1, 101))))
    for received, expected in zip(subscribe(since=90), range(91, 101), strict=False):
        assert received.seq == expected
        if expected == 100:
            break


def matching(committed: Sequence[Committed], topic: str) -> list[int]:
    if topic.startswith("waveform."):
        return [
            one.seq
            for one in committed
            if one.message.waveform is not None and f"waveform.{one.message.topic}".startswith(topic)
        ]
    return [one.seq for one in committed if one.message.topic.startswith(topic)]


TOPICS = [
    "",
    "det",
    "detection.",
    "detection.1",
    "detection.1.",
    "detection.1.BW.",
    f"detection.1.BW.{STATIONS[0]}..SHZ.",
    "detection.7.",
    "network.",
    "network.0.",
    "status.",
    "waveform.",
    "waveform.detection.",
    "waveform.detection.1.",
    "waveform.detection.2.BW.",
]


@pytest.mark.parametrize("loss", [0.0, 0.02, 0.5, 1.0])
@pytest.mark.parametrize("topic", TOPICS)
def test_whatever_is_lost_under_whatever_topic(  # every message is given once, in order
    journal: JournalFile, notices: list[str], monkeypatch: pytest.MonkeyPatch, topic: str, loss: float
) -> None:
    """The bus drops messages at random, as ZeroMQ does for a slow subscriber; some have no waveform."""
    chance = random.Random(f"{topic}{loss}")  # noqa: S311  # a reproducible loss, no secret
    monkeypatch.setattr(zeromq, "multiparts", _lossy(zeromq.multiparts, chance, loss))
    written: list[Committed] = []
    with (
        running(journal) as bus,
        Subscriber(bus.endpoint, bus.replay_endpoint, since=0, topic=topic, notice=notices.append) as subscriber,
    ):
        received: list[Received] = []
        for first in range(1, 600, 30):
            group = mixed(range(first, first + 30))
            group.append(detection_message(10_000 + first, waveform=None))
            written += journal.append(group)
            bus.publish(written[-len(group) :])
            wanted = len(matching(written, topic)) - len(received)
            received += take(subscriber, wanted - chance.randrange(wanted) if wanted else 0)
        received += take(subscriber, len(matching(written, topic)) - len(received))
        assert seqs(received) == matching(written, topic)
        assert subscriber.receive(0.05) is None
        assert all((one.waveform == b"\0" * 40) == topic.startswith("waveform.") for one in received)
    assert notices == []


def _lossy(
    send: Callable[[str, Committed], list[list[bytes]]], chance: random.Random, loss: float
) -> Callable[[str, Committed], list[list[bytes]]]:
    return lambda epoch, one: [frames for frames in send(epoch, one) if chance.random() >= loss]


def test_one_group_needs_no_replay_while_nothing_is_lost(journal: JournalFile, monkeypatch: pytest.MonkeyPatch) -> None:
    """topic_seq proves that what lies between two messages had other topics: the journal is not asked for each."""
    asked: list[int] = []
    monkeypatch.setattr(JournalReader, "since", _counting(JournalReader.since, asked))
    with running(journal) as bus, Subscriber(bus.endpoint, bus.replay_endpoint, topic="detection.1.") as subscriber:
        assert subscriber.receive(0.1) is None
        first = journal.append(mixed(range(1, 50)))
        bus.publish(first)
        take(subscriber, len(matching(first, "detection.1.")))
        before = len(asked)
        for start in range(50, 500, 50):
            written = journal.append(mixed(range(start, start + 50)))
            bus.publish(written)
            received = take(subscriber, len(matching(written, "detection.1.")))
            assert seqs(received) == matching(written, "detection.1.")
        assert len(asked) == before


@pytest.mark.parametrize("topic", ["", "detection.", "detection.1.", "detection.1.BW.UH1", "network.", "waveform."])
def test_an_idle_subscriber_does_not_ask(journal: JournalFile, monkeypatch: pytest.MonkeyPatch, topic: str) -> None:
    """Once it has caught up, heartbeats alone show that what is new has other topics."""
    asked: list[int] = []
    monkeypatch.setattr(JournalReader, "since", _counting(JournalReader.since, asked))
    written = journal.append(mixed(range(1, 101)))
    with (
        running(journal) as bus,
        Subscriber(bus.endpoint, bus.replay_endpoint, since=0, topic=topic) as subscriber,
    ):
        take(subscriber, len(matching(written, topic)))
        assert subscriber.receive(0.1) is None
        new = journal.append([status_message(1_000), status_message(1_001)])
        bus.publish(new)
        take(subscriber, len(matching(new, topic)))
        assert subscriber.receive(0.2) is None
        assert subscriber.through == journal.head
        assert len(asked) == 1


def _counting(since: Callable[..., object], asked: list[int]) -> Callable[..., object]:
    def counted(*arguments: object, **named: object) -> object:
        asked.append(1)
        return since(*arguments, **named)

    return counted


def test_a_stalled_subscriber_with_tiny_queues_misses_nothing(journal: JournalFile, notices: list[str]) -> None:
    """It does not read at all while 20,000 messages go out; ZeroMQ drops most of them."""
    with (
        running(journal, send_queue=10) as bus,
        Subscriber(
            bus.endpoint, bus.replay_endpoint, since=0, receive_queue=10, page=1000, notice=notices.append
        ) as subscriber,
    ):
        bus.publish(journal.append([status_message(0)]))
        take(subscriber, 1)
        for first in range(1, 20_000, 1000):
            bus.publish(journal.append([detection_message(n) for n in range(first, first + 1000)]))
        assert seqs(take(subscriber, 20_000)) == list(range(2, 20_002))
        assert subscriber.receive(0.1) is None
    assert notices == []


def test_a_slow_joiner_misses_nothing(subscribe: Callable[..., Subscriber], bus: Bus, journal: JournalFile) -> None:
    """Published while the subscription is still on its way."""
    for number in range(1, 20):
        journal_head = journal.head
        subscriber = subscribe(since=journal_head)
        bus.publish(journal.append([status_message(number * 100 + k) for k in range(10)]))
        assert seqs(take(subscriber, 10)) == list(range(journal_head + 1, journal_head + 11))


class Daemon:
    """Journal and bus in a process of their own."""

    def __init__(self, path: Path, until: int, bind: str = ANY, replay_bind: str = ANY, first: int = 1) -> None:
        self.process = subprocess.Popen(
            [sys.executable, str(HERE / "bus_process.py"), str(path), bind, replay_bind, str(until), str(first)],
            stdout=subprocess.PIPE,
            env={**os.environ, "PYTHONPATH": str(HERE.parent)},
        )
        assert self.process.stdout is not None
        self.bind, self.replay_bind = self.process.stdout.readline().decode().split()

    def kill(self) -> None:
        self.process.send_signal(signal.SIGKILL)
        self.process.communicate()


def test_kill_9_and_restart_of_the_publisher(
    tmp_path: Path, notices: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Four daemons one after the other on the same journal and ports, three of them killed at work."""
    monkeypatch.setattr(client, "ANSWER_SECONDS", 0.3)
    path, total = tmp_path / "journal.sqlite", 8_000
    daemon = Daemon(path, total)
    received: list[Received] = []
    try:
        with Subscriber(
            daemon.bind, daemon.replay_bind, since=0, receive_queue=20, notice=notices.append
        ) as subscriber:
            for until in (700, 2_500, 5_000):
                received += take(subscriber, until - len(received))
                daemon.kill()
                daemon = Daemon(path, total, daemon.bind, daemon.replay_bind)
            received += take(subscriber, total - len(received))
            assert subscriber.receive(0.3) is None
    finally:
        daemon.kill()
    assert seqs(received) == list(range(1, total + 1))
    assert [one.body for one in received] == [json.loads(one.body) for one in mixed(range(1, total + 1))]
    assert not [notice for notice in notices if "no answer" not in notice]


def test_an_older_journal_that_was_restored_is_read_again_and_nothing_is_missed(
    tmp_path: Path, notices: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The restored journal soon reaches the numbers that were given out before, with other messages under them."""
    monkeypatch.setattr(client, "ANSWER_SECONDS", 0.3)
    path, copy = tmp_path / "journal.sqlite", tmp_path / "backup.sqlite"
    with JournalFile(path) as journal:
        journal.append(mixed(range(1, 201)))
        backup(path, copy, lambda *_: None)
    daemon = Daemon(path, 600)
    try:
        with Subscriber(daemon.bind, daemon.replay_bind, since=0, notice=notices.append) as subscriber:
            before = take(subscriber, 600)
            daemon.kill()
            for rest in ("-wal", "-shm"):
                path.with_name(path.name + rest).unlink()
            path.write_bytes(copy.read_bytes())
            daemon = Daemon(path, 9_900, daemon.bind, daemon.replay_bind, first=9_001)
            after = take(subscriber, 200 + 900)
            assert subscriber.receive(0.3) is None
    finally:
        daemon.kill()
    assert seqs(after) == list(range(1, 1101))
    assert [one.raw for one in after] == [one.body for one in [*mixed(range(1, 201)), *mixed(range(9_001, 9_901))]]
    assert len({one.epoch for one in before} | {one.epoch for one in after}) == 2
    assert any("has another journal" in notice for notice in notices)


def test_another_journal_is_followed_from_its_beginning_and_said(
    tmp_path: Path, notices: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "ANSWER_SECONDS", 0.3)
    with JournalFile(tmp_path / "first") as first, JournalFile(tmp_path / "second") as second:
        with running(first) as bus:
            bus.publish(first.append(mixed(range(1, 51))))
            subscriber = Subscriber(bus.endpoint, bus.replay_endpoint, since=0, notice=notices.append)
            assert {one.epoch for one in take(subscriber, 50)} == {first.epoch}
        second.append(mixed(range(1, 21)))
        with running(second, bus.endpoint, bus.replay_endpoint) as bus, subscriber:
            received = take(subscriber, 20)
            bus.publish(second.append(mixed(range(21, 81))))
            received += take(subscriber, 60)
            assert seqs(received) == list(range(1, 81))
            assert {one.epoch for one in received} == {second.epoch} == {subscriber.epoch}
    [said] = [notice for notice in notices if "no answer" not in notice]
    assert first.epoch in said
    assert second.epoch in said
    assert "starting at its beginning" in said


@pytest.mark.parametrize(("since", "epoch"), [(30, "of-another-journal"), (1000, None)])
def test_resuming_with_a_place_in_another_journal_starts_at_the_beginning(
    subscribe: Callable[..., Subscriber],
    bus: Bus,
    journal: JournalFile,
    notices: list[str],
    since: int,
    epoch: str | None,
) -> None:
    bus.publish(journal.append(mixed(range(1, 51))))
    assert seqs(take(subscribe(since=since, epoch=epoch), 50)) == list(range(1, 51))
    assert len(notices) == 1
    assert re.search("another journal .* starting at its beginning", notices[0])


def test_resuming_in_the_same_journal(
    subscribe: Callable[..., Subscriber], bus: Bus, journal: JournalFile, notices: list[str]
) -> None:
    bus.publish(journal.append(mixed(range(1, 51))))
    assert seqs(take(subscribe(since=30, epoch=journal.epoch), 20)) == list(range(31, 51))
    assert notices == []


def test_what_retention_removed_is_said(
    subscribe: Callable[..., Subscriber], bus: Bus, journal: JournalFile, notices: list[str]
) -> None:
    bus.publish(journal.append(mixed(range(1, 51))))
    journal._db.execute("DELETE FROM message WHERE seq <= 20")
    assert seqs(take(subscribe(since=5), 30)) == list(range(21, 51))
    assert notices == ["messages 6 to 20 are no longer in the journal: whatever matched there was missed"]


def test_a_bus_that_is_not_heard_is_made_up_for_by_the_journal(
    subscribe: Callable[..., Subscriber], bus: Bus, journal: JournalFile, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Subscribed to the wrong port, or refused without a word."""
    monkeypatch.setattr(client, "QUIET_SECONDS", 0.05)
    subscriber = subscribe(connect="tcp://127.0.0.1:1", since=0)
    bus.publish(journal.append(mixed(range(1, 11))))
    assert seqs(take(subscriber, 10)) == list(range(1, 11))
    bus.publish(journal.append(mixed(range(11, 21))))
    assert seqs(take(subscriber, 10)) == list(range(11, 21))


def test_nobody_answers(
    subscribe: Callable[..., Subscriber], notices: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(client, "ANSWER_SECONDS", 0.01)
    assert subscribe(replay="tcp://127.0.0.1:1", since=0).receive(0.3) is None
    (notice,) = notices  # however often it was asked
    assert notice.startswith("no answer from tcp://127.0.0.1:1 within 0.01 s: does the daemon run there")
    assert "publish.replay_bind" in notice


@contextmanager
def answering(*frames: bytes) -> Iterator[str]:
    """Something that answers one request with these frames."""
    with zmq.Context() as context, context.socket(zmq.REP) as socket:
        socket.bind("tcp://127.0.0.1:*")
        thread = threading.Thread(target=lambda: (socket.recv(), socket.send_multipart(frames)))
        thread.start()
        yield socket.getsockopt_string(zmq.LAST_ENDPOINT)
        thread.join()
        socket.setsockopt(zmq.LINGER, 0)


STATE = b'{"epoch":"e","oldest":1,"head":1,"heads":{},"through":1,"count":1,"complete":true,"frames":3}'


@pytest.mark.parametrize(
    ("frames", "said"),
    [
        ([b"hello"], "does not speak tscc-stream's protocol: frame 0"),
        ([b'{"epoch":"e","error":"journal x: cannot read it"}'], "cannot answer: journal x: cannot read it"),
        ([STATE], "0 frames, expected 1 x 3"),
        ([STATE, b"status.a.", b"\xff", b"{}"], "does not speak tscc-stream's protocol: frame 1"),
        ([STATE, b"status.a.", b'{"epoch":"e","seq":1,"topic_seq":1}', b"[]"], "protocol: frame 2"),
    ],
)
def test_an_answer_that_is_none(subscribe: Callable[..., Subscriber], frames: list[bytes], said: str) -> None:
    with answering(*frames) as replay, pytest.raises(SubscriberError, match=re.escape(said)):
        subscribe(replay=replay, since=0).receive(PATIENCE_S)


@pytest.mark.parametrize("topic", ["alarm.", "wave", "waveform.status."])
def test_a_topic_that_nothing_can_have_is_refused(subscribe: Callable[..., Subscriber], topic: str) -> None:
    with pytest.raises(SubscriberError, match=r"begins with detection\., network\., status\. or waveform\.detection\."):
        subscribe(topic=topic)


def test_an_address_that_is_none(subscribe: Callable[..., Subscriber]) -> None:
    with pytest.raises(SubscriberError, match="cannot connect to nowhere"):
        subscribe(connect="nowhere")


def test_ten_lines_of_a_user(bus: Bus, journal: JournalFile) -> None:
    """The example in the module's documentation, as a script of its own."""
    bus.publish(journal.append([Publish("demo", ModelIdentity("demo", "1", "ab")).detection(detection())]))
    example = (client.__doc__ or "").partition("    from")[2].partition("\nHow it works")[0]
    script = "\n".join(line[4:] for line in ("    from" + example).splitlines())
    script = script.replace("tcp://daemon:5556", bus.endpoint).replace("tcp://daemon:5557", bus.replay_endpoint)
    done = subprocess.run(
        [sys.executable, "-P", "-c", script + "\n        break\n"],
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    assert done.stdout == "1 FDSN:BW_UH1__S_H_Z microseismic\n", done.stderr


def test_tail_as_json(bus: Bus, journal: JournalFile, notices: list[str]) -> None:
    written = journal.append(mixed(range(1, 101)))
    bus.publish(written)
    out = io.StringIO()
    wanted = [one for one in written if one.seq > 20 and one.message.topic.startswith("network.")][:5]
    status = tail(
        bus.endpoint, bus.replay_endpoint, since=20, topic="network.", jsonl=True, count=5, out=out,
        notice=notices.append,
    )  # fmt: skip
    assert status == 0
    assert [json.loads(line) for line in out.getvalue().splitlines()] == [
        {**json.loads(one.message.body), "epoch": journal.epoch, "seq": one.seq} for one in wanted
    ]


PUBLISH = Publish("demo", ModelIdentity("demo", "1", "ab"))


def received(message: object) -> Received:
    body = message.body  # type: ignore[attr-defined]  # known there, not to its stubs
    return Received("e", 7, 3, message.topic, json.loads(body), body)  # type: ignore[attr-defined]  # known there, not to its stubs


def test_json_lines_keep_the_numbers_as_they_were_written() -> None:
    one = received(PUBLISH.detection(detection()))
    assert as_json(one) == one.raw.decode()[:-1] + ',"epoch":"e","seq":7}'


def test_text_for_people() -> None:
    event = NetworkEvent("n", 0, 1.0, ("a", "b", "c"), (), {"blast": 2, "crusher": 1}, 0, "blast", False)
    shown = [
        as_text(received(message)).split()
        for message in (
            PUBLISH.detection(detection()),
            PUBLISH.detection(detection(known=False)),
            PUBLISH.network_event(event),
            PUBLISH.status("daemon", {"state": "started"}, 0),
        )
    ]
    assert shown == [
        ["2010-05-27T16:24:33.210000Z", "BW.UH1..SHZ", "microseismic", "0.980", "known"],
        ["2010-05-27T16:24:33.210000Z", "BW.UH1..SHZ", "unknown", "0.980", "unknown"],
        ["1970-01-01T00:00:00.000000Z", "3", "channels", "blast", "blast", "2,", "crusher", "1", "early"],
        ["1970-01-01T00:00:00.000000Z", "daemon", '{"state":"started"}'],
    ]


def test_text_of_what_another_version_wrote_and_of_hostile_names() -> None:
    assert as_text(Received("e", 1, 1, "detection.1.X.", {}, b'{"new": 1}')) == 'detection.1.X.  {"new": 1}'
    body = json.loads(PUBLISH.detection(detection()).body)
    body["subject"], body["data"]["late"] = "elsewhere", True
    body["data"]["cluster"].update(name="\x1b[2Jgone\n", membership=[None, None])
    line = as_text(Received("e", 1, 1, "detection.1.X.", body, b""))
    assert line.split()[1:] == ["elsewhere", "?[2Jgone?", "?", "known", "late"]
