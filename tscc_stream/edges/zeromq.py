"""The bus: one thread that owns every socket, PUB for what is new and ROUTER for what a subscriber missed.

Clone pattern (https://zguide.zeromq.org/docs/chapter5, "Reliable Pub-Sub"): the publisher may drop messages for a slow
subscriber, never the other way round; heartbeats carry the last seq, so that a subscriber notices and asks again.
Only messages that the journal holds come here, in the order of their seq.

What a peer can make grow is bounded: send queues per peer, size of a request, size of an answer, and rows of the
journal that one answer looks at. One request is answered per turn of the loop, so that a replay never delays a
heartbeat by more than one page, and replays take a bounded share of the thread's time.

With `publish.curve` everything is encrypted (CurveZMQ), and only keys of the list may connect. The same thread answers
ZeroMQ's questions about them, so that nobody connects while it is not there to decide.
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
from functools import partial
from typing import Protocol

import zmq

from tscc_stream.bus import access, keys
from tscc_stream.bus.access import Access
from tscc_stream.bus.door import Door
from tscc_stream.bus.keys import AllowList, KeyPair
from tscc_stream.bus.limits import ReplayBudget, ReplayLimits
from tscc_stream.config import PublishConfig
from tscc_stream.messages import Committed, topic_group
from tscc_stream.stages.journal import JournalError
from tscc_stream.stages.publish import (
    Page,
    ReplayRequest,
    RequestError,
    busy_reply,
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
STOP_SECONDS = 5.0
"""Longest that `stop` waits."""
_PAGE_BYTES = 4_000_000
_PAGES_WAITING = 4  # answers that wait for one peer; more are dropped, and it asks again
_LARGEST_REQUEST_FRAME = 65_536  # beyond it ZeroMQ closes the connection
_LARGEST_SUBSCRIPTION = 1_024
_MOST_REQUEST_FRAMES = 8
_QUESTIONS_PER_TURN = 10  # about peers that want to connect


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

    alive: each turn of the loop; replayed: for each replay request; replay_refused: the reason why one was refused;
    refused: the reason why somebody could not connect; sent: seconds from the receipt of the last needed sample until
    the message went out.
    """

    alive: Callable[[], None] = lambda: None
    replayed: Callable[[], None] = lambda: None
    replay_refused: Callable[[str], None] = lambda _reason: None
    refused: Callable[[str], None] = lambda _reason: None
    sent: Callable[[float], None] = lambda _seconds: None


_REASONS = {
    errno.EADDRINUSE: "the address is in use by another program",
    errno.EADDRNOTAVAIL: "this machine has no such address",
    errno.ENODEV: "this machine has no such address",
    errno.EACCES: "this user may not bind there",
}


def _bind(door: Door, key: str, address: str) -> str:
    try:
        return door.bind(address)
    except zmq.ZMQError as error:
        reason = _REASONS.get(error.errno or 0, str(error))
        raise BusError(f"{key} {address}: cannot bind: {reason}") from error


