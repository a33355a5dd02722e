"""The bridge as a process between real buses and a real nats-server: killed, full, refused, slow; nothing is lost."""

from __future__ import annotations

import asyncio
import re
import signal
import socket
import urllib.request
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from in_time import PATIENCE_S
from made_alerts import Site
from made_bridge import (
    NatsServer,
    PublishingSite,
    ask,
    bridge_settings,
    bridging,
    count_of,
    ids,
    needs_nats,
    stored,
    until,
)
from made_certificate import make_certificate, needs_openssl
from made_site import Running, write_settings
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import DiscardPolicy, StreamConfig

from tscc_stream.apps.bridge_source import Source
from tscc_stream.bus.keys import CurveKeys, write_new_pair
from tscc_stream.bus.position import PositionFile
from tscc_stream.cli import main
from tscc_stream.config import CurveConfig
from tscc_stream.config_bridge import BridgeConfig
from tscc_stream.edges.jetstream import JetStreamError, connect

DOCUMENT = Path(__file__).parents[1] / "docs" / "bridge.md"

pytestmark = needs_nats


@pytest.fixture
def server(tmp_path: Path) -> Iterator[NatsServer]:
    with NatsServer(tmp_path / "nats") as made:
        yield made


@pytest.fixture
def site(tmp_path: Path) -> Iterator[PublishingSite]:
    with PublishingSite(tmp_path / "north", "north") as made:
        yield made


def seqs(messages: list[Msg], site: PublishingSite) -> list[int]:
    """Of one site, in the order of the stream."""
    headers = [message.headers or {} for message in messages]
    return [int(one["Tscc-Seq"]) for one in headers if one["Tscc-Site"] == site.name]


def metric(running: Running, name: str) -> float:
    """Over all sources."""
    url = running.wait_for(r"metrics on (\S+)")[1]
    with urllib.request.urlopen(url, timeout=PATIENCE_S) as answer:  # noqa: S310  # the process's own
        return sum(map(float, re.findall(rf"^{name}(?:{{[^}}]*}})? (\S+)$", answer.read().decode(), re.MULTILINE)))


def everything(messages: list[Msg], *sites: PublishingSite) -> None:
    """At the centre every message of every site once and in its order, as it was on the bus."""
    assert len(set(ids(messages))) == len(messages)
    for site in sites:
        assert seqs(messages, site) == list(range(1, len(site.messages) + 1))
        assert [one.data for one in messages if f".{site.name}." in one.subject] == [one.body for one in site.messages]


def test_nats_and_the_bridge_are_killed_while_two_sites_publish(
    tmp_path: Path, server: NatsServer, site: PublishingSite
) -> None:
    numbers, pause_s = 150, 0.01
    with PublishingSite(tmp_path / "south", "south") as other:
        path = bridge_settings(tmp_path, server, [site, other], outstanding=32)
        with bridging(path) as first:
            for one in (site, other):
                one.keep_saying(0, numbers, pause_s)
            until(lambda: count_of(server) > 50, "the first messages")
            server.kill()
            first.wait_for(f"connection to NATS {server.address} lost: ")  # how TCP ends is chance
            server.start()
            until(lambda: count_of(server) > 150, "messages after the server's restart")
            first.stop(signal.SIGKILL)
        with bridging(path) as second:
            for one in (site, other):
                one.finish()
            wanted = len(site.messages) + len(other.messages)
            assert wanted == 2 * numbers * 15 // 10
            until(lambda: count_of(server) >= wanted, "everything")
            until(lambda: metric(second, "tscc_bridge_behind") == 0, "nothing left behind")
            assert metric(second, "tscc_bridge_unacknowledged") == 0
            assert metric(second, "tscc_bridge_connected") == 1
            assert second.stop() == 0
        everything(stored(server), site, other)


