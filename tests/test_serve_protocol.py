"""The server's session, ring and pacing without a socket."""

from __future__ import annotations

import itertools
import json
import re
import struct
from pathlib import Path
from typing import NamedTuple
from xml.etree import ElementTree as ET

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from made_archive import T0, Made, channel, joined, mixed, write

from tscc_stream import miniseed
from tscc_stream.edges import archive
from tscc_stream.serve.info import Identity
from tscc_stream.serve.protocol import MAX_LINE, MAX_WAITING, Session
from tscc_stream.serve.replay import Replay, ReplayOptions
from tscc_stream.serve.ring import Ring
from tscc_stream.serve.selection import Request

SECOND = 1_000_000_000
MADE = mixed()
PLAIN = [
    channel("FDSN:XX_AAA__H_H_Z", seed=1),
    channel("FDSN:XX_AAA_00_H_H_N", seed=2),
    channel("FDSN:XX_BBB__E_H_Z", seed=3),
    channel("FDSN:YY_AAA__H_H_Z", seed=4, start_ns=T0 + 10 * SECOND),
]


class Frame(NamedTuple):
    number: int
    station: str
    kind: str
    payload: bytes


def ring_of(made: list[Made], capacity: int = 1 << 30, first_number: int = 1) -> Ring:
    ring = Ring(capacity, first_number)
    records = [miniseed.decode(raw) for one in made for raw in one.records]
    raws = [raw for one in made for raw in one.records]
    timed = []
    for raw, record in zip(raws, records, strict=True):
        end = record.start_ns + round((len(record.samples) - 1) * 1e9 / record.sample_rate_hz)
        timed.append((end, record.start_ns, record.sid, raw))
    for end, start, sid, raw in sorted(timed, key=lambda item: item[0]):
        ring.append(sid, start, end, raw)
    return ring


def session(ring: Ring, **options: object) -> Session:
    return Session(ring, Identity("the mine", T0), **options)


def drained(one: Session, limit: int = 5000) -> bytes:
    out = b""
    while one.behind or one.phase == "data":
        part = one.send(limit)
        out += part
        if not part and not one.behind:
            break
    return out


def told(one: Session, *commands: str) -> bytes:
    one.receive(b"".join(command.encode() + b"\r\n" for command in commands))
    return drained(one)


def frames_v4(data: bytes) -> list[Frame]:
    """SeedLink v4.0, "Data Transfer", read off the specification."""
    found = []
    while data[:2] == b"SE":
        kind = data[2:4].decode()
        length, number, name = struct.unpack_from("<IQB", data, 4)
        found.append(Frame(number, data[17 : 17 + name].decode(), kind, data[17 + name : 17 + name + length]))
        assert len(found[-1].payload) == length
        data = data[17 + name + length :]
    assert data in (b"", b"END"), data[:40]
    return found


def frames_v3(data: bytes) -> list[Frame]:
    found = []
    while data[:2] == b"SL":
        assert len(data) >= 520
        found.append(Frame(int(data[2:8], 16), "", "", data[8:520]))
        data = data[520:]
    assert data in (b"", b"END"), data[:40]
    return found


def streamed(one: Session, *commands: str) -> bytes:
    """What comes after the OKs of these commands."""
    out = told(one, *commands)
    return re.sub(rb"\A(OK\r\n)*", b"", out)


def assert_carries(frames: list[Frame], made: list[Made]) -> None:
    parts: dict[str, list] = {}
    for frame in frames:
        record = miniseed.decode(frame.payload)
        parts.setdefault(record.sid, []).append((record.start_ns, record.samples))
    assert sorted(parts) == sorted(one.sid for one in made)
    for one in made:
        start, samples = joined(parts[one.sid], one.rate)
        assert start == one.start_ns
        assert samples.dtype == one.samples.dtype
        assert np.array_equal(samples, one.samples)


def sids(frames: list[Frame]) -> set[str]:
    return {miniseed.decode(frame.payload).sid.removeprefix("FDSN:") for frame in frames}


# ---- handshake


def test_hello_has_the_specified_first_line() -> None:
    first, second, rest = told(session(Ring(1)), "hello").split(b"\r\n")
    assert re.fullmatch(rb"SeedLink v4\.0 \(tscc-stream/\S+\) :: .*SLPROTO:4\.0 SLPROTO:3\.1.*", first)
    assert (second, rest) == (b"the mine", b"")


@pytest.mark.parametrize("terminator", [b"\r\n", b"\r", b"\n", b"\r\n\r\n\n"])
def test_every_terminator_and_empty_lines(terminator: bytes) -> None:
    one = session(Ring(1))
    one.receive(terminator + b"SLPROTO 4.0" + terminator + b"  useragent\tx/1  " + terminator)
    assert drained(one) == b"OK\r\nOK\r\n"


