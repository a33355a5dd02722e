"""The SeedLink session, joined to a server without a socket, fed byte by byte, cut anywhere and with garbage."""

from __future__ import annotations

import json
import random
import struct
from collections.abc import Iterable
from dataclasses import replace
from fnmatch import fnmatchcase

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from seedlink_fakes import (
    PLAIN_V3,
    PLAIN_V4,
    RINGSERVER,
    START_NS,
    FakeServer,
    Packet,
    numbers_of,
    record,
    records_of,
    summary,
    v3,
    v3_info,
    v4,
)

from tscc_stream.config import SeedLinkConfig
from tscc_stream.messages import RecordBatch
from tscc_stream.miniseed import decode, encode
from tscc_stream.seedlink import tracker
from tscc_stream.seedlink.backoff import Backoff
from tscc_stream.seedlink.frames import LINE_LIMIT, PAYLOAD_LIMIT, json_capabilities, record_length, stations_in
from tscc_stream.seedlink.position import OLDEST_NS, Mark, Position, Server, data_request, goes_back, next_sequence
from tscc_stream.seedlink.streams import StreamFilter, parse_pattern, subscriptions
from tscc_stream.seedlink.tracker import Tracker
from tscc_stream.stages.acquire import (
    Connected,
    Event,
    Notice,
    Rejected,
    SeedLinkSession,
    ServerInfo,
    SessionError,
)

SECOND = 10**9
HELLOS = [RINGSERVER, PLAIN_V4, PLAIN_V3]
PASSWORD = "open"  # noqa: S105 - of a fake server
OTHER = "FDSN:YG_AB1_00_E_H_Z"


def config(*streams: str, **keys: object) -> SeedLinkConfig:
    return SeedLinkConfig(server="mine:18000", streams=streams or ("BW_*:?HZ",), **keys)


def new_session(*streams: str, position: Position | None = None, now_ns: int = 0, **keys: object) -> SeedLinkSession:
    return SeedLinkSession(config(*streams, **keys), position or Position(), now_ns, password=PASSWORD)


def join(session: SeedLinkSession, server: FakeServer, cut: int | None = None) -> list[Event]:
    """Carry bytes both ways until neither side has anything to say."""
    events: list[Event] = []
    while wanted := session.to_send():
        answer = server.feed(wanted)
        step = cut or len(answer) or 1
        for at in range(0, len(answer), step):
            events += session.receive(answer[at : at + step], 7)
    return events


def connected(server: FakeServer, *streams: str, position: Position | None = None, **keys: object) -> SeedLinkSession:
    session = new_session(*streams, position=position, **keys)
    events = join(session, server)
    assert any(isinstance(event, Connected) for event in events), events
    return session


def of(kind: type, events: Iterable[Event]) -> list:
    return [event for event in events if isinstance(event, kind)]


def sequences(events: Iterable[Event]) -> list[int]:
    return numbers_of(records_of(events))


def ring(count: int = 4, first: int = 1) -> list[Packet]:
    return [Packet(first + i, record(second=i)) for i in range(count)]


# Negotiation


@pytest.mark.parametrize(
    ("hello", "commands"),
    [
        (
            PLAIN_V4,
            [
                "HELLO",
                "SLPROTO 4.0",
                "USERAGENT tscc-stream",
                "INFO CAPABILITIES",
                "STATION BW_*",
                "SELECT *_?_H_Z",
                "DATA ALL",
                "END",
            ],
        ),
        (PLAIN_V3, ["HELLO", "STATION * BW", "SELECT ?HZ", "DATA ALL", "END"]),
        (
            RINGSERVER,
            [
                "HELLO",
                "SLPROTO 4.0",
                "USERAGENT tscc-stream",
                "INFO CAPABILITIES",
                "STATION BW_*",
                "SELECT *_?_H_Z",
                "DATA ALL 1970-01-01T00:00:00.000000Z",
                "END",
            ],
        ),
    ],
)
def test_negotiation_command_by_command(hello: str, commands: list[str]) -> None:
    server = FakeServer(ring(), hello)
    events = join(new_session(), server)
    assert server.commands == commands
    assert sequences(events) == [1, 2, 3, 4]
    (link,) = of(Connected, events)
    assert (link.software, link.organisation) == (hello.partition(" ::")[0], "A mine")


def test_connected_comes_before_data_and_says_the_version() -> None:
    events = join(new_session(), FakeServer(ring(), PLAIN_V3))
    assert isinstance(events[0], Connected)
    assert events[0].protocol == 3


def test_records_carry_the_time_of_receipt_and_their_station() -> None:
    (batch,) = of(RecordBatch, join(new_session(), FakeServer(ring())))
    first = batch.record(0)
    assert (first.received_ns, first.start_ns, batch.stations[batch.channel[0]]) == (7, START_NS, "BW_UH1")
    assert first.samples.tolist() == list(range(50))


@pytest.mark.parametrize("hello", HELLOS)
def test_every_cut_gives_the_same_events(hello: str) -> None:
    whole = summary(join(new_session(), FakeServer(ring(2), hello)))
    assert len(whole) == 3
    for cut in (1, 7, 100):
        assert summary(join(new_session(), FakeServer(ring(2), hello), cut)) == whole


@given(st.lists(st.integers(1, 700), min_size=1, max_size=40), st.sampled_from([3, 4]))
@settings(max_examples=40, deadline=None)
def test_any_cut_of_the_stream_gives_the_same_events(cuts: list[int], protocol: int) -> None:
    frame = v4 if protocol == 4 else v3
    info = v4(0, b"{}", "", "JI") if protocol == 4 else v3_info("<seedlink/>")
    stream = frame(1, record()) + info + frame(2, b"x" * 512) + frame(3, record(second=1)) + b"ERROR AUTH no\r\n"
    hello = PLAIN_V4 if protocol == 4 else PLAIN_V3
    whole = connected(FakeServer(hello=hello)).receive(stream, 7)
    assert [type(e) for e in whole] == [RecordBatch, ServerInfo, Rejected, RecordBatch, SessionError]
    session, events, at = connected(FakeServer(hello=hello)), [], 0
    for cut in [*cuts, len(stream)]:
        if stream[at : at + cut]:
            events += session.receive(stream[at : at + cut], 7)
        at += cut
    assert summary(events) == summary(whole)


def test_version_4_can_be_left_out() -> None:
    session = SeedLinkSession(config(), Position(), 0, newest=3)
    (link,) = of(Connected, join(session, FakeServer(ring(), PLAIN_V4)))
    assert link.protocol == 3


def test_falls_back_to_version_3_where_slproto_is_refused() -> None:
    server = FakeServer(ring(), PLAIN_V4, refuse=("SLPROTO",))
    events = join(new_session(), server)
    assert of(Connected, events)[0].protocol == 3
    assert sequences(events) == [1, 2, 3, 4]


def test_goes_on_where_useragent_and_capabilities_are_refused() -> None:
    server = FakeServer(ring(), refuse=("USERAGENT", "INFO"))
    assert sequences(join(new_session(), server)) == [1, 2, 3, 4]


@pytest.mark.parametrize("hello", [PLAIN_V4, PLAIN_V3])
def test_credentials_go_over_in_both_versions(hello: str) -> None:
    server = FakeServer(ring(), hello)
    assert of(Connected, join(new_session(user="joe"), server))
    assert "AUTH USERPASS joe open" in server.commands


