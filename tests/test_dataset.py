"""Data sets: the file format, its errors, and windows cut by the live stages."""

from __future__ import annotations

from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import numpy as np
import pytest
from made_site import CHANNELS, add_odd_channel, make_archive

from tscc_stream import config
from tscc_stream.edges import archive
from tscc_stream.edges.parquet_windows import WindowsError
from tscc_stream.learn import build, dataset, stored, truth
from tscc_stream.learn.build_command import build_dataset
from tscc_stream.learn.dataset import DataSet, DataSetError, WindowShape
from tscc_stream.messages import Window
from tscc_stream.package import EACH_CHANNEL
from tscc_stream.pipeline import FrontHalf
from tscc_stream.serve import mine
from tscc_stream.source_id import to_nslc

SHAPE = WindowShape(50.0, 500, 100, (2.0, 20.0), 4, 1.0)
NS = 1_000_000_000


def small(n: int = 6, samples: int = 40) -> DataSet:
    rng = np.random.default_rng(0)
    return DataSet(
        x=rng.standard_normal((n, samples, 1)).astype(np.float32),
        sid=np.array([f"SM.S{k % 2 + 1:03d}..SHZ" for k in range(n)]),
        onset_ns=np.arange(n)[::-1].astype(np.int64) * 10 * NS,
        sample_rate_hz=50.0,
        y=np.arange(n) % 2,
        y_names=("event", "noise"),
        triggered=np.arange(n) % 3 > 0,
        peak_ratio=np.where(np.arange(n) % 3 > 0, 5.0 + np.arange(n), 0.0).astype(np.float32),
        window=WindowShape(50.0, samples, 8, (2.0, 20.0)),
    )


def test_a_data_set_comes_back_as_it_was_saved(tmp_path: Path) -> None:
    data = small()
    dataset.save(data, tmp_path / "deep" / "d.npz")
    back = dataset.load(tmp_path / "deep" / "d.npz")
    assert np.array_equal(back.x, data.x)
    assert np.array_equal(back.onset_ns, data.onset_ns)
    assert list(back.sid) == list(data.sid)
    assert (back.window, back.y_names, back.sample_rate_hz) == (data.window, data.y_names, 50.0)
    assert np.array_equal(back.y, data.y)
    assert np.array_equal(back.triggered, data.triggered)
    assert np.array_equal(back.peak_ratio, data.peak_ratio)
    assert [path.name for path in (tmp_path / "deep").iterdir()] == ["d.npz"]


def test_equal_data_give_equal_bytes(tmp_path: Path) -> None:
    dataset.save(small(), tmp_path / "a.npz")
    dataset.save(small(), tmp_path / "b.npz")
    assert (tmp_path / "a.npz").read_bytes() == (tmp_path / "b.npz").read_bytes()


def test_only_the_four_arrays_are_needed(tmp_path: Path) -> None:
    data = small()
    np.savez(tmp_path / "d.npz", x=data.x, sid=data.sid, onset_ns=data.onset_ns, sample_rate_hz=50)
    back = dataset.load(tmp_path / "d.npz")
    assert (back.y, back.triggered, back.window, back.peak_ratio) == (None, None, None, None)
    assert np.all(np.diff(back.in_time().onset_ns) > 0)


def _spoilt(**changed: object) -> dict[str, object]:
    data = small()
    return {"x": data.x, "sid": data.sid, "onset_ns": data.onset_ns, "sample_rate_hz": 50.0} | changed


def _with(value: float) -> np.ndarray:
    x = small().x.copy()
    x[2] = value
    return x


