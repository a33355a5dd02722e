"""Faulty SeedLink servers in one process: the product's own replay server with one named fault per port.

    python tests/faulty_server.py ARCHIVE --fault NAME [--fault-option KEY=VALUE] [--port 0] [--speed X|max]
    python tests/faulty_server.py --fault eof@FOLDER --fault late=stall@FOLDER2 --fault-option late:seconds=5
    python tests/faulty_server.py --list

One process holds as many ports as there are --fault [LABEL=]NAME[@ARCHIVE]. stdout: one line `LABEL HOST:PORT` per
port, a line `ready`, then what happens as JSON lines {"t": monotonic s, "port": LABEL, "event": ..., ...}:

    accepted        peer; closed: packets that it was sent
    command         line, as the client sent it (a password excepted)
    first_byte      of a connection; first_packet: its number; all_sent: the client has the whole archive
    fault           the moment at which the fault hit; lost: packets that the ring lost
    down, up        the port is closed, or open again (`up` before anything of it is sent)

stdin: `down LABEL` closes a port and its connections, `return LABEL` lets it come back and be well from then on; the
end of stdin ends the process. The replay begins with a port's first data request.
"""

from __future__ import annotations

import argparse
import json
import queue
import selectors
import socket
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import fields
from typing import Any

from faults_of_input import INPUT_FAULTS
from faults_of_links import LINK_FAULTS, Fault, Tls

from tscc_stream import miniseed
from tscc_stream.edges import archive
from tscc_stream.edges.archive import ArchiveIndex, RawRecord
from tscc_stream.serve.command import parse_speed
from tscc_stream.serve.protocol import Session, _frame_v4
from tscc_stream.serve.replay import Replay, ReplayOptions
from tscc_stream.serve.ring import Packet, Ring
from tscc_stream.serve.server import ReplayServer, ServerOptions, _Client

FAULTS: dict[str, type[Fault]] = {**LINK_FAULTS, **INPUT_FAULTS}
_SOON = 0.05  # s: how exactly a stall or an outage ends
_writing = threading.Lock()


def say(text: str) -> None:
    with _writing:
        sys.stdout.write(f"{text}\n")
        sys.stdout.flush()


class FaultyRing(Ring):
    """A ring that can start again or lose packets."""

    def restart(self, served: int, overlap: int) -> None:
        """Numbers from 1: the last `overlap` packets before number `served`, and all after it."""
        held = [packet for packet in self._packets if packet is not None]
        before = sum(packet.first < served for packet in held)
        complete = self.complete
        super().__init__(self.capacity_bytes)
        for packet in held[max(0, before - overlap) :]:
            sid = f"FDSN:{packet.stream.station_id}_{packet.stream.stream_id}"
            self.append(sid, packet.start_ns, packet.end_ns, packet.payload)
        self.complete = complete

    def overrun(self, served: int, lost: int) -> int:
        """Forgets everything before number `served` and up to `lost` packets after it; how many of those."""
        forgotten = 0
        while len(self) > 1 and (self.oldest < served or forgotten < lost):
            forgotten += self.oldest >= served
            self._forget_oldest()
        return forgotten


class FaultyReplay(Replay):
    """Plays what the fault makes of the archive; the ring goes by the times that the records state."""

    def __init__(self, index: ArchiveIndex, ring: Ring, options: ReplayOptions, fault: Fault) -> None:
        super().__init__(index, ring, options)
        self._fault = fault

    def _passes(self, shift: int) -> Iterator[RawRecord]:
        return self._fault.records(super()._passes(shift))

    def _put(self, record: RawRecord) -> None:
        try:
            head = miniseed.header(record.payload)
            record = record._replace(start_ns=int(head.starttime), end_ns=int(head.endtime))
        except miniseed.RecordError:
            pass
        super()._put(record)