def test_refused_credentials_end_the_session_without_telling_the_password() -> None:
    session = new_session(user="joe")
    (error,) = join(session, FakeServer(ring(), refuse=("AUTH",)))
    assert isinstance(error, SessionError)
    assert error.reason == "auth"
    assert "joe" in error.text
    assert "open" not in error.text
    assert session.closed


def test_a_server_that_says_the_password_back_is_not_repeated() -> None:
    session = new_session(user="joe")
    join(session, FakeServer(silent=("AUTH",)))
    (error,) = session.receive(b"ERROR UNAUTHORIZED not with open\r\n", 7)
    assert error.text.endswith("not with ***")


@pytest.mark.parametrize("password", ["", "two words", "line\nbreak"])
def test_credentials_that_cannot_go_over_the_wire_are_refused(password: str) -> None:
    with pytest.raises(ValueError, match="user and password"):
        SeedLinkSession(config(user="joe"), Position(), 0, password=password)


@pytest.mark.parametrize("greeting", [b"HTTP/1.1 400 Bad Request\r\n", b"\r\n", b"220 ftp\r\n"])
def test_what_is_no_seedlink_server_is_told_so_at_its_first_line(greeting: bytes) -> None:
    (error,) = new_session().receive(greeting, 0)
    assert (type(error), error.reason) == (SessionError, "hello")
    assert "no SeedLink server" in error.text


def test_an_odd_reply_is_a_protocol_error() -> None:
    session = new_session()
    session.receive(b"SeedLink v4.0 (x/1) :: SLPROTO:4.0\r\nhome\r\n", 0)
    (error,) = session.receive(b"PERHAPS\r\n", 0)
    assert error.reason == "protocol"
    assert "SLPROTO" in error.text
    assert not session.receive(b"OK\r\n", 0)


def test_an_empty_reply_is_a_protocol_error() -> None:
    session = new_session()
    session.receive(b"SeedLink v4.0 (x/1) :: SLPROTO:4.0\r\nhome\r\n", 0)
    assert session.receive(b"\r\n", 0)[0].reason == "protocol"


def test_a_reply_without_end_is_given_up() -> None:
    session = new_session()
    assert not session.receive(b"S" * (LINE_LIMIT - 1), 0)
    (error,) = session.receive(b"S", 0)
    assert error.reason == "line"


# Stations and selectors


def test_version_4_sends_many_commands_at_once_and_version_3_one_by_one() -> None:
    streams = [f"BW_S{i}:EHZ" for i in range(40)]
    session = new_session(*streams)
    session.to_send()
    session.receive(b"SeedLink v4.0 (x/1) :: SLPROTO:4.0\r\nhome\r\n" + b"OK\r\n" * 2, 0)
    session.to_send()
    session.receive(v4(0, b"{}", "", "JI"), 0)
    assert session.to_send().count(b"\r\n") == 32
    session = new_session(*streams)
    session.to_send()
    session.receive(b"SeedLink v3.1\r\nhome\r\n", 0)
    assert session.to_send() == b"STATION S0 BW\r\n"


def test_a_refused_station_is_left_out_and_named() -> None:
    server = FakeServer(ring(), refuse=("STATION YG_GONE",))
    events = join(new_session("YG_GONE:EHZ", "BW_UH1:?HZ"), server)
    (notice,) = of(Notice, events)
    assert (notice.reason, "YG_GONE" in notice.text) == ("station", True)
    assert sequences(events) == [1, 2, 3, 4]


def test_a_station_refused_among_many_takes_only_its_own_commands_along() -> None:
    gone = [f"YG_S{i}:EHZ" for i in range(20)]
    server = FakeServer(ring(), refuse=("STATION YG_", "SELECT *_E_", "DATA ALL X"))
    events = join(new_session(*gone, "BW_UH1:SHZ"), server)
    assert len(of(Notice, events)) == 20
    assert sequences(events) == [1, 2, 3, 4]


def test_when_every_station_is_refused_the_session_ends() -> None:
    events = join(new_session(), FakeServer(ring(), refuse=("STATION",)))
    assert events[-1] == SessionError("refused", "the server refuses every station that is asked for")


def test_a_refused_selector_is_told_and_the_rest_goes_on() -> None:
    events = join(new_session(), FakeServer(ring(), refuse=("SELECT",)))
    assert [notice.reason for notice in of(Notice, events)] == ["selector"]
    assert sequences(events) == [1, 2, 3, 4]


def test_a_refused_request_is_not_made_again() -> None:
    server = FakeServer(ring(), PLAIN_V3, refuse=("DATA ALL",))
    session = new_session()
    assert [event.reason for event in join(session, server)] == ["refused"]
    server = server.restarted()
    assert sequences(join(new_session(position=session.position), server)) == [1, 2, 3, 4]
    assert "TIME 1970,01,01,00,00,00" in server.commands


def test_where_no_request_is_left_the_station_is_left_out() -> None:
    position, reasons = Position(), []
    for _ in range(4):
        session = new_session(position=position)
        events = join(session, FakeServer(ring(), refuse=("DATA",)))
        reasons.append([event.reason for event in events])
        position = session.position
    assert reasons == [["refused"], ["refused"], ["refused"], ["station", "refused"]]


V3_STATIONS = [
    Packet(i + 1, record(sid, i)) for i, sid in enumerate(["FDSN:BW_UH1__S_H_Z", "FDSN:BW_UH2__S_H_Z", OTHER])
]


def test_version_3_without_patterns_is_asked_for_its_stations() -> None:
    server = FakeServer(V3_STATIONS, PLAIN_V3, refuse=("STATION * ",))
    events = join(new_session(), server)
    assert "INFO STATIONS" in server.commands
    assert [c for c in server.commands if c.startswith("STATION")] == [
        "STATION * BW",
        "STATION UH1 BW",
        "STATION UH2 BW",
    ]
    assert sequences(events) == [1, 2]
    assert isinstance(events[0], Connected)


def test_a_station_that_is_asked_for_by_name_and_by_pattern_is_asked_for_once() -> None:
    server = FakeServer(V3_STATIONS, PLAIN_V3, refuse=("STATION * ",))
    assert sequences(join(new_session("BW_*:?HZ", "BW_UH1:EHN"), server)) == [1, 2]
    assert [c for c in server.commands if c.startswith("STATION UH")] == ["STATION UH1 BW", "STATION UH2 BW"]


def test_a_pattern_that_no_station_matches_is_told() -> None:
    server = FakeServer(V3_STATIONS, PLAIN_V3, refuse=("STATION *",))
    events = join(new_session("XX_*:EHZ", "BW_UH1"), server)
    assert [notice.text for notice in of(Notice, events)] == ["the server has no station that matches XX_*"]
    assert sequences(events) == [1]


@pytest.mark.parametrize("answer", [b"ERROR\r\n", v3_info("", channel=b"ERR")])
def test_version_3_without_patterns_and_without_stations_says_what_to_do(answer: bytes) -> None:
    session = new_session()
    join(session, FakeServer(hello=PLAIN_V3, refuse=("STATION",), silent=("INFO",)))
    (error,) = session.receive(answer, 0)
    assert error.reason == "refused"
    assert "one by one" in error.text


