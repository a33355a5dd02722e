"""The bus: one thread that owns every socket, PUB for what is new and ROUTER for what a subscriber missed.

Clone pattern (https://zguide.zeromq.org/docs/chapter5, "Reliable Pub-Sub"): the publisher may drop messages for a slow
subscriber, never the other way round; heartbeats carry the last seq, so that a subscriber notices and asks again.
Only messages that the journal holds come here, in the order of their seq.

What a peer can make grow is bounded: send queues per peer, size of a request, size of an answer, and rows of the
journal that one answer looks at. One request is answered per turn of the loop, so that a replay never delays a
heartbeat by more than one page.
"""

from __future__ import annotations

import errno
import logging
import queue
import socket
import threading
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Protocol

import zmq

from tscc_stream.config import PublishConfig
from tscc_stream.messages import Committed, topic_group
from tscc_stream.stages.journal import JournalError
from tscc_stream.stages.publish import (
    Page,
    ReplayRequest,
    RequestError,
    error_reply,
    heartbeat,
    multiparts,
    parse_request,
    reply,
)

_log = logging.getLogger(__name__)

HANDED_OVER_GROUPS = 1_000  # groups that may wait for the bus thread before `publish` blocks
_GROUPS_PER_TURN = 100
_TURN_SECONDS = 0.5  # longest sleep of the loop, so that it shows that it lives
_LINGER_MS = 1_000
_PAGE_BYTES = 4_000_000
_PAGES_WAITING = 4  # answers that wait for one peer; more are dropped, and it asks again
_LARGEST_REQUEST_FRAME = 65_536  # beyond it ZeroMQ closes the connection
_LARGEST_SUBSCRIPTION = 1_024
_MOST_REQUEST_FRAMES = 8


class BusError(RuntimeError):
    """The bus cannot start, or has ended, and why, in one sentence."""


class Reader(Protocol):
    """What the bus reads of the journal; used by the bus thread only once it has started."""

    epoch: str

    def topic_heads(self) -> dict[str, int]:
        """Last topic_seq per first two parts of the topic."""
        ...

    def since(self, seq: int | None, topic: str, limit: int, max_bytes: int) -> Page:
        """One page of the journal. Raises JournalError."""
        ...


@dataclass(frozen=True, slots=True)
class BusObserver:
    """What the daemon wants to know: called from the bus thread, must return at once.

    alive: each turn of the loop; replayed: for each replay request; sent: seconds from the receipt of the last needed
    sample until the message went out.
    """

    alive: Callable[[], None] = lambda: None
    replayed: Callable[[], None] = lambda: None
    sent: Callable[[float], None] = lambda _seconds: None


_REASONS = {
    errno.EADDRINUSE: "the address is in use by another program",
    errno.EADDRNOTAVAIL: "this machine has no such address",
    errno.ENODEV: "this machine has no such address",
    errno.EACCES: "this user may not bind there",
}


def _bind(zmq_socket: zmq.Socket[bytes], key: str, address: str) -> str:
    """Bind and say where: port 0 becomes the port that the system chose."""
    zmq_socket.setsockopt(zmq.IPV6, int("[" in address))
    try:
        zmq_socket.bind(address)
    except zmq.ZMQError as error:
        reason = _REASONS.get(error.errno or 0, str(error))
        raise BusError(f"{key} {address}: cannot bind: {reason}") from error
    return zmq_socket.getsockopt_string(zmq.LAST_ENDPOINT)


def _publisher(context: zmq.Context[zmq.Socket[bytes]], send_queue: int) -> zmq.Socket[bytes]:
    pub = context.socket(zmq.PUB)
    pub.setsockopt(zmq.SNDHWM, send_queue)
    pub.setsockopt(zmq.MAXMSGSIZE, _LARGEST_SUBSCRIPTION)
    return pub


def _router(context: zmq.Context[zmq.Socket[bytes]]) -> zmq.Socket[bytes]:
    router = context.socket(zmq.ROUTER)
    router.setsockopt(zmq.SNDHWM, _PAGES_WAITING)
    router.setsockopt(zmq.RCVHWM, 100)
    router.setsockopt(zmq.MAXMSGSIZE, _LARGEST_REQUEST_FRAME)
    return router


def split_envelope(frames: Sequence[bytes]) -> tuple[list[bytes], list[bytes]]:
    """What must come before the answer, and the request: a REQ socket puts an empty frame between, a DEALER may not."""
    cut = frames.index(b"", 1) + 1 if b"" in frames[1:] else 1
    return list(frames[:cut]), list(frames[cut:])


