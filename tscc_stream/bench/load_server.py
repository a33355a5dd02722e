"""The load as a process of its own: load_server SCENE OUT, where SCENE is a bench.load.Scene in JSON.

Prints its port, waits for one SeedLink client, of version 3 or 4, prints begin_ns, and sends it the scene in real time,
whatever streams it asked for. The handshake is the replay server's; what is sent does not go through its ring. When the
scene is over, or its client has gone, OUT gets the times at which records were handed to the socket (monotonic ns,
[records] int64; 0: not sent), and its own CPU seconds are printed.

A server of ours alone never vouches for our client: that it understands other servers is tested beside ringserver.
"""

from __future__ import annotations

import json
import select
import socket
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np

from tscc_stream.bench.load import Frames, Scene
from tscc_stream.messages import Int64Array
from tscc_stream.serve.info import Identity
from tscc_stream.serve.protocol import Session
from tscc_stream.serve.ring import Ring

TICK_NS = 2_000_000
"""How far apart the sends are at most often: a real server forwards a record at once."""
PATIENCE_S = 180.0
MADE_READY_MS = 300


def main(scene: Scene, out: Path) -> int:
    listener = socket.create_server(("127.0.0.1", 0))
    listener.settimeout(PATIENCE_S)
    _say(str(listener.getsockname()[1]))
    client, _ = listener.accept()
    with client:
        client.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        client.settimeout(PATIENCE_S)
        session = Session(Ring(1), Identity("bench", time.time_ns()))
        while session.phase != "data":
            session.receive(_some(client))
            client.sendall(session.send(1 << 16))
        scene = replace(scene, begin_ns=(time.time_ns() // 1_000_000 + MADE_READY_MS) * 1_000_000)
        frames = Frames(scene, 4 if session.connection.version.startswith("4") else 3)
        sent_ns = np.zeros(scene.records, np.int64)
        _say(str(scene.begin_ns))
        began_s = time.process_time()
        with suppress(ConnectionError):
            _play(client, session, scene, frames, sent_ns)
        np.save(out, sent_ns)
        _say(str(time.process_time() - began_s))
        with suppress(ConnectionError):
            while client.recv(4096):  # the end is the client's affair
                pass
    return 0


def _play(client: socket.socket, session: Session, scene: Scene, frames: Frames, sent_ns: Int64Array) -> None:
    """In real time: data time 0 of the scene is now, or was already."""
    begin_ns = time.monotonic_ns() + (scene.begin_ns - time.time_ns())
    done = 0
    while done < scene.records:
        now_ns = time.monotonic_ns()
        due = int(np.searchsorted(scene.due_ns, now_ns - begin_ns, "right"))
        if due > done:
            data = frames.of(done, due)
            sent_ns[done:due] = time.monotonic_ns()
            client.sendall(data)
            done = due
        _answer(client, session)
        if done < scene.records:
            wait_ns = max(int(scene.due_ns[done]) + begin_ns, now_ns + TICK_NS) - time.monotonic_ns()
            time.sleep(max(0, wait_ns) / 1e9)


def _answer(client: socket.socket, session: Session) -> None:
    """Keep-alives."""
    if select.select([client], [], [], 0)[0]:
        session.receive(_some(client))
        client.sendall(session.send(1 << 16))


def _some(client: socket.socket) -> bytes:
    data = client.recv(4096)
    if not data:
        raise ConnectionError("the client has gone")
    return data


def _say(line: str) -> None:
    print(line, flush=True)  # noqa: T201  # for the process that started this one


if __name__ == "__main__":
    sys.exit(main(Scene(**json.loads(sys.argv[1])), Path(sys.argv[2])))
