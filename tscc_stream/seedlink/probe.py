"""A short SeedLink conversation that asks what the server's ring holds. Bytes in, bytes out; no socket, no clock.

probe.to_send()       what to write to the server now
probe.receive(data)   the answer once it is complete, else None
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Literal

from tscc_stream.seedlink.info import Info
from tscc_stream.seedlink.ring_left import Extent, extents_json, extents_xml

Extents = Mapping[str, Extent]


class Probe:
    """INFO STATIONS. The answer is empty where the server gives no numbers.

    Raises FrameError for what is no SeedLink.
    """

    def __init__(self, user: str = "", password: str = "", newest: Literal[3, 4] = 4) -> None:
        self._info = Info("STATIONS", user, password, newest)

    def to_send(self) -> bytes:
        """Bytes for the server; each is given once."""
        return self._info.to_send()

    def receive(self, data: bytes) -> Extents | None:
        """What the server holds by NET_STA, once it has said so."""
        answer = self._info.receive(data)
        if answer is None:
            return None
        if answer.protocol == 4:
            return extents_json(answer.document)
        return extents_xml(answer.document.decode("utf-8", "replace"), answer.software)
