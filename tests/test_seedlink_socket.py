"""The socket edge over real connections on 127.0.0.1: what it hands on, how it fails, how it stops."""

from __future__ import annotations

import os
import queue
import random
import shutil
import socket
import ssl
import struct
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

import pytest
from in_time import PATIENCE_S
from seedlink_fakes import PLAIN_V3, PLAIN_V4, RINGSERVER, START_NS, FakeServer, Packet, numbers_of, record, v3_info

from tscc_stream.config import SeedLinkConfig
from tscc_stream.edges import seedlink_dial, seedlink_probe, seedlink_socket
from tscc_stream.edges.seedlink_socket import Arrival, Emitted, LinkNotice, LinkState, SeedLinkReader
from tscc_stream.seedlink.backoff import Backoff
from tscc_stream.seedlink.position import Mark, Position


class NoDelay:
    def uniform(self, a: float, b: float, /) -> float:
        return 0.01


class SocketServer:
    """Serves one FakeServer per connection, in turn, each in a thread; `push` sends to the current one."""

    def __init__(
        self, *scripts: FakeServer, family: int = socket.AF_INET, context: ssl.SSLContext | None = None, port: int = 0
    ) -> None:
        self.scripts, self._context = list(scripts), context
        self.served: list[FakeServer] = []
        self.links: list[socket.socket] = []
        self.streaming = threading.Semaphore(0)
        self._listener = socket.create_server(
            ("::1" if family == socket.AF_INET6 else "127.0.0.1", port), family=family
        )
        self.port = self._listener.getsockname()[1]
        self._thread = threading.Thread(target=self._accept)
        self._thread.start()

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def _accept(self) -> None:
        while True:
            try:
                link, _ = self._listener.accept()
            except OSError:
                return
            if not self.scripts:
                link.close()
                return
            self.links.append(link)
            with suppress(OSError):
                self._talk(link, self.scripts.pop(0))

    def _talk(self, link: socket.socket, script: FakeServer) -> None:
        if self._context:
            link = self._context.wrap_socket(link, server_side=True)
            self.links.append(link)
        self.served.append(script)
        while data := link.recv(4096):
            link.sendall(script.feed(data))
            if script.streaming:
                self.streaming.release()

    def push(self, packet: Packet) -> None:
        self.links[-1].sendall(self.served[-1].push(packet))

    def drop(self) -> None:
        """End the current connection from this side."""
        self.links[-1].shutdown(socket.SHUT_RDWR)

    def close(self) -> None:
        with suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        self._listener.close()
        for link in self.links:
            with suppress(OSError):
                link.shutdown(socket.SHUT_RDWR)
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()
        for link in self.links:  # also one that was accepted while this was closing
            link.close()


class ManyAtOnce(SocketServer):
    """Each connection in a thread of its own."""

    def _talk(self, link: socket.socket, script: FakeServer) -> None:
        threading.Thread(target=self._talk_alone, args=(link, script), daemon=True).start()

    def _talk_alone(self, link: socket.socket, script: FakeServer) -> None:
        with suppress(OSError):
            super()._talk(link, script)


@contextmanager
def serving_all(*scripts: FakeServer) -> Iterator[SocketServer]:
    server = ManyAtOnce(*scripts)
    try:
        yield server
    finally:
        server.close()


@contextmanager
def serving(*scripts: FakeServer, **keys: object) -> Iterator[SocketServer]:
    server = SocketServer(*scripts, **keys)
    try:
        yield server
    finally:
        server.close()


class Running:
    """A reader in its thread, with what it emitted."""

    def __init__(self, address: str, **keys: object) -> None:
        self.emitted: queue.Queue[Emitted] = queue.Queue()
        self.failure: BaseException | None = None
        self.turns = 0
        emit = keys.pop("emit", self.emitted.put)
        extra = {k: keys.pop(k) for k in ("position", "newest", "room") if k in keys}
        keys.setdefault("streams", ("BW_*:?HZ",))
        config = SeedLinkConfig(server=address, **keys)
        self.reader = SeedLinkReader(config, emit, heartbeat=self._beat, backoff=Backoff(NoDelay()), **extra)
        self.thread = threading.Thread(target=self._run)
        self.thread.start()

    def _beat(self) -> None:
        self.turns += 1

    def _run(self) -> None:
        try:
            self.reader.run()
        except BaseException as failure:  # noqa: BLE001 - the test looks at it
            self.failure = failure

    def next(self, kind: type) -> object:
        """The next thing of this kind, whatever comes before it."""
        end = time.monotonic() + PATIENCE_S
        while True:
            emitted = self.emitted.get(timeout=max(end - time.monotonic(), 0.01))
            if isinstance(emitted, kind):
                return emitted

    def down(self) -> LinkState:
        while (state := self.next(LinkState)).connected:
            pass
        return state

    def sequences(self, count: int) -> list[int]:
        found: list[int] = []
        while len(found) < count:
            found += numbers_of(self.next(Arrival).records)
        return found

    def stop(self) -> None:
        self.reader.stop()
        self.thread.join(PATIENCE_S)
        assert not self.thread.is_alive()


