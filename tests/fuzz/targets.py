"""What is fuzzed, with what must hold of any input. Both targets take bytes and say how many frames were in them.

A frame is a packet or reply line of a session, or one record; whole or broken.
"""

from __future__ import annotations

import random
from dataclasses import replace

import numpy as np
from fuzz.inputs import payloads_of, pieces_of
from made_streams import package_spec
from seedlink_fakes import PLAIN_V3, PLAIN_V4, RINGSERVER, FakeServer

from tscc_stream import miniseed
from tscc_stream.config import Config, SeedLinkConfig
from tscc_stream.messages import Record, RecordBatch, Window
from tscc_stream.pipeline import FrontHalf, FrontMessage
from tscc_stream.seedlink.frames import LINE_LIMIT, PAYLOAD_LIMIT
from tscc_stream.seedlink.position import Position
from tscc_stream.stages.acquire import (
    Connected,
    Event,
    Notice,
    Rejected,
    SeedLinkSession,
    ServerInfo,
    SessionError,
)

ENDS = frozenset(
    ("hello", "protocol", "auth", "refused", "timeout", "closed", "line", "frame", "size", "end", "silent", "reset")
)
RECORD_REASONS = frozenset(("malformed", "corrupt", "encoding", "empty", "text", "rate", "time", "source"))
_CUTS = (1, 2, 7, 17, 64, 400, 520, 600, 4096)
_PAUSES_NS = (10**9, 61 * 10**9, 1000 * 10**9)
_PASSWORD = "open"  # noqa: S105 - of a fake server
_STREAMS = (("BW_*:?HZ",), ("BW_UH1:*", "XX_S???:EHZ", "YG_*"))
_TRIGGER = {"sta_seconds": 0.2, "lta_seconds": 2.0, "trigger_on": 4.0, "max_seconds": 2.0}
_CONFIGS = [
    Config.model_validate(
        {
            "condition": {"band_hz": (5.0, 20.0)},
            "trigger": {**_TRIGGER, "method": method},
            "network": {"min_channels": 2},
        }
    )
    for method in ("recursive", "classic")
]
_SPEC = package_spec()


class Finding(AssertionError):  # noqa: N818 - what fuzzing looks for
    """Something came out that must not."""


def expect(holds: object, text: str) -> None:
    if not holds:
        raise Finding(text)


def session(data: bytes) -> int:
    """A client's session fed by a server. data: flags, seed of the cuts and pauses, then the server's bytes."""
    flags, seed, stream = data[:1] or b"\0", data[1:2] or b"\0", data[2:]
    _Talk(flags[0], seed[0]).run(stream)
    return max(1, len(pieces_of(stream)))