def test_a_store_that_was_emptied_gets_everything_again(
    tmp_path: Path, server: NatsServer, site: PublishingSite
) -> None:
    """While the bridge runs, and while it does not; a restart of the server alone repeats nothing."""
    path = bridge_settings(tmp_path, server, [site])
    site.say_some(0, 60)
    with bridging(path) as running:
        until(lambda: count_of(server) == len(site.messages), "everything")
        server.kill()
        server.start()
        site.say_some(60, 70)
        until(lambda: count_of(server) == len(site.messages), "what came after the restart")
        assert metric(running, "tscc_bridge_published_total") == len(site.messages), "nothing came again"
        server.empty()
        running.wait_for("north: the stream is another one than before")
        until(lambda: count_of(server) == len(site.messages), "everything again")
        assert running.stop() == 0
    server.empty()
    with bridging(path) as running:
        site.say_some(70, 80)
        until(lambda: count_of(server) == len(site.messages), "everything a third time")
        assert running.stop() == 0
    everything(stored(server), site)


def test_a_full_stream_is_waited_for(tmp_path: Path, server: NatsServer, site: PublishingSite) -> None:
    """One that was there: it is left as it is."""
    small = StreamConfig(
        name="TSCC", subjects=["tscc.*.>"], max_msgs=100, discard=DiscardPolicy.NEW, duplicate_window=60
    )

    async def make(client: Client) -> None:
        await client.jetstream().add_stream(small)

    async def widen(client: Client) -> None:
        manager = client.jsm()
        config = (await manager.stream_info("TSCC")).config
        assert (config.subjects, config.max_msgs) == (["tscc.*.>"], 100)
        await manager.update_stream(config, max_msgs=1000)

    ask(server, make)
    site.say_some(0, 200)
    with bridging(bridge_settings(tmp_path, server, [site], metrics={"bind": "127.0.0.1:0"})) as running:
        running.wait_for(
            "north: the stream TSCC refuses messages: maximum messages exceeded .* it is full: .* nothing is lost"
        )
        until(lambda: metric(running, "tscc_bridge_unacknowledged") == 200, "all that fits into the window")
        assert count_of(server) == 100
        ask(server, widen)
        running.wait_for("messages are taken again, from 101 on")
        until(lambda: count_of(server) == len(site.messages), "everything")
        assert running.stop() == 0
    assert running.text.count("it is full") == 1
    assert "knows messages again for 60 s only: expected 3600 s" in running.text
    everything(stored(server), site)


def test_a_server_that_is_away_then_refuses_then_has_no_jetstream(tmp_path: Path, site: PublishingSite) -> None:
    """One process through all of it: each thing told in a sentence, and in the end everything is there.

    The user may do what the document says, and nothing else.
    """
    (may,) = re.findall(r"permissions: (\{.*?\]\})", DOCUMENT.read_text(encoding="utf-8"), re.DOTALL)
    password = tmp_path / "password"
    password.write_text("wrong\n")
    own = {"user": "centre", "password": "its own"}
    bridge, centre = (
        f'{{user: bridge, password: "right one", permissions: {may}}}',
        '{user: centre, password: "its own"}',
    )
    users = f"authorization {{users: [{bridge}, {centre}]}}"
    server = NatsServer(tmp_path / "nats", users, jetstream=False, start=False)
    site.say_some(0, 10)
    path = bridge_settings(tmp_path, server, [site], user="bridge", password_file=str(password))
    with server, bridging(path, connected=False) as running:
        running.wait_for(f"NATS {server.address} cannot be reached: Connection refused; tried again, nothing is lost")
        assert metric(running, "tscc_bridge_connected") == 0
        server.start()
        running.wait_for(f"NATS {server.address} refuses user bridge; look at the credentials")
        password.write_text("right one\n")
        running.wait_for("has no JetStream for this account")
        server.kill()
        server.start(f'jetstream {{store_dir: "{tmp_path / "store"}", max_file: 1G}}')
        running.wait_for("connected to NATS")
        until(lambda: count_of(server, **own) == len(site.messages), "everything")
        assert running.stop() == 0
        everything(stored(server, **own), site)
    assert "right one" not in running.text
    assert "wrong\n" not in running.text