class FaultySession(Session):
    """A session with its fault's seams. mute_until, hold_until: monotonic s, no bytes or no packets before."""

    def __init__(self, server: FaultyServer, peer: str) -> None:
        options = server.options
        super().__init__(server.ring, server._identity, peer=peer, from_oldest=options.replay.speed == "max")
        self.peer = peer
        self.struck = self.known = False
        self.mute_until = self.hold_until = 0.0
        self._server, self._fault = server, server.fault
        self._told: set[str] = set()
        self.log("accepted")
        self._fault.accepted(self)

    def log(self, event: str, **what: object) -> None:
        self._server.log(event, peer=self.peer, **what)

    def log_once(self, event: str, **what: object) -> None:
        if event not in self._told:
            self._told.add(event)
            self.log(event, **what)

    def hang_up(self) -> None:
        """Close, after what this turn sends."""
        self._close()

    @property
    def protocol(self) -> int:
        return self._version

    @property
    def held(self) -> bool:
        return time.monotonic() < max(self.mute_until, self.hold_until)

    @property
    def behind(self) -> bool:
        return super().behind and not self.held

    def frame(self, packet: Packet, payload: bytes, code: bytes = b"2D") -> bytes:
        """A payload under a packet's number, in the client's version."""
        if self._version == 4:
            return _frame_v4(code[:1], code[1:], packet.first, packet.stream.station_id.encode(), payload)
        return b"SL%06X" % (packet.first & 0xFFFFFF) + payload

    def send(self, limit: int) -> bytes:
        if time.monotonic() < self.mute_until:
            return b""
        data = super().send(limit)
        if data:
            self.log_once("first_byte")
        if self.has_all:
            self.log_once("all_sent")
        return data

    def _line(self, line: str) -> None:
        words = line.split()
        if not words:
            return
        words[0] = words[0].upper()
        self.log("command", line="AUTH" if words[0] == "AUTH" else line)
        answer = None if self.phase == "data" else self._fault.command(self, words)
        if answer is None:
            super()._line(line)
        else:
            self._waiting += answer

    def _data(self, limit: int) -> bytes:
        return b"" if self.held else super()._data(min(limit, 1))  # packet by packet: a fault may stop after each

    def _frames(self, packet: Packet) -> list[bytes]:
        if self.phase != "data" or self.held:
            return []
        frames = self._fault.frames(self, packet, super()._frames(packet))
        if frames:
            self.log_once("first_packet", number=packet.first)
        return frames


class FaultyServer(ReplayServer):
    """One port with one fault. served: the number up to which somebody had packets when the port was closed."""

    ring: FaultyRing

    def __init__(self, label: str, fault: Fault, index: ArchiveIndex, port: int, options: ServerOptions) -> None:
        super().__init__(index, fault.host, port, options)
        self.label, self.fault, self.served = label, fault, 1
        fault.server = self
        self.ring = FaultyRing(options.ring_bytes, fault.first_number)
        self.replay = FaultyReplay(index, self.ring, options.replay, fault)
        self.where = ("", 0)
        self._orders: queue.SimpleQueue[str] = queue.SimpleQueue()
        self._outage: float | None = None
        self._up_at = float("inf")
        self._held_port: socket.socket | None = None

    def log(self, event: str, **what: object) -> None:
        say(json.dumps({"t": time.monotonic(), "port": self.label, "event": event, **what}))

    def order(self, order: str) -> None:
        """`down` or `return`, from any thread."""
        self._orders.put(order)
        self._waker.send(b"!")

    def fall(self, seconds: float) -> None:
        """Close the port and all connections at the end of this turn, for so long (0: until told)."""
        self._outage = seconds or float("inf")

    def _listen(self, host: str, port: int) -> None:
        super()._listen(host, port)
        self.where = self.address
        if self.fault.starts_down and not self.fault.well:
            self._close_port()

    def start(self) -> tuple[str, int]:
        """The address, also of a port that is closed at first."""
        self._woken.setblocking(False)
        self._listen(*self._bind)
        self._selector.register(self._woken, selectors.EVENT_READ)
        self._thread.start()
        return self.where

    def _admit(self, sock: socket.socket, peer: str) -> None:
        super()._admit(self.fault.link(sock), peer)

    def _session(self, peer: str) -> Session:
        return FaultySession(self, peer)

    def _wait_seconds(self) -> float:
        waiting = self._up_at < float("inf") or any(c.session.held for c in self._clients.values())
        return min(super()._wait_seconds(), _SOON) if waiting else super()._wait_seconds()

    def _turn(self) -> None:
        super()._turn()
        while not self._orders.empty():
            self._obey(self._orders.get())
        if self._outage is not None:
            self._go_down(self._outage)
        if time.monotonic() >= self._up_at:
            self._come_back()

    def _obey(self, order: str) -> None:
        if order == "down":
            self._outage = float("inf")
            return
        self.fault.well = True
        if self._held_port is not None:
            self._come_back()
        else:
            self.log("up")

    def _go_down(self, seconds: float) -> None:
        self._outage = None
        cursors = [client.session.cursor for client in self._clients.values()]
        self.served = max((cursor for cursor in cursors if cursor is not None), default=self.ring.oldest)
        for client in list(self._clients.values()):
            self._drop(client)
        if self._listener is not None:
            self._close_port()
        self._up_at = time.monotonic() + seconds
        self.log("down")

    def _close_port(self) -> None:
        """Nobody can connect, and nobody else gets the port meanwhile."""
        assert self._listener is not None
        family = self._listener.family
        self._selector.unregister(self._listener)
        self._listener.close()
        self._listener = None
        self._held_port = socket.socket(family)
        self._held_port.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        self._held_port.bind(self.where)

    def _come_back(self) -> None:
        if self._held_port is None:
            return
        self.fault.returning()
        self._held_port.close()
        self._held_port, self._up_at = None, float("inf")
        super()._listen(*self.where)
        self.log("up")

    def _close_all(self) -> None:
        super()._close_all()
        if self._held_port is not None:
            self._held_port.close()

    def _drop(self, client: _Client) -> None:
        if client.sock.fileno() in self._clients:
            client.session.log("closed", packets=client.session.packets)
        super()._drop(client)


