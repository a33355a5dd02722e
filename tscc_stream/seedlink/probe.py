"""A short SeedLink conversation that asks what the server's ring holds. Bytes in, bytes out; no socket, no clock.

probe.to_send()       what to write to the server now
probe.receive(data)   the answer once it is complete, else None
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final, Literal

from tscc_stream.seedlink.frames import (
    Frame,
    FrameError,
    is_log_error,
    log_text,
    parse_hello,
    take_frame,
    take_line,
)
from tscc_stream.seedlink.ring_left import Extent, extents_json, extents_xml

_MOST_BYTES: Final = 16 << 20  # of version 3's answer; 10,000 stations take about 2 MiB

Extents = Mapping[str, Extent]


class Probe:
    """HELLO, SLPROTO 4.0 where the server lists it, AUTH where there is a user, INFO STATIONS.

    The answer is empty where the server gives no numbers. Raises FrameError for what is no SeedLink.
    """

    def __init__(self, user: str = "", password: str = "", newest: Literal[3, 4] = 4) -> None:
        self._login = f"AUTH USERPASS {user} {password}" if user else ""
        self._newest = newest
        self._protocol = 3
        self._greeting: list[str] = []
        self._commands: list[str] = []
        self._in, self._out = bytearray(), bytearray(b"HELLO\r\n")
        self._text = bytearray()

    def to_send(self) -> bytes:
        """Bytes for the server; each is given once."""
        data = bytes(self._out)
        self._out.clear()
        return data

    def receive(self, data: bytes) -> Extents | None:
        """What the server holds by NET_STA, once it has said so."""
        self._in += data
        start = 0
        try:
            while True:
                at, answer = self._take(start)
                if answer is not None or at is None:
                    return answer
                start = at
        finally:
            del self._in[:start]

    def _take(self, start: int) -> tuple[int | None, Extents | None]:
        """The offset after one line or packet, and the answer if that was its end."""
        if self._commands or len(self._greeting) < 2:
            line = take_line(self._in, start)
            return (None, None) if line is None else (line[1], self._on_line(line[0]))
        framed = take_frame(self._in, start, self._protocol)
        return (None, None) if framed is None else (framed[1], self._on_frame(framed[0]))

    def _on_line(self, line: str) -> Extents | None:
        """A line of the greeting, or the reply to the first command that waits for one."""
        if len(self._greeting) < 2:
            self._greeting.append(line)
            hello = parse_hello(self._greeting[0], line)
            if len(self._greeting) == 2:
                slproto = ["SLPROTO 4.0"] if 4 in hello.major and self._newest == 4 else []
                self._commands = [*slproto, *filter(None, [self._login])]
                self._ask()
            return None
        done = self._commands.pop(0)
        accepted = line.split(maxsplit=1)[:1] == ["OK"]
        if done.startswith("SLPROTO") and accepted:
            self._protocol = 4
        if done.startswith("AUTH") and not accepted:
            raise FrameError("auth", "the server does not let the user in")
        self._ask()
        return None

    def _ask(self) -> None:
        self._out += (self._commands[0] if self._commands else "INFO STATIONS").encode() + b"\r\n"

    def _on_frame(self, frame: Frame) -> Extents | None:
        if frame.kind != "info":
            return {}
        if self._protocol == 4:
            return extents_json(frame.payload)
        if is_log_error(frame.payload):
            return {}
        self._text += log_text(frame.payload).encode()
        if len(self._text) > _MOST_BYTES:
            raise FrameError("size", f"the answer to INFO STATIONS is longer than {_MOST_BYTES} bytes")
        return extents_xml(self._text.decode("utf-8", "replace"), self._greeting[0]) if frame.last else None
