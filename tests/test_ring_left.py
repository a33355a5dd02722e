"""What is left of a server's ring, out of its own numbers; and the short conversation that asks for them."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st
from seedlink_fakes import PLAIN_V3, PLAIN_V4, record, v3_info, v4

from tscc_stream.seedlink.frames import V3_SEQUENCES, FrameError
from tscc_stream.seedlink.position import Mark, Position
from tscc_stream.seedlink.probe import Probe
from tscc_stream.seedlink.ring_left import Extent, Left, RingWatch, extents_json, extents_xml, left_in
from tscc_stream.serve import info
from tscc_stream.serve.ring import Ring

SECOND = 1_000_000_000


def at(sequence: int, protocol: int = 4, **stations: int) -> Position:
    marks = tuple((name, Mark(number, 0)) for name, number in stations.items())
    return Position(protocol, Mark(sequence, 0), marks, 0)


@pytest.mark.parametrize(
    ("sequence", "left"),
    [
        (1099, Left(1.0, 0)),  # all of 100..1099 is read
        (299, Left(0.2, 0)),
        (100, Left(0.001, 0)),
        (99, Left(0.0, 0)),  # the oldest is the next one
        (98, Left(0.0, 1)),
        (10, Left(0.0, 89)),
        (1100, None),  # a server that numbers anew
    ],
)
def test_share_of_one_run_of_sequences(sequence: int, left: Left | None) -> None:
    # The ring's oldest packet may be of any station: another one's, 500, was simply rarer.
    assert left_in({"BW_A": Extent(100, 1100), "BW_B": Extent(500, 1100)}, at(sequence)) == left


def test_the_worst_station_counts_where_each_has_its_own() -> None:
    extents = {"BW_A": Extent(0, 1000), "BW_B": Extent(50, 100), "BW_D": Extent(7, 9)}
    assert left_in(extents, at(1, BW_A=899, BW_B=54, BW_C=3)) == Left(0.1, 0)
    assert left_in(extents, at(1, BW_A=899, BW_B=39)) == Left(0.0, 10)
    assert left_in(extents, at(1, BW_A=899, BW_B=39, BW_D=5)) == Left(0.0, 10)
    assert left_in(extents, at(1, BW_C=3)) is None


def test_version_3_counts_over_the_wrap() -> None:
    top = V3_SEQUENCES
    assert left_in({"BW_A": Extent(top - 100, 900)}, at(top - 1, 3)) == Left(0.1, 0)
    assert left_in({"BW_A": Extent(top - 100, 900)}, at(99, 3)) == Left(0.2, 0)
    assert left_in({"BW_A": Extent(5, 900)}, at(top - 6, 3)) == Left(0.0, 10)


@given(st.integers(0, V3_SEQUENCES - 1), st.integers(1, 1 << 22), st.floats(0, 1))
def test_both_versions_agree(first: int, held: int, place: float) -> None:
    wanted = first + round(held * place)
    whole = left_in({"BW_A": Extent(first, first + held)}, at(wanted - 1)) if wanted else None
    cut = Extent(first % V3_SEQUENCES, (first + held) % V3_SEQUENCES)
    if wanted:
        assert left_in({"BW_A": cut}, at((wanted - 1) % V3_SEQUENCES, 3)) == whole


def test_nothing_is_said_without_sequences() -> None:
    assert left_in({"BW_A": Extent(1, 2)}, Position()) is None
    assert left_in({"BW_A": Extent(1, 2)}, at(5).by_time()) is None
    assert left_in({"BW_A": Extent(1, 2)}, replace(at(5), times=(("BW_A", 0),)).by_time()) is None
    assert left_in({}, at(5)) is None


def test_numbers_out_of_json() -> None:
    document = {"station": [{"id": "BW_A", "start_seq": 5, "end_seq": 9}, {"id": "BW_B"}, 7, {"id": 3}]}
    assert extents_json(json.dumps(document).encode()) == {"BW_A": Extent(5, 9)}


@pytest.mark.parametrize("payload", [b"", b"[]", b"{}", b'{"station": 3}', b"\xff", b"[" * 100_000])
def test_numbers_out_of_what_has_none(payload: bytes) -> None:
    assert extents_json(payload) == {}


def test_numbers_out_of_xml() -> None:
    """Ringserver writes decimal numbers of any length, SeisComP's server and ours six hexadecimal digits."""
    tag = '<station name="A" network="BW" description="x" begin_seq="{}" end_seq="{}" stream_check="enabled"/>'
    assert extents_xml(tag.format("0000FF", "000100"), "SeedLink v3.1 (2020.075)") == {"BW_A": Extent(255, 256)}
    assert extents_xml(tag.format(V3_SEQUENCES + 5, V3_SEQUENCES + 7), "SeedLink v3.1 (RingServer/4.5.3)") == {
        "BW_A": Extent(5, 7)
    }
    assert extents_xml('<station name="A" network="BW" begin_seq="-" end_seq="1"/><station name="B"/>', "") == {}


