"""Training from Parquet: every window once an epoch, the same batches for any number of processes, bounded memory."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from in_time import PATIENCE_S
from test_parquet_windows import broken
from test_train import TINY, data_set

from tscc_stream.edges import parquet_windows
from tscc_stream.edges.parquet_windows import StoredWindows, WindowsError
from tscc_stream.learn import coincidence, commands, dataset, material, stored, streamed
from tscc_stream.learn.dataset import DataSet, DataSetError
from tscc_stream.learn.group import Group
from tscc_stream.learn.streamed import Streamed
from tscc_stream.learn.train import Trainer

pytestmark = pytest.mark.usefixtures("one_torch_thread")
WINDOW_BYTES = 4 * 32
CPU = torch.device("cpu")
RNG = np.random.default_rng(0)


@pytest.fixture(autouse=True)
def _small_groups(monkeypatch: pytest.MonkeyPatch) -> None:
    """Seven windows a row group, and four row groups a file; two or three row groups are shuffled together."""
    monkeypatch.setattr(parquet_windows, "GROUP_BYTES", 7 * WINDOW_BYTES)
    monkeypatch.setattr(parquet_windows, "FILE_BYTES", 28 * WINDOW_BYTES)
    monkeypatch.setattr(streamed, "BUFFER_BYTES", 20 * WINDOW_BYTES)


def known(n: int) -> DataSet:
    made = data_set(n)
    return replace(
        made,
        sid=np.array([f"SM.S{i % 4:03d}..SHZ" for i in range(n)]),
        triggered=np.arange(n) % 3 > 0,
        peak_ratio=np.where(np.arange(n) % 3 > 0, 2.0 + np.arange(n) % 7, 0.0).astype(np.float32),
        y=np.arange(n) % 2,
        y_names=("a", "b"),
    )


@pytest.mark.parametrize("name", ["set", "set.parquet", "set.npz"])
def test_a_data_set_comes_back_whole_whatever_its_kind(name: str, tmp_path: Path) -> None:
    made = known(60)
    stored.save(made, tmp_path / name)
    back = stored.load(tmp_path / name)
    for part in (*stored.COLUMNS, "x"):
        assert np.array_equal(getattr(back, part), getattr(made, part)) or getattr(made, part) is None, part
    assert (back.window, back.sample_rate_hz, back.y_names) == (made.window, made.sample_rate_hz, made.y_names)
    assert (tmp_path / name).is_dir() == (name == "set")


@given(
    sizes=st.lists(st.integers(0, 9), max_size=12),
    most=st.integers(1, 30),
    seed=st.integers(0, 5),
    epoch=st.integers(0, 5),
)
def test_an_epoch_has_every_window_once_and_few_at_a_time(sizes: list[int], most: int, seed: int, epoch: int) -> None:
    begins = np.cumsum([0, *sizes])
    seen: list[int] = []
    for groups, order in streamed.blocks(sizes, most, seed, epoch):
        places = np.concatenate([np.arange(begins[one], begins[one + 1]) for one in groups])
        assert len(places) <= most or len(groups) == 1
        seen += places[order].tolist()
    assert sorted(seen) == list(range(sum(sizes)))
    again = [order.tolist() for _, order in streamed.blocks(sizes, most, seed, epoch)]
    assert again == [order.tolist() for _, order in streamed.blocks(sizes, most, seed, epoch)]


def test_epochs_and_seeds_have_orders_of_their_own() -> None:
    orders = {
        tuple(np.concatenate([[*groups, *order] for groups, order in streamed.blocks([8] * 9, 24, seed, epoch)]))
        for seed in range(4)
        for epoch in range(4)
    }
    assert len(orders) == 16


@settings(max_examples=15)
@given(
    count=st.integers(2, 60),
    batch=st.integers(1, 17),
    left_out=st.integers(2, 9),
    epoch=st.integers(0, 3),
)
def test_batches_are_the_same_for_one_two_and_three_processes(
    count: int, batch: int, left_out: int, epoch: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    path = tmp_path_factory.mktemp("w") / "set"
    made = known(count)
    stored.save(made, path)
    rows = np.flatnonzero(np.arange(count) % left_out > 0)
    expected = None
    for processes in (1, 2, 3):
        there = [
            list(
                Streamed(StoredWindows(path), rows, "none", CPU, 5).epoch(epoch, batch, np.random.default_rng(0), group)
            )
            for group in (Group(rank, processes) for rank in range(processes))
        ]
        batches = list(zip(*there, strict=True))
        for parts in batches:
            assert all(torch.equal(one.rows, parts[0].rows) for one in parts)
            x = made.x[rows[parts[0].rows.numpy()]]
            for one in parts:
                assert np.array_equal(one.x.numpy(), x[one.part.mine])
        numbers = [parts[0].rows.tolist() for parts in batches]
        assert [len(some) for some in numbers[:-1]] == [batch] * (len(numbers) - 1)
        assert sorted(number for some in numbers for number in some) == list(range(len(rows)))
        assert expected is None or numbers == expected
        expected = numbers


def test_what_is_known_of_windows_is_what_npz_says(tmp_path: Path) -> None:
    made = known(90)
    dataset.save(made, tmp_path / "d.npz")
    stored.save(made, tmp_path / "d")
    chosen = replace(TINY, batch_size=20)
    for every in (None, 2):
        held, there = (material.material(tmp_path / name, chosen, None, every) for name in ("d.npz", "d"))
        assert len(held.windows) == len(there.windows)
        for one, other in zip(held.known.parts, there.known.parts, strict=True):
            assert (one is None) == (other is None)
            assert one is None or np.array_equal(one.numpy(), other.numpy(), equal_nan=one.is_floating_point())
        assert np.array_equal(held.calibration, there.calibration)
        assert np.array_equal(held.samples(None), there.samples(None))
        assert (held.shape, held.stated, there.notes) == (there.shape, there.stated, ())


def test_embedding_and_clusters_of_a_set_that_fits_are_those_of_memory(tmp_path: Path) -> None:
    stored.save(known(60), tmp_path / "d")
    there = material.material(tmp_path / "d", TINY, None, None)
    still = replace(TINY, epochs_pretrain=0, epochs_finetune=0)
    one, other = Trainer(still, there.windows, there.known), Trainer(still, there.samples(None), there.known)
    torch.testing.assert_close(one.embed(), other.embed(), rtol=1e-5, atol=1e-6)  # other batches, other rounding
    for trainer in (one, other):
        trainer.run(lambda _: None)
    assert one.head is not None
    assert other.head is not None
    torch.testing.assert_close(one.head.centres, other.head.centres, rtol=1e-4, atol=1e-5)


def test_more_windows_than_are_enough_are_sampled_and_the_card_says_so(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streamed, "MOST_CLUSTERED", 20)
    monkeypatch.setattr(material, "MOST_CALIBRATING", 5)
    stored.save(known(90), tmp_path / "d")
    found = material.material(tmp_path / "d", TINY, None, None)
    assert len(found.calibration) == 5
    made = commands.train_model(tmp_path / "d", tmp_path / "m", runs=tmp_path / "runs", device="cpu", clusters=2,
                                epochs_pretrain=1, epochs_finetune=1, finer={"hidden": 6, "depth": 3})  # fmt: skip
    card = (made.folder / "card.md").read_text(encoding="utf-8")
    assert f"- Not all windows: clusters were found among 20 of {len(found.windows)} windows" in card
    assert "- Not all windows: calibrated with 5 of 13 windows" in card
    assert made.spec.training_data["sha256"] == StoredWindows(tmp_path / "d").digest()
    (folder,) = (tmp_path / "runs").iterdir()
    assert json.loads((folder / "metrics.json").read_text())["epochs"] == 2


def test_windows_without_a_signal_take_no_part(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Beside the same data set without them."""
    made = known(90)
    made.x[[17, 88]] = 3.0
    stored.save(made, tmp_path / "flat")
    stored.save(made.take(np.delete(np.arange(90), [17, 88])), tmp_path / "d")
    assert len(stored.load(tmp_path / "flat")) == 88
    caplog.clear()
    chosen = replace(TINY, batch_size=20)
    for every, calibration in ((None, False), (2, False), (None, True)):
        one, other = (
            material.material(tmp_path / name, chosen, tmp_path / name if calibration else None, every)
            for name in ("flat", "d")
        )
        assert np.array_equal(one.calibration, other.calibration)
        assert calibration or np.array_equal(one.samples(None), other.samples(None))
        assert len(one.windows) == len(other.windows)
    assert "flat: 2 of 90 windows left out: a channel of theirs is constant" in caplog.text
    made.x[:] = 3.0
    stored.save(made, tmp_path / "all.parquet")
    with pytest.raises(DataSetError, match="all 90 windows hold no signal"):
        material.material(tmp_path / "all.parquet", chosen, None, None)


