"""Where training has its windows: in memory, or wherever else gives them batch by batch (`streamed`)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import NamedTuple, Protocol

import numpy as np
import torch
from torch import Tensor

from tscc_stream.learn.group import Group
from tscc_stream.learn.part import Part
from tscc_stream.messages import Float32Array

POOL_BATCH = 64
"""Windows at a time where nothing but representations is wanted."""


class Batch(NamedTuple):
    """rows [B]: which windows, by number; x [b, T, C]: those of them that are this process's part, on the device."""

    rows: Tensor
    x: Tensor
    part: Part


class Windows(Protocol):
    """Normalised windows, by number from 0.

    epoch: each window once, in an order that depends on the settings' seed and the number of the epoch alone, or on
    rng, of which every process of the group has the same state; never on how many processes there are.
    """

    @property
    def channels(self) -> int: ...

    @property
    def device(self) -> torch.device: ...

    def __len__(self) -> int: ...

    def epoch(self, number: int, batch_size: int, rng: np.random.Generator, group: Group) -> Iterator[Batch]: ...

    def sample(self, among_n: Tensor | None) -> Tensor | None:
        """Which windows clusters are found among, by number, ascending: all that among_n (bool) says, or as many of
        them as are enough. None: all windows.
        """

    def read(self, rows: Tensor | None) -> Iterator[Tensor]:
        """Windows by ascending number (None: all), [some, T, C] at a time, on the device."""


class Held:
    """Windows x [n, T, C] in memory, and on the device, which each process has all of."""

    def __init__(self, x: Float32Array, device: torch.device) -> None:
        self.x_ntc = torch.from_numpy(np.require(x, np.float32, ["C", "W"]))
        self.device = device
        self.there_ntc = self.x_ntc.to(device)

    @property
    def channels(self) -> int:
        return self.x_ntc.shape[2]

    def __len__(self) -> int:
        return len(self.x_ntc)

    def epoch(self, number: int, batch_size: int, rng: np.random.Generator, group: Group) -> Iterator[Batch]:
        order = rng.permutation(len(self.x_ntc))
        for rows in torch.split(torch.from_numpy(order).to(self.device), batch_size):
            yield self.batch(rows, group)

    def batch(self, rows: Tensor, group: Group) -> Batch:
        """Windows by number [B] on the device."""
        part = group.part(len(rows))
        return Batch(rows, self.there_ntc[rows[part.mine]], part)

    def sample(self, among_n: Tensor | None) -> Tensor | None:
        return None if among_n is None else torch.nonzero(among_n)[:, 0]

    def read(self, rows: Tensor | None) -> Iterator[Tensor]:
        chosen = self.there_ntc if rows is None else self.there_ntc[rows.to(self.device)]
        yield from torch.split(chosen, POOL_BATCH)
