"""Processes of our own: each takes one task at a time, and one that dies is replaced."""

from __future__ import annotations

import contextlib
import multiprocessing as mp
import os
import signal
from dataclasses import dataclass
from multiprocessing.connection import Connection, wait
from multiprocessing.process import BaseProcess
from pathlib import Path

from tscc_stream.scan.placement import Done, Hand, Task

_PRELOADED = ["tscc_stream.scan.local"]


@dataclass(slots=True)
class _Worker:
    process: BaseProcess
    link: Connection
    task: Task | None = None


class Local:
    """Placement on this machine. Processes are forked by a server that has loaded the program once, and nothing else.

    folder: of the scan. They end when whoever made this does, however that ends.
    """

    def __init__(self, folder: Path, workers: int) -> None:
        self._folder, self._most = folder, workers
        self._context = mp.get_context("forkserver")
        self._context.set_forkserver_preload(_PRELOADED)
        self._workers: list[_Worker] = []

    @property
    def room(self) -> int:
        return self._most - sum(worker.task is not None for worker in self._workers)

    @property
    def pids(self) -> list[int]:
        """Of the processes that live."""
        return [worker.process.pid or 0 for worker in self._workers]

    def submit(self, task: Task) -> None:
        """As Placement has it."""
        worker = next((worker for worker in self._workers if worker.task is None), None) or self._start()
        worker.task = task
        with contextlib.suppress(OSError):  # it has just died: `wait` will say so
            worker.link.send(task)

    def wait(self, seconds: float) -> list[Done]:
        """As Placement has it."""
        links = {worker.link: worker for worker in self._workers}
        ready = wait(list(links), seconds)
        return [done for link in ready if (done := self._heard(links[link])) is not None]  # type: ignore[index]  # no sockets here

    def close(self) -> None:
        """As Placement has it."""
        for worker in self._workers:
            worker.link.close()
            worker.process.terminate()
        for worker in self._workers:
            worker.process.join()
        self._workers.clear()

    def _start(self) -> _Worker:
        ours, theirs = self._context.Pipe()
        process = self._context.Process(target=work, args=(theirs, self._folder), name="scan worker", daemon=True)
        process.start()
        theirs.close()
        worker = _Worker(process, ours)
        self._workers.append(worker)
        return worker

    def _heard(self, worker: _Worker) -> Done | None:
        try:
            done = worker.link.recv()
        except (EOFError, OSError):
            return self._lost(worker)
        worker.task = None
        return done if isinstance(done, Done) else None

    def _lost(self, worker: _Worker) -> Done | None:
        self._workers.remove(worker)
        worker.link.close()
        worker.process.join()
        if worker.task is None:
            return None
        return Done(worker.task, f"its process ended by {_ended(worker.process.exitcode or 0)}", lost=True)


def _ended(status: int) -> str:
    return f"signal {signal.Signals(-status).name}" if status < 0 else f"status {status}"


def work(link: Connection, folder: Path) -> None:
    """The life of a worker."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # who is interrupted ends the workers
    hand = Hand(folder)
    while True:
        try:
            task: Task = link.recv()
        except (EOFError, OSError):
            return
        done = hand.carry_out(task, _parent_lives)
        try:
            link.send(done)
        except OSError:
            return


def _parent_lives() -> None:
    parent = mp.parent_process()
    if parent is not None and not parent.is_alive():
        os._exit(1)  # nobody waits for the rest
