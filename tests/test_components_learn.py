"""From three-component recordings to a data set, to a package, to detections: one window per sensor throughout."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from tscc_stream import cli, config, miniseed, package
from tscc_stream.edges import archive
from tscc_stream.edges.torchscript import TorchScriptEncoder
from tscc_stream.learn import build, commands, dataset
from tscc_stream.learn.dataset import DataSet, DataSetError, WindowShape
from tscc_stream.messages import Window
from tscc_stream.package import EACH_CHANNEL
from tscc_stream.pipeline import FrontHalf
from tscc_stream.sampling import offset_ns
from tscc_stream.source_id import sensor_of, to_nslc
from tscc_stream.windows import cut_window, plan_windows

CODES = ("Z", "N", "E")
SHAPE = WindowShape(50.0, 60, 12, (2.0, 20.0), 4, 1.0, channels=3, components=CODES)
T0 = 1_262_304_000_000_000_000
RATE, SECONDS, NS = 100.0, 600, 1_000_000_000
SETTINGS = "condition: {band_hz: [5.0, 20.0]}\ntrigger: {sta_seconds: 0.2, lta_seconds: 2.0, trigger_on: 5.0}\n"
EVENTS = range(3000, int(SECONDS * RATE) - 500, 1700)


def _signal(seed: int) -> np.ndarray:
    rng = np.random.default_rng(seed)
    signal = rng.normal(0.0, 100.0, int(SECONDS * RATE))
    for at in EVENTS:
        signal[at : at + 60] += 3000.0 * rng.normal(0.0, 1.0, 60) * np.exp(-np.arange(60) / 20.0)
    return np.rint(signal).astype(np.int32)


@pytest.fixture(scope="module")
def recorded(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Two sensors; the second one's third component is missing for half of the time, and begins a bit later."""
    folder = tmp_path_factory.mktemp("recorded")
    for sensor in range(2):
        for i, code in enumerate(CODES):
            sid, signal = f"FDSN:XX_S{sensor:03}__E_H_{code}", _signal(10 * sensor + i)
            parts = [(0, signal)]
            if (sensor, code) == (1, "E"):
                parts = [(200, signal[200:20_000]), (50_000, signal[50_000:])]
            encoded = [
                record
                for first, part in parts
                for record in miniseed.encode(sid, T0 + offset_ns(first, RATE), RATE, part, record_length=512,
                                              encoding="steim2", version=2)
            ]  # fmt: skip
            (folder / f"{to_nslc(sid)}.mseed").write_bytes(b"".join(encoded))
    return folder


def test_windows_are_the_live_path_s_own_one_per_sensor(recorded: Path) -> None:
    settings = config.parse(SETTINGS)
    data = build.build([recorded], settings, SHAPE)
    front = FrontHalf(settings.model_copy(update={"network": None}), SHAPE.draft())
    found = [front.feed(record) for record in archive.iter_records(archive.index([recorded]))]
    live = [message for part in [*found, front.flush()] for message in part if isinstance(message, Window)]
    by_key = {(to_nslc(window.sid), window.onset_ns): window.waveform for window in live}
    assert len(data) == len(by_key)
    assert data.x.shape[1:] == (60, 3)
    for x, sid, onset in zip(data.x, data.sid, data.onset_ns, strict=True):
        assert np.array_equal(x, by_key[str(sid), int(onset)])
    sensors = [sensor_of(str(sid)) for sid in data.sid]
    assert sensors.count("XX.S000..EH") == len(EVENTS)
    missing = [at for at in EVENTS if 20_000 - 100 < at < 50_000 + 100]
    assert sensors.count("XX.S001..EH") == len(EVENTS) - len(missing)
    assert list(data.recorder) == sensors


def test_random_windows_are_cut_like_triggered_ones_and_keep_away_from_those_of_their_sensor(recorded: Path) -> None:
    settings = config.parse(SETTINGS)
    data = build.build([recorded], settings, SHAPE, random_windows=60, seed=3)
    quiet = data.take(~data.triggered)
    assert 35 <= len(quiet) <= 60
    assert {str(sid)[-1] for sid in quiet.sid} == {"Z"}
    assert set(quiet.recorder) == {"XX.S000..EH", "XX.S001..EH"}
    for recorder in np.unique(quiet.recorder):
        mine = data.recorder == recorder
        loud, chance = data.onset_ns[mine & data.triggered], data.onset_ns[mine & ~data.triggered]
        assert np.abs(loud[:, None] - chance[None, :]).min() >= 1.2 * NS
    plan = plan_windows(SHAPE.draft(), RATE)
    for x, sid, onset_ns in zip(quiet.x, quiet.sid, quiet.onset_ns, strict=True):
        if "S000" in str(sid):
            at = round((int(onset_ns) - T0) * RATE / NS)
            whole = [cut_window(_signal(i).astype(np.float64), at, plan) for i in range(3)]
            assert np.array_equal(x, np.stack(whole, axis=1))
    again = build.build([recorded], settings, SHAPE, random_windows=60, seed=3)
    assert np.array_equal(again.x, data.x)


