"""From one source to JetStream: a window of messages on their way, and a place that follows the acknowledgements.

Messages go out in the order of their seq. While a connection lives the server stores them in that order; when it
breaks, everything that was not acknowledged is sent again, in order, and what was stored already is dropped by its id.
When the stream itself refuses a message, what was sent behind it may have been taken: until the refused one is
acknowledged only one message is on its way, so that a full stream is asked seldom and disturbs the order least.

With no room in the window nothing is read: the daemon's journal is the buffer.
"""

from __future__ import annotations

import asyncio
import logging
import random
import time
from collections import deque
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from itertools import islice
from typing import Any

from tscc_stream.apps.bridge_link import NatsLink
from tscc_stream.apps.bridge_message import outgoing, stand_in
from tscc_stream.apps.bridge_metrics import BridgeMetrics
from tscc_stream.apps.bridge_source import Source, Taken
from tscc_stream.bus.position import Position
from tscc_stream.client import Received
from tscc_stream.config_bridge import BridgeConfig
from tscc_stream.edges.jetstream import TOO_LARGE, Acknowledgement, JetStreamError, Outgoing, RefusedError, Session
from tscc_stream.edges.supervision import name_this_thread
from tscc_stream.seedlink.backoff import Backoff
from tscc_stream.seldom import Seldom

_log = logging.getLogger(__name__)

TURN_SECONDS = 1.0
MOST_BYTES = 16 * 2**20
"""That may wait for their acknowledgement, but for the messages of one turn."""
MOST_AT_ONCE = 64
LONGEST_PATIENCE_S = 300.0


@dataclass(slots=True)
class _OnItsWay:
    place: Position
    message: Outgoing
    ack: asyncio.Future[Acknowledgement] | None = None
    sent_s: float = 0.0

    def forget(self) -> None:
        """It must be sent again, unless it is acknowledged."""
        if self.ack is None or (self.ack.done() and not self.ack.cancelled() and self.ack.exception() is None):
            return
        self.ack.cancel()
        self.ack = None