def parse_fault(text: str, options: list[str], archive_path: str | None) -> tuple[str, Fault, str]:
    """`[LABEL=]NAME[@ARCHIVE]` with the options meant for it. Raises ValueError in one sentence."""
    front, _, path = text.partition("@")
    label, _, name = front.rpartition("=")
    kind = FAULTS.get(name)
    if kind is None:
        raise ValueError(f"fault {name!r}: expected one of {', '.join(FAULTS)}")
    if not (path or archive_path):
        raise ValueError(f"fault {name!r}: expected an archive, as {name}@FOLDER or as first argument")
    label = label or name
    return label, kind(**_values(kind, label, options)), path or str(archive_path)


def _values(kind: type[Fault], label: str, options: list[str]) -> dict[str, Any]:
    known = {field.name: type(field.default) for field in fields(kind) if field.init}
    values: dict[str, Any] = {}
    for option in options:
        key, _, value = option.partition("=")
        owner, _, key = key.rpartition(":")
        if owner not in ("", label):
            continue
        if key not in known:
            raise ValueError(f"option {key!r} of {label}: expected one of {', '.join(known)}")
        values[key] = known[key](value)
    return values


def obey(servers: dict[str, FaultyServer]) -> None:
    """Orders from stdin until it ends."""
    for line in sys.stdin:
        order, _, label = line.strip().partition(" ")
        if order in ("down", "return") and label in servers:
            servers[label].order(order)
        else:
            say(json.dumps({"event": "error", "text": f"order {line.strip()!r}: expected down or return, and a label"}))


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("archive", nargs="?")
    parser.add_argument("--fault", action="append", default=[])
    parser.add_argument("--fault-option", action="append", default=[])
    parser.add_argument("--port", type=int, default=0)
    parser.add_argument("--speed", type=parse_speed, default=1.0)
    parser.add_argument("--list", action="store_true")
    given = parser.parse_args()
    if given.list:
        for name, kind in FAULTS.items():
            say(f"{name:18}{(kind.__doc__ or '').splitlines()[0]}")
        return 0
    try:
        chosen = [parse_fault(text, given.fault_option, given.archive) for text in given.fault]
    except ValueError as error:
        parser.error(str(error))
    labels = [label for label, _, _ in chosen]
    if len(set(labels)) < len(labels) or not labels:
        parser.error("expected at least one fault, and a label of its own for each: LABEL=NAME")
    options = ServerOptions(replay=ReplayOptions(given.speed), wait_for_client=True)
    servers = {
        label: FaultyServer(label, fault, archive.index([path]), given.port, options) for label, fault, path in chosen
    }
    for label, server in servers.items():
        host, port = server.start()
        say(f"{label} {f'[{host}]' if ':' in host else host}:{port}")
    say("ready")
    for server in servers.values():
        if isinstance(server.fault, Tls):
            server.log("certificate", path=server.fault.cert)
    obey(servers)
    for server in servers.values():
        server.stop()
    return 0


if __name__ == "__main__":
    sys.modules["faulty_server"] = sys.modules["__main__"]
    sys.exit(main())