class Bus:
    """`start`, then `publish` from any thread, then `stop`. Endpoints are known after `start`.

    send_queue: messages that may wait for one subscriber; what is more it misses, notices, and asks for.
    """

    def __init__(
        self,
        config: PublishConfig,
        site: str,
        reader: Reader,
        *,
        observer: BusObserver | None = None,
        send_queue: int = 10_000,
    ) -> None:
        self._config = config
        self._site = site
        self._reader = reader
        self._observer = observer or BusObserver()
        self._send_queue = send_queue
        self._handed_over: queue.Queue[Sequence[Committed]] = queue.Queue(HANDED_OVER_GROUPS)
        self._stopping = threading.Event()
        self._waking = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="bus", daemon=True)
        self._error: BaseException | None = None
        self.endpoint = self.replay_endpoint = ""

    def start(self) -> None:
        """Bind and run. Raises BusError where an address cannot be had, JournalError where the journal cannot."""
        self._heads = self._reader.topic_heads()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._pub, self._router = _publisher(self._context, self._send_queue), _router(self._context)
        self._wake_out, self._wake_in = socket.socketpair()
        self._wake_out.setblocking(False)
        self._wake_in.setblocking(False)
        try:
            self.endpoint = _bind(self._pub, "publish.bind", self._config.bind)
            self.replay_endpoint = _bind(self._router, "publish.replay_bind", self._config.replay_bind)
        except BusError:
            self._close()
            raise
        self._thread.start()

    @property
    def running(self) -> bool:
        return self._thread.is_alive()

    def publish(self, committed: Sequence[Committed]) -> None:
        """Hand over what the journal has committed; blocks while the bus is far behind. Raises BusError if it ended."""
        while self.running and not self._stopping.is_set():
            try:
                self._handed_over.put(committed, timeout=_TURN_SECONDS)
            except queue.Full:
                continue
            self._wake()
            return
        raise BusError(f"the bus has ended: {self._error or 'it was stopped'}")

    def _wake(self) -> None:
        with self._waking:
            if self._wake_out.fileno() >= 0:
                with suppress(BlockingIOError):  # it has been woken often enough
                    self._wake_out.send(b"\0")

    def stop(self, timeout_s: float = 5.0) -> None:
        """Send what was handed over and a last heartbeat, then close. Raises BusError if the thread failed or hangs."""
        if not self._thread.ident:
            return
        self._stopping.set()
        self._wake()
        self._thread.join(timeout_s)
        if self.running:
            raise BusError(f"the bus did not stop within {timeout_s:g} s")
        if self._error is not None:
            raise BusError(f"the bus has ended: {self._error}") from self._error

    def _run(self) -> None:
        try:
            self._loop()
        except BaseException as error:  # noqa: BLE001  # kept: `publish` and `stop` raise it where somebody listens
            self._error = error
            _log.exception("the bus has ended")
        finally:
            self._close()

    def _close(self) -> None:
        """Linger, within bounds.

        In about one of 1,000 ends in which a subscriber leaves at that moment, zmq_ctx_term never returns, linger or
        not (measured, libzmq 4.3.5): hence the wait on a thread that may be left behind.
        """
        with self._waking:
            self._wake_out.close()
            self._wake_in.close()
        self._pub.close(_LINGER_MS)
        self._router.close(_LINGER_MS)
        ending = threading.Thread(target=self._context.term, name="bus-linger", daemon=True)
        ending.start()
        ending.join(_LINGER_MS / 1000 + 0.5)

    def _loop(self) -> None:
        poller = zmq.Poller()
        poller.register(self._router, zmq.POLLIN)
        poller.register(self._wake_in, zmq.POLLIN)
        self._next_heartbeat = time.monotonic()
        while not (self._stopping.is_set() and self._handed_over.empty()):
            self._observer.alive()
            self._send_handed_over()
            self._heartbeat_if_due()
            ready = dict(poller.poll(self._patience_ms()))
            if self._wake_in.fileno() in ready:
                self._wake_in.recv(4096)
            if self._router in ready:
                self._answer()
        self._send_heartbeat()

    def _patience_ms(self) -> int:
        if not self._handed_over.empty():
            return 0
        until_heartbeat = self._next_heartbeat - time.monotonic()
        return max(0, int(1000 * min(until_heartbeat, _TURN_SECONDS)) + 1)

    def _send_handed_over(self) -> None:
        for _ in range(_GROUPS_PER_TURN):
            try:
                group = self._handed_over.get_nowait()
            except queue.Empty:
                return
            for committed in group:
                self._send(committed)

    def _send(self, committed: Committed) -> None:
        message = committed.message
        for frames in multiparts(self._reader.epoch, committed):
            self._pub.send_multipart(frames)  # a PUB socket never blocks
        group = topic_group(message.topic)
        self._heads[group] = max(committed.topic_seq, self._heads.get(group, 0))
        if message.received_ns:
            self._observer.sent((time.monotonic_ns() - message.received_ns) / 1e9)

    def _heartbeat_if_due(self) -> None:
        now = time.monotonic()
        if now >= self._next_heartbeat:
            self._send_heartbeat()
            self._next_heartbeat = now + self._config.heartbeat_seconds

    def _send_heartbeat(self) -> None:
        """The heads of what was sent, or was in the journal before this bus: never of what is yet to be sent."""
        head = sum(self._heads.values())
        self._pub.send_multipart(heartbeat(self._site, self._reader.epoch, head, self._heads, time.time_ns()))

    def _answer(self) -> None:
        """One request: one page."""
        envelope, request = split_envelope(self._router.recv_multipart())
        self._observer.replayed()
        self._router.send_multipart(envelope[:_MOST_REQUEST_FRAMES] + self._answer_to(request))

    def _answer_to(self, request: Sequence[bytes]) -> list[bytes]:
        epoch = self._reader.epoch
        if len(request) != 1:
            return error_reply(epoch, f"request of {len(request)} frames: expected one frame of JSON")
        try:
            asked: ReplayRequest = parse_request(request[0])
            page = self._reader.since(asked.since, asked.topic, asked.limit, _PAGE_BYTES)
        except (RequestError, JournalError) as error:
            return error_reply(epoch, str(error))
        return reply(epoch, asked, page)
