"""The program in processes that need not load it: forked off one process that has loaded everything and done nothing.

Loading takes two seconds of a core, and a hundred tests start a daemon. What is carried out is what
`python -m tscc_stream` carries out, in a process with its own arguments, environment, working directory and files,
whose parent is the test. How a process loads, and what, is for test_start, test_cli, test_daemon and whatever runs
a command to its end, which start Python.
"""

from __future__ import annotations

import array
import atexit
import ctypes
import gc
import json
import os
import select
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from functools import cache
from importlib import import_module
from pathlib import Path

MODULES = (
    *("tscc_stream.daemon", "tscc_stream.tail", "tscc_stream.classifier", "tscc_stream.serve.server"),
    *("tscc_stream.apps.alert_run", "tscc_stream.apps.doctor", "tscc_stream.apps.console.web"),
    *(f"tscc_stream.apps.console.{page}" for page in ("live", "events", "clusters", "health")),
)
LONGEST = 1 << 18
"""Bytes of a request: arguments and environment."""
PR_SET_CHILD_SUBREAPER = 36
LIBC = ctypes.CDLL(None, use_errno=True)


class Forked:
    """A process of the program; what a test uses of subprocess.Popen, by the same names.

    begin: Python to carry out first. Its standard input is empty; stdout and stderr: file descriptors, which stay the
    caller's.
    """

    def __init__(self, begin: str, arguments: list[str], stdout: int, stderr: int) -> None:
        self.args = arguments
        self.returncode: int | None = None
        self.pid = _fork(json.dumps([begin, arguments, dict(os.environ), str(Path.cwd())]).encode(), stdout, stderr)
        self._ended = os.pidfd_open(self.pid)

    def poll(self) -> int | None:
        with suppress(subprocess.TimeoutExpired):
            self.wait(0.0)
        return self.returncode

    def wait(self, timeout: float | None = None) -> int:
        if self.returncode is None:
            if not select.select([self._ended], [], [], timeout)[0]:
                raise subprocess.TimeoutExpired(self.args, timeout or 0.0)
            self.returncode = os.waitstatus_to_exitcode(os.waitpid(self.pid, 0)[1])
            os.close(self._ended)
        return self.returncode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            signal.pidfd_send_signal(self._ended, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


def _fork(request: bytes, stdout: int, stderr: int) -> int:
    """The new process's id. It becomes a child of this process, since the one in between ends at once."""
    channel = _loaded()
    LIBC.prctl(PR_SET_CHILD_SUBREAPER, 1, 0, 0, 0)
    try:
        socket.send_fds(channel, [request], [stdout, stderr])
        pid = int(channel.recv(64))
        assert channel.recv(64) == b"ended"
    finally:
        LIBC.prctl(PR_SET_CHILD_SUBREAPER, 0, 0, 0, 0)
    return pid


@cache
def _loaded() -> socket.socket:
    """The way to the process that has loaded everything; it ends with this one."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with theirs:
        process = subprocess.Popen(
            [sys.executable, "-P", __file__, str(theirs.fileno())],
            pass_fds=[theirs.fileno()],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.DEVNULL,
        )

    def end() -> None:
        ours.close()
        process.wait(60.0)

    atexit.register(end)
    return ours


def _wait_for_work(channel: socket.socket) -> list[str] | None:
    """Forks; in the process that is to carry something out: its arguments. None at the end."""
    while True:
        request, files, _, _ = socket.recv_fds(channel, LONGEST, 2)
        if not request:
            return None
        between = os.fork()
        if not between:
            pid = os.fork()
            if not pid:
                return _become(channel, request, array.array("i", files))
            channel.send(str(pid).encode())
            os._exit(0)
        os.waitpid(between, 0)
        channel.send(b"ended")
        for file in files:
            os.close(file)


def _become(channel: socket.socket, request: bytes, files: array.array[int]) -> list[str]:
    channel.close()
    for standard, file in enumerate(files, 1):
        os.dup2(file, standard)
        os.close(file)
    begin, arguments, environment, folder = json.loads(request)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    exec(begin, {"__name__": "__begin__"})  # noqa: S102  # the test's own text
    return list(arguments)


if __name__ == "__main__":
    from tscc_stream.cli import GROUPS, program

    for name in (*MODULES, *(f"tscc_stream.cli.{group}" for group in GROUPS)):
        import_module(name)
    import_module("tscc_stream.lanes").warm_up()
    import_module("tscc_stream.stages.acquire").warm_up()
    gc.freeze()
    told = _wait_for_work(socket.socket(fileno=int(sys.argv[1])))
    if told is not None:
        sys.argv = ["tscc-stream", *told]
        program()
