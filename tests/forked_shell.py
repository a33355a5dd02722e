"""The program for shells that need not load it: `shim` asks this process, which has loaded everything and forks.

    python forked_shell.py SOCKET

What is carried out is in the network namespace of who asks, with its arguments, environment, working directory and
files. It says "ready" once it listens. See `forked` for what runs in it and what does not:
a command that forgets to load something finds it loaded here. How commands load is for test_start and test_cli.
"""

from __future__ import annotations

import array
import ctypes
import gc
import json
import os
import signal
import socket
import sys
from importlib import import_module

from forked import LONGEST, MODULES

LEARNING = ("commands", "many", "from_journal", "evaluate", "evaluation_report", "report", "stream_report")
SHIM = """#!{python} -IS
import json, os, signal, socket
from sys import argv
with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as server:
    server.connect({path!r})
    files = [0, 1, 2, os.open("/proc/self/ns/net", os.O_RDONLY)]
    socket.send_fds(server, [json.dumps([argv[1:], dict(os.environ), os.getcwd()]).encode()], files)
    pid = int(server.recv(64))
    for number in (signal.SIGTERM, signal.SIGINT):
        signal.signal(number, lambda number, _: os.kill(pid, number))
    status = int(server.recv(64))
os._exit(status if status >= 0 else 128 - status)
"""


def shim(socket_path: str) -> str:
    """A program that does as `tscc-stream` does: its text."""
    return SHIM.format(python=sys.executable, path=socket_path)


def _asked(listener: socket.socket) -> list[str]:
    """Forks for whoever asks; in the process that is to carry something out: its arguments."""
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for who waits
    while True:
        client, _ = listener.accept()
        if not os.fork():
            listener.close()
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            break
        client.close()
    request, files, _, _ = socket.recv_fds(client, LONGEST, 4)
    pid = os.fork()
    if pid:
        for file in files:
            os.close(file)
        client.send(str(pid).encode())
        client.send(str(os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])).encode())
        os._exit(0)
    client.close()
    return _become(request, array.array("i", files))


def _become(request: bytes, files: array.array[int]) -> list[str]:
    *standard, namespace = files
    libc = ctypes.CDLL(None, use_errno=True)
    if libc.setns(namespace, 0):
        raise OSError(ctypes.get_errno(), "setns")
    for number, file in enumerate(standard):
        os.dup2(file, number)
    for file in files:
        os.close(file)
    arguments, environment, folder = json.loads(request)
    os.environ.clear()
    os.environ.update(environment)
    os.chdir(folder)
    return list(arguments)


if __name__ == "__main__":
    from tscc_stream.cli import GROUPS, program

    groups, learning = (
        [f"tscc_stream.cli.{name}" for name in GROUPS],
        [f"tscc_stream.learn.{name}" for name in LEARNING],
    )
    for name in (*MODULES, *groups, *learning, "torch._dynamo"):  # the last one: any optimizer of torch loads it
        import_module(name)
    import_module("tscc_stream.lanes").warm_up()
    import_module("tscc_stream.stages.acquire").warm_up()
    gc.freeze()
    with socket.socket(socket.AF_UNIX, socket.SOCK_SEQPACKET) as listening:
        listening.bind(sys.argv[1])
        listening.listen()
        sys.stdout.write("ready\n")
        sys.stdout.flush()
        told = _asked(listening)
    sys.argv = ["tscc-stream", *told]
    program()
