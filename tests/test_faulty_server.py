"""The faulty servers do what their switches say: looked at by a plain socket, byte by byte."""

from __future__ import annotations

import socket
import ssl
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pytest
from faults_of_links import Split
from faulty_process import FaultyProcess, now
from faulty_server import FAULTS
from in_time import PATIENCE_S
from made_site import CHANNELS, RATE_HZ, START_NS, make_archive, samples_of

from tscc_stream import miniseed
from tscc_stream.sampling import NS_PER_SECOND, offset_ns
from tscc_stream.source_id import from_nslc

TAMPERED, WHOLE = (from_nslc(nslc) for nslc in CHANNELS[:2])
OPTIONS = (
    "stall:seconds=0.4",
    "stall_silent:seconds=0.4",
    "poison_size:kind=size",
    "endless_data:where=data",
    "outage:seconds=0.2",
    "slow_drip:rate=40000",
    "v3_wrap:before=3",
    "late_record:seconds=60",
)
LABELS = [*FAULTS, "poison_size=poison_record", "endless_data=endless_line"]


class Got(NamedTuple):
    number: int
    code: bytes
    payload: bytes

    @property
    def sid(self) -> str:
        return miniseed.header(self.payload).sourceid

    @property
    def start_ns(self) -> int:
        return int(miniseed.header(self.payload).starttime)


class Ended(Exception):  # noqa: N818 - what some tests wait for
    """The connection is over; `rest`: what came last."""

    def __init__(self, rest: bytes) -> None:
        super().__init__(rest)
        self.rest = rest


class Raw:
    """A client that knows no mercy: commands out, bytes in."""

    def __init__(self, sock: socket.socket, protocol: int = 4) -> None:
        self.sock, self.protocol, self.buffer = sock, protocol, b""
        sock.settimeout(PATIENCE_S)

    def say(self, *lines: str) -> None:
        self.sock.sendall("".join(f"{line}\r\n" for line in lines).encode())

    def grow(self) -> None:
        data = self.sock.recv(65536)
        if not data:
            raise Ended(self.buffer)
        self.buffer += data

    def take(self, size: int) -> bytes:
        while len(self.buffer) < size:
            self.grow()
        taken, self.buffer = self.buffer[:size], self.buffer[size:]
        return taken

    def line(self) -> str:
        while b"\r\n" not in self.buffer:
            self.grow()
        line, _, self.buffer = self.buffer.partition(b"\r\n")
        return line.decode()

    def ask(self, *lines: str) -> list[str]:
        self.say(*lines)
        return [self.line() for _ in lines]

    def begin(self, data: str = "DATA ALL", *stations: str) -> None:
        """Have data flow, from the first packet on."""
        if self.protocol == 4:
            assert self.ask("SLPROTO 4.0") == ["OK"]
        for station in stations or ("XX_*",):
            name = station if self.protocol == 4 else " ".join(reversed(station.split("_")))
            assert (
                self.ask(f"STATION {name}", "SELECT *_H_H_Z" if self.protocol == 4 else "SELECT HHZ", data)
                == ["OK"] * 3
            )
        self.say("END")

    def packet(self) -> Got:
        if self.protocol == 3:
            head = self.take(8)
            assert head[:2] == b"SL", head
            return Got(int(head[2:], 16) if head[2:6] != b"INFO" else -1, head[2:6], self.take(512))
        head = self.take(17)
        assert head[:2] == b"SE", head
        length, number, name = struct.unpack("<IQB", head[4:])
        self.take(name)
        return Got(number, head[2:4], self.take(length))

    def packets(self, count: int) -> list[Got]:
        return [self.packet() for _ in range(count)]

    def all(self, complete: Callable[[], object]) -> list[Got]:
        """Every packet that is there, once the server says that it is `complete`."""
        found = []
        self.sock.settimeout(0.05)
        while not complete():
            with suppress(TimeoutError):
                found.append(self.packet())
        self.sock.settimeout(PATIENCE_S)
        self.say("INFO ID")
        while (packet := self.packet()).code != b"JI":
            found.append(packet)
        return found


