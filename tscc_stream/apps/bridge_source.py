"""One source of the bridge: what a daemon says, in order, on a thread of its own, and how far it was handed over.

The place in the daemon's messages is kept in a file of its own and only moved on over what was acknowledged. Two looks
at the daemon go on beside: where it listens (it may have been restarted on other ports), and how far its journal goes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

import msgspec
import zmq

from tscc_stream.bus.keys import CurveKeys
from tscc_stream.bus.link import Identity, Link
from tscc_stream.bus.position import Position, PositionError, PositionFile
from tscc_stream.client import Received, Subscriber, SubscriberError
from tscc_stream.credentials import CredentialError
from tscc_stream.ownership import give_to_owner_of_folder
from tscc_stream.seldom import Seldom
from tscc_stream.stages.publish import ReplayState

_log = logging.getLogger(__name__)

TURN_SECONDS = 0.2
PAUSE_SECONDS = 1.0
HEAD_SECONDS = 3.0
RECEIVE_QUEUE = 1000
"""Messages that may wait in the socket: what finds no room there is asked for again."""
MOST_BYTES = 4 * 2**20
"""Of one turn's messages; one message more than that is taken alone."""
Where = Callable[[], tuple[str, str]]
"""A daemon's two addresses: bus and replay."""


@dataclass(frozen=True, slots=True)
class Taken:
    """What a turn brought. place: up to where everything has been given, where no more was there."""

    messages: list[Received]
    place: Position | None


class _Head:
    """How far a daemon's journal goes: asked every HEAD_SECONDS, and never waited for."""

    def __init__(self, address: str, keys: CurveKeys | None) -> None:
        """Raises CredentialError."""
        identity = None if keys is None else Identity(keys)
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self.state: ReplayState | None = None
        self.heard_s = time.monotonic()
        self._asked_s, self._waiting = float("-inf"), False
        # a refusal is told by the subscriber, which has the same keys
        self._link = Link(
            self._context, zmq.REQ, address, identity, prepare=lambda _socket: None, refused=lambda _sentence: None
        )

    def look(self, now_s: float) -> None:
        if self._waiting and self._link.readable(now_s):
            self._waiting, self.heard_s = False, now_s
            self._take(self._link.socket.recv_multipart()[0])
        elif now_s - self._asked_s >= HEAD_SECONDS:
            if self._waiting:
                self._link.renew()
                self.state = None
            with suppress(zmq.Again):  # the connection was given up already: as if there were no answer
                self._link.socket.send(b"{}", zmq.NOBLOCK)
            self._asked_s, self._waiting = now_s, True

    def _take(self, frame: bytes) -> None:
        with suppress(msgspec.DecodeError, UnicodeDecodeError):  # busy: what was known before holds
            self.state = msgspec.json.decode(frame, type=ReplayState)

    def close(self) -> None:
        self._context.destroy(linger=0)