def test_a_random_window_at_a_trigger_s_onset_is_the_triggered_window(recorded: Path) -> None:
    settings = config.parse(SETTINGS)
    data = build.build([recorded], settings, SHAPE)
    mine = data.take((data.recorder == "XX.S001..EH") & np.char.endswith(data.sid, "Z"))
    found = archive.index([recorded])
    job = build._Job(found, settings, SHAPE.draft(), (found.start_ns, found.stop_ns))
    times = [int(onset) for onset in mine.onset_ns]
    extra = [T0 + 30_000 * NS // 100, found.stop_ns]
    wanted = {"FDSN:XX_S001__E_H_Z": build.deque(sorted([*times, *extra]))}
    cuts = list(build._random(job, wanted, lambda _share: None))
    assert [cut.onset_ns for cut in cuts] == times
    assert np.array_equal(np.stack([cut.waveform for cut in cuts]), mine.x)


def test_data_sets_say_which_components(recorded: Path, tmp_path: Path) -> None:
    data = build.build([recorded], config.parse(SETTINGS), SHAPE)
    dataset.save(data, tmp_path / "d.npz")
    back = dataset.load(tmp_path / "d.npz")
    assert back.window == SHAPE
    assert dataset.shape_of(SHAPE.draft()) == SHAPE
    dataset.save(replace(data, window=replace(SHAPE, channels=1, components=EACH_CHANNEL)), tmp_path / "e.npz")
    with pytest.raises(DataSetError, match=r"windows are \[60, 3\], but were cut as \[60, 1\]"):
        dataset.load(tmp_path / "e.npz")


def test_windows_of_a_sensor_with_one_component_at_its_rail_are_left_out_and_counted(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    for number, code in enumerate(CODES):
        signal = _signal(number)
        if code == "E":
            signal[signal.size // 2 :] = 8_388_607
        encoded = miniseed.encode(f"FDSN:XX_A__E_H_{code}", T0, RATE, signal)
        (tmp_path / f"{code}.mseed").write_bytes(b"".join(encoded))
    data = build.build([tmp_path], config.parse(SETTINGS), SHAPE, random_windows=10)
    half = T0 + SECONDS * NS // 2
    assert len(data) > 10
    assert (data.onset_ns < half + 5 * NS).all()
    assert re.search(r"\d\d windows left out: a channel of theirs is constant", caplog.text)
    dataset.save(data, tmp_path / "d.npz")
    assert len(dataset.load(tmp_path / "d.npz")) == len(data)


@pytest.mark.parametrize(("channels", "expected"), [(1, EACH_CHANNEL), (3, CODES), (2, None)])
def test_unstated_components_are_guessed_for_one_and_three_channels(
    channels: int, expected: tuple[str, ...] | None
) -> None:
    data = DataSet(np.zeros((2, 40, channels), np.float32), np.array(["A.B..HHZ"] * 2), np.zeros(2, np.int64), 50.0)
    if expected is None:
        with pytest.raises(DataSetError, match="windows of 2 channels, and the data set does not say"):
            dataset.assumed_shape(data)
        return
    assert dataset.assumed_shape(data).components == expected
    dataset.assumed_shape(data).draft()


@pytest.mark.parametrize(("nslc", "sensor"), [("A.B..HHZ", "A.B..HH"), ("A_B.C..HHZ", "A_B.C..HH"),
                                              ("A.B.00.H_H_ZZ", "A.B.00.H_H")])  # fmt: skip
def test_the_sensor_of_a_channel(nslc: str, sensor: str) -> None:
    assert sensor_of(nslc) == sensor


def test_from_recordings_to_detections_on_the_command_line(
    recorded: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    settings = tmp_path / "site.yaml"
    settings.write_text(SETTINGS, encoding="utf-8")
    windows, model = tmp_path / "d.npz", tmp_path / "three"
    words = ["dataset", "build", "--from", str(recorded), "--out", str(windows), "--config", str(settings)]
    words += ["--rate", "50", "--samples", "60", "--onset-sample", "12", "--band", "2", "20"]
    words += ["--components", "Z", "N", "E"]
    assert cli.main(words) == 0
    made = commands.train_model(
        windows, model, clusters=2, epochs_pretrain=1, epochs_finetune=1, batch_size=8, repr_dims=4, device="cpu",
        runs=tmp_path / "runs",
    )  # fmt: skip
    assert (made.spec.channels, made.spec.components) == (3, CODES)
    assert "the components Z, N, E of one sensor" in (model / "card.md").read_text()
    TorchScriptEncoder(package.load(model), "cpu", 1).warm_up(4)
    capsys.readouterr()
    assert cli.main(["model", "show", str(model)]) == 0
    assert "components Z N E" in capsys.readouterr().out
    assert cli.main(["classify", str(recorded), "--config", str(settings), "--model", str(model)]) == 0
    rows = [json.loads(line) for line in capsys.readouterr().out.splitlines()]
    found = [row for row in rows if row["type"] == "tscc.detection.v1"]
    assert len(found) == len(dataset.load(windows))
    assert {row["data"]["window"]["channels"] for row in found} == {3}
