"""SeedLink client without I/O: bytes in, records out; commands out; deadlines. Versions 4 and 3.

    session.to_send() -> bytes        what to write to the server now
    session.receive(data, now_ns)     -> events; b"" says that the server closed the connection
    session.poll(now_ns)              -> events; call it at `next_deadline()`
    session.hold(now_ns)              in its place while nothing is read
    session.position                  where the next session with this server goes on

A session is one connection. It ends with a SessionError, after which nothing comes out of it any more. What was seen
before may come again after a reconnection (at least once, inside the server's ring); repeats are dropped downstream.

Source: FDSN SeedLink Protocol 4.0 (docs.fdsn.org/projects/seedlink). Version 3 as ringserver 4.5 and SeisComP's server
speak it. A version 3 server that refuses a pattern in STATION is asked for its stations (INFO STATIONS), and those that
match are asked for one by one; stations that it adds later come with the next connection.
"""

from __future__ import annotations

from collections import deque
from collections.abc import Sequence
from dataclasses import dataclass, replace
from enum import Enum
from fnmatch import fnmatchcase
from typing import Final, Literal

import numpy as np

from tscc_stream.config import SeedLinkConfig
from tscc_stream.messages import AnyArray, RecordBatch
from tscc_stream.miniseed import RecordError, encode, split
from tscc_stream.packet_run import Run, take_run
from tscc_stream.record_decoder import Bytes, RecordDecoder, Undecoded
from tscc_stream.sampling import seconds_to_ns
from tscc_stream.seedlink.frames import (
    Frame,
    FrameError,
    Hello,
    is_log_error,
    json_capabilities,
    log_text,
    parse_hello,
    readable,
    stations_in,
    take_frame,
    take_line,
)
from tscc_stream.seedlink.position import Form, Position, Server, Step, step_of
from tscc_stream.seedlink.streams import StreamFilter, Subscription, parse_pattern, subscriptions
from tscc_stream.seedlink.tracker import SKIP_AFTER, Reset, Tracker
from tscc_stream.shard import Shard

_PIPELINE = 32  # commands of version 4 under way at once; version 3 waits for each reply
_INFO_LIMIT = 16 << 20  # bytes of one INFO STATIONS answer; 10,000 stations take about 2 MiB


@dataclass(frozen=True, slots=True)
class Connected:
    """Negotiation is over and packets may come. protocol: 3 or 4. requests: the forms of DATA that were used."""

    protocol: int
    software: str
    organisation: str
    requests: tuple[Form, ...]

    @property
    def step(self) -> Step:
        """How this connection goes on."""
        return step_of(self.requests)


@dataclass(frozen=True, slots=True)
class Rejected:
    """A packet that cannot be used and was dropped. reason: one word, as RecordError has it, or "format".

    station: NET_STA, empty where the packet does not say.
    """

    reason: str
    text: str
    sequence: int
    station: str = ""


@dataclass(frozen=True, slots=True)
class Notice:
    """Something people should read that does not end the session: "station" or "selector"."""

    reason: str
    text: str


@dataclass(frozen=True, slots=True)
class ServerInfo:
    """The server's answer to a keep-alive. error: it says that it cannot answer (which is a sign of life too)."""

    text: str
    error: bool


@dataclass(frozen=True, slots=True)
class SessionError:
    """The session is over; connect again with `session.position`.

    reason: hello, protocol, auth, refused, timeout, closed, line, frame, size, end, silent or reset.
    """

    reason: str
    text: str


Event = Connected | RecordBatch | Rejected | Notice | ServerInfo | SessionError


class State(Enum):
    HELLO = "HELLO"
    SLPROTO = "SLPROTO"
    USERAGENT = "USERAGENT"
    AUTH = "AUTH"
    CAPABILITIES = "INFO CAPABILITIES"
    SUBSCRIBE = "STATION"
    STATIONS = "INFO STATIONS"
    STREAM = "END"
    CLOSED = ""


@dataclass(frozen=True, slots=True)
class _Turn:
    """One command of the negotiation and where its reply leads. on_error None: the session ends."""

    command: str
    on_ok: State
    on_error: State | None


