"""A nats-server as a process, sites that publish on real buses, a bridge as a process, and what the centre has."""

from __future__ import annotations

import asyncio
import dataclasses
import json
import os
import shutil
import signal
import socket
import subprocess
import threading
import time
from collections.abc import Awaitable, Callable, Iterable
from pathlib import Path
from typing import Any, Self, TypeVar

import nats
import pytest
from in_time import PATIENCE_S
from made_messages import detection
from made_site import Running, write_settings
from nats.aio.client import Client
from nats.aio.msg import Msg
from nats.js.api import AckPolicy, ConsumerConfig

from tscc_stream.config import CurveConfig, PublishConfig
from tscc_stream.edges.sqlite import JournalFile, JournalReader
from tscc_stream.edges.zeromq import Bus
from tscc_stream.messages import Message, NetworkEvent
from tscc_stream.stages.publish import ModelIdentity, Publish

PROGRAM = shutil.which("nats-server", path=f"{os.environ.get('PATH', '')}:/usr/sbin")
NO_NATS = "nats-server (Debian's package of that name) is not installed"
needs_nats = pytest.mark.skipif(PROGRAM is None, reason=NO_NATS)
BASE_NS = 1_700_000_000 * 10**9
SECOND = 10**9
_Got = TypeVar("_Got")


class NatsServer:
    """On a port of its own that it keeps when it is started again. more: lines of its configuration."""

    def __init__(self, folder: Path, *more: str, jetstream: bool = True, start: bool = True) -> None:
        self._folder = folder
        self._process: subprocess.Popen[bytes] | None = None
        folder.mkdir(exist_ok=True)
        with socket.create_server(("127.0.0.1", 0)) as taken:
            self.port = taken.getsockname()[1]
        store = [f"jetstream {{store_dir: {json.dumps(str(folder / 'store'))}, max_mem: 64M, max_file: 1G}}"]
        lines = [f"listen: 127.0.0.1:{self.port}", *(store if jetstream else []), *more]
        (folder / "nats.conf").write_text("\n".join(lines))
        if start:
            self.start()

    def start(self, *more: str) -> None:
        assert PROGRAM is not None
        if more:
            with (self._folder / "nats.conf").open("a") as file:
                file.write("\n" + "\n".join(more))
        log = (self._folder / "nats.log").open("ab")
        self._process = subprocess.Popen([PROGRAM, "-c", str(self._folder / "nats.conf")], stdout=log, stderr=log)
        log.close()
        until(self._speaks, "nats-server")

    def _speaks(self) -> bool:
        assert self._process is not None
        assert self._process.poll() is None, (self._folder / "nats.log").read_text()[-2000:]
        try:
            with socket.create_connection(("127.0.0.1", self.port), 1.0) as link:
                return link.recv(5) == b"INFO "
        except OSError:
            return False

    @property
    def address(self) -> str:
        return f"127.0.0.1:{self.port}"

    def send(self, number: int) -> None:
        assert self._process is not None
        self._process.send_signal(number)

    def kill(self) -> None:
        assert self._process is not None
        self._process.kill()
        self._process.wait()

    def empty(self) -> None:
        """Killed, and started again without its store."""
        self.kill()
        shutil.rmtree(self._folder / "store")
        self.start()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        if self._process is not None and self._process.poll() is None:
            self.send(signal.SIGCONT)
            self.kill()


