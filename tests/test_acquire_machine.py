"""A SeedLink session against a model of a server: whatever happens to the link and to the ring, in any order.

The model server numbers all its packets in one go, and clients ask it per station (see seedlink_fakes). Left out is
what no client can find out there: a ring that was reset and has already numbered past the place where the client
stands. A packet without a readable number that is the first of all costs what lies behind it (the last test here).
"""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, field

import pytest
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from seedlink_fakes import PLAIN_V3, PLAIN_V4, START_NS, FakeServer, Packet, record, records_of

from tscc_stream.config import SeedLinkConfig
from tscc_stream.messages import Record, RecordBatch
from tscc_stream.miniseed import decode
from tscc_stream.seedlink.position import Position
from tscc_stream.stages.acquire import Event, Rejected, SeedLinkSession, SessionError

WANTED = ("FDSN:BW_UH1__S_H_Z", "FDSN:BW_UH2__S_H_Z", "FDSN:XX_S1__E_H_Z")
UNWANTED = ("FDSN:BW_UH1__S_H_N", "FDSN:BW_UH2__S_H_E", "FDSN:ZZ_S1__E_H_Z")
STREAMS = ("BW_*:?HZ", "XX_S1:EHZ")
ENDS = {"closed", "frame", "size", "reset", "silent", "timeout"}
SECOND = 10**9

Key = tuple[str, int]


@dataclass
class PoisonServer(FakeServer):
    """Packets of `poisoned` break the framing: "garbage" in place of the signature, or a length beyond all limits."""

    poisoned: dict[Key, str] = field(default_factory=dict)

    def frame(self, packet: Packet) -> bytes:
        whole = super().frame(packet)
        kind = self.poisoned.get((packet.sid, packet.start_ns))
        if kind == "size" and self.protocol == 4:
            return whole[:4] + b"\xff\xff\xff\x7f" + whole[8:]
        return b"XX" + whole[2:] if kind else whole


