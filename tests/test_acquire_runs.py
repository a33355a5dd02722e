"""Packets by the run: whatever a server sends, compiled code finds in it what the session finds packet by packet."""

from __future__ import annotations

import struct
from collections.abc import Callable
from unittest.mock import patch

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seedlink_fakes import PLAIN_V3, PLAIN_V4, RINGSERVER, START_NS, FakeServer, record, summary, v3, v3_info, v4

from tscc_stream import packet_run
from tscc_stream.config import SeedLinkConfig
from tscc_stream.kernels import frames, records
from tscc_stream.messages import RecordBatch
from tscc_stream.miniseed import encode
from tscc_stream.packet_run import take_run
from tscc_stream.record_decoder import RecordDecoder
from tscc_stream.seedlink import tracker
from tscc_stream.seedlink.frames import PAYLOAD_LIMIT
from tscc_stream.seedlink.position import Mark, Position
from tscc_stream.stages import acquire
from tscc_stream.stages.acquire import Event, SeedLinkSession, SessionError

SECOND = 10**9
STATIONS = ("BW_UH1", "BW_UH2", "XX_S1", "ZZ_S1", "")
SIDS = ("FDSN:BW_UH1__S_H_Z", "FDSN:BW_UH1__S_H_N", "FDSN:BW_UH2_00_E_H_Z", "FDSN:XX_S1__E_H_Z", "FDSN:ZZ_S1__E_H_Z")
CONFIG = SeedLinkConfig(server="mine:18000", streams=("BW_*:?HZ", "XX_S1:EHZ"))


class PacketByPacket(SeedLinkSession):
    """Without the compiled code."""

    def _take_run(self, start: int, now_ns: int, events: list[Event]) -> int:
        return start


@st.composite
def payloads(draw: st.DrawFn) -> bytes:
    """Records of any kind, now and then damaged or cut short, and what is none."""
    sid, second = draw(st.sampled_from(SIDS)), draw(st.integers(0, 50))
    plain = record(sid, second)
    kind = draw(st.sampled_from(["plain"] * 12 + ["third", "long", "short", "cut", "more", "none", "damaged"]))
    if kind in ("long", "short"):
        values, length = np.arange(1500, dtype=np.int32) ** 2, 4096 if kind == "long" else 256
        return encode(sid, START_NS + second * SECOND, 50.0, values, record_length=length)[0]
    if kind == "damaged":
        at = draw(st.integers(0, 511))
        return plain[:at] + bytes([plain[at] ^ draw(st.integers(1, 255))]) + plain[at + 1 :]
    others = {
        "third": record(sid, second, version=3),
        "cut": plain[: draw(st.integers(0, 511))],
        "more": plain + bytes(draw(st.integers(1, 100))),
        "none": draw(st.binary(max_size=100)),
    }
    return others.get(kind, plain)


@st.composite
def packets(draw: st.DrawFn, protocol: int) -> bytes:
    """One packet, or something in place of one."""
    payload, station = draw(payloads()), draw(st.sampled_from(STATIONS))
    sequence = draw(st.integers(0, 30) | st.sampled_from([(1 << 24) - 1, (1 << 64) - 1]))
    kind = draw(st.sampled_from(["plain"] * 40 + ["third", "word", "info", "other", "odd", "size"]))
    if kind == "word":
        return draw(st.sampled_from([b"END", b"ERROR AUTH no\r\n", b"junk", b"SE", b"SL00000G"]))
    if protocol == 3:
        others = {
            "info": v3_info("<seedlink/>"),
            "other": b"SL%06x" % (sequence % (1 << 24)) + payload,
            "odd": b"SL00" + draw(st.sampled_from([b"0G", b"0x", b" 1", b":0"])) + b"00" + payload,
        }
        return others.get(kind, v3(sequence, payload))
    code = draw(st.sampled_from(["2D", "3D", "4D", "JD"]))
    others = {
        "third": v4(sequence, payload, station, "3D"),
        "info": v4(sequence, b"{}", "", "JI"),
        "other": v4(sequence, payload, station, "2X"),
        "odd": v4(sequence, payload, draw(st.text(max_size=20)), code),
        "size": b"SE2D" + struct.pack("<IQB", PAYLOAD_LIMIT + 1, sequence, 0),
    }
    return others.get(kind, v4(sequence, payload, station))


@st.composite
def positions(draw: st.DrawFn, protocol: int) -> Position:
    marks = {
        name: Mark(draw(st.none() | st.integers(0, 40)), START_NS)
        for name in draw(st.lists(st.sampled_from(STATIONS[:4]), unique=True))
    }
    if not marks and draw(st.booleans()):
        return Position()
    times = tuple((name, START_NS) for name in marks)
    return Position(protocol, Mark(draw(st.integers(0, 40)), START_NS), tuple(marks.items()), START_NS, times=times)


def streaming(kind: Callable[..., SeedLinkSession], hello: str, position: Position) -> SeedLinkSession:
    session, server = kind(CONFIG, position, 0), FakeServer(hello=hello)
    while answer := server.feed(session.to_send()):
        session.receive(answer, 0)
    assert session.streaming
    return session


