"""What a daemon's work costs, as a linear model: fitted to runs, and asked about loads that were not run.

    CPU seconds a second of each thread = a fixed part
        + batches a second x cost of a batch               (a read, a hand-over: records that come in 5 ms go together)
        + samples a second x cost of a sample              (decoding, filter, ratio; the record's share in it)
        + bytes of snapshots a second x cost of a byte     (what a channel costs whatever its rate)
        + groups of windows a second x cost of a group     (a call of the encoder, a transaction of the journal)
        + triggers a second x cost of a window             (cut, encoder, journal, bus)
        + triggers a second x subscribers x cost of a delivery

A term is looked for only in the threads that do such work (TERMS), and no cost is negative (non-negative least squares,
Lawson and Hanson 1974). Memory is a fixed part, one of each channel, and one of each sample that comes in a second. All
of it holds while triggers come and nothing is left unread: what saturates is no longer linear.
"""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import msgspec
import numpy as np
from scipy.optimize import minimize_scalar, nnls

from tscc_stream.bench.measure import Figure, Results
from tscc_stream.bench.scale_run import Load, Spent, Stored
from tscc_stream.recovery import BYTES_PER_SECOND, SHORTEST_NS

FIXED, BATCH, SAMPLE, SNAPSHOT = "fixed", "batch", "sample", "snapshot_byte"
GROUP, WINDOW, DELIVERY = "group", "window", "delivery"
CHANNEL, MESSAGE, WAVEFORM = "channel", "message", "waveform"
TERMS: Mapping[str, tuple[str, ...]] = {
    "seedlink": (FIXED, BATCH, SAMPLE),
    "front": (FIXED, BATCH, SAMPLE, SNAPSHOT, WINDOW),
    "inference": (FIXED, GROUP, WINDOW),
    "back": (FIXED, BATCH, SNAPSHOT, GROUP, WINDOW),
    "other": (FIXED, WINDOW, DELIVERY),
}
WRITTEN = (FIXED, SNAPSHOT, GROUP, WINDOW)
FEWEST_RUNS = 3
BENCH = "scale_costs"
_SECONDS = ("cores.", "scrape_seconds.", "pause.")
_SCALES = {"ns": 1e9, "bytes or 1/s": 1.0}


class CostsError(ValueError):
    """Runs from which no costs can be told, or a file that holds none."""


