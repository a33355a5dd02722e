"""The one socket that reads SeedLink: connects, feeds a session, hands on what came, connects again. No decisions.

The daemon owns the thread:

    reader = SeedLinkReader(config, emit, position=position, heartbeat=stamp, room=has_room)
    thread = Thread(target=reader.run); thread.start(); ...; reader.stop(); thread.join()

While `room` says that there is none, nothing is read, and the server's ring is the buffer; the loop goes on turning,
keep-alives go out, and what is left of the ring is watched. `emit` should therefore not block; while it does, stamping
the heartbeat is its own affair. Whatever can happen to a connection becomes a LinkState and another attempt, at another
server where the site names fallbacks; anything else that goes wrong (in `emit` too) leaves `run` as an exception, so
that the daemon stops instead of running on deaf.
"""

from __future__ import annotations

import random
import selectors
import socket
import ssl
import threading
import time
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass, replace
from typing import Final, Literal, NoReturn

from tscc_stream.config import SeedLinkConfig
from tscc_stream.edges.seedlink_dial import Dialer, LinkError, password_of, why
from tscc_stream.edges.seedlink_held import Held, HeldQuestion
from tscc_stream.edges.seedlink_probe import RingGuard
from tscc_stream.messages import Record, RecordBatch
from tscc_stream.record_decoder import RecordDecoder
from tscc_stream.seedlink.backoff import Backoff
from tscc_stream.seedlink.position import Position, Step
from tscc_stream.seedlink.server_choice import ServerChoice
from tscc_stream.seedlink.streams import parse_pattern
from tscc_stream.shard import Shard
from tscc_stream.stages.acquire import Connected, Event, Notice, Rejected, SeedLinkSession, SessionError

READ_BYTES: Final = 256 << 10
GATHER_NS: Final = 5_000_000
"""From one read to the next where there was less than a full one: many records at once cost little more than one."""
HOLD_NS: Final = 20_000_000  # how often a reader without room looks for some


@dataclass(frozen=True, slots=True, eq=False)
class Arrival:
    """What one read brought, in its order. position: where to go on after all of it. unwanted: records that no
    pattern asks for; elsewhere: those of other shards' stations.

    server: the configured one; position.server is the one that sent it. entry: tells readers of one server apart.
    """

    server: str
    items: tuple[RecordBatch | Rejected, ...]
    unwanted: int
    position: Position
    entry: str = ""
    elsewhere: int = 0

    @property
    def batches(self) -> tuple[RecordBatch, ...]:
        return tuple(item for item in self.items if isinstance(item, RecordBatch))

    @property
    def records(self) -> tuple[Record, ...]:
        return tuple(batch.record(i) for batch in self.batches for i in range(len(batch)))

    @property
    def rejected(self) -> tuple[Rejected, ...]:
        return tuple(item for item in self.items if isinstance(item, Rejected))


@dataclass(frozen=True, slots=True)
class LinkState:
    """A link came up or went down. text: one sentence for people.

    server: the configured entry; actual: the server itself, the same one or a fallback.
    reason: connected, or dns, refused, network, timeout, tls, stale (`reconnect` was called), or SessionError's.
    retry_seconds: until the next attempt. step: how a connection goes on (None where it went down).
    """

    server: str
    connected: bool
    reason: str
    text: str
    retry_seconds: float | None = None
    actual: str = ""
    step: Step | None = None


@dataclass(frozen=True, slots=True)
class LinkNotice:
    """Something people should read that does not end the link; reason as in Notice, or ring (see RingWatch)."""

    server: str
    reason: str
    text: str


Emitted = Arrival | LinkState | LinkNotice

_GOES_ON: Final[dict[Step, str]] = {
    "sequence": "going on after the last packet",
    "time": "going on by time",
    "oldest": "from the oldest packet it holds",
    "now": "from now on",
}


class _Stopped(Exception):  # noqa: N818 - not an error: the way out of any wait
    """`stop` was called."""