ERRORS_V4 = [
    ("SLPROTO 5.0", "UNSUPPORTED"),
    ("SLPROTO 4", "UNSUPPORTED"),
    ("SLPROTO", "ARGUMENTS"),
    ("NONSENSE", "UNSUPPORTED"),
    ("GET / HTTP/1.1", "UNSUPPORTED"),
    ("AUTH USERPASS somebody secret", "UNSUPPORTED"),
    ("FETCH 1", "UNSUPPORTED"),
    ("TIME 2010-01-01T00:00:00Z", "UNSUPPORTED"),
    ("CAT", "UNSUPPORTED"),
    ("BATCH", "UNSUPPORTED"),
    ("SELECT *", "UNEXPECTED"),
    ("DATA", "UNEXPECTED"),
    ("END", "UNEXPECTED"),
    ("STATION", "ARGUMENTS"),
    ("STATION XX AAA", "ARGUMENTS"),
    ("STATION XX_[A]", "ARGUMENTS"),
]


@pytest.mark.parametrize(("command", "code"), ERRORS_V4)
def test_error_codes_of_version_4(command: str, code: str) -> None:
    out = told(session(Ring(1)), "SLPROTO 4.0", command)
    assert re.fullmatch(rb"OK\r\nERROR %s [^\r\n]+\r\n" % code.encode(), out)


@pytest.mark.parametrize(
    "command",
    ["SELECT", "SELECT *:3", "SELECT !*:native", "SELECT a$b", "DATA x", "DATA -1", "DATA 1 noon", "DATA 1 2 3 4",
     "DATA ALL 2010-13-01T00:00:00Z", "SELECT *_H_H_? b:c"],
)  # fmt: skip
def test_bad_arguments_after_station(command: str) -> None:
    out = told(session(Ring(1)), "SLPROTO 4.0", "STATION XX_AAA", command)
    assert re.fullmatch(rb"OK\r\nOK\r\nERROR ARGUMENTS [^\r\n]+\r\n", out)


def test_a_refused_select_selects_nothing_of_its_line() -> None:
    one = session(ring_of(PLAIN))
    out = told(one, "SLPROTO 4.0", "STATION XX_*", "SELECT *_H_H_Z b:c", "SELECT *_E_H_Z", "DATA ALL", "END")
    _, _, frames = out.partition(b"\r\nOK\r\nOK\r\n")
    assert sids(frames_v4(frames)) == {"XX_BBB__E_H_Z"}


def test_after_a_refused_station_its_select_and_data_are_refused() -> None:
    out = told(session(Ring(1)), "SLPROTO 4.0", "STATION XX_AAA", "STATION $", "SELECT *", "DATA")
    assert [line.split()[:2] for line in out.split(b"\r\n")[2:5]] == [
        [b"ERROR", b"ARGUMENTS"],
        [b"ERROR", b"UNEXPECTED"],
        [b"ERROR", b"UNEXPECTED"],
    ]


def test_slproto_comes_before_station() -> None:
    out = told(session(Ring(1)), "STATION AAA XX", "SLPROTO 4.0")
    assert out == b"OK\r\nERROR\r\n"


def test_version_3_errors_are_bare_until_extended_replies_are_asked_for() -> None:
    one = session(Ring(1))
    assert told(one, "NONSENSE") == b"ERROR\r\n"
    assert told(one, "CAPABILITIES EXTREPLY", "DATA xyz") == (
        b"OK\r\nERROR\rARGUMENTS expected a hexadecimal sequence number\r\n"
    )


def test_batch_leaves_out_the_answers() -> None:
    one = session(ring_of(PLAIN))
    assert told(one, "BATCH", "STATION AAA XX", "SELECT HHZ", "SELECT nonsense", "DATA 1") == b"OK\r\n"
    assert sids(frames_v3(told(one, "END"))) == {"XX_AAA__H_H_Z"}


def test_cat_ends_with_end() -> None:
    out = told(session(ring_of(PLAIN)), "CAT")
    assert [line.split() for line in out.split(b"\r\n")] == [
        [b"XX", b"AAA"],
        [b"XX", b"BBB"],
        [b"YY", b"AAA"],
        [b"END"],
    ]


def test_bye_ends_the_session_at_any_time() -> None:
    for commands in (["BYE"], ["SLPROTO 4.0", "STATION *", "DATA", "END", "BYE"]):
        one = session(ring_of(PLAIN))
        told(one, *commands)
        assert one.phase == "closing"


def test_a_line_without_end_is_cut_off() -> None:
    one = session(Ring(1))
    one.receive(b"X" * (MAX_LINE + 1))
    assert one.phase == "closing"
    assert drained(one) == b"ERROR\r\n"


def test_too_many_selectors_and_stations_hit_a_limit() -> None:
    one = session(Ring(1))
    out = told(one, "SLPROTO 4.0", "STATION *", *(["SELECT " + " ".join(["a_b_c_d"] * 20)] * 11))
    assert out.endswith(b"OK\r\nERROR LIMIT more than 200 selectors for one station\r\n")
    out = told(one, *(f"STATION N{number}_*" for number in range(200)))
    assert out.count(b"ERROR LIMIT") == 1


