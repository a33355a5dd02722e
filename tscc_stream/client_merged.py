"""One subscriber to many daemons: every message of each once, in its own order, merged in time.

    from tscc_stream.client_merged import MergedSubscriber, Source

    sources = [Source("north", "tcp://north:5556", "tcp://north:5557"), Source("south", "tcp://south:5556", ...)]
    with MergedSubscriber(sources, since=0, topic="detection.") as subscriber:
        for source, message in subscriber:
            print(source, message.seq, message.body["time"])

Each source has a `Subscriber` of its own (tscc_stream/client.py), with its own epoch and seq; nothing is lost of any,
whatever becomes of the others. What order they come in, and how long one is held back for another, stands in
merge_order.py: never longer than `patience_seconds`, which delays every message while another source might still bring
an earlier one. With 0 they come as they arrive. A source that says nothing holds nobody; what it brings later comes
then, with its own time.

Everything happens in the thread that calls `receive`; there is no other one.
"""

from __future__ import annotations

import logging
import re
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Final

import zmq

from tscc_stream.bus.keys import CurveKeys
from tscc_stream.bus.position import Position, PositionError, PositionFile
from tscc_stream.client import QUIET_SECONDS, Received, Subscriber, SubscriberError
from tscc_stream.merge_order import MergeOrder
from tscc_stream.messages import topic_group
from tscc_stream.sampling import NS_PER_SECOND
from tscc_stream.seldom import Seldom

_log = logging.getLogger(__name__)

MOST_SOURCES: Final = 200
MOST_WAITING: Final = 1000
"""Messages of one source that are held here; more wait in its socket, and beyond that in its journal."""
RECEIVE_QUEUE: Final = 1000
PAGE: Final = 200
DEAF_SECONDS: Final = QUIET_SECONDS
"""A source that has said nothing for as long, or for the patience where that is longer, holds nobody."""
LOOK_SECONDS: Final = 0.5
"""How often a source is looked at although nothing has come: its connection may have been refused."""
AGAIN_SECONDS: Final = 1.0
"""After an error of a source, until it is asked again."""
_NAME: Final = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_IN_TIME: Final = ("detection", "network")
"""Kinds of messages whose time says when the earth moved; the others go out as they come."""


@dataclass(frozen=True, slots=True)
class Source:
    """One daemon. name: letters, digits, dots and dashes. since, epoch: as in Subscriber, instead of those for all."""

    name: str
    connect: str
    replay: str
    curve: CurveKeys | None = None
    since: int | None = None
    epoch: str | None = None


def time_of(received: Received) -> int | None:
    """When it happened (ns since 1970), as the message says; None for what has no time of its own."""
    if topic_group(received.topic.removeprefix("waveform.")).partition(".")[0] not in _IN_TIME:
        return None
    data = received.body.get("data")
    onset_ns = data.get("onset_ns") if isinstance(data, dict) else None
    if isinstance(onset_ns, int):
        return onset_ns
    try:
        return round(datetime.fromisoformat(received.body["time"]).timestamp() * NS_PER_SECOND)
    except (KeyError, TypeError, ValueError, OverflowError):
        return None


def _not_ahead(time_ns: int | None) -> int | None:
    """What this machine's clock has not reached counts as of now: else one recorder with a wrong clock would make
    everything that comes after its message late, and nothing would be put in order any more.
    """
    return None if time_ns is None else min(time_ns, time.time_ns())


class _Follower:
    """One source's subscriber, its place in a file, when it is to be looked at again (look_s), and before when not,
    though it has something: it had an error (again_s).
    """

    def __init__(
        self, source: Source, place: PositionFile | None, since: int | None, options: Mapping[str, Any]
    ) -> None:
        self._place = place
        start = place.start if place is not None else None
        epoch = source.epoch
        if source.since is not None:
            since = source.since
        if start is not None:
            since, epoch = start.through, start.epoch
        self.subscriber = Subscriber(
            source.connect, source.replay, since=since, epoch=epoch, curve=source.curve, **options
        )
        self.look_s = self.again_s = 0.0

    def keep(self, epoch: str | None, through: int | None, now_s: float) -> None:
        """Everything up to here was handled. Raises PositionError."""
        if self._place is not None and epoch is not None and through is not None:
            self._place.put(Position(epoch, through), now_s)

    def close(self) -> None:
        """Raises PositionError."""
        self.subscriber.close()
        if self._place is not None:
            self._place.close()


