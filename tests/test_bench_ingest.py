"""`bench ingest`: every client gets every record, and figures are told as ratios to obspy's client."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest

from tscc_stream import miniseed
from tscc_stream.bench import ingest, ingest_load
from tscc_stream.bench.measure import FIELD
from tscc_stream.seedlink.frames import take_frame


def test_all_clients_read_the_same_archive_and_ours_a_stream_in_real_time() -> None:
    results = ingest.run(records=400, rounds=1, many_channels=50, seconds=0.5)
    assert set(results["ingest"]) == {FIELD, "ours", "seedlink_client"}
    for figure in results["ingest"].values():
        assert figure.ratio == pytest.approx(figure.value / results["ingest"][FIELD].value)
    many = results["ingest_many"]
    assert many["records"].value == pytest.approx(50 * 500 / ingest_load.SAMPLES, rel=0.3)
    assert 0.0 < many["ours"].value < 2.0
    assert many[FIELD].value == pytest.approx(50 * 500 / ingest_load.SAMPLES / results["ingest"][FIELD].value)


def test_the_load_is_ordinary_packets_under_a_time_of_their_own() -> None:
    rows = ingest_load.packets(3, 500.0)
    at = rows.shape[1] - ingest_load.RECORD_BYTES
    sids = []
    for row in rows:
        whole = bytearray(row.tobytes())
        whole[at + 20 : at + 30] = ingest_load.btime(datetime(2026, 11, 27, 1, 2, 3, 456_700, tzinfo=UTC))
        taken = take_frame(whole, 0, 4)
        assert taken is not None
        record = miniseed.decode(taken[0].payload)
        sids.append(record.sid)
        assert (record.start_ns, record.samples.size) == (1_795_741_323_456_700_000, ingest_load.SAMPLES)
    assert sids == ["FDSN:XX_S0000__H_H_Z", "FDSN:XX_S0000__H_H_N", "FDSN:XX_S0000__H_H_E"]
