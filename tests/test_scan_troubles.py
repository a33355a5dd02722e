"""`scan` of archives with whatever can be wrong with them: still the rows of `classify`, wherever it is cut."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_scan import PART_HOURS, Reference, assert_equal, configured, reference, scan
from made_site import RATE_HZ, START_NS, samples_of
from test_components_learn import recorded  # noqa: F401  # a fixture
from test_export import trained

from tscc_stream import miniseed
from tscc_stream.learn.dataset import WindowShape
from tscc_stream.learn.export import export
from tscc_stream.learn.network import make_encoder
from tscc_stream.sampling import offset_ns
from tscc_stream.source_id import from_nslc

CUTS = (0.0021, 0.004, PART_HOURS, 0.5)


def _records(nslc: str, first: int, samples: np.ndarray, rate_hz: float = RATE_HZ, **packing: Any) -> list[bytes]:
    """first: sample of the channel's ordinary rate at which they begin."""
    start_ns = START_NS + offset_ns(first, RATE_HZ)
    return miniseed.encode(from_nslc(nslc), start_ns, rate_hz, samples.astype(np.int32), record_length=256, **packing)


def _flat(samples: np.ndarray) -> Iterator[bytes]:
    samples[3400:3900] = 7  # across the end of the first 36 s
    samples[9000:9040] = 9
    yield from _records("XX.FLAT..HHZ", 0, samples)


def _broken(samples: np.ndarray) -> Iterator[bytes]:
    """A gap across a boundary, then so many that it is nearly quarantined."""
    yield from _records("XX.GAPS..HHZ", 0, samples[:3550])
    for first in range(3650, 5000, 20):
        yield from _records("XX.GAPS..HHZ", first, samples[first : first + 18])
    yield from _records("XX.GAPS..HHZ", 5100, samples[5100:])


def _rates(samples: np.ndarray) -> Iterator[bytes]:
    """More rates than a channel may have, in more than one part: quarantined to its end."""
    first, samples = 0, np.tile(samples, 2)
    for rate_hz in (100.0, 125.0, 80.0, 100.0, 50.0, 62.5, 200.0, 160.0, 90.0, 110.0):
        yield from _records("XX.RATE..HHZ", first, samples[first : first + 1000], rate_hz)
        first += 2100
    yield from _records("XX.RATE..HHZ", first, samples[:6000])


def _long(samples: np.ndarray) -> Iterator[bytes]:
    """A burst that lasts longer than its window, across a boundary; far later a few records alone, and a last one."""
    t = np.arange(1350) / RATE_HZ
    samples[2450:3800] += (40_000.0 * np.sin(2 * np.pi * 13 * t)).astype(samples.dtype)
    yield from _records("XX.LONG..HHZ", 0, samples)
    yield from _records("XX.LONG..HHZ", 90_000, samples[:2500])
    yield from _records("XX.LONG..HHZ", 200_000, samples[:200])


def _refused(samples: np.ndarray) -> Iterator[bytes]:
    yield from _records("XX.SLOW..HHZ", 0, samples[:3000], 20.0)


def _noisy(samples: np.ndarray) -> Iterator[bytes]:
    samples = samples.astype(np.float32)
    samples[7150:7260] = np.nan
    start_ns = START_NS
    yield from miniseed.encode(
        from_nslc("XX.NAN..HHZ"), start_ns, RATE_HZ, samples, record_length=256, encoding="float32"
    )


@pytest.fixture(scope="module")
def troubled(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("troubled")
    for number, make in enumerate((_flat, _broken, _rates, _long, _refused, _noisy)):
        records = list(make(samples_of(number)))
        for turn in range(3):  # any order of records, any layout of files
            (folder / f"{2 - turn}-{number}.mseed").write_bytes(b"".join(records[turn::3]))
    return folder


OVER: dict[str, Any] = {
    "network": {"min_channels": 2, "association_seconds": 0.5},
    "trigger": {"min_seconds": 0.2},
}


@pytest.fixture(scope="module")
def expected(troubled: Path, tmp_path_factory: pytest.TempPathFactory) -> Reference:
    return reference([troubled], configured(tmp_path_factory.mktemp("classify"), **OVER))


@pytest.mark.parametrize("hours", CUTS)
def test_troubles_and_boundaries(hours: float, troubled: Path, expected: Reference, tmp_path: Path) -> None:
    assert {body["subject"] for body in expected.detections.values()} >= {
        from_nslc(f"XX.{name}..HHZ") for name in ("FLAT", "GAPS", "LONG", "NAN")
    }
    assert scan([troubled], tmp_path / "out", configured(tmp_path, **OVER), part_hours=hours) == 0
    assert_equal(tmp_path / "out", expected)


@pytest.fixture(scope="module")
def three(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A model of windows across three components."""
    shape = WindowShape(50.0, 60, 12, (2.0, 20.0), 4, 1.0, channels=3, components=("Z", "N", "E"))
    encoder = make_encoder(0, 3, representation=5, hidden=8, depth=3)
    x = np.random.default_rng(0).standard_normal((20, 60, 3)).astype(np.float32)
    made = replace(trained(None), encoder=encoder, shape=shape, selfcheck_x=x)
    return export(made, tmp_path_factory.mktemp("model") / "m").folder


@pytest.mark.parametrize("hours", [0.0123, 0.04])
def test_windows_across_components(hours: float, recorded: Path, three: Path, tmp_path: Path) -> None:  # noqa: F811  # the fixture
    over = {
        "condition": {"band_hz": [5.0, 20.0]},
        "trigger": {"sta_seconds": 0.2, "lta_seconds": 2.0, "trigger_on": 5.0},
        "network": {"min_channels": 4, "association_seconds": 0.3},
    }
    settings = configured(tmp_path, **over)
    expected = reference([recorded], settings, three)
    assert len(expected.detections) > 20
    assert len(expected.network) > 5
    assert scan([recorded], tmp_path / "out", settings, part_hours=hours, model=three) == 0
    assert_equal(tmp_path / "out", expected)