class _Talk:
    """flags: 1 version 4, 2 a server with one sequence, 4 the bytes begin at HELLO, 8 start now, 16 user, 32 others."""

    def __init__(self, flags: int, seed: int) -> None:
        self._whole, self._rng, self._now_ns = seed == 0, random.Random(seed), 0  # noqa: S311  # made-up data, no secret
        self._hello = (RINGSERVER if flags & 2 else PLAIN_V4) if flags & 1 else PLAIN_V3
        self._raw = bool(flags & 4)
        self._config = SeedLinkConfig(
            server="mine:18000",
            streams=_STREAMS[bool(flags & 32)],
            start="now" if flags & 8 else "oldest",
            user="joe" if flags & 16 else None,
        )
        self._session = self._connect(Position())

    def _connect(self, position: Position) -> SeedLinkSession:
        """A session that streams, or one that waits for the answer to HELLO."""
        made = SeedLinkSession(self._config, position, self._now_ns, password=_PASSWORD)
        if not self._raw:
            server = FakeServer(hello=self._hello)
            while answer := server.feed(made.to_send()):
                for event in made.receive(answer, self._now_ns):
                    expect(isinstance(event, Connected), f"instead of a connection: {event}")
            made.to_send()
        return made

    def run(self, stream: bytes) -> None:
        at = 0
        while at < len(stream):
            step = len(stream) if self._whole else self._rng.choice(_CUTS)
            self._take(self._session.receive(stream[at : at + step], self._now_ns))
            at += step
            if self._rng.random() < 0.1:
                self._pause()
        events = self._session.receive(b"", self._now_ns)
        expect([type(event) for event in events] == [SessionError], f"at the end of the connection: {events}")
        self._take(events)

    def _pause(self) -> None:
        self._now_ns += self._rng.choice(_PAUSES_NS)
        self._take(self._session.poll(self._now_ns))

    def _take(self, events: list[Event]) -> None:
        for event in events:
            self._look_at(event)
        one = self._session
        ended = [event for event in events if isinstance(event, SessionError)]
        expect(events[-1:] == ended if ended else not one.closed, "a session ended twice, not last, or without a word")
        expect(len(one._in) <= PAYLOAD_LIMIT + 2 * LINE_LIMIT, f"{len(one._in)} bytes are held")
        expect(one.closed == (one.next_deadline() is None), "a session that is closed waits, or an open one does not")
        self._look_at_position(one.position)
        if one.closed:
            expect(one.to_send() == b"", "a session that is closed has something to say")
            expect(one.receive(b"SE", self._now_ns) == [], "a session that is closed goes on")
            self._session = self._connect(one.position)
        else:
            sent = one.to_send()
            expect(len(sent) < 1 << 16 and (not sent or sent.endswith(b"\r\n")), f"commands without an end: {sent!r}")

    @staticmethod
    def _look_at_position(position: Position) -> None:
        again = Position.from_dict(position.as_dict())
        expect(again == replace(position, failures=0, refused=()), "a position changes when it is stored")

    def _look_at(self, event: Event) -> None:
        if isinstance(event, SessionError | Rejected | Notice):
            expect(len(event.text) < 500 and event.text.isprintable(), f"a bad text: {event.text!r}")
        if isinstance(event, SessionError):
            expect(event.reason in ENDS, f"a session ended for {event.reason!r}")
            expect(_PASSWORD not in event.text.split(), f"the password in {event.text!r}")
        elif isinstance(event, Rejected):
            expect(event.reason in RECORD_REASONS | {"format"}, f"a packet rejected for {event.reason!r}")
        elif isinstance(event, RecordBatch):
            for place in range(len(event)):
                _look_at_record(event.record(place))
        elif isinstance(event, Connected):
            expect((event.software + event.organisation).isprintable(), f"a bad greeting: {event!r}")
        else:
            expect(isinstance(event, Notice | ServerInfo), f"an unknown event: {event!r}")


def _look_at_record(record: Record) -> None:
    expect(record.sid.isascii() and record.sid.isprintable(), f"a source id {record.sid!r}")
    expect(record.samples.size > 0 and not record.samples.flags.writeable, "samples that are none, or not read-only")
    expect(record.samples.dtype in (np.int32, np.float32, np.float64), f"samples of {record.samples.dtype}")
    expect(0.0 < record.sample_rate_hz < 1e9, f"a rate of {record.sample_rate_hz}")
    expect(record.quality <= {"clipped", "timing"}, f"quality {record.quality}")


def records(data: bytes) -> int:
    """The way of a record: header, samples, front half.

    data: flags (1: classic STA/LTA), then records, each after its length (2 bytes, big-endian).
    """
    front = FrontHalf(_CONFIGS[data[:1] > b"\0"], _SPEC)
    count = 0
    for payload in payloads_of(data[1:]):
        count += 1
        _look_at_headers(payload)
        try:
            record = miniseed.decode(payload, count)
        except miniseed.RecordError as error:
            expect(error.reason in RECORD_REASONS, f"a record refused for {error.reason!r}")
            continue
        _look_at_record(record)
        _look_at_output(front.feed(record, count * 10**9))
        if count % 7 == 0:
            _look_at_output(front.poll(count * 10**9))
    _look_at_output(front.flush())
    return max(1, count)


def _look_at_headers(payload: bytes) -> None:
    try:
        miniseed.quality_of(miniseed.header(payload))
        for offset, _ in miniseed.split(payload):
            expect(0 <= offset < len(payload), "a record outside its bytes")
    except miniseed.RecordError:
        pass


def _look_at_output(messages: list[FrontMessage]) -> None:
    for message in messages:
        expect(isinstance(message, FrontMessage), f"unknown: {message!r}")
        if isinstance(message, Window):
            for values in (message.waveform, message.normalised):
                expect(np.isfinite(values).all(), f"a window that is not finite: {message.uid}")


TARGETS = {"session": session, "records": records}