class SessionMachine(RuleBasedStateMachine):
    """`ring` is what the server holds, `wire` what it has sent and the client has not read."""

    def __init__(self) -> None:
        super().__init__()
        self.ring: list[Packet] = []
        self.sequence = self.second = self.now_ns = 0
        self.poisoned: dict[Key, str] = {}
        self.together: set[int] = set()  # sequences that must not become the first of the ring
        self.received: Counter[Key] = Counter()
        self.this_connection: Counter[Key] = Counter()
        self.ended: SessionError | None = None
        self.begun_again = False

    @initialize(hello=st.sampled_from([PLAIN_V4, PLAIN_V3]), selects=st.booleans())
    def begin(self, hello: str, selects: bool) -> None:
        self.hello, self.refuse = hello, () if selects else ("SELECT",)
        self.position = Position()
        self.connect()

    # The link

    def connect(self) -> None:
        config = SeedLinkConfig(server="mine:18000", streams=STREAMS)
        self.session = SeedLinkSession(config, self.position, self.now_ns)
        self.server = PoisonServer(self.ring, self.hello, self.refuse, poisoned=self.poisoned)
        self.wire = bytearray()
        self.ended = None
        self.this_connection.clear()
        self.exchange()

    def exchange(self) -> None:
        """Commands to the server, its answers onto the wire."""
        self.wire += self.server.feed(self.session.to_send())

    def take(self, events: list[Event]) -> None:
        before = self.position
        for event in events:
            if isinstance(event, RecordBatch):
                for one in records_of([event]):
                    self.take_record(one)
            elif isinstance(event, SessionError):
                assert event.reason in ENDS, event
                assert event is events[-1]
                assert self.poisoned or event.reason not in ("frame", "size"), event
                assert self.begun_again or event.reason != "reset", event
                self.ended = event
            else:
                assert not isinstance(event, Rejected), event
        self.position = self.session.position
        self.compare(before, self.position)
        assert self.session.closed == (self.ended is not None)
        self.exchange()

    def take_record(self, one: Record) -> None:
        key = (one.sid, one.start_ns)
        assert one.sid in WANTED
        assert key not in self.poisoned
        assert one.samples.tolist() == decode(record(key[0], self.second_of(key))).samples.tolist()
        self.received[key] += 1
        self.this_connection[key] += 1
        assert self.this_connection[key] == 1, "the same record twice in one connection"

    @staticmethod
    def second_of(key: Key) -> int:
        return (key[1] - START_NS) // SECOND

    def compare(self, before: Position, after: Position) -> None:
        """The place moves on, never back, unless the session says that the numbers begin again."""
        if self.ended is not None and self.ended.reason == "reset":
            assert all(mark.sequence is None for _, mark in after.stations)
            assert after.last is None or after.last.sequence is None
            return
        olds = {"": before.last, **dict(before.stations)}
        news = {"": after.last, **dict(after.stations)}
        for name, old in olds.items():
            new = news[name]
            if old is not None and old.sequence is not None:
                assert new is not None
                assert new.sequence is not None
                assert new.sequence >= old.sequence

    def lose(self) -> None:
        """The connection ends, with what was on its way; the position goes through the journal."""
        if not self.session.closed:
            self.take(self.session.receive(b"", self.now_ns))
        stored = Position.from_dict(self.position.as_dict())
        self.position = self.position if self.keep_failures else stored
        self.connect()

    keep_failures = True

    def drain(self) -> None:
        """Everything that is under way, over as many connections as it takes."""
        for _ in range(10 + 4 * len(self.poisoned)):  # two and more are lost before a packet is stepped over
            while self.wire and not self.session.closed:
                self.deliver(len(self.wire))
            if not self.session.closed:
                return
            self.lose()
        raise AssertionError(f"no end in sight: {self.position}, {self.ended}")

    @rule(size=st.integers(1, 40) | st.integers(1, 3000))
    def deliver(self, size: int) -> None:
        if self.wire and not self.session.closed:
            data = bytes(self.wire[:size])
            del self.wire[:size]
            self.take(self.session.receive(data, self.now_ns))

    @rule()
    def lose_connection(self) -> None:
        self.lose()

    @rule()
    def restart_client(self) -> None:
        """What is kept in a journal has no count of failures."""
        self.keep_failures = False
        self.lose()
        self.keep_failures = True

    @rule(seconds=st.integers(0, 100))
    def wait(self, seconds: int) -> None:
        """Keep-alives, and time-outs where the wire is not read."""
        self.now_ns += seconds * SECOND
        self.take(self.session.poll(self.now_ns))

    # The ring

    def push(self, sid: str, poison: str = "") -> Packet:
        self.sequence += 1
        self.second += 1
        packet = Packet(self.sequence, record(sid, self.second))
        if poison:
            self.poisoned[sid, packet.start_ns] = poison
        if self.server.streaming and not self.session.closed:
            self.wire += self.server.push(packet)
        else:
            self.ring.append(packet)
        return packet

    @rule(sid=st.sampled_from(WANTED + UNWANTED), count=st.integers(1, 4))
    def new_packets(self, sid: str, count: int) -> None:
        for _ in range(count):
            self.push(sid)

    @rule(sid=st.sampled_from(WANTED), kind=st.sampled_from(["garbage", "size"]))
    def poison(self, sid: str, kind: str) -> None:
        """One that does not say its number lies between two whole ones: else the client can step over nothing."""
        if kind == "size" and self.hello == PLAIN_V4:
            self.push(sid, kind)
            return
        self.push(sid)
        self.together |= {self.push(sid, kind).sequence, self.push(sid).sequence}

    @rule(lost=st.integers(1, 10))
    def overrun(self, lost: int) -> None:
        while lost < len(self.ring) and self.ring[lost].sequence in self.together:
            lost += 1
        del self.ring[:lost]

    def numbers_known(self) -> list[int]:
        marks = [self.position.last, *dict(self.position.stations).values()]
        return [mark.sequence for mark in marks if mark is not None and mark.sequence is not None]

    @precondition(lambda self: self.position.last and min(self.numbers_known(), default=0) > len(WANTED))
    @rule(kept=st.integers(0, 10))
    def reset(self, kept: int) -> None:
        """The server begins again with what it kept; each channel goes on before its numbers have come far."""
        kept = min(kept, len(self.ring), min(self.numbers_known()) - len(WANTED) - 1)
        while kept and self.ring[len(self.ring) - kept].sequence in self.together:
            kept -= 1
        held = self.ring[len(self.ring) - kept :]
        self.ring[:] = [Packet(number, packet.payload) for number, packet in enumerate(held, 1)]
        self.together = {
            new.sequence for old, new in zip(held, self.ring, strict=True) if old.sequence in self.together
        }
        self.sequence = kept
        self.begun_again = True
        self.lose()
        self.settle()

    @rule()
    def settle(self) -> None:
        """Once every channel goes on and all is read, nothing that the ring holds is missing."""
        self.drain()
        for sid in WANTED:
            self.push(sid)
        self.drain()
        missing = [
            packet.sequence
            for packet in self.ring
            if packet.sid in WANTED
            and (packet.sid, packet.start_ns) not in self.poisoned
            and not self.received[packet.sid, packet.start_ns]
        ]
        assert not missing, f"never came: {missing}; {self.position}"

    @invariant()
    def little_is_held(self) -> None:
        if hasattr(self, "session"):
            assert len(self.session._in) < 10_000

    def teardown(self) -> None:
        if hasattr(self, "session"):
            self.settle()


TestSessionMachine = SessionMachine.TestCase
TestSessionMachine.settings = settings(max_examples=30, stateful_step_count=30)


@pytest.mark.parametrize("hello", [PLAIN_V4, PLAIN_V3])
def test_a_broken_first_packet_keeps_nobody_from_what_comes_now(hello: str) -> None:
    """There is no number to step over it by: after some failures only new packets are asked for."""
    machine = SessionMachine()
    machine.begin(hello, selects=True)
    machine.push(WANTED[0], "garbage")
    machine.push(WANTED[0])
    machine.drain()
    fresh = machine.push(WANTED[0])
    machine.drain()
    assert machine.received[WANTED[0], fresh.start_ns] == 1
    machine.lose()
    machine.drain()
    assert machine.position.last is not None
    assert machine.position.last.sequence == fresh.sequence