# ---- any split, any rubbish


SCRIPT_V4 = b"HELLO\r\nSLPROTO 4.0\r\nFOO\nSTATION XX_*\rSELECT *_H_H_?\rDATA ALL\r\nSTATION YY_*\r\nDATA 3\r\nEND\r\n"
SCRIPT_V3 = b"HELLO\rBATCH\r\nSTATION AAA XX\rSELECT HHZ\r\nTIME 2010,01,01,00,00,00\rINFO ID\r\nEND\r\n"
RING = ring_of(PLAIN)
MIXED_RING = ring_of(MADE)


@settings(max_examples=60, deadline=None)
@given(script=st.sampled_from([SCRIPT_V3, SCRIPT_V4]), cuts=st.lists(st.integers(0, 130)), limit=st.integers(1, 10_000))
def test_any_split_of_the_commands_and_any_reading_speed_give_the_same_bytes(script, cuts, limit) -> None:
    whole = session(RING)
    whole.receive(script)
    expected = drained(whole)
    split = session(RING)
    out = b""
    places = sorted({0, len(script), *(cut for cut in cuts if cut < len(script))})
    for begin, end in itertools.pairwise(places):
        split.receive(script[begin:end])
        out += split.send(limit)
    assert out + drained(split, limit) == expected
    assert len(expected) > 10_000


WORDS = st.sampled_from(
    [b"HELLO", b"SLPROTO", b"4.0", b"3.1", b"STATION", b"XX_AAA", b"*", b"?" * 30, b"SELECT", b"!*", b"DATA", b"ALL",
     b"0x1F", b"-1", b"99999999999999999999", b"2010-01-01T00:00:00Z", b"2010,1,1,25", b"END", b"ENDFETCH", b"INFO",
     b"STREAMS", b"STATIONS", b"CONNECTIONS", b"ID", b"FETCH", b"TIME", b"BATCH", b"CAPABILITIES", b"EXTREPLY", b"CAT",
     b"\r\n", b"\r", b"\n", b" ", b"\0", b"\xff\xfe", b"AUTH", b"1,2,3,4,5,6", b"2010-99-99T99:99:99.999999999Z"]
)  # fmt: skip


@settings(max_examples=200, deadline=None)
@given(pieces=st.lists(st.one_of(WORDS, st.binary(max_size=60), st.just(b"\r\n"), st.just(b" ")), max_size=80))
def test_rubbish_never_raises_and_never_piles_up(pieces: list[bytes]) -> None:
    one = session(MIXED_RING)
    sent = 0
    for piece in pieces:
        if one.wants_input:
            one.receive(piece)
        sent += len(one.send(4096))
        assert len(one._waiting) <= MAX_WAITING + 8192
        assert len(one._input) <= MAX_LINE + 4096
    assert sent < 1_000_000


def test_a_client_that_asks_without_reading_is_not_listened_to() -> None:
    one = session(MIXED_RING)
    asked = 0
    while one.wants_input:
        one.receive(b"INFO STREAMS\r\n")
        asked += 1
        assert asked < 10_000
    assert len(one._waiting) < MAX_WAITING + 10_000
    one.receive(b"HELLO\r\n")
    out = drained(one)
    assert out.count(b"SLINFO  ") == asked
    assert out.endswith(b"the mine\r\n")


# ---- data


def test_version_4_sends_the_original_records() -> None:
    frames = frames_v4(streamed(session(MIXED_RING), "SLPROTO 4.0", "STATION *", "DATA ALL", "END"))
    assert_carries(frames, MADE)
    originals = {raw for one in MADE for raw in one.records}
    assert {frame.payload for frame in frames} == originals
    assert {frame.kind for frame in frames} == {"2D", "3D"}
    for frame in frames:
        record = miniseed.decode(frame.payload)
        assert record.sid.startswith(f"FDSN:{frame.station}_")
        assert frame.kind[0] == ("3" if frame.payload[:2] == b"MS" else "2")
    assert [frame.number for frame in frames] == sorted({frame.number for frame in frames})


def test_version_3_gets_512_byte_records_of_everything() -> None:
    out = streamed(session(MIXED_RING), "STATION * *", "DATA 1", "END")
    frames = frames_v3(out)
    assert_carries(frames, MADE)
    assert [frame.number for frame in frames] == sorted({frame.number for frame in frames})
    same = {raw for one in MADE for raw in one.records if len(raw) == 512 and raw[:2] != b"MS"}
    assert same <= {frame.payload for frame in frames}


