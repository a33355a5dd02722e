"""Parts of all chains to the folders that people read: a file for each day, whatever the parts were."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import UTC, datetime
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc

from tscc_stream.config import NetworkConfig
from tscc_stream.messages import NetworkEvent
from tscc_stream.sampling import NS_PER_SECOND
from tscc_stream.scan import part_file, rows
from tscc_stream.scan.layout import Layout, write
from tscc_stream.scan.network import Network
from tscc_stream.scan.part_file import Marker

DAY_NS = 86_400 * NS_PER_SECOND


class Piece:
    """Of a part: rows with onsets from first_ns to last_ns."""

    def __init__(self, path: Path, extent: tuple[int, int, int]) -> None:
        self.path = path
        _, self.first_ns, self.last_ns = extent


def pieces_of(layout: Layout, parts: Iterable[tuple[str, int, Marker]]) -> tuple[list[Piece], list[Piece]]:
    """Detections and triggers of parts that are done: chain, number, marker."""
    detections, triggers = [], []
    for chain, number, marker in parts:
        if marker.detections[0]:
            detections.append(Piece(layout.part(chain, number), marker.detections))
        if marker.triggers[0]:
            triggers.append(Piece(layout.part(chain, number), marker.triggers))
    return detections, triggers


def by_day(pieces: Sequence[Piece], read: Callable[[Path], rows.Table]) -> Iterator[tuple[int, rows.Table]]:
    """Day since 1970 and its rows, in order of onset; days without any are left out."""
    days: dict[int, list[Piece]] = {}
    for piece in pieces:
        for day in range(piece.first_ns // DAY_NS, piece.last_ns // DAY_NS + 1):
            days.setdefault(day, []).append(piece)
    for day in sorted(days):
        table = _day(days[day], day, read)
        if len(table):
            yield day, table


def _day(pieces: Sequence[Piece], day: int, read: Callable[[Path], rows.Table]) -> rows.Table:
    low, high = day * DAY_NS, (day + 1) * DAY_NS
    inside = []
    for piece in pieces:
        table = read(piece.path)
        if piece.first_ns < low or piece.last_ns >= high:
            onset = table.column("onset_ns")
            table = table.filter(pc.and_(pc.greater_equal(onset, low), pc.less(onset, high)))
        inside.append(table)
    return pa.concat_tables(inside).sort_by([("onset_ns", "ascending"), ("sid", "ascending")])


def file_of(folder: Path, day: int) -> Path:
    """The file of a day, where pandas, DuckDB and Spark read year and month off its folders."""
    date = datetime.fromtimestamp(day * 86_400, UTC)
    return folder / f"year={date.year}" / f"month={date.month}" / f"{date:%Y-%m-%d}.parquet"


class Folder:
    """A folder of rows, a file for each day, in place of what was there."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._written: set[Path] = set()

    def put(self, day: int, table: rows.Table) -> None:
        """The rows of one day."""
        path = file_of(self._path, day)
        write(path, rows.parquet(table))
        self._written.add(path)

    def close(self, schema: rows.Table, day: int) -> None:
        """Days that were there before and have no rows any more go. A folder without any rows has one empty file, as of
        a day, so that readers find the columns of its place too.
        """
        if not self._written:
            path = file_of(self._path, day).with_name("none.parquet")
            write(path, rows.parquet(schema.empty_table()))
            self._written.add(path)
        for path in sorted(self._path.rglob("*.parquet")):
            if path not in self._written:
                path.unlink()


def join_detections(layout: Layout, pieces: Sequence[Piece], first: int) -> None:
    """All of them. first: day of the archive's first sample."""
    folder = Folder(layout.detections)
    for day, table in by_day(pieces, part_file.detections):
        folder.put(day, table)
    folder.close(rows.DETECTIONS, first)


def join_network(layout: Layout, pieces: Sequence[Piece], config: NetworkConfig | None, first: int) -> None:
    """Network events of all days; none without a network. first: as for detections."""
    folder = Folder(layout.network_events)
    for day, table in _with_events(pieces, config) if config else ():
        folder.put(day, table)
    folder.close(rows.NETWORK_EVENTS, first)


def _with_events(pieces: Sequence[Piece], config: NetworkConfig) -> Iterator[tuple[int, rows.Table]]:
    """An event may have its last word only on a later day than its onset."""
    network = Network(config)
    waiting: list[NetworkEvent] = []
    for day, table in by_day(pieces, part_file.triggers):
        waiting += network.feed(rows.settled(table), (day + 1) * DAY_NS)
        settled_ns = min(network.unsettled_ns(), (day + 1) * DAY_NS) // DAY_NS * DAY_NS
        yield from _days_of([event for event in waiting if event.onset_ns < settled_ns])
        waiting = [event for event in waiting if event.onset_ns >= settled_ns]
    yield from _days_of([*waiting, *network.end()])


def _days_of(events: Sequence[NetworkEvent]) -> Iterator[tuple[int, rows.Table]]:
    ordered = sorted(events, key=lambda event: (event.onset_ns, event.uid))
    for day, some in itertools.groupby(ordered, lambda event: event.onset_ns // DAY_NS):
        yield day, rows.network_events(list(some))
