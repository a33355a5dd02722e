"""Faults of a SeedLink link, each one switch: what a connection, a server or its ring can do wrong.

A fault is a small dataclass whose fields are its options. It changes what happens at a few seams of the replay server:
`accepted`, `command` and `frames` of a session, `link` of a socket, and `returning` when a server comes back.
"""

from __future__ import annotations

import socket
import ssl
import struct
import subprocess
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, ClassVar

from tscc_stream.edges.archive import RawRecord
from tscc_stream.seedlink.frames import V3_SEQUENCES
from tscc_stream.serve.ring import Packet

if TYPE_CHECKING:
    from faulty_server import FaultyServer, FaultySession

_FOR_EVER = float("inf")
_HELLO_V3 = b"SeedLink v3.3 (faulty/1)\r\nA mine\r\n"


@dataclass
class Fault:
    """Nothing goes wrong.

    after: packets that a connection carries before it is hit. times: connections that are hit (0: all of them).
    """

    after: int = 5
    times: int = 1
    server: FaultyServer = field(init=False, repr=False)
    well: bool = field(init=False, default=False)
    hits: int = field(init=False, default=0)

    host: ClassVar[str] = "127.0.0.1"
    starts_down: ClassVar[bool] = False

    @property
    def first_number(self) -> int:
        """Of the first packet."""
        return 1

    def strikes(self, session: FaultySession, about_to_send: int = 0) -> bool:
        """Whether this is the moment at which the connection is hit."""
        spent = self.times and self.hits >= self.times
        if self.well or spent or session.struck or session.packets + about_to_send < self.after:
            return False
        self.hits += 1
        session.struck = True
        session.log("fault", packets=session.packets + about_to_send)
        return True

    def link(self, sock: socket.socket) -> socket.socket:
        """The socket of a new connection, or something that stands in its place."""
        return sock

    def accepted(self, session: FaultySession) -> None:
        """A connection was made."""

    def command(self, session: FaultySession, words: list[str]) -> bytes | None:
        """An answer in place of the usual one."""

    def frames(self, session: FaultySession, packet: Packet, frames: list[bytes]) -> list[bytes]:
        """What goes out in place of a packet's frames (none where the client did not ask for it)."""
        return frames

    def records(self, records: Iterator[RawRecord]) -> Iterator[RawRecord]:
        """What enters the ring in place of the archive's records."""
        return records

    def returning(self) -> None:
        """The server is about to listen again."""


@dataclass
class Refused(Fault):
    """The port is closed until `return`."""

    starts_down: ClassVar[bool] = True


@dataclass
class BlackHole(Fault):
    """Connections are accepted and never answered, until `return`."""

    after: int = 0
    times: int = 0

    def accepted(self, session: FaultySession) -> None:
        if self.strikes(session):
            session.mute_until = _FOR_EVER


@dataclass
class HalfOpen(Fault):
    """After some packets nothing comes any more, not even an answer or the end of the connection."""

    def frames(self, session: FaultySession, packet: Packet, frames: list[bytes]) -> list[bytes]:
        if frames and self.strikes(session, len(frames)):
            session.mute_until = _FOR_EVER
        return frames


@dataclass
class Eof(Fault):
    """The server closes the connection after some packets."""

    def frames(self, session: FaultySession, packet: Packet, frames: list[bytes]) -> list[bytes]:
        if frames and self.strikes(session, len(frames)):
            session.hang_up()
        return frames


@dataclass
class Stall(Fault):
    """No packets for some seconds, while keep-alives are answered."""

    seconds: float = 3.0

    def frames(self, session: FaultySession, packet: Packet, frames: list[bytes]) -> list[bytes]:
        if frames and self.strikes(session, len(frames)):
            session.hold_until = time.monotonic() + self.seconds
        return frames


@dataclass
class StallSilent(Stall):
    """Nothing for some seconds, keep-alives unanswered; then everything."""

    def frames(self, session: FaultySession, packet: Packet, frames: list[bytes]) -> list[bytes]:
        if frames and self.strikes(session, len(frames)):
            session.mute_until = time.monotonic() + self.seconds
        return frames


class _Link:
    """A socket whose `send` and `recv` can be changed, as the server's loop uses it."""

    def __init__(self, sock: socket.socket) -> None:
        self._sock = sock

    def fileno(self) -> int:
        return self._sock.fileno()

    def recv(self, size: int) -> bytes:
        return self._sock.recv(size)

    def send(self, data: memoryview) -> int:
        return self._sock.send(data)

    def shutdown(self, how: int) -> None:
        self._sock.shutdown(how)

    def close(self) -> None:
        self._sock.close()