def test_an_endless_list_of_stations_is_given_up() -> None:
    session = new_session()
    join(session, FakeServer(hello=PLAIN_V3, refuse=("STATION",), silent=("INFO",)))
    piece = v3_info("x" * 456)[:8].replace(b"  ", b" *") + v3_info("x" * 456)[8:]
    events: list[Event] = []
    while not events:
        events = session.receive(piece * 1000, 0)
    assert events[0].reason == "size"


@pytest.mark.parametrize(
    ("pattern", "selector4", "selector3", "wanted", "unwanted"),
    [
        ("BW_*:?HZ", "*_?_H_Z", "?HZ", ["BW_UH1__S_H_Z", "BW_UH2_00_E_H_Z"], ["BW_UH1__S_H_N", "YG_UH1__S_H_Z"]),
        ("bw_uh1:ehz", "*_E_H_Z", "EHZ", ["BW_UH1__E_H_Z"], ["BW_UH2__E_H_Z"]),
        ("XX_ABC:00BHZ", "00_B_H_Z", "00BHZ", ["XX_ABC_00_B_H_Z"], ["XX_ABC_10_B_H_Z", "XX_ABC__B_H_Z"]),
        ("XX_A:--BHZ", "_B_H_Z", "BHZ", ["XX_A__B_H_Z"], ["XX_A_00_B_H_Z"]),
        ("XX_A:??BHZ", "*_B_H_Z", "BHZ", ["XX_A__B_H_Z", "XX_A_00_B_H_Z"], ["XX_A_00_B_H_N"]),
        ("XX_A:0?BHZ", "*_B_H_Z", "BHZ", ["XX_A_00_B_H_Z", "XX_A_0_B_H_Z"], ["XX_A_10_B_H_Z"]),
        ("YG_*", None, None, ["YG_A_00_B_H_Z", "YG_B__XX_Y_ZZZ"], ["YH_A_00_B_H_Z"]),
        ("YG_*:*", None, None, ["YG_A_00_B_H_Z"], ["YH_A_00_B_H_Z"]),
        ("XX_A:00*", "*0*0*", None, ["XX_A_00_B_H_Z"], ["XX_A_01_B_H_Z", "XX_A__B_H_Z"]),
        ("XX_A:*Z", "*Z*", None, ["XX_A_00_B_H_Z", "XX_A__B_H_Z"], ["XX_A_00_B_H_N", "XX_A_00_BB_H_Z"]),
        ("XX_A:--*", "*", None, ["XX_A__B_H_Z"], ["XX_A_00_B_H_Z"]),
        ("XX_A:H*", "*H*", None, ["XX_A_00_H_H_Z"], ["XX_A_00_B_H_Z"]),
        ("XX_A:00_B_H_Z", "00_B_H_Z", "00BHZ", ["XX_A_00_B_H_Z"], ["XX_A_00_B_H_N"]),
        ("XX_A:*_B_H_?", "*_B_H_?", "BH?", ["XX_A_00_B_H_Z", "XX_A__B_H_N"], ["XX_A_00_E_H_Z"]),
        ("XX_A:_B_H_Z", "_B_H_Z", "BHZ", ["XX_A__B_H_Z"], ["XX_A_00_B_H_Z"]),
        ("XX_A:*_BB_*", "*_BB_*", None, ["XX_A__BB_H_Z"], ["XX_A__B_H_Z"]),
        ("XX_A:0_B_H_*", "0_B_H_*", None, ["XX_A_0_B_H_ZZ"], ["XX_A_1_B_H_Z"]),
    ],
)
def test_patterns_as_selectors_and_as_filter(
    pattern: str, selector4: str | None, selector3: str | None, wanted: list[str], unwanted: list[str]
) -> None:
    parsed = parse_pattern(pattern)
    assert (parsed.selector(4), parsed.selector(3)) == (selector4, selector3)
    for _ in range(2):  # the second time from memory
        chosen = StreamFilter((parsed,))
        assert [sid for sid in wanted + unwanted if chosen.wants(f"FDSN:{sid}")] == wanted


@given(
    st.text("BHZ0*?-", max_size=5),
    st.tuples(st.sampled_from(["", "0", "00", "HZ"]), *[st.sampled_from("BHZ0")] * 3),
)
@settings(max_examples=300)
def test_a_selector_never_asks_for_less_than_the_filter_takes(channel: str, codes: tuple[str, ...]) -> None:
    try:
        pattern = parse_pattern(f"XX_A:{channel}")
    except ValueError:
        return
    if pattern.matches("FDSN:XX_A_" + "_".join(codes)):
        assert fnmatchcase("_".join(codes), pattern.selector(4) or "*")
        short = pattern.selector(3) or "?????"
        code = "".join(codes[1:])
        assert fnmatchcase(code, short) or fnmatchcase(codes[0].ljust(2) + code, short)


@pytest.mark.parametrize("pattern", ["BW_A:HZ", "BW_A:BHZZ", "BW_A:B_H_Z", "BW_A:0_0_B_H_Z"])
def test_patterns_that_can_match_nothing_are_refused(pattern: str) -> None:
    with pytest.raises(ValueError, match="expected a channel"):
        parse_pattern(pattern)


def test_what_is_no_source_id_is_not_wanted() -> None:
    assert not StreamFilter((parse_pattern("BW_*"),)).wants("BW.UH1..SHZ")


def test_plain_stations_come_first_and_carry_the_selectors_of_patterns_that_meet_them() -> None:
    patterns = [parse_pattern(p) for p in ["BW_*:?HZ", "BW_UH1:EHN", "YG_*:EHZ", "?W_*:HH?", "BW_UH1:EHE"]]
    asked = [(s.station, s.selectors) for s in subscriptions(patterns, 3)]
    assert asked == [
        ("BW_UH1", ("EHN", "EHE", "?HZ", "HH?")),
        ("BW_*", ("?HZ", "HH?")),
        ("YG_*", ("EHZ",)),
        ("?W_*", ("HH?", "?HZ")),
    ]


def test_many_stations_of_a_network_are_one_pattern_where_the_server_numbers_all_in_one() -> None:
    streams = [*(f"XX_S{i:03}:HH{'ZN'[i % 2]}" for i in range(100)), "YY_A:EHZ", "XX_*:?HE"]
    unwanted, other = Packet(4, record("FDSN:XX_T1__H_H_Z", 4)), Packet(5, record("FDSN:YY_A__E_H_Z", 5))
    packets = [*(Packet(i + 1, record(f"FDSN:XX_S{i:03}__H_H_Z", i)) for i in range(3)), unwanted, other]
    server = FakeServer(packets, RINGSERVER)
    session = new_session(*streams)
    events = join(session, server)
    asked = [command for command in server.commands if command[:4] in ("STAT", "SELE")]
    assert asked == [
        "STATION YY_A",
        "SELECT *_E_H_Z",
        "STATION XX_*",
        "SELECT *_?_H_E",
        "SELECT *_H_H_Z",
        "SELECT *_H_H_N",
    ]
    assert sequences(events) == [1, 3, 6]
    assert session.unwanted == 2
    server = FakeServer(packets, PLAIN_V4)
    join(new_session(*streams), server)
    assert sum(command.startswith("STATION XX_S") for command in server.commands) == 100


