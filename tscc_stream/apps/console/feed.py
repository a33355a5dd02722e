"""What the daemon publishes, handed to every open page: one subscriber for all of them.

A page that reads too slowly is told to load itself anew rather than be kept for: its queue is bounded.
"""

from __future__ import annotations

import asyncio
import logging
import threading
import time
from collections.abc import AsyncIterator, Callable
from typing import Any

from tscc_stream.bus.keys import CurveKeys
from tscc_stream.client import Received, Subscriber, SubscriberError
from tscc_stream.seldom import Seldom

_log = logging.getLogger(__name__)

MOST_WAITING = 1000
"""Messages of one page."""
MOST_PAGES = 64
_TURN_SECONDS = 0.5
_AGAIN_SECONDS = 2.0
_SILENT_SECONDS = 15.0
"""Twice what a well daemon may be silent for: a subscriber that hears no heartbeat asks after five seconds."""


class TooManyPagesError(RuntimeError):
    """More pages than the console keeps up at a time."""


class Page:
    """One open page's messages. Those it does not get to are dropped, and it is told."""

    def __init__(self) -> None:
        self._loop = asyncio.get_running_loop()
        self._queue: asyncio.Queue[Received | None] = asyncio.Queue(MOST_WAITING)
        self.lost = False

    def put(self, received: Received | None) -> None:
        """From any thread."""
        self._loop.call_soon_threadsafe(self._take, received)

    def _take(self, received: Received | None) -> None:
        if self._queue.full():
            self.lost = True
        else:
            self._queue.put_nowait(received)

    async def messages(self) -> AsyncIterator[Received | None]:
        """None: a turn without one, so that the page learns that it is still connected."""
        while not self.lost:
            try:
                yield await asyncio.wait_for(self._queue.get(), timeout=1.0)
            except TimeoutError:
                yield None


class Feed:
    """`start`, then `open` and `close` pages, then `stop`. endpoints: where the daemon listens, asked all the time.
    curve: keys, where the bus is secured.

    refused: why nothing comes from the bus, in a sentence; empty once anything has come since.
    """

    def __init__(self, endpoints: Callable[[], dict[str, Any]], curve: CurveKeys | None = None) -> None:
        self._endpoints, self._curve = endpoints, curve
        self._pages: set[Page] = set()
        self._lock = threading.Lock()
        self._stopping = threading.Event()
        self._thread = threading.Thread(target=self._run, name="feed", daemon=True)
        self.refused = ""
        self._noticed_s = 0.0
        self._said = Seldom()

    def _notice(self, sentence: str) -> None:
        self.refused, self._noticed_s = sentence, time.monotonic()
        if self._said.due(sentence, self._noticed_s):
            _log.warning("%s", sentence)

    def start(self) -> None:
        self._thread.start()

    def stop(self) -> None:
        self._stopping.set()
        self._thread.join(5.0)

    def open(self) -> Page:
        """Raises TooManyPagesError."""
        page = Page()
        with self._lock:
            if len(self._pages) >= MOST_PAGES:
                raise TooManyPagesError(f"{MOST_PAGES} pages are open already")
            self._pages.add(page)
        return page

    def close(self, page: Page) -> None:
        with self._lock:
            self._pages.discard(page)

    def _run(self) -> None:
        while not self._stopping.is_set():
            where = self._endpoints()
            try:
                with Subscriber(
                    where["publish"], where["replay"], notice=self._notice, curve=self._curve
                ) as subscriber:
                    self._listen(subscriber, where)
            except SubscriberError as error:
                self.refused = str(error)
                _log.error("%s", error)
                self._stopping.wait(_AGAIN_SECONDS)

    def _listen(self, subscriber: Subscriber, where: dict[str, Any]) -> None:
        begun_s = subscriber.heard_s
        while not self._stopping.is_set() and self._endpoints() == where:
            received = subscriber.receive(_TURN_SECONDS)
            if subscriber.heard_s > max(begun_s, self._noticed_s):
                self.refused = ""
            if not self.refused and time.monotonic() - subscriber.heard_s > _SILENT_SECONDS:
                self._notice(f"nothing comes from {where['publish']} and {where['replay']}")
            if received is not None:
                with self._lock:
                    pages = list(self._pages)
                for page in pages:
                    page.put(received)
