"""One client's session with the replay server, without sockets or clocks: bytes in, bytes out.

Sources: SeedLink v4.0 specification (FDSN, https://docs.fdsn.org/projects/seedlink); version 3.1 as the servers and
clients in the field speak it. Where the specification leaves a choice, or where this server differs from ringserver:

- `DATA seq` counts per STATION, as the specification says (ringserver: the newest of all of them, for all stations).
- A number older than the ring: everything that is still there (ringserver: only what comes from now on).
- A number that was not yet given: with a time, everything that ends after it; without, only what comes from now on.
- `DATA last+1 time`: where packet `last` is there and starts within another second than `time`, the numbers belong to
  another ring, and the time alone counts. With an end time it is a window, and number and time both count.
- Version 3 numbers are the last 24 bits of the ring's. They stand for the newest number with these bits.
- Without a number, a request starts at the next packet; at the oldest one where the replay goes as fast as it is read,
  since there "now" has no meaning.
- Version 4 accepts SELECT and DATA only after STATION, and answers END without any station with ERROR UNEXPECTED
  (ringserver: all stations). BATCH, CAT and CAPABILITIES exist in version 3 only.
- AUTH is answered with ERROR UNSUPPORTED, since there are no users (ringserver: ERROR INTERNAL). Of the filters there
  is `native` alone; conversion to miniSEED 3 (`:3`) is refused with ERROR ARGUMENTS.
- SELECT patterns see the format characters (`*.3D`); ringserver ignores them.
- While data flow, commands other than INFO and BYE are ignored.
- A window is over (END is sent) once every stream that it selects has gone on to its end time.
"""

from __future__ import annotations

import re
import struct
from collections.abc import Callable, Iterable
from datetime import UTC, datetime
from typing import Literal

from tscc_stream import miniseed
from tscc_stream.sampling import NS_PER_SECOND
from tscc_stream.serve import info
from tscc_stream.serve.info import Connection, Identity, InfoError
from tscc_stream.serve.ring import Packet, Ring, Stream, records_v3
from tscc_stream.serve.selection import (
    Request,
    SelectionError,
    Subscription,
    selector_v3,
    selector_v4,
    station_v3,
    station_v4,
)

MAX_LINE = 255  # with its terminator; SeedLink v4.0, "Commands"
MAX_WAITING = 256 * 1024  # bytes of answers that a client may leave unread before it is no longer listened to
_SCAN = 4096  # packets looked at per call, so that one picky client does not hold up the others
_COMMAND_END = re.compile(rb"[\r\n]")
_TIME = re.compile(r"(\d{4})[-,](\d{1,2})[-,](\d{1,2})(?:[T,](\d{1,2})[:,](\d{1,2})[:,](\d{1,2})(?:[.,](\d{1,9}))?)?Z?")
_SEQUENCE_V3 = re.compile(r"(?:0[xX])?[0-9A-Fa-f]{1,8}")
_SEQUENCE_V4 = re.compile(r"[0-9]{1,20}")
_LOW_24 = 0xFFFFFF

Phase = Literal["handshake", "data", "closing"]


class CommandError(ValueError):
    """What a client did wrong; `code` is one of the specification's error codes."""

    def __init__(self, code: str, text: str) -> None:
        super().__init__(text)
        self.code = code


def parse_time(text: str) -> int:
    """`2010-05-27T16:24:03.68Z` or `2010,05,27,16,24,03` as ns. Raises CommandError."""
    match = _TIME.fullmatch(text)
    if match is None:
        raise CommandError("ARGUMENTS", f"expected a time such as 2010-05-27T16:24:03Z, got {text:.40}")
    year, month, day, hour, minute, second = (int(part or 0) for part in match.groups()[:6])
    try:
        moment = datetime(year, month, day, hour, minute, min(second, 59), tzinfo=UTC)
    except ValueError as error:
        raise CommandError("ARGUMENTS", f"{text:.40} is no time: {error}") from error
    leap = second - min(second, 59)
    return (int(moment.timestamp()) + leap) * NS_PER_SECOND + int((match[7] or "0").ljust(9, "0"))