def test_codes_too_long_for_version_3_are_left_out_there_and_counted() -> None:
    long = channel("FDSN:LONGNET_LONGSTATION__H_H_Z", version=3, seconds=10)
    ring = ring_of([long, PLAIN[0]])
    one = session(ring)
    assert sids(frames_v3(streamed(one, "STATION * *", "DATA 1", "END"))) == {"XX_AAA__H_H_Z"}
    assert one.unsendable == len(long.records)
    assert_carries(frames_v4(streamed(session(ring), "SLPROTO 4.0", "STATION *", "DATA ALL", "END")), [long, PLAIN[0]])


@pytest.mark.parametrize(
    ("selects", "expected"),
    [
        ([], {"XX_AAA__H_H_Z", "XX_AAA_00_H_H_N", "XX_BBB__E_H_Z"}),
        (["SELECT *_H_H_?"], {"XX_AAA__H_H_Z", "XX_AAA_00_H_H_N"}),
        (["SELECT _H_H_Z"], {"XX_AAA__H_H_Z"}),
        (["SELECT --_H_H_Z"], {"XX_AAA__H_H_Z"}),
        (["SELECT 00_*"], {"XX_AAA_00_H_H_N"}),
        (["SELECT !*_H_H_Z"], {"XX_AAA_00_H_H_N", "XX_BBB__E_H_Z"}),
        (["SELECT *_Z !_E*"], {"XX_AAA__H_H_Z"}),
        (["SELECT *_Z", "SELECT !_E*"], {"XX_AAA__H_H_Z"}),
        (["SELECT *.2D:native"], {"XX_AAA__H_H_Z", "XX_AAA_00_H_H_N", "XX_BBB__E_H_Z"}),
        (["SELECT *.3D"], set()),
        (["SELECT *.?E"], set()),
        (["SELECT * !*.*D"], set()),
    ],
)
def test_select_of_version_4(selects: list[str], expected: set[str]) -> None:
    out = streamed(session(RING), "SLPROTO 4.0", "STATION XX_*", *selects, "DATA ALL", "END")
    assert sids(frames_v4(out)) == expected


@pytest.mark.parametrize(
    ("selects", "expected"),
    [
        (["SELECT HHZ"], {"XX_AAA__H_H_Z"}),
        (["SELECT ?H?"], {"XX_AAA__H_H_Z", "XX_AAA_00_H_H_N", "XX_BBB__E_H_Z"}),
        (["SELECT 00HHN.D"], {"XX_AAA_00_H_H_N"}),
        (["SELECT 00"], {"XX_AAA_00_H_H_N"}),
        (["SELECT --EHZ"], {"XX_BBB__E_H_Z"}),
        (["SELECT D"], {"XX_AAA__H_H_Z", "XX_AAA_00_H_H_N", "XX_BBB__E_H_Z"}),
        (["SELECT HHZ.E"], set()),
        (["SELECT !HHZ"], {"XX_AAA_00_H_H_N", "XX_BBB__E_H_Z"}),
        (["SELECT !HHZ.L"], {"XX_AAA__H_H_Z", "XX_AAA_00_H_H_N", "XX_BBB__E_H_Z"}),
        (["SELECT HHZ", "SELECT"], {"XX_AAA__H_H_Z", "XX_AAA_00_H_H_N", "XX_BBB__E_H_Z"}),
    ],
)
def test_select_of_version_3(selects: list[str], expected: set[str]) -> None:
    assert sids(frames_v3(streamed(session(RING), "STATION * XX", *selects, "DATA 1", "END"))) == expected


def test_a_station_belongs_to_the_first_request_that_matches_it() -> None:
    commands = ["STATION XX_AAA", "SELECT 00_*", "DATA ALL", "STATION *_AAA", "DATA ALL", "END"]
    assert sids(frames_v4(streamed(session(RING), "SLPROTO 4.0", *commands))) == {"XX_AAA_00_H_H_N", "YY_AAA__H_H_Z"}
    commands = ["STATION *_AAA", "SELECT *_N", "DATA ALL", "STATION XX_AAA", "DATA ALL", "END"]
    assert sids(frames_v4(streamed(session(RING), "SLPROTO 4.0", *commands))) == {"XX_AAA_00_H_H_N"}


def test_sequence_numbers_count_per_station() -> None:
    frames = frames_v4(
        streamed(session(RING), "SLPROTO 4.0", "STATION XX_*", "DATA 9", "STATION YY_*", "DATA 20", "END")
    )
    assert min(frame.number for frame in frames if frame.station.startswith("XX")) >= 9
    assert min(frame.number for frame in frames if frame.station.startswith("YY")) >= 20
    everything = frames_v4(streamed(session(RING), "SLPROTO 4.0", "STATION *", "DATA ALL", "END"))
    assert [frame for frame in everything if frame.number >= (20 if frame.station[0] == "Y" else 9)] == frames


def test_uni_station_mode_of_version_3_starts_unanswered() -> None:
    out = told(session(RING), "SELECT HHZ", "DATA 1")
    assert out.startswith(b"OK\r\nSL0000")
    assert sids(frames_v3(out[4:])) == {"XX_AAA__H_H_Z", "YY_AAA__H_H_Z"}