class Costs(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Costs by what they are of.

    cores: by thread and term, CPU seconds each. most_batches, most_groups: a second, however many records or windows
    come. memory: bytes, by fixed, channel and sample (a second); state: of a snapshot, likewise. journal: bytes of the
    file, by fixed, snapshot_byte, and message and waveform of one detection. message_sent, heartbeat_sent: bytes to one
    subscriber, each. sample_received: bytes. scrape_seconds, scrape_bytes: of one GET of /metrics, by fixed, channel.
    written: bytes to the disk, by terms as in cores. pause: wall seconds of one snapshot, by fixed and snapshot_byte.
    largest: channels, samples and windows (a second) of the largest of the runs.
    """

    cores: dict[str, dict[str, float]]
    most_batches: float
    most_groups: float
    memory: dict[str, float]
    state: dict[str, float]
    journal: dict[str, float]
    message_sent: float
    heartbeat_sent: float
    sample_received: float
    scrape_seconds: dict[str, float]
    scrape_bytes: dict[str, float]
    written: dict[str, float]
    pause: dict[str, float]
    largest: dict[str, float]

    def state_bytes(self, load: Load) -> float:
        """Of one snapshot."""
        return _told(self.state, _size(load))

    def snapshot_every_seconds(self, load: Load) -> float:
        """Every two seconds, or as seldom as the limit of their bytes wants it (recovery.Barriers)."""
        return max(SHORTEST_NS / 1e9, self.state_bytes(load) / BYTES_PER_SECOND)

    def amounts(self, load: Load) -> dict[str, float]:
        """How much of each term comes in a second."""
        return {
            FIXED: 1.0,
            BATCH: _together(load.records_per_second, self.most_batches),
            SAMPLE: load.samples_per_second,
            SNAPSHOT: self.state_bytes(load) / self.snapshot_every_seconds(load),
            GROUP: _together(load.triggers_per_second, self.most_groups),
            WINDOW: load.triggers_per_second,
            DELIVERY: load.deliveries_per_second,
        }

    def thread_cores(self, load: Load) -> dict[str, float]:
        """Cores by thread."""
        amounts = self.amounts(load)
        return {thread: _told(costs, amounts) for thread, costs in self.cores.items()}

    def all_cores(self, load: Load) -> float:
        return sum(self.thread_cores(load).values())

    def memory_bytes(self, load: Load) -> float:
        """Resident."""
        return _told(self.memory, _size(load))

    def journal_bytes(self, load: Load, detections: float) -> float:
        """Of the file."""
        amounts = {FIXED: 1.0, SNAPSHOT: self.state_bytes(load), MESSAGE: detections, WAVEFORM: detections}
        return _told(self.journal, amounts)

    def beyond(self, load: Load) -> float:
        """How many times larger a load is than the runs that the costs come from."""
        size = {**_size(load), WINDOW: load.triggers_per_second}
        return max(size[term] / max(most, 1e-9) for term, most in self.largest.items())

    def pause_seconds(self, load: Load) -> float:
        """In which records wait for a snapshot."""
        return _told(self.pause, {FIXED: 1.0, SNAPSHOT: self.state_bytes(load)})

    def written_bytes_per_second(self, load: Load) -> float:
        """To the disk: the log, then the file; more than the file grows by."""
        return _told(self.written, self.amounts(load))

    def scrape(self, load: Load) -> tuple[float, float]:
        """CPU seconds and bytes of one GET of /metrics."""
        return _told(self.scrape_seconds, _size(load)), _told(self.scrape_bytes, _size(load))


def fit(runs: Sequence[Spent]) -> Costs:
    """The costs that explain the runs best. Raises CostsError where too few differ."""
    loads = [one.load for one in runs]
    if len({(load.channels, load.rate_hz, load.subscribers) for load in loads}) < FEWEST_RUNS:
        raise CostsError(f"{len(loads)} runs: expected at least {FEWEST_RUNS} of different sizes, to tell costs apart")
    sizes = [_size(load) for load in loads]
    channels = [{FIXED: 1.0, CHANNEL: float(load.channels)} for load in loads]
    found = Costs(
        cores={},
        most_batches=_most([(one.load.records_per_second, one.batches) for one in runs]),
        most_groups=_most([(one.load.triggers_per_second, one.groups) for one in runs]),
        memory=_solved(sizes, [one.rss_bytes for one in runs]),
        state=_solved(sizes, [one.stored.state_bytes for one in runs]),
        journal=_journal([one.stored for one in runs]),
        message_sent=float(np.mean([one.message_sent_bytes for one in runs])),
        heartbeat_sent=float(np.mean([one.heartbeat_sent_bytes for one in runs])),
        sample_received=sum(one.received_bytes for one in runs) / sum(load.samples_per_second for load in loads),
        scrape_seconds=_solved(channels, [one.scrape_seconds for one in runs]),
        scrape_bytes=_solved(channels, [one.scrape_bytes for one in runs]),
        written={},
        largest={
            CHANNEL: float(max(load.channels for load in loads)),
            SAMPLE: max(load.samples_per_second for load in loads),
            WINDOW: max(load.triggers_per_second for load in loads),
        },
        pause=_pause([one for one in runs if one.snapshot_seconds]),
    )
    amounts = [found.amounts(load) for load in loads]
    return msgspec.structs.replace(
        found,
        cores={name: _terms(terms, amounts, [one.cores[name] for one in runs]) for name, terms in TERMS.items()},
        written=_terms(WRITTEN, amounts, [one.written_bytes for one in runs]),
    )


def stored(costs: Costs) -> Results:
    """As a bench among others, by which `read` finds them again."""
    figures = {}
    for field, value in msgspec.to_builtins(costs).items():
        for name, (amount, unit) in _flat(field, value).items():
            figures[name] = Figure(amount, unit, 1.0)
    return {BENCH: figures}


def read(path: Path) -> Costs:
    """What `bench scale --json` has written. Raises CostsError where it is not that."""
    try:
        written = json.loads(path.read_text(encoding="utf-8"))[BENCH]
        fields: dict[str, Any] = {}
        for name, figure in written.items():
            *parents, last = name.split(".")
            place = fields
            for parent in parents:
                place = place.setdefault(parent, {})
            place[last] = float(figure["value"]) / _SCALES[figure["unit"]]
        costs = msgspec.convert(fields, Costs)
        _check(costs)
    except OSError as error:
        raise CostsError(f"{path}: {error.strerror}") from error
    except (ValueError, LookupError, TypeError, AttributeError, ArithmeticError) as error:
        raise CostsError(f"{path}: expected a file that `bench scale --json` has written, with {BENCH}") from error
    return costs


def _check(costs: Costs) -> None:
    """Raises ValueError where a cost is missing, too many, or none."""
    size, channel = {FIXED, CHANNEL, SAMPLE}, {FIXED, CHANNEL}
    expected = {
        **{thread: (costs.cores[thread], set(terms)) for thread, terms in TERMS.items()},
        "memory": (costs.memory, size),
        "state": (costs.state, size),
        "written": (costs.written, set(WRITTEN)),
        "pause": (costs.pause, {FIXED, SNAPSHOT}),
        "largest": (costs.largest, {CHANNEL, SAMPLE, WINDOW}),
        "journal": (costs.journal, {FIXED, SNAPSHOT, MESSAGE, WAVEFORM}),
        "scrape_seconds": (costs.scrape_seconds, channel),
        "scrape_bytes": (costs.scrape_bytes, channel),
        "others": ({"batches": costs.most_batches, "groups": costs.most_groups}, {"batches", "groups"}),
    }
    for some, terms in expected.values():
        if some.keys() != terms or not all(0.0 <= cost < math.inf for cost in some.values()):
            raise ValueError("costs")
    if not min(costs.most_batches, costs.most_groups) > 0.0:
        raise ValueError("costs")


def _flat(name: str, value: object) -> dict[str, tuple[float, str]]:
    """Names with dots, and seconds as nanoseconds: figures are written with six decimals."""
    if isinstance(value, dict):
        return {key: told for inner, some in value.items() for key, told in _flat(f"{name}.{inner}", some).items()}
    unit = "ns" if name.startswith(_SECONDS) else "bytes or 1/s"
    return {name: (float(str(value)) * _SCALES[unit], unit)}


def _size(load: Load) -> dict[str, float]:
    return {FIXED: 1.0, CHANNEL: float(load.channels), SAMPLE: load.samples_per_second}


def _terms(terms: Sequence[str], amounts: Sequence[Mapping[str, float]], values: Sequence[float]) -> dict[str, float]:
    return _solved([{term: some[term] for term in terms} for some in amounts], values)


def _pause(runs: Sequence[Spent]) -> dict[str, float]:
    """Of those runs in which a snapshot was taken."""
    if not runs:
        return {FIXED: 0.0, SNAPSHOT: 0.0}
    sizes = [{FIXED: 1.0, SNAPSHOT: one.stored.state_bytes} for one in runs]
    return _solved(sizes, [one.snapshot_seconds for one in runs])


def _together(come: float, most: float) -> float:
    """How often a second work is done for so many things that come: for each, or for all that gathered meanwhile."""
    return come / (1.0 + come / most)


def _most(seen: Sequence[tuple[float, float]]) -> float:
    """Of things that came and times that work was done, a second: where `_together` fits best."""

    def error(log_most: float) -> float:
        return sum((_together(come, math.exp(log_most)) - done) ** 2 for come, done in seen)

    return math.exp(float(minimize_scalar(error, bounds=(0.0, 12.0), method="bounded").x))


def _journal(kept: Sequence[Stored]) -> dict[str, float]:
    """Pages of messages and waveforms by detections; the rest by the snapshot, whose old room is kept for the next."""
    counts = [float(one.detections) for one in kept]
    messages = _solved([{FIXED: 1.0, MESSAGE: count} for count in counts], [one.message_bytes for one in kept])
    waveforms = _solved([{FIXED: 1.0, WAVEFORM: count} for count in counts], [one.waveform_bytes for one in kept])
    rest = [one.file_bytes - one.message_bytes - one.waveform_bytes for one in kept]
    of_state = _solved([{FIXED: 1.0, SNAPSHOT: one.state_bytes} for one in kept], rest)
    return {**messages, **waveforms, **of_state, FIXED: sum(some[FIXED] for some in (of_state, messages, waveforms))}


def _told(costs: Mapping[str, float], amounts: Mapping[str, float]) -> float:
    return sum(cost * amounts[term] for term, cost in costs.items())


def _solved(rows: Sequence[Mapping[str, float]], values: Sequence[float]) -> dict[str, float]:
    """Costs by name of column. Columns are brought to one scale first: a sample costs a billionth of what is fixed."""
    table = np.array([list(row.values()) for row in rows], float)
    scale = np.maximum(np.abs(table).max(axis=0), 1e-300)
    costs, _ = nnls(table / scale, np.asarray(values, float))
    return {name: float(cost) for name, cost in zip(rows[0], costs / scale, strict=True)}
