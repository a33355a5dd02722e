"""The `serve` command: index an archive, serve it until stopped, say on stderr what is going on."""

from __future__ import annotations

import os
import signal
import sys
import threading
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from typing import Literal

from tscc_stream.config_section import split_host_port
from tscc_stream.edges import archive
from tscc_stream.serve.replay import ReplayOptions, Speed
from tscc_stream.serve.server import DEFAULT_RING_BYTES, ReplayServer, ServeError, ServerOptions

_SHOWN_FAULTS = 3


def parse_speed(text: str) -> Speed:
    """`max`, or how much faster than real time. Raises ValueError saying what was expected."""
    if text == "max":
        return "max"
    try:
        speed = float(text)
    except ValueError:
        speed = 0.0
    if not 0.0 < speed < float("inf"):
        raise ValueError(f"speed {text!r}: expected a number above 0, or max")
    return speed


def serve_command(
    paths: Iterable[str | os.PathLike[str]],
    bind: str,
    *,
    speed: Speed = 1.0,
    loop: bool = False,
    start_at: Literal["recorded", "now", "ended"] = "recorded",
    once: bool = False,
    wait_for_client: bool = False,
    ring_bytes: int = DEFAULT_RING_BYTES,
) -> int:
    """Serves recordings at `bind` (HOST:PORT, port 0: any) until stopped; exit status.

    0 after a stop by signal or, with `once`, after the end of the replay; 1 where the archive cannot be read or the
    address cannot be had; 2 for arguments that contradict one another.
    """
    try:
        host, port = split_host_port(bind)
        options = ServerOptions(
            replay=ReplayOptions(speed, loop, start_at),
            once=once,
            wait_for_client=wait_for_client,
            ring_bytes=ring_bytes,
        )
    except (ValueError, ServeError) as error:
        return _fail(f"serve: {error}", 2)
    try:
        index = archive.index(paths)
        server = ReplayServer(index, host, port, options)
        server.start()
    except (archive.ArchiveError, ServeError) as error:
        return _fail(f"serve: {error}", 1)
    _announce(server, index)
    with _stopped_by_signals(server):
        server.done.wait()
    server.stop()
    return _fail(f"serve: {server.error}", 1) if server.error else 0


def _announce(server: ReplayServer, index: archive.ArchiveIndex) -> None:
    host, port = server.address
    shown = f"[{host}]" if ":" in host else host
    _say(f"listening on {shown}:{port} ({len(archive.channels(index))} channels, {len(index)} records)")
    for text in index.faults.texts[:_SHOWN_FAULTS]:
        _say(f"skipped: {text}")
    if index.faults.count > _SHOWN_FAULTS:
        _say(f"skipped: {index.faults.count - _SHOWN_FAULTS} more")


def _say(text: str) -> None:
    sys.stderr.write(f"{text}\n")
    sys.stderr.flush()


def _fail(text: str, status: int) -> int:
    _say(text)
    return status


@contextmanager
def _stopped_by_signals(server: ReplayServer) -> Iterator[None]:
    """SIGINT and SIGTERM stop the server while this lasts (only where this thread may set handlers)."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return
    before = {
        number: signal.signal(number, lambda *_: server.request_stop()) for number in (signal.SIGINT, signal.SIGTERM)
    }
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