class Session:
    """A state machine per connection: `receive` what the client sent, `send` what it is to get.

    from_oldest: where requests without a number start. end_when_complete: send END once the ring is complete and this
    client has all of it. connections: who else is there, for INFO CONNECTIONS.
    """

    def __init__(
        self,
        ring: Ring,
        identity: Identity,
        *,
        peer: str = "",
        from_oldest: bool = False,
        end_when_complete: bool = False,
        connections: Callable[[], Iterable[Connection]] = tuple,
    ) -> None:
        self.phase: Phase = "handshake"
        self.packets = 0
        self.unsendable = 0
        self.lost = 0
        self._ring = ring
        self._identity = identity
        self._peer = peer
        self._from_oldest = from_oldest
        self._end_when_complete = end_when_complete
        self._connections = connections
        self._version: Literal[3, 4] = 3
        self._agent = ""
        self._batch = self._extended_replies = self._dial_up = False
        self._input = bytearray()
        self._waiting = bytearray()
        self._subscription = Subscription()
        self._current: Request | None = None
        self._from: dict[Request, int] = {}
        self._routes: dict[Stream, Request | None] = {}
        self._cursor = 0
        self._flowed = False

    # ---- what the server sees

    @property
    def connection(self) -> Connection:
        return Connection(
            self._peer, f"{self._version}.{1 if self._version == 3 else 0}", self._agent, self.packets, self.lost
        )

    @property
    def wants_input(self) -> bool:
        """False while the client leaves too many answers unread: stop reading from it."""
        return self.phase != "closing" and len(self._waiting) < MAX_WAITING

    @property
    def cursor(self) -> int | None:
        """The number of the next packet to look at, once data flow."""
        return self._cursor if self.phase == "data" else None

    @property
    def behind(self) -> bool:
        """Whether there is something to send at once: answers, or packets not looked at yet."""
        return bool(self._waiting) or (self.phase == "data" and self._cursor < self._ring.next)

    @property
    def has_all(self) -> bool:
        """Whether the replay is over and this client was offered all of it."""
        return self._flowed and self._ring.complete and self._cursor >= self._ring.next

    def receive(self, data: bytes) -> None:
        """Takes what came from the client, in pieces of any size."""
        self._input += data
        self._obey()

    def send(self, limit: int) -> bytes:
        """The next bytes for the client, about `limit` of them; empty where there is nothing to send now."""
        if self._waiting:
            data = bytes(self._waiting)
            self._waiting.clear()
            self._obey()  # what was held back while nobody read
            return data
        return self._data(limit) if self.phase == "data" else b""

    # ---- commands

    def _obey(self) -> None:
        while self.wants_input:
            end = _COMMAND_END.search(self._input)
            if end is None:
                if len(self._input) > MAX_LINE:
                    self._refuse(CommandError("LIMIT", f"a command has at most {MAX_LINE} characters"))
                    self._close()
                return
            line = bytes(self._input[: end.start()])
            del self._input[: end.end()]
            self._line(line.decode("ascii", "replace"))

    def _line(self, line: str) -> None:
        words = line.split()
        if not words:
            return
        name = words[0].upper()
        handler = _COMMANDS[self._version].get(name)
        if self.phase == "data" and name not in ("INFO", "BYE"):
            return
        try:
            if handler is None or len(line) > MAX_LINE:
                raise CommandError("UNSUPPORTED", f"unknown command {name:.20}")
            if handler(self, words[1:]) and not self._batch:
                self._waiting += b"OK\r\n"
        except CommandError as error:
            self._refuse(error)
        except SelectionError as error:
            self._refuse(CommandError("LIMIT" if str(error).startswith("more than") else "ARGUMENTS", str(error)))

    def _refuse(self, error: CommandError) -> None:
        text = str(error).encode("ascii", "replace")
        if self._version == 4:
            self._waiting += b"ERROR %s %s\r\n" % (error.code.encode(), text)
        elif self._extended_replies:
            self._waiting += b"ERROR\r%s %s\r\n" % (error.code.encode(), text)
        elif not self._batch:
            self._waiting += b"ERROR\r\n"

    def _close(self) -> None:
        self.phase = "closing"
        self._input.clear()

    def _hello(self, _: list[str]) -> bool:
        self._waiting += f"{info.SOFTWARE}\r\n{self._identity.organization}\r\n".encode()
        return False

    def _slproto(self, arguments: list[str]) -> bool:
        if self._subscription.requests:
            raise CommandError("UNEXPECTED", "SLPROTO comes before STATION")
        versions: dict[str, Literal[3, 4]] = {"4.0": 4, "3.0": 3, "3.1": 3}
        if len(arguments) != 1:
            raise CommandError("ARGUMENTS", "expected SLPROTO version")
        if arguments[0] not in versions:
            raise CommandError("UNSUPPORTED", "unsupported protocol version")
        self._version = versions[arguments[0]]
        return True

    def _useragent(self, arguments: list[str]) -> bool:
        self._agent = " ".join(arguments)
        return True

    def _auth(self, _: list[str]) -> bool:
        raise CommandError("UNSUPPORTED", "this server knows no users")

    def _capabilities(self, arguments: list[str]) -> bool:
        self._extended_replies |= any(word.upper() == "EXTREPLY" for word in arguments)
        return True

    def _start_batch(self, _: list[str]) -> bool:
        self._waiting += b"OK\r\n"
        self._batch = True
        return False

    def _bye(self, _: list[str]) -> bool:
        self._close()
        return False

    def _cat(self, _: list[str]) -> bool:
        stations = sorted({(stream.network, stream.station) for stream in self._ring.streams})
        lines = "".join(f"{network:<2} {station:<5} \r\n" for network, station in stations)
        self._waiting += f"{lines}END".encode()
        return False

    def _info(self, arguments: list[str]) -> bool:
        if self._version == 4:
            self._waiting += self._info_v4(arguments)
            return False
        item = arguments[0] if arguments else ""
        text, known = info.xml_answer(item, self._identity, self._ring, self._connections())
        for packet in info.log_packets(text, self._identity.started_ns, error=not known):
            self._waiting += packet
        return False

    def _info_v4(self, arguments: list[str]) -> bytes:
        try:
            text, kind = info.json_answer(arguments, self._identity, self._ring, self._connections()), b"I"
        except InfoError as error:
            text, kind = info.json_error(self._identity, error), b"E"
        return _frame_v4(b"J", kind, 0, b"", text)

    def _station(self, arguments: list[str]) -> bool:
        self._current = None
        expected = (1, 2) if self._version == 3 else (1,)
        if len(arguments) not in expected:
            raise CommandError("ARGUMENTS", f"expected STATION {'code [network]' if self._version == 3 else 'id'}")
        pattern = station_v4(arguments[0]) if self._version == 4 else station_v3(*arguments)
        self._current = self._subscription.station(pattern)
        return True

    def _select(self, arguments: list[str]) -> bool:
        if self._version == 4:
            if not arguments:
                raise CommandError("ARGUMENTS", "an empty SELECT is not allowed in version 4")
            self._chosen("SELECT").add([selector_v4(text) for text in arguments])
        elif len(arguments) > 1:
            raise CommandError("ARGUMENTS", "expected SELECT with one pattern")
        elif arguments:
            self._chosen("SELECT").add([selector_v3(arguments[0])])
        else:
            self._chosen("SELECT").selectors.clear()
        return True

    def _chosen(self, command: str) -> Request:
        """The station that a command speaks of; without STATION, version 3 means all of them."""
        if self._current is None and self._version == 4:
            raise CommandError("UNEXPECTED", f"{command} comes after STATION")
        return self._current or self._subscription.station("*")

    def _position(self, arguments: list[str]) -> bool:
        """DATA: in version 3 without a station it also starts the flow, unanswered."""
        if len(arguments) > 3:
            raise CommandError("ARGUMENTS", "expected DATA [sequence [start [end]]]")
        number = self._number(arguments[0]) if arguments else None
        return self._placed(number, arguments[1:])

    def _fetch(self, arguments: list[str]) -> bool:
        self._dial_up = True
        return self._position(arguments)

    def _time_window(self, arguments: list[str]) -> bool:
        if not 1 <= len(arguments) <= 2:
            raise CommandError("ARGUMENTS", "expected TIME start [end]")
        return self._placed("all", arguments)

    def _placed(self, number: int | Literal["all"] | None, times: list[str]) -> bool:
        request = self._chosen("DATA")
        window = [parse_time(text) for text in times]
        request.number = number
        request.after_ns, request.until_ns = [*window, None, None][:2]
        if self._current is None:
            self._begin()
        return self._current is not None

    def _number(self, text: str) -> int | Literal["all"] | None:
        if text.upper() == "ALL" and self._version == 4:
            return "all"
        if self._version == 3:
            if text == "-1":
                return None
            if _SEQUENCE_V3.fullmatch(text) is None:
                raise CommandError("ARGUMENTS", "expected a hexadecimal sequence number")
            return _newest_with(int(text, 16) & _LOW_24, self._ring.next)
        if _SEQUENCE_V4.fullmatch(text) is None:
            raise CommandError("ARGUMENTS", "expected a decimal sequence number or ALL")
        return int(text)

    def _end(self, _: list[str]) -> bool:
        if not self._subscription.requests:
            if self._version == 4:
                raise CommandError("UNEXPECTED", "END comes after STATION")
            self._subscription.station("*")
        self._begin()
        return False

    def _end_fetch(self, arguments: list[str]) -> bool:
        self._dial_up = True
        return self._end(arguments)

    # ---- data

    def _begin(self) -> None:
        self._from = {request: self._start_of(request) for request in self._subscription.requests.values()}
        self._cursor = min(self._from.values())
        self.phase = "data"
        self._flowed = True

    def _start_of(self, request: Request) -> int:
        """The first number to send, see the notes at the top."""
        ring, number, after = self._ring, request.number, request.after_ns
        if number is None:
            return ring.oldest if self._from_oldest else ring.next
        if number != "all":
            if number > ring.next and after is None:
                return ring.next
            if number <= ring.next and request.until_ns is not None:
                return number
            if number <= ring.next and not self._of_another_ring(number, after):
                request.after_ns = None  # it only vouched for the number
                return number
        return ring.oldest if after is None else ring.first_ending_after(after)

    def _of_another_ring(self, number: int, after_ns: int | None) -> bool:
        last = self._ring.at_or_after(number - 1)
        if after_ns is None or last is None or not last.first < number <= last.after:
            return False
        second = after_ns // NS_PER_SECOND
        first, final = last.start_ns // NS_PER_SECOND, last.end_ns // NS_PER_SECOND
        return not first <= second <= (final if self._version == 3 and last.numbers > 1 else first)

    def _data(self, limit: int) -> bytes:
        out: list[bytes] = []
        size, ring = 0, self._ring
        if self._cursor < ring.oldest:
            self.lost += ring.oldest - self._cursor
            self._cursor = ring.oldest
        for _ in range(_SCAN):
            packet = ring.at_or_after(self._cursor)
            if packet is None or size >= limit:
                break
            self._cursor = packet.after
            for frame in self._frames(packet):
                out.append(frame)
                size += len(frame)
                self.packets += 1
        if not out and self._is_over():
            self._close()
            return b"END"
        return b"".join(out)

    def _frames(self, packet: Packet) -> list[bytes]:
        stream = packet.stream
        try:
            request = self._routes[stream]
        except KeyError:
            request = self._routes[stream] = self._subscription.wanted(stream)
        if request is None or not request.overlaps(packet.start_ns, packet.end_ns):
            return []
        first = self._from[request]
        if self._version == 4:
            if packet.first < first:
                return []
            station = stream.station_id.encode("ascii", "replace")[:255]
            return [_frame_v4(stream.format.encode(), b"D", packet.first, station, packet.payload)]
        return self._frames_v3(packet, first)

    def _frames_v3(self, packet: Packet, first: int) -> list[bytes]:
        try:
            records = records_v3(packet.payload)
        except miniseed.RecordError:  # codes too long for version 2, or nothing in it
            self.unsendable += 1
            return []
        numbers = (min(packet.first + index, packet.after - 1) for index in range(len(records)))
        return [
            b"SL%06X%b" % (number & _LOW_24, record)
            for number, record in zip(numbers, records, strict=True)
            if number >= first
        ]

    def _is_over(self) -> bool:
        """Nothing more will be sent: dial-up mode, a replay that ends its clients, or every window passed."""
        if self._cursor < self._ring.next:
            return False
        if self._dial_up or (self._ring.complete and self._end_when_complete):
            return True
        ends = [request.until_ns for request in self._from]
        if None in ends:
            return False
        return self._ring.complete or self._windows_passed()

    def _windows_passed(self) -> bool:
        asked = [(held, self._subscription.wanted(stream)) for stream, held in self._ring.streams.items()]
        selected = [(held, request.until_ns) for held, request in asked if request is not None]
        return bool(selected) and all(until is not None and held.last_start_ns >= until for held, until in selected)