def test_a_server_that_hangs_and_then_everything_is_killed(
    tmp_path: Path, server: NatsServer, site: PublishingSite
) -> None:
    """The window stays bounded; what was sent and not acknowledged does not count as handed over."""
    site.say_some(0, 10)
    path = bridge_settings(tmp_path, server, [site], outstanding=20, ack_seconds=0.5)
    with bridging(path) as running:
        until(lambda: count_of(server) == 15, "the first ones")
        server.send(signal.SIGSTOP)
        site.say_some(10, 100)
        running.wait_for("acknowledges nothing; what waits is sent again")
        assert metric(running, "tscc_bridge_unacknowledged") == 20
        server.send(signal.SIGCONT)
        until(lambda: count_of(server) == len(site.messages), "everything")
        server.send(signal.SIGSTOP)
        site.say_some(100, 150)
        until(lambda: metric(running, "tscc_bridge_unacknowledged") == 20, "a full window")
        assert running.stop(signal.SIGKILL) == -signal.SIGKILL
    server.kill()
    server.start()
    with bridging(path) as running:
        until(lambda: count_of(server) == len(site.messages), "everything")
        assert running.stop() == 0
    everything(stored(server), site)


def test_messages_that_are_too_large_are_told_of_and_hold_up_nothing(tmp_path: Path, site: PublishingSite) -> None:
    """For the server, and for the stream alone."""

    async def make(client: Client) -> None:
        await client.jetstream().add_stream(name="TSCC", subjects=["tscc.>"], max_msg_size=900)

    site.say_some(0, 1)
    plain = site.messages[0].body
    large, less = (plain.replace(b"north-d0", name + b"x" * size) for name, size in ((b"a", 5000), (b"b", 600)))
    with NatsServer(tmp_path / "nats", "max_payload: 2048") as server:
        ask(server, make)
        site.say_bodies(large, less)
        site.say_some(1, 3)
        with bridging(bridge_settings(tmp_path, server, [site])) as running:
            until(lambda: count_of(server) == len(site.messages), "everything")
            assert metric(running, "tscc_bridge_omitted_total") == 2
            assert running.stop() == 0
        came = stored(server)
    assert seqs(came, site) == [*range(1, len(site.messages) + 1)]
    empty = [one for one in came if not one.data]
    assert [(one.headers or {})["Tscc-Seq"] for one in empty] == ["5", "6"]
    assert ["of at most 872" in (one.headers or {})["Tscc-Omitted"] for one in empty] == [
        True,
        True,
    ]  # 28 name the stream
    assert running.text.count("an empty one that says so goes instead; the daemon's journal keeps it") == 2


def test_no_size_of_a_message_ends_the_connection(tmp_path: Path, site: PublishingSite) -> None:
    """Each 7 bytes larger than the one before, from those that go as they are to those that do not."""
    site.say_some(0, 1)
    plain = site.messages[0].body
    site.say_bodies(*(plain.replace(b"north-d0", b"x" * size) for size in range(7, 2048, 7)))
    with NatsServer(tmp_path / "nats", "max_payload: 2048") as server:
        with bridging(bridge_settings(tmp_path, server, [site])) as running:
            until(lambda: count_of(server) == len(site.messages), "everything")
            assert running.stop() == 0
        came = stored(server)
    assert seqs(came, site) == [*range(1, len(site.messages) + 1)]
    assert running.text.count("connected to NATS") == 1
    assert 10 < sum(not one.data for one in came) < len(came) - 10


def test_a_daemon_that_goes_away_and_comes_back_with_another_journal(
    tmp_path: Path, server: NatsServer, site: PublishingSite, monkeypatch: pytest.MonkeyPatch
) -> None:
    site.say_some(0, 10)
    with notified(tmp_path, monkeypatch) as supervisor, bridging(bridge_settings(tmp_path, server, [site])) as running:
        assert supervisor.recv(4096).startswith(b"READY=1\nSTATUS=")
        until(lambda: count_of(server) == 15, "the first ones")
        site.begin_anew()
        site.say_some(0, 10)
        site.say_some(10, 20)
        running.wait_for("north: .* has another journal")
        until(lambda: count_of(server) == 15 + 15 + 1, "new messages, and the status that has another epoch")
        assert running.stop() == 0
        sent = until(lambda: _all_of(supervisor), "what the supervisor was told")
        assert b"WATCHDOG=1" in sent
        assert b"STOPPING=1" in sent
    came = ids(stored(server))
    assert len(set(came)) == len(came)


