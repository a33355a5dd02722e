"""Foreign clients read the replay server, a process of its own, over a socket: samples must equal the archive's.

obspy 1.5.1 needs help: without an explicit timeout its clients compare a float with None and never connect, and
EasySeedLinkClient does not let one be given.
"""

from __future__ import annotations

import re
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import numpy as np
import pytest
from in_time import PATIENCE_S
from made_archive import Made, channel, joined, mixed, write
from made_site import Here

from tscc_stream import miniseed
from tscc_stream.edges import archive
from tscc_stream.serve.replay import ReplayOptions
from tscc_stream.serve.server import ReplayServer, ServeError, ServerOptions


class Served:
    """A server process and the port that it says it listens on."""

    def __init__(self, folder: Path, *arguments: str) -> None:
        command = [sys.executable, "-P", "-m", "tscc_stream", "serve", str(folder), "--bind", "127.0.0.1:0", *arguments]
        self.process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True)
        self._watchdog = threading.Timer(PATIENCE_S, self.process.kill)
        self._watchdog.start()
        assert self.process.stderr is not None
        line = self.process.stderr.readline()
        match = re.match(r"listening on 127\.0\.0\.1:(\d+) ", line)
        assert match, line + self.process.stderr.read()
        self.port = int(match[1])

    def exit_status(self) -> int:
        return self.process.wait(PATIENCE_S)

    def stop(self) -> int:
        self.process.send_signal(signal.SIGTERM)
        status = self.process.wait(PATIENCE_S)
        self._watchdog.cancel()
        assert self.process.stderr is not None
        self.process.stderr.close()
        return status


@contextmanager
def serving(folder: Path, *arguments: str) -> Iterator[Served]:
    served = Served(folder, *arguments)
    try:
        yield served
    finally:
        served.stop()


@pytest.fixture(scope="module")
def mixed_archive(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, list[Made]]:
    made = mixed()
    return write(tmp_path_factory.mktemp("mixed"), made), made


def assert_equal(found: dict[str, list], made: list[Made]) -> None:
    """found: source id -> [(start ns, samples)]."""
    assert sorted(found) == sorted(one.sid for one in made)
    for one in made:
        start, samples = joined(found[one.sid], one.rate)
        assert abs(start - one.start_ns) < 1000
        assert np.array_equal(samples, one.samples)


# ---- seedlink-client


def collected(port: int, version: int, **options: object) -> Iterator:
    from seedlink_client import Protocol, SeedLink  # noqa: PLC0415  # loaded where it is needed

    protocol = Protocol.V4 if version == 4 else Protocol.V3
    with SeedLink("127.0.0.1", port, timeout=PATIENCE_S, protocol=protocol, **options) as client:
        client.add_stream("*_*", all_data=True)
        yield from client.collect(reconnect=False)


def decoded(packets: Iterator) -> dict[str, list]:
    found: dict[str, list] = {}
    for packet in packets:
        record = miniseed.decode(packet.payload)
        found.setdefault(record.sid, []).append((record.start_ns, record.samples))
    return found


@pytest.mark.parametrize("version", [3, 4])
def test_seedlink_client_reads_everything_in_dial_up_mode(mixed_archive, version: int) -> None:
    folder, made = mixed_archive
    with serving(folder, "--speed", "max") as server:
        for _ in range(2):  # a late client sees the same
            assert_equal(decoded(collected(server.port, version, dialup=True)), made)


@pytest.mark.parametrize("version", [3, 4])
def test_once_ends_the_clients_and_the_server(mixed_archive, version: int) -> None:
    folder, made = mixed_archive
    with serving(folder, "--speed", "100", "--once", "--wait-for-client") as server:
        assert_equal(decoded(collected(server.port, version)), made)
        assert server.exit_status() == 0


def test_seedlink_client_resumes_where_it_stopped(mixed_archive) -> None:
    from seedlink_client import SeedLink  # noqa: PLC0415  # loaded where it is needed

    folder, made = mixed_archive
    with serving(folder, "--speed", "max") as server:
        packets: list = []
        for _ in range(50):
            seen = packets[-1].seqnum if packets else None
            before = len(packets)
            with SeedLink("127.0.0.1", server.port, timeout=PATIENCE_S, dialup=True) as client:
                client.add_stream("*", seqnum=seen, all_data=seen is None)
                for packet in client.collect(reconnect=False):
                    packets.append(packet)
                    if len(packets) == before + 17:
                        break
            if len(packets) < before + 17:
                break
        assert len(packets) > 60
        assert_equal(decoded(iter(packets)), made)


# ---- obspy


@contextmanager
def watched(connection) -> Iterator[None]:
    """Ends obspy's clients, which wait in loops of their own, where a test would hang."""
    timer = threading.Timer(PATIENCE_S, connection.terminate)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


