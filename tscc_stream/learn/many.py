"""`train` by several processes: those that torchrun started, or as many as are asked for on this machine."""

from __future__ import annotations

import json
import os
import signal
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from multiprocessing import connection
from multiprocessing.process import BaseProcess
from pathlib import Path
from time import monotonic
from typing import Any

import torch
from torch import distributed
from torch.multiprocessing.spawn import start_processes

from tscc_stream import package
from tscc_stream.learn.commands import train_model
from tscc_stream.learn.group import ALONE, WAIT_SECONDS, Group, LostError, joined
from tscc_stream.learn.settings import TrainingError
from tscc_stream.package import Package

_GRACE_SECONDS = 5.0
"""For others to end of themselves after one has failed."""


def train(options: Mapping[str, Any], processes: int = 1, wait_seconds: float = WAIT_SECONDS) -> Package | None:
    """train_model(**options), by `processes` on this machine, or where torchrun started this one by all of its own;
    None in those of them that do not write.
    """
    if processes > 1:
        if distributed.is_torchelastic_launched():
            raise TrainingError("--processes: torchrun has said how many processes there are; expected one of the two")
        return on_this_machine(processes, options, wait_seconds)
    with of_torchrun(str(options["device"]), wait_seconds) as group:
        made = train_model(**options, group=group)
        return made if group.first else None


@contextmanager
def of_torchrun(device: str, wait_seconds: float = WAIT_SECONDS) -> Iterator[Group]:
    """The group of the processes that torchrun started, of which this is one; else this process alone."""
    if not distributed.is_torchelastic_launched() or os.environ["WORLD_SIZE"] == "1":
        yield ALONE
        return
    rank, count, local = (int(os.environ[name]) for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"))
    with joined(rank, count, _placed(device, local), wait_seconds) as group:
        yield group


def on_this_machine(processes: int, options: Mapping[str, Any], wait_seconds: float = WAIT_SECONDS) -> Package:
    """train_model(**options) by so many processes; they share the cores, or have a graphics card each.

    Raises TrainingError with what the process that failed first said; the others are ended.
    """
    if processes < 1:
        raise TrainingError(f"processes {processes}: expected 1 or more")
    cards = torch.cuda.device_count()
    if _on_cards(str(options["device"])) and processes > cards:
        raise TrainingError(f"processes {processes}: expected no more than there are graphics cards, {cards}")
    with tempfile.TemporaryDirectory(prefix="tscc-train-") as folder:
        running = start_processes(  # type: ignore[no-untyped-call]  # torch leaves it untyped
            _one, (processes, folder, dict(options), wait_seconds), processes, join=False, start_method="spawn"
        )
        assert running is not None  # noqa: S101 what start_processes gives where it does not join
        try:
            codes = _ended(running.processes)
        finally:
            _end(running.processes)
        if any(codes):
            raise TrainingError(_cause(Path(folder), codes))
    return package.load(Path(options["out"]))


def _one(rank: int, processes: int, folder: str, options: dict[str, Any], wait_seconds: float) -> None:
    """What each process does."""
    if "OMP_NUM_THREADS" not in os.environ:
        torch.set_num_threads(max(1, len(os.sched_getaffinity(0)) // processes))
    os.environ.setdefault("GLOO_SOCKET_IFNAME", "lo")  # the host's name may lead anywhere
    device = _placed(str(options["device"]), rank)
    try:
        with joined(rank, processes, device, wait_seconds, init_method=f"file://{folder}/store") as group:
            train_model(**options | {"device": device, "group": group})
    except Exception as error:
        sentence = str(error) if isinstance(error, ValueError | OSError) else f"{type(error).__name__}: {error}"
        said = {"said": sentence, "lost": isinstance(error, LostError)}
        (Path(folder) / f"{rank}.json").write_text(json.dumps(said), encoding="utf-8")
        raise SystemExit(1) from error  # of anything else torch makes a file in /tmp, which nobody takes away


def _ended(processes: Sequence[BaseProcess]) -> list[int | None]:
    """Exit codes when all have ended, or soon after one has failed, None for those that are still there."""
    while there := [process.sentinel for process in processes if process.exitcode is None]:
        connection.wait(there)  # never for none: that would wait for ever
        if any(process.exitcode for process in processes):
            until = monotonic() + _GRACE_SECONDS
            for process in processes:
                process.join(max(0.0, until - monotonic()))
            break
    return [process.exitcode for process in processes]


def _end(processes: Sequence[BaseProcess]) -> None:
    for process in processes:
        if process.is_alive():
            process.terminate()
    for process in processes:
        process.join(_GRACE_SECONDS)
        process.kill()  # one that is stopped, or stuck
        process.join()


def _on_cards(device: str) -> bool:
    return device.startswith("cuda") or (device == "auto" and torch.cuda.is_available())


def _placed(device: str, local: int) -> str:
    """The kind of device, of which this process has its own."""
    if not _on_cards(device):
        return "cpu"
    torch.cuda.set_device(local)
    return "cuda"


def _cause(folder: Path, codes: Sequence[int | None]) -> str:
    """What ended a run: first what a process said of itself, then a signal, and last that one missed the others."""
    said = {file.stem: json.loads(file.read_text(encoding="utf-8")) for file in sorted(folder.glob("*.json"))}
    own = [one["said"] for one in said.values() if not one["lost"]]
    if own:
        return str(own[0])
    for rank, code in enumerate(codes):
        if code is not None and code < 0:
            return (
                f"process {rank} of {len(codes)} was ended by {signal.Signals(-code).name}; the others were ended too"
            )
    return str(next(iter(said.values()))["said"]) if said else f"a process failed; exit codes are {list(codes)}"
