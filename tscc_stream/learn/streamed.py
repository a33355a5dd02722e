"""Windows in Parquet as training takes them: in a shuffled order, a bounded number of them in memory at a time.

The order of an epoch: row groups are permuted, as many of them as fit the buffer are taken together, and their windows
permuted. It depends on the seed, the number of the epoch and the sizes of the row groups alone. Each process reads
every row group and keeps what is its own, so that a batch is the same windows however many processes there are.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from tscc_stream.ahead import one_ahead
from tscc_stream.edges.parquet_windows import StoredWindows
from tscc_stream.learn import stored
from tscc_stream.learn.group import Group
from tscc_stream.learn.held import POOL_BATCH, Batch
from tscc_stream.messages import AnyArray, Float32Array, Int64Array
from tscc_stream.package import Normalisation
from tscc_stream.windows import normalise

BUFFER_BYTES = 64 << 20
"""Of samples that are shuffled together, of all processes; as many again are read meanwhile."""
MOST_CLUSTERED = 50_000
"""Windows that clusters are found among."""


def blocks(sizes: Sequence[int], most: int, seed: int, epoch: int) -> Iterator[tuple[list[int], Int64Array]]:
    """The order of an epoch over row groups of `sizes` windows: which groups are read together, and their windows in
    the order of training, as places in what one gets by reading those groups one after the other.

    Together are no more than `most` windows, and at least one group. Groups without windows are left out.
    """
    rng = np.random.Generator(np.random.PCG64([seed, epoch]))
    together: list[int] = []
    count = 0
    for group in rng.permutation(len(sizes)).tolist():
        if together and count + sizes[group] > most:
            yield together, rng.permutation(count)
            together, count = [], 0
        if sizes[group]:
            together.append(group)
            count += sizes[group]
    if together:
        yield together, rng.permutation(count)


class Streamed:
    """Those windows of a set that are `rows`, ascending, which are numbered anew from 0, normalised."""

    def __init__(
        self, windows: StoredWindows, rows: Int64Array, how: Normalisation, device: torch.device, seed: int
    ) -> None:
        self.device = device
        self._windows, self._rows, self._how, self._seed = windows, rows, how, seed
        self._most = max(1, BUFFER_BYTES // windows.layout.window_bytes)
        self._begins = np.append(np.searchsorted(rows, [group.first for group in windows.groups]), len(rows))

    @property
    def channels(self) -> int:
        return self._windows.layout.channels

    def __len__(self) -> int:
        return len(self._rows)

    def epoch(self, number: int, batch_size: int, rng: np.random.Generator, group: Group) -> Iterator[Batch]:
        done, rows, x = 0, torch.empty(0, dtype=torch.int64), torch.empty(0)
        for more_rows, more_x in one_ahead(self._blocks(number, batch_size, group)):
            rows = torch.cat([rows, more_rows])
            x = torch.cat([x, more_x]) if len(x) else more_x
            while len(rows) >= (total := min(batch_size, len(self) - done)) > 0:
                part = group.part(total)
                own = len(range(total)[part.mine])
                yield Batch(rows[:total].to(self.device), x[:own], part)
                done, rows, x = done + total, rows[total:], x[own:]

    def _blocks(self, number: int, batch_size: int, group: Group) -> Iterator[tuple[Tensor, Tensor]]:
        """Numbers of windows in the order of training, and of those that are this process's own, the samples."""
        done = 0
        for groups, order in blocks(np.diff(self._begins).tolist(), self._most, self._seed, number):
            ranges = [np.arange(self._begins[one], self._begins[one + 1]) for one in groups]
            rows = np.concatenate(ranges)[order]
            own = rows[_own(np.arange(done, done + len(rows)), len(self), batch_size, group)]
            yield torch.from_numpy(rows), torch.from_numpy(self._read(groups, own)).to(self.device)
            done += len(rows)

    def _read(self, groups: Sequence[int], wanted: Int64Array) -> Float32Array:
        """Windows by number, in any order, all of them in some row groups."""
        layout = self._windows.layout
        x = np.empty((len(wanted), layout.samples, layout.channels), np.float32)
        for number in groups:
            places = np.flatnonzero((wanted >= self._begins[number]) & (wanted < self._begins[number + 1]))
            if places.size:
                found = stored.read_group(self._windows, self._windows.groups[number], self._rows[wanted[places]])
                x[places] = normalise(found, self._how)
        return x

    def sample(self, among_n: Tensor | None) -> Tensor | None:
        among = None if among_n is None else torch.nonzero(among_n)[:, 0]
        count = len(self) if among is None else len(among)
        if count <= MOST_CLUSTERED:
            return among
        chosen = np.random.Generator(np.random.PCG64(self._seed)).choice(count, MOST_CLUSTERED, replace=False)
        chosen.sort()
        return torch.from_numpy(chosen) if among is None else among[torch.from_numpy(chosen)]

    def read(self, rows: Tensor | None) -> Iterator[Tensor]:
        chosen = self._rows if rows is None else self._rows[rows.numpy()]
        for x in stored.read_rows(self._windows, chosen):
            yield from torch.split(torch.from_numpy(normalise(x, self._how)).to(self.device), POOL_BATCH)


def _own(places: Int64Array, count: int, batch_size: int, group: Group) -> AnyArray:
    """Which places of an epoch of `count` windows are this process's own."""
    batch, place = places // batch_size, places % batch_size
    own = np.zeros(len(places), bool)
    for total in {batch_size, count % batch_size}:
        mine = group.part(total).mine if total else slice(0, 0)
        of_such = np.minimum(batch_size, count - batch * batch_size) == total
        own |= of_such & (place >= mine.start) & (place < mine.stop)
    return own
