"""Processes that train together on this machine, kept for many tests, and what tests let them do."""

from __future__ import annotations

import json
import multiprocessing
import pickle
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from multiprocessing.connection import Connection
from typing import Any

import numpy as np
import torch
import torch._dynamo  # DistributedDataParallel loads it; so it is loaded once for all processes
from in_time import PATIENCE_S

from tscc_stream.learn import losses
from tscc_stream.learn.group import Group, joined
from tscc_stream.learn.objective import Circumstances
from tscc_stream.learn.settings import Settings, TrainingError
from tscc_stream.learn.train import Trainer


@contextmanager
def processes(count: int) -> Iterator[Callable[..., list[Any]]]:
    """call(function, *arguments): what each process's function(group, *arguments) returns, or the error it raises."""
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload(["made_group"])
    with tempfile.TemporaryDirectory() as folder:
        ends: list[Connection] = []
        running = []
        for rank in range(count):
            ours, theirs = context.Pipe()
            running.append(context.Process(target=_serve, args=(rank, count, f"{folder}/store", theirs), daemon=True))
            running[-1].start()
            theirs.close()
            ends.append(ours)

        def call(function: Callable[..., Any], *arguments: Any) -> list[Any]:
            for end in ends:
                end.send_bytes(pickle.dumps((function, arguments)))
            assert all(end.poll(PATIENCE_S) for end in ends)
            return [pickle.loads(end.recv_bytes()) for end in ends]  # noqa: S301 our own

        try:
            yield call
        finally:
            for end in ends:
                end.close()
            for process in running:
                process.join(PATIENCE_S)
                process.kill()


def _serve(rank: int, count: int, store: str, end: Connection) -> None:
    torch.set_num_threads(1)
    with joined(rank, count, "cpu", PATIENCE_S / 2, init_method=f"file://{store}") as group:
        while True:
            try:
                function, arguments = pickle.loads(end.recv_bytes())  # noqa: S301 our own
            except (EOFError, ConnectionResetError):
                return
            end.send_bytes(pickle.dumps(_answer(function, group, arguments)))


def _answer(function: Callable[..., Any], group: Group, arguments: tuple[Any, ...]) -> object:
    try:
        return function(group, *arguments)
    except ValueError as error:
        return error


def contrast(group: Group, a_btd: torch.Tensor, b_btd: torch.Tensor, share: float) -> tuple[torch.Tensor, ...]:
    """What a process adds to the contrast of a batch, and the gradients by its own windows."""
    part = group.part(len(a_btd))
    a, b = (whole[part.mine].clone().requires_grad_() for whole in (a_btd, b_btd))
    loss = losses.hierarchical_contrastive_loss(a, b, share, part)
    loss.backward()
    assert a.grad is not None
    assert b.grad is not None
    return loss.detach(), a.grad, b.grad


def trained(
    group: Group, settings: Settings, x: np.ndarray, known: Circumstances, state: dict[str, Any] | None, stop: int
) -> dict[str, Any]:
    """The state after so many epochs, or at the end, of a run that begins with `state` where there is one."""

    class StoppedError(Exception):
        pass

    def after(_: object) -> None:
        if len(trainer.history) == stop:
            raise StoppedError

    trainer = Trainer(settings, x, known, group=group)
    if state is not None:
        trainer.restore(state)
    with suppress(StoppedError):
        trainer.run(after)
    return trainer.state()


def told(group: Group, wrong: int) -> object:
    def make() -> str:
        if group.rank == wrong:
            raise TrainingError("no such file")
        return f"by {group.rank}"

    return group.told(make)


def each(group: Group, wrong: list[int]) -> object:
    def make() -> int:
        if group.rank in wrong:
            raise TrainingError("no such file")
        return group.rank

    return group.each(make)


def each_reads(group: Group, payloads: list[bytes]) -> object:
    """JSON, which may be none, or no text: both are errors that cannot be made of a sentence."""
    return group.each(lambda: json.loads(payloads[group.rank].decode()))


def agreed(group: Group, values: list[object]) -> None:
    group.agreed(values[group.rank], "data")