def test_without_a_number_only_what_comes_from_now_on() -> None:
    ring = ring_of(PLAIN)
    for commands in (["SLPROTO 4.0", "STATION *", "DATA", "END"], ["STATION * *", "DATA", "END"], ["DATA"]):
        one = session(ring)
        assert streamed(one, *commands) == b""
        packet = ring.append("FDSN:XX_NEW__H_H_Z", T0, T0 + SECOND, PLAIN[0].records[0])
        assert packet.payload in drained(one)
    oldest = session(ring, from_oldest=True)
    assert len(frames_v3(streamed(oldest, "DATA"))) == len(ring)


@given(
    cut=st.integers(1, 200),
    version=st.sampled_from([3, 4]),
    with_time=st.booleans(),
    prefix=st.sampled_from(["", "0x"]),
)
@settings(max_examples=60, deadline=None)
def test_resuming_after_any_packet_gives_exactly_the_rest(cut: int, version: int, with_time: bool, prefix: str) -> None:
    opening = ["SLPROTO 4.0", "STATION *"] if version == 4 else ["STATION * *"]
    parse = frames_v4 if version == 4 else frames_v3
    everything = parse(streamed(session(MIXED_RING), *opening, "DATA 1", "END"))
    cut = min(cut, len(everything))
    last = everything[cut - 1]
    start = np.datetime64(miniseed.decode(last.payload).start_ns, "ns").astype("datetime64[us]").item()
    if version == 4:
        command = f"DATA {last.number + 1}" + (start.strftime(" %Y-%m-%dT%H:%M:%S.%fZ") if with_time else "")
    else:
        command = f"DATA {prefix}{last.number + 1:X}" + (start.strftime(" %Y,%m,%d,%H,%M,%S") if with_time else "")
    assert parse(streamed(session(MIXED_RING), *opening, command, "END")) == everything[cut:]


def test_a_reset_ring_is_noticed_by_the_time_and_nothing_is_lost() -> None:
    """The number exists, but its packet starts at another second than the client says: everything after that time."""
    moment = "2010-01-01T00:00:08.5Z"
    frames = frames_v4(streamed(session(RING), "SLPROTO 4.0", "STATION *", f"DATA 40 {moment}", "END"))
    ends = [miniseed.decode(f.payload).start_ns + (len(miniseed.decode(f.payload).samples) - 1) * 10**7 for f in frames]
    threshold = 1_262_304_008_500_000_000
    assert all(end > threshold for end in ends)
    expected = sum(packet_end > threshold for packet_end in _ends(RING))
    assert len(frames) == expected


def test_late_packets_of_old_data_are_not_lost_by_resuming_with_a_time() -> None:
    ring = ring_of(PLAIN)
    last = ring.next - 1
    newest = ring.at_or_after(last)
    assert newest is not None
    stated = np.datetime64(newest.start_ns, "ns").astype("datetime64[us]").item().strftime("%Y-%m-%dT%H:%M:%S.%fZ")
    late = ring.append(PLAIN[1].sid, T0, T0 + SECOND, PLAIN[1].records[0])
    (frame,) = frames_v4(streamed(session(ring), "SLPROTO 4.0", "STATION *", f"DATA {last + 1} {stated}", "END"))
    assert (frame.number, frame.payload) == (late.first, late.payload)


def test_the_limits_of_a_window_are_open() -> None:
    """packet.end_time > start_time and packet.start_time < end_time (SeedLink v4.0, command DATA)."""
    window = Request("*", after_ns=100, until_ns=200)
    cases = {(0, 100): False, (0, 101): True, (199, 300): True, (200, 300): False, (150, 160): True}
    assert {times: window.overlaps(*times) for times in cases} == cases


def _ends(ring: Ring) -> list[int]:
    found, number = [], ring.oldest
    while (packet := ring.at_or_after(number)) is not None:
        found.append(packet.end_ns)
        number = packet.after
    return found


@pytest.mark.parametrize("version", [3, 4])
def test_a_number_of_the_future(version: int) -> None:
    opening = ["SLPROTO 4.0", "STATION *"] if version == 4 else ["STATION * *"]
    parse = frames_v4 if version == 4 else frames_v3
    assert parse(streamed(session(RING), *opening, "DATA 99999", "END")) == []
    moment = "2010-01-01T00:00:20Z" if version == 4 else "2010,01,01,00,00,20"
    frames = parse(streamed(session(RING), *opening, f"DATA 99999 {moment}", "END"))
    assert len(frames) == sum(end > 1_262_304_020_000_000_000 for end in _ends(RING))


def test_a_number_older_than_the_ring_gets_all_that_is_left() -> None:
    ring = ring_of(PLAIN, capacity=20 * 512)
    assert (len(ring), ring.oldest > 2) == (20, True)
    for command in ("DATA 2", "DATA 2 2010-01-01T00:00:00Z", "DATA ALL"):
        assert len(frames_v4(streamed(session(ring), "SLPROTO 4.0", "STATION *", command, "END"))) == 20