def _reaches_out(endpoint: str) -> bool:
    """Whether other machines may reach it."""
    host = endpoint.removeprefix("tcp://").rpartition(":")[0].strip("[]")
    return endpoint.startswith("tcp://") and not host.startswith("127.") and host != "::1"


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

    send_queue: messages that may wait for one subscriber; what is more it misses, notices, and asks for. Raises
    CredentialError where `publish.curve` names files that hold no keys.
    """

    def __init__(
        self,
        config: PublishConfig,
        site: str,
        reader: Reader,
        *,
        observer: BusObserver | None = None,
        send_queue: int = 10_000,
        limits: ReplayLimits | None = None,
    ) -> None:
        self._config = config
        self._site = site
        self._reader = reader
        self._observer = observer or BusObserver()
        self._send_queue = send_queue
        self._pair = self._read_pair()
        self._access = Access(self._read_allowed(), self._observer.refused)
        self._budget = ReplayBudget(limits or ReplayLimits(), time.monotonic())
        self._handed_over: queue.Queue[Sequence[Committed]] = queue.Queue(HANDED_OVER_GROUPS)
        self._stopping = threading.Event()
        self._locks_to_change = threading.Event()
        self._waking = threading.Lock()
        self._thread = threading.Thread(target=self._run, name="bus", daemon=True)
        self._error: BaseException | None = None
        self.endpoint = self.replay_endpoint = ""

    def start(self) -> None:
        """Bind and run. Raises BusError where an address cannot be had, JournalError where the journal cannot."""
        self._heads = self._reader.topic_heads()
        self._context: zmq.Context[zmq.Socket[bytes]] = zmq.Context()
        self._zap = self._context.socket(zmq.REP)
        self._zap.bind(access.ENDPOINT)
        self._pub = Door(self._context, partial(_publisher, send_queue=self._send_queue), self._pair, self._access)
        self._router = Door(self._context, _router, self._pair, self._access)
        self._wake_out, self._wake_in = socket.socketpair()
        self._wake_out.setblocking(False)
        self._wake_in.setblocking(False)
        try:
            self.endpoint = _bind(self._pub, "publish.bind", self._config.bind)
            self.replay_endpoint = _bind(self._router, "publish.replay_bind", self._config.replay_bind)
        except BusError:
            self._close()
            raise
        if self._pair is None and (_reaches_out(self.endpoint) or _reaches_out(self.replay_endpoint)):
            _log.warning("publish: whoever reaches %s can read everything; see publish.curve", self.endpoint)
        self._thread.start()

    def _read_pair(self) -> KeyPair | None:
        curve = self._config.curve
        return None if curve is None else keys.read_pair(curve.secret_key_file, "publish.curve.secret_key_file")

    def _read_allowed(self) -> AllowList | None:
        curve = self._config.curve
        return None if curve is None else keys.read_allowed(curve.allowed_keys_file, "publish.curve.allowed_keys_file")

    def reload_keys(self) -> str:
        """Read the list of allowed keys again, from any thread; says what holds now.

        Where a key has gone, all connections are closed, and those that may come back do so by themselves. Raises
        CredentialError where the list is wrong: the one before then stays.
        """
        before, after = self._access.allowed, self._read_allowed()
        if before is None or after is None:
            return "publish.curve is null: everyone may connect"
        self._access.allowed = after
        if before.names.keys() - after.names.keys():
            self._locks_to_change.set()
            self._wake()
        return f"{len(after.names)} keys may connect, as {after.place} says"

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

    def stop(self, timeout_s: float = STOP_SECONDS) -> None:
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
        self._zap.close(0)
        ending = threading.Thread(target=self._context.term, name="bus-linger", daemon=True)
        ending.start()
        ending.join(_LINGER_MS / 1000 + 0.5)

    def _loop(self) -> None:
        self._next_heartbeat = time.monotonic()
        poller = self._new_poller()
        while not (self._stopping.is_set() and self._handed_over.empty()):
            self._observer.alive()
            self._send_handed_over()
            self._heartbeat_if_due()
            if self._locks_to_change.is_set():
                self._change_locks()
                poller = self._new_poller()
            closed_s = self._budget.closed_for(time.monotonic())
            poller.register(self._router.socket, 0 if closed_s else zmq.POLLIN)
            self._turn(dict(poller.poll(self._patience_ms(closed_s))))
        self._send_heartbeat()

    def _new_poller(self) -> zmq.Poller:
        poller = zmq.Poller()
        for waited_for in (self._wake_in, self._zap, self._pub.monitor.socket, self._router.monitor.socket):
            poller.register(waited_for, zmq.POLLIN)
        return poller

    def _turn(self, ready: dict[object, int]) -> None:
        if self._wake_in.fileno() in ready:
            self._wake_in.recv(4096)
        if self._zap in ready:
            self._answer_about_peers()
        for door in (self._pub, self._router):
            if door.monitor.socket in ready:
                door.look(time.monotonic())
        if self._router.socket in ready:
            self._answer()

    def _answer_about_peers(self) -> None:
        for _ in range(_QUESTIONS_PER_TURN):
            if not self._zap.poll(0):
                return
            self._zap.send_multipart(self._access.answer(self._zap.recv_multipart(), time.monotonic()))

    def _change_locks(self) -> None:
        self._locks_to_change.clear()
        for door, key in ((self._pub, "publish.bind"), (self._router, "publish.replay_bind")):
            try:
                door.change_lock()
            except zmq.ZMQError as error:
                raise BusError(f"{key} {door.endpoint}: cannot bind again: {error}") from error

    def _patience_ms(self, closed_s: float) -> int:
        if not self._handed_over.empty():
            return 0
        until_heartbeat = self._next_heartbeat - time.monotonic()
        return max(0, int(1000 * min(until_heartbeat, closed_s or _TURN_SECONDS, _TURN_SECONDS)) + 1)

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
            self._pub.socket.send_multipart(frames)  # a PUB socket never blocks
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
        self._pub.socket.send_multipart(heartbeat(self._site, self._reader.epoch, head, self._heads, time.time_ns()))

    def _answer(self) -> None:
        """One request: one page."""
        begin = time.monotonic()
        parts = self._router.socket.recv_multipart(copy=False)
        envelope, request = split_envelope([part.bytes for part in parts])
        peer = _peer(parts[-1], envelope[0])
        self._observer.replayed()
        self._router.socket.send_multipart(envelope[:_MOST_REQUEST_FRAMES] + self._answer_to(request, peer, begin))
        now = time.monotonic()
        self._budget.spent(peer, now - begin, now)

    def _answer_to(self, request: Sequence[bytes], peer: bytes, now_s: float) -> list[bytes]:
        epoch = self._reader.epoch
        if refusal := self._budget.refusal(peer, now_s):
            self._observer.replay_refused(refusal.reason)
            return busy_reply(epoch, refusal.retry_after_s)
        try:
            if len(request) != 1:
                raise RequestError(f"request of {len(request)} frames: expected one frame of JSON")
            asked: ReplayRequest = parse_request(request[0])
            page = self._reader.since(asked.since, asked.topic, asked.limit, _PAGE_BYTES)
        except (RequestError, JournalError) as error:
            self._observer.replay_refused("malformed" if isinstance(error, RequestError) else "journal")
            return error_reply(epoch, str(error))
        return reply(epoch, asked, page)


def _peer(request: zmq.Frame, identity: bytes) -> bytes:
    """Who asks: a key where the bus is secured, else a connection."""
    try:
        return str(request.get("User-Id")).encode()
    except zmq.ZMQError:
        return identity