class _SplitLink(_Link):
    """One byte per call of send."""

    def send(self, data: memoryview) -> int:
        sent = 0
        try:
            while sent < len(data):
                sent += self._sock.send(data[sent : sent + 1])
        except BlockingIOError:
            if not sent:
                raise
        return sent


class _SlowLink(_Link):
    """A few bytes, then a rest, so that the line carries so many bytes a second."""

    def __init__(self, sock: socket.socket, rate: float) -> None:
        super().__init__(sock)
        self._rest = 16 / rate

    def send(self, data: memoryview) -> int:
        sent = self._sock.send(data[:16])
        time.sleep(self._rest)
        return sent


class _TlsLink(_Link):
    """An encrypted connection that shakes hands on the way, with a plain socket's way to say that it would block."""

    def recv(self, size: int) -> bytes:
        try:
            return self._sock.recv(1 << 14)  # all of a TLS record: what is left in it would wake nobody
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            raise BlockingIOError from error

    def send(self, data: memoryview) -> int:
        try:
            return self._sock.send(data)
        except (ssl.SSLWantReadError, ssl.SSLWantWriteError) as error:
            raise BlockingIOError from error


@dataclass
class Split(Fault):
    """Every answer and packet goes out byte by byte, each in a send of its own."""

    def link(self, sock: socket.socket) -> socket.socket:
        return _SplitLink(sock)  # type: ignore[return-value]  # stands in for a socket


@dataclass
class SlowDrip(Fault):
    """The line carries only so many bytes a second, a few at a time."""

    rate: float = 4000.0

    def link(self, sock: socket.socket) -> socket.socket:
        return _SlowLink(sock, self.rate)  # type: ignore[return-value]  # stands in for a socket


@dataclass
class ErrorMidStream(Fault):
    """After some packets a line `ERROR` comes in place of the next one."""

    def frames(self, session: FaultySession, packet: Packet, frames: list[bytes]) -> list[bytes]:
        if frames and self.strikes(session):
            session.hang_up()
            return [b"ERROR INTERNAL the disk is full\r\n"]
        return frames


@dataclass
class EndMidStream(Fault):
    """After some packets the server says `END`."""

    def frames(self, session: FaultySession, packet: Packet, frames: list[bytes]) -> list[bytes]:
        if frames and self.strikes(session):
            session.hang_up()
            return [b"END"]
        return frames


@dataclass
class EndlessLine(Fault):
    """A reply of so many bytes without a line end: to HELLO, or as an error among the packets (where=data)."""

    where: str = "hello"
    length: int = 100_000

    def command(self, session: FaultySession, words: list[str]) -> bytes | None:
        if self.where == "hello" and words[0] == "HELLO" and self.strikes(session, self.after):
            return b"SeedLink v4.0 ".ljust(self.length, b"x")
        return None

    def frames(self, session: FaultySession, packet: Packet, frames: list[bytes]) -> list[bytes]:
        if self.where == "data" and frames and self.strikes(session):
            return [b"ERROR ".ljust(self.length, b"x")]
        return frames


def _too_long(session: FaultySession, packet: Packet) -> bytes:
    """A version 4 frame that states 2 GiB; what follows it is short."""
    station = packet.stream.station_id.encode()
    return b"SE2D" + struct.pack("<IQB", 1 << 31, packet.first, len(station)) + station + bytes(512)


@dataclass
class OversizeLength(Fault):
    """After some packets a version 4 frame states a payload of 2 GiB."""

    def frames(self, session: FaultySession, packet: Packet, frames: list[bytes]) -> list[bytes]:
        return [_too_long(session, packet)] if frames and self.strikes(session) else frames


@dataclass
class PoisonRecord(Fault):
    """One packet breaks the framing each time it is sent: its signature (kind=garbage) or its length (kind=size)."""

    times: int = 0
    kind: str = "garbage"
    number: int = field(init=False, default=0)

    def frames(self, session: FaultySession, packet: Packet, frames: list[bytes]) -> list[bytes]:
        if not frames or (self.number and packet.first != self.number):
            return frames
        if not self.number and session.packets < self.after:
            return frames
        self.number = packet.first
        session.log("fault", number=packet.first)
        return [_too_long(session, packet) if self.kind == "size" else b"XX" + frames[0][2:]]


