"""A subscriber's place in a file: kept after each message, whole after a crash, for one subscriber only."""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st
from in_time import PATIENCE_S
from made_messages import mixed, status_message

from tscc_stream.bus import position
from tscc_stream.bus.position import Position, PositionError, PositionFile
from tscc_stream.client import Received, Subscriber, SubscriberError
from tscc_stream.config import PublishConfig
from tscc_stream.edges.sqlite import JournalFile, JournalReader
from tscc_stream.edges.zeromq import Bus

ANY = "tcp://127.0.0.1:0"


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "position"


def stored(path: Path) -> Position | None:
    file = PositionFile(path)
    file.close()
    return file.start


def written(path: Path, throughs: Sequence[int], seconds_apart: float = 0.0) -> None:
    file = PositionFile(path)
    for number, through in enumerate(throughs):
        file.put(Position("e", through), number * seconds_apart)
    file.close()


@given(
    st.lists(st.lists(st.integers(0, 2**63 - 1), min_size=1, max_size=8), min_size=1, max_size=4),
    st.sampled_from([0.0, 0.3, 2.0]),
)
def test_the_last_one_put_is_found_again(
    tmp_path_factory: pytest.TempPathFactory, lives: list[list[int]], apart: float
) -> None:
    """Over several lives of a subscriber, however often the disk was waited for."""
    path = tmp_path_factory.mktemp("p") / "position"
    for throughs in lives:
        written(path, throughs, apart)
        assert stored(path) == Position("e", throughs[-1])