# HELLO leads to SLPROTO where the server lists version 4, else to AUTH. AUTH is left out without a user, CAPABILITIES
# in version 3. SUBSCRIBE repeats STATION, SELECT and DATA, goes to STATIONS where version 3 refuses patterns, then END.
NEGOTIATION: Final[dict[State, _Turn]] = {
    State.SLPROTO: _Turn("SLPROTO 4.0", State.USERAGENT, State.AUTH),
    State.USERAGENT: _Turn("USERAGENT {agent}", State.AUTH, State.AUTH),
    State.AUTH: _Turn("AUTH USERPASS {user} {password}", State.CAPABILITIES, None),
    State.CAPABILITIES: _Turn("INFO CAPABILITIES", State.SUBSCRIBE, State.SUBSCRIBE),
    State.STATIONS: _Turn("INFO STATIONS", State.SUBSCRIBE, None),
}
_ONE_SEQUENCE = ("ringserver", "tscc-stream")  # number all packets in one go, and check the time of the last one
_INFORMS = (State.CAPABILITIES, State.STATIONS)
_NOBODYS, _OTHERS, _OURS = range(3)


@dataclass(frozen=True, slots=True)
class _Ask:
    """One command of a subscription that waits for its reply. form: of DATA."""

    verb: Literal["STATION", "SELECT", "DATA"]
    command: str
    subscription: Subscription
    form: Form | None = None


