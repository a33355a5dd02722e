"""A journal to a data set: what belongs together, and one sentence for what does not."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from made_messages import detection, detection_message
from made_site import Here, write_settings

from tscc_stream import package
from tscc_stream.edges.sqlite import JournalFile
from tscc_stream.learn import dataset, from_journal
from tscc_stream.learn.dataset import DataSetError
from tscc_stream.messages import Message, read_only
from tscc_stream.stages.publish import ModelIdentity, Publish

DEMO = package.load(package.find("models/demo"))
RUTFORD = package.load(package.find("models/rutford"))


def _message(number: int, made_by: package.Package = DEMO, samples: int = 500) -> Message:
    x = read_only(np.random.default_rng(number).standard_normal((samples, 1)).astype(np.float32))
    publish = Publish("site", ModelIdentity(made_by.spec.name, made_by.spec.version, made_by.sha256))
    at = {"uid": f"u-{number}", "onset_ns": (100 - number) * 10**9}
    return publish.detection(detection(waveform=x, normalised=x, **at))


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "journal.sqlite"


def test_windows_of_the_latest_shape_in_order_of_onset(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with JournalFile(path) as journal:
        journal.remember_model(RUTFORD.sha256, RUTFORD.document)
        journal.append([_message(1, RUTFORD), _message(2, RUTFORD)])
        journal.remember_model(DEMO.sha256, DEMO.document)
        journal.append([_message(n) for n in range(3, 9)])
        journal.append([_message(9, samples=400), replace(_message(10), band_passed=None)])
    data = from_journal.read(path)
    assert data.onset_ns.tolist() == [(100 - n) * 10**9 for n in range(8, 2, -1)]
    assert set(data.sid) == {"BW.UH1..SHZ"}
    expected = np.frombuffer(_message(8).band_passed or b"", "<f4").reshape(500, 1)
    assert np.array_equal(data.x[0], expected)
    assert sorted(record.getMessage().split(": ", 1)[1] for record in caplog.records) == [
        "1 windows left out: not as long as its model's windows",
        "2 windows left out: cut for another model's windows",
    ]
    dataset.save(data, path.with_name("out.npz"))
    again = dataset.load(path.with_name("out.npz"))
    assert again.cluster is not None
    assert again.model_sha256 is not None
    assert again.cluster.tolist() == [1] * 6
    assert again.peak_ratio is not None
    assert again.peak_ratio.tolist() == [json.loads(_message(n).body)["data"]["peak_ratio"] for n in range(8, 2, -1)]
    assert set(again.model_sha256.tolist()) == {DEMO.sha256}
    assert len(again.take(np.array([0, 2])).model_sha256) == 2


def test_windows_without_a_signal_are_left_out_and_counted(path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with JournalFile(path) as journal:
        journal.remember_model(DEMO.sha256, DEMO.document)
        flat = replace(_message(2), band_passed=np.full(500, 3.0, "<f4").tobytes())
        journal.append([_message(1), flat, _message(3)])
    data = from_journal.read(path)
    assert data.onset_ns.tolist() == [97 * 10**9, 99 * 10**9]
    assert "1 windows left out: a channel of theirs is constant" in caplog.text


def test_journals_that_no_data_set_can_be_made_of(path: Path) -> None:
    with pytest.raises(DataSetError, match="no such file; expected the state folder"):
        from_journal.read(path)
    with JournalFile(path) as journal:
        with pytest.raises(DataSetError, match="no model has served"):
            from_journal.read(path)
        journal.remember_model(DEMO.sha256, DEMO.document)
        with pytest.raises(DataSetError, match="holds no window"):
            from_journal.read(path)
        journal.append([replace(detection_message(1), band_passed=None)])
        with pytest.raises(DataSetError, match="holds no window"):
            from_journal.read(path)
        journal.remember_model("ab", json.dumps({"format": 7}).encode())
        with pytest.raises(DataSetError, match=r"a stored model\.json is not valid"):
            from_journal.read(path)


def test_the_command_says_what_it_needs(tmp_path: Path, here: Here) -> None:
    done = here("dataset", "build", "--from", "journal", "--out", tmp_path / "x.npz")
    assert (done.returncode, done.stdout) == (2, "")
    assert "expected --state-dir DIR or --config FILE" in done.stderr
    path = write_settings(tmp_path)
    done = here("dataset", "build", "--from", "journal", "--config", path, "--out", tmp_path / "x.npz")
    assert done.returncode == 1
    assert "journal.sqlite: no such file" in done.stderr
    assert "Traceback" not in done.stderr
    assert not (tmp_path / "x.npz").exists()