def add_trace(found: dict[str, list], trace) -> None:
    network, station, location, code = trace.id.split(".")
    sid = f"FDSN:{network}_{station}_{location}_{'_'.join(code)}"
    found.setdefault(sid, []).append((trace.stats.starttime.ns, trace.data))


def test_obspy_slclient_reads_everything(mixed_archive) -> None:
    from obspy.clients.seedlink.slclient import SLClient  # noqa: PLC0415  # loaded where it is needed

    folder, made = mixed_archive
    wanted = sum(len(one.samples) for one in made)
    found: dict[str, list] = {}

    def take(_: int, packet) -> bool:
        add_trace(found, packet.get_trace())
        return sum(len(samples) for parts in found.values() for _, samples in parts) >= wanted

    with serving(folder, "--speed", "max") as server:
        client = SLClient(timeout=PATIENCE_S)
        client.slconn.set_sl_address(f"127.0.0.1:{server.port}")
        client.multiselect = "XX_AAA,XX_BBB,XX_CCC,YY_AAA,YY_BBB"
        client.selectors = "???"
        client.begin_time = "2010,01,01,00,00,00"
        client.initialize()
        with watched(client.slconn):
            client.run(packet_handler=take)
        client.slconn.close()
    assert_equal(found, made)


def test_obspy_easy_client_reads_everything_and_is_sent_home(mixed_archive) -> None:
    from obspy.clients.seedlink.easyseedlink import EasySeedLinkClient  # noqa: PLC0415  # loaded where it is needed

    folder, made = mixed_archive
    found: dict[str, list] = {}

    class Client(EasySeedLinkClient):
        ended = False

        def on_data(self, trace) -> None:
            add_trace(found, trace)

        def on_terminate(self) -> None:
            self.ended = True

    with serving(folder, "--speed", "100", "--once", "--wait-for-client") as server:
        client = Client(f"127.0.0.1:{server.port}", autoconnect=False)
        client.conn.timeout = PATIENCE_S
        client.connect()
        assert "multistation" in client.capabilities
        for one in made:
            network, station, *_ = one.sid.removeprefix("FDSN:").split("_")
            client.select_stream(network, station, "???")
        with watched(client.conn):
            client.run()
        assert client.ended
        client.conn.close()
        assert server.exit_status() == 0
    assert_equal(found, made)


def test_obspy_reads_the_streams_of_the_server(mixed_archive) -> None:
    from obspy.clients.seedlink.easyseedlink import EasySeedLinkClient  # noqa: PLC0415  # loaded where it is needed

    folder, _ = mixed_archive
    with serving(folder, "--speed", "max") as server:
        client = EasySeedLinkClient(f"127.0.0.1:{server.port}", autoconnect=False)
        client.conn.timeout = PATIENCE_S
        client.connect()
        with watched(client.conn):
            text = client.get_info("STREAMS")
        client.conn.close()
    assert text.count("seedname=") == 5


# ---- the server itself


def begin_with(server: ReplayServer, readers: int) -> None:
    """Let the replay begin only once so many have asked: the ring moves on before a later one's request is read."""
    begin = server.replay.begin

    def begin_once_asked(now: float, wall_ns: int) -> None:
        if sum(client.session.cursor is not None for client in server._clients.values()) >= readers:
            begin(now, wall_ns)

    server.replay.begin = begin_once_asked  # type: ignore[method-assign]  # the test's own seam


def test_two_slow_readers_of_a_ring_smaller_than_the_archive_get_everything(tmp_path: Path) -> None:
    """At full speed the replay waits for both, and holds no more than the ring and the sockets do."""
    made = [channel("FDSN:XX_AAA__H_H_Z", seconds=3000, seed=3)]
    index = archive.index([write(tmp_path, made)])
    options = ServerOptions(replay=ReplayOptions(speed="max"), once=True, wait_for_client=True, ring_bytes=40 * 512)
    server = ReplayServer(index, options=options)
    begin_with(server, 2)
    with server:
        sockets = [socket.create_connection(server.address, timeout=PATIENCE_S) for _ in range(2)]
        data = [b"", b""]
        for one in sockets:
            one.sendall(b"SLPROTO 4.0\r\nSTATION *\r\nDATA\r\nEND\r\n")
        ended: set[int] = set()
        while len(ended) < 2:
            for number in {0, 1} - ended:
                part = sockets[number].recv(3000)
                data[number] += part
                if not part:
                    ended.add(number)
            assert server.ring.size_bytes <= 41 * 512  # a record comes before the oldest one goes
        for one in sockets:
            one.close()
        assert server.done.wait(PATIENCE_S)
    assert data[0].endswith(b"END")
    assert data[0].count(b"SE2D") == len(made[0].records) == data[1].count(b"SE2D")
    assert data[0] == data[1]