def test_version_3_numbers_wrap_at_24_bits() -> None:
    ring = ring_of(PLAIN, first_number=(1 << 24) - 20)
    frames = frames_v3(streamed(session(ring), "STATION * *", "DATA FFFFEC", "END"))
    assert len(frames) == len(ring)
    numbers = [frame.number for frame in frames]
    assert numbers[:21] == [*range((1 << 24) - 20, 1 << 24), 0]
    for cut in (5, 20, 21, 40):
        rest = frames_v3(streamed(session(ring), "STATION * *", f"DATA {(numbers[cut - 1] + 1) & 0xFFFFFF:06X}", "END"))
        assert rest == frames[cut:]


@pytest.mark.parametrize(
    ("commands", "parse"),
    [
        (["SLPROTO 4.0", "STATION *", "DATA ALL 2010-01-01T00:00:12Z 2010-01-01T00:00:15Z", "END"], frames_v4),
        (["SLPROTO 4.0", "STATION *", "DATA 1 2010-01-01T00:00:12Z 2010-01-01T00:00:15Z", "END"], frames_v4),
        (["STATION * *", "TIME 2010,01,01,00,00,12 2010,01,01,00,00,15", "END"], frames_v3),
        (["TIME 2010,01,01,00,00,12 2010,01,01,00,00,15"], frames_v3),
    ],
)
def test_a_window_has_what_overlaps_it_and_ends(commands, parse) -> None:
    one = session(RING)
    out = streamed(one, *commands)
    assert out.endswith(b"END")
    assert one.phase == "closing"
    begin, end = 1_262_304_012_000_000_000, 1_262_304_015_000_000_000
    for frame in parse(out):
        record = miniseed.decode(frame.payload)
        assert record.start_ns < end
        assert record.start_ns + len(record.samples) * 10**7 > begin
    assert sids(parse(out)) == {one.sid.removeprefix("FDSN:") for one in PLAIN}


def test_a_window_into_the_future_waits_until_all_streams_have_passed_it() -> None:
    ring = ring_of(PLAIN[:2])
    one = session(ring)
    streamed(one, "SLPROTO 4.0", "STATION *", "DATA ALL 2010-01-01T00:00:00Z 2010-01-01T00:01:00Z", "END")
    assert one.phase == "data"
    ring.append(PLAIN[0].sid, T0 + 70 * SECOND, T0 + 71 * SECOND, PLAIN[0].records[0])
    assert (drained(one), one.phase) == (b"", "data")
    ring.append(PLAIN[1].sid, T0 + 70 * SECOND, T0 + 71 * SECOND, PLAIN[1].records[0])
    assert drained(one) == b"END"


@pytest.mark.parametrize(
    "commands", [["SLPROTO 4.0", "STATION *", "DATA ALL", "ENDFETCH"], ["STATION * *", "FETCH 1", "END"]]
)
def test_dial_up_mode_ends_with_what_there_is(commands: list[str]) -> None:
    one = session(RING)
    out = streamed(one, *commands)
    parse = frames_v4 if "ENDFETCH" in commands else frames_v3
    assert len(parse(out)) == len(RING)
    assert out.endswith(b"END")
    assert not one.wants_input


def test_the_end_of_the_replay_ends_the_client_where_wanted() -> None:
    for wanted in (True, False):
        ring = ring_of(PLAIN)
        one = session(ring, end_when_complete=wanted)
        assert not streamed(one, "STATION * *", "DATA 1", "END").endswith(b"END")
        assert not one.has_all
        ring.complete = True
        assert drained(one) == (b"END" if wanted else b"")
        assert one.has_all


def test_a_reader_that_the_ring_overtakes_goes_on_at_its_oldest_packet() -> None:
    ring = Ring(10 * 512)
    one = session(ring)
    told(one, "SLPROTO 4.0", "STATION *", "DATA", "END")
    for second in range(25):
        ring.append(PLAIN[0].sid, T0 + second * SECOND, T0 + second * SECOND, PLAIN[0].records[0])
    assert [frame.number for frame in frames_v4(drained(one))] == list(range(16, 26))
    assert one.lost == 15


def test_while_data_flow_only_info_and_bye_are_heard() -> None:
    one = session(RING)
    told(one, "SLPROTO 4.0", "STATION *", "DATA", "END")
    assert told(one, "STATION YY_A", "HELLO", "NONSENSE") == b""
    (answer,) = frames_v4(told(one, "INFO ID"))
    assert (answer.kind, answer.number, answer.station) == ("JI", 0, "")


# ---- INFO


