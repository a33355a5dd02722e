"""The subscriber that never misses silently: every message once, in the order of its seq.

    from tscc_stream.client import Subscriber

    with Subscriber("tcp://daemon:5556", "tcp://daemon:5557", since=0, topic="detection.") as subscriber:
        for message in subscriber:
            print(message.seq, message.body["subject"], message.body["data"]["cluster"]["name"])

How it works (clone pattern, https://zguide.zeromq.org/docs/chapter5). It subscribes first, then asks the replay socket
for the past, page by page, then follows. `through` is the seq up to which everything that matches has been given. A
message from the bus is taken when nothing that matches can lie between `through` and it:

- it is the very next seq; or
- the topic is exactly one group (`detection.1.`), and it is the very next topic_seq of that group.

Otherwise something may have been lost, or may only have had another topic: the journal is asked, and its answer is
taken instead. The heartbeats' heads tell of messages lost at the end of the stream in the same way. While it asks it
does not read the bus: what waits there, or is dropped there, is found to be known, or to be missing, afterwards. When
the bus says nothing for QUIET_SECONDS, the journal is asked as well.

With `position`, a file, it goes on after a restart where it stood: a message counts as handled when the next one is
asked for, or when `done` is called. After kill -9 at most the last message comes again, and none is missed; after a
loss of power those of the last second may come again.
"""

from __future__ import annotations

import errno
import logging
import time
from collections import deque
from collections.abc import Callable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any, TypeVar

import msgspec
import zmq

from tscc_stream.bus.keys import CurveKeys
from tscc_stream.bus.link import Identity, Link
from tscc_stream.bus.position import Position, PositionError, PositionFile
from tscc_stream.credentials import CredentialError
from tscc_stream.messages import topic_group
from tscc_stream.seldom import Seldom
from tscc_stream.stages.publish import (
    HEARTBEAT_TOPIC,
    KINDS,
    TOPIC_EXPECTED,
    WAVEFORM,
    Header,
    ReplayState,
    may_match,
)

_log = logging.getLogger(__name__)

ANSWER_SECONDS = 2.0
QUIET_SECONDS = 5.0
_SHORTEST_WAIT, _LONGEST_WAIT = 0.01, 60.0
"""Seconds, of those that a daemon may tell a subscriber to wait before it asks again."""
_Shape = TypeVar("_Shape")


class SubscriberError(RuntimeError):
    """What is at the other end does not speak this protocol, or what was asked for makes no sense."""


@dataclass(frozen=True, slots=True)
class Received:
    """One message. raw: its body as it was sent; waveform: float32 little-endian, only for `waveform.` topics."""

    epoch: str
    seq: int
    topic_seq: int
    topic: str
    body: dict[str, Any]
    raw: bytes
    waveform: bytes | None = None


class _ErrorReply(msgspec.Struct):
    error: str = ""
    retry_after_s: float | None = None


class _HeartbeatData(msgspec.Struct):
    heads: dict[str, int]


class _Heartbeat(msgspec.Struct):
    data: _HeartbeatData


class _Filter:
    """Which topics are wanted, and what can be said of a whole group (first two parts) of topics."""

    def __init__(self, topic: str) -> None:
        if not may_match(topic):
            raise SubscriberError(f"topic {topic}: {TOPIC_EXPECTED}")
        self.topic = topic
        prefix = topic.removeprefix(WAVEFORM)
        self._prefix = prefix or ("detection." if topic else "")
        parts = self._prefix.split(".")
        self.is_one_group = len(parts) == 3 and parts[1] != "" and parts[2] == ""

    def subscriptions(self) -> list[bytes]:
        """Without a topic: everything but the copies with waveforms."""
        wanted = KINDS if not self.topic else (self.topic,)
        return [HEARTBEAT_TOPIC, *(prefix.encode() for prefix in wanted)]

    def concerns(self, group: str) -> bool:
        """Whether messages of this group may match."""
        return f"{group}.".startswith(self._prefix) or self._prefix.startswith(f"{group}.")