@contextmanager
def reading(address: str, **keys: object) -> Iterator[Running]:
    running = Running(address, **keys)
    try:
        yield running
    finally:
        running.stop()


def ring(count: int, first: int = 1) -> list[Packet]:
    return [Packet(i, record(second=i - 1)) for i in range(first, first + count)]


def closed_port() -> int:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        return listener.getsockname()[1]


@pytest.mark.parametrize("hello", [RINGSERVER, PLAIN_V4, PLAIN_V3])
def test_reads_what_lies_there_and_what_comes(hello: str) -> None:
    with serving(FakeServer(ring(3), hello)) as server, reading(server.address) as running:
        state = running.next(LinkState)
        assert (state.connected, state.reason, state.server) == (True, "connected", server.address)
        before = time.monotonic_ns()
        assert running.sequences(3) == [1, 2, 3]
        server.push(Packet(4, record(second=3)))
        arrival = running.next(Arrival)
        assert numbers_of(arrival.records) == [4]
        assert before - 10**10 < arrival.records[0].received_ns <= time.monotonic_ns()
        assert arrival.position == running.reader.position
        assert arrival.position.last.sequence == 4


def test_goes_on_after_a_lost_connection() -> None:
    packets = ring(5)
    with serving(FakeServer(packets[:2]), FakeServer(packets)) as server, reading(server.address) as running:
        assert running.sequences(2) == [1, 2]
        server.drop()
        state = running.down()
        assert state.reason == "closed"
        assert state.retry_seconds is not None
        assert running.sequences(3) == [3, 4, 5]
    assert "DATA 3" in server.served[1].commands


def test_waits_do_not_grow_while_data_come_between_the_failures() -> None:
    packets = ring(4)
    scripts = [FakeServer(packets[: count + 1]) for count in range(4)]
    with serving(*scripts) as server, reading(server.address) as running:
        waits = []
        for count in range(4):
            assert running.sequences(1) == [count + 1]
            server.drop()
            waits.append(running.down().retry_seconds)
    assert waits == [0.002] * 4


def test_goes_on_from_a_stored_position() -> None:
    packets = ring(5)
    with serving(FakeServer(packets[:2])) as server, reading(server.address) as running:
        running.sequences(2)
        stored = running.reader.position.as_dict()
        assert stored["server"] == server.address
    with serving(FakeServer(packets)) as server:
        again = Position.from_dict({**stored, "server": server.address})
        with reading(server.address, position=again) as running:
            assert running.next(LinkState).step == "sequence"
            assert running.sequences(3) == [3, 4, 5]


def test_a_position_of_another_server_goes_on_by_time() -> None:
    """Its sequences mean nothing here, however alike the servers are."""
    theirs = Position(4, Mark(9, START_NS), (), START_NS, server="other.mine:18000")
    with serving(FakeServer(ring(2))) as server, reading(server.address, position=theirs) as running:
        assert running.next(LinkState).step == "time"
        assert running.sequences(2) == [1, 2]
        assert running.reader.position.server == server.address


def test_bad_packets_and_unwanted_records_are_handed_on_as_counts() -> None:
    packets = [Packet(1, record("FDSN:BW_UH1__S_H_N")), Packet(2, record())]
    with serving(FakeServer(packets, refuse=("SELECT",))) as server, reading(server.address) as running:
        notice = running.next(LinkNotice)
        assert (notice.reason, notice.server) == ("selector", server.address)
        arrival = running.next(Arrival)
        assert (arrival.unwanted, len(arrival.records)) == (1, 1)
        bad = b"SE2D" + (512).to_bytes(4, "little") + (3).to_bytes(8, "little") + b"\0" + bytes(512)
        server.links[-1].sendall(bad)
        assert [rejected.reason for rejected in running.next(Arrival).rejected] == ["malformed"]


def test_a_refused_connection_is_told_and_tried_again() -> None:
    port = closed_port()
    with reading(f"127.0.0.1:{port}") as running:
        state = running.down()
        assert (state.reason, state.text) == ("refused", f"cannot connect to 127.0.0.1:{port}: connection refused")
        assert running.down().reason == "refused"


def test_a_name_without_address_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    def look_up(*_: object, **__: object) -> None:
        raise socket.gaierror(-2, "Name or service not known")

    monkeypatch.setattr(seedlink_socket.socket, "getaddrinfo", look_up)
    with reading("no.such.mine:18000") as running:
        state = running.down()
        assert state.reason == "dns"
        assert "no.such.mine" in state.text


