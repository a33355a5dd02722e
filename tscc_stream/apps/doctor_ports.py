"""Whether the addresses that a site listens on are free, or held by its own processes; and by whom otherwise."""

from __future__ import annotations

import errno
import os
import re
import socket
from collections.abc import Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import Any

from tscc_stream.apps.doctor_state import program_of
from tscc_stream.apps.finding import Check, Finding, fail, ok, warn
from tscc_stream.config import Config
from tscc_stream.config_section import split_host_port


def checks(config: Config, running: Mapping[str, Any]) -> list[Check]:
    """running: what endpoints.json says of a daemon that runs; empty where none does."""
    ours = {name: str(running.get(key, "")) for key, name in _TOLD.items()}
    pid = running.get("pid")
    return [
        Check(f"port {key}", partial(_one, key, address, ours.get(key, ""), pid))
        for key, address in _addresses(config.model_dump())
    ]


def _addresses(document: Mapping[str, Any], place: str = "") -> Iterator[tuple[str, str]]:
    """Keys of the configuration that say where to listen, with the address."""
    for key, value in document.items():
        if key in ("bind", "replay_bind"):
            yield f"{place}{key}", value
        elif isinstance(value, Mapping):
            yield from _addresses(value, f"{place}{key}.")


_TOLD = {"publish": "publish.bind", "replay": "publish.replay_bind", "metrics": "metrics.bind"}


def _one(key: str, address: str, told: str, pid: object) -> list[Finding]:
    return [port(key, address, told, pid)]


def port(key: str, address: str, told: str, pid: object) -> Finding:
    """One address. told: where a running daemon says that it listens for this; pid: its process."""
    name = f"port {key}"
    if address.startswith("ipc://"):
        return _socket_file(name, Path(address.removeprefix("ipc://")), told)
    host, number = split_host_port(address.removeprefix("tcp://"))
    if told and number and told.endswith(f":{number}"):
        return ok(name, f"{address}: held by our own daemon, process {pid}")
    if number == 0:
        where = f"; the running daemon has {told}" if told else ""
        return ok(name, f"{address}: the system chooses one{where}")
    error = _bound("" if host == "*" else host, number)
    if error is None:
        return ok(name, f"{address}: free")
    return _explained(name, key, address, number, error)


def _bound(host: str, number: int) -> OSError | None:
    """Why the address cannot be had; None where it can. It is let go of at once, and nobody is let in meanwhile."""
    try:
        found = socket.getaddrinfo(host or None, number, type=socket.SOCK_STREAM, flags=socket.AI_PASSIVE)
        family, kind, protocol, _, where = found[0]
        with socket.socket(family, kind, protocol) as asked:
            asked.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            asked.bind(where)
    except OSError as error:
        return error
    return None


def _explained(name: str, key: str, address: str, number: int, error: OSError) -> Finding:
    if error.errno == errno.EADDRINUSE:
        pid = listener_of(number)
        if pid is None:
            todo = "run doctor as root: if it is our own daemon, all is well"
            return warn(name, f"{address}: taken by a process that cannot be seen from here", todo)
        program = program_of(pid)
        who = f"process {pid} ({program})"
        if key not in _TOLD.values() and "tscc" in program:  # the console and the like are processes of their own
            return ok(name, f"{address}: held by {who}")
        todo = f"end that process, or give {key} another port"
        return fail(name, f"{address}: taken by {who}", todo)
    if error.errno == errno.EADDRNOTAVAIL or isinstance(error, socket.gaierror):
        return fail(
            name, f"{address}: is no address of this machine", f"give {key} one that `ip addr` lists, or 127.0.0.1"
        )
    if error.errno == errno.EACCES:
        return fail(name, f"{address}: only root may listen there", f"give {key} a port above 1023")
    return fail(name, f"{address}: {error.strerror}", f"give {key} another address")


def _socket_file(name: str, path: Path, told: str) -> Finding:
    if told == f"ipc://{path}":
        return ok(name, f"ipc://{path}: held by our own daemon")
    if not os.access(path.parent, os.W_OK):
        return fail(
            name, f"ipc://{path}: {path.parent} cannot be written to", f"make {path.parent}, or name another place"
        )
    if path.exists() and not path.is_socket():
        return warn(name, f"ipc://{path}: something else lies there", "move it away")
    return ok(name, f"ipc://{path}: free")


def listener_of(number: int) -> int | None:
    """Process that listens on a TCP port; None where it belongs to somebody whose processes cannot be looked at.

    Source: proc(5), /proc/net/tcp: local address, state 0A for listening, and in the tenth field the socket's inode.
    """
    wanted = {f"socket:[{inode}]" for inode in _inodes(number)}
    for link in _descriptors() if wanted else ():
        try:
            if str(link.readlink()) in wanted:
                return int(link.parts[2])
        except OSError:
            continue  # closed meanwhile
    return None


def _inodes(number: int) -> Iterator[str]:
    for table in ("tcp", "tcp6"):
        try:
            lines = Path(f"/proc/net/{table}").read_text(encoding="ascii").splitlines()[1:]
        except OSError:
            continue
        for fields in map(str.split, lines):
            if fields[3] == "0A" and fields[1].endswith(f":{number:04X}"):
                yield fields[9]


def _descriptors() -> Iterator[Path]:
    for process in Path("/proc").iterdir():
        if re.fullmatch(r"\d+", process.name):
            try:
                yield from (process / "fd").iterdir()
            except OSError:
                continue  # ended, or another user's
