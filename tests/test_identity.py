"""Clusters keep their names across trainings where they are the same clusters."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from made_site import Here
from test_export import trained
from test_train import data_set

from tscc_stream import package
from tscc_stream.learn import dataset, identity
from tscc_stream.learn.clusters import Head
from tscc_stream.learn.dataset import DataSet, DataSetError
from tscc_stream.learn.export import export
from tscc_stream.package import Label, Package
from tscc_stream.windows import normalise

NAMES = {0: Label(name="blast", colour="#112233", notes="north", event_type="explosion"), 2: Label(name="drill")}


pytestmark = pytest.mark.usefixtures("one_torch_thread")


def _ints(*values: int) -> np.ndarray:
    return np.array(values, np.int64)


def test_labels_follow_their_clusters() -> None:
    old = _ints(0, 0, 0, 1, 1, 1, 2, 2, 2, 2)
    new = _ints(2, 2, 2, 0, 0, 3, 1, 1, 1, 0)
    carried = identity.match(old, new, (3, 4))
    assert {(p.old, p.new, p.windows) for p in carried.pairs} == {(0, 2, 3), (1, 0, 2), (2, 1, 3)}
    assert carried.labels(NAMES) == {2: NAMES[0], 1: NAMES[2]}
    assert carried.moved == 2
    assert carried.permutation().tolist() == [2, 0, 1, 3]


def test_a_cluster_that_is_mostly_something_else_gets_no_name() -> None:
    old, new = _ints(0, 0, 0, 0, 1, 1, 1, 1), _ints(0, 1, 2, 2, 1, 1, 1, 1)
    carried = identity.match(old, new, (2, 3), overlap=0.6)
    assert [(p.old, p.new) for p in carried.pairs] == [(1, 1)]
    assert carried.permutation().tolist() == [0, 1, 2]
    assert carried.labels({0: NAMES[0]}) == {}


def test_fewer_clusters_than_before() -> None:
    carried = identity.match(_ints(0, 1, 2, 2), _ints(0, 0, 1, 1), (3, 2))
    assert sorted(carried.permutation().tolist()) == [0, 1]
    assert [(p.old, p.new) for p in carried.pairs if p.old == 2] == [(2, 1)]


@given(st.permutations(range(5)), st.integers(0, 2**32 - 1))
def test_the_same_clusters_in_another_order_are_found_again(order: list[int], seed: int) -> None:
    old = np.concatenate((np.arange(5), np.random.default_rng(seed).integers(0, 5, 50)))
    new = np.array(order)[old]
    carried = identity.match(old, new, (5, 5))
    assert carried.moved == 0
    assert carried.permutation().tolist() == list(order)
    back = np.argsort(carried.permutation())
    assert np.array_equal(back[new], old)


def test_assignments_of_other_windows_are_refused() -> None:
    with pytest.raises(DataSetError, match="2 old and 1 new assignments"):
        identity.match(_ints(0, 1), _ints(0), (2, 2))


@pytest.fixture
def two(tmp_path: Path) -> tuple[Package, Package, Path]:
    """A package, the same with its centres in another order and unnamed but for one, and windows."""
    made = trained()
    old = export(replace(made, labels=NAMES), tmp_path / "old")
    order = torch.tensor([1, 2, 0])
    new = export(replace(made, head=Head(made.head.centres[order]), labels={2: Label(name="mine")}), tmp_path / "new")
    x = np.random.default_rng(5).standard_normal((60, 64, 1)).astype(np.float32)
    data = DataSet(x, np.array(["A.B..EHZ"] * 60), np.arange(60), 50.0)
    dataset.save(data, tmp_path / "data.npz")
    return old, new, tmp_path / "data.npz"


def test_training_that_goes_on_keeps_the_ids(two: tuple[Package, Package, Path]) -> None:
    old, _, data = two
    windows = dataset.load(data)
    before = identity.assignments(old, windows)
    turned = np.array([2, 0, 1])[before]

    class Found:
        centres = torch.zeros(3, 5)

        def assign(self, r_nd: torch.Tensor) -> torch.Tensor:
            return torch.from_numpy(turned)[: len(r_nd)]

    x = normalise(windows.x, old.spec.normalisation)
    arrange = identity.keeping(old, lambda rows: x if rows is None else x[rows.numpy()])
    assert arrange(Found(), torch.zeros(60, 5), torch.arange(60) < 60) == arrange(Found(), torch.zeros(60, 5), None)
    order = arrange(Found(), torch.zeros(60, 5), None)
    present = set(before.tolist())
    assert [order[k] for k in sorted(present)] == [[2, 0, 1][k] for k in sorted(present)]


def test_what_was_only_put_in_another_order_moved_nothing(two: tuple[Package, Package, Path]) -> None:
    old, new, data = two
    carried = identity.compare(old, new, data)
    assert carried.moved == 0
    assert {(p.old, p.new) for p in carried.pairs} <= {(1, 0), (2, 1), (0, 2)}
    text = identity.report(carried, old, new)
    assert "0 of 60 windows (0.0 %) changed their cluster." in text
    assert "| 0 blast |" in text


def test_the_report_tells_where_lost_clusters_went(two: tuple[Package, Package, Path]) -> None:
    old, new, _ = two
    carried = identity.match(_ints(0, 0, 0, 0, 1, 1), _ints(0, 1, 2, 2, 1, 1), (3, 3), overlap=0.6)
    text = identity.report(carried, old, new)
    assert "| 0 blast | 4 | not found again (2: 2, 0: 1, 1: 1) | | |" in text
    assert "| 2 drill | 0 | had no window | | |" in text
    assert "| (none) | | 0 | 1 | |" in text
    assert "4 of 6 windows (66.7 %) changed their cluster." in text


def test_the_command_names_what_nobody_has_named_yet(two: tuple[Package, Package, Path], here: Here) -> None:
    old, new, data = two
    sha256 = new.sha256
    done = here("model", "carry-labels", old.folder, new.folder, "--data", data)
    assert (done.returncode, done.stderr) == (0, "")
    assert "0 of 60 windows" in done.stdout
    after = package.load(new.folder)
    assert after.sha256 == sha256
    assert after.labels[2] == Label(name="mine")
    found = {p.new: p.old for p in identity.compare(old, after, data).pairs}
    if 1 in found:
        assert after.labels[1] == NAMES[2]


def test_windows_of_another_shape_are_one_sentence(
    two: tuple[Package, Package, Path], tmp_path: Path, here: Here
) -> None:
    old, new, data = two
    windows = dataset.load(data)
    dataset.save(replace(windows, x=windows.x[:, :50]), tmp_path / "short.npz")
    done = here("model", "carry-labels", old.folder, new.folder, "--data", tmp_path / "short.npz")
    assert done.returncode == 1
    assert "windows are 50 samples x 1 channels at 50 Hz; model" in done.stderr
    assert "expects 64 x 1 at 50 Hz" in done.stderr
    assert json.loads((new.folder / "labels.json").read_text())["2"]["name"] == "mine"
    shutil.rmtree(new.folder)
    done = here("model", "carry-labels", old.folder, new.folder, "--data", data)
    assert done.returncode == 1
    assert "no such folder" in done.stderr


def test_train_goes_on_from_a_package_with_its_ids_and_names(tmp_path: Path, here: Here) -> None:
    dataset.save(data_set(60), tmp_path / "d.npz")
    common = ("--data", tmp_path / "d.npz", "--device", "cpu", "--runs", tmp_path / "runs", "--clusters", 2)
    tiny = ("--epochs-pretrain", 0, "--epochs-finetune", 0)
    first, again = tmp_path / "first", tmp_path / "again"
    assert here("train", "--out", first, *common, *tiny).returncode == 0
    package.write_labels(first, {0: Label(name="zero"), 1: Label(name="one")})
    done = here("train", "--out", again, "--init", first, "--seed", 3, *common, *tiny)
    assert done.returncode == 0, done.stderr
    assert "windows (" in done.stdout
    carried = identity.compare(package.load(first), package.load(again), tmp_path / "d.npz")
    assert all(pair.old == pair.new for pair in carried.pairs)
    assert {k: label.name for k, label in package.load(again).labels.items()} == {
        pair.new: ("zero", "one")[pair.old] for pair in carried.pairs
    }
    assert carried.pairs
