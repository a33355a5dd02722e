"""Who may connect to the bus: answers to ZeroMQ's questions, and what is told of those who were refused.

Source: ZAP 1.0 (https://rfc.zeromq.org/spec/27). A request is version, request id, domain, address, identity,
mechanism, and for CURVE the peer's public key in 32 bytes; the answer is version, request id, status code, status
text, user id, metadata.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence

from tscc_stream.bus import monitor
from tscc_stream.bus.keys import AllowList, abbreviated, text_of
from tscc_stream.bus.monitor import Event
from tscc_stream.seldom import Seldom

_log = logging.getLogger(__name__)

ENDPOINT = "inproc://zeromq.zap.01"
_VERSION = b"1.0"
_KEY_BYTES = 32
_BEFORE_CREDENTIALS = 6


class Access:
    """Decides by an allow list; `allowed` may be replaced at any moment, also from another thread.

    allowed: None where the bus is not secured, and only failed handshakes are told. refused: is told the reason of each
    refusal: unknown_key, no_curve (a peer without CURVE), server_key (a peer that has another key of this daemon), or
    handshake (anything else). Each is logged once a minute per key and address.
    """

    def __init__(self, allowed: AllowList | None, refused: Callable[[str], None]) -> None:
        self.allowed = allowed
        self._refused = refused
        self._log_due = Seldom()

    def answer(self, request: Sequence[bytes], now_s: float) -> list[bytes]:
        """The frames that answer a ZAP request; the user id of a peer that may connect is its public key."""
        if len(request) < _BEFORE_CREDENTIALS or request[0] != _VERSION:
            return [_VERSION, b"".join(request[1:2]), b"500", b"not ZAP 1.0", b"", b""]
        request_id, address = request[1], request[3].decode("ascii", "replace")
        credentials = request[_BEFORE_CREDENTIALS:]
        if request[5] != b"CURVE" or len(credentials) != 1 or len(credentials[0]) != _KEY_BYTES:
            self._refuse("no_curve", address, "", "it does not use CURVE", now_s)
            return [_VERSION, request_id, b"400", b"expected CURVE", b"", b""]
        key = text_of(credentials[0])
        if not self._admits(key, address, now_s):
            return [_VERSION, request_id, b"400", b"unknown key", b"", b""]
        return [_VERSION, request_id, b"200", b"OK", key.encode(), b""]

    def _admits(self, key: str, address: str, now_s: float) -> bool:
        allowed = self.allowed
        if allowed is None or key not in allowed.names:
            place = allowed.place if allowed else "any list"
            self._refuse("unknown_key", address, key, f"its key {abbreviated(key)} is not in {place}", now_s)
            return False
        if self._log_due.due(("admitted", address, key), now_s):
            name = allowed.names[key] or "a subscriber without a name"
            _log.info("%s (key %s) connected from %s", name, abbreviated(key), address)
        return True

    def failed(self, event: Event, address: str, now_s: float) -> None:
        """A handshake that never came to a question. address: of the peer, as far as it is known."""
        reason, why = self._failure(event)
        self._refuse(reason, address or "an unknown address", "", why, now_s)

    def _failure(self, event: Event) -> tuple[str, str]:
        if event == (monitor.PROTOCOL, monitor.MECHANISM):
            if self.allowed is None:
                return "handshake", "it uses CURVE, which this bus does not (publish.curve)"
            return "no_curve", "it does not use CURVE"
        if event == (monitor.PROTOCOL, monitor.CRYPTOGRAPHIC):
            return "server_key", "it has another public key of this daemon"
        return "handshake", "the handshake failed"

    def _refuse(self, reason: str, address: str, key: str, why: str, now_s: float) -> None:
        self._refused(reason)
        if self._log_due.due((reason, address, key), now_s):
            _log.warning("refused a subscriber from %s: %s", address, why)