def test_the_filter_forgets_decisions_before_they_fill_the_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("tscc_stream.seedlink.streams._DECISIONS", 2)
    chosen = StreamFilter((parse_pattern("BW_*"), parse_pattern("XX_A")))
    ids = [f"FDSN:{name}_00_E_H_Z" for name in ("BW_A", "BW_B", "XX_A", "XX_B", "BW_A")]
    assert [chosen.wants(sid) for sid in ids] == [True, True, True, False, True]
    assert len(chosen._known) <= 2


def test_records_that_no_pattern_asks_for_are_counted_not_passed_on() -> None:
    packets = [*ring(2), Packet(3, record("FDSN:BW_UH1__S_H_N")), Packet(4, record("FDSN:BW_UH1__S_H_Z", 3))]
    session = new_session()
    events = join(session, FakeServer(packets, refuse=("SELECT",)))
    assert sequences(events) == [1, 2, 4]
    assert session.unwanted == 1


# Where to go on


@pytest.mark.parametrize("hello", HELLOS)
def test_the_next_session_goes_on_after_the_last_packet(hello: str) -> None:
    packets = ring(6)
    server = FakeServer(packets[:3], hello)
    first = connected(server)
    server = server.restarted(packets)
    assert sequences(join(new_session(position=first.position), server)) == [4, 5, 6]


def test_ringserver_is_asked_by_sequence_and_time() -> None:
    session = connected(FakeServer(ring(3), RINGSERVER))
    assert session.position.stations == ()
    for newest, command in ((4, "DATA 4 2010-05-27T16:24:02.000000Z"), (3, "DATA 000004 2010,05,27,16,24,02")):
        position = Position(newest, session.position.last, (), session.position.time_ns)
        server = FakeServer(ring(), RINGSERVER)
        join(SeedLinkSession(config(), position, 0, newest=newest), server)
        assert command in server.commands


def test_a_server_with_one_sequence_for_all_gets_one_mark() -> None:
    session = connected(FakeServer(V3_STATIONS, PLAIN_V4, capabilities=("SEQWILDCARD",)), "*_*:?HZ")
    assert session.position.stations == ()
    server = FakeServer(V3_STATIONS, PLAIN_V4, capabilities=("SEQWILDCARD",))
    join(new_session("*_*:?HZ", position=session.position), server)
    assert [c for c in server.commands if c[:4] in ("STAT", "DATA")] == ["STATION *_*", "DATA 4"]


def test_a_server_with_sequences_per_station_gets_a_mark_for_each_and_the_rest_begins_as_at_a_first_start() -> None:
    session = connected(FakeServer(V3_STATIONS, PLAIN_V4), "BW_*:?HZ")
    assert [name for name, _ in session.position.stations] == ["BW_UH1", "BW_UH2"]
    server = FakeServer(V3_STATIONS, PLAIN_V4)
    join(new_session("BW_*:?HZ", "YG_AB1:EHZ", position=session.position), server)
    assert [c for c in server.commands if c[:4] in ("STAT", "DATA")] == [
        "STATION YG_AB1",
        "DATA ALL",
        "STATION BW_UH1",
        "DATA 2",
        "STATION BW_UH2",
        "DATA 3",
        "STATION BW_*",
        "DATA ALL",
    ]


@pytest.mark.parametrize(
    ("start", "whole", "rest"),
    [
        ("oldest", False, "DATA ALL"),
        ("now", False, "DATA ALL 2010-05-27T16:14:01.000000Z"),
        ("now", True, "DATA ALL 1970-01-01T00:00:00.000000Z"),
    ],
)
def test_what_never_came_is_asked_for_as_the_site_wants_it(start: str, whole: bool, rest: str) -> None:
    place = replace(connected(FakeServer(V3_STATIONS, PLAIN_V4), "BW_*:?HZ").position, whole=whole)
    server = FakeServer(V3_STATIONS, PLAIN_V4)
    join(new_session("BW_*:?HZ", position=place, start=start), server)
    assert [command for command in server.commands if command.startswith("DATA")] == ["DATA 2", "DATA 3", rest]


def test_a_station_whose_mark_had_to_go_is_asked_for_by_time(monkeypatch: pytest.MonkeyPatch) -> None:
    """With more stations than marks the whole ring of the others would else come with every connection."""
    monkeypatch.setattr(tracker, "MOST_STATIONS", 1)
    session = connected(FakeServer(V3_STATIONS, PLAIN_V4), "BW_*:?HZ")
    assert [name for name, _ in session.position.stations] == ["BW_UH2"]
    server = FakeServer(V3_STATIONS, PLAIN_V4)
    join(new_session("BW_*:?HZ", position=session.position), server)
    assert server.commands[-2] == "DATA ALL 2010-05-27T16:14:01.000000Z"


@pytest.mark.parametrize("hello", [PLAIN_V4, PLAIN_V3])
def test_a_first_start_that_breaks_off_loses_no_station_that_had_not_come_yet(hello: str) -> None:
    """Servers that number per station may send one station's whole ring after the other's."""
    late = [Packet(n + 1, record(second=7200 + n)) for n in range(2)]
    early = [Packet(n + 3, record("FDSN:BW_UH2__S_H_Z", n)) for n in range(2)]
    session = connected(FakeServer(late, hello))
    events = join(new_session(position=session.position), FakeServer([*late, *early], hello))
    assert [one.start_ns for one in records_of(events)] == [one.start_ns for one in early]


# A client that serves more stations than before


