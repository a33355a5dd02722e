"""Detections and network events as rules look at them. Pure."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

from tscc_stream.source_id import name_of

UNKNOWN = "unknown"
MOST_AMPLITUDES = 50_000


@dataclass(frozen=True, slots=True)
class Event:
    """One detection or network event.

    channels: NET.STA.LOC.CHA. amplitude: counts, of a network event the largest of its detections; None: not known, or
    cut off by the recorder. membership: of a detection. votes: channels for the cluster; voted: whether any had a say.
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

    @property
    def unknown(self) -> bool:
        return self.cluster == UNKNOWN


class EventReader:
    """Remembers the amplitudes of the latest detections, for the network events that name them."""

    def __init__(self) -> None:
        self._amplitudes: OrderedDict[str, float | None] = OrderedDict()

    def read(self, body: Mapping[str, Any]) -> Event | None:
        """The event of a message's body; None where it is another kind of message.

        Raises KeyError, TypeError or ValueError where it is not of the form that docs/messages.md states.
        """
        if body["type"] == "tscc.detection.v1":
            return self._detection(body["id"], body["subject"], body["data"])
        return self._network(body["id"], body["data"]) if body["type"] == "tscc.network_event.v1" else None

    def _detection(self, uid: str, sid: str, data: Mapping[str, Any]) -> Event:
        cluster = data["cluster"]
        amplitude = None if "clipped" in data["quality"] else data["peak_amplitude"]
        self._amplitudes[uid] = amplitude
        if len(self._amplitudes) > MOST_AMPLITUDES:
            self._amplitudes.popitem(last=False)
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
            self._largest(data["detections"]),
            votes=int(votes.get(cluster["name"], 0)),
            voted=bool(votes),
            final=bool(data["final"]),
        )

    def _largest(self, uids: list[str]) -> float | None:
        amplitudes = [self._amplitudes.get(uid) for uid in uids]
        known = [amplitude for amplitude in amplitudes if amplitude is not None]
        return max(known) if known and len(known) == len(amplitudes) else None