def test_a_slow_name_server_times_out_while_the_loop_turns(monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(seedlink_socket.socket, "getaddrinfo", lambda *_, **__: release.wait(PATIENCE_S) and [])
    monkeypatch.setattr(seedlink_dial, "TURN_NS", 10_000_000)
    with reading("slow.mine:18000", timeout_seconds=0.2) as running:
        state = running.down()
        assert (state.reason, "within 0.2 s" in state.text) == ("dns", True)
        assert running.turns > 5
        release.set()


def test_a_name_with_no_address_at_all_is_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seedlink_socket.socket, "getaddrinfo", lambda *_, **__: [])
    with reading("empty.mine:18000") as running:
        assert running.down().text == "empty.mine has no address"


def test_a_name_is_found_and_all_its_addresses_are_tried() -> None:
    with serving(FakeServer(ring(1))) as server, reading(f"localhost:{server.port}") as running:
        assert running.sequences(1) == [1]


def test_ipv6() -> None:
    try:
        server = SocketServer(FakeServer(ring(1)), family=socket.AF_INET6)
    except OSError:
        pytest.skip("this machine has no IPv6")
    try:
        with reading(f"[::1]:{server.port}") as running:
            assert running.sequences(1) == [1]
    finally:
        server.close()


def test_a_server_that_never_answers_times_out() -> None:
    with serving(FakeServer(silent=("HELLO",))) as server, reading(server.address, timeout_seconds=0.1) as running:
        state = running.down()
        assert (state.reason, state.text) == ("timeout", "no answer to HELLO within 0.1 s")


def test_a_connection_that_is_never_made_times_out(monkeypatch: pytest.MonkeyPatch) -> None:
    with socket.socket() as full:
        full.bind(("127.0.0.1", 0))
        full.listen(0)
        address = full.getsockname()
        fillers = [socket.socket() for _ in range(4)]
        for filler in fillers:  # beyond its backlog the kernel lets connections hang
            filler.setblocking(False)
            filler.connect_ex(address)
        with reading(f"127.0.0.1:{address[1]}", timeout_seconds=0.2) as running:
            assert running.down().reason == "timeout"
        for filler in fillers:
            filler.close()


def test_silence_is_answered_with_a_ping_and_then_with_a_new_connection() -> None:
    quiet = FakeServer(ring(1))
    keys = {"keepalive_seconds": 0.1, "timeout_seconds": 0.1}
    with serving(quiet, FakeServer(ring(2))) as server, reading(server.address, **keys) as running:
        running.sequences(1)
        assert server.streaming.acquire(timeout=PATIENCE_S)
        assert server.streaming.acquire(timeout=PATIENCE_S)  # the fake answers INFO ID
        quiet.silent = ("INFO",)
        assert running.down().reason == "silent"
        assert running.sequences(1) == [2]
    assert "INFO ID" in quiet.commands


@pytest.mark.parametrize("stage", ["waiting", "connecting", "dns", "back-off"])
def test_stops_at_once_in_every_wait(stage: str, monkeypatch: pytest.MonkeyPatch) -> None:
    address, release = f"127.0.0.1:{closed_port()}", threading.Event()
    if stage == "dns":
        monkeypatch.setattr(seedlink_socket.socket, "getaddrinfo", lambda *_, **__: release.wait(PATIENCE_S) and [])
        address = "slow.mine:1"
    with serving(FakeServer(silent=("HELLO",) if stage == "connecting" else ())) as server:
        running = Running(server.address if stage in ("waiting", "connecting") else address)
        if stage == "back-off":
            running.reader._backoff._uniform = lambda a, b: 1000.0
            running.down()
        elif stage == "waiting":
            assert running.next(LinkState).connected
        started = time.monotonic()
        running.stop()
        assert time.monotonic() - started < 0.9  # a turn of the loop lasts up to 1 s: the wake-up must cut it short
        assert running.failure is None
    release.set()


def test_stop_may_come_before_run_and_after_it() -> None:
    reader = SeedLinkReader(SeedLinkConfig(server="127.0.0.1:1", streams=("BW_*",)), print)
    reader.stop()
    reader.run()
    reader.stop()


class Gate:
    """Room for what is read, until it is shut; asked from the reader's thread."""

    def __init__(self) -> None:
        self.open = True
        self.asked = 0

    def __call__(self) -> bool:
        self.asked += 1
        return self.open


def until(true: Callable[[], object]) -> None:
    """Wait for something, for a bounded time."""
    end = time.monotonic() + PATIENCE_S
    while not true():
        assert time.monotonic() < end
        threading.Event().wait(0.005)