def info_v4(ring: Ring, arguments: str) -> tuple[str, dict]:
    (frame,) = frames_v4(streamed(session(ring, peer="1.2.3.4:5"), "SLPROTO 4.0", f"INFO {arguments}"))
    document = json.loads(frame.payload)
    assert document["software"].startswith("SeedLink v4.0 (tscc-stream/")
    assert document["organization"] == "the mine"
    return frame.kind, document


def test_info_streams_of_version_4_has_the_required_keys() -> None:
    kind, document = info_v4(MIXED_RING, "STREAMS")
    assert kind == "JI"
    assert set(document["format"]) == {"2", "3", "J"}
    stations = {entry["id"]: entry for entry in document["station"]}
    assert set(stations) == {"XX_AAA", "XX_BBB", "XX_CCC", "YY_AAA", "YY_BBB"}
    assert stations["XX_AAA"]["end_seq"] == MIXED_RING.next
    (stream,) = stations["XX_CCC"]["stream"]
    assert stream == {
        "id": "_E_H_Z",
        "format": "3",
        "subformat": "D",
        "origin": "native",
        "start_time": "2010-01-01T00:00:00.123456Z",
        "end_time": "2010-01-01T00:00:30.103456Z",
    }


def test_info_patterns_of_version_4() -> None:
    _, document = info_v4(MIXED_RING, "STREAMS XX_* *_H_H_?")
    assert [entry["id"] for entry in document["station"]] == ["XX_AAA", "XX_BBB"]
    assert "stream" not in info_v4(MIXED_RING, "STATIONS YY_*")[1]["station"][0]
    assert "SEQWILDCARD" in info_v4(MIXED_RING, "CAPABILITIES")[1]["capability"]


@pytest.mark.parametrize("arguments", ["", "NONSENSE", "STREAMS a b c", "STREAMS $"])
def test_info_errors_of_version_4(arguments: str) -> None:
    kind, document = info_v4(MIXED_RING, arguments)
    assert (kind, document["error"]["code"]) == ("JE", "ARGUMENTS")


def info_v3(ring: Ring, item: str) -> tuple[str, ET.Element]:
    out = told(session(ring), f"INFO {item}")
    assert len(out) % 520 == 0
    packets = [out[at : at + 520] for at in range(0, len(out), 520)]
    assert [packet[:8] for packet in packets] == [b"SLINFO *"] * (len(packets) - 1) + [b"SLINFO  "]
    text = b""
    for packet in packets:
        (length,) = struct.unpack_from(">H", packet, 8 + 30)
        text += packet[8 + 56 : 8 + 56 + length]
    channels = {packet[8 + 15 : 8 + 18].decode() for packet in packets}
    return channels.pop(), ET.fromstring(text)  # noqa: S314 our own


def test_info_of_version_3_is_xml_in_log_records() -> None:
    kind, root = info_v3(MIXED_RING, "STREAMS")
    assert kind == "INF"
    found = {
        (s.get("network"), s.get("name"), stream.get("location"), stream.get("seedname")) for s in root for stream in s
    }
    assert found == {
        ("XX", "AAA", "", "HHZ"),
        ("XX", "BBB", "00", "HHZ"),
        ("XX", "CCC", "", "EHZ"),
        ("YY", "AAA", "10", "HHN"),
        ("YY", "BBB", "", "HHE"),
    }
    assert "multistation" in {node.get("name") for node in info_v3(MIXED_RING, "CAPABILITIES")[1]}
    assert info_v3(MIXED_RING, "GAPS")[0] == "ERR"


# ---- ring


@settings(max_examples=100, deadline=None)
@given(
    packets=st.lists(st.tuples(st.integers(0, 50), st.integers(0, 5)), min_size=1, max_size=60),
    capacity=st.integers(1, 40),
    number=st.integers(0, 70),
    time=st.integers(-1, 60),
)
def test_ring_against_a_plain_list(packets, capacity, number, time) -> None:
    ring = Ring(capacity * 512)
    kept = [ring.append(PLAIN[0].sid, a, a + b, PLAIN[0].records[0]) for a, b in packets][-capacity:]
    assert len(ring) == len(kept)
    assert (ring.oldest, ring.next) == (kept[0].first, kept[-1].after)
    assert ring.at_or_after(number) == next((p for p in kept if p.after > number), None)
    found = ring.first_ending_after(time)
    exact = next((p.first for p in kept if p.end_ns > time), ring.next)
    assert found <= exact  # may be early where a forgotten packet ended later, never late
    assert ring.size_bytes == 512 * len(kept)


def test_the_newest_packet_stays_however_large() -> None:
    ring = Ring(10)
    ring.append(PLAIN[0].sid, T0, T0, PLAIN[0].records[0])
    ring.append(PLAIN[0].sid, T0, T0, PLAIN[0].records[1])
    assert len(ring) == 1


def test_a_long_lived_ring_forgets_its_past() -> None:
    ring = Ring(50 * 512)
    for time in range(20_000):
        ring.append(PLAIN[0].sid, time, time, PLAIN[0].records[0])
    assert len(ring._packets) < 10_000
    assert ring.first_ending_after(19_980) == 19_982


