"""The console's own SeedLink readers: one a server, for the channels that some open page shows.

The daemon is not asked for samples, so that any number of pages cost it nothing. Which channels there are is learnt
from the daemon; where it says nothing, by listening to all that the site's patterns name for a moment.
"""

from __future__ import annotations

import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import dataclass

from tscc_stream.config import SeedLinkConfig
from tscc_stream.edges.seedlink_socket import Arrival, Emitted, LinkState, SeedLinkReader
from tscc_stream.messages import Record
from tscc_stream.seedlink.position import Mark, Position
from tscc_stream.seedlink.streams import StreamFilter, parse_pattern

_log = logging.getLogger(__name__)

LINGER_SECONDS = 30.0
"""How long a channel that no page shows any more is read on: people come back to a page."""
AGAIN_SECONDS = 10.0
HISTORY_SECONDS = 15.0
"""Longest that a server is asked for what came before a page was opened."""
RECENT_NS = 300 * 10**9
"""Data older than this when they come are a replay: what a server then holds cannot be asked for by time."""
AGENT = "tscc-stream-console"


@dataclass(frozen=True, slots=True)
class Link:
    """What is known of a server's connection. connected: None before the first attempt has ended."""

    server: str
    connected: bool | None
    text: str


def stream_of(sid: str) -> str:
    """`FDSN:XX_A_00_H_H_Z` -> `XX_A:00_H_H_Z`, the pattern that means it alone."""
    network, station, stream = sid.removeprefix("FDSN:").split("_", 2)
    return f"{network}_{station}:{stream}"


class Source:
    """One configured server. `want` is called by one thread; take(record) by the reader's."""

    def __init__(self, config: SeedLinkConfig, take: Callable[[Record], None]) -> None:
        self.config = config
        self._take = take
        self._filter = StreamFilter(tuple(parse_pattern(text) for text in config.streams))
        self._streams: frozenset[str] = frozenset()
        self._wider_since: float | None = None
        self._reader: SeedLinkReader | None = None
        self._thread: threading.Thread | None = None
        self._begun_s = 0.0
        self._newest_ns: dict[str, int] = {}
        self._histories: set[str] = set()
        self._history: threading.Thread | None = None
        self._connected: bool | None = None
        self._text = ""

    @property
    def link(self) -> Link | None:
        """None while nothing is read."""
        if self._reader is None:
            return None
        return Link(self.config.server, self._connected, self._text or f"connecting to {self.config.server}")

    def serves(self, sid: str) -> bool:
        """Whether the configuration asks this server for the channel."""
        return self._filter.wants(sid)

    def want(self, sids: Iterable[str], *, everything: bool, now_s: float) -> None:
        """What is to be read from now on. everything: all that the configuration names."""
        mine = frozenset(filter(self.serves, sids))
        streams = frozenset(self.config.streams) if everything else frozenset(map(stream_of, mine))
        if self._thread is not None and not self._thread.is_alive() and now_s - self._begun_s > AGAIN_SECONDS:
            self._begin(self._streams, now_s)
        if streams != self._streams and not self._lingers(streams, now_s):
            self._wider_since = None
            self._begin(streams, now_s)
        self._ask_for_history(mine)

    def _lingers(self, streams: frozenset[str], now_s: float) -> bool:
        """Whether what is read already holds all of it, and was wanted a moment ago."""
        if not streams < self._streams or self._streams == frozenset(self.config.streams):
            return False
        self._wider_since = self._wider_since or now_s
        return now_s - self._wider_since < LINGER_SECONDS

    def _begin(self, streams: frozenset[str], now_s: float) -> None:
        """Another connection in place of the present one, that goes on where that one was."""
        position = self.stop()
        self._streams, self._begun_s = streams, now_s
        self._connected, self._text = None, ""
        if position is None:
            self._newest_ns.clear()
        if streams:
            config = self.config.model_copy(update={"streams": tuple(sorted(streams)), "start": "now"})
            self._reader = SeedLinkReader(config, self._emit, position=position, agent=AGENT)
            self._thread = threading.Thread(target=self._reader.run, name=f"wall {config.server}", daemon=True)
            self._thread.start()

    def stop(self) -> Position | None:
        """Where to go on."""
        reader, self._reader = self._reader, None
        if reader is None or self._thread is None:
            return None
        reader.stop()
        self._thread.join(2.0)
        self._thread = None
        return reader.position

    def _emit(self, emitted: Emitted) -> None:
        if isinstance(emitted, Arrival):
            for record in emitted.records:
                self._newest_ns[record.sid] = record.start_ns
                self._take(record)
        elif isinstance(emitted, LinkState):
            self._connected, self._text = emitted.connected, emitted.text
            _log.log(logging.INFO if emitted.connected else logging.WARNING, "wall: %s", emitted.text)

    # What came before a page was opened

    def _ask_for_history(self, sids: frozenset[str]) -> None:
        if self._history is not None and self._history.is_alive():
            return
        now_ns = time.time_ns()
        begun = {sid: at for sid in sids - self._histories if (at := self._newest_ns.get(sid)) is not None}
        recent = {sid: at for sid, at in begun.items() if now_ns - at < RECENT_NS}
        self._histories = (self._histories & sids) | begun.keys()
        if recent:
            self._history = threading.Thread(target=self._read_history, args=(recent,), name="history", daemon=True)
            self._history.start()

    def _read_history(self, until_ns: dict[str, int]) -> None:
        """A connection of its own that ends where the live one began, so that what is live does not wait for it."""
        deadline, waits = time.monotonic() + HISTORY_SECONDS, set(until_ns)

        def emit(emitted: Emitted) -> None:
            if isinstance(emitted, Arrival):
                for record in emitted.records:
                    self._take(record)
                    if record.start_ns >= until_ns.get(record.sid, 0):
                        waits.discard(record.sid)
            if not waits or (isinstance(emitted, LinkState) and not emitted.connected):
                reader.stop()

        def turn() -> None:
            if time.monotonic() > deadline:
                reader.stop()

        streams = tuple(sorted(map(stream_of, until_ns)))
        config = self.config.model_copy(update={"streams": streams, "keepalive_seconds": 1.0})  # to turn each second
        now_ns = time.time_ns()
        position = Position(time_ns=now_ns, last=Mark(None, now_ns))
        reader = SeedLinkReader(config, emit, position=position, heartbeat=turn, agent=AGENT)
        reader.run()