class SeedLinkReader:
    """Reads one server until stopped. Raises ValueError for a stream pattern that can match nothing.

    room: whether what is read can be taken; asked before each read. shard: whose stations are handed on; None: all.
    """

    def __init__(
        self,
        config: SeedLinkConfig,
        emit: Callable[[Emitted], None],
        *,
        position: Position | None = None,
        heartbeat: Callable[[], None] = lambda: None,
        room: Callable[[], bool] = lambda: True,
        entry: str = "",
        backoff: Backoff | None = None,
        agent: str = "tscc-stream",
        newest: Literal[3, 4] = 4,
        shard: Shard | None = None,
    ) -> None:
        for pattern in config.streams:
            parse_pattern(pattern)
        self._config, self._emit, self._heartbeat, self._room = config, emit, heartbeat, room
        self._agent, self._newest, self._shard = agent, newest, shard
        self._entry = entry or config.server
        position = (position or Position()).not_after(time.time_ns())  # this machine's clock may have been ahead, too
        self._position = position if position.server else replace(position, server=config.server)
        self._choice = ServerChoice((config.server, *config.fallbacks))
        self._backoff = backoff or Backoff(random.Random())  # noqa: S311 - jitter, no secret
        self._buffer = memoryview(bytearray(READ_BYTES))
        self._decoder = RecordDecoder(None if shard is None else shard.holds_sid)
        self._unsent = bytearray()
        self._broken: LinkError | None = None
        self._stop = threading.Event()
        self._drop: str | None = None
        self._data_came = False
        self._told: tuple[str, str] | None = None
        self._waited_ns, self._waiting = 0, False
        self._wake, self._waker = socket.socketpair()
        self._wake.setblocking(False)
        self._dialer = Dialer(config, self._turn, self._wake)
        self._ring = RingGuard(config, self._stop.is_set, newest)
        self._held = HeldQuestion(config, self._stop.is_set, newest)

    @property
    def position(self) -> Position:
        """Where to go on after the last Arrival; may be asked from any thread."""
        return self._position

    @property
    def waiting(self) -> bool:
        """Whether nothing is read for want of room; from any thread."""
        return self._waiting

    @property
    def waited_seconds(self) -> float:
        """How long nothing was read for want of room, in all; from any thread."""
        return self._waited_ns / 1e9

    @property
    def ring_left(self) -> float | None:
        """Share of the server's ring that is left, where it was asked during a wait; from any thread."""
        return self._ring.left

    def ask_held(self) -> None:
        """Ask the server that is connected what it holds; `held` has the answer some time later."""
        self._held.ask(self._choice.server)

    def held(self) -> Held | None:
        """What the server says it holds, once for each question; None where it has not answered (yet)."""
        return self._held.take()

    def stop(self) -> None:
        """End `run` soon, from any thread; a call of `emit` under way is not interrupted."""
        self._stop.set()
        self._poke()

    def reconnect(self, reason: str) -> None:
        """Give the present connection up, from any thread, and try the next server where there are several.

        reason: one sentence for LinkState. Between two attempts: try at once.
        """
        self._drop = reason
        self._poke()

    def _poke(self) -> None:
        with suppress(OSError):  # `run` may have ended and closed it
            self._waker.send(b"\0")

    def run(self) -> None:
        """Read until stopped. To be called once."""
        try:
            while True:
                self._rest(self._connection())
        except _Stopped:
            return
        finally:
            self._wake.close()
            self._waker.close()

    def _rest(self, error: LinkError) -> None:
        """Say what ended the connection, and wait before the next one."""
        server, now_ns = self._choice.server, time.monotonic_ns()
        delay_ns = 0 if self._next_server(error) else self._backoff.delay_ns(now_ns)
        again = self._told == (server, error.reason)
        self._told = server, error.reason
        if not again or self._room():  # the same failure over and over must not fill what has no room
            text = str(error) + self._switch(server)
            self._emit(LinkState(self._config.server, False, error.reason, text, delay_ns / 1e9, server))
        with suppress(LinkError):
            self._dialer.wait(None, 0, now_ns + delay_ns)

    def _next_server(self, error: LinkError) -> bool:
        """Whether another server is to be tried at once."""
        if error.reason == "stale":
            return self._choice.leave()
        return not self._data_came and self._choice.failed()

    def _switch(self, before: str) -> str:
        now = self._choice.server
        return "" if now == before else f"; trying {now} next"

    def _connection(self) -> LinkError:
        """One connection from its making to its end, and why it ended."""
        self._backoff.attempt(time.monotonic_ns())
        self._drop, self._data_came = None, False
        try:
            with self._dialer.connect(self._choice.server) as link:
                self._converse(link, self._session())
        except LinkError as error:
            return error

    def _session(self) -> SeedLinkSession:
        self._position = self._position.at(self._choice.server)
        try:
            return SeedLinkSession(
                self._config,
                self._position,
                time.monotonic_ns(),
                password=password_of(self._config),
                agent=self._agent,
                newest=self._newest,
                decoder=self._decoder,
                shard=self._shard,
            )
        except ValueError as error:
            raise LinkError("auth", str(error)) from error

    # Turning

    def _turn(self) -> None:
        self._heartbeat()
        if self._stop.is_set():
            raise _Stopped
        reason, self._drop = self._drop, None
        if reason is not None:
            raise LinkError("stale", reason)

    def _converse(self, link: socket.socket, session: SeedLinkSession) -> NoReturn:
        """Bytes both ways until the session ends, which raises LinkError."""
        self._unsent.clear()
        self._broken = None
        while True:
            self._turn()
            if session.streaming and not self._room():
                self._hold(link, session)
            count, read_mask = self._read(link)
            now_ns = time.monotonic_ns()
            if count is None:
                self._hand_on(session.poll(now_ns), session)
            else:
                self._hand_on(session.receive(self._buffer[:count], now_ns, time.time_ns()), session)
            self._unsent += session.to_send()
            mask = read_mask | self._write(link)
            if count == READ_BYTES:
                continue
            if count is None or not session.streaming:
                self._dialer.wait(link, mask, session.next_deadline() or now_ns)
            else:
                self._dialer.wait(None, 0, now_ns + GATHER_NS)

    def _hold(self, link: socket.socket, session: SeedLinkSession) -> None:
        """Until there is room: keep the link alive and watch the server's ring, but read nothing.

        A link that is lost meanwhile is noticed by the next read, after what still lies there.
        """
        before_ns = time.monotonic_ns()
        self._waiting = True
        try:
            while not self._room():
                self._dialer.wait(None, 0, before_ns + HOLD_NS)
                now_ns = time.monotonic_ns()
                self._waited_ns += now_ns - before_ns
                before_ns = now_ns
                self._keep_alive(link, session, now_ns)
                if text := self._ring.turn(now_ns, self._position):
                    self._emit(LinkNotice(self._config.server, "ring", text))
        finally:
            self._waiting = False
            self._ring.over()

    def _keep_alive(self, link: socket.socket, session: SeedLinkSession, now_ns: int) -> None:
        if not self._unsent:  # a server that takes nothing gets no more to take
            session.hold(now_ns)
            self._unsent += session.to_send()
        with suppress(LinkError):
            self._write(link)

    def _write(self, link: socket.socket) -> int:
        """Send what waits; what to wait for to send the rest."""
        while self._unsent:
            try:
                del self._unsent[: link.send(self._unsent)]
            except (BlockingIOError, ssl.SSLWantWriteError):
                return selectors.EVENT_WRITE
            except ssl.SSLWantReadError:
                return selectors.EVENT_READ
            except OSError as error:
                raise self._lost(error) from error
        return 0

    def _read(self, link: socket.socket) -> tuple[int | None, int]:
        """Bytes read (0 at the end of the connection, None where there is nothing yet), and what to wait for.

        All that is there, as far as the buffer holds it; an end that is met behind it is met again by the next read.
        """
        if self._broken is not None:
            raise self._broken
        filled = 0
        try:
            while filled < READ_BYTES:
                count = link.recv_into(self._buffer[filled:])
                if not count:
                    return filled, selectors.EVENT_READ
                filled += count
        except (BlockingIOError, ssl.SSLWantReadError):
            return filled or None, selectors.EVENT_READ
        except ssl.SSLWantWriteError:
            return filled or None, selectors.EVENT_WRITE
        except OSError as error:
            self._broken = self._lost(error)
            if not filled:
                raise self._broken from error
        return filled, selectors.EVENT_READ

    def _lost(self, error: OSError) -> LinkError:
        return LinkError("network", f"lost {self._choice.server}: {why(error)}")

    def _hand_on(self, events: list[Event], session: SeedLinkSession) -> None:
        items = tuple(event for event in events if isinstance(event, RecordBatch | Rejected))
        unwanted, session.unwanted = session.unwanted, 0
        elsewhere, session.elsewhere = session.elsewhere, 0
        for event in events:
            self._tell(event)
        self._position = session.position
        if items or unwanted or elsewhere:
            self._data_came = True
            self._backoff.reset()
            self._choice.worked()
            self._emit(Arrival(self._config.server, items, unwanted, self._position, self._entry, elsewhere))
        for event in events:
            if isinstance(event, SessionError):
                raise LinkError(event.reason, event.text)

    def _tell(self, event: Event) -> None:
        server, actual = self._config.server, self._choice.server
        if isinstance(event, Connected):
            self._told = None
            whose = "" if actual == server else f"{actual}, in place of {server}: "
            text = f"connected to {whose}{event.software} ({event.organisation}) in version {event.protocol}"
            text += f", {_GOES_ON[event.step]}"
            self._emit(LinkState(server, True, "connected", text, actual=actual, step=event.step))
        elif isinstance(event, Notice):
            self._emit(LinkNotice(server, event.reason, event.text))
