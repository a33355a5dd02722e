"""A batch that several processes share: which of its windows are whose, and what each adds to the loss.

A batch is the same windows in the same order however many processes there are. Each takes a part of it, and adds to
every term of the loss what its part gives, so that the sum over the processes is the term over the batch.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, TypeVar

import torch
from torch import Tensor, distributed

from tscc_stream.messages import AnyArray

_Values = TypeVar("_Values", AnyArray, Tensor)


@dataclass(frozen=True, slots=True)
class Part:
    """Windows of a batch that are one process's own. total: windows in the batch; processes: that share it.

    A batch with fewer windows than there are processes is not divided: each process has all of it.
    """

    total: int
    rank: int = 0
    processes: int = 1

    @property
    def divided(self) -> bool:
        """Whether other windows of the batch are other processes' own."""
        return 1 < self.processes <= self.total

    def within(self, count: int, rank: int | None = None) -> slice:
        """Which of `count` things, which all have in the same order, one process is to do (default: this one)."""
        if not self.divided:
            return slice(0, count)
        rank = self.rank if rank is None else rank
        return slice(count * rank // self.processes, count * (rank + 1) // self.processes)

    @property
    def mine(self) -> slice:
        """The places in the batch of the windows that are this process's own."""
        return self.within(self.total)

    def weight(self, count: int | None = None) -> float:
        """What share of a mean over `count` things (default: the windows) the mean over this process's own of them is;
        all processes' shares add up to 1.
        """
        if not self.divided:
            return 1.0 / self.processes
        count = self.total if count is None else count
        own = len(range(count)[self.within(count)])
        return own / count

    def weight_of(self, counted_b: Tensor) -> Tensor:
        """The same of a mean over those windows of the batch that count: bool [total]."""
        own, every = (some.sum().clamp_min(1) for some in (counted_b[self.mine], counted_b))
        return own / every if self.divided else own / (every * self.processes)

    def own(self, values: _Values) -> _Values:
        """Of values drawn for the batch, [total, ...] or several times that, those for this process's own windows."""
        if not self.divided:
            return values
        each: tuple[int, ...] = tuple(values.shape[1:])
        mine: _Values = values.reshape((-1, self.total, *each))[:, self.mine].reshape((-1, *each))
        return mine

    def gathered(self, own: Tensor) -> Tensor:
        """What all processes have for their own windows, [total, ...]; gradients go back to where each came from."""
        if not self.divided:
            return own
        gathered: Tensor = _Gathered.apply(own, self)  # type: ignore[no-untyped-call]  # torch leaves it untyped
        return gathered


class _Gathered(torch.autograd.Function):
    """Parts of unequal length in the order of processes; backward: what all of them found for each part, summed."""

    @staticmethod
    def forward(ctx: Any, own: Tensor, part: Part) -> Tensor:  # noqa: ANN401 torch gives it no type
        ctx.part = part
        spans = [part.within(part.total, rank) for rank in range(part.processes)]
        longest = max(span.stop - span.start for span in spans)
        padded = own.new_zeros((longest, *own.shape[1:]))
        padded[: len(own)] = own
        found = [torch.empty_like(padded) for _ in spans]
        distributed.all_gather(found, padded)
        return torch.cat([some[: span.stop - span.start] for some, span in zip(found, spans, strict=True)])

    @staticmethod
    def backward(ctx: Any, *gradients: Tensor) -> tuple[Tensor | None, ...]:  # noqa: ANN401 torch gives it no type
        summed = gradients[0].clone(memory_format=torch.contiguous_format)
        distributed.all_reduce(summed)
        return summed[ctx.part.mine], None