def test_without_room_nothing_is_read_the_link_is_kept_and_nothing_is_lost() -> None:
    gate = Gate()
    keys = {"keepalive_seconds": 0.05, "timeout_seconds": 0.05}  # both pass many times over
    with serving(FakeServer(ring(1))) as server, reading(server.address, room=gate, **keys) as running:
        assert running.sequences(1) == [1]
        gate.open = False
        until(lambda: running.reader.waiting)
        for packet in ring(200, first=2):
            server.push(packet)
        turns = running.turns
        pings = server.served[0].commands.count
        until(lambda: pings("INFO ID") >= 4)
        assert running.emitted.empty()
        assert running.turns > turns
        gate.open = True
        assert running.sequences(200) == list(range(2, 202))
        assert not running.reader.waiting
        assert running.reader.waited_seconds > 0.1
    assert len(server.served) == 1


def test_room_is_asked_for_before_every_read() -> None:
    gate = Gate()
    gate.open = False
    with serving(FakeServer(ring(3))) as server, reading(server.address, room=gate) as running:
        assert running.next(LinkState).connected  # the negotiation needs none
        until(lambda: running.reader.waiting)
        assert running.emitted.empty()
        gate.open = True
        assert running.sequences(3) == [1, 2, 3]


def test_a_server_that_hangs_up_while_there_is_no_room_is_read_to_its_end() -> None:
    gate = Gate()
    scripts = [FakeServer(ring(1)), FakeServer(ring(3))]
    with serving(*scripts) as server, reading(server.address, room=gate, keepalive_seconds=0.02) as running:
        running.sequences(1)
        gate.open = False
        until(lambda: running.reader.waiting)
        server.push(Packet(2, record(second=1)))
        server.drop()
        asked = gate.asked
        until(lambda: gate.asked > asked + 5)  # keep-alives go nowhere meanwhile
        assert running.emitted.empty()
        gate.open = True
        assert running.sequences(1) == [2]  # what lies before the end comes before it
        assert running.down().reason == "network"  # the server's system refused the keep-alives
        assert running.sequences(1) == [3]
    assert "DATA 3" in server.served[1].commands


def test_what_lies_before_a_reset_of_the_connection_is_handed_on() -> None:
    gate = Gate()
    scripts = [FakeServer(ring(1)), FakeServer(ring(4))]
    with serving(*scripts) as server, reading(server.address, room=gate) as running:
        running.sequences(1)
        gate.open = False
        server.push(Packet(2, record(second=1)))  # read still, or left to wait: either way no more is read after it
        until(lambda: running.reader.waiting)
        server.push(Packet(3, record(second=2)))
        server.links[-1].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
        server.drop()
        server.links[-1].close()
        asked = gate.asked
        until(lambda: gate.asked > asked + 5)
        gate.open = True
        assert running.sequences(2) == [2, 3]
        assert running.down().reason in ("network", "closed")
        assert running.sequences(1) == [4]
    assert "DATA 4" in server.served[1].commands


def test_reconnect_and_stop_reach_a_reader_without_room() -> None:
    gate = Gate()
    with serving(FakeServer(ring(1)), FakeServer(ring(1))) as server, reading(server.address, room=gate) as running:
        assert running.sequences(1) == [1]
        gate.open = False
        server.push(Packet(2, record(second=1)))
        until(lambda: running.reader.waiting)
        running.reader.reconnect("enough")
        assert running.down().reason == "stale"
        assert running.next(LinkState).connected
        server.push(Packet(2, record(second=1)))
        until(lambda: running.reader.waiting)
        running.stop()
        assert running.failure is None


def test_a_server_that_says_nothing_of_its_ring_is_asked_three_times_and_told_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(seedlink_probe, "AFTER_NS", 0)
    monkeypatch.setattr(seedlink_probe, "EVERY_NS", 0)
    gate = Gate()
    scripts = [FakeServer(ring(1)), *(FakeServer() for _ in range(9))]
    with serving_all(*scripts) as server, reading(server.address, room=gate) as running:
        running.sequences(1)
        gate.open = False
        server.links[0].sendall(server.served[0].push(Packet(2, record(second=1))))
        notice = running.next(LinkNotice)
        assert (notice.reason, notice.text) == ("ring", seedlink_probe.UNSAID)
        asked = gate.asked
        until(lambda: gate.asked > asked + 10)
        assert running.emitted.empty()
        assert [fake.commands[-1] for fake in server.served[1:]] == ["INFO STATIONS"] * 3
        gate.open = True
        assert running.sequences(1) == [2]


def test_the_same_failure_over_and_over_does_not_fill_what_has_no_room() -> None:
    gate = Gate()
    gate.open = False
    with reading(f"127.0.0.1:{closed_port()}", room=gate) as running:
        assert running.down().reason == "refused"
        until(lambda: gate.asked > 5)
        assert running.emitted.empty()