@contextmanager
def talking(address: str, protocol: int = 4) -> Iterator[Raw]:
    host, _, port = address.rpartition(":")
    with socket.create_connection((host.strip("[]"), int(port)), PATIENCE_S) as sock:
        yield Raw(sock, protocol)


@pytest.fixture(scope="module")
def archive(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_archive(tmp_path_factory.mktemp("archive"))


@pytest.fixture(scope="module")
def servers(archive: Path) -> Iterator[FaultyProcess]:
    """All faults there are, each at its own port of one process."""
    with FaultyProcess(*LABELS, archive=archive, options=OPTIONS) as process:
        yield process


@pytest.fixture(scope="module")
def whole(servers: FaultyProcess) -> list[Got]:
    """What a server without fault sends."""
    with talking(servers.addresses["none"]) as raw:
        raw.begin()
        return raw.all(lambda: servers.of("none", "all_sent"))


def of(sid: str, packets: list[Got]) -> list[bytes]:
    return [packet.payload for packet in packets if packet.sid == sid]


def test_without_a_fault_everything_comes(servers: FaultyProcess, whole: list[Got], archive: Path) -> None:
    assert servers.addresses.keys() == {label.partition("=")[0] for label in LABELS}
    for nslc in CHANNELS:
        assert b"".join(of(from_nslc(nslc), whole)) == (archive / f"{nslc}.mseed").read_bytes()
    assert [packet.number for packet in whole] == list(range(1, len(whole) + 1))
    told = [event["line"] for event in servers.of("none", "command")]
    assert told == ["SLPROTO 4.0", "STATION XX_*", "SELECT *_H_H_Z", "DATA ALL", "END", "INFO ID"]
    assert servers.wait_for("none", "closed")["packets"] == len(whole)
    assert servers.of("none", "all_sent")


# Links


def test_refused_until_it_returns(servers: FaultyProcess) -> None:
    address = servers.addresses["refused"]
    with pytest.raises(ConnectionRefusedError), talking(address):
        pass
    servers.tell("return", "refused")
    servers.wait_for("refused", "up")
    with talking(address) as raw:
        raw.begin()
        assert raw.packet().number == 1
    assert 0.0 < servers.recovery_seconds("refused") < 20.0


def test_any_port_can_be_closed_and_opened_again(archive: Path) -> None:
    with FaultyProcess("none", archive=archive) as process:
        address = process.addresses["none"]
        with talking(address) as raw:
            raw.begin()
            raw.packets(3)
            process.tell("down", "none")
            with pytest.raises((Ended, ConnectionResetError)):
                raw.packets(10**6)
        process.wait_for("none", "down")
        with pytest.raises(ConnectionRefusedError), talking(address):
            pass
        process.tell("return", "none")
        process.wait_for("none", "up")
        with talking(address) as raw:
            raw.begin("DATA 4")
            assert raw.packet().number == 4


def test_black_hole_answers_nobody_before_it_returns(servers: FaultyProcess) -> None:
    address = servers.addresses["black_hole"]
    with talking(address) as swallowed, talking(address) as too:
        for raw in (swallowed, too):
            raw.say("HELLO")
            raw.sock.settimeout(0.2)
            with pytest.raises(TimeoutError):
                raw.line()
        servers.tell("return", "black_hole")
        servers.wait_for("black_hole", "up")
        with talking(address) as raw:
            assert raw.ask("HELLO")[0].startswith("SeedLink")


def test_half_open_goes_silent_without_an_end(servers: FaultyProcess) -> None:
    with talking(servers.addresses["half_open"]) as raw:
        raw.begin()
        raw.packets(5)
        raw.say("INFO ID")
        raw.sock.settimeout(0.3)
        with pytest.raises(TimeoutError):
            raw.packet()
    with talking(servers.addresses["half_open"]) as raw:
        raw.begin()
        assert len(raw.packets(20)) == 20


def test_eof_comes_after_some_packets_and_once(servers: FaultyProcess) -> None:
    with talking(servers.addresses["eof"]) as raw:
        raw.begin()
        raw.packets(5)
        with pytest.raises(Ended):
            raw.packet()
    with talking(servers.addresses["eof"]) as raw:
        raw.begin("DATA 6")
        assert raw.packet().number == 6


@pytest.mark.parametrize(("name", "answered"), [("stall", True), ("stall_silent", False)])
def test_a_stall_ends_and_nothing_is_lost(servers: FaultyProcess, name: str, answered: bool) -> None:
    with talking(servers.addresses[name]) as raw:
        raw.begin()
        raw.packets(5)
        struck = servers.wait_for(name, "fault")["t"]
        raw.say("INFO ID")
        first = raw.packet()
        assert (first.code == b"JI") == (answered or first.number == 0)
        assert (now() - struck < 0.4) == answered
        packets = raw.packets(8)
        assert [packet.number for packet in packets if packet.code == b"2D"][:3] == [6, 7, 8]
        assert now() - struck >= 0.4


@pytest.mark.parametrize("name", ["split", "slow_drip"])
def test_split_and_slow_lines_carry_the_same_bytes(servers: FaultyProcess, whole: list[Got], name: str) -> None:
    with talking(servers.addresses[name]) as raw:
        raw.begin()
        began = now()
        assert [packet.payload for packet in raw.packets(10)] == [packet.payload for packet in whole[:10]]
        assert name == "split" or now() - began > 10 * 512 / 40_000


def test_split_sends_single_bytes() -> None:
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)  # keeps each send apart
    with ours, theirs:
        assert Split().link(ours).send(memoryview(b"SeedLink")) == 8
        assert [theirs.recv(100) for _ in range(8)] == [bytes((code,)) for code in b"SeedLink"]


