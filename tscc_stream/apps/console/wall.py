"""The waveform wall: samples of the channels that open pages show, sent to them as columns of their own width.

Ten times a second, each page gets what has come since. What several pages ask for alike is made once. Memory is
bounded: MOST_CHANNELS channels of at most trace.MOST_SAMPLES samples.
"""

from __future__ import annotations

import base64
import json
import logging
import threading
import time
from collections.abc import Callable, Iterable
from dataclasses import asdict
from typing import Any

from tscc_stream.apps.console import data_state
from tscc_stream.apps.console.data_state import DataState
from tscc_stream.apps.console.feed import MOST_PAGES, TooManyPagesError
from tscc_stream.apps.console.trace import Trace
from tscc_stream.apps.console.wall_page import Choice, WallPage
from tscc_stream.apps.console.wall_reader import Link, Source
from tscc_stream.config import AssembleConfig, Config
from tscc_stream.messages import Record
from tscc_stream.seldom import Seldom
from tscc_stream.source_id import name_of, to_nslc

_log = logging.getLogger(__name__)

PUSH_SECONDS = 0.1
LOOK_SECONDS = 1.0
"""How often it is looked at what is to be read, and pages are told of states."""
MOST_CHANNELS = 128
"""Shown by all pages together."""
MOST_KNOWN = 20_000
LISTEN_SECONDS = 15.0
"""How long all streams of the configuration are read where nobody says which channels there are."""
LISTEN_AGAIN_SECONDS = 60.0
"""After so long without what a page asks for, new channels are listened for again."""
AHEAD_NS = 10 * 10**9
"""A record dated farther ahead of this machine's clock is not drawn: everything else would lie left of the page."""
Beside = Callable[[float | None], dict[str, Any]]
"""What pages are told beside the wall, by the event's name. Called with the time (monotonic) at which a page was
opened: what there was before it, {} where that is not known yet.
"""