class SeedLinkSession:
    """One connection. newest: the newest protocol version to speak. decoder: what former sessions' has learnt.

    shard: whose stations are taken; None takes all. Records of the others' are dropped unread, and counted.
    Raises ValueError for a stream pattern or credentials that cannot go over the wire.
    """

    def __init__(
        self,
        config: SeedLinkConfig,
        position: Position,
        now_ns: int,
        *,
        password: str = "",
        agent: str = "tscc-stream",
        newest: Literal[3, 4] = 4,
        decoder: RecordDecoder | None = None,
        shard: Shard | None = None,
    ) -> None:
        self._config, self._newest, self._shard = config, newest, shard
        self._decoder = decoder or RecordDecoder(None if shard is None else shard.holds_sid)
        self._patterns = tuple(parse_pattern(text) for text in config.streams)
        self._filter = StreamFilter(self._patterns)
        self._words = {"agent": agent, "user": config.user or "", "password": password}
        if config.user and not all(_is_word(self._words[key]) for key in ("user", "password")):
            raise ValueError("SeedLink user and password: expected neither empty nor with blanks or control characters")
        self._timeout_ns = seconds_to_ns(config.timeout_seconds)
        self._keepalive_ns = seconds_to_ns(config.keepalive_seconds)
        self.unwanted = 0  # records that the server sent and no pattern asks for
        self.elsewhere = 0  # and those of other shards' stations
        self._sids: Sequence[str] = ()
        self._whose: AnyArray = np.zeros(0, np.int8)  # of each of `_sids`: _NOBODYS, _OTHERS or _OURS
        self._tracker = Tracker(position, config.start)
        self._clock_ns: int | None = None
        self._hello = Hello("", "", frozenset(), frozenset())
        self._greeting: list[str] = []
        self._server = Server(3)
        self._queue: deque[_Ask] = deque()
        self._pending: deque[_Ask] = deque()
        self._asked: set[str] = set()
        self._refused: set[Subscription] = set()
        self._to_expand: list[Subscription] = []
        self._info = bytearray()
        self._in, self._out = bytearray(), bytearray()
        self._heard_ns = self._progress_ns = now_ns
        self._pinged_ns: int | None = None
        self._state = State.HELLO
        self._send("HELLO")

    @property
    def closed(self) -> bool:
        return self._state is State.CLOSED

    @property
    def streaming(self) -> bool:
        """Negotiation is over: packets may come."""
        return self._state is State.STREAM

    @property
    def position(self) -> Position:
        """Where to go on after the last packet that came in whole."""
        return self._tracker.position

    def to_send(self) -> bytes:
        """Bytes for the server; each is given once."""
        data = bytes(self._out)
        self._out.clear()
        return data

    def next_deadline(self) -> int | None:
        """Monotonic ns at which `poll` has something to do, if nothing comes before; None when closed."""
        if self.closed:
            return None
        if self._state is not State.STREAM:
            return self._progress_ns + self._timeout_ns
        if self._pinged_ns is not None:
            return self._pinged_ns + self._timeout_ns
        return self._heard_ns + self._keepalive_ns

    def poll(self, now_ns: int) -> list[Event]:
        """Keep-alives and time-outs. Read what lies ready before, so that a slow reader blames no server."""
        deadline = self.next_deadline()
        if deadline is None or now_ns < deadline:
            return []
        if self._state is not State.STREAM:
            waiting = self._pending[0].verb if self._pending else self._state.value
            return [self._fail("timeout", f"no answer to {waiting} within {self._config.timeout_seconds:g} s")]
        if self._pinged_ns is not None:
            silence = (now_ns - self._heard_ns) / 1e9
            return [self._fail("silent", f"nothing came for {silence:.0f} s, not even an answer to INFO ID")]
        self._pinged_ns = now_ns
        self._send("INFO ID")
        return []

    def hold(self, now_ns: int) -> None:
        """Keep-alives while data flow and nobody reads. Answers that lie unread are no silence: nothing ends here."""
        asked_ns = self._heard_ns if self._pinged_ns is None else self._pinged_ns
        if self.streaming and now_ns - asked_ns >= self._keepalive_ns:
            self._pinged_ns = now_ns
            self._send("INFO ID")

    def receive(self, data: bytes | bytearray | memoryview, now_ns: int, clock_ns: int | None = None) -> list[Event]:
        """Events out of the next bytes, however they are cut. `now_ns` becomes the records' `received_ns`.

        clock_ns: the wall clock, ns since 1970; the position's times never get ahead of it.
        """
        if self.closed:
            return []
        if not data:
            when = "while data flowed" if self._state is State.STREAM else f"during {self._state.value}"
            return [self._fail("closed", f"the server closed the connection {when}")]
        self._heard_ns, self._pinged_ns, self._clock_ns = now_ns, None, clock_ns
        self._in += data
        events: list[Event] = []
        start = 0
        try:
            while not self.closed:
                start = self._take_run(start, now_ns, events)
                taken = None if self.closed else self._take(start, now_ns, events)
                if taken is None:
                    break
                start = taken
        except FrameError as error:
            events.append(self._fail_frame(error))
        if start:  # a new buffer: arrays over the old one may be alive
            self._in = self._in[start:]
        return events

    def _take_run(self, start: int, now_ns: int, events: list[Event]) -> int:
        """All ordinary data packets up to one that `_take` has to look at; the offset after them."""
        while self._state is State.STREAM:
            run = take_run(self._in, start, self._server.protocol)
            if not run.at:
                break
            self._on_run(self._in, run, now_ns, events)
            start = run.end
        return start

    def _take(self, start: int, now_ns: int, events: list[Event]) -> int | None:
        """One packet or reply line; the offset after it."""
        if self._state is State.STREAM or self._state in _INFORMS:
            framed = take_frame(self._in, start, self._server.protocol)
            if framed is None:
                return None
            self._progress_ns = now_ns
            handle = self._on_packet if self._state is State.STREAM else self._on_inform
            handle(framed[0], now_ns, events)
            return framed[1]
        taken = take_line(self._in, start)
        if taken is None:
            return None
        self._progress_ns = now_ns
        self._on_line(taken[0], events)
        return taken[1]

    # Negotiation

    def _send(self, command: str) -> None:
        self._out += command.encode() + b"\r\n"

    def _enter(self, state: State, events: list[Event]) -> None:
        if state is State.AUTH and not self._config.user:
            state = State.CAPABILITIES
        if state is State.CAPABILITIES and self._server.protocol == 3:
            state = State.SUBSCRIBE
        self._state = state
        if state is State.SUBSCRIBE:
            self._begin_subscribing()
            self._subscribe(events)
        else:
            self._send(NEGOTIATION[state].command.format_map(self._words))

    def _on_line(self, line: str, events: list[Event]) -> None:
        if self._state is State.HELLO:
            self._on_greeting(line, events)
            return
        verdict = line.split(maxsplit=1)[0].upper() if line.strip() else ""
        line = self._without_password(line)
        if verdict not in ("OK", "ERROR"):
            raise FrameError("protocol", f"expected OK or ERROR to {self._state.value}, got {line[:80]!r}")
        if self._state is State.SUBSCRIBE:
            self._on_reply(self._pending.popleft(), verdict == "OK", line, events)
            self._subscribe(events)
        else:
            self._on_turn(verdict == "OK", line, events)

    def _without_password(self, line: str) -> str:
        """A server may say its commands back, and lines are told to people."""
        password = self._words["password"]
        return line.replace(password, "***") if password else line

    def _on_greeting(self, line: str, events: list[Event]) -> None:
        self._greeting.append(line)
        if len(self._greeting) == 1:
            parse_hello(line, "")  # refuses at once what is no SeedLink server: it may never send a second line
            return
        self._hello = hello = parse_hello(self._greeting[0], line)
        known = any(name in hello.software.lower() for name in _ONE_SEQUENCE)
        self._server = Server(3, shared_sequence=known, checks_time=known)
        self._enter(State.SLPROTO if 4 in hello.major and self._newest == 4 else State.AUTH, events)

    def _on_turn(self, accepted: bool, line: str, events: list[Event]) -> None:
        turn = NEGOTIATION[self._state]
        if accepted:
            if self._state is State.SLPROTO:
                self._server = replace(self._server, protocol=4)
            self._enter(turn.on_ok, events)
        elif turn.on_error is not None:
            self._enter(turn.on_error, events)
        else:
            text = f"the server does not let user {self._config.user!r} in: {line[:200]}"
            events.append(self._fail("auth", text))

    def _on_inform(self, frame: Frame, _: int, events: list[Event]) -> None:
        if self._state is State.CAPABILITIES:
            if "SEQWILDCARD" in json_capabilities(frame.payload):
                self._server = replace(self._server, shared_sequence=True)
            self._enter(State.SUBSCRIBE, events)
        elif frame.kind != "info" or is_log_error(frame.payload):
            text = "the server takes neither patterns in STATION nor INFO STATIONS; give its stations one by one"
            events.append(self._fail("refused", text))
        else:
            self._info += log_text(frame.payload).encode()
            if len(self._info) > _INFO_LIMIT:
                raise FrameError("size", f"the answer to INFO STATIONS is longer than {_INFO_LIMIT} bytes")
            if frame.last:
                self._expand(events)

    # Subscriptions

    def _begin_subscribing(self) -> None:
        self._tracker.begin(self._server)
        server = self._server
        for subscription in subscriptions(self._patterns, server.protocol, together=server.shared_sequence):
            if subscription.wildcard:
                self._ask_known(subscription)
            self._ask(subscription)

    def _ask_known(self, wild: Subscription) -> None:
        """Stations with marks of their own, before the pattern that stands for the rest of them."""
        for station in self._tracker.stations:
            if fnmatchcase(station, wild.station):
                self._ask(replace(wild, station=station))

    def _ask(self, subscription: Subscription) -> None:
        """Queue STATION, SELECT and DATA, each station once."""
        if subscription.station in self._asked:
            return
        self._asked.add(subscription.station)
        v3 = self._server.protocol == 3
        name = f"{subscription.code} {subscription.network}" if v3 else subscription.station
        self._queue.append(_Ask("STATION", f"STATION {name}", subscription))
        self._queue.extend(_Ask("SELECT", f"SELECT {selector}", subscription) for selector in subscription.selectors)
        form, command = self._tracker.request(subscription.station)
        self._queue.append(_Ask("DATA", command, subscription, form))

    def _subscribe(self, events: list[Event]) -> None:
        """Send what may go out now; END when all is answered."""
        window = _PIPELINE if self._server.protocol == 4 else 1
        while self._queue and len(self._pending) < window and not self.closed:
            self._pending.append(self._queue.popleft())
            self._send(self._pending[-1].command)
        if self._pending or self.closed:
            return
        if self._to_expand:
            self._enter(State.STATIONS, events)
        elif self._asked <= {refused.station for refused in self._refused}:
            events.append(self._fail("refused", "the server refuses every station that is asked for"))
        else:
            self._start_stream(events)

    def _start_stream(self, events: list[Event]) -> None:
        self._state = State.STREAM
        self._send("END")
        hello = self._hello
        events.append(Connected(self._server.protocol, hello.software, hello.organisation, self._tracker.forms))

    def _on_reply(self, ask: _Ask, accepted: bool, line: str, events: list[Event]) -> None:
        subscription = ask.subscription
        if accepted or subscription in self._refused:  # replies to what followed a refused STATION mean nothing
            return
        if ask.verb == "SELECT":
            text = f"the server refuses {ask.command!r} for {subscription.station}: {line[:200]}"
            events.append(Notice("selector", text))
        elif ask.form is not None and self._tracker.refuse(ask.form):
            text = (
                f"the server refuses {ask.command!r} for {subscription.station}, the next request differs: {line[:200]}"
            )
            events.append(self._fail("refused", text))
        else:
            self._leave_out(ask, line, events)

    def _leave_out(self, ask: _Ask, line: str, events: list[Event]) -> None:
        subscription = ask.subscription
        self._refused.add(subscription)
        while self._queue and self._queue[0].subscription == subscription:
            self._queue.popleft()
        if self._server.protocol == 3 and subscription.wildcard:
            self._to_expand.append(subscription)
        else:
            text = f"the server refuses {ask.command!r}; {subscription.station} is left out: {line[:200]}"
            events.append(Notice("station", text))

    def _expand(self, events: list[Event]) -> None:
        """Patterns that the server refuses, as the stations that it has."""
        known = stations_in(self._info.decode("utf-8", "replace"))
        for wild in self._to_expand:
            matching = [station for station in known if fnmatchcase(station, wild.station)]
            if not matching:
                events.append(Notice("station", f"the server has no station that matches {wild.station}"))
            for station in self._ours(matching):
                self._ask(replace(wild, station=station))
        self._to_expand = []
        self._state = State.SUBSCRIBE
        self._subscribe(events)

    def _ours(self, stations: list[str]) -> list[str]:
        """Those of this shard; all where none is, so that there is a connection."""
        return [station for station in stations if self._shard is None or self._shard.holds(station)] or stations

    # Packets

    def _on_packet(self, frame: Frame, now_ns: int, events: list[Event]) -> None:
        if frame.kind == "data":
            self._on_data(frame, now_ns, events)
        elif frame.kind == "info":
            events.append(self._server_info(frame))
        elif frame.kind == "error":
            events.append(self._fail("refused", f"the server answers {frame.payload.decode()[:200]!r}"))
        else:
            events.append(self._fail("end", "the server says that its data are at their end"))

    def _server_info(self, frame: Frame) -> ServerInfo:
        if self._server.protocol == 4:
            return ServerInfo(frame.payload.decode("utf-8", "replace"), frame.format == "JE")
        return ServerInfo(log_text(frame.payload), is_log_error(frame.payload))

    def _on_data(self, frame: Frame, now_ns: int, events: list[Event]) -> None:
        if frame.format[0] in "23":
            run = Run([0], [len(frame.payload)], [frame.sequence], [frame.station], len(frame.payload))
            self._on_run(frame.payload, run, now_ns, events)
            return
        text = f"packet {frame.sequence} of {frame.station} has format {frame.format!r}, not miniSEED"
        self._on_rejected(Rejected("format", text, frame.sequence, frame.station), frame.payload, events)

    def _on_run(self, data: Bytes, run: Run, now_ns: int, events: list[Event]) -> None:
        """Packets of a format that can be read, in `data`."""
        place = 0
        for part in self._decoder.decode(data, run.at, run.lengths, run.stations, now_ns):
            if self.closed:
                return
            if isinstance(part, Undecoded):
                self._on_undecoded(data, run, part, events)
                place = part.place + 1
            else:
                self._on_batch(part, run.sequences[place : place + len(part)], events)
                place += len(part)

    def _on_undecoded(self, data: Bytes, run: Run, undecoded: Undecoded, events: list[Event]) -> None:
        place, error = undecoded.place, undecoded.error
        sequence, station = run.sequences[place], run.stations[place]
        text = readable(f"packet {sequence} of {station}: {error}")
        payload = bytes(data[run.at[place] : run.at[place] + run.lengths[place]])
        self._on_rejected(Rejected(error.reason, text, sequence, station), payload, events)

    def _on_rejected(self, rejected: Rejected, payload: bytes, events: list[Event]) -> None:
        found = self._tracker.first_reset([rejected.station], [rejected.sequence])
        if found is not None:
            self._begun_again(found[1], events)
            return
        self._tracker.advance(rejected.station, rejected.sequence, _start_of(payload), self._clock_ns)
        if self._shard is not None and rejected.station and not self._shard.holds(rejected.station):
            self.elsewhere += 1
        else:
            events.append(rejected)

    def _on_batch(self, batch: RecordBatch, sequences: list[int], events: list[Event]) -> None:
        """Records that came under one number each."""
        stations = [batch.stations[channel] for channel in batch.channel.tolist()]
        found = self._tracker.first_reset(stations, sequences)
        if found is not None:
            batch = batch.part(0, found[0])
        count = len(batch)
        self._tracker.advance_all(stations[:count], sequences[:count], batch.start_ns.tolist(), self._clock_ns)
        whose = self._whose_are(batch)
        unwanted, elsewhere, kept = np.bincount(whose, minlength=3).tolist()
        self.unwanted += unwanted
        self.elsewhere += elsewhere
        if kept:
            events.append(batch if kept == count else batch.only(whose == _OURS))
        if found is not None:
            self._begun_again(found[1], events)

    def _whose_are(self, batch: RecordBatch) -> AnyArray:
        """Whether each record is asked for, and is this shard's."""
        if batch.sids is not self._sids:
            self._sids, self._whose = batch.sids, np.zeros(0, np.int8)
        new = [self._whose_is(sid) for sid in batch.sids[len(self._whose) :]]
        if new:
            self._whose = np.concatenate((self._whose, np.array(new, np.int8)))
        whose: AnyArray = self._whose[batch.channel]
        return whose

    def _whose_is(self, sid: str) -> int:
        if not self._filter.wants(sid):
            return _NOBODYS
        return _OURS if self._shard is None or self._shard.holds_sid(sid) else _OTHERS

    def _begun_again(self, reset: Reset, events: list[Event]) -> None:
        self._tracker.forget_sequences()
        events.append(self._fail_reset(reset))

    # Ends

    def _fail(self, reason: str, text: str) -> SessionError:
        self._state = State.CLOSED
        self._out.clear()
        return SessionError(reason, text)

    def _fail_reset(self, reset: Reset) -> SessionError:
        text = f"the server has started its sequences again ({reset.sequence} after {reset.known})"
        return self._fail("reset", f"{text}; the next request goes by time")

    def _fail_frame(self, error: FrameError) -> SessionError:
        text = str(error)
        if self._state is State.STREAM:
            failures = self._tracker.broken(error.station, error.sequence)
            if failures >= SKIP_AFTER:
                text += f"; this is failure {failures} in a row here, so the next request steps over it"
        return self._fail(error.reason, text)


def warm_up() -> None:
    """Compile the loops that packets go through, or load them from where they are kept: the first packet would wait."""
    decoder = RecordDecoder()
    (payload,) = encode("FDSN:XX_A__H_H_Z", 0, 100.0, np.arange(2, dtype=np.int32))
    for protocol, head in ((4, b"SE2D\0\2\0\0\1\0\0\0\0\0\0\0\0"), (3, b"SL000001")):
        buffer = bytearray(head + payload)
        run = take_run(buffer, 0, protocol)
        decoder.decode(buffer, run.at, run.lengths, run.stations)


def _is_word(text: str) -> bool:
    return bool(text) and text.isprintable() and not any(character.isspace() for character in text)


def _start_of(payload: bytes) -> int | None:
    """Start time (ns) out of a record's header, where the header is whole though the rest is not."""
    try:
        return next((int(header.starttime) for _, header in split(payload)), None)
    except RecordError:
        return None