@pytest.mark.no_cover
@settings(max_examples=400, deadline=None)
@given(
    st.data(),
    st.sampled_from([PLAIN_V4, PLAIN_V3, RINGSERVER]),
    st.sampled_from([None, START_NS + 20 * SECOND]),
    st.sampled_from([2, 10_000]),
    st.sampled_from([2, 1000]),
)
def test_by_the_run_or_packet_by_packet_it_is_the_same(
    data: st.DataObject, hello: str, clock_ns: int | None, stations: int, run: int
) -> None:
    protocol = 3 if hello == PLAIN_V3 else 4
    position = data.draw(positions(protocol))
    stream = b"".join(data.draw(st.lists(packets(protocol), min_size=1, max_size=30)))
    cuts = data.draw(st.lists(st.integers(1, 700) | st.just(1 << 20), min_size=1, max_size=40))
    with patch.object(tracker, "MOST_STATIONS", stations), patch.object(packet_run, "MOST_PACKETS", run):
        fast, plain = (streaming(kind, hello, position) for kind in (SeedLinkSession, PacketByPacket))
        at = 0
        for cut in [*cuts, len(stream)]:
            piece = stream[at : at + cut]
            at += cut
            if piece:
                got, expected = (one.receive(piece, 7, clock_ns) for one in (fast, plain))
                assert summary(got) == summary(expected)
            assert (fast.position, fast.unwanted, fast.closed) == (plain.position, plain.unwanted, plain.closed)
            assert fast.closed or fast._in == plain._in


def test_runs_are_what_is_used_and_have_an_end(monkeypatch: pytest.MonkeyPatch) -> None:
    """Of 1,000 packets or 1 MiB, however much is there."""
    session = streaming(SeedLinkSession, PLAIN_V4, Position())
    monkeypatch.setattr(acquire, "take_frame", lambda *_: None)
    small = b"".join(v4(1 + i, record(second=i)) for i in range(1500))
    assert [len(batch) for batch in session.receive(small, 0)] == [1000, 500]
    (large,) = encode(SIDS[0], START_NS, 50.0, np.arange(100, dtype=np.int32), record_length=1 << 17, encoding="int32")
    many = b"".join(v4(1 + i, large) for i in range(20))
    assert [len(batch) for batch in session.receive(many, 0)] == [8, 8, 4]
    assert not session._in


def test_a_run_ends_at_the_packet_that_is_not_whole_yet() -> None:
    for protocol, frame in ((4, v4), (3, v3)):
        stream = bytearray(frame(5, record()) + frame(6, record(second=1)))
        for missing in (1, 400, 520):
            run = take_run(stream[:-missing], 0, protocol)
            assert (run.sequences, run.lengths) == ([5], [512])
            assert run.end == len(stream) // 2


@pytest.mark.parametrize(
    "head", [b"SL00000G", b"SL00:000", b"SL@00000", b"SL0 0000", b"SLINFO  ", b"SE000000", b"MS000000"]
)
def test_what_is_no_ordinary_head_in_version_3_ends_a_run(head: bytes) -> None:
    assert take_run(bytearray(head + record()), 0, 3).sequences == []
    assert take_run(bytearray(b"SL00aF0C" + record()), 0, 3).sequences == [0xAF0C]


def test_after_the_warm_up_nothing_is_left_to_compile() -> None:
    acquire.warm_up()
    loops = (frames.run_v4, frames.run_v3, records.read_starts, records.unpack)
    before = [len(loop.signatures) for loop in loops]
    assert all(before)
    for hello, packet in ((PLAIN_V4, v4), (PLAIN_V3, v3)):
        session = streaming(SeedLinkSession, hello, Position())
        stream = b"".join(packet(1 + i, record(SIDS[i % 3], i)) for i in range(20))
        session.receive(stream + packet(30, b"x" * 512) + packet(31, record()) + stream, 0)
    assert [len(loop.signatures) for loop in loops] == before


def test_what_a_decoder_has_learnt_outlives_the_session() -> None:
    decoder = RecordDecoder()
    batches = []
    for _ in range(2):
        session = streaming(lambda *values: SeedLinkSession(*values, decoder=decoder), PLAIN_V4, Position())
        batches += session.receive(v4(1, record()), 0)
    one, other = batches
    assert isinstance(one, RecordBatch)
    assert one.sids is other.sids


def test_nothing_comes_after_a_server_that_numbers_anew() -> None:
    position = Position(4, Mark(40, START_NS), (("BW_UH1", Mark(40, START_NS)),), START_NS)
    session = streaming(SeedLinkSession, PLAIN_V4, position)
    stream = b"".join(v4(41 + i, record(SIDS[2], i), "BW_UH2") for i in range(3))
    stream += v4(2, record(SIDS[1]), "BW_UH1") + v4(44, record(SIDS[2], 4), "BW_UH2")
    batch, end = session.receive(stream, 0)
    assert isinstance(batch, RecordBatch)
    assert isinstance(end, SessionError)
    assert (len(batch), end.reason, session.unwanted) == (3, "reset", 0)


def test_nor_after_a_record_that_cannot_be_read() -> None:
    position = Position(4, Mark(40, START_NS), (("BW_UH1", Mark(40, START_NS)),), START_NS)
    session = streaming(SeedLinkSession, PLAIN_V4, position)
    end, *more = session.receive(v4(2, b"x" * 512, "BW_UH1") + v4(3, b"x" * 512, "BW_UH1"), 0)
    assert isinstance(end, SessionError)
    assert (end.reason, more) == ("reset", [])