@pytest.mark.parametrize(
    ("name", "sent"), [("error_mid_stream", b"ERROR INTERNAL the disk is full\r\n"), ("end_mid_stream", b"END")]
)
def test_a_text_in_place_of_a_packet(servers: FaultyProcess, name: str, sent: bytes) -> None:
    with talking(servers.addresses[name]) as raw:
        raw.begin()
        raw.packets(5)
        with pytest.raises(Ended) as ended:
            raw.take(10_000)
        assert ended.value.rest == sent


def test_endless_lines(servers: FaultyProcess) -> None:
    with talking(servers.addresses["endless_line"]) as raw:
        raw.say("HELLO")
        assert b"\n" not in raw.take(100_000)
    with talking(servers.addresses["endless_data"]) as raw:
        raw.begin()
        raw.packets(5)
        text = raw.take(100_000)
        assert (text[:6], text.count(b"\n")) == (b"ERROR ", 0)


def test_oversize_length(servers: FaultyProcess) -> None:
    with talking(servers.addresses["oversize_length"]) as raw:
        raw.begin()
        raw.packets(5)
        head = raw.take(17)
        assert (head[:4], struct.unpack("<IQ", head[4:16])) == (b"SE2D", (1 << 31, 6))


@pytest.mark.parametrize(("name", "broken"), [("poison_record", b"XX2D"), ("poison_size", b"SE2D\x00\x00\x00\x80")])
def test_a_poisoned_packet_breaks_the_framing_every_time(servers: FaultyProcess, name: str, broken: bytes) -> None:
    with talking(servers.addresses[name]) as raw:
        raw.begin()
        raw.packets(5)
        assert raw.take(len(broken)) == broken
    for _ in range(3):
        number = servers.wait_for(name, "fault")["number"]
        with talking(servers.addresses[name]) as raw:
            raw.begin(f"DATA {number - 1}")
            raw.packet()
            assert raw.take(len(broken)) == broken
    with talking(servers.addresses[name]) as raw:
        raw.begin(f"DATA {number + 1}")
        assert raw.packet().number == number + 1


def test_outage(servers: FaultyProcess) -> None:
    with talking(servers.addresses["outage"]) as raw:
        raw.begin()
        with pytest.raises((Ended, ConnectionResetError)):
            raw.packets(10**6)
    up = servers.wait_for("outage", "up")["t"]
    assert up - servers.of("outage", "down")[0]["t"] >= 0.2
    with talking(servers.addresses["outage"]) as raw:
        raw.begin("DATA 5")
        assert raw.packet().number == 5


