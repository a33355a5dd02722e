"""The simulated mine: same seed, same bytes; truth that the waveforms bear out."""

from __future__ import annotations

import csv
import hashlib
from pathlib import Path

import numpy as np
import pytest

from tscc_stream import miniseed
from tscc_stream.serve import mine
from tscc_stream.serve.mine_catalogue import make_sensor, make_site
from tscc_stream.serve.mine_waveforms import Background

SEED = 1001
FROZEN = 3451077


def _bytes(folder: Path) -> dict[str, str]:
    return {path.name: hashlib.sha256(path.read_bytes()).hexdigest() for path in sorted(folder.iterdir())}


def _truth(folder: Path) -> list[dict[str, str]]:
    with (folder / "truth.csv").open(encoding="utf-8") as file:
        return list(csv.DictReader(file))


def _decoded(path: Path) -> tuple[int, float, np.ndarray]:
    data = path.read_bytes()
    assert len(data) % 512 == 0
    records = [miniseed.decode(data[at : at + 512]) for at in range(0, len(data), 512)]
    return records[0].start_ns, records[0].sample_rate_hz, np.concatenate([record.samples for record in records])


def test_the_same_seed_gives_the_same_bytes_and_another_does_not(tmp_path: Path) -> None:
    for name, seed in (("a", SEED), ("b", SEED), ("c", SEED + 1)):
        mine.simulate(tmp_path / name, channels=2, seconds=60, rate_hz=100, seed=seed)
    assert _bytes(tmp_path / "a") == _bytes(tmp_path / "b")
    assert not set(_bytes(tmp_path / "a").values()) & set(_bytes(tmp_path / "c").values())


def test_a_channel_does_not_depend_on_how_many_there_are_nor_its_beginning_on_how_long_it_lasts(tmp_path: Path) -> None:
    mine.simulate(tmp_path / "few", channels=2, seconds=60, rate_hz=100, seed=SEED)
    mine.simulate(tmp_path / "many", channels=4, seconds=60, rate_hz=100, seed=SEED)
    few, many = _bytes(tmp_path / "few"), _bytes(tmp_path / "many")
    few.pop("truth.csv")
    assert few.items() <= many.items()
    short, _ = mine.trace(1, seconds=60, rate_hz=100, seed=SEED)
    longer, _ = mine.trace(1, seconds=90, rate_hz=100, seed=SEED)
    assert np.array_equal(short, longer[: len(short)])