def test_a_reader_that_stops_reading_does_not_hold_up_a_paced_replay(tmp_path: Path) -> None:
    made = [channel("FDSN:XX_AAA__H_H_Z", seconds=30_000, seed=3)]
    index = archive.index([write(tmp_path, made)])
    options = ServerOptions(replay=ReplayOptions(speed=100_000.0), once=True, wait_for_client=True)
    with ReplayServer(index, options=options) as server:
        stalled = socket.socket()
        stalled.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
        stalled.connect(server.address)
        stalled.sendall(b"SLPROTO 4.0\r\nSTATION *\r\nDATA\r\nEND\r\n")
        with socket.create_connection(server.address, timeout=PATIENCE_S) as reader:
            reader.sendall(b"SLPROTO 4.0\r\nSTATION *\r\nDATA ALL\r\nEND\r\n")
            parts = []
            while part := reader.recv(65536):
                parts.append(part)
        data = b"".join(parts)
        assert data.endswith(b"END")
        assert data.count(b"SE2D") >= len(made[0].records)
        stalled.close()


def test_one_client_too_many_is_hung_up_on(tmp_path: Path) -> None:
    index = archive.index([write(tmp_path, mixed())])
    with ReplayServer(index, options=ServerOptions(max_clients=2)) as server:
        kept = [socket.create_connection(server.address, timeout=PATIENCE_S) for _ in range(2)]
        for one in kept:
            one.sendall(b"HELLO\r\n")
            assert one.recv(1000).startswith(b"SeedLink")
        with socket.create_connection(server.address, PATIENCE_S) as refused, suppress(ConnectionResetError):
            assert refused.recv(100) == b""
        for one in kept:
            one.close()


def test_the_replay_waits_for_the_first_request_where_wanted(tmp_path: Path) -> None:
    index = archive.index([write(tmp_path, mixed())])
    options = ServerOptions(replay=ReplayOptions(speed="max"), wait_for_client=True)
    with ReplayServer(index, options=options) as server, socket.create_connection(server.address, PATIENCE_S) as client:
        client.sendall(b"HELLO\r\n")
        assert client.recv(1000)
        assert not server.replay.begun
        client.sendall(b"DATA\r\n")
        assert client.recv(8, socket.MSG_WAITALL) == b"SL000001"
        assert server.replay.begun


def test_real_time_is_kept(tmp_path: Path) -> None:
    """Four records of about a second at five times real time: the last may not come before its time."""
    made = [channel("FDSN:XX_AAA__H_H_Z", seconds=6, rate=200.0, encoding="int32", length=512)]
    index = archive.index([write(tmp_path, made)])
    options = ServerOptions(replay=ReplayOptions(speed=5.0), once=True, wait_for_client=True)
    with ReplayServer(index, options=options) as server, socket.create_connection(server.address, PATIENCE_S) as client:
        client.sendall(b"DATA\r\n")
        began = time.monotonic()
        arrivals = []
        while len(client.recv(520, socket.MSG_WAITALL)) == 520:
            arrivals.append(time.monotonic() - began)
        assert len(arrivals) == len(made[0].records)
    samples = 0
    for raw, arrival in zip(made[0].records, arrivals, strict=True):
        samples += len(miniseed.decode(raw).samples)
        assert arrival >= (samples - 1) / 200.0 / 5.0 - 0.05


def test_a_taken_port_is_one_clear_sentence(tmp_path: Path) -> None:
    index = archive.index([write(tmp_path, mixed())])
    with ReplayServer(index) as server:
        host, port = server.address
        second = ReplayServer(index, host, port)
        with pytest.raises(ServeError, match=rf"^cannot listen on {host}:{port}: Address already in use$"):
            second.start()
        second.stop()


@pytest.mark.parametrize(
    ("arguments", "status", "sentence"),
    [
        (["nowhere"], 1, "serve: nowhere: no such file or folder\n"),
        ([__file__], 1, f"serve: {__file__}: neither miniSEED nor any other format that obspy knows\n"),
        (["x", "--bind", "nonsense"], 2, "serve: 'nonsense': expected HOST:PORT with a port from 0 to 65535\n"),
        (["x", "--loop", "--once"], 2, "serve: a replay that loops never ends: expected either loop or once\n"),
    ],
)
def test_mistakes_are_one_sentence_on_stderr(arguments: list[str], status: int, sentence: str, here: Here) -> None:
    run = here("serve", *arguments)
    assert (run.returncode, run.stdout, run.stderr) == (status, "", sentence)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_stops_it_cleanly_with_clients_connected(mixed_archive, number: int) -> None:
    folder, _ = mixed_archive
    with (
        serving(folder, "--speed", "max", "--loop") as server,
        socket.create_connection(("127.0.0.1", server.port), PATIENCE_S) as client,
    ):
        client.sendall(b"DATA\r\n")
        assert client.recv(8, socket.MSG_WAITALL) == b"SL000001"
        server.process.send_signal(number)
        assert server.exit_status() == 0