class Source:
    """Not for use by several threads at a time. Raises SubscriberError or PositionError where it cannot start."""

    def __init__(self, name: str, topic: str, where: Where, keys: CurveKeys | None, position: Path, start: str) -> None:
        """topic: prefix of what is wanted. start: oldest or now, where the file of the place is new."""
        self.name = name
        self._topic, self._where, self._keys = topic, where, keys
        self._seldom = Seldom()
        self._position = PositionFile(position)
        self._stream_file = position.with_suffix(".stream")
        if self._position.damage:
            self._notice(self._position.damage)
        found = self._position.start
        self.start: Position | None = Position(found.epoch, found.through) if found else None
        self._given = self.start
        self._since = 0 if start == "oldest" else None
        self._at = where()
        try:
            self._subscriber, self._head = self._connect(self._at)
        except SubscriberError:
            self._position.close()
            raise

    def _connect(self, at: tuple[str, str]) -> tuple[Subscriber, _Head]:
        given = self._given
        subscriber = Subscriber(
            *at,
            since=self._since if given is None else given.through,
            epoch=None if given is None else given.epoch,
            topic=self._topic,
            receive_queue=RECEIVE_QUEUE,
            notice=self._notice,
            any_body=True,
            curve=self._keys,
        )
        try:
            return subscriber, _Head(at[1], self._keys)
        except (CredentialError, zmq.ZMQError) as error:
            subscriber.close()
            raise SubscriberError(str(error)) from error

    @property
    def heard_s(self) -> float:
        """When the daemon last said anything, on either socket; monotonic."""
        return max(self._subscriber.heard_s, self._head.heard_s)

    @property
    def given(self) -> Position | None:
        """Up to where messages were given; after `begin_again_for` the beginning."""
        return self._given

    def behind(self, done: Position | None) -> int | None:
        """Messages of the daemon's journal after a place; None where the daemon does not say."""
        state = self._head.state
        if state is None:
            return None
        known = done is not None and done.epoch == state.epoch
        return max(0, state.head - (done.through if done is not None and known else 0))

    def turn(self, done: Position | None, most: int) -> Taken:
        """Keep the place, look at the daemon, and take what it says: at most so many messages, in TURN_SECONDS."""
        self.keep(done)
        self._follow()
        self._head.look(time.monotonic())
        taken: list[Received] = []
        size = 0
        while len(taken) < most and size < MOST_BYTES:
            received = self._receive(0.0 if taken else TURN_SECONDS)
            if received is None:
                return Taken(taken, self._place())
            self._given = Position(received.epoch, received.seq)
            taken.append(received)
            size += len(received.raw) + len(received.waveform or b"")
        return Taken(taken, None)

    def _receive(self, seconds: float) -> Received | None:
        try:
            return self._subscriber.receive(seconds)
        except SubscriberError as error:
            self._notice(str(error))
            time.sleep(PAUSE_SECONDS)
            return None

    def _place(self) -> Position | None:
        epoch, through = self._subscriber.epoch, self._subscriber.through
        if epoch is None or through is None:
            return None
        self._given = Position(epoch, through)
        return self._given

    def _follow(self) -> None:
        """A daemon that listens elsewhere since its restart is followed there; where that fails, in the next turn."""
        at = self._where()
        if at == self._at:
            return
        try:
            subscriber, head = self._connect(at)
        except SubscriberError as error:
            self._notice(str(error))
            return
        self._at = at
        self._use(subscriber, head)
        _log.info("%s listens on %s now", self.name, at[0])

    def begin_again_for(self, stream: str) -> bool:
        """stream: to which messages go from now on, by the time when it was made.

        Whether it is another one than before: then it has nothing of what was handed over, and all that the daemon's
        journal holds is given once more; unless `start` says that the past is not wanted.
        """
        before = self._known_stream()
        if stream in ("", before):
            return False
        given = self._given if before and self._since == 0 else None
        if given is not None and not self._restarted(given.epoch):
            return False  # it is tried again at the next start
        try:
            self._stream_file.write_text(stream)
            give_to_owner_of_folder(self._stream_file)
        except OSError as error:
            self._notice(f"{self._stream_file}: cannot be written: {error.strerror}")
        if given is not None:
            self._notice("the stream is another one than before: all that the journal holds goes to it")
        return given is not None

    def _known_stream(self) -> str:
        try:
            return self._stream_file.read_text()
        except (OSError, UnicodeDecodeError):
            return ""

    def _restarted(self, epoch: str) -> bool:
        """At the journal's beginning; the place too, so that a killed bridge begins there again."""
        before, self._given = self._given, Position(epoch, 0)
        try:
            subscriber, head = self._connect(self._at)
        except SubscriberError as error:
            self._given = before
            self._notice(str(error))
            return False
        self._use(subscriber, head)
        self.keep(self._given)
        return True

    def _use(self, subscriber: Subscriber, head: _Head) -> None:
        self._subscriber.close()
        self._head.close()
        self._subscriber, self._head = subscriber, head

    def keep(self, done: Position | None) -> None:
        """Without a place to write to, messages go on: they then come again after a restart."""
        if done is None:
            return
        try:
            self._position.put(done, time.monotonic())
        except PositionError as error:
            self._notice(str(error))

    def _notice(self, sentence: str) -> None:
        if self._seldom.due(sentence, time.monotonic()):
            _log.warning("%s: %s", self.name, sentence)

    def close(self) -> None:
        self._subscriber.close()
        self._head.close()
        try:
            self._position.close()
        except PositionError as error:
            self._notice(str(error))