def test_while_the_callback_blocks_nothing_is_read_and_nothing_is_lost() -> None:
    gate, entered, seen = threading.Event(), threading.Event(), []

    def emit(emitted: Emitted) -> None:
        if isinstance(emitted, Arrival):
            seen.extend(numbers_of(emitted.records))
            entered.set()
            assert gate.wait(PATIENCE_S)

    keys = {"keepalive_seconds": 0.05, "timeout_seconds": 0.05}
    with serving(FakeServer(ring(1))) as server, reading(server.address, emit=emit, **keys) as running:
        assert entered.wait(PATIENCE_S)
        for packet in ring(200, first=2):
            server.push(packet)
        turns = running.turns
        assert not entered.clear()
        assert not gate.wait(0.3)  # longer than keep-alive and time-out: the wait is ours, not the server's silence
        assert running.turns == turns
        assert seen == [1]
        gate.set()
        assert entered.wait(PATIENCE_S)
        server.push(Packet(999, record(second=998)))
        end = time.monotonic() + PATIENCE_S
        while seen[-1] != 999 and time.monotonic() < end:
            entered.clear()
            entered.wait(0.5)
    assert seen == [*range(1, 202), 999]
    assert len(server.served) == 1


# Other servers


def test_a_server_that_fails_twice_is_left_for_the_next_and_data_go_on_by_time() -> None:
    packets = ring(5)
    away = f"127.0.0.1:{closed_port()}"
    theirs = [Packet(900 + packet.sequence, packet.payload) for packet in packets]
    with (
        serving(FakeServer(packets[:2])) as one,
        serving(FakeServer(theirs)) as two,
        reading(one.address, fallbacks=(away, two.address)) as running,
    ):
        assert running.next(LinkState).actual == one.address
        assert running.sequences(2) == [1, 2]
        one.close()
        states = []
        while not (state := running.next(LinkState)).connected:
            states.append((state.server, state.actual, state.reason))
        assert [actual for _, actual, _ in states] == [one.address] * 3 + [away] * 2
        assert {server for server, _, _ in states} == {one.address}
        assert (state.server, state.actual, state.step) == (one.address, two.address, "time")
        assert f"connected to {two.address}, in place of {one.address}" in state.text
        assert running.sequences(5) == [1, 2, 3, 4, 5]
        assert running.reader.position.server == two.address
    assert "DATA ALL 2010-05-27T16:14:01.000000Z" in two.served[0].commands


def test_the_first_server_is_tried_again_when_the_fallback_fails() -> None:
    port = closed_port()
    with serving(FakeServer(ring(1))) as two, reading(f"127.0.0.1:{port}", fallbacks=(two.address,)) as running:
        assert running.sequences(1) == [1]
        with serving(FakeServer(ring(3)), port=port) as one:
            two.close()
            while (state := running.next(LinkState)).actual != one.address or not state.connected:
                pass
            assert running.sequences(3) == [1, 2, 3]


def test_a_silent_server_is_left_at_once_when_somebody_says_so() -> None:
    with (
        serving(FakeServer(ring(1))) as one,
        serving(FakeServer(ring(2))) as two,
        reading(one.address, fallbacks=(two.address,)) as running,
    ):
        assert running.sequences(1) == [1]
        running.reader.reconnect("no data for 60 s")
        state = running.down()
        assert (state.reason, state.text) == ("stale", f"no data for 60 s; trying {two.address} next")
        assert running.next(LinkState).actual == two.address
        assert running.sequences(2) == [1, 2]


def test_without_fallbacks_the_same_server_is_connected_to_anew() -> None:
    packets = ring(3)
    with serving(FakeServer(packets[:2]), FakeServer(packets)) as server, reading(server.address) as running:
        assert running.sequences(2) == [1, 2]
        running.reader.reconnect("no data for 60 s")
        assert running.down().text == "no data for 60 s"
        assert running.next(LinkState).step == "sequence"
        assert running.sequences(1) == [3]


def test_asked_to_reconnect_between_two_attempts_it_tries_at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(NoDelay, "uniform", lambda *_: 1000.0)
    with reading(f"127.0.0.1:{closed_port()}") as running:
        assert running.down().retry_seconds == 200
        running.reader.reconnect("now")
        assert running.down().reason == "refused"