def test_a_new_file_holds_nothing_and_is_its_owner_s(path: Path) -> None:
    assert stored(path) is None
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize("synced", [1, 2, 3, 4])
def test_what_was_on_the_disk_survives_whatever_becomes_of_the_writes_since(
    path: Path, synced: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A loss of power may garble what was written after the last wait for the disk, and only that."""
    images: list[bytes] = []
    fsync = os.fsync
    monkeypatch.setattr(position.os, "fsync", lambda handle: (fsync(handle), images.append(path.read_bytes())))
    file = PositionFile(path)
    for second in range(synced):
        file.put(Position("e", second), float(second))
    safe = images[-1]
    for number in range(100, 150):
        file.put(Position("e", number), synced - 0.5)
    file.close()
    path.write_bytes(garbled(safe, path.read_bytes()))
    assert stored(path) == Position("e", synced - 1)


@pytest.mark.parametrize("before", [1, 2, 3])
def test_what_a_killed_subscriber_left_is_on_the_disk_before_the_next_one_writes(
    path: Path, before: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And a loss of power during that write does not harm it."""
    killed = PositionFile(path)
    for second in range(before):
        killed.put(Position("e", second), float(second))
    killed.put(Position("e", 100), before - 0.5)
    os.close(killed._handle)
    images: list[bytes] = []
    monkeypatch.setattr(position.os, "fsync", lambda _handle: images.append(path.read_bytes()))
    file = PositionFile(path)
    assert images == [path.read_bytes()]
    file.put(Position("e", 101), 0.0)
    file.close()
    path.write_bytes(garbled(images[0], path.read_bytes()))
    assert stored(path) == Position("e", 100)


def garbled(safe: bytes, now: bytes) -> bytes:
    """What the disk may hold after a loss of power: whatever changed since it was safe is nonsense."""
    pairs = zip(safe.ljust(len(now), b"\0"), now, strict=True)
    return bytes(new if new == old else new ^ 0x55 for old, new in pairs)


def test_the_disk_is_waited_for_once_a_second_at_most(path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    file = PositionFile(path)
    waits: list[int] = []
    monkeypatch.setattr(position.os, "fsync", waits.append)
    for number in range(1000):
        file.put(Position("e", number), number / 100)
    assert len(waits) == 10
    file.put(Position("e", 999), 100.0)
    assert len(waits) == 11, "what is still waiting is brought to the disk when there is nothing new"
    file.put(Position("e", 999), 200.0)
    assert len(waits) == 11
    file.close()


def test_the_file_does_not_grow(path: Path) -> None:
    written(path, range(10_000), 0.01)
    assert path.stat().st_size <= 8192


DAMAGE: dict[str, Callable[[bytes], bytes]] = {
    "cut short": lambda data: data[:20],
    "zeroes": lambda data: bytes(len(data)),
    "another number": lambda data: data.replace(b'"through":7', b'"through":9'),
    "another file": lambda _data: b"site: demo\n" * 1000,
    "another shape": lambda _data: b'{"epoch": 3}',
}


@pytest.mark.parametrize("damage", DAMAGE.values(), ids=DAMAGE.keys())
def test_a_damaged_file_is_told_and_kept_aside(path: Path, damage: Callable[[bytes], bytes]) -> None:
    written(path, [7])
    data = damage(path.read_bytes())
    path.write_bytes(data)
    file = PositionFile(path)
    assert file.start is None
    assert file.damage == f"position {path}: is damaged (kept as position.damaged): starting as if there were none"
    assert (path.parent / "position.damaged").read_bytes() == data
    file.put(Position("e", 8), 0.0)
    file.close()
    assert stored(path) == Position("e", 8)


def test_two_at_once_are_refused(path: Path) -> None:
    first = PositionFile(path)
    with pytest.raises(PositionError, match=re.escape(f"position {path}: another subscriber uses it")):
        PositionFile(path)
    first.close()
    assert stored(path) is None


def test_what_cannot_be_a_position_is_refused(tmp_path: Path) -> None:
    with pytest.raises(PositionError, match="cannot be opened: Is a directory"):
        PositionFile(tmp_path)
    with pytest.raises(PositionError, match="cannot be opened: No such file or directory"):
        PositionFile(tmp_path / "nowhere" / "position")
    file = PositionFile(tmp_path / "position")
    with pytest.raises(PositionError, match="cannot hold an epoch of 1000 characters"):
        file.put(Position("e" * 1000, 1), 0.0)
    file.close()


@pytest.fixture
def journal(tmp_path: Path) -> Iterator[JournalFile]:
    with JournalFile(tmp_path / "journal.sqlite") as opened:
        yield opened


@pytest.fixture
def bus(journal: JournalFile) -> Iterator[Bus]:
    reader = JournalReader(journal.path)
    bus = Bus(PublishConfig(bind=ANY, replay_bind=ANY, heartbeat_seconds=0.02), "demo", reader)
    bus.start()
    yield bus
    bus.stop()
    reader.close()


@pytest.fixture
def notices() -> list[str]:
    return []


@pytest.fixture
def subscribe(bus: Bus, path: Path, notices: list[str]) -> Callable[..., Subscriber]:
    def subscriber(since: int | None = 0, topic: str = "") -> Subscriber:
        return Subscriber(
            bus.endpoint, bus.replay_endpoint, since=since, topic=topic, position=path, notice=notices.append
        )

    return subscriber


def take(subscriber: Subscriber, count: int) -> list[int]:
    received: list[Received | None] = [subscriber.receive(PATIENCE_S) for _ in range(count)]
    return [one.seq for one in received if one is not None]


def test_it_goes_on_with_the_message_that_was_not_handled(
    bus: Bus, journal: JournalFile, subscribe: Callable[..., Subscriber]
) -> None:
    bus.publish(journal.append(mixed(range(1, 101))))
    with subscribe() as subscriber:
        assert take(subscriber, 30) == list(range(1, 31))
    with subscribe() as subscriber:
        assert take(subscriber, 10) == list(range(30, 40)), "the thirtieth was given, and nothing more is known of it"
        subscriber.done()
    with subscribe() as subscriber:
        assert take(subscriber, 61) == list(range(40, 101))
        assert subscriber.receive(0.1) is None, "asking again says that the last one was handled"
    with subscribe() as subscriber:
        assert subscriber.receive(0.1) is None


def test_a_first_start_from_now_on_misses_nothing_that_comes_while_it_is_down(
    bus: Bus, journal: JournalFile, subscribe: Callable[..., Subscriber]
) -> None:
    bus.publish(journal.append(mixed(range(1, 101))))
    with subscribe(since=None) as subscriber:
        assert subscriber.receive(0.2) is None
    bus.publish(journal.append(mixed(range(101, 111))))
    with subscribe(since=None) as subscriber:
        assert take(subscriber, 10) == list(range(101, 111))


def test_what_does_not_match_moves_the_place_too(
    bus: Bus, journal: JournalFile, subscribe: Callable[..., Subscriber], path: Path
) -> None:
    bus.publish(journal.append([status_message(number) for number in range(1, 101)]))
    with subscribe(topic="network.") as subscriber:
        assert subscriber.receive(0.2) is None
    assert stored(path) == Position(journal.epoch, 100)


def test_another_journal_is_followed_from_its_beginning(
    bus: Bus, journal: JournalFile, subscribe: Callable[..., Subscriber], path: Path, notices: list[str]
) -> None:
    bus.publish(journal.append(mixed(range(1, 11))))
    file = PositionFile(path)
    file.put(Position("of-another-journal", 5), 0.0)
    file.close()
    with subscribe() as subscriber:
        assert take(subscriber, 10) == list(range(1, 11))
    assert "starting at its beginning" in notices[0]
    assert stored(path) == Position(journal.epoch, 9)


def test_a_damaged_place_starts_as_told_by_since(
    bus: Bus, journal: JournalFile, subscribe: Callable[..., Subscriber], path: Path, notices: list[str]
) -> None:
    bus.publish(journal.append(mixed(range(1, 11))))
    path.write_bytes(b"garbage")
    with subscribe(since=4) as subscriber:
        assert take(subscriber, 6) == list(range(5, 11))
    assert len(notices) == 1
    assert "is damaged" in notices[0]


def test_a_second_subscriber_on_the_same_file_is_refused(subscribe: Callable[..., Subscriber]) -> None:
    with subscribe(), pytest.raises(SubscriberError, match="another subscriber uses it"):
        subscribe()


def test_a_place_that_cannot_be_written_is_told_and_messages_go_on(
    bus: Bus,
    journal: JournalFile,
    subscribe: Callable[..., Subscriber],
    notices: list[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    bus.publish(journal.append(mixed(range(1, 101))))

    def full(*_arguments: object) -> int:
        raise OSError(28, "No space left on device")

    with subscribe() as subscriber:
        monkeypatch.setattr(position.os, "pwrite", full)
        assert take(subscriber, 100) == list(range(1, 101))
    assert len(notices) == 1
    assert "cannot be written: No space left on device" in notices[0]


def test_a_daemon_that_starts_again_while_the_subscriber_is_down(
    bus: Bus, journal: JournalFile, subscribe: Callable[..., Subscriber], path: Path
) -> None:
    bus.publish(journal.append(mixed(range(1, 11))))
    with subscribe() as subscriber:
        take(subscriber, 10)
        subscriber.done()
    bus.stop()
    journal.append(mixed(range(11, 21)))
    reader = JournalReader(journal.path)
    second = Bus(PublishConfig(bind=ANY, replay_bind=ANY, heartbeat_seconds=0.02), "demo", reader)
    second.start()
    with Subscriber(second.endpoint, second.replay_endpoint, since=0, position=path) as subscriber:
        assert take(subscriber, 10) == list(range(11, 21))
    second.stop()
    reader.close()