def test_ring_reset_numbers_the_same_records_from_1(servers: FaultyProcess, whole: list[Got]) -> None:
    with talking(servers.addresses["ring_reset"]) as raw:
        raw.begin()
        with pytest.raises((Ended, ConnectionResetError)):
            raw.packets(10**6)
    servers.wait_for("ring_reset", "down")
    servers.tell("return", "ring_reset")
    servers.wait_for("ring_reset", "up")
    with talking(servers.addresses["ring_reset"]) as raw:
        raw.begin()
        again = raw.all(lambda: servers.of("ring_reset", "all_sent"))
    assert [packet.number for packet in again] == list(range(1, len(again) + 1))
    assert [packet.payload for packet in again] == [packet.payload for packet in whole[-len(again) :]]
    assert len(again) == len(whole) - 18  # two before the twentieth are still there


def test_ring_overrun_leaves_a_gap(servers: FaultyProcess, whole: list[Got]) -> None:
    with talking(servers.addresses["ring_overrun"]) as raw:
        raw.begin()
        with pytest.raises((Ended, ConnectionResetError)):
            raw.packets(10**6)
    servers.wait_for("ring_overrun", "down")
    servers.tell("return", "ring_overrun")
    assert servers.wait_for("ring_overrun", "lost")["packets"] == 20
    servers.wait_for("ring_overrun", "up")
    with talking(servers.addresses["ring_overrun"]) as raw:
        raw.begin("DATA 6")
        assert raw.packet() == whole[25]


def test_version_3_only(servers: FaultyProcess) -> None:
    with talking(servers.addresses["v3_only"], 3) as raw:
        raw.say("HELLO")
        assert "SLPROTO" not in raw.line() + raw.line()
        assert raw.ask("SLPROTO 4.0") == ["ERROR"]
        raw.begin("DATA 000001")
        assert [packet.number for packet in raw.packets(3)] == [1, 2, 3]


def test_version_3_numbers_wrap(servers: FaultyProcess) -> None:
    with talking(servers.addresses["v3_wrap"], 3) as raw:
        raw.begin("DATA FFFFFD")
        assert [packet.number for packet in raw.packets(5)] == [0xFFFFFD, 0xFFFFFE, 0xFFFFFF, 0, 1]


def test_tls(servers: FaultyProcess) -> None:
    context = ssl.create_default_context(cafile=servers.wait_for("tls", "certificate")["path"])
    host, _, port = servers.addresses["tls"].rpartition(":")
    with (
        socket.create_connection((host, int(port)), PATIENCE_S) as sock,
        context.wrap_socket(sock, server_hostname=host) as wrapped,
    ):
        raw = Raw(wrapped)
        raw.begin()
        assert len(raw.packets(100)) == 100


def test_auth(servers: FaultyProcess) -> None:
    with talking(servers.addresses["auth"]) as raw:
        assert raw.ask("SLPROTO 4.0", "STATION XX_*")[1].startswith("ERROR")
        assert raw.ask("AUTH USERPASS mine wrong")[0].startswith("ERROR AUTH")
        assert raw.ask("AUTH USERPASS mine open", "STATION XX_*") == ["OK", "OK"]
    assert "open" not in "".join(event["line"] for event in servers.of("auth", "command"))


def test_ipv6(servers: FaultyProcess) -> None:
    assert servers.addresses["ipv6"].startswith("[::1]:")
    with talking(servers.addresses["ipv6"]) as raw:
        raw.begin()
        assert raw.packet().number == 1


# Input


@pytest.fixture(scope="module")
def tampered(servers: FaultyProcess) -> dict[str, list[Got]]:
    """What each server with a fault of input sends, all asked at once."""
    names = [name for name, kind in FAULTS.items() if kind.__module__ == "faults_of_input"]
    found: dict[str, list[Got]] = {}
    raws = {name: Raw(_connected(servers.addresses[name])) for name in names}
    for raw in raws.values():
        raw.begin()
    for name, raw in raws.items():
        found[name] = raw.all(lambda name=name: servers.of(name, "all_sent"))
        raw.sock.close()
    return found


def _connected(address: str) -> socket.socket:
    host, _, port = address.rpartition(":")
    return socket.create_connection((host, int(port)), PATIENCE_S)


def readable(payload: bytes) -> bool:
    try:
        return miniseed.decode(payload) is not None
    except miniseed.RecordError:
        return False


