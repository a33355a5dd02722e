"""While the reader waits for room: asks its server on a second, short connection how much of its ring is left.

Part of the SeedLink edge; `converse` is how any question is asked. Each of the reader's has a thread of its own,
bounded by time-outs, so that it goes on at once when there is room.
"""

from __future__ import annotations

import selectors
import socket
import ssl
import threading
import time
from collections import Counter
from collections.abc import Callable
from typing import Final, Literal, Protocol, TypeVar

from tscc_stream.config import SeedLinkConfig
from tscc_stream.edges.seedlink_dial import Dialer, LinkError, password_of
from tscc_stream.sampling import seconds_to_ns
from tscc_stream.seedlink.frames import FrameError
from tscc_stream.seedlink.position import Position
from tscc_stream.seedlink.probe import Extents, Probe
from tscc_stream.seedlink.ring_left import RingWatch, left_in

AFTER_NS: Final = 5_000_000_000  # of waiting, before the first question
EVERY_NS: Final = 10_000_000_000
READ_BYTES: Final = 64 << 10
MOST_BYTES: Final = 16 << 20
EMPTY_ANSWERS: Final = 3  # in a row, after which it is not asked any more: a server that has just started has no data
UNSAID: Final = "the server does not say what its ring holds, so that nobody can be warned before it drops unread data"


_Answer_co = TypeVar("_Answer_co", covariant=True)


class Question(Protocol[_Answer_co]):
    def to_send(self) -> bytes: ...
    def receive(self, data: bytes) -> _Answer_co | None: ...


class _Ended(Exception):  # noqa: N818 - not an error: the reader was stopped
    """Nobody waits for the answer any more."""


class RingGuard:
    """One reader's questions. `turn` while it waits for room, `over` when it reads again.

    stopped: whether the reader is ending. left: share of the ring at the last answer; None where it is not known.
    """

    def __init__(self, config: SeedLinkConfig, stopped: Callable[[], bool], newest: Literal[3, 4] = 4) -> None:
        self._config, self._stopped, self._newest = config, stopped, newest
        self._dialer = Dialer(config, self._check)
        self._thread: threading.Thread | None = None
        self._answer: tuple[int, Extents] | None = None
        self._since_ns: int | None = None
        self._due_ns = 0
        self._watch = RingWatch()
        self._empty = Counter[str]()
        self.left: float | None = None

    def over(self) -> None:
        """The reader reads again."""
        self._since_ns = self.left = None

    def turn(self, now_ns: int, position: Position) -> str | None:
        """A sentence for people, where there is one."""
        if self._since_ns is None:
            self._since_ns, self._due_ns, self._watch = now_ns, now_ns + AFTER_NS, RingWatch()
        asking = self._thread is not None and self._thread.is_alive()
        answer, self._answer = self._answer, None
        if answer is not None and answer[0] == self._since_ns:
            return self._judge(now_ns, answer[1], position)
        if not asking and now_ns >= self._due_ns and self._empty[position.server] < EMPTY_ANSWERS:
            self._due_ns = now_ns + EVERY_NS
            self._thread = threading.Thread(
                target=self._ask, args=(position.server, self._since_ns), name="seedlink-ring", daemon=True
            )
            self._thread.start()
        return None

    def _judge(self, now_ns: int, extents: Extents, position: Position) -> str | None:
        if not extents:
            self._empty[position.server] += 1
            return UNSAID if self._empty[position.server] == EMPTY_ANSWERS else None
        self._empty[position.server] = 0
        left = left_in(extents, position)
        self.left = None if left is None else left.share
        return None if left is None else self._watch.feed(now_ns, left)

    def _ask(self, server: str, since_ns: int) -> None:
        """In its own thread. A server that cannot be asked now is asked again at the next time."""
        try:
            extents = self._converse(server)
        except (LinkError, FrameError, OSError, _Ended):
            return
        if extents is not None:
            self._answer = since_ns, extents

    def _check(self) -> None:
        if self._stopped():
            raise _Ended

    def _converse(self, server: str) -> Extents | None:
        """What the server holds; None where it did not say so in time."""
        probe = Probe(self._config.user or "", password_of(self._config), self._newest)
        return converse(self._dialer, server, probe, self._config.timeout_seconds)


def converse(dialer: Dialer, server: str, question: Question[_Answer_co], seconds: float) -> _Answer_co | None:
    """The answer to a question, on a connection of its own; None where the server did not give it in time, or ended.

    Raises LinkError, FrameError and OSError.
    """
    deadline_ns = time.monotonic_ns() + seconds_to_ns(seconds)
    with dialer.connect(server) as link:
        link.sendall(question.to_send())
        while dialer.wait(link, selectors.EVENT_READ, deadline_ns):
            data = _received(link)
            if data is None:
                continue
            answer = question.receive(data)
            if answer is not None or not data:
                return answer
            if command := question.to_send():
                link.sendall(command)
    return None


def _received(link: socket.socket) -> bytes | None:
    """Everything that lies ready; b"" at the end of the connection, None where TLS has nothing whole yet."""
    data = bytearray()
    try:
        while piece := link.recv(READ_BYTES):
            data += piece
            if len(data) > MOST_BYTES:
                raise FrameError("size", f"more than {MOST_BYTES} bytes in answer to a question")
    except (BlockingIOError, ssl.SSLWantReadError):
        return bytes(data) or None
    return bytes(data)
