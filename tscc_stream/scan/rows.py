"""Detections, network events and settled triggers as tables: their columns, and how they get into Parquet files."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from tscc_stream.messages import Detection, NetworkEvent
from tscc_stream.scan.triggers import Ballot, Settled
from tscc_stream.source_id import to_nslc

_TIME = pa.timestamp("us", tz="UTC")  # what Spark reads; *_ns columns hold the nanoseconds
DETECTIONS = pa.schema(
    [
        ("id", pa.string()),
        ("sid", pa.string()),
        ("onset_ns", pa.int64()),
        ("time", _TIME),
        ("cluster", pa.int32()),
        ("cluster_name", pa.string()),
        ("known", pa.bool_()),
        ("membership", pa.list_(pa.float32())),
        ("p_value", pa.float64()),
        ("peak_ratio", pa.float64()),
        ("duration_s", pa.float64()),
        ("peak_amplitude", pa.float64()),
        ("quality", pa.list_(pa.string())),
        ("window_start_ns", pa.int64()),
        ("window_sample_rate_hz", pa.float64()),
        ("window_samples", pa.int32()),
        ("model_name", pa.string()),
        ("model_version", pa.string()),
        ("model_sha256", pa.string()),
    ]
)
NETWORK_EVENTS = pa.schema(
    [
        ("id", pa.string()),
        ("onset_ns", pa.int64()),
        ("time", _TIME),
        ("duration_s", pa.float64()),
        ("channels", pa.list_(pa.string())),
        ("detections", pa.list_(pa.string())),
        ("votes", pa.map_(pa.string(), pa.int32())),
        ("cluster", pa.int32()),
        ("cluster_name", pa.string()),
    ]
)
TRIGGERS = pa.schema(
    [
        ("sid", pa.string()),
        ("onset_ns", pa.int64()),
        ("off_ns", pa.int64()),
        ("window", pa.string()),
        ("voted", pa.bool_()),
        ("cluster", pa.int32()),
        ("cluster_name", pa.string()),
        ("membership", pa.float64()),
    ]
)
Table = Any
"""pyarrow's own types are untyped."""


def detection(found: Detection, model: tuple[str, str, str]) -> dict[str, object]:
    """A row of DETECTIONS. model: its name, version and sha256."""
    assignment, window = found.assignment, found.assignment.window
    name, version, sha256 = model
    return {
        "id": window.uid,
        "sid": to_nslc(window.sid),
        "onset_ns": window.onset_ns,
        "time": window.onset_ns // 1000,
        "cluster": assignment.cluster,
        "cluster_name": found.name,
        "known": found.known,
        "membership": assignment.membership.tolist(),
        "p_value": found.p_value,
        "peak_ratio": window.peak_ratio,
        "duration_s": window.duration_s,
        "peak_amplitude": window.peak_amplitude,
        "quality": list(window.quality),
        "window_start_ns": window.start_ns,
        "window_sample_rate_hz": window.sample_rate_hz,
        "window_samples": len(window.waveform),
        "model_name": name,
        "model_version": version,
        "model_sha256": sha256,
    }


def detections(found: Sequence[dict[str, object]]) -> Table:
    """In any order."""
    return pa.Table.from_pylist(found, DETECTIONS)


def network_events(found: Sequence[NetworkEvent]) -> Table:
    """By onset, as they come."""
    return pa.Table.from_pylist([_network_event(event) for event in found], NETWORK_EVENTS)


def _network_event(event: NetworkEvent) -> dict[str, object]:
    return {
        "id": event.uid,
        "onset_ns": event.onset_ns,
        "time": event.onset_ns // 1000,
        "duration_s": event.duration_s,
        "channels": [to_nslc(sid) for sid in event.channels],
        "detections": list(event.detections),
        "votes": list(event.votes.items()),
        "cluster": event.cluster_id,
        "cluster_name": event.cluster_name,
    }


def triggers(found: Sequence[Settled]) -> Table:
    """In any order."""
    return pa.Table.from_pylist([_trigger(one) for one in found], TRIGGERS)


def _trigger(settled: Settled) -> dict[str, object]:
    ballot = settled.ballot
    vote = {"cluster": ballot.cluster, "cluster_name": ballot.name, "membership": ballot.membership} if ballot else {}
    return {
        "sid": settled.sid,
        "onset_ns": settled.on_ns,
        "off_ns": settled.off_ns,
        "window": settled.window,
        "voted": ballot is not None,
        **vote,
    }


def settled(table: Table) -> list[Settled]:
    """The inverse of `triggers`."""
    return [
        Settled(
            row["sid"],
            row["onset_ns"],
            row["off_ns"],
            row["window"],
            Ballot(row["cluster"], row["cluster_name"], row["membership"]) if row["voted"] else None,
        )
        for row in table.to_pylist()
    ]


def parquet(table: Table) -> bytes:
    """As a Parquet file."""
    sink = pa.BufferOutputStream()
    pq.write_table(table, sink, compression="zstd")
    data: bytes = sink.getvalue().to_pybytes()
    return data
