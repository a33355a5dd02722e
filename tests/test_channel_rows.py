"""Arrays by channel: batches say the same as their records one by one, whoever numbers the channels."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from prometheus_client import CollectorRegistry, generate_latest

from tscc_stream import data_age, metrics
from tscc_stream.data_age import DataAge
from tscc_stream.messages import RecordBatch
from tscc_stream.metrics import Channels
from tscc_stream.sampling import offset_ns, offsets_ns

SERVERS = ("mine:1", "mine:2")
SECOND = 1_000_000_000
RATES = (100.0, 1000.0, 99.99999, 0.1, 1000 / 3)

Row = tuple[int, int, float, int]
"""Channel, start second, rate, samples."""
rows = st.lists(
    st.tuples(st.integers(0, 5), st.integers(0, 50), st.sampled_from(RATES), st.integers(1, 500)), max_size=12
)
turns = st.lists(st.tuples(st.sampled_from(SERVERS), st.booleans(), rows), max_size=8)


def batch_of(sids: Sequence[str], some: list[Row]) -> RecordBatch:
    channel, start_s, rate, count = zip(*some, strict=True) if some else ((), (), (), ())
    begin = np.concatenate(([0], np.cumsum(np.array(count, np.int64)))).astype(np.int64)
    return RecordBatch(
        sids,
        [""] * len(sids),
        np.array(channel, np.int64),
        np.array(start_s, np.int64) * SECOND,
        np.array(rate, np.float64),
        begin,
        np.zeros(len(some), np.int64),
        np.zeros(int(begin[-1])),
    )


def names(server: str, order: int) -> list[str]:
    """Each server numbers its channels in its own way, and some are of both."""
    own = [f"s{number}" for number in range(6)]
    return own[order:] + own[:order] if server == SERVERS[0] else [*own[:3], "x", "y", "z"]


def scrape(channels: Channels) -> list[str]:
    registry = CollectorRegistry()
    registry.register(channels)
    return sorted(generate_latest(registry).decode().splitlines())


@given(turns=turns)
def test_metrics_of_a_batch_are_those_of_its_records(turns: list[tuple[str, bool, list[Row]]]) -> None:
    single, many = Channels(CollectorRegistry()), Channels(CollectorRegistry())
    sids = {server: names(server, 0) for server in SERVERS}
    for number, (server, reconnected, some) in enumerate(turns):
        if reconnected:
            sids[server] = names(server, number % 6)  # another decoder numbers them anew
        batch = batch_of(sids[server], some)
        many.took_batch(server, batch)
        for i in range(len(batch)):
            single.took(batch.record(i))
    assert scrape(many) == scrape(single)


@given(turns=turns)
def test_ages_by_a_batch_are_those_by_its_records(turns: list[tuple[str, bool, list[Row]]]) -> None:
    """But for data that are old: only batches are looked at for that."""
    with pytest.MonkeyPatch.context() as changed:
        changed.setattr(data_age, "OLD_NS", 1 << 62)
        _same_ages(turns)


def _same_ages(turns: list[tuple[str, bool, list[Row]]]) -> None:
    single, many = (DataAge(dict.fromkeys(SERVERS, 1.0)) for _ in range(2))
    sids = {server: names(server, 0) for server in SERVERS}
    for server in SERVERS:
        single.link(server, True, 0)
        many.link(server, True, 0)
    for at_s, (server, reconnected, some) in enumerate(turns):
        if reconnected:
            sids[server] = names(server, at_s % 6)
        batch, now_ns = batch_of(sids[server], some), at_s * SECOND
        many.arrived_batch(server, batch, now_ns)
        for i in range(len(batch)):
            record = batch.record(i)
            lasts_ns = offset_ns(record.samples.size - 1, record.sample_rate_hz)
            single.arrived(server, record.sid, now_ns, lasts_ns)
        now_ns += SECOND // 2
        assert many.turn(now_ns) == single.turn(now_ns)
        assert many.silent(now_ns) == single.silent(now_ns)
        assert (many.late(now_ns), many.newest_ns(), many.streams) == (
            single.late(now_ns),
            single.newest_ns(),
            single.streams,
        )


def test_beyond_the_most_channels_are_counted_together_and_not_watched(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "MOST_CHILDREN", 2)
    monkeypatch.setattr(data_age, "MOST_STREAMS", 2)
    batch = batch_of(names(SERVERS[0], 0), [(number, number, 100.0, 10) for number in range(5)])
    single, many = Channels(CollectorRegistry()), Channels(CollectorRegistry())
    ages = DataAge(dict.fromkeys(SERVERS, 1.0))
    many.took_batch(SERVERS[0], batch)
    ages.arrived_batch(SERVERS[0], batch, 0)
    for i in range(len(batch)):
        single.took(batch.record(i))
    assert scrape(many) == scrape(single)
    assert 'tscc_samples_total{sid="other"} 30.0' in scrape(many)
    assert 'tscc_last_sample_timestamp_seconds{sid="other"} 4.09' in scrape(many)
    assert ages.streams == 2
    ages.arrived_batch(SERVERS[0], batch_of(batch.sids, [(number, 0, 100.0, 10) for number in (3, 4)]), 5 * SECOND)
    assert list(ages.silent(5 * SECOND)) == ["s0", "s1"]


@given(st.lists(st.tuples(st.integers(0, 1 << 28), st.sampled_from(RATES)), min_size=1))
def test_offsets_are_exact(some: list[tuple[int, float]]) -> None:
    samples, rates = (np.array(part) for part in zip(*some, strict=True))
    assert offsets_ns(samples, rates).tolist() == [offset_ns(n, rate) for n, rate in some]