def ring_of_two() -> list[Packet]:
    """An hour of UH1 and UH2, a packet a minute from each in turn."""
    sids = ("FDSN:BW_UH1__S_H_Z", "FDSN:BW_UH2__S_H_Z")
    return [Packet(n + 1, record(sids[n % 2], 60 * (n // 2))) for n in range(120)]


@pytest.mark.parametrize("start", ["oldest", "now"])
@pytest.mark.parametrize(
    ("hello", "refuse"), [(RINGSERVER, ()), (PLAIN_V4, ()), (PLAIN_V3, ()), (PLAIN_V3, ("STATION * ",))]
)
def test_its_new_station_comes_from_the_oldest_data_of_the_ring(
    hello: str, refuse: tuple[str, ...], start: str
) -> None:
    """The first client has heard both, by a pattern, and dropped one of them."""
    first = connected(FakeServer(ring_of_two(), hello, refuse)).position
    wider = Position.from_dict(json.loads(json.dumps(first.rewound(30 * SECOND).widened(["BW_UH2"]).as_dict())))
    session = new_session(position=wider, start=start)
    came = records_of(join(session, FakeServer(ring_of_two(), hello, refuse)))
    of_new = [one.start_ns for one in came if "UH2" in one.sid]
    assert of_new == [START_NS + 60 * minute * SECOND for minute in range(60)]
    others = {one.start_ns for one in came if "UH1" in one.sid}
    assert min(others) == (START_NS if hello == RINGSERVER else START_NS + 49 * 60 * SECOND), "asked for by itself"


@pytest.mark.parametrize("hello", HELLOS)
def test_it_goes_on_where_it_was_once_the_new_station_has_come(hello: str) -> None:
    wider = connected(FakeServer(ring_of_two(), hello)).position.widened(["BW_UH2"])
    session = connected(FakeServer(ring_of_two(), hello), position=wider)
    assert not records_of(join(new_session(position=session.position), FakeServer(ring_of_two(), hello)))


def test_another_server_is_not_asked_for_the_whole_ring_again_for_a_new_station_that_has_nothing() -> None:
    wider = connected(FakeServer(ring(), RINGSERVER)).position.widened(["BW_UH2"])
    assert wider.at("mine:2").last == wider.at("mine:2").at("mine:3").last == Mark(None, OLDEST_NS), "nothing came yet"
    begun = connected(FakeServer(ring(2), RINGSERVER), position=wider).position
    assert dict(begun.times) == {"BW_UH1": START_NS + SECOND, "BW_UH2": START_NS + SECOND}
    assert begun.at("mine:2").last == Mark(None, START_NS + SECOND)


def test_a_place_where_nothing_came_yet_begins_as_a_first_start() -> None:
    assert Position(server="mine:1").widened([]).last is None
    assert Position(server="mine:1").widened(["BW_UH1"]).last == Mark(None, OLDEST_NS)


def test_stations_that_the_site_no_longer_wants_are_not_asked_for() -> None:
    session = connected(FakeServer(V3_STATIONS, PLAIN_V4), "*_*:?HZ")
    server = FakeServer(V3_STATIONS, PLAIN_V4)
    join(new_session("YG_*:EHZ", position=session.position), server)
    assert [c for c in server.commands if c.startswith("STATION")] == ["STATION YG_AB1", "STATION YG_*"]


def test_start_now_asks_for_new_data_only_and_resumes_all_the_same() -> None:
    server = FakeServer(ring())
    session = connected(server, start="now")
    assert session.receive(server.push(Packet(9, record(second=9))), 0)
    server = server.restarted()
    join(new_session(position=session.position, start="now"), server)
    assert "DATA 10" in server.commands


def test_start_now_sends_nothing_old() -> None:
    server = FakeServer(ring())
    events = join(new_session(start="now"), server)
    assert not sequences(events)
    assert "DATA" in server.commands


@pytest.mark.parametrize("hello", HELLOS)
def test_a_server_that_numbers_anew_is_asked_by_time(hello: str) -> None:
    first = connected(FakeServer(ring(3, first=5000), hello))
    server = FakeServer(ring(2), hello)
    session = new_session(position=first.position)
    join(session, server)
    (error,) = session.receive(server.frame(Packet(1, record(second=3))), 0)
    assert error.reason == "reset"
    assert session.position.last == Mark(None, START_NS + 2 * SECOND)
    server = server.restarted(ring(6))
    events = join(new_session(position=session.position), server)
    assert sequences(events) == [1, 2, 3, 4, 5, 6]


def test_after_a_change_of_version_only_the_time_holds() -> None:
    first = connected(FakeServer(ring(3), PLAIN_V4))
    server = FakeServer(ring(3), PLAIN_V3)
    session = new_session(position=first.position)
    join(session, server)
    assert "TIME 2010,05,27,16,14,02" in server.commands
    assert session.position.protocol == 3


def test_version_3_sequences_start_again_after_24_bits() -> None:
    last = (1 << 24) - 1
    server = FakeServer([Packet(last - 1, record()), Packet(last, record(second=1))], PLAIN_V3)
    session = connected(server)
    server = server.restarted([])
    again = new_session(position=session.position)
    join(again, server)
    assert "DATA 000000" in server.commands
    events = again.receive(v3(0, record(second=2)) + v3(1, record(second=3)), 0)
    assert sequences(events) == [3, 4]
    assert again.position.last == Mark(1, START_NS + 3 * SECOND)


@given(st.integers(0, (1 << 24) - 1), st.integers(1, 1 << 22))
def test_going_on_is_not_going_back_even_over_the_wrap(known: int, ahead: int) -> None:
    assert not goes_back((known + ahead) % (1 << 24), known, 3)
    assert goes_back(known, known, 3)
    assert goes_back((known - ahead) % (1 << 24), known, 3)


def test_the_same_64_bit_sequence_again_is_going_back() -> None:
    assert [goes_back(sequence, 5, 4) for sequence in (4, 5, 6)] == [True, True, False]


def test_the_last_64_bit_sequence_stays_in_range() -> None:
    assert next_sequence((1 << 64) - 1, 4) == (1 << 64) - 1


@pytest.mark.parametrize("hello", HELLOS)
def test_a_position_survives_json(hello: str) -> None:
    position = connected(FakeServer(ring(), hello)).position
    assert Position.from_dict(json.loads(json.dumps(position.as_dict()))) == position
    assert Position.from_dict(json.loads(json.dumps(Position().as_dict()))) == Position()


@pytest.mark.parametrize("hello", HELLOS)
def test_a_connection_says_how_it_goes_on(hello: str) -> None:
    """Down the ladder: after the last packet; where the sequences start again by time; else from the oldest."""

    def step(position: Position | None, **keys: object) -> str:
        (link,) = of(Connected, join(new_session(position=position, **keys), FakeServer(ring(), hello)))
        return link.step

    session = connected(FakeServer(ring(), hello))
    assert step(None) == "oldest"
    assert step(None, start="now") == "now"
    assert step(session.position, start="now") == "sequence"
    assert step(session.position.by_time()) == "time"
    server = FakeServer(ring(), hello)
    again = connected(server, position=session.position)
    assert [event.reason for event in again.receive(server.frame(Packet(1, record(second=9))), 0)] == ["reset"]
    assert step(again.position) == "time"


HOURS_NS = 3600 * SECOND
LAGGING = (("BW_UH1", START_NS), ("BW_UH2", START_NS - 2 * HOURS_NS), ("BW_UH9", START_NS - 30 * 24 * HOURS_NS))
LAGS = Position(4, Mark(9, START_NS), (), START_NS, server="mine:1", times=LAGGING)


def asked(position: Position, **keys: object) -> list[str]:
    server = FakeServer(ring(), PLAIN_V4, **keys)
    join(new_session(position=position), server)
    return [command for command in server.commands if command[:4] in ("STAT", "DATA")]


def test_each_station_goes_on_from_its_own_time_where_the_server_numbers_per_station() -> None:
    """One that is two hours behind would else lose what the ring still holds."""
    for place in (LAGS.at("mine:2"), LAGS.by_time(), Position.from_dict(LAGS.as_dict()).at("mine:2")):
        assert asked(place) == [
            "STATION BW_UH1",
            "DATA ALL 2010-05-27T16:14:00.000000Z",
            "STATION BW_UH2",
            "DATA ALL 2010-05-27T14:14:00.000000Z",
            "STATION BW_UH9",
            "DATA ALL 2010-04-27T16:14:00.000000Z",
            "STATION BW_*",
            "DATA ALL",
        ]
    assert "DATA ALL 2010-05-27T14:13:50.000000Z" in asked(LAGS.rewound(10 * SECOND))


def test_one_request_for_all_goes_back_to_the_station_that_lags_and_not_to_one_that_is_gone() -> None:
    for place in (LAGS.at("mine:2"), LAGS.at("mine:2").at("mine:3")):
        asked_by_time = ["STATION BW_*", "DATA ALL 2010-05-27T14:14:00.000000Z"]
        assert asked(place, capabilities=("SEQWILDCARD",)) == asked_by_time


@pytest.mark.parametrize("hello", HELLOS)
def test_times_of_stations_are_kept_whatever_numbers_the_server_gives(hello: str) -> None:
    packets = [Packet(1, record("FDSN:BW_UH2__S_H_Z")), Packet(2, record(second=9)), Packet(3, record(second=8))]
    place = connected(FakeServer(packets, hello)).position
    assert dict(place.times) == {"BW_UH1": START_NS + 8 * SECOND, "BW_UH2": START_NS}
    assert place.by_time().last == Mark(None, START_NS)


def test_a_ring_that_is_numbered_anew_is_asked_by_the_time_of_each_station() -> None:
    packets = [Packet(5000, record("FDSN:BW_UH2__S_H_Z")), Packet(5001, record(second=7200))]
    first = connected(FakeServer(packets, PLAIN_V4))
    server = FakeServer([], PLAIN_V4)
    session = connected(server, position=first.position)
    (error,) = session.receive(server.frame(Packet(1, record(second=7201))), 0)
    assert error.reason == "reset"
    assert "DATA ALL 2010-05-27T16:14:00.000000Z" in asked(session.position)
    assert "DATA ALL 2010-05-27T18:14:00.000000Z" in asked(session.position)


@pytest.mark.parametrize("hello", HELLOS)
def test_a_packet_from_the_future_counts_as_from_its_receipt(hello: str) -> None:
    server = FakeServer([], hello)
    session = connected(server)
    session.receive(server.push(Packet(1, record(second=10**6))), 0, START_NS + SECOND)
    place = session.position
    assert place.last == Mark(1, START_NS + 10**6 * SECOND)  # a sequence is checked against its packet's own time
    assert (place.time_ns, place.times) == (START_NS + SECOND, (("BW_UH1", START_NS + SECOND),))
    assert place.by_time().last == Mark(None, START_NS + SECOND)


def test_a_position_that_was_written_without_times_has_those_of_its_marks() -> None:
    written = Position(4, Mark(7, 500), (("BW_A", Mark(7, 500)), ("BW_B", Mark(3, None))), 500).as_dict()
    del written["times"]
    assert Position.from_dict(written).times == (("BW_A", 500),)


def test_a_position_belongs_to_its_server() -> None:
    here = connected(FakeServer(ring()), position=Position(server="mine:1")).position
    assert here.server == "mine:1"
    assert here.at("mine:1") is here
    there = replace(here, refused=("time",)).at("mine:2")
    (station,) = here.times
    oldest = Mark(None, here.time_ns)
    assert there == Position(4, oldest, ((station[0], oldest),), here.time_ns, server="mine:2", times=(station,))
    assert Position.from_dict({k: v for k, v in here.as_dict().items() if k != "server"}).server == ""


def test_a_time_ahead_of_the_clock_is_cut_down() -> None:
    here = Position(4, Mark(7, 500), (("BW_A", Mark(7, 500)),), 500, times=(("BW_A", 500),))
    assert here.not_after(500) == here
    cut = replace(here, time_ns=100, times=(("BW_A", 100),))
    assert here.not_after(100) == cut  # a sequence is checked against its packet's own time
    assert here.by_time().not_after(100) == cut.by_time()
    assert Position().not_after(0) == Position()


def test_another_server_is_asked_by_time() -> None:
    position = connected(FakeServer(ring(), PLAIN_V4)).position.by_time()
    server = FakeServer(ring(), PLAIN_V4)
    join(new_session(position=position), server)
    assert "DATA ALL 2010-05-27T16:14:03.000000Z" in server.commands
    assert Position().by_time() == Position()


def test_a_mark_that_knows_nothing_asks_for_everything() -> None:
    assert data_request(Server(4), Mark(None, None), "oldest", ()) == ("all", "DATA ALL")
    ringserver = Server(4, shared_sequence=True, checks_time=True)
    assert data_request(ringserver, Mark(5, None), "oldest", ()) == ("seq", "DATA 6")
    assert data_request(Server(4), Mark(None, 5), "oldest", ()) == ("time", "DATA ALL 1970-01-01T00:00:00.000000Z")


# Packets that cannot be used


@pytest.mark.parametrize("protocol", [3, 4])
@pytest.mark.parametrize(
    ("payload", "reason"),
    [
        (b"\0" * 512, "malformed"),
        (b"junk" * 128, "malformed"),
        (record()[:70].ljust(512, b"\xff"), "corrupt"),
        (record()[:15] + b"\xff" + record()[16:], "source"),
    ],
)
def test_a_bad_payload_is_dropped_counted_and_passed(protocol: int, payload: bytes, reason: str) -> None:
    session = connected(FakeServer(hello=PLAIN_V4 if protocol == 4 else PLAIN_V3))
    frame = v4 if protocol == 4 else v3
    bad, good = session.receive(frame(8, payload) + frame(9, record(second=8)), 0)
    assert (type(bad), bad.reason, bad.sequence) == (Rejected, reason, 8)
    assert sequences([good]) == [9]


def test_after_a_bad_payload_at_the_end_the_next_request_is_past_it() -> None:
    session = connected(FakeServer(hello=PLAIN_V4))
    session.receive(v4(8, b"junk" * 128), 0)
    assert session.position.last == Mark(8, None)
    server = FakeServer()
    join(new_session(position=session.position), server)
    assert "DATA 9" in server.commands


def test_a_record_without_samples_still_gives_its_time() -> None:
    session = connected(FakeServer(hello=PLAIN_V4))
    text = bytearray(record())
    text[30:32] = b"\0\0"
    (rejected,) = session.receive(v4(3, bytes(text)), 0)
    assert rejected.reason == "empty"
    assert session.position.last == Mark(3, START_NS)


def test_an_unknown_format_is_counted_and_skipped() -> None:
    session = connected(FakeServer(hello=PLAIN_V4))
    odd, good = session.receive(v4(1, b"{}", code="XD") + v4(2, record(second=1, version=3), code="3D"), 0)
    assert (odd.reason, odd.sequence, sequences([good])) == ("format", 1, [2])


def test_version_3_takes_records_of_other_lengths_and_of_miniseed_3() -> None:
    samples = np.arange(2000, dtype=np.int32) ** 2
    long = encode("FDSN:BW_UH1__S_H_Z", START_NS, 50.0, samples, record_length=4096)
    short = encode("FDSN:BW_UH1__S_H_Z", START_NS, 50.0, samples[:8], record_length=256)
    third = encode("FDSN:BW_UH1__S_H_Z", START_NS, 50.0, samples, record_length=4096, version=3)
    stream = b"".join(v3(i, payload) for i, payload in enumerate([*long, *short, *third], start=1))
    for cut in (len(stream), 100):
        session, events = connected(FakeServer(hello=PLAIN_V3)), []
        for at in range(0, len(stream), cut):
            events += session.receive(stream[at : at + cut], 0)
        assert [one.start_ns for one in records_of(events)] == [decode(one).start_ns for one in (*long, *short, *third)]
        assert session.position.last.sequence == len(long) + len(short) + len(third)


def _v2_header(chain: list[tuple[int, int, int]], exponent: int = 9, year: bytes = b"\x07\xda") -> bytearray:
    """A fixed section whose first blockette is at 48; chain: (offset, type, next)."""
    raw = bytearray(512)
    raw[6:7], raw[20:22], raw[46:48] = b"D", year, struct.pack(">H", 48)
    for at, kind, following in chain:
        raw[at : at + 7] = struct.pack(">HHBBB", kind, following, 11, 1, exponent)
    return raw


def test_the_length_that_a_record_states() -> None:
    assert record_length(_v2_header([(48, 100, 60), (60, 1000, 0)], 12), 0) == 4096
    assert record_length(_v2_header([(48, 1000, 0)], 40), 0) == 512
    assert record_length(_v2_header([(48, 100, 0)]), 0) == 512
    assert record_length(_v2_header([(48, 100, 48)]), 0) == 512
    assert record_length(_v2_header([(48, 100, 600)]), 0) is None
    assert record_length(bytearray(b"MS\x03" + bytes(30) + b"\xff" * 7 + bytes(8)), 0) == 512
    little = _v2_header([], year=b"\xda\x07")
    little[46:48], little[48:55] = b"\x30\0", struct.pack("<HHBBB", 1000, 0, 11, 0, 10)
    assert record_length(little, 0) == 1024


@pytest.mark.parametrize(
    ("protocol", "stream", "reason"),
    [
        (4, b"XXXX", "frame"),
        (4, b"SL000001", "frame"),
        (4, b"EX", "frame"),
        (4, b"ERRATIC", "frame"),
        (4, b"SE2D" + struct.pack("<IQB", PAYLOAD_LIMIT + 1, 7, 0), "size"),
        (4, b"ERROR " + b"x" * LINE_LIMIT, "line"),
        (4, b"ERROR UNAUTHORIZED no\r\n", "refused"),
        (4, b"END", "end"),
        (3, b"SE2D", "frame"),
        (3, b"SL00000G", "frame"),
        (3, b"SL0x12_3" + bytes(512), "frame"),
        (3, b"END", "end"),
        (4, b"", "closed"),
    ],
)
def test_what_ends_a_session(protocol: int, stream: bytes, reason: str) -> None:
    session = connected(FakeServer(hello=PLAIN_V4 if protocol == 4 else PLAIN_V3))
    (error,) = session.receive(stream, 0)
    assert (type(error), error.reason) == (SessionError, reason)
    assert session.closed
    assert not session.receive(v4(1, record()), 0)
    assert not session.poll(10**15)
    assert session.next_deadline() is None
    assert not session.to_send()


@pytest.mark.parametrize("word", [b"END", b"ERROR\r\n"])
def test_words_in_place_of_a_packet_may_come_letter_by_letter(word: bytes) -> None:
    session = connected(FakeServer(hello=PLAIN_V4))
    for letter in word[:-1]:
        assert not session.receive(bytes([letter]), 0)
    assert session.receive(word[-1:], 0)[0].reason in ("end", "refused")


def test_a_payload_at_the_limit_is_taken() -> None:
    session = connected(FakeServer(hello=PLAIN_V4))
    frame = v4(7, bytes(PAYLOAD_LIMIT))
    assert not session.receive(frame[:-1], 0)
    assert session.receive(frame[-1:], 0)[0].sequence == 7


def test_end_of_connection_during_negotiation_says_where() -> None:
    (error,) = new_session().receive(b"", 0)
    assert error.text == "the server closed the connection during HELLO"


def _broken(position: Position, stream: bytes, hello: str = RINGSERVER) -> Position:
    session = connected(FakeServer(hello=hello), position=position)
    assert any(isinstance(event, SessionError) for event in session.receive(stream, 0))
    return session.position


def test_a_broken_packet_is_asked_for_twice_and_then_stepped_over() -> None:
    first = _broken(Position(), v4(50, record()) + b"garbage")
    assert (first.last, first.failures) == (Mark(50, START_NS), 1)
    second = _broken(first, b"garbage")
    assert second.last == Mark(51, None)
    third = _broken(second, b"garbage")
    assert third.last == Mark(53, None)
    assert _broken(third, b"garbage").last == Mark(57, None)
    healed = connected(FakeServer(hello=RINGSERVER), position=third)
    healed.receive(v4(60, record(second=9)), 0)
    assert (healed.position.last, healed.position.failures) == (Mark(60, START_NS + 9 * SECOND), 0)


def test_stepping_over_moves_every_station_where_the_broken_one_is_not_known() -> None:
    first = _broken(Position(), v4(50, record()) + v4(9, record(), "BW_X") + b"garbage", PLAIN_V4)
    second = _broken(first, b"garbage", PLAIN_V4)
    assert second.stations == (("BW_UH1", Mark(51, None)), ("BW_X", Mark(10, None)))


def test_a_packet_too_large_is_stepped_over_by_its_own_number() -> None:
    giant = b"SE2D" + struct.pack("<IQB", PAYLOAD_LIMIT + 1, 70, 6) + b"BW_UH1"
    first = _broken(Position(), v4(50, record()) + giant, PLAIN_V4)
    assert first.last == Mark(50, START_NS)
    second = _broken(first, giant, PLAIN_V4)
    assert second.last == Mark(70, None)
    assert second.stations == (("BW_UH1", Mark(70, None)),)


def test_there_is_nothing_to_step_over_before_the_first_packet() -> None:
    position = Position()
    for _ in range(4):
        position = _broken(position, b"garbage")
    assert (position.last, position.failures) == (None, 4)
    tracker = Tracker(Position(4, Mark(None, 5), (), 5, 1), "oldest")
    tracker.broken("", None)
    assert tracker.position.last == Mark(None, 5)


# Silence


def test_silence_is_answered_with_a_ping_and_then_with_an_end() -> None:
    session = connected(FakeServer(ring(1)))  # the last bytes came at 7 ns
    assert session.next_deadline() == 7 + 30 * SECOND
    assert not session.poll(6 + 30 * SECOND)
    assert not session.to_send()
    assert not session.poll(7 + 30 * SECOND)
    assert session.to_send() == b"INFO ID\r\n"
    assert session.next_deadline() == 7 + 40 * SECOND
    (error,) = session.poll(7 + 40 * SECOND)
    assert (error.reason, "40 s" in error.text) == ("silent", True)


def test_while_nothing_is_read_pings_go_out_and_no_silence_is_counted() -> None:
    session = connected(FakeServer(ring(1)))  # the last bytes came at 7 ns
    assert session.streaming
    sent = {}
    for second in range(0, 200, 5):
        session.hold(7 + second * SECOND)
        sent[second] = session.to_send()
    assert [second for second, data in sent.items() if data] == [30, 60, 90, 120, 150, 180]
    assert set(sent.values()) == {b"", b"INFO ID\r\n"}
    assert not session.poll(7 + 189 * SECOND)  # reading again, the last ping has its time to be answered
    assert session.poll(7 + 190 * SECOND)[0].reason == "silent"


def test_what_came_meanwhile_keeps_the_link() -> None:
    server = FakeServer(ring(1))
    session = connected(server)
    session.hold(60 * SECOND)
    assert sequences(session.receive(server.push(Packet(2, record(second=1))), 100 * SECOND)) == [2]
    assert not session.poll(129 * SECOND)
    session.hold(129 * SECOND)
    assert session.to_send() == b"INFO ID\r\n"  # the one of 60 s
    session.hold(130 * SECOND)
    assert session.to_send() == b"INFO ID\r\n"


def test_before_data_flow_nothing_is_held() -> None:
    session = new_session()
    session.to_send()
    session.hold(100 * SECOND)
    assert not session.to_send()
    assert not session.streaming


@pytest.mark.parametrize(
    ("hello", "answer", "said"),
    [
        (PLAIN_V4, v4(0, b'{"software":"x"}', "", "JI"), ServerInfo('{"software":"x"}', error=False)),
        (PLAIN_V4, v4(0, b"{}", "", "JE"), ServerInfo("{}", error=True)),
        (PLAIN_V3, v3_info("<seedlink/>"), ServerInfo("<seedlink/>", error=False)),
        (PLAIN_V3, v3_info("", channel=b"ERR"), ServerInfo("", error=True)),
    ],
)
def test_an_answer_to_the_ping_keeps_the_link(hello: str, answer: bytes, said: ServerInfo) -> None:
    session = connected(FakeServer(hello=hello))
    session.poll(10**12)
    session.to_send()
    before = session.position
    assert session.receive(answer, 10**12 + SECOND) == [said]
    assert session.next_deadline() == 10**12 + 31 * SECOND
    assert session.position == before


@pytest.mark.parametrize(
    ("silent", "word"),
    [
        (("HELLO",), "HELLO"),
        (("USERAGENT",), "USERAGENT"),
        (("SELECT", "DATA"), "SELECT"),
        (("INFO",), "INFO CAPABILITIES"),
    ],
)
def test_a_command_without_reply_times_out_by_its_name(silent: tuple[str, ...], word: str) -> None:
    session = new_session()
    join(session, FakeServer(silent=silent))
    (error,) = session.poll(10 * SECOND + 7)
    assert (error.reason, error.text) == ("timeout", f"no answer to {word} within 10 s")


def test_bytes_that_complete_no_reply_do_not_put_the_end_off() -> None:
    session = new_session()
    session.receive(b"SeedL", 9 * SECOND)
    assert session.poll(10 * SECOND)[0].reason == "timeout"


# Garbage


@given(st.binary(max_size=300), st.sampled_from(HELLOS), st.booleans())
@settings(max_examples=150, deadline=None)
def test_garbage_makes_only_events(garbage: bytes, hello: str, while_streaming: bool) -> None:
    session = connected(FakeServer(hello=hello)) if while_streaming else new_session()
    if not garbage:
        return
    for event in session.receive(garbage, 0):
        assert isinstance(event, Event)
    assert session.position.last is None or session.position.last.sequence is not None


@given(st.data(), st.sampled_from([3, 4]))
@settings(max_examples=150, deadline=None)
def test_a_stream_with_flipped_bytes_makes_only_events(data: st.DataObject, protocol: int) -> None:
    frame = v4 if protocol == 4 else v3
    stream = bytearray(frame(1, record()) + frame(2, record(second=1)) + frame(3, record(second=2, version=3)))
    for _ in range(data.draw(st.integers(1, 8))):
        stream[data.draw(st.integers(0, len(stream) - 1))] = data.draw(st.integers(0, 255))
    session = connected(FakeServer(hello=PLAIN_V4 if protocol == 4 else PLAIN_V3))
    for event in session.receive(bytes(stream), 0):
        assert isinstance(event, Event)


@given(st.lists(st.sampled_from([b"OK\r\n", b"ERROR\r\n", b"SLINFO  ", b"SE", v4(0, b"{}", "", "JI"), b"\r\n"])))
@settings(max_examples=100, deadline=None)
def test_any_replies_make_only_events(replies: list[bytes]) -> None:
    session = new_session()
    session.receive(b"SeedLink v4.0 (x/1) :: SLPROTO:4.0\r\nhome\r\n", 0)
    for reply in replies:
        for event in session.receive(reply, 0):
            assert isinstance(event, Event)


@pytest.mark.parametrize(
    "payload", [b"", b"[]", b"{}", b'{"capability": 3}', b"\xff", b"[" * 100_000, b'{"capability": [1]}']
)
def test_capabilities_that_are_none(payload: bytes) -> None:
    assert json_capabilities(payload) == frozenset()


def test_stations_out_of_xml_take_only_whole_codes() -> None:
    xml = '<station name="A" network="BW" x="&lol;"><station network="YG" name="B"/>'
    xml += '<station name="C"/><station name="" network="D">'
    assert stations_in(xml * 2) == ["BW_A", "YG_B"]


# When to connect again


class Middle:
    def uniform(self, a: float, b: float, /) -> float:
        return (a + b) / 2


def delays_of(backoff: Backoff, now_ns: int, count: int) -> list[float]:
    """Waits in seconds, each begun when the one before was over."""
    delays = []
    for _ in range(count):
        delays.append(backoff.delay_ns(now_ns))
        now_ns += delays[-1]
    return [delay / 1e9 for delay in delays]


class Longest:
    def uniform(self, a: float, b: float, /) -> float:
        return b


def test_back_off_doubles_from_a_fifth_of_a_second_to_half_a_minute() -> None:
    backoff = Backoff(Longest())
    backoff.attempt(0)
    assert delays_of(backoff, 2 * SECOND, 13) == [0, 0.2, 0.4, 0.8, 1.5, 1.5, 1.5, 3, 6, 12, 24, 30, 30]
    backoff.reset()
    assert backoff.delay_ns(2 * SECOND) == 0


@given(st.integers(0, 2**32))
@settings(max_examples=50, deadline=None)
def test_a_server_that_comes_back_is_found_in_time(seed: int) -> None:
    """It may come back just after an attempt: it is found 1.5 s later at most in the first 5 s, then half a minute."""
    backoff, at_ns = Backoff(random.Random(seed)), 0  # noqa: S311 - jitter, no secret
    while at_ns < 200 * SECOND:
        wait_ns = backoff.delay_ns(at_ns)
        assert wait_ns <= (1.5 if at_ns < 5 * SECOND else 30) * SECOND
        at_ns += wait_ns


def test_a_connection_that_broke_at_once_is_not_retried_at_once() -> None:
    backoff = Backoff(Middle())
    backoff.attempt(SECOND)
    assert backoff.delay_ns(SECOND + 1) == round(0.75 * 0.2 * SECOND)
    backoff.reset()
    backoff.attempt(2 * SECOND)
    assert backoff.delay_ns(2 * SECOND + 1) == round(0.75 * 0.2 * SECOND)
    assert backoff.delay_ns(2 * SECOND + 1) == round(0.75 * 0.4 * SECOND)


def test_back_off_is_spread() -> None:
    delays = set()
    for seed in range(20):
        backoff = Backoff(random.Random(seed))  # noqa: S311 - jitter, no secret
        backoff.delay_ns(0)
        delays.add(backoff.delay_ns(0))
    assert len(delays) == 20
    assert all(0.1 * SECOND <= delay <= 0.2 * SECOND for delay in delays)