class Feed:
    """One source's messages. run: until `stop`, and then for what is on its way; else it ends only by an error."""

    def __init__(self, config: BridgeConfig, site: str, source: Source, link: NatsLink, metrics: BridgeMetrics) -> None:
        """site: of messages that do not say theirs."""
        self._config, self._site, self._source, self._link, self._metrics = config, site, source, link, metrics
        self._thread = ThreadPoolExecutor(1, f"source {source.name}", name_this_thread, (f"src {source.name}",))
        self._pending: deque[_OnItsWay] = deque()
        self._bytes = 0
        self._sent = 0  # of those pending, from the first on
        self._allowed = config.outstanding
        self._done = source.start
        self._idle: Position | None = None
        self._session: Session | None = None
        self._stream = ""  # that the source was told of
        self._taking: asyncio.Future[Taken] | None = None
        self._took_s = float("-inf")
        self._resume_s = 0.0
        self._patience_s = config.ack_seconds
        self._backoff = Backoff(random.Random())  # noqa: S311  # jitter
        self._seldom = Seldom()
        self._refused = False
        self._stopping = False
        self._turned_s = time.monotonic()

    @property
    def turned_s(self) -> float:
        """When it last turned, or its thread, where that has been at work for longer; monotonic."""
        return self._turned_s if self._taking is None else min(self._turned_s, self._took_s)

    @property
    def unacknowledged(self) -> int:
        return len(self._pending)

    @property
    def behind(self) -> int | None:
        """Messages in the daemon's journal that the centre has not."""
        return self._source.behind(self._done)

    def stop(self) -> None:
        """Take nothing more; `run` ends once nothing is on its way."""
        self._stopping = True

    async def run(self) -> None:
        while not self._stopping or self._pending or self._taking is not None:
            self._turned_s = time.monotonic()
            self._look_at_session()
            await self._look_at_stream()
            await self._send()
            self._take()
            await self._wait()
            self._settle()
            self._measure()

    async def close(self) -> None:
        """The place as it is now goes into its file."""
        if self._taking is not None:
            await asyncio.wait([self._taking])
        await self._on_thread(self._source.keep, self._done)
        await self._on_thread(self._source.close)
        self._thread.shutdown(wait=False)

    def _on_thread(self, work: Any, *arguments: Any) -> asyncio.Future[Any]:  # noqa: ANN401  # any method of the source
        return asyncio.get_running_loop().run_in_executor(self._thread, work, *arguments)

    def _look_at_session(self) -> None:
        """Of another connection than before nothing is on its way yet."""
        if self._session is self._link.session:
            return
        self._session = self._link.session
        self._send_again()

    async def _look_at_stream(self) -> None:
        """To a stream that was made anew everything goes once more: the one before took what it had with it."""
        if self._session is None or self._session.stream_made == self._stream:
            return
        if self._taking is not None:
            await asyncio.wait([self._taking])
            self._settle()
        self._stream = self._session.stream_made
        if await self._on_thread(self._source.begin_again_for, self._stream):
            self._pending.clear()
            self._bytes = self._sent = 0
            self._done = self._source.given
            self._idle = None

    def _send_again(self) -> None:
        for one in islice(self._pending, self._sent):
            one.forget()
        self._sent = 0

    async def _send(self) -> None:
        session = self._session
        if session is None or session.lost.done() or time.monotonic() < self._resume_s:
            return
        while self._sent < min(len(self._pending), self._allowed):
            one = self._pending[self._sent]
            if one.ack is None:
                if one.message.size > session.most_bytes and one.message.payload:
                    self._omit(one, session.most_bytes)
                try:
                    one.ack = await session.publish(one.message)
                except JetStreamError as error:
                    session.fail(str(error))
                    return
                one.sent_s = time.monotonic()
            self._sent += 1

    def _omit(self, one: _OnItsWay, limit: int) -> None:
        self._metrics.omitted(self._source.name)
        _log.error(
            "%s: message %d (%s) has %d bytes and NATS takes %d: an empty one that says so goes instead; the daemon's "
            "journal keeps it", self._source.name, one.place.through, one.message.subject, one.message.size, limit,
        )  # fmt: skip
        self._replace(one, stand_in(one.message, limit))

    def _replace(self, one: _OnItsWay, message: Outgoing) -> None:
        self._bytes += message.size - one.message.size
        one.message = message

    def _take(self) -> None:
        """Let the thread look for messages, if there is room; without room, now and then at the daemon alone."""
        if self._taking is not None:
            return
        room = min(self._config.outstanding - len(self._pending), MOST_AT_ONCE)
        if self._stopping or self._bytes >= MOST_BYTES or room < 0:
            room = 0
        now_s = time.monotonic()
        if self._stopping or (room == 0 and now_s - self._took_s < TURN_SECONDS):
            return
        self._took_s = now_s
        self._taking = self._on_thread(self._source.turn, self._done, room)

    async def _wait(self) -> None:
        """For messages, for an acknowledgement, for another connection, or for a bounded time."""
        for_what: set[asyncio.Future[Any]] = {self._link.changed}
        if self._taking is not None:
            for_what.add(self._taking)
        if self._pending and (ack := self._pending[0].ack) is not None:
            for_what.add(ack)
        now_s = time.monotonic()
        until_s = min(now_s + TURN_SECONDS, self._resume_s if self._resume_s > now_s else float("inf"))
        await asyncio.wait(for_what, timeout=until_s - now_s, return_when=asyncio.FIRST_COMPLETED)

    def _settle(self) -> None:
        if self._taking is not None and self._taking.done():
            taken, self._taking = self._taking.result(), None
            for received in taken.messages:
                self._add(received)
            self._idle = taken.place if taken.place is not None or taken.messages else self._idle
        self._settle_acknowledged()
        if not self._pending and self._idle is not None:
            self._done = self._idle

    def _add(self, received: Received) -> None:
        message = outgoing(received, self._config.subject, self._site)
        self._pending.append(_OnItsWay(Position(received.epoch, received.seq), message))
        self._bytes += message.size

    def _settle_acknowledged(self) -> None:
        while self._sent and (ack := self._pending[0].ack) is not None:
            first = self._pending[0]
            if not ack.done():
                if time.monotonic() - first.sent_s > self._patience_s:
                    self._patience_s = min(2 * self._patience_s, LONGEST_PATIENCE_S)
                    self._refuse("NATS acknowledges nothing; what waits is sent again")
                return
            try:
                self._acknowledged(ack.result())
            except RefusedError as refused:
                self._not_taken(first, refused)
                return

    def _acknowledged(self, ack: Acknowledgement) -> None:
        first = self._pending.popleft()
        self._sent -= 1
        self._bytes -= first.message.size
        self._done = first.place
        self._metrics.published(self._source.name, again=bool(ack.duplicate))
        self._allowed, self._patience_s = self._config.outstanding, self._config.ack_seconds
        self._backoff.reset()
        if self._refused:
            self._refused, self._seldom = False, Seldom()
            _log.info("%s: messages are taken again, from %d on", self._source.name, first.place.through)

    def _not_taken(self, first: _OnItsWay, refused: RefusedError) -> None:
        if refused.code == TOO_LARGE and first.message.payload:
            self._send_again()
            self._omit(first, len(first.message.payload) - 1)
            return
        if refused.gone and self._session is not None:
            self._session.fail(str(refused))
        self._refuse(str(refused))

    def _refuse(self, sentence: str) -> None:
        """Nothing is lost: it is tried again, one message at first, after a pause that grows."""
        now_s = time.monotonic()
        self._metrics.refused(self._source.name)
        if self._seldom.due(sentence, now_s):
            _log.warning("%s: %s; %d wait, nothing is lost", self._source.name, sentence, len(self._pending))
        self._send_again()
        self._refused, self._allowed = True, 1
        self._backoff.attempt(time.monotonic_ns())
        self._resume_s = now_s + self._backoff.delay_ns(time.monotonic_ns()) / 1e9

    def _measure(self) -> None:
        silent_s = time.monotonic() - self._source.heard_s
        self._metrics.measure(self._source.name, len(self._pending), self.behind, silent_s)