class Wall:
    """`open` and `close` pages. known: source ids that the daemon knows of; None before it was asked."""

    def __init__(self, config: Config, known: Callable[[], Iterable[str] | None], beside: Beside) -> None:
        self._config, self._known, self._beside = config, known, beside
        self._sources = [Source(one, self._take) for one in config.seedlink]
        self._lock = threading.Lock()
        self._traces: dict[str, Trace] = {}
        self._since_s: dict[str, float] = {}
        self._heard: dict[str, str] = {}
        self._pages: set[WallPage] = set()
        self._thread: threading.Thread | None = None
        self._listened_s = -LISTEN_AGAIN_SECONDS
        self._heard_any = False
        self._looked_s = 0.0
        self._said = Seldom()

    # Pages

    def open(self, choice: Choice) -> WallPage:
        """From the event loop. Raises TooManyPagesError."""
        page = WallPage(choice)
        with self._lock:
            if len(self._pages) >= MOST_PAGES:
                raise TooManyPagesError(f"{MOST_PAGES} pages are open already")
            self._pages.add(page)
            self._looked_s = 0.0
            if self._thread is None or not self._thread.is_alive():
                self._thread = threading.Thread(target=self._run, name="wall", daemon=True)
                self._thread.start()
        return page

    def close(self, page: WallPage) -> None:
        with self._lock:
            self._pages.discard(page)

    @property
    def watched(self) -> bool:
        """Whether any page is open."""
        return bool(self._pages)

    # Samples

    def _take(self, record: Record) -> None:
        """From a reader's thread."""
        if record.sid not in self._heard and len(self._heard) < MOST_KNOWN:
            self._heard[record.sid] = name_of(record.sid)
        ahead_ns = record.start_ns - time.time_ns()
        with self._lock:
            trace = self._traces.get(record.sid)
            if trace is not None and ahead_ns > AHEAD_NS:
                trace.ahead_seconds = ahead_ns / 1e9
            elif trace is not None:
                trace.take(record, time.monotonic())

    # Turns

    def _run(self) -> None:
        while True:
            begin_s = time.monotonic()
            try:
                self._turn(begin_s)
            except Exception as error:  # noqa: BLE001  # whatever it is, pages must not stand still for ever
                if self._said.due(repr(error), begin_s):
                    _log.exception("a turn of the wall failed")
            time.sleep(max(0.01, PUSH_SECONDS - (time.monotonic() - begin_s)))

    def _turn(self, now_s: float) -> None:
        if now_s - self._looked_s >= LOOK_SECONDS:
            self._looked_s = now_s
            self._look(now_s)
        self._push()

    def _channels(self) -> dict[str, str]:
        """Source id by NET.STA.LOC.CHA, of all that are known of."""
        sids = {*(self._known() or ()), *self._heard.copy()}
        return {name: sid for sid in sids if (name := _name(sid))}

    def _look(self, now_s: float) -> None:
        """Which channels pages show, and what is to be read for that."""
        channels = self._channels()
        with self._lock:
            pages = list(self._pages)
        wanted: dict[str, None] = {}
        told = []
        for page in pages:
            shown = page.choice.among(channels)
            wanted |= dict.fromkeys(channels[name] for name in shown)
            told.append((page, shown))
        sids = list(wanted)[:MOST_CHANNELS]
        self._keep(sids, now_s)
        listen = self._listen(bool(pages), all(shown for _, shown in told), now_s)
        for source in self._sources:
            source.want(sids, everything=listen, now_s=now_s)
        if told:
            self._tell(told, channels)

    def _listen(self, watched: bool, satisfied: bool, now_s: float) -> bool:
        """Whether all that the configuration names is to be read for a moment, to learn which channels there are.

        satisfied: every page shows some channel.
        """
        if not watched or self._known() is None:
            self._listened_s = -LISTEN_AGAIN_SECONDS
            return False
        if self._heard and not self._heard_any:
            self._heard_any, self._listened_s = True, now_s
        elif not satisfied and now_s - self._listened_s >= LISTEN_AGAIN_SECONDS:
            self._listened_s = now_s
        return now_s - self._listened_s < LISTEN_SECONDS or not (satisfied or self._heard)

    def _keep(self, sids: list[str], now_s: float) -> None:
        """Traces of the channels that are shown, and no others."""
        with self._lock:
            for sid in sids:
                if sid not in self._traces:
                    self._traces[sid] = Trace(self._settings_of(sid, now_s))
                    self._since_s[sid] = now_s
            for sid in self._traces.keys() - set(sids):
                del self._traces[sid], self._since_s[sid]

    def _settings_of(self, sid: str, now_s: float) -> AssembleConfig:
        """Of one channel; the site's where its own cannot be had: a page shows it, and the others, all the same."""
        try:
            return self._config.for_channel(to_nslc(sid))[0]
        except ValueError as error:
            if self._said.due(f"settings of {sid}", now_s):
                _log.error("%s is shown with the site's own section assemble: %s", sid, error)
            return self._config.assemble

    def _tell(self, told: list[tuple[WallPage, tuple[str, ...]]], channels: dict[str, str]) -> None:
        states, beside = self.states(), self._beside(None)
        links = [asdict(link) for link in self.links()]
        for page, shown in told:
            if page.shown != shown or page.behind:
                page.tell_anew(shown)
                page.put(_event("channels", self._described(shown, channels)))
                backlog = self._columns(page, dict.fromkeys(shown), channels)
                if backlog:
                    page.put(backlog)
            mine = [_state(states.get(channels[name])) for name in shown]
            page.put(_event("states", {"states": mine, "known": len(channels), "links": links}))
            before = {} if page.begun else self._beside(page.opened_s)
            page.begun = page.begun or bool(before)
            for name, document in {**beside, **before}.items():
                page.tell(name, _event(name, document))

    def _described(self, shown: tuple[str, ...], channels: dict[str, str]) -> dict[str, Any]:
        with self._lock:
            traces = [self._traces.get(channels[name]) for name in shown]
            return {
                "channels": [
                    {"name": name, "clip": trace.clip_counts if trace else None}
                    for name, trace in zip(shown, traces, strict=True)
                ]
            }

    def _push(self) -> None:
        with self._lock:
            changed = {sid: at for sid, trace in self._traces.items() if (at := trace.take_changed()) is not None}
            pages = [page for page in self._pages if page.shown]
        if not changed:
            return
        channels = {name: sid for sid in changed if (name := _name(sid))}
        made: dict[tuple[tuple[str, ...], int], str] = {}
        for page in pages:
            shown = page.shown or ()
            key = shown, page.choice.column_ns
            if key not in made:
                since = {name: changed[channels[name]] for name in shown if name in channels}
                made[key] = self._columns(page, since, channels) if since else ""
            if made[key]:
                page.put(made[key])

    def _columns(self, page: WallPage, since: dict[str, int | None] | dict[str, int], channels: dict[str, str]) -> str:
        """What is to be drawn, from a sample of each channel on: [place, first column, rate, newest ms, columns]."""
        choice, shown = page.choice, page.shown or ()
        place = {name: number for number, name in enumerate(shown)}
        parts: list[list[Any]] = []
        with self._lock:
            for name, begin in since.items():
                trace = self._traces.get(channels[name])
                found = trace and trace.columns(choice.column_ns, begin, choice.columns + 2)
                if trace and found and trace.newest_ns is not None:
                    first, pairs = found
                    packed = base64.b64encode(pairs.astype("<f4").tobytes()).decode()
                    parts.append([place[name], first, trace.rate_hz, trace.newest_ns / 1e6, packed])
        return _event("columns", parts) if parts else ""

    # What is known of channels

    def states(self) -> dict[str, DataState]:
        """Of the channels that are shown, by source id."""
        now_ns, now_s = time.time_ns(), time.monotonic()
        with self._lock:
            return {
                sid: data_state.of_trace(trace, now_ns, now_s, self._since_s[sid], self._stale_seconds(sid))
                for sid, trace in self._traces.items()
            }

    def _stale_seconds(self, sid: str) -> float:
        return min((s.config.stale_seconds for s in self._sources if s.serves(sid)), default=60.0)

    def heard(self) -> list[str]:
        """Source ids that were read, shown or not."""
        return list(self._heard.copy())

    def links(self) -> list[Link]:
        """The servers that are read."""
        return [link for source in self._sources if (link := source.link) is not None]


def _event(name: str, data: object) -> str:
    return f"event: {name}\ndata: {json.dumps(data, separators=(',', ':'))}\n\n"


def _state(state: DataState | None) -> list[Any]:
    if state is None:
        return ["DEAD", None]
    return [state.word, None if state.seconds is None else round(state.seconds, 1)]


def _name(sid: str) -> str:
    """NET.STA.LOC.CHA; empty for what is no source id."""
    try:
        return to_nslc(sid)
    except ValueError:
        return ""
