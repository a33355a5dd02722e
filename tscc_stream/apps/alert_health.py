"""Which channels are blind, out of status messages, detections and what the daemon says. Pure.

Blind is a channel that is silent, flat, clipped or quarantined: an alert tells how many, since a quiet mine and a mine
that nobody hears look the same.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Final

from tscc_stream.apps.alert_silent import Silent
from tscc_stream.sampling import NS_PER_SECOND
from tscc_stream.source_id import name_of
from tscc_stream.stages.journal import GapEntry

CLIPPED_NS: Final = 600 * NS_PER_SECOND
"""For as long a channel counts as clipped after a window that was."""
BEHIND_SECONDS: Final = 120.0
"""So far behind the newest channel, a channel is silent."""
DEAF_SECONDS: Final = 20.0
"""After so long without a word of the daemon, nobody knows of any channel."""
MOST_CHANNELS: Final = 50_000
SHOWN: Final = 20
_CAUSES: Final = {"flat": "flat", "invalid": "flat", "quarantined": "quarantined"}


@dataclass(frozen=True, slots=True)
class Facts:
    """What the daemon and its journal said last.

    state, reason, stalled: of /healthz; state None: it could not be read. cut_off: no server sends. channels: source id
    -> data time (s) of its newest sample. silent: server or source id -> age (s) of its last data, None before the
    first; away: servers that are not connected. open_gaps: (source id, cause) of breaks that still last; gaps: losses
    of late.
    """

    state: str | None = None
    reason: str = ""
    stalled: tuple[str, ...] = ()
    cut_off: bool = False
    channels: Mapping[str, float] = field(default_factory=dict)
    silent: Mapping[str, float | None] = field(default_factory=dict)
    away: frozenset[str] = frozenset()
    open_gaps: tuple[tuple[str, str], ...] = ()
    gaps: tuple[GapEntry, ...] = ()


class SensorHealth:
    """What is known of every channel."""

    def __init__(self) -> None:
        self._known: set[str] = set()
        self._silent = Silent(most=MOST_CHANNELS)
        self._quarantined: set[str] = set()
        self._clipped: dict[str, int] = {}
        self._links: dict[str, bool] = {}
        self._mute: set[str] = set()  # servers that are connected, or not, and send nothing, or nothing new
        self._facts, self._deaf = Facts(), False

    def status(self, kind: str, data: Mapping[str, Any]) -> None:
        """A message `status.<kind>.`."""
        if kind == "daemon" and data.get("state") == "started":
            self._silent.started()
            self._quarantined.clear()
            self._links.clear()
            self._mute.clear()
        elif kind == "seedlink" and len(self._links) < MOST_CHANNELS:
            self._links[str(data["server"])] = bool(data["connected"])
        elif kind == "data" and data.get("sid") is None and len(self._mute) < MOST_CHANNELS:
            _put(self._mute, str(data["server"]), data.get("state") in ("SILENT", "OLD"))
        sid = data.get("sid")
        if isinstance(sid, str) and self._know(sid) and kind == "data":
            (self._silent.begin(sid, "") if data.get("state") == "SILENT" else self._silent.end(sid))
        elif isinstance(sid, str) and kind == "channel":
            _put(self._quarantined, sid, "quarantined" in data)

    def detection(self, sid: str, clipped: bool, now_ns: int) -> None:
        """A window was classified."""
        if self._know(sid) and clipped:
            self._clipped[sid] = now_ns
        else:
            self._clipped.pop(sid, None)

    def learn(self, facts: Facts, now_s: float = 0.0, heard_s: float = 0.0) -> None:
        """What the daemon says now (monotonic). heard_s: when anything was last heard from it on the bus."""
        self._facts, self._deaf = facts, now_s - heard_s >= DEAF_SECONDS
        self._silent.turn(heard_s)
        for sid in facts.channels:
            self._know(sid)

    def _know(self, sid: str) -> bool:
        if len(self._known) < MOST_CHANNELS:
            self._known.add(sid)
        return sid in self._known

    def report(self, now_ns: int) -> dict[str, Any]:
        """Numbers and names, for an alert. now_ns: wall time."""
        blind = self._blind(now_ns)
        every = set().union(*blind.values())
        text = f"{len(every)} of {len(self._known)} blind" if self._known else "not known yet"
        if self._deaf:
            text += " (nothing heard from the daemon)"
        elif self._facts.state is None:
            text += " (the daemon's own view cannot be read)"
        named = {why: [name_of(sid) for sid in sorted(sids)[:SHOWN]] for why, sids in blind.items()}
        return {"channels": len(self._known), "blind": len(every), "text": text, **named}

    def _blind(self, now_ns: int) -> dict[str, set[str]]:
        behind = _behind(self._facts.channels, now_ns / NS_PER_SECOND)
        said = self._known.intersection(self._facts.silent)
        blind = {
            "silent": self._silent.said.keys() | behind | said,
            "flat": set[str](),
            "quarantined": set(self._quarantined),
        }
        if self._deaf or self._facts.cut_off or self._nobody_sends():
            blind["silent"] = set(self._known)
        for sid, cause in self._facts.open_gaps:
            if cause in _CAUSES and self._know(sid):
                blind[_CAUSES[cause]].add(sid)
        blind["clipped"] = {sid for sid, at_ns in self._clipped.items() if 0 <= now_ns - at_ns < CLIPPED_NS}
        return blind

    def _nobody_sends(self) -> bool:
        return bool(self._links) and not any(up and name not in self._mute for name, up in self._links.items())


def _behind(channels: Mapping[str, float], now_s: float) -> set[str]:
    """Those whose newest sample is much older than the newest of all; a recorder's clock that is ahead does not count,
    unless all of them are.
    """
    newest_s = max(channels.values(), default=0.0)
    newest_s = max((s for s in channels.values() if s <= now_s + BEHIND_SECONDS), default=newest_s)
    return {sid for sid, last_s in channels.items() if newest_s - last_s > BEHIND_SECONDS}


def _put(group: set[str], sid: str, inside: bool) -> None:
    (group.add if inside else group.discard)(sid)
