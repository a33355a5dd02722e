"""Work on a processor split between threads, each of which works alone: many short steps in a row lose less time so
than where every step is split.
"""

from __future__ import annotations

from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

_Result = TypeVar("_Result")


def side_by_side(work: Callable[[slice], _Result], count: int) -> list[_Result]:
    """work(which of `count`), without gradients, in as many parts as torch has threads, or as can be.

    Results are in order, whoever was done first.
    """
    threads = torch.get_num_threads()
    shares = max(1, min(threads, count))
    if shares == 1:
        with torch.no_grad():
            return [work(slice(0, count))]

    def part(share: int) -> _Result:
        with torch.no_grad():
            return work(slice(count * share // shares, count * (share + 1) // shares))

    try:
        with ThreadPoolExecutor(shares, initializer=torch.set_num_threads, initargs=(1,)) as pool:
            return list(pool.map(part, range(shares)))
    finally:
        torch.set_num_threads(threads)  # else threads of others that begin later would have one