@pytest.mark.parametrize("chunk", [997, 4096])
def test_the_cut_into_chunks_changes_nothing(chunk: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    whole, arrivals = mine.trace(3, seconds=120, rate_hz=50, seed=SEED)
    cut, _ = mine.trace(3, seconds=120, rate_hz=50, seed=SEED, chunk=chunk)
    assert len(arrivals) > 5
    assert np.array_equal(whole, cut)
    mine.simulate(tmp_path / "whole", channels=1, seconds=120, rate_hz=50, seed=SEED)
    monkeypatch.setattr(mine, "_CHUNK", chunk)
    mine.simulate(tmp_path / "cut", channels=1, seconds=120, rate_hz=50, seed=SEED)
    assert _bytes(tmp_path / "whole") == _bytes(tmp_path / "cut")


@pytest.mark.parametrize(
    ("rate", "code"), [(50.0, "SHZ"), (100.0, "EHZ"), (250.0, "DHZ"), (1000.0, "GHZ"), (6000.0, "JHZ")]
)
def test_files_hold_the_trace_gapless_under_a_code_that_fits_the_rate(tmp_path: Path, rate: float, code: str) -> None:
    mine.simulate(tmp_path, channels=1, seconds=20, rate_hz=rate, seed=SEED)
    start, stated, samples = _decoded(tmp_path / f"SM.S001..{code}.mseed")
    expected, _ = mine.trace(1, seconds=20, rate_hz=rate, seed=SEED)
    assert (start, stated) == (mine.START_NS + SEED * mine.DAY_NS, rate)
    assert np.array_equal(samples, expected)


@pytest.mark.parametrize("rate", [50.0, 1000.0])
def test_nothing_comes_before_the_stated_onset_and_much_comes_after(rate: float) -> None:
    kinds = set()
    for number in range(1, 5):
        _, arrivals = mine.trace(number, seconds=600, rate_hz=rate, seed=SEED)
        for arrival in arrivals:
            onset = round(arrival.onset_s * rate) - arrival.start
            energy = arrival.samples**2
            assert energy[:onset].sum() <= 0.01 * energy.sum()
            inside = energy[: round(arrival.end_s * rate) - arrival.start].sum()
            assert inside >= 0.8 * energy.sum(), arrival.source.identity
            kinds.add(arrival.source.kind)
    assert kinds == set(mine.KINDS)


def test_truth_agrees_with_what_the_file_holds(tmp_path: Path) -> None:
    mine.simulate(tmp_path, channels=3, seconds=300, rate_hz=100, seed=SEED)
    rows = [row for row in _truth(tmp_path) if float(row["snr"]) > 25]
    assert len(rows) > 5
    for row in rows:
        start, rate, samples = _decoded(tmp_path / f"{row['channel']}.mseed")
        onset = round((int(row["onset_ns"]) - start) * rate / 1e9)
        end = round((int(row["end_ns"]) - start) * rate / 1e9)
        if onset < 100 or end > len(samples):
            continue
        centre = np.median(samples[onset - 100 : onset])
        quiet = np.median(np.abs(samples[onset - 100 : onset - 2] - centre))
        assert np.abs(samples[onset : end + 5] - centre).max() > 5 * quiet, row
        assert int(row["origin_ns"]) <= int(row["onset_ns"]) < int(row["end_ns"])


def test_s_comes_after_p_by_the_distance_and_blasts_reach_all_sensors(tmp_path: Path) -> None:
    mine.simulate(tmp_path, channels=5, seconds=900, rate_hz=50, seed=SEED)
    site = make_site(SEED, 50.0)
    blasts: dict[str, set[str]] = {}
    for row in _truth(tmp_path):
        if row["kind"] == "blast":
            blasts.setdefault(row["event_id"], set()).add(row["channel"])
        if row["kind"] == "microseismic":
            sensor = make_sensor(site, int(row["channel"][4:7]))
            place = np.array([float(row[axis]) for axis in ("x_m", "y_m", "z_m")])
            distance = np.linalg.norm(place - sensor.position_m)
            gap_s = (int(row["s_onset_ns"]) - int(row["onset_ns"])) / 1e9
            if distance > 0.1 * site.extent_m:
                assert gap_s == pytest.approx(distance / 3200 - distance / 5500, abs=1e-3)
    assert max(len(channels) for channels in blasts.values()) == 5


def test_a_blast_pushes_everywhere_and_a_double_couple_pushes_and_pulls() -> None:
    site, outward = make_site(SEED, 50.0), {"microseismic": set(), "blast": set()}
    for number in range(1, 9):
        sensor = make_sensor(site, number)
        _, arrivals = mine.trace(number, seconds=900, rate_hz=50, seed=SEED)
        for arrival in arrivals:
            source = arrival.source
            if source.kind in outward and source.frequency_hz > 4:
                sensor_above = np.sign(source.position_m[2] - sensor.position_m[2])
                first = arrival.samples[np.argmax(np.abs(arrival.samples[:4]))]
                outward[source.kind].add(float(np.sign(first) * sensor_above))
    assert outward == {"blast": {1.0}, "microseismic": {-1.0, 1.0}}


def test_background_has_the_stated_level() -> None:
    site = make_site(SEED, 100.0)
    sensor = make_sensor(site, 1)
    quiet = Background(site, sensor).take(200_000)
    assert np.std(quiet) == pytest.approx(sensor.noise_counts, rel=0.1)


def test_a_test_pulse_keeps_its_shape_on_a_sensor() -> None:
    _, arrivals = mine.trace(1, seconds=1800, rate_hz=50, seed=SEED)
    shapes = [a.samples for a in arrivals if a.source.kind == "test_pulse"]
    assert len(shapes) >= 4
    assert all(np.array_equal(shapes[0], shape) for shape in shapes[1:])


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"channels": 0}, "expected 1 to 9999"),
        ({"rate_hz": 1.0}, "expected 10 to 20000"),
        ({"seconds": 0.0}, "expected more than 0"),
        ({"seed": -1}, "expected 0 or more"),
        ({"events_per_hour": -1.0}, "expected 0 to 1000000"),
    ],
)
def test_bad_input_is_refused_in_one_sentence(tmp_path: Path, wrong: dict[str, float], said: str) -> None:
    arguments = {"channels": 1, "seconds": 10.0, "rate_hz": 50.0, "seed": 1} | wrong
    with pytest.raises(ValueError, match=said):
        mine.simulate(tmp_path / "out", **arguments)
    assert not (tmp_path / "out").exists()


def test_no_events_are_asked_for_and_none_come() -> None:
    _, arrivals = mine.trace(1, seconds=60, rate_hz=50, seed=SEED, events_per_hour=0.0)
    assert not arrivals


def test_the_generator_is_the_frozen_one() -> None:
    """Models were trained on this generator: a change here must raise GENERATOR_VERSION."""
    samples, _ = mine.trace(1, seconds=600, rate_hz=50, seed=1)
    assert mine.GENERATOR_VERSION == 1
    # Sums forgive a last bit that differs between processors.
    assert int(np.abs(samples).sum()) == pytest.approx(FROZEN, rel=1e-4)