def _newest_with(low: int, following: int) -> int:
    """The newest number up to `following` with these last 24 bits; one beyond it where there never was any."""
    number = (following & ~_LOW_24) | low
    if number > following and number > _LOW_24:
        number -= _LOW_24 + 1
    return number


def _frame_v4(kind: bytes, subformat: bytes, number: int, station: bytes, payload: bytes) -> bytes:
    """SeedLink v4.0, "Data Transfer": little-endian lengths and sequence number."""
    return b"SE%b%b%b%b%b" % (
        kind,
        subformat,
        struct.pack("<IQB", len(payload), number, len(station)),
        station,
        payload,
    )


_Handler = Callable[[Session, list[str]], bool]
_BOTH: dict[str, _Handler] = {
    "HELLO": Session._hello,
    "SLPROTO": Session._slproto,
    "USERAGENT": Session._useragent,
    "AUTH": Session._auth,
    "STATION": Session._station,
    "SELECT": Session._select,
    "DATA": Session._position,
    "INFO": Session._info,
    "END": Session._end,
    "ENDFETCH": Session._end_fetch,
    "BYE": Session._bye,
}
_COMMANDS: dict[int, dict[str, _Handler]] = {
    3: {
        **_BOTH,
        "CAPABILITIES": Session._capabilities,
        "BATCH": Session._start_batch,
        "CAT": Session._cat,
        "FETCH": Session._fetch,
        "TIME": Session._time_window,
    },
    4: _BOTH,
}
