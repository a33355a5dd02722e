"""`classify`: files through the pipeline; the same however they were packed, and through a socket as well."""

from __future__ import annotations

import csv
import io
import json
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from made_site import BURSTS_S, CHANNELS, ODD_SID, START_NS, add_odd_channel, make_archive, settings

from tscc_stream import classifier, config, package
from tscc_stream.edges.archive import ArchiveError
from tscc_stream.edges.seedlink_socket import Arrival, Emitted, SeedLinkReader
from tscc_stream.messages import Message, Record, RecordBatch
from tscc_stream.serve.replay import ReplayOptions
from tscc_stream.serve.server import ReplayServer, ServerOptions

PACKINGS = [
    {"record_length": 256, "encoding": "steim1"},
    {"record_length": 512, "encoding": "steim2"},
    {"record_length": 4096, "encoding": "int32"},
    {"record_length": 1024, "encoding": "float32"},
    {"record_length": 256, "encoding": "steim2", "version": 3},
    {"record_length": 4096, "encoding": "float32", "version": 3},
]


def _config(folder: Path, **over: Any) -> config.Config:
    return config.parse(json.dumps(settings(folder, **over)))


def _rows(paths: list[Path], folder: Path, output: classifier.Output = "jsonl", **over: Any) -> str:
    out = io.StringIO()
    assert classifier.classify(paths, _config(folder, **over), package.find("models/demo"), output, out) == 0
    return out.getvalue()


def _outcome(body: dict[str, Any]) -> tuple[str, int]:
    return body["id"], body["data"]["cluster"]["id"]


@pytest.fixture(scope="module")
def archive_of_four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_archive(tmp_path_factory.mktemp("four"))