def test_windows_without_a_signal_are_left_out_and_counted(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    np.savez(tmp_path / "d.npz", **_spoilt(x=_with(3.0)))
    data = dataset.load(tmp_path / "d.npz")
    assert data.onset_ns.tolist() == np.delete(small().onset_ns, 2).tolist()
    assert "d.npz: 1 of 6 windows left out: a channel of theirs is constant" in caplog.text


@pytest.mark.parametrize(
    ("arrays", "said"),
    [
        ({"x": _with(np.nan)}, r"window 2 \(SM.S001..SHZ\) holds values that are not finite"),
        ({"x": np.full((6, 40, 1), 3.0)}, "all 6 windows hold no signal: a channel of theirs is constant"),
        ({"x": np.zeros((6, 40))}, r"expected numbers \[n, samples, channels\]"),
        ({"x": np.zeros((0, 40, 1))}, r"expected numbers \[n, samples, channels\]"),
        ({"sid": np.array(["A.B..SHZ"])}, r"sid is \[1\]; expected \[6\]"),
        ({"sid": np.arange(6)}, "expected text"),
        ({"onset_ns": np.linspace(0, 1, 6)}, "onset_ns holds float64; expected whole numbers"),
        ({"y": np.arange(5)}, r"y is \[5\]; expected \[6\]"),
        ({"sample_rate_hz": -1.0}, "not one positive number"),
        ({"sample_rate_hz": [50.0, 50.0]}, "not one positive number"),
        ({"sid": np.array(["a"] * 6, dtype=object)}, "not a readable npz file"),
        ({"peak_ratio": np.array([1.0, -2.0, 0.0, 4.0, 5.0, 6.0])}, "peak_ratio holds values that are no ratios"),
        ({"peak_ratio": np.array([np.nan] * 6)}, "peak_ratio holds values that are no ratios"),
        ({"window": np.array("{}")}, "does not describe how windows were cut"),
    ],
)
def test_what_is_wrong_is_said_in_one_sentence(tmp_path: Path, arrays: dict[str, object], said: str) -> None:
    np.savez(tmp_path / "d.npz", **_spoilt(**arrays))
    with pytest.raises(DataSetError, match=said) as caught:
        dataset.load(tmp_path / "d.npz")
    assert "\n" not in str(caught.value)


@pytest.mark.parametrize("name", ["x", "sid", "onset_ns", "sample_rate_hz"])
def test_a_missing_array_is_named(tmp_path: Path, name: str) -> None:
    arrays = _spoilt()
    del arrays[name]
    np.savez(tmp_path / "d.npz", **arrays)
    with pytest.raises(DataSetError, match=f"array {name} is missing"):
        dataset.load(tmp_path / "d.npz")


@pytest.mark.parametrize("kept", [0, 10, 700, -30])
def test_a_truncated_file_is_refused(tmp_path: Path, kept: int) -> None:
    dataset.save(small(), tmp_path / "d.npz")
    whole = (tmp_path / "d.npz").read_bytes()
    (tmp_path / "d.npz").write_bytes(whole[:kept])
    with pytest.raises(DataSetError, match=r"d\.npz"):
        dataset.load(tmp_path / "d.npz")


def test_a_missing_file_is_named(tmp_path: Path) -> None:
    with pytest.raises(DataSetError, match="no such file"):
        dataset.load(tmp_path / "none.npz")


def test_a_shape_that_contradicts_itself_is_refused() -> None:
    with pytest.raises(DataSetError, match="expected within 0 and 25 Hz"):
        replace(SHAPE, band_hz=(2.0, 30.0)).draft()


@pytest.fixture(scope="module")
def simulated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("mine")
    mine.simulate(folder, channels=3, seconds=600, rate_hz=50, seed=1001)
    return folder


def test_windows_are_the_live_path_s_own(simulated: Path) -> None:
    settings = config.Config()
    data = build.build([simulated], settings, SHAPE)
    front = FrontHalf(settings, SHAPE.draft())
    found = [front.feed(record) for record in archive.iter_records(archive.index([simulated]))]
    live = [message for part in [*found, front.flush()] for message in part if isinstance(message, Window)]
    assert len(live) > 10
    by_key = {(to_nslc(window.sid), window.onset_ns): window for window in live}
    assert len(data) == len(by_key)
    for x, sid, onset, ratio in zip(data.x, data.sid, data.onset_ns, data.peak_ratio, strict=True):
        assert np.array_equal(x, by_key[str(sid), int(onset)].waveform)
        assert ratio == np.float32(by_key[str(sid), int(onset)].peak_ratio)


def test_random_windows_keep_away_from_triggered_ones_and_are_cut_alike(simulated: Path) -> None:
    data = build.build([simulated], config.Config(), SHAPE, random_windows=40, seed=3)
    assert int((~data.triggered).sum()) == pytest.approx(40, abs=4)
    assert ((data.peak_ratio > 0.0) == data.triggered).all()
    assert np.all(np.diff(data.onset_ns) >= 0)
    for sid in np.unique(data.sid):
        mine_ = data.sid == sid
        triggered, chance = data.onset_ns[mine_ & data.triggered], data.onset_ns[mine_ & ~data.triggered]
        assert np.abs(triggered[:, None] - chance[None, :]).min() >= 10 * NS
    again = build.build([simulated], config.Config(), SHAPE, random_windows=40, seed=3)
    assert np.array_equal(again.x, data.x)


def test_a_random_window_at_a_trigger_s_onset_is_the_triggered_window(simulated: Path) -> None:
    data = build.build([simulated], config.Config(), SHAPE)
    sid, spec = "SM.S001..SHZ", SHAPE.draft()
    onsets = [int(onset) for onset in data.onset_ns[data.sid == sid]]
    found = archive.index([simulated / f"{sid}.mseed"])
    job = build._Job(found, config.Config(), spec, (found.start_ns, found.stop_ns))
    cuts = list(build._random(job, {found.sids[0]: build.deque(onsets)}, lambda _share: None))
    assert [cut.onset_ns for cut in cuts] == onsets
    assert np.array_equal(np.stack([cut.waveform for cut in cuts]), data.x[data.sid == sid])


@pytest.mark.parametrize("components", [EACH_CHANNEL, ("Z",)])
def test_a_source_id_that_names_no_channel_has_no_windows(tmp_path: Path, components: tuple[str, ...]) -> None:
    folder = make_archive(tmp_path / "a", channels=CHANNELS[:1])
    add_odd_channel(folder)
    data = build.build([folder], config.Config(), replace(SHAPE, components=components), random_windows=4)
    assert set(data.sid.tolist()) == {CHANNELS[0]}
    assert not data.triggered.all()


def test_only_the_asked_for_time_takes_part(simulated: Path) -> None:
    start = mine.START_NS + 1001 * mine.DAY_NS
    low, high = start + 200 * NS, start + 400 * NS
    data = build.build([simulated], config.Config(), SHAPE, random_windows=20, from_ns=low, to_ns=high)
    assert data.onset_ns.min() - 2 * NS >= low
    assert data.onset_ns.max() + 8 * NS <= high + NS


def test_truth_names_the_kinds(simulated: Path) -> None:
    data = build.build([simulated], config.Config(), SHAPE, random_windows=40)
    assert data.y_names[-1] == truth.NOISE
    kinds = [data.y_names[k] for k in data.y]
    assert {"microseismic", "blast", truth.NOISE} <= set(kinds)
    quiet = [kind for kind, triggered in zip(kinds, data.triggered, strict=True) if not triggered]
    loud = [kind for kind, triggered in zip(kinds, data.triggered, strict=True) if triggered]
    assert quiet.count(truth.NOISE) / len(quiet) > 0.5
    assert loud.count(truth.NOISE) / len(loud) < 0.2


def test_the_command_writes_the_file(simulated: Path, tmp_path: Path) -> None:
    out = tmp_path / "d.npz"
    made = build_dataset([simulated], out, config.Config(), SHAPE, from_time="2028-09-28T00:02:00")
    assert len(dataset.load(out)) == made
    with pytest.raises(DataSetError, match="expected ISO 8601"):
        build_dataset([simulated], out, config.Config(), SHAPE, to_time="noon")


def test_nothing_found_is_said(simulated: Path) -> None:
    deaf = config.parse("trigger: {trigger_on: 19.9}")
    with pytest.raises(DataSetError, match="no window came of it"):
        build.build([simulated], deaf, SHAPE)


def test_a_foreign_truth_table_is_refused(tmp_path: Path) -> None:
    (tmp_path / truth.NAME).write_text("a,b\n1,2\n", encoding="utf-8")
    with pytest.raises(DataSetError, match="not a truth table"):
        truth.kinds([tmp_path / truth.NAME], np.array(["SM.S001..SHZ"]), np.array([0]))


def test_windows_built_as_parquet_are_those_of_npz_in_the_order_they_came(simulated: Path, tmp_path: Path) -> None:
    """Triggered ones first, then those at random times."""
    out = tmp_path / "set"
    count = build_dataset([simulated], out, config.Config(), SHAPE, random_windows=20, seed=3)
    back = stored.load(out)
    made = build.build([simulated], config.Config(), SHAPE, random_windows=20, seed=3)
    assert len(back) == count == len(made)
    assert back.triggered is not None
    assert all(before >= after for before, after in pairwise(back.triggered.tolist()))
    again = back.in_time()
    for part in ("x", "sid", "onset_ns", "triggered", "peak_ratio", "y"):
        assert np.array_equal(getattr(again, part), getattr(made, part)), part
    assert (back.y_names, back.window) == (made.y_names, SHAPE)
    with pytest.raises(WindowsError, match="exists already"):
        build_dataset([simulated], out, config.Config(), SHAPE)
