"""Another model without a restart: every window once, by one model; refusals by name; back in one command."""

from __future__ import annotations

import json
import os
import shutil
import signal
from pathlib import Path
from typing import Any

import pytest
from made_site import BURSTS_S, CHANNELS, Here, finished, make_archive, serving, write_settings
from test_daemon import daemon, get, listen, take, until

from tscc_stream import activation, package
from tscc_stream.learn.export import annotate
from tscc_stream.package import Label

DETECTIONS = len(BURSTS_S) * len(CHANNELS)
DEMO = package.find("models/demo")
LABELS = {cluster: Label(name=f"kind {cluster}") for cluster in range(package.load(DEMO).spec.clusters)}


@pytest.fixture(scope="module")
def archive_of_four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_archive(tmp_path_factory.mktemp("four"))


@pytest.fixture(scope="module")
def other(tmp_path_factory: pytest.TempPathFactory) -> package.Package:
    """A package that is not the shipped one, with the same windows."""
    folder = tmp_path_factory.mktemp("models") / "other"
    shutil.copytree(DEMO, folder)
    return annotate(folder, metrics={"other": 1}, labels=LABELS)


def _state(path: Path) -> Path:
    return Path(json.loads(path.read_text())["state_dir"])


def _swap(where: dict[str, Any], state: Path, source: Path) -> None:
    made = activation.install(source, state)
    activation.activate(state, made.sha256[:12])
    os.kill(where["pid"], signal.SIGHUP)


def _answer(subscriber: Any, **data: Any) -> dict[str, Any]:
    found: dict[str, Any] = until(subscriber, "status.model.", **data).body["data"]
    return found


def test_a_swap_under_load_loses_no_window_and_classifies_none_twice(
    archive_of_four: Path, other: package.Package, tmp_path: Path
) -> None:
    before = package.load(DEMO).sha256
    server, address = serving(archive_of_four, "--speed", "6")
    path = write_settings(tmp_path, address)
    with server, daemon(path) as (running, where), listen(where) as everything:
        seen = []
        while not any(m.topic.startswith("detection.") for m in seen):
            seen += take(everything, 1)
        _swap(where, _state(path), other.folder)
        while sum(m.topic.startswith("detection.") for m in seen) < DETECTIONS:
            seen += take(everything, 1)
        assert f'name="demo",sha256="{other.sha256}"' in get(where, "/metrics")
        assert running.stop() == 0
    assert [m.seq for m in seen] == list(range(1, len(seen) + 1))
    detections = [m.body for m in seen if m.topic.startswith("detection.")]
    assert len({body["id"] for body in detections}) == DETECTIONS
    shas = [body["data"]["model"]["sha256"] for body in detections]
    switch = shas.index(other.sha256)
    assert shas == [before] * switch + [other.sha256] * (DETECTIONS - switch)
    names = {body["data"]["cluster"]["name"] for body in detections[switch:]}
    assert names <= {"unknown", *(label.name for label in LABELS.values())}
    [told] = [m.body["data"] for m in seen if m.topic == "status.model."]
    assert (told["state"], told["sha256"], told["before"]) == ("active", other.sha256, before)


def test_activate_rollback_and_a_restart(other: package.Package, tmp_path: Path, here: Here) -> None:
    path = write_settings(tmp_path)
    state = _state(path)
    with daemon(path) as (running, where), listen(where) as everything:
        done = here("model", "activate", other.folder, "--config", path)
        assert (done.returncode, done.stderr) == (0, "")
        assert f"process {where['pid']}) has taken it over" in done.stdout
        assert _answer(everything, state="active")["sha256"] == other.sha256
        assert running.stop() == 0
    with daemon(path) as (running, where), listen(where, since=None) as everything:
        running.wait_for(f"models/{other.sha256[:12]} is active")
        assert other.sha256 in get(where, "/metrics")
        os.kill(where["pid"], signal.SIGHUP)
        done = here("model", "rollback", "--state-dir", state)
        assert (done.returncode, done.stderr) == (0, "")
        assert "the configuration's model: active again" in done.stdout
        assert package.load(DEMO).sha256 in get(where, "/metrics")
        done = here("model", "rollback", "--state-dir", state)
        assert (done.returncode, done.stdout) == (1, "")
        assert "no model was active before this one" in done.stderr
    done = here("model", "activate", other.folder, "--state-dir", state)
    assert "from the next start (no daemon runs there)" in done.stdout


def _tampered(folder: Path) -> None:
    with (folder / "encoder.ts").open("ab") as file:
        file.write(b"\0")


def test_what_may_not_serve_is_refused_by_name_and_the_old_one_goes_on(
    archive_of_four: Path, other: package.Package, tmp_path: Path, here: Here
) -> None:
    server, address = serving(archive_of_four, "--speed", "max")
    path = write_settings(tmp_path, address)
    state, sha256 = _state(path), package.load(DEMO).sha256
    with server, daemon(path) as (_, where), listen(where) as everything:
        done = here("model", "activate", "models/rutford", "--config", path)
        assert (done.returncode, done.stdout) == (1, "")
        assert "its windows are not those being cut: sample_rate_hz 250.0 instead of 50.0" in done.stderr
        done = here("model", "activate", "models/rutford", "--state-dir", state)  # nothing to compare with here
        assert done.returncode == 1
        assert "the daemon goes on with the model it had" in done.stderr
        assert "sample_rate_hz 250.0 instead of 50.0" in done.stderr
        refused = _answer(everything, state="refused")
        assert (refused["role"], refused["sha256"]) == ("live", sha256)
        assert activation.chosen(state) == activation.Choice()
        made = activation.install(other.folder, state)
        _tampered(made.folder)
        activation.activate(state, made.sha256[:12])
        os.kill(where["pid"], signal.SIGHUP)
        assert "encoder.ts was changed" in _answer(everything, state="refused")["reason"]
        (state / activation.ACTIVE_FILE).write_text("{")
        os.kill(where["pid"], signal.SIGHUP)
        assert "not what `model activate` writes" in _answer(everything, state="refused")["reason"]
        assert sha256 in get(where, "/metrics")
        with listen(where, "detection.") as detections:
            found = take(detections, DETECTIONS)
        assert {m.body["data"]["model"]["sha256"] for m in found} == {sha256}


def test_a_broken_active_model_is_one_sentence_that_says_how_to_go_back(other: package.Package, tmp_path: Path) -> None:
    path = write_settings(tmp_path)
    state = _state(path)
    state.mkdir()
    made = activation.install(other.folder, state)
    activation.activate(state, made.sha256[:12])
    _tampered(made.folder)
    done = finished("run", "--config", path)
    assert done.returncode == 1
    assert "encoder.ts was changed" in done.stderr
    assert "`tscc-stream model rollback` returns to the one before" in done.stderr
    assert "Traceback" not in done.stderr
    assert finished("model", "rollback", "--state-dir", state).returncode == 0
    with daemon(path):
        pass
