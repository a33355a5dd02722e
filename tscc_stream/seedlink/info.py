"""A short SeedLink conversation that asks one INFO question. Bytes in, bytes out; no socket, no clock.

info.to_send()       what to write to the server now
info.receive(data)   the answer once it is complete, else None
"""

from __future__ import annotations

from dataclasses import dataclass
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

_MOST_BYTES: Final = 16 << 20  # of version 3's answer; 10,000 stations take about 2 MiB


@dataclass(frozen=True, slots=True)
class Answer:
    """What a server said. document: JSON of version 4, XML of version 3; empty where it does not answer the question.

    software, organisation: its two lines of greeting.
    """

    protocol: Literal[3, 4]
    software: str
    organisation: str
    document: bytes


class Info:
    """HELLO, SLPROTO 4.0 where the server lists it, AUTH where there is a user, INFO `item`.

    Raises FrameError for what is no SeedLink.
    """

    def __init__(self, item: str, user: str = "", password: str = "", newest: Literal[3, 4] = 4) -> None:
        self._question = f"INFO {item}"
        self._login = f"AUTH USERPASS {user} {password}" if user else ""
        self._newest = newest
        self._protocol: Literal[3, 4] = 3
        self._greeting: list[str] = []
        self._commands: list[str] = []
        self._in, self._out = bytearray(), bytearray(b"HELLO\r\n")
        self._text = bytearray()

    @property
    def greeting(self) -> str:
        """The server's first line; empty until it came."""
        return self._greeting[0] if self._greeting else ""

    def to_send(self) -> bytes:
        """Bytes for the server; each is given once."""
        data = bytes(self._out)
        self._out.clear()
        return data

    def receive(self, data: bytes) -> Answer | None:
        """What the server says, once it has said it."""
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

    def _take(self, start: int) -> tuple[int | None, Answer | None]:
        """The offset after one line or packet, and the answer if that was its end."""
        if self._commands or len(self._greeting) < 2:
            line = take_line(self._in, start)
            if line is None:
                return None, None
            self._on_line(line[0])
            return line[1], None
        framed = take_frame(self._in, start, self._protocol)
        return (None, None) if framed is None else (framed[1], self._on_frame(framed[0]))

    def _on_line(self, line: str) -> None:
        """A line of the greeting, or the reply to the first command that waits for one."""
        if len(self._greeting) < 2:
            self._greeting.append(line)
            hello = parse_hello(self._greeting[0], line)
            if len(self._greeting) == 2:
                slproto = ["SLPROTO 4.0"] if 4 in hello.major and self._newest == 4 else []
                self._commands = [*slproto, *filter(None, [self._login])]
                self._ask()
            return
        done = self._commands.pop(0)
        accepted = line.split(maxsplit=1)[:1] == ["OK"]
        if done.startswith("SLPROTO") and accepted:
            self._protocol = 4
        if done.startswith("AUTH") and not accepted:
            raise FrameError("auth", "the server does not let the user in")
        self._ask()

    def _ask(self) -> None:
        self._out += (self._commands[0] if self._commands else self._question).encode() + b"\r\n"

    def _on_frame(self, frame: Frame) -> Answer | None:
        if frame.kind != "info":
            return self._answer(b"")
        if self._protocol == 4:
            return self._answer(frame.payload)
        if is_log_error(frame.payload):
            return self._answer(b"")
        self._text += log_text(frame.payload).encode()
        if len(self._text) > _MOST_BYTES:
            raise FrameError("size", f"the answer to {self._question} is longer than {_MOST_BYTES} bytes")
        return self._answer(bytes(self._text)) if frame.last else None

    def _answer(self, document: bytes) -> Answer:
        software, organisation = self._greeting
        return Answer(self._protocol, software, organisation, document)