class Subscriber:
    """Messages of one daemon, each once, in order. Not for use by several threads.

    connect, replay: the daemon's publish.bind and publish.replay_bind. since: seq after which to begin; 0 is all that
    the journal holds, None is from now on. epoch: the journal that `since` counts in, as stored from an earlier
    `Received`; when the daemon has another journal, everything in it is new and is given from its beginning.
    topic: prefix of the topics wanted. receive_queue: messages that may wait in this process. notice: is told in a
    sentence when the epoch changed, when messages are gone for good, and, once a minute, when nobody answers or this
    subscriber is refused; logged by default. curve: keys, where the bus is secured. position: a file that keeps the
    place; what it holds goes before `since` and `epoch`. any_body: a message whose body is no JSON object is given with
    an empty one; else it is an error, and stays one at each further call.

    Raises SubscriberError where an address, a key or the position cannot be used.
    """

    def __init__(
        self,
        connect: str,
        replay: str,
        *,
        since: int | None = None,
        topic: str = "",
        epoch: str | None = None,
        receive_queue: int = 10_000,
        page: int = 500,
        notice: Callable[[str], None] = _log.warning,
        curve: CurveKeys | None = None,
        position: str | Path | None = None,
        any_body: bool = False,
    ) -> None:
        self._any_body = any_body
        self.epoch = epoch
        self.through = since
        self.heard_s = time.monotonic()
        """When the daemon last said anything, a heartbeat or an answer; at first, when this was made."""
        self._filter = _Filter(topic)
        self._replay = replay
        self._page = page
        self._notice = notice
        self._seldom = Seldom()
        self._pending: deque[Received] = deque()
        self._given: Received | None = None  # and not yet known to be handled
        self._known: dict[str, int] = {}  # topic_seq per group at `through`, while not asking
        self._asking = True
        self._answer_due: float | None = None
        self._ask_again = 0.0
        self._position: PositionFile | None = None
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        try:
            identity = Identity(curve) if curve else None
            self._bus = self._link(zmq.SUB, connect, identity, self._subscribing(receive_queue))
            self._journal = self._link(zmq.REQ, replay, identity, lambda _socket: None)
            self._open_position(position)
        except zmq.ZMQError as error:
            self.close()
            why = "expected addresses such as tcp://127.0.0.1:5556" if error.errno == errno.EINVAL else str(error)
            raise SubscriberError(f"cannot connect to {connect} and {replay}: {why}") from error
        except (CredentialError, PositionError) as error:
            self.close()
            raise SubscriberError(str(error)) from error
        self._connect = connect
        self._quiet_due = time.monotonic() + QUIET_SECONDS

    def _link(
        self, kind: int, address: str, identity: Identity | None, prepare: Callable[[zmq.Socket[bytes]], None]
    ) -> Link:
        return Link(self._context, kind, address, identity, prepare=prepare, refused=self._tell_seldom)

    def _subscribing(self, receive_queue: int) -> Callable[[zmq.Socket[bytes]], None]:
        def prepare(bus: zmq.Socket[bytes]) -> None:
            bus.setsockopt(zmq.RCVHWM, receive_queue)
            bus.setsockopt(zmq.HEARTBEAT_IVL, 5_000)
            for prefix in self._filter.subscriptions():
                bus.setsockopt(zmq.SUBSCRIBE, prefix)

        return prepare

    def _tell_seldom(self, sentence: str) -> None:
        if self._seldom.due(sentence, time.monotonic()):
            self._notice(sentence)

    def _open_position(self, path: str | Path | None) -> None:
        if path is None:
            return
        self._position = PositionFile(Path(path))
        if self._position.damage:
            self._notice(self._position.damage)
        if self._position.start is not None:
            self.epoch, self.through = self._position.start.epoch, self._position.start.through

    def close(self) -> None:
        """End. The last message given counts as handled only if `done` was called."""
        self._context.destroy(linger=0)
        if self._position is not None:
            try:
                self._position.close()
            except PositionError as error:
                self._notice(str(error))
            self._position = None

    def done(self) -> None:
        """The last message given was handled: it need not come again after a restart."""
        if self._given is not None:
            self._keep(self._given.epoch, self._given.seq)
            self._given = None

    def _keep(self, epoch: str, through: int) -> None:
        """Without a place to write to, messages go on: they then come again after a restart."""
        if self._position is None:
            return
        try:
            self._position.put(Position(epoch, through), time.monotonic())
        except PositionError as error:
            self._tell_seldom(str(error))

    def _keep_place(self) -> None:
        """Everything that came was handled: what follows need not be looked for before `through`."""
        if self.epoch is not None and self.through is not None:
            self._keep(self.epoch, self.through)

    def __enter__(self) -> Subscriber:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def __iter__(self) -> Iterator[Received]:
        """Messages without end."""
        while True:
            received = self.receive()
            if received is not None:
                yield received

    def receive(self, timeout_s: float | None = None) -> Received | None:
        """The next message; None when there is none within timeout_s (None: wait for ever).

        The message before counts as handled. Raises SubscriberError where the other end answers with an error or speaks
        something else; calling again goes on where it stood.
        """
        self.done()
        deadline = float("inf") if timeout_s is None else time.monotonic() + timeout_s
        while not self._pending:
            self._keep_place()
            turn = self._ask if self._asking else self._listen
            if not turn(deadline) and time.monotonic() >= deadline:
                return None
        self._given = self._pending.popleft()
        return self._given

    @property
    def up_to_date(self) -> bool:
        """Whether everything that the daemon had when last asked was given: no more of its past is to come."""
        return not self._asking and not self._pending

    @property
    def awaited(self) -> zmq.Socket[bytes]:
        """What becomes readable when the next message may come: for waiting on several subscribers at once."""
        return self._journal.socket if self._asking else self._bus.socket

    @property
    def ready(self) -> bool:
        """Whether `receive` has something to do at once: a message, a question to ask, an answer to read."""
        if self._pending or (self._asking and self._answer_due is None and time.monotonic() >= self._ask_again):
            return True
        return bool(self.awaited.poll(0))

    def _listen(self, deadline: float) -> bool:
        """Take one message from the bus, if one comes in time."""
        if self._bus.readable(min(deadline, self._quiet_due)):
            self.heard_s = time.monotonic()
            self._quiet_due = self.heard_s + QUIET_SECONDS
            self._take_live(self._bus.socket.recv_multipart())
            return True
        if time.monotonic() >= self._quiet_due:
            self._quiet_due = time.monotonic() + QUIET_SECONDS
            self._asking = True
            self._bus.try_again()
        return False

    def _ask(self, deadline: float) -> bool:
        """Ask the journal for one page, if that was not done, and take its answer, if it comes in time."""
        if self._answer_due is None:
            if not _slept(self._ask_again, deadline):
                return False
            with suppress(zmq.Again):  # the connection was given up already: as if there were no answer
                self._journal.socket.send(self._request(), zmq.NOBLOCK)
            self._answer_due = time.monotonic() + ANSWER_SECONDS
        if self._journal.readable(min(deadline, self._answer_due)):
            self._answer_due = None
            self.heard_s = time.monotonic()
            self._take_answer(self._journal.socket.recv_multipart())
            return True
        if time.monotonic() >= self._answer_due:
            self._answer_due = None
            self._journal.renew()
            self._bus.try_again()
            if not self._journal.is_refused:
                self._tell_seldom(
                    f"no answer from {self._replay} within {ANSWER_SECONDS:g} s: does the daemon run there, and is "
                    "that its publish.replay_bind? It is asked again and again"
                )
        return False

    def _request(self) -> bytes:
        if self.through is None:
            return b"{}"
        return msgspec.json.encode({"since": self.through, "topic": self._filter.topic, "limit": self._page})

    def _take_live(self, frames: Sequence[bytes]) -> None:
        header = _decoded(frames, 1, Header, self._connect)
        if header.epoch != self.epoch:
            self._asking = True
        elif self.through is not None and header.seq > self.through:
            if frames[0] == HEARTBEAT_TOPIC:
                self._take_heartbeat(header.seq, _decoded(frames, 2, _Heartbeat, self._connect).data.heads)
            else:
                self._take_message(self._received(header, frames, self._connect))

    def _take_heartbeat(self, head: int, heads: dict[str, int]) -> None:
        if any(last > self._known.get(group, 0) for group, last in heads.items() if self._filter.concerns(group)):
            self._asking = True
        else:
            self.through = head

    def _take_message(self, received: Received) -> None:
        group = topic_group(received.topic)
        next_in_group = self._filter.is_one_group and received.topic_seq == self._known.get(group, 0) + 1
        if received.seq - 1 == self.through or next_in_group:
            self.through = received.seq
            self._known[group] = received.topic_seq
            self._pending.append(received)
        else:
            self._asking = True

    def _take_answer(self, frames: Sequence[bytes]) -> None:
        refusal = _decoded(frames, 0, _ErrorReply, self._replay)
        if refusal.retry_after_s is not None:
            self._ask_again = time.monotonic() + min(max(refusal.retry_after_s, _SHORTEST_WAIT), _LONGEST_WAIT)
            return
        if refusal.error:
            raise SubscriberError(f"{self._replay} cannot answer: {refusal.error}")
        state = _decoded(frames, 0, ReplayState, self._replay)
        if self._is_other_journal(state):
            self._begin_again(state)
        else:
            self._take_page(state, frames[1:])

    def _is_other_journal(self, state: ReplayState) -> bool:
        """A journal whose head lies before what was given from it is another one, too: nothing is sent uncommitted."""
        return state.epoch != (self.epoch or state.epoch) or (self.through or 0) > state.head

    def _begin_again(self, state: ReplayState) -> None:
        if self.epoch is None:
            why = (
                f"{self.through} lies beyond the head {state.head} of {self._replay} "
                "and must be of another journal than this one"
            )
        else:
            why = (
                f"{self._replay} has another journal (epoch {state.epoch}, head {state.head}) than the one followed so "
                f"far (epoch {self.epoch}, through {self.through})"
            )
        self._notice(f"{why}: starting at its beginning")
        self.epoch, self.through = state.epoch, 0 if self.through is not None else None

    def _take_page(self, state: ReplayState, frames: Sequence[bytes]) -> None:
        self.epoch = state.epoch
        if self.through is not None:
            self._tell_what_is_gone(self.through + 1, state.oldest - 1)
            self._pending.extend(list(self._messages(state, frames)))  # all of a page, or nothing
        self.through = state.through
        if state.complete:
            self._asking = False
            self._known = dict(state.heads)

    def _tell_what_is_gone(self, first: int, last: int) -> None:
        if first <= last:
            self._notice(f"messages {first} to {last} are no longer in the journal: whatever matched there was missed")

    def _messages(self, state: ReplayState, frames: Sequence[bytes]) -> Iterator[Received]:
        if state.frames not in (3, 4) or len(frames) != state.count * state.frames:
            raise SubscriberError(f"{self._replay}: {len(frames)} frames, expected {state.count} x {state.frames}")
        for at in range(0, len(frames), state.frames):
            parts = frames[at : at + state.frames]
            yield self._received(_decoded(parts, 1, Header, self._replay), parts, self._replay)

    def _received(self, header: Header, frames: Sequence[bytes], address: str) -> Received:
        return Received(
            epoch=header.epoch,
            seq=header.seq,
            topic_seq=header.topic_seq,
            topic=frames[0].decode("ascii", "replace"),
            body=self._body(frames, address),
            raw=frames[2],
            waveform=frames[3] if len(frames) > 3 else None,
        )

    def _body(self, frames: Sequence[bytes], address: str) -> dict[str, Any]:
        try:
            return _decoded(frames, 2, dict[str, Any], address)
        except SubscriberError:
            if not self._any_body or len(frames) < 3:
                raise
            return {}


def _slept(due_s: float, deadline: float) -> bool:
    """Wait until a monotonic time (s), but not beyond the deadline; whether it has come."""
    time.sleep(max(0.0, min(due_s, deadline) - time.monotonic()))
    return time.monotonic() >= due_s


def _decoded(frames: Sequence[bytes], index: int, kind: type[_Shape], address: str) -> _Shape:
    """JSON frame of a known shape."""
    try:
        return msgspec.json.decode(frames[index], type=kind)
    except (IndexError, msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise SubscriberError(f"{address} does not speak tscc-stream's protocol: frame {index}: {error}") from error