@pytest.fixture
def sent(tampered: dict[str, list[Got]], whole: list[Got], request: pytest.FixtureRequest) -> list[bytes]:
    """The payloads of the channel that is tampered with; of the others, each one's own."""
    packets = tampered[request.param]
    others = [packet.payload for packet in packets if packet.payload[8:20] == of(WHOLE, whole)[0][8:20]]
    assert others == of(WHOLE, whole)
    mine = of(TAMPERED, whole)
    payloads = [packet.payload for packet in packets if packet.payload[8:13] == mine[0][8:13]]
    assert payloads[:5] == mine[:5]
    return payloads


def using(name: str) -> pytest.MarkDecorator:
    return pytest.mark.parametrize("sent", [name], indirect=True, ids=[name])


@pytest.fixture
def original(whole: list[Got]) -> list[bytes]:
    return of(TAMPERED, whole)


@using("duplicate")
def test_duplicate(sent: list[bytes], original: list[bytes]) -> None:
    assert sent[5:] == [payload for payload in original[5:] for _ in range(2)]


def joined(payloads: list[bytes]) -> np.ndarray:
    return np.concatenate([miniseed.decode(payload).samples for payload in payloads])


@using("overlap")
def test_overlap(sent: list[bytes], original: list[bytes]) -> None:
    extra = 20 * (len(original) - 5)
    assert len(joined(sent)) == len(joined(original)) + extra
    before, after = (miniseed.decode(payload) for payload in sent[4:6])
    assert np.array_equal(before.samples[-20:], after.samples[:20])
    assert after.start_ns == before.start_ns + offset_ns(len(before.samples) - 20, RATE_HZ)


@using("out_of_order")
def test_out_of_order(sent: list[bytes], original: list[bytes]) -> None:
    assert sorted(sent) == sorted(original)
    places = [original.index(payload) for payload in sent]
    assert places[5:16] == [6, 5, 7, 8, 9, 10, 12, 13, 14, 11, 15]


@using("late_record")
def test_late_record(sent: list[bytes], original: list[bytes]) -> None:
    assert sorted(sent) == sorted(original)
    late_by = miniseed.decode(sent[sent.index(original[5]) - 1]).start_ns - miniseed.decode(original[5]).start_ns
    assert 60 <= late_by / NS_PER_SECOND < 65


@pytest.mark.parametrize(
    ("sent", "seconds"), [("clock_forward", 3600), ("clock_back", -3600)], indirect=["sent"], ids=["forward", "back"]
)
def test_clock(sent: list[bytes], original: list[bytes], seconds: int) -> None:
    shifts = [
        miniseed.decode(one).start_ns - miniseed.decode(two).start_ns for one, two in zip(sent, original, strict=True)
    ]
    assert shifts == [0] * 5 + [seconds * NS_PER_SECOND] * 5 + [0] * (len(sent) - 10)
    assert np.array_equal(joined(sent), joined(original))


@using("leap_second")
def test_leap_second(sent: list[bytes], original: list[bytes]) -> None:
    assert np.array_equal(joined(sent), joined(original))
    stated = [payload[26] for payload in sent]
    first = stated.index(60)
    leap_ns = miniseed.decode(sent[first]).start_ns
    assert leap_ns % (60 * NS_PER_SECOND) == 0
    after = first + stated.count(60)
    assert stated[first:after] == [60] * (after - first)
    elapsed_ns = offset_ns(len(joined(sent[first:after])), RATE_HZ)
    assert miniseed.decode(sent[after]).start_ns == leap_ns + elapsed_ns - NS_PER_SECOND
    assert miniseed.decode(sent[-1]).start_ns == miniseed.decode(original[-1]).start_ns - NS_PER_SECOND


@using("rate_change")
def test_rate_change(sent: list[bytes]) -> None:
    rates = [miniseed.decode(payload).sample_rate_hz for payload in sent]
    changed = rates.count(50.0)
    assert changed >= 5
    assert rates == [100.0] * 5 + [50.0] * changed + [100.0] * (len(rates) - 5 - changed)


REASONS = {
    "zero_length": "empty",
    "text_record": "text",
    "event_record": "empty",
    "unknown_encoding": "encoding",
}