class PublishingSite:
    """A journal and its bus, as a daemon has them. messages: what it has said, in order."""

    def __init__(self, folder: Path, name: str, curve: CurveConfig | None = None) -> None:
        folder.mkdir(exist_ok=True)
        self.name, self._path, self._curve = name, folder / "journal.sqlite", curve
        self._publish = Publish(name, ModelIdentity("demo", "1", "0" * 64))
        self._where = ("tcp://127.0.0.1:0", "tcp://127.0.0.1:0")
        self.messages: list[Message] = []
        self._thread: threading.Thread | None = None
        self.start()

    def start(self) -> None:
        self._journal = JournalFile(self._path)
        self._reader = JournalReader(self._path)
        bind, replay = self._where
        config = PublishConfig(bind=bind, replay_bind=replay, heartbeat_seconds=0.2, curve=self._curve)
        self._bus = Bus(config, self.name, self._reader)
        self._bus.start()
        self._where = (self._bus.endpoint, self._bus.replay_endpoint)

    def stop(self) -> None:
        self._bus.stop()
        self._reader.close()
        self._journal.close()

    def begin_anew(self) -> None:
        """With another, empty journal."""
        self.stop()
        for path in self._path.parent.glob("journal.sqlite*"):
            path.unlink()
        self.start()

    @property
    def source(self) -> dict[str, Any]:
        return {"name": self.name, "connect": self._where[0], "replay": self._where[1]}

    def say(self, messages: Iterable[Message]) -> None:
        told = list(messages)
        self.messages += told
        self._bus.publish(self._journal.append(told))

    def say_some(self, first: int, last: int) -> None:
        """Detections, every fifth with a network event (an early notice and a last word), every tenth with a status."""
        self.say(message for number in range(first, last) for message in self._numbered(number))

    def say_bodies(self, *bodies: bytes) -> None:
        """Detections with bodies as they are given."""
        for body in bodies:
            number = len(self.messages)
            self.say([dataclasses.replace(self.messages[0], uid=f"body-{number}", body=body, onset_ns=number * SECOND)])

    def _numbered(self, number: int) -> list[Message]:
        onset_ns = BASE_NS + number * SECOND
        found = [self._publish.detection(detection(uid=f"{self.name}-d{number}", onset_ns=onset_ns))]
        if number % 5 == 0:
            found += [
                self._publish.network_event(_event(f"{self.name}-n{number}", onset_ns, last)) for last in (False, True)
            ]
        if number % 10 == 0:
            found.append(self._publish.status("daemon", {"number": number}, onset_ns))
        return found

    def keep_saying(self, first: int, last: int, every_s: float) -> None:
        """In a thread: one number after the other."""

        def run() -> None:
            pause = threading.Event()
            for number in range(first, last):
                self.say_some(number, number + 1)
                pause.wait(every_s)

        self._thread = threading.Thread(target=run)
        self._thread.start()

    def finish(self) -> None:
        assert self._thread is not None
        self._thread.join(PATIENCE_S)
        assert not self._thread.is_alive()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()


def _event(uid: str, onset_ns: int, final: bool) -> NetworkEvent:
    return NetworkEvent(
        uid=uid, onset_ns=onset_ns, duration_s=1.0, channels=("FDSN:BW_UH1__S_H_Z",), detections=(uid,),
        votes={"microseismic": 1}, cluster_id=1, cluster_name="microseismic", final=final,
    )  # fmt: skip


def until(holds: Callable[[], _Got], what: str, seconds: float = PATIENCE_S) -> _Got:
    """Look again and again, for a bounded time, until it holds."""
    deadline = time.monotonic() + seconds
    while not (got := holds()):
        assert time.monotonic() < deadline, f"{what} did not come within {seconds:g} s"
        time.sleep(0.02)
    return got


def bridge_settings(folder: Path, server: NatsServer, sites: Iterable[PublishingSite], **over: Any) -> Path:
    bridge = {
        "servers": [server.address],
        "sources": [site.source for site in sites],
        "limits": {"max_gib": 0.5},
        "metrics": {"bind": "127.0.0.1:0"},
        **over,
    }
    return write_settings(folder, bridge=bridge)


def bridging(config: Path, connected: bool = True) -> Running:
    """`bridge`, once it is ready, and connected where that is to be."""
    running = Running("bridge", "--config", config)
    running.wait_for("connected to NATS" if connected else "ready: ")
    return running


def ask(server: NatsServer, question: Callable[[Client], Awaitable[_Got]], **options: Any) -> _Got:
    """Something of the server, over a connection of its own."""

    async def asked() -> _Got:
        client = await nats.connect(f"nats://{server.address}", connect_timeout=5, **options)
        try:
            return await question(client)
        finally:
            await client.close()

    return asyncio.run(asked())


def stored(server: NatsServer, stream: str = "TSCC", **options: Any) -> list[Msg]:
    """Every message of a stream, in its order."""

    async def read(client: Client) -> list[Msg]:
        context = client.jetstream()
        count = (await context.stream_info(stream)).state.messages
        if not count:
            return []
        reader = await context.pull_subscribe("tscc.>", stream=stream, config=ConsumerConfig(ack_policy=AckPolicy.NONE))
        found: list[Msg] = []
        while len(found) < count:
            found += await reader.fetch(min(500, count - len(found)), timeout=PATIENCE_S)
        return found

    return ask(server, read, **options)


def count_of(server: NatsServer, stream: str = "TSCC", **options: Any) -> int:
    """Messages in a stream; 0 where there is none."""

    async def count(client: Client) -> int:
        return (await client.jetstream().stream_info(stream)).state.messages

    try:
        return ask(server, count, **options)
    except (nats.errors.Error, nats.js.errors.Error):
        return 0


def ids(messages: Iterable[Msg]) -> list[str]:
    return [(message.headers or {})["Nats-Msg-Id"] for message in messages]