def test_our_own_server_says_it_in_both_versions() -> None:
    ring = Ring(2000)
    for second in range(10):
        ring.append("FDSN:BW_A__S_H_Z", second, second + 1, record("FDSN:BW_A__S_H_Z", second))
    identity = info.Identity("here", 0)
    said = extents_json(info.json_answer(["STATIONS"], identity, ring, ()))
    assert said == {"BW_A": Extent(ring.oldest, ring.next)}
    assert extents_xml(info.xml_answer("STATIONS", identity, ring, ())[0].decode(), info.SOFTWARE) == said


def test_a_warning_under_a_fifth_with_the_time_that_is_left() -> None:
    watch = RingWatch()
    assert watch.feed(0, Left(0.5, 0)) is None
    assert watch.feed(10 * SECOND, Left(0.3, 0)) is None
    text = watch.feed(20 * SECOND, Left(0.1, 0))
    assert text == "not reading, and 10% of the server's ring is left before data are lost, about 5 s at this pace"


def test_the_same_is_told_once_a_minute_and_a_loss_at_once() -> None:
    watch, told = RingWatch(), []
    for second in range(0, 200, 10):
        left = Left(0.0, second - 90) if second > 90 else Left(0.1, 0)
        if text := watch.feed(second * SECOND, left):
            told.append((second, text))
    assert [second for second, _ in told] == [0, 60, 100, 160]
    assert "pace" not in told[0][1]
    assert told[2][1].endswith("has passed the last packet read: up to 10 sequences are lost")


# The conversation


def test_asking_in_version_4() -> None:
    probe = Probe("joe", "blast")
    assert probe.to_send() == b"HELLO\r\n"
    assert probe.receive(f"{PLAIN_V4}\r\nA mi".encode()) is None
    assert probe.to_send() == b""
    assert probe.receive(b"ne\r\n") is None
    assert probe.to_send() == b"SLPROTO 4.0\r\n"
    assert probe.receive(b"OK\r\n") is None
    assert probe.to_send() == b"AUTH USERPASS joe blast\r\n"
    assert probe.receive(b"OK\r\n") is None
    assert probe.to_send() == b"INFO STATIONS\r\n"
    answer = v4(0, b'{"station": [{"id": "BW_A", "start_seq": 5, "end_seq": 9}]}', "", "JI")
    assert probe.receive(answer[:-1]) is None
    assert probe.receive(answer[-1:]) == {"BW_A": Extent(5, 9)}


@pytest.mark.parametrize("hello", [PLAIN_V3, PLAIN_V4])
def test_asking_in_version_3(hello: str) -> None:
    probe = Probe(newest=3)
    probe.to_send()
    assert probe.receive(f"{hello}\r\nA mine\r\n".encode()) is None
    assert probe.to_send() == b"INFO STATIONS\r\n"
    many = "".join(f'<station name="S{n}" network="BW" begin_seq="000001" end_seq="00000A"/>' for n in range(20))
    assert probe.receive(v3_info(many)) == {f"BW_S{n}": Extent(1, 10) for n in range(20)}


def test_a_server_that_gives_no_numbers_says_nothing() -> None:
    for answer in (v3_info("", channel=b"ERR"), b"ERROR\r\n", v3_info("<seedlink/>")):
        probe = Probe(newest=3)
        probe.receive(f"{PLAIN_V3}\r\nA mine\r\n".encode())
        assert probe.receive(answer) == {}


def test_what_is_no_seedlink_or_no_entry_ends_it() -> None:
    with pytest.raises(FrameError):
        Probe().receive(b"HTTP/1.1 400\r\n")
    probe = Probe("joe", "wrong", newest=3)
    probe.receive(f"{PLAIN_V3}\r\nA mine\r\n".encode())
    with pytest.raises(FrameError, match="does not let"):
        probe.receive(b"ERROR\r\n")