def test_damaged_windows_are_told_in_one_sentence(tmp_path: Path) -> None:
    stored.save(known(60), tmp_path / "d")
    flat = known(60)
    flat.x[17] = np.nan
    stored.save(flat, tmp_path / "flat")
    options = {"runs": tmp_path / "runs", "device": "cpu", "finer": {"hidden": 6, "depth": 3}}
    with pytest.raises(
        DataSetError,
        match=r"flat: of the windows from number 14 on, window \d \(SM.S001..SHZ\) holds values that are not",
    ):
        commands.train_model(tmp_path / "flat", tmp_path / "m", **options)
    payload = bytearray((tmp_path / "d/part-00000.parquet").read_bytes())
    payload[payload.find(known(60).x[3].tobytes()) + 9] ^= 0xFF
    (tmp_path / "d/part-00000.parquet").write_bytes(payload)
    with pytest.raises(WindowsError, match=r"part-00000.parquet: not a readable Parquet file of windows, or a damaged"):
        commands.train_model(tmp_path / "d", tmp_path / "m", **options)
    broken(tmp_path / "flat/part-00001.parquet", "cut off")
    with pytest.raises(WindowsError, match=r"part-00001.parquet: not a readable"):
        commands.train_model(tmp_path / "flat", tmp_path / "m", **options)
    assert not (tmp_path / "m").exists()