def test_a_recorder_whose_clock_is_ahead_does_not_hide_what_comes_until_then() -> None:
    ahead = time.time_ns() + 10**18  # three decades
    theirs = Position(4, Mark(9, ahead), (), ahead, server="other.mine:18000")
    now = record("FDSN:BW_UH1__S_H_Z", int(time.time()) - START_NS // 10**9)
    with serving(FakeServer([Packet(1, now)])) as server, reading(server.address, position=theirs) as running:
        assert len(running.next(Arrival).records) == 1


def test_a_packet_from_the_future_hides_nothing_of_an_outage_from_the_next_server() -> None:
    """Its date never gets into the time: cut down only at the next connection, it would leave out the outage."""
    before_ns = time.time_ns()
    second = (before_ns - START_NS) // 10**9
    with serving(FakeServer([Packet(1, record(second=second + 10**6))])) as server, reading(server.address) as running:
        assert len(running.next(Arrival).records) == 1
        place = running.reader.position
    assert place.time_ns is not None
    assert before_ns <= place.time_ns <= time.time_ns()
    assert place.times == (("BW_UH1", place.time_ns),)


# What a server may send


class Answers(FakeServer):
    """Says something of its own in place of an answer to one command."""

    def __init__(self, verb: str, answer: bytes, **keys: object) -> None:
        super().__init__(**keys)
        self._verb, self._answer = verb, answer

    def answer(self, line: str) -> bytes:
        said = super().answer(line)
        return self._answer if line.startswith(self._verb) else said


HUGE = b"SE2D" + (1 << 30).to_bytes(4, "little") + (7).to_bytes(8, "little") + b"\6BW_UH1"


@pytest.mark.parametrize(
    ("verb", "answer", "reason"),
    [
        ("HELLO", b"HTTP/1.1 400 Bad Request\r\n", "hello"),
        ("HELLO", b"SeedLink " + b"x" * 100_000, "line"),
        ("HELLO", b"\0" * 9000, "line"),
        ("SLPROTO", b"O" * 20_000, "line"),
        ("STATION", b"MAYBE\r\n", "protocol"),
        ("INFO", HUGE.replace(b"SE2D", b"SEJI"), "size"),
        ("END", b"SE2D" + b"x" * 12 + b"\0" + b"y" * 3000, "size"),
        ("END", b"not a packet at all", "frame"),
        ("END", HUGE, "size"),
        ("END", b"ERROR " + b"x" * 20_000, "line"),
        ("END", b"ERROR INTERNAL\r\n", "refused"),
        ("END", b"END", "end"),
    ],
)
def test_nonsense_ends_the_connection_with_its_reason_and_the_next_one_works(
    verb: str, answer: bytes, reason: str
) -> None:
    with serving(Answers(verb, answer), FakeServer(ring(2))) as server, reading(server.address) as running:
        assert running.down().reason == reason
        assert running.sequences(2) == [1, 2]


def test_a_packet_cut_off_by_the_end_of_the_connection_comes_again_whole() -> None:
    packets = ring(3)
    with serving(FakeServer(packets[:1]), FakeServer(packets)) as server, reading(server.address) as running:
        assert running.sequences(1) == [1]
        server.links[-1].sendall(server.served[-1].frame(packets[1])[:300])
        server.drop()
        assert running.down().reason == "closed"
        assert running.sequences(2) == [2, 3]


def test_a_record_that_comes_byte_by_byte_is_read() -> None:
    with serving(FakeServer(ring(1))) as server, reading(server.address) as running:
        assert running.sequences(1) == [1]
        link = server.links[-1]
        link.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        for byte in server.served[-1].push(Packet(2, record(second=1))):
            link.sendall(bytes([byte]))
        assert running.sequences(1) == [2]


def test_a_negotiation_that_drips_times_out() -> None:
    with (
        serving(Answers("SLPROTO", b"O"), FakeServer(ring(1))) as server,
        reading(server.address, timeout_seconds=0.3) as running,
    ):
        until(lambda: server.served and "SLPROTO 4.0" in server.served[0].commands)
        drip = threading.Event()
        while running.emitted.empty():
            with suppress(OSError):
                server.links[-1].sendall(b"O")
            drip.wait(0.02)
        assert running.down().text == "no answer to SLPROTO within 0.3 s"
        assert running.sequences(1) == [1]


def test_an_endless_list_of_stations_ends_the_connection() -> None:
    flood = v3_info("x" * 457)[:520] * 40_000  # 18 MB of text, each packet says that more follow
    with (
        serving(Answers("INFO STATIONS", flood, hello=PLAIN_V3, refuse=("STATION *",))) as server,
        reading(server.address) as running,
    ):
        assert running.down().reason == "size"


class Broken(Exception):  # noqa: N818  # named as what it stands for
    pass


@pytest.mark.parametrize("error", [Broken, OSError, ValueError])
def test_an_unexpected_failure_leaves_the_thread(error: type[Exception]) -> None:
    def emit(_: Emitted) -> None:
        raise error("disk full")

    with serving(FakeServer(ring(1))) as server:
        running = Running(server.address, emit=emit)
        running.thread.join(PATIENCE_S)
        assert isinstance(running.failure, error)
        running.stop()


def test_a_pattern_that_can_match_nothing_is_refused_at_once() -> None:
    with pytest.raises(ValueError, match="expected a channel"):
        SeedLinkReader(SeedLinkConfig(server="127.0.0.1:1", streams=("BW_A:HZ",)), print)


def test_the_password_comes_from_its_file_each_time(tmp_path: Path) -> None:
    path = tmp_path / "password"
    keys = {"user": "joe", "password_file": str(path)}
    scripts = [FakeServer(ring(1)) for _ in range(200)]  # one for each attempt
    with serving(*scripts) as server, reading(server.address, **keys) as running:
        state = running.down()
        assert (state.reason, str(path) in state.text) == ("auth", True)
        path.write_text("blast\n")
        assert running.sequences(1) == [1]
    assert "AUTH USERPASS joe blast" in server.served[-1].commands


def test_the_password_may_be_a_credential_that_systemd_hands_over(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "seedlink").write_text("blast\n")
    monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(tmp_path))
    keys = {"user": "joe", "password_file": "seedlink"}
    with serving(FakeServer(ring(1))) as server, reading(server.address, **keys) as running:
        assert running.sequences(1) == [1]
    assert "AUTH USERPASS joe blast" in server.served[0].commands