@pytest.fixture(scope="module")
def bodies(archive_of_four: Path, tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    text = _rows([archive_of_four], tmp_path_factory.mktemp("state"))
    return [json.loads(line) for line in text.splitlines()]


def test_every_burst_is_found_on_every_channel_and_by_the_network(bodies: list[dict[str, Any]]) -> None:
    onsets = sorted(b["data"]["onset_ns"] for b in bodies if b["type"] == "tscc.detection.v1")
    expected = sorted(int(START_NS + (s + 0.31 * n) * 1e9) for s in BURSTS_S for n in range(len(CHANNELS)))
    assert len(onsets) == len(expected)
    assert np.abs(np.array(onsets) - expected).max() < 0.3e9
    events = [b for b in bodies if b["type"] == "tscc.network_event.v1"]
    assert [len(e["data"]["channels"]) for e in events] == [len(CHANNELS)] * len(BURSTS_S)
    uids = {b["id"] for b in bodies if b["type"] == "tscc.detection.v1"}
    assert all(set(e["data"]["detections"]) <= uids and e["data"]["final"] for e in events)


def test_rows_come_in_order_of_time(bodies: list[dict[str, Any]]) -> None:
    onsets = [body["data"]["onset_ns"] for body in bodies]
    assert onsets == sorted(onsets)


@pytest.mark.parametrize("packing", PACKINGS, ids=lambda p: "-".join(str(v) for v in p.values()))
def test_the_packing_changes_nothing(packing: dict[str, Any], bodies: list[dict[str, Any]], tmp_path: Path) -> None:
    text = _rows([make_archive(tmp_path / "packed", **packing)], tmp_path)
    assert_same(bodies, [json.loads(line) for line in text.splitlines()])


@pytest.mark.parametrize("packing", PACKINGS, ids=lambda p: "-".join(str(v) for v in p.values()))
def test_a_socket_changes_nothing(packing: dict[str, Any], bodies: list[dict[str, Any]], tmp_path: Path) -> None:
    records = _through_a_socket(make_archive(tmp_path / "packed", **packing), tmp_path)
    one = classifier.Classifier(_config(tmp_path), package.load(package.find("models/demo")))
    expected = {record.sid: START_NS for record in records}
    batches = [RecordBatch.of([record]) for record in records]
    assert_same(bodies, [json.loads(m.body) for m in one.run(batches, expected.items())])


def _through_a_socket(archive: Path, folder: Path) -> list[Record]:
    records: list[Record] = []
    options = ServerOptions(ReplayOptions("max"), once=True)
    with ReplayServer(classifier.archive.index([archive]), options=options) as server:
        host, port = server.address

        def emit(item: Emitted) -> None:
            if isinstance(item, Arrival):
                records.extend(item.records)
                assert not item.rejected
            elif not item.connected:  # type: ignore[union-attr]  # our own server sends no notices
                reader.stop()

        reader = SeedLinkReader(_config(folder, server=f"{host}:{port}").seedlink[0], emit)
        reader.run()
    return records


def assert_same(one: list[dict[str, Any]], other: list[dict[str, Any]]) -> None:
    assert {_outcome(b) for b in one} == {_outcome(b) for b in other}
    memberships = {b["id"]: b["data"]["cluster"].get("membership") for b in one}
    for body in other:
        if body["type"] == "tscc.detection.v1":
            assert np.allclose(body["data"]["cluster"]["membership"], memberships[body["id"]], atol=1e-5)


@pytest.mark.parametrize("name", ["=HYPERLINK(1)", " +1+1", "@x", "-a", "blast", "-3"])
def test_no_cell_of_csv_is_a_formula(name: str) -> None:
    """As `journal export` has it."""
    body = {"id": name, "time": "t", "data": {"cluster": {"id": 1, "name": name}}}
    out = io.StringIO()
    message = Message("u", "detection", "detection.1.", json.dumps(body).encode(), 0, "FDSN:XX_A__H_H_Z")
    classifier._write_csv([message], out, package.load(package.find("models/demo")))
    (row,) = csv.DictReader(io.StringIO(out.getvalue()))
    expected = name if name in ("blast", "-3") else f"'{name}"
    assert (row["cluster"], row["id"]) == (expected, expected)


def test_csv_has_a_row_per_detection_and_network_event(
    bodies: list[dict[str, Any]], archive_of_four: Path, tmp_path: Path
) -> None:
    rows = list(csv.DictReader(io.StringIO(_rows([archive_of_four], tmp_path, "csv"))))
    assert [row["id"] for row in rows] == [body["id"] for body in bodies]
    network = next(row for row in rows if row["type"] == "network_event")
    assert network["channels"].split() == sorted(CHANNELS)
    detection = next(row for row in rows if row["type"] == "detection")
    assert detection["channel"] in CHANNELS
    assert float(detection["peak_ratio"]) >= 3.5


def test_quakeml_is_what_obspy_reads(bodies: list[dict[str, Any]], archive_of_four: Path, tmp_path: Path) -> None:
    obspy = pytest.importorskip("obspy")
    text = _rows([archive_of_four], tmp_path, "quakeml")
    catalogue = obspy.read_events(io.BytesIO(text.encode()), format="QUAKEML")
    networks = [body for body in bodies if body["type"] == "tscc.network_event.v1"]
    assert len(catalogue) == len(networks)
    assert sum(len(event.picks) for event in catalogue) == len(bodies) - len(networks)
    assert {pick.waveform_id.get_seed_string() for event in catalogue for pick in event.picks} == set(CHANNELS)


def test_an_event_type_that_quakeml_does_not_know_is_not_reported(
    archive_of_four: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    obspy = pytest.importorskip("obspy")
    odd = shutil.copytree(package.find("models/demo"), tmp_path / "odd")
    package.write_labels(odd, {cluster: package.Label(name="drill", event_type="party") for cluster in range(3)})
    out = io.StringIO()
    assert classifier.classify([archive_of_four], _config(tmp_path), odd, "quakeml", out) == 0
    catalogue = obspy.read_events(io.BytesIO(out.getvalue().encode()), format="QUAKEML")
    assert {event.event_type for event in catalogue} == {"not reported"}
    assert capsys.readouterr().err.count("event type 'party' is none of QuakeML's") == 1


def test_a_channel_that_the_model_refuses_is_named_and_the_rest_goes_on(
    archive_of_four: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    slow = make_archive(tmp_path / "slow", rate_hz=20.0, channels=("XX.SLOW..BHZ",))
    text = _rows([archive_of_four, slow], tmp_path)
    assert "XX.SLOW..BHZ left out: 20 Hz cannot hold the band" in capsys.readouterr().err
    assert sum('"tscc.detection.v1"' in line for line in text.splitlines()) == len(BURSTS_S) * len(CHANNELS)


def test_a_source_id_that_names_no_channel_is_left_out_and_said(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = make_archive(tmp_path / "a", channels=CHANNELS[:1])
    add_odd_channel(folder)
    text = _rows([folder], tmp_path)
    assert f"channel {ODD_SID} left out: source id" in capsys.readouterr().err
    assert sum('"tscc.detection.v1"' in line for line in text.splitlines()) == len(BURSTS_S)


def test_rubbish_within_a_file_is_skipped_and_said(
    archive_of_four: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    good = (archive_of_four / f"{CHANNELS[0]}.mseed").read_bytes()
    path = tmp_path / "torn.mseed"
    path.write_bytes(good[: 512 * 20] + b"\x00rubbish" * 64 + good[512 * 20 :])
    assert _rows([path], tmp_path)
    assert f"skipped: {path}" in capsys.readouterr().err


def test_a_path_that_is_no_recording_is_one_sentence(tmp_path: Path) -> None:
    path = tmp_path / "notes.txt"
    path.write_text("no recording at all")
    with pytest.raises(ArchiveError, match=r"notes\.txt"):
        _rows([path], tmp_path)
