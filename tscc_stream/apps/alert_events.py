"""Detections and network events as rules look at them. Pure."""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tscc_stream.alerts_in_vain import UNKNOWN
from tscc_stream.source_id import name_of

MOST_AMPLITUDES = 50_000
_MOST = 2**63
UNREADABLE = (KeyError, TypeError, ValueError, IndexError, AttributeError, OverflowError, RecursionError)
"""What a message raises that is not of the form that docs/messages.md states."""


@dataclass(frozen=True, slots=True)
class Event:
    """One detection or network event.

    channels: NET.STA.LOC.CHA. amplitude: counts, of a network event the largest of its detections; None: not known, cut
    off by the recorder, or of a network event one of whose windows was not classified. membership: of a detection.
    votes: channels for the cluster; voted: whether any had a say. source: the publisher, where there are several.
    """

    kind: Literal["detection", "network"]
    uid: str
    onset_ns: int
    cluster: str
    channels: tuple[str, ...]
    amplitude: float | None
    membership: float | None = None
    votes: int = 1
    voted: bool = True
    final: bool = True
    source: str = ""

    @property
    def unknown(self) -> bool:
        return self.cluster == UNKNOWN


class EventReader:
    """Remembers the amplitudes of the latest detections, for the network events that name them."""

    def __init__(self) -> None:
        self._amplitudes: OrderedDict[str, float | None] = OrderedDict()

    def read(self, body: Mapping[str, Any]) -> Event | None:
        """The event of a message's body; None where it is another kind of message.

        Raises one of UNREADABLE where it is not of the form that docs/messages.md states, or holds what no alert could.
        """
        if body["type"] == "tscc.detection.v1":
            event = self._detection(body["id"], body["subject"], body["data"])
        elif body["type"] == "tscc.network_event.v1":
            event = self._network(body["id"], body["data"])
        else:
            return None
        _check(event)
        if event.kind == "detection":
            self._remember(event)
        return event

    def _remember(self, event: Event) -> None:
        self._amplitudes[event.uid] = event.amplitude
        if len(self._amplitudes) > MOST_AMPLITUDES:
            self._amplitudes.popitem(last=False)

    def _detection(self, uid: str, sid: str, data: Mapping[str, Any]) -> Event:
        cluster = data["cluster"]
        amplitude = None if "clipped" in data["quality"] else data["peak_amplitude"]
        return Event(
            "detection",
            uid,
            int(data["onset_ns"]),
            cluster["name"] if cluster["known"] else UNKNOWN,
            (name_of(sid),),
            amplitude,
            membership=cluster["membership"][cluster["id"]],
        )

    def _network(self, uid: str, data: Mapping[str, Any]) -> Event:
        cluster, votes = data["cluster"], data["votes"]
        name = UNKNOWN if cluster["id"] is None else cluster["name"]
        return Event(
            "network",
            uid,
            int(data["onset_ns"]),
            name,
            tuple(name_of(sid) for sid in data["channels"]),
            self._largest(data["detections"]) if sum(votes.values()) >= len(data["channels"]) else None,
            votes=int(votes.get(cluster["name"], 0)),
            voted=bool(votes),
            final=bool(data["final"]),
        )

    def _largest(self, uids: list[str]) -> float | None:
        amplitudes = [self._amplitudes.get(uid) for uid in uids]
        known = [amplitude for amplitude in amplitudes if amplitude is not None]
        return max(known) if known and len(known) == len(amplitudes) else None


def _check(event: Event) -> None:
    """Raises ValueError or TypeError for what an alert's document and the journal of alerts cannot hold."""
    if not -_MOST <= event.onset_ns < _MOST:
        raise ValueError("onset_ns: expected a time of 64 bits")
    for name, value in (("peak_amplitude", event.amplitude), ("membership", event.membership)):
        if value is not None and not math.isfinite(value):
            raise ValueError(f"{name}: expected a number, got {value}")
    if not 0 <= event.votes < _MOST:
        raise ValueError(f"votes: expected a count, got {event.votes}")
    "".join((event.uid, event.cluster, *event.channels)).encode()