def test_a_server_that_says_the_password_back_does_not_make_us_tell_it(tmp_path: Path) -> None:
    path = tmp_path / "password"
    path.write_text("blast")
    for said in (b"ERROR UNAUTHORIZED no user joe with blast\r\n", b"AUTH USERPASS joe blast\r\n"):
        with (
            serving(*[Answers("AUTH", said) for _ in range(50)]) as server,
            reading(server.address, user="joe", password_file=str(path)) as running,
        ):
            state = running.down()
            assert state.reason in ("auth", "protocol")
            assert "blast" not in state.text


def test_a_user_without_password_is_told() -> None:
    with serving(*[FakeServer() for _ in range(50)]) as server, reading(server.address, user="joe") as running:
        assert running.down().text.startswith("SeedLink user and password")


@pytest.fixture(scope="module")
def certificate(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the openssl command to make a certificate")
    folder = tmp_path_factory.mktemp("tls")
    key, made = folder / "key.pem", folder / "cert.pem"
    command = [openssl, "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]
    command += ["-keyout", str(key), "-out", str(made), "-days", "2", "-subj", "/CN=127.0.0.1"]
    subprocess.run([*command, "-addext", "subjectAltName=IP:127.0.0.1"], check=True, capture_output=True)
    return key, made


def server_side(certificate: tuple[Path, Path]) -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    context.load_cert_chain(certificate[1], certificate[0])
    return context


def test_tls(certificate: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SSL_CERT_FILE", str(certificate[1]))
    fake = FakeServer(ring(400))  # more than one TLS record
    with serving(fake, context=server_side(certificate)) as server, reading(server.address, tls=True) as running:
        assert running.sequences(400) == list(range(1, 401))


def test_tls_with_an_unknown_certificate_is_refused(certificate: tuple[Path, Path]) -> None:
    with (
        serving(FakeServer(), context=server_side(certificate)) as server,
        reading(server.address, tls=True) as running,
    ):
        state = running.down()
        assert state.reason == "tls"
        assert "certificate" in state.text.lower()


@pytest.fixture(scope="module")
def authority(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., tuple[Path, Path]]:
    """Certificates of a mine's own authority: for an address, and valid for so many days; and the authority's own."""
    openssl = shutil.which("openssl")
    if openssl is None:
        pytest.skip("needs the openssl command to make certificates")
    folder = tmp_path_factory.mktemp("authority")
    new_key = ["-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes"]

    def run(*arguments: str) -> None:
        subprocess.run([openssl, *arguments], cwd=folder, check=True, capture_output=True)

    run("req", "-x509", *new_key, "-keyout", "ca.key", "-out", "ca.pem", "-days", "2", "-subj", "/CN=A mine",
        "-addext", "keyUsage=critical,keyCertSign")  # fmt: skip

    def certified(name: str, days: int = 2) -> tuple[Path, Path]:
        stem = f"{name.partition(':')[2]}{days}"
        (folder / "name.cnf").write_text(f"subjectAltName={name}\nauthorityKeyIdentifier=keyid\n")
        run("req", *new_key, "-keyout", f"{stem}.key", "-out", f"{stem}.csr", "-subj", "/CN=server")
        run("x509", "-req", "-in", f"{stem}.csr", "-CA", "ca.pem", "-CAkey", "ca.key", "-days", str(days),
            "-extfile", "name.cnf", "-out", f"{stem}.pem")  # fmt: skip
        return folder / f"{stem}.key", folder / f"{stem}.pem"

    return certified


@contextmanager
def tls_process(key: Path, made: Path) -> Iterator[str]:
    """A SeedLink server with TLS as a process of its own; its address."""
    command = [sys.executable, "-P", str(Path(__file__).with_name("tls_process.py")), str(key), str(made)]
    paths = os.pathsep.join([str(Path(__file__).parent), *filter(None, [os.environ.get("PYTHONPATH")])])
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, text=True, env={**os.environ, "PYTHONPATH": paths}
    ) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()


def test_tls_with_the_sites_own_authority(
    authority: Callable[..., tuple[Path, Path]], monkeypatch: pytest.MonkeyPatch
) -> None:
    key, made = authority("IP:127.0.0.1")
    trusted = str(made.with_name("ca.pem"))
    with tls_process(key, made) as address:
        with reading(address, tls=True, tls_ca_file=trusted) as running:
            assert running.sequences(3) == [1, 2, 3]
        with reading(address, tls=True) as running:
            state = running.down()
            assert state.reason == "tls"
            assert "certificate verify failed" in state.text
        monkeypatch.setenv("CREDENTIALS_DIRECTORY", str(made.parent))
        with reading(address, tls=True, tls_ca_file="ca.pem") as running:
            assert running.sequences(3) == [1, 2, 3]


def test_tls_with_a_certificate_of_another_server_or_of_the_past_is_refused(
    authority: Callable[..., tuple[Path, Path]],
) -> None:
    for certified, words in ((authority("IP:127.0.0.9"), "mismatch"), (authority("IP:127.0.0.1", -1), "expired")):
        with tls_process(*certified) as address:
            trusted = str(certified[1].with_name("ca.pem"))
            with reading(address, tls=True, tls_ca_file=trusted) as running:
                state = running.down()
                assert (state.reason, words in state.text) == ("tls", True), state.text


def test_a_list_of_authorities_that_cannot_be_used_is_told(tmp_path: Path) -> None:
    bad, missing = tmp_path / "bad.pem", tmp_path / "missing.pem"
    bad.write_text("no certificate")
    for path, words in ((bad, "expected certificates in PEM"), (missing, "cannot be read: no such file or directory")):
        with (
            serving(*[FakeServer() for _ in range(50)]) as server,
            reading(server.address, tls=True, tls_ca_file=str(path)) as running,
        ):
            assert running.down().text == f"tls_ca_file {path}: {words}"


def test_tls_against_a_server_that_speaks_none_times_out() -> None:
    mute = FakeServer(silent=("",))
    with serving(mute) as server, reading(server.address, tls=True, timeout_seconds=0.2) as running:
        state = running.down()
        assert (state.reason, "no TLS" in state.text) == ("timeout", True)


def test_a_connection_reset_is_told() -> None:
    with serving(FakeServer(ring(1)), FakeServer(ring(2))) as server, reading(server.address) as running:
        running.sequences(1)
        link = server.links[-1]
        link.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        duplicate = socket.socket(fileno=link.detach())
        duplicate.shutdown(socket.SHUT_RD)
        duplicate.close()
        assert running.down().reason in ("network", "closed")
        assert running.sequences(1) == [2]


def test_a_thousand_commands_go_out_though_the_server_reads_slowly() -> None:
    streams = tuple(f"BW_S{i}:EHZ" for i in range(300))
    packet = Packet(1, record("FDSN:BW_S7__E_H_Z"))
    with serving(FakeServer([packet])) as server, reading(server.address, streams=streams) as running:
        assert running.sequences(1) == [1]
    assert len(server.served[0].commands) == 4 + 3 * 300 + 1


def test_the_heart_beats_while_nothing_comes(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(seedlink_dial, "TURN_NS", 5_000_000)
    beats: queue.Queue[int] = queue.Queue()
    with serving(FakeServer()) as server:
        config = SeedLinkConfig(server=server.address, streams=("BW_*",))
        states: queue.Queue[Emitted] = queue.Queue()
        heart: Callable[[], None] = lambda: beats.put(1)  # noqa: E731  # shorter than a function, and used once
        backoff = Backoff(random.Random(1))  # noqa: S311  # made-up data, no secret
        reader = SeedLinkReader(config, states.put, heartbeat=heart, backoff=backoff)
        thread = threading.Thread(target=reader.run)
        thread.start()
        assert states.get(timeout=PATIENCE_S).connected
        while not beats.empty():
            beats.get()
        for _ in range(5):
            beats.get(timeout=PATIENCE_S)
        reader.stop()
        thread.join(PATIENCE_S)
        assert not thread.is_alive()
