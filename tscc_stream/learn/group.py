"""Processes that train one network together, and what they tell one another.

One process alone is a group too, whose every exchange is nothing. Source: PyTorch's DistributedDataParallel (Li et al.
2020) for weights and gradients, its collectives for the rest.
"""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from typing import Any, Protocol, TypeVar, cast

from torch import Tensor, distributed, nn

from tscc_stream.learn.part import Part
from tscc_stream.learn.settings import TrainingError

_Made = TypeVar("_Made")
WAIT_SECONDS = 600.0
"""How long a process waits for the others, unless something else is said."""


class LostError(TrainingError):
    """Another process of the group ended, or did not answer in time."""


class Step(Protocol):
    """What a module computes of a batch."""

    def __call__(self, *inputs: Any) -> Any: ...  # noqa: ANN401 what the module takes and gives


@dataclass(frozen=True, slots=True)
class Group:
    """The processes of a run, of which this is number `rank`."""

    rank: int = 0
    processes: int = 1

    @property
    def first(self) -> bool:
        """Whether this process is the one that writes."""
        return self.rank == 0

    @property
    def alone(self) -> bool:
        return self.processes == 1

    def part(self, total: int) -> Part:
        """What of a batch of so many windows is this process's own."""
        return Part(total, self.rank, self.processes)

    def shared(self, module: nn.Module, all_used: bool) -> Step:
        """The module, with the first process's weights, whose gradients are from now on the mean over all processes.

        all_used: every weight has a gradient in every step.
        """
        if self.alone:
            return module
        wrapped = nn.parallel.DistributedDataParallel(module, find_unused_parameters=not all_used)
        return cast("Step", wrapped)

    def summed(self, values: Tensor) -> Tensor:
        """Over all processes."""
        if self.alone:
            return values
        total = values.clone()
        distributed.all_reduce(total)
        return total

    def told(self, make: Callable[[], _Made]) -> _Made:
        """What the first process makes, which the others are told; where it raises TrainingError, all do."""
        made = [_attempt(make) if self.first else None]
        if not self.alone:
            distributed.broadcast_object_list(made, src=0)
        assert made[0] is not None  # noqa: S101 what the first one put there
        value, trouble = made[0]
        if trouble is not None:
            raise trouble
        return cast("_Made", value)

    def each(self, make: Callable[[], _Made]) -> _Made:
        """What each process makes for itself; where one raises a ValueError, such as DataSetError, all do: the same one
        where all have it, else a TrainingError that says which process's it is.
        """
        value, trouble = _attempt(make)
        troubles = self._from_all(trouble)
        for rank, one in enumerate(troubles):
            if one is not None:
                same = all(other is not None and str(other) == str(one) for other in troubles)
                raise one if same else TrainingError(f"process {rank} of {self.processes}: {one}") from one
        return cast("_Made", value)

    def agreed(self, value: object, what: str) -> None:
        """Raises TrainingError where processes do not have the same."""
        found = self._from_all((socket.gethostname(), value))
        for rank, (host, other) in enumerate(found):
            if other != found[0][1]:
                raise TrainingError(f"process {rank} on {host} has other {what} than process 0 on {found[0][0]}")

    def _from_all(self, value: _Made) -> list[_Made]:
        if self.alone:
            return [value]
        found: list[Any] = [None] * self.processes
        distributed.all_gather_object(found, value)
        return found


ALONE = Group()


def _attempt(make: Callable[[], _Made]) -> tuple[_Made | None, ValueError | None]:
    try:
        return make(), None
    except ValueError as error:  # TrainingError, DataSetError and their like, which are sentences
        return None, error


@contextmanager
def joined(rank: int, processes: int, device: str, wait_seconds: float, **where: Any) -> Iterator[Group]:  # noqa: ANN401 as torch takes it
    """The group that this process joins. device: cpu (gloo) or cuda (NCCL); where: as init_process_group takes it."""
    kind = "nccl" if device.startswith("cuda") else "gloo"
    with complaining(rank, processes, wait_seconds):
        distributed.init_process_group(
            kind, rank=rank, world_size=processes, timeout=timedelta(seconds=wait_seconds), **where
        )
        try:
            yield Group(rank, processes)
        finally:
            distributed.destroy_process_group()


@contextmanager
def complaining(rank: int, processes: int, wait_seconds: float) -> Iterator[None]:
    """Raises LostError where an exchange between processes failed."""
    try:
        yield
    except RuntimeError as error:
        if processes == 1 or not _of_exchange(error):
            raise
        raise LostError(
            f"process {rank} of {processes}: another process ended, or did not answer within {wait_seconds:g} s"
        ) from error


def _of_exchange(error: RuntimeError) -> bool:
    said = str(error)
    kinds = (distributed.DistBackendError, distributed.DistNetworkError, distributed.DistStoreError)
    return isinstance(error, kinds) or any(word in said for word in ("gloo", "Connection", "NCCL", "Timed out"))
