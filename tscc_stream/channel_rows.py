"""Channels as rows of arrays: each source id keeps its row, whatever number the batches of a server give it."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from tscc_stream.messages import Int64Array, RecordBatch

NONE = -1
"""The row of a channel beyond the most that are kept."""
_UNSEEN = -2


class ChannelRows:
    """Rows 0, 1, ... in the order in which source ids are first seen, at most `most`. Used by one thread.

    sids: by row; it only grows, so that another thread may read what it knows the length of.
    """

    def __init__(self, most: int) -> None:
        self._most = most
        self._row: dict[str, int] = {}
        self.sids: list[str] = []
        self._of_source: dict[str, tuple[Sequence[str], Int64Array]] = {}

    def __len__(self) -> int:
        return len(self.sids)

    def row(self, sid: str) -> int:
        """The channel's row, a new one where there is room; NONE where there is none."""
        row = self._row.get(sid, NONE)
        if row == NONE and len(self.sids) < self._most:
            row = self._row[sid] = len(self.sids)
            self.sids.append(sid)
        return row

    def of(self, source: str, batch: RecordBatch) -> Int64Array:
        """Row of each record [n]. source: whose batches number their channels in one way, as long as sids is one."""
        sids, table = self._of_source.get(source, ((), np.empty(0, np.int64)))
        if sids is not batch.sids:
            table = np.empty(0, np.int64)
        if table.size < len(batch.sids):
            table = np.concatenate((table, np.full(len(batch.sids) - table.size, _UNSEEN)))
        rows: Int64Array = table[batch.channel]
        if (rows == _UNSEEN).any():
            for channel in batch.channel[rows == _UNSEEN]:
                table[channel] = self.row(batch.sids[channel])
            rows = table[batch.channel]
        self._of_source[source] = batch.sids, table
        return rows


def grown(array: Int64Array, rows: int) -> Int64Array:
    """The same, with room for so many rows; what is new is 0."""
    if rows <= array.size:
        return array
    fresh = np.zeros(max(rows, 2 * array.size), array.dtype)
    fresh[: array.size] = array
    return fresh