@pytest.mark.parametrize("sent", REASONS, indirect=True)
def test_records_without_samples(sent: list[bytes], original: list[bytes], request: pytest.FixtureRequest) -> None:
    name = request.node.callspec.params["sent"]
    bad = [payload for payload in sent if not readable(payload)]
    assert len(bad) == len(original) - 5
    with pytest.raises(miniseed.RecordError) as error:
        miniseed.decode(bad[0])
    assert error.value.reason == REASONS[name]
    good = original[:5] if name == "unknown_encoding" else original
    assert [payload for payload in sent if payload not in bad] == good


@using("wrong_length")
def test_wrong_length(sent: list[bytes], original: list[bytes]) -> None:
    assert [payload[54] for payload in sent[5:8]] == [12, 9, 9]
    counts = [struct.unpack_from(">H", payload, 30)[0] for payload in (*sent[5:8], *original[5:8])]
    assert (counts[0] == counts[3], counts[1] == 3 * counts[4], counts[2] == counts[5] // 2) == (True, True, True)


@using("corrupt_steim")
def test_corrupt_steim(sent: list[bytes], original: list[bytes]) -> None:
    assert [one[:64] for one in sent] == [two[:64] for two in original]
    assert all(one != two for one, two in zip(sent[5:], original[5:], strict=True))


def test_unasked_channel(tampered: dict[str, list[Got]], whole: list[Got]) -> None:
    extra = [packet for packet in tampered["unasked_channel"] if packet.payload[15:18] == b"XYZ"]
    assert len(extra) == len(of(TAMPERED, whole)) - 5
    assert [p.payload for p in tampered["unasked_channel"] if p not in extra] == [p.payload for p in whole]


@using("vanish_appear")
def test_vanish_appear(sent: list[bytes], original: list[bytes]) -> None:
    missing = [payload for payload in original if payload not in sent]
    assert sent == [payload for payload in original if payload not in missing]
    first, last = (miniseed.decode(payload).start_ns for payload in (missing[0], missing[-1]))
    assert missing[0] == original[5]
    assert 25 <= (last - first) / NS_PER_SECOND < 30


@using("one_sample_gaps")
def test_one_sample_gaps(sent: list[bytes]) -> None:
    records = [miniseed.decode(payload) for payload in sent[5:]]
    starts = np.array([record.start_ns for record in records])
    ends = starts + np.array([offset_ns(len(record.samples), RATE_HZ) for record in records])
    gaps = np.rint((starts[1:] - ends[:-1]) * RATE_HZ / NS_PER_SECOND)
    assert (gaps == 1).sum() > 2000
    samples = samples_of(0)
    for record in records[:50]:
        at = round((record.start_ns - START_NS) * RATE_HZ / NS_PER_SECOND)
        assert np.array_equal(record.samples, samples[at : at + len(record.samples)])


@using("nan")
def test_not_a_number(sent: list[bytes], original: list[bytes]) -> None:
    values = joined(sent[5:])
    assert (values.dtype, np.isnan(values).sum()) == (np.float32, 5 * (len(original) - 5))


def test_json_packet(tampered: dict[str, list[Got]], whole: list[Got]) -> None:
    codes = [packet.code for packet in tampered["json_packet"]]
    assert codes.count(b"JD") == len(of(TAMPERED, whole))
    assert [p.payload for p in tampered["json_packet"] if p.code == b"2D"] == [p.payload for p in whole]


def test_mistakes_are_one_sentence(archive: Path) -> None:
    program = str(Path(__file__).with_name("faulty_server.py"))
    for arguments, sentence in (
        (["--fault", "flood"], "fault 'flood': expected one of none, refused"),
        (["--fault", "eof"], "fault 'eof': expected an archive, as eof@FOLDER or as first argument"),
        ([str(archive), "--fault", "eof", "--fault-option", "x=1"], "option 'x' of eof: expected one of after, times"),
        ([str(archive), "--fault", "eof", "--fault", "eof"], "a label of its own for each"),
    ):
        run = subprocess.run([sys.executable, program, *arguments], capture_output=True, text=True, check=False)
        assert run.returncode == 2
        assert sentence in run.stderr