# ---- pacing


def replayed(tmp_path: Path, made: list[Made], **options: object) -> tuple[Replay, Ring]:
    ring = Ring(1 << 30)
    return Replay(archive.index([write(tmp_path, made)]), ring, ReplayOptions(**options)), ring


@pytest.mark.parametrize("speed", [1.0, 20.0])
def test_records_are_due_when_their_last_sample_was(tmp_path: Path, speed: float) -> None:
    replay, ring = replayed(tmp_path, PLAIN, speed=speed)
    replay.feed(1000.0, None)
    assert (replay.begun, ring.complete, len(ring)) == (False, False, 0)
    replay.begin(1000.0, 0)
    seen = []
    while (due := replay.next_due()) is not None:
        replay.feed(due - 1e-6, None)
        assert replay.next_due() == due
        before = ring.next
        replay.feed(due, None)
        number = before
        while (packet := ring.at_or_after(number)) is not None:
            seen.append(packet)
            assert due - 1000.0 == pytest.approx((packet.end_ns - T0) / 1e9 / speed)
            number = packet.after
    assert len(seen) == sum(len(one.records) for one in PLAIN)
    assert ring.complete


def test_a_loop_goes_on_where_it_ended_without_a_break(tmp_path: Path) -> None:
    made = [MADE[0], channel("FDSN:XX_M3__H_H_Z", version=3, seed=9), channel("FDSN:XX_LE__H_H_Z", seed=8)]
    replay, ring = replayed(tmp_path, made, speed=1.0, loop=True)
    replay.begin(0.0, 0)
    replay.feed(70.0, None)
    assert not ring.complete
    parts: dict[str, list] = {}
    number = ring.oldest
    while (packet := ring.at_or_after(number)) is not None:
        record = miniseed.decode(packet.payload)
        assert record.start_ns == packet.start_ns
        parts.setdefault(record.sid, []).append((record.start_ns, record.samples))
        number = packet.after
    for one in made:
        start, samples = joined(parts[one.sid], one.rate)
        assert start == one.start_ns
        assert len(samples) > 2 * len(one.samples)
        assert np.array_equal(samples[: 2 * len(one.samples)], np.tile(one.samples, 2))


def test_start_at_now_moves_the_first_sample_to_now(tmp_path: Path) -> None:
    now = 1_700_000_000_987_654_321
    replay, ring = replayed(tmp_path, PLAIN, speed="max", start_at="now")
    replay.begin(0.0, now)
    replay.feed(0.0, None)
    packet = ring.at_or_after(1)
    assert packet is not None
    assert abs(miniseed.decode(packet.payload).start_ns - now) < 100_000
    assert ring.complete


def test_start_at_ended_has_everything_up_to_now_at_once_and_loops_from_there(tmp_path: Path) -> None:
    now = 1_700_000_000_987_654_321
    replay, ring = replayed(tmp_path, PLAIN, speed=1.0, loop=True, start_at="ended")
    replay.begin(1000.0, now)
    replay.feed(1000.0, None)
    number, ends = ring.oldest, []
    while (packet := ring.at_or_after(number)) is not None:
        ends.append(packet.end_ns)
        number = packet.after
    assert len(ends) == sum(len(one.records) for one in PLAIN)
    assert abs(max(ends) - now) < 1_100_000_000
    assert max(ends) <= now
    due = replay.next_due()
    assert due is not None
    assert 1000.0 < due < 1070.0


def test_at_full_speed_a_full_ring_waits_for_its_slowest_reader(tmp_path: Path) -> None:
    index = archive.index([write(tmp_path, PLAIN)])
    ring = Ring(10 * 512)
    replay = Replay(index, ring, ReplayOptions(speed="max"))
    replay.begin(0.0, 0)
    replay.feed(0.0, None)
    assert (len(ring), ring.oldest, replay.must_wait(None)) == (10, 1, True)
    fast, slow = session(ring, from_oldest=True), session(ring, from_oldest=True)
    got: dict[int, bytes] = {0: b"", 1: b""}
    for one in (fast, slow):
        one.receive(b"SLPROTO 4.0\r\nSTATION *\r\nDATA\r\nEND\r\n")
        one.send(100)
    while not (ring.complete and not fast.behind and not slow.behind):
        got[0] += drained(fast)
        got[1] += slow.send(1)
        replay.feed(0.0, min(fast.cursor, slow.cursor))
    assert got[0] == got[1]
    assert_carries(frames_v4(got[0]), PLAIN)
    assert (fast.lost, slow.lost) == (0, 0)


@pytest.mark.parametrize("speed", [0.0, -1.0, float("inf"), float("nan")])
def test_impossible_speeds_are_refused(speed: float) -> None:
    with pytest.raises(ValueError, match="expected a number above 0, or max"):
        ReplayOptions(speed=speed)