class notified:  # noqa: N801  # reads as a phrase
    """A supervisor's socket, which processes that start now are told of."""

    def __init__(self, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
        self._socket.bind(str(folder / "notify"))
        self._socket.settimeout(PATIENCE_S)
        monkeypatch.setenv("NOTIFY_SOCKET", str(folder / "notify"))
        monkeypatch.setenv("WATCHDOG_USEC", "1000000")

    def __enter__(self) -> socket.socket:
        return self._socket

    def __exit__(self, *_: object) -> None:
        self._socket.close()


def _all_of(supervisor: socket.socket) -> bytes:
    supervisor.setblocking(False)
    found = b""
    while True:
        try:
            found += supervisor.recv(4096) + b"\n"
        except BlockingIOError:
            return found


def _why_not(server: NatsServer, **over: Any) -> str:
    """Why a connection comes to nothing."""

    async def tried() -> str:
        try:
            session = await connect(BridgeConfig(servers=(server.address,), **over), lambda _sentence: None)
        except JetStreamError as error:
            return str(error)
        await session.close()
        return ""

    return asyncio.run(tried())


def test_the_daemon_of_the_configuration_is_followed_to_other_ports(tmp_path: Path, server: NatsServer) -> None:
    path = write_settings(tmp_path, bridge={"servers": [server.address], "limits": {"max_gib": 0.5}})
    (tmp_path / "state").mkdir()
    with bridging(path) as running:
        for number, name in enumerate(("one", "two"), 1):
            with Site(tmp_path / "state") as daemon:
                daemon.event(name)
                running.wait_for("test listens on tcp://127.0.0.1:[0-9]+ now")
                until(lambda count=2 * number: count_of(server) == count, f"event {name}")
        assert running.stop() == 0
    assert ids(stored(server)) == ["test/detection-one", "test/one", "test/detection-two", "test/two"]


def test_a_daemon_that_moved_is_followed_though_the_first_try_fails(tmp_path: Path) -> None:
    for name in ("daemon.key", "bridge.key"):
        write_new_pair(tmp_path / name)
    curve = CurveConfig(
        secret_key_file=str(tmp_path / "daemon.key"), allowed_keys_file=str(tmp_path / "bridge.key.pub")
    )
    keys = CurveKeys(str(tmp_path / "daemon.key.pub"), tmp_path / "bridge.key")
    with (
        PublishingSite(tmp_path / "before", "north", curve) as before,
        PublishingSite(tmp_path / "after", "north", curve) as after,
    ):
        where = [(site.source["connect"], site.source["replay"]) for site in (before, after)]
        source = Source("north", "", lambda: where[0], keys, tmp_path / "north.position", "oldest")
        after.say_some(0, 1)
        (tmp_path / "bridge.key").rename(tmp_path / "away")
        del where[0]
        assert source.turn(None, 1).messages == [], "its key cannot be read"
        (tmp_path / "away").rename(tmp_path / "bridge.key")
        until(lambda: source.turn(None, 1).messages, "what it says where it is now")
        source.close()


def test_every_shard_of_a_file_is_read(tmp_path: Path, server: NatsServer) -> None:
    bridge = {"servers": [server.address], "limits": {"max_gib": 0.5}}
    path = write_settings(tmp_path, shard={"count": 2}, bridge=bridge)
    (tmp_path / "state").mkdir()
    with Site(tmp_path / "state" / "shard-1") as first, Site(tmp_path / "state" / "shard-2") as second:
        first.event("one")
        second.event("two")
        with bridging(path) as running:
            until(lambda: count_of(server) == 4, "both events")
            assert running.stop() == 0
    assert set(ids(stored(server))) == {"test/detection-one", "test/one", "test/detection-two", "test/two"}


@needs_openssl
def test_tls_tokens_a_secured_bus_and_waveforms(tmp_path: Path) -> None:
    """A server whose certificate nobody knows gets nothing; nor does one that wants no TLS."""
    for name in ("daemon.key", "bridge.key"):
        write_new_pair(tmp_path / name)
    curve = CurveConfig(
        secret_key_file=str(tmp_path / "daemon.key"), allowed_keys_file=str(tmp_path / "bridge.key.pub")
    )
    keys = {"server_key": str(tmp_path / "daemon.key.pub"), "secret_key_file": str(tmp_path / "bridge.key")}
    made, other = make_certificate(tmp_path), make_certificate(tmp_path, "other")
    right, wrong = tmp_path / "right", tmp_path / "wrong"
    right.write_text("a secret token")
    wrong.write_text("another token")
    tls = (
        f'tls {{cert_file: "{made.certificate}", key_file: "{made.key}", ca_file: "{other.certificate}", verify: true}}'
    )
    client = {"tls_certificate": str(other.certificate), "tls_key": str(other.key)}
    over = {"tls": True, "tls_ca_file": str(made.certificate), "token_file": str(right), **client}
    with NatsServer(tmp_path / "plain") as plain:
        assert "does not ask for TLS, and bridge.tls wants it: nothing was sent" in _why_not(plain, **over)
    with (
        PublishingSite(tmp_path / "north", "north", curve) as site,
        NatsServer(tmp_path / "nats", 'authorization {token: "a secret token"}', tls) as server,
    ):
        unknown = _why_not(server, **{**over, "tls_ca_file": str(other.certificate)})
        assert re.search("its certificate is not trusted .*; look at bridge.tls_ca_file", unknown)
        assert "tls_certificate" in _why_not(server, **{**over, "tls_certificate": None, "tls_key": None})
        assert "refuses the token of bridge.token_file" in _why_not(server, **{**over, "token_file": str(wrong)})
        site.say_some(1, 5)
        path = bridge_settings(tmp_path, server, [], sources=[site.source], bus_keys=keys, waveforms=True, **over)
        with bridging(path) as running:
            context = made.client()
            context.load_cert_chain(other.certificate, other.key)
            own = {"token": "a secret token", "tls": context}
            until(lambda: count_of(server, **own) == 8, "detections and their waveforms")
            assert running.stop() == 0
        came = stored(server, **own)
    waves = [one for one in came if one.subject.startswith("tscc.north.waveform.detection.1.BW.UH1.--.SHZ")]
    assert [len(one.data) for one in waves] == [2000] * 4
    headers = waves[0].headers or {}
    assert headers["Nats-Msg-Id"] == "north/north-d1/waveform"
    assert (headers["Tscc-Uid"], headers["Tscc-Samples"], headers["Tscc-Sample-Rate-Hz"]) == ("north-d1", "500", "50.0")
    assert "a secret token" not in running.text


def test_a_stream_that_does_not_take_our_subjects_is_left_alone(
    tmp_path: Path, server: NatsServer, site: PublishingSite
) -> None:
    async def make(client: Client) -> None:
        await client.jetstream().add_stream(name="TSCC", subjects=["other.>"])

    async def correct(client: Client) -> None:
        await client.jsm().update_stream(name="TSCC", subjects=["other.>", "tscc.>"])

    async def remove(client: Client) -> None:
        await client.jsm().delete_stream("TSCC")

    ask(server, make)
    site.say_some(0, 10)
    with bridging(bridge_settings(tmp_path, server, [site]), connected=False) as running:
        running.wait_for("stream TSCC takes other.>, and not tscc.>; add that to its subjects, or give another")
        ask(server, correct)
        until(lambda: count_of(server) == 15, "everything")
        ask(server, remove)
        site.say_some(11, 13)
        running.wait_for("north: the stream TSCC is gone, or JetStream is; [0-9]+ wait")
        until(lambda: count_of(server) == len(site.messages), "everything again, and what came after it was removed")
        assert running.stop() == 0


def test_what_cannot_start_says_why(tmp_path: Path, site: PublishingSite, capsys: pytest.CaptureFixture[str]) -> None:
    server = NatsServer(tmp_path / "nats", start=False)
    path = bridge_settings(tmp_path, server, [site], token_file=str(tmp_path / "nothing"))
    assert main(["bridge", "--config", str(path)]) == 1
    assert "bridge.token_file" in (said := capsys.readouterr().err)
    assert "cannot be read" in said
    path = bridge_settings(tmp_path, server, [site], metrics=None)
    (tmp_path / "state" / "bridge").mkdir(parents=True)
    taken = PositionFile(tmp_path / "state" / "bridge" / "north.position")
    assert main(["bridge", "--config", str(path)]) == 1
    assert "north.position: another subscriber uses it" in capsys.readouterr().err
    taken.close()
    assert main(["bridge", "--config", str(write_settings(tmp_path))]) == 2
    assert "`bridge: {}` means NATS on this machine" in capsys.readouterr().err