HUNGRY = """
import sys, resource
from pathlib import Path
import numpy as np, torch
torch.set_num_threads(1)
from tscc_stream.edges import parquet_windows
from tscc_stream.edges.parquet_windows import Layout, StoredWindows, WindowsWriter
from tscc_stream.learn import material, streamed
from tscc_stream.learn.group import ALONE
from tscc_stream.learn.settings import Settings

path, count = Path(sys.argv[1]), int(sys.argv[2])
rng = np.random.default_rng(0)
with WindowsWriter(path, Layout(250.0, 2000, 1)) as writer:
    for at in range(0, count, 500):
        writer.write({"x": rng.standard_normal((500, 2000, 1), np.float32), "sid": np.array(["A.B..C"] * 500),
                      "onset_ns": np.arange(at, at + 500) * 10**10})
streamed.BUFFER_BYTES = 8 << 20
settings = Settings(hidden=2, depth=0, representation=2, batch_size=500, epochs_pretrain=1, epochs_finetune=0,
                    clusters=2, space="representation", normalisation="none", noise=0.0)
found = material.material(path, settings, None, None)
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
seen = 0
for batch in found.windows.epoch(0, 500, rng, ALONE):
    seen += len(batch.x)
print(seen, len(found.windows), resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


def test_an_epoch_takes_far_less_memory_than_its_windows(tmp_path: Path) -> None:
    """96 MB of windows, 8 MB of them shuffled at a time."""
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    done = subprocess.run([sys.executable, "-c", HUNGRY, tmp_path / "big", "12000"], env=environment,
                          capture_output=True, text=True, timeout=PATIENCE_S, check=False)  # fmt: skip
    assert done.returncode == 0, done.stderr
    seen, count, grown_kib = map(int, done.stdout.split())
    assert seen == count > 9_000
    assert grown_kib < 50 * 1024, f"{grown_kib} KiB more for 96 MB of windows"


def test_largest_near_is_the_plain_loop() -> None:
    rng = np.random.default_rng(1)
    for n, m in ((50, 30), (10, 1), (5, 0)):
        at, times = np.sort(rng.integers(0, 1000, n)), np.sort(rng.integers(0, 1000, m))
        weight = rng.random(m)
        plain = [max((w for w, t in zip(weight, times, strict=True) if abs(t - one) <= 20), default=0.0) for one in at]
        assert coincidence._largest_near(at, times, weight, 20).tolist() == plain
