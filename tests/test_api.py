"""The public interface: quick to import, the same results as the commands, and the examples of docs/api.md."""

from __future__ import annotations

import io
import json
import re
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import numpy as np
import obspy
import pytest
from in_time import PATIENCE_S
from made_archive import channel, write
from made_messages import detection
from made_site import CHANNELS, ODD_SID, add_odd_channel, make_archive, settings

import tscc_stream
from tscc_stream import classifier, config, package
from tscc_stream.client import SubscriberError
from tscc_stream.config import ConfigError, PublishConfig
from tscc_stream.edges.archive import ArchiveError
from tscc_stream.edges.sqlite import JournalFile, JournalReader
from tscc_stream.edges.zeromq import Bus
from tscc_stream.stages.publish import ModelIdentity, Publish

ROOT = Path(__file__).parents[1]
HEAVY = ("torch", "obspy", "numpy", "numba", "zmq", "pydantic", "rich", "matplotlib")


@pytest.fixture(scope="module")
def archive_of_four(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_archive(tmp_path_factory.mktemp("four") / "archive")


@pytest.fixture(scope="module")
def known(tmp_path_factory: pytest.TempPathFactory) -> config.Config:
    return config.parse(json.dumps(settings(tmp_path_factory.mktemp("state"))))


@pytest.fixture(scope="module")
def printed(archive_of_four: Path, known: config.Config) -> list[dict[str, object]]:
    """What the command says."""
    out = io.StringIO()
    classifier.classify([archive_of_four], known, package.find(known.model), "jsonl", out)
    return [json.loads(line) for line in out.getvalue().splitlines()]


def test_importing_loads_nothing_else() -> None:
    text = f"import sys, tscc_stream; dir(tscc_stream); print([name for name in {HEAVY!r} if name in sys.modules])"
    done = subprocess.run([sys.executable, "-c", text], capture_output=True, text=True, check=True, timeout=PATIENCE_S)
    assert done.stdout == "[]\n"


def test_every_public_name_is_there_and_stays_callable(archive_of_four: Path, known: config.Config) -> None:
    stub = (ROOT / "tscc_stream" / "__init__.pyi").read_text()
    assert set(re.findall(r" as (\w+)", stub)) == set(tscc_stream.__all__) - {"__version__"}
    for name in tscc_stream.__all__:
        assert getattr(tscc_stream, name)
    tscc_stream.classify(archive_of_four, config=known)
    assert callable(tscc_stream.classify)  # and no module of that name has taken its place
    with pytest.raises(AttributeError, match="has no attribute 'nothing'"):
        tscc_stream.nothing  # noqa: B018  # looking it up is the test


def test_the_same_as_the_command_says(
    archive_of_four: Path, known: config.Config, printed: list[dict[str, object]]
) -> None:
    result = tscc_stream.classify([archive_of_four], config=known)
    detections = [body for body in printed if body["type"] == "tscc.detection.v1"]
    assert [one.id for one in result] == [body["id"] for body in detections]
    assert [one.id for one in result.network_events] == [
        body["id"] for body in printed if body["type"] == "tscc.network_event.v1"
    ]
    for one, body in zip(result, detections, strict=True):
        data = json.loads(json.dumps(body["data"]))
        row = one.to_dict()
        assert row["membership"] == tuple(data["cluster"]["membership"])
        assert (row["cluster"], row["cluster_id"], row["known"], row["p_value"]) == (
            *(data["cluster"]["name"], data["cluster"]["id"]),
            *(data["cluster"]["known"], data["cluster"]["p_value"]),
        )
        assert [row[name] for name in ("onset_ns", "peak_ratio", "duration_s", "peak_amplitude")] == [
            data[name] for name in ("onset_ns", "peak_ratio", "duration_s", "peak_amplitude")
        ]
        assert row["time"] == datetime.fromisoformat(str(body["time"]))
    assert (len(result), result[0], result.left_out) == (len(detections), result.detections[0], {})
    assert result.network_events[0].to_dict()["channels"][0].startswith("XX.")


def test_data_in_memory_give_the_same(archive_of_four: Path, known: config.Config) -> None:
    expected = tscc_stream.classify(str(archive_of_four), config=known)
    traces = tscc_stream.read(archive_of_four)
    assert tscc_stream.classify(traces, config=known) == expected
    stream = obspy.Stream([trace.to_obspy() for trace in traces])
    assert tscc_stream.classify(stream, config=known) == expected
    one = tscc_stream.classify(stream[0], config=known)
    assert {detection.channel for detection in one} == {traces[0].channel}


def test_traces_are_what_obspy_reads(tmp_path: Path) -> None:
    made = [
        channel("FDSN:XX_AAA__H_H_Z", seed=1),
        channel("FDSN:XX_BBB_00_H_H_Z", seed=2, encoding="float32", length=4096),
    ]
    later = channel("FDSN:XX_AAA__H_H_Z", seed=3, start_ns=made[0].start_ns + 40 * 10**9)
    folder = write(tmp_path / "a", [*made, later])
    traces = tscc_stream.read([folder])
    stream = obspy.read(str(folder / "*")).merge(-1).sort()
    assert [trace.channel for trace in traces] == ["XX.AAA..HHZ", "XX.AAA..HHZ", "XX.BBB.00.HHZ"]
    for trace, theirs in zip(traces, stream, strict=True):
        assert trace.samples.dtype == theirs.data.dtype
        assert np.array_equal(trace.samples, theirs.data)
        assert trace.start_ns // 1000 == theirs.stats.starttime.ns // 1000
        assert (trace.to_obspy().id, trace.sample_rate_hz) == (theirs.id, theirs.stats.sampling_rate)
        assert not trace.samples.flags.writeable
    assert traces[0].start == datetime(2010, 1, 1, 0, 0, 0, 123456, tzinfo=UTC)


def test_a_source_id_that_names_no_channel_is_read_and_left_out_by_it(tmp_path: Path, known: config.Config) -> None:
    folder = make_archive(tmp_path / "a", channels=CHANNELS[:1])
    add_odd_channel(folder)
    traces = tscc_stream.read(folder)
    assert [trace.channel for trace in traces] == [CHANNELS[0], ODD_SID]
    assert traces[1].to_obspy().stats.station == ODD_SID
    found = tscc_stream.classify(folder, config=known)
    assert list(found.left_out) == [ODD_SID]
    assert {one.channel for one in found} == {CHANNELS[0]}
    with pytest.raises(ArchiveError, match=f"a trace cannot be used: channel '{ODD_SID}'"):
        tscc_stream.classify(traces, config=known)


def test_errors_are_sentences(tmp_path: Path, archive_of_four: Path) -> None:
    trace = tscc_stream.read(archive_of_four)[0]
    (tmp_path / "site.yaml").write_text("trigger: {sta_seconds: -1.0}")
    for given, sentence, kind in (
        ({"data": tmp_path / "none"}, "no such file or folder", ArchiveError),
        ({"data": [trace, "archive"]}, "expected paths, or traces, not some of both", ArchiveError),
        ({"data": obspy.Stream()}, "the traces: no recording found", ArchiveError),
        ({"data": archive_of_four, "model": "models/none"}, "no such folder", package.PackageError),
        ({"data": archive_of_four, "config": tmp_path / "site.yaml"}, "line 1: trigger.sta_seconds", ConfigError),
    ):
        with pytest.raises(kind, match=sentence):
            tscc_stream.classify(**given)
    with pytest.raises(SubscriberError, match="no daemon runs there"):
        tscc_stream.subscribe(state_dir=tmp_path)
    with pytest.raises(SubscriberError, match="expected the daemon's two addresses, or its state_dir"):
        tscc_stream.subscribe("tcp://127.0.0.1:1")


def test_the_examples_of_the_documentation(
    archive_of_four: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "docs" / "api.md").read_text(), re.DOTALL)
    assert len(blocks) == 7
    monkeypatch.chdir(archive_of_four.parent)
    path = tmp_path / "journal.sqlite"
    with JournalFile(path) as journal:
        journal.append([Publish("test", ModelIdentity("demo", "1", "ab")).detection(detection())])
        namespace: dict[str, object] = {}
        publish = PublishConfig(bind="tcp://127.0.0.1:0", replay_bind="tcp://127.0.0.1:0")
        bus = Bus(publish, "test", JournalReader(path))
        bus.start()
        where = {"publish": bus.endpoint, "replay": bus.replay_endpoint}
        monkeypatch.setattr("tscc_stream.activation.endpoints", lambda _: where)
        try:
            for block in blocks:
                exec(compile(block, "docs/api.md", "exec"), namespace)  # noqa: S102  # the document is our own
        finally:
            bus.stop()
    said = capsys.readouterr().out
    assert "XX.A..HHZ 2023-11-14 22:13:20+00:00 100.0 15000" in said
    assert said.splitlines()[-1] == "1 FDSN:BW_UH1__S_H_Z microseismic"
