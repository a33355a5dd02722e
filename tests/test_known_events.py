"""The three events in obspy's recordings of the Unterhaching network, from records to network events.

The expected values are those that obspy's own test of `coincidence_trigger` asserts.
"""

from __future__ import annotations

import warnings
from datetime import UTC, datetime
from importlib import resources
from itertools import pairwise

import numpy as np
import pytest
from made_streams import SECOND, package_spec

from tscc_stream.config import Config
from tscc_stream.messages import NetworkTrigger, Record, Window, read_only
from tscc_stream.pipeline import FrontHalf
from tscc_stream.sampling import offset_ns
from tscc_stream.source_id import from_nslc, to_nslc

with warnings.catch_warnings():
    warnings.simplefilter("ignore")
    from obspy import Stream, read
    from obspy.signal.trigger import coincidence_trigger

NAMES = ("UH1._.SHZ", "UH2._.SHZ", "UH3._.SHZ", "UH4._.EHZ")


@pytest.fixture(scope="module")
def recordings() -> Stream:
    data = resources.files("obspy.signal.tests") / "data"
    found = Stream()
    for name in NAMES:
        found += read(str(data / f"BW.{name}.D.2010.147.cut.slist.gz"))
    return found


def _records(recordings: Stream, seed: int) -> list[Record]:
    """All channels, cut at random, in order of time but for a few seconds."""
    rng = np.random.default_rng(seed)
    out: list[tuple[float, Record]] = []
    for trace in recordings:
        bounds = [0, *np.cumsum(rng.integers(30, 900, 400)).tolist()]
        rate, start_ns = float(trace.stats.sampling_rate), trace.stats.starttime.ns
        for begin, end in pairwise(bounds):
            samples = read_only(trace.data[begin:end].astype(np.int32))
            if samples.size:
                record = Record(from_nslc(trace.id), start_ns + offset_ns(begin, rate), rate, samples)
                out.append((begin, record))
    return [record for _, record in sorted(out, key=lambda item: (item[0] // 500, item[1].sid, item[0]))]


def _finals(recordings: Stream, seed: int) -> tuple[list[NetworkTrigger], dict[str, Window]]:
    config = Config.model_validate({"network": {"min_channels": 3}})
    front = FrontHalf(config, package_spec(sample_rate_hz=50.0, samples=500, onset_sample=100))
    for trace in recordings:
        front.expect(from_nslc(trace.id), trace.stats.starttime.ns)
    found = [message for record in _records(recordings, seed) for message in front.feed(record)] + front.flush()
    windows = {message.uid: message for message in found if isinstance(message, Window)}
    return [message for message in found if isinstance(message, NetworkTrigger) and message.final], windows


def _at(text: str) -> int:
    return int(datetime.fromisoformat(text).replace(tzinfo=UTC).timestamp()) * SECOND


def test_the_three_events(recordings: Stream) -> None:
    finals, windows = _finals(recordings, 0)
    expected = [
        ("2010-05-27T16:24:31", "2010-05-27T16:24:35", (4.2, 4.8), ["UH3", "UH2", "UH1", "UH4"]),
        ("2010-05-27T16:26:59", "2010-05-27T16:27:03", (3.2, 3.7), ["UH2", "UH3", "UH1"]),
        ("2010-05-27T16:27:27", "2010-05-27T16:27:33", (4.2, 4.4), ["UH3", "UH2", "UH1", "UH4"]),
    ]
    assert len(finals) == 3
    for final, (after, before, (shortest, longest), stations) in zip(finals, expected, strict=True):
        assert _at(after) < final.onset_ns < _at(before)
        assert shortest < (final.off_ns - final.onset_ns) / SECOND < longest
        assert [to_nslc(sid).split(".")[1] for sid, _, _ in final.members] == stations
        for sid, onset_ns, uid in final.members:
            assert (windows[uid].sid, windows[uid].onset_ns) == (sid, onset_ns)


@pytest.mark.parametrize("seed", [1, 2])
def test_times_and_channels_are_those_that_obspy_computes_offline(recordings: Stream, seed: int) -> None:
    """Obspy after the first sample's value is taken away, as the stage does for each segment."""
    offline = recordings.copy()
    for trace in offline:
        trace.data = trace.data.astype(np.float64) - trace.data[0]
    offline.filter("bandpass", freqmin=10, freqmax=20)
    computed = coincidence_trigger("recstalta", 3.5, 1.0, offline, 3, sta=0.5, lta=10, max_trigger_length=30)
    finals, _ = _finals(recordings, seed)
    assert [[to_nslc(sid) for sid, _, _ in final.members] for final in finals] == [e["trace_ids"] for e in computed]
    for final, event in zip(finals, computed, strict=True):
        assert abs(final.onset_ns - event["time"].ns) < 2000  # obspy's times are float seconds
        assert (final.off_ns - final.onset_ns) / SECOND == pytest.approx(event["duration"], abs=2e-6)


def test_the_order_of_arrival_changes_nothing(recordings: Stream) -> None:
    whole, _ = _finals(recordings, 3)
    other, _ = _finals(recordings, 4)
    assert other == whole