class MergedSubscriber:
    """Messages of several daemons. Not for use by several threads.

    since, topic, any_body: as in Subscriber, for every source. patience_seconds: longest that a message is held back
    for one of another source. notice: is told in a sentence, with the source's name before it. positions: a folder in
    which each source's place is kept in a file of its name; what it holds goes before `since`. A message counts as
    handled when the next one is asked for, or when `done` is called.

    Raises SubscriberError where a name, an address, a key or a position cannot be used.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        *,
        since: int | None = None,
        topic: str = "",
        patience_seconds: float = 1.0,
        notice: Callable[[str], None] = _log.warning,
        positions: str | Path | None = None,
        any_body: bool = False,
    ) -> None:
        _check(sources)
        self._notice, self._seldom = notice, Seldom()
        self._given: tuple[str, Received] | None = None
        self._deaf: set[str] = set()
        self._followers: dict[str, _Follower] = {}
        self._order: MergeOrder[Received] = MergeOrder(
            [source.name for source in sources],
            patience_seconds,
            max(patience_seconds, DEAF_SECONDS),
            time.monotonic(),
        )
        options = {"topic": topic, "any_body": any_body, "receive_queue": RECEIVE_QUEUE, "page": PAGE}
        try:
            for source in sources:
                self._followers[source.name] = self._follow(source, positions, since, options)
        except SubscriberError:
            self.close()
            raise

    def _follow(
        self, source: Source, positions: str | Path | None, since: int | None, options: Mapping[str, Any]
    ) -> _Follower:
        def notice(sentence: str) -> None:
            self._notice(f"{source.name}: {sentence}")

        place = None
        try:
            if positions is not None:
                Path(positions).mkdir(parents=True, exist_ok=True)
                place = PositionFile(Path(positions) / f"{source.name}.position")
                if place.damage:
                    notice(place.damage)
        except (OSError, PositionError) as error:
            raise SubscriberError(f"{source.name}: {error}") from error
        try:
            return _Follower(source, place, since, {**options, "notice": notice})
        except SubscriberError as error:
            if place is not None:
                place.close()
            raise SubscriberError(f"{source.name}: {error}") from error

    @property
    def names(self) -> tuple[str, ...]:
        """Of the sources, in their order."""
        return tuple(self._followers)

    def heard_s(self, name: str) -> float:
        """When a source last said anything (monotonic)."""
        return self._followers[name].subscriber.heard_s

    def place(self, name: str) -> tuple[str, int] | None:
        """Epoch and seq up to which a source has nothing that was not given; None before it is known, or while some of
        its messages are held back.
        """
        subscriber = self._followers[name].subscriber
        if self._order.waiting(name) or subscriber.epoch is None or subscriber.through is None:
            return None
        return subscriber.epoch, subscriber.through

    def close(self) -> None:
        """End. The last message given counts as handled only if `done` was called."""
        for name, follower in self._followers.items():
            try:
                follower.close()
            except PositionError as error:
                self._notice(f"{name}: {error}")
        self._followers.clear()

    def __enter__(self) -> MergedSubscriber:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[tuple[str, Received]]:
        """Messages without end."""
        while True:
            given = self.receive()
            if given is not None:
                yield given

    def done(self) -> None:
        """The last message given was handled: it need not come again after a restart."""
        if self._given is not None:
            name, received = self._given
            self._given = None
            self._keep(name, received.epoch, received.seq)

    def _keep(self, name: str, epoch: str | None, through: int | None) -> None:
        try:
            self._followers[name].keep(epoch, through, time.monotonic())
        except PositionError as error:
            self._tell(name, str(error))

    def _tell(self, name: str, sentence: str) -> None:
        if self._seldom.due(f"{name}: {sentence}", time.monotonic()):
            self._notice(f"{name}: {sentence}")

    def receive(self, timeout_s: float | None = None) -> tuple[str, Received] | None:
        """The next message and its source; None when there is none within timeout_s (None: wait for ever).

        The message before counts as handled. An error of one source is a notice, and the source is asked again.
        """
        self.done()
        deadline_s = float("inf") if timeout_s is None else time.monotonic() + timeout_s
        while True:
            self._look()
            now_s = time.monotonic()
            taken = self._order.take(now_s)
            if taken is not None:
                self._given = taken
                return taken
            if now_s >= deadline_s:
                return None
            self._wait(min(deadline_s, self._order.next_s(now_s)))

    def _look(self) -> None:
        """Whatever lies ready, of each source as much as may wait here."""
        for name, follower in self._followers.items():
            now_s = time.monotonic()
            if now_s >= follower.again_s and (now_s >= follower.look_s or follower.subscriber.ready):
                self._drain(name, follower, now_s)
        self._tell_deaf()

    def _drain(self, name: str, follower: _Follower, now_s: float) -> None:
        subscriber = follower.subscriber
        follower.look_s = now_s + LOOK_SECONDS
        try:
            while self._order.waiting(name) < MOST_WAITING:
                received = subscriber.receive(0.0)
                if received is None:
                    break
                self._order.came(name, received, _not_ahead(time_of(received)), time.monotonic())
        except SubscriberError as error:
            follower.look_s = follower.again_s = now_s + AGAIN_SECONDS
            self._tell(name, str(error))
        self._order.looked(name, up_to_date=subscriber.up_to_date, heard_s=subscriber.heard_s, now_s=time.monotonic())
        if not self._order.waiting(name) and (self._given is None or self._given[0] != name):
            self._keep(name, subscriber.epoch, subscriber.through)

    def _tell_deaf(self) -> None:
        deaf = set(self._order.deaf(time.monotonic()))
        for name in sorted(deaf - self._deaf):
            self._notice(f"{name}: nothing is heard from it; the others go on, and what it brings later comes then")
        for name in sorted(self._deaf - deaf):
            self._notice(f"{name}: is heard again")
        self._deaf = deaf

    def _wait(self, until_s: float) -> None:
        """Until a source has something, or may have, or the time is there."""
        poller, now_s = zmq.Poller(), time.monotonic()
        for name, follower in self._followers.items():
            until_s = min(until_s, follower.look_s)
            if now_s >= follower.again_s and self._order.waiting(name) < MOST_WAITING:
                poller.register(follower.subscriber.awaited, zmq.POLLIN)
        poller.poll(max(0, int(1000 * (until_s - time.monotonic()) + 0.999)))


def _check(sources: Sequence[Source]) -> None:
    names = [source.name for source in sources]
    if not 1 <= len(names) <= MOST_SOURCES:
        raise SubscriberError(f"{len(names)} sources: expected 1 to {MOST_SOURCES}")
    for name in names:
        if _NAME.fullmatch(name) is None:
            raise SubscriberError(f"source {name!r}: expected letters, digits, dots, dashes, at most 64")
        if names.count(name) > 1:
            raise SubscriberError(f"source {name}: is given twice")