@dataclass
class Outage(Fault):
    """After some packets the server is gone: for some seconds, or until `return` (seconds=0)."""

    seconds: float = 0.0

    def frames(self, session: FaultySession, packet: Packet, frames: list[bytes]) -> list[bytes]:
        if frames and self.strikes(session, len(frames)):
            session.mute_until = _FOR_EVER
            self.server.fall(self.seconds)
        return frames


@dataclass
class RingReset(Outage):
    """An outage, after which the server numbers from 1: what it still has (some packets from before) and all new."""

    after: int = 20
    overlap: int = 2

    def returning(self) -> None:
        self.server.ring.restart(self.server.served, self.overlap)


@dataclass
class RingOverrun(Outage):
    """An outage, during which the ring loses that many packets that nobody has had: a gap remains."""

    lost: int = 20

    def returning(self) -> None:
        self.server.log("lost", packets=self.server.ring.overrun(self.server.served, self.lost))


@dataclass
class V3Only(Fault):
    """A server that knows only version 3."""

    def command(self, session: FaultySession, words: list[str]) -> bytes | None:
        if words[0] == "HELLO":
            return _HELLO_V3
        return b"ERROR\r\n" if words[0] in ("SLPROTO", "USERAGENT") else None


@dataclass
class V3Wrap(V3Only):
    """A version 3 server whose numbers pass FFFFFF and go on at 000000 after so many packets."""

    before: int = 10

    @property
    def first_number(self) -> int:
        return V3_SEQUENCES - self.before


@dataclass
class Tls(Fault):
    """An encrypted server; its certificate for 127.0.0.1 is told as an event `certificate`, or given as cert=FILE."""

    cert: str = ""
    _folder: tempfile.TemporaryDirectory[str] | None = field(init=False, default=None)

    def __post_init__(self) -> None:
        if not self.cert:
            self._folder = tempfile.TemporaryDirectory(prefix="faulty-server-")
            self.cert = str(made_certificate(Path(self._folder.name)))
        self._context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self._context.load_cert_chain(self.cert)

    def link(self, sock: socket.socket) -> socket.socket:
        sock.setblocking(False)
        wrapped = self._context.wrap_socket(sock, server_side=True, do_handshake_on_connect=False)
        return _TlsLink(wrapped)  # type: ignore[return-value]  # stands in for a socket


def made_certificate(folder: Path) -> Path:
    """A key and a certificate for 127.0.0.1 that signs itself, in one file. Needs the program openssl."""
    key, cert, both = folder / "key.pem", folder / "cert.pem", folder / "server.pem"
    command = ["openssl", "req", "-x509", "-newkey", "rsa:2048", "-nodes", "-days", "2", "-subj", "/CN=127.0.0.1"]
    names = ["-addext", "subjectAltName=IP:127.0.0.1", "-keyout", str(key), "-out", str(cert)]
    subprocess.run([*command, *names], check=True, capture_output=True)
    both.write_bytes(key.read_bytes() + cert.read_bytes())
    return both


@dataclass
class Auth(Fault):
    """Nothing without the right AUTH USERPASS."""

    user: str = "mine"
    password: str = "open"  # noqa: S105 - of a test

    def command(self, session: FaultySession, words: list[str]) -> bytes | None:
        if words[0] == "AUTH":
            session.known = words[1:] == ["USERPASS", self.user, self.password]
            session.log("auth", accepted=session.known)
            return b"OK\r\n" if session.known else b"ERROR AUTH wrong user or password\r\n"
        if words[0] in ("STATION", "SELECT", "DATA", "END") and not session.known:
            return b"ERROR AUTH who are you\r\n"
        return None


@dataclass
class IPv6(Fault):
    """The server listens on ::1."""

    host: ClassVar[str] = "::1"


LINK_FAULTS: dict[str, type[Fault]] = {
    "none": Fault,
    "refused": Refused,
    "black_hole": BlackHole,
    "half_open": HalfOpen,
    "eof": Eof,
    "stall": Stall,
    "stall_silent": StallSilent,
    "split": Split,
    "slow_drip": SlowDrip,
    "error_mid_stream": ErrorMidStream,
    "end_mid_stream": EndMidStream,
    "endless_line": EndlessLine,
    "oversize_length": OversizeLength,
    "poison_record": PoisonRecord,
    "outage": Outage,
    "ring_reset": RingReset,
    "ring_overrun": RingOverrun,
    "v3_only": V3Only,
    "v3_wrap": V3Wrap,
    "tls": Tls,
    "auth": Auth,
    "ipv6": IPv6,
}
