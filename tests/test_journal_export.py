"""`journal export` to QuakeML, CSV and miniSEED: what other programs read is what the journal holds and people said."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import obspy
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_journal import DEMO, make_journal, name_cluster, pipeline_messages, say
from made_messages import detection
from made_site import START_NS, finished, settings, write_settings
from obspy.io.quakeml.core import _validate

from tscc_stream import cli, config
from tscc_stream.apps import journal_formats, snippets
from tscc_stream.apps.journal_formats import SiteJournal, Wanted
from tscc_stream.edges.sqlite import JournalFile
from tscc_stream.messages import Message, read_only
from tscc_stream.package import Label
from tscc_stream.stages.journal import JournalError
from tscc_stream.stages.publish import ModelIdentity, Publish, iso_time

ODD = 'blast <b>&"\x07$x$'


@pytest.fixture(scope="module")
def messages(tmp_path_factory: pytest.TempPathFactory) -> list[Message]:
    return pipeline_messages(tmp_path_factory.mktemp("pipeline"))


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory, messages: list[Message]) -> Path:
    """A site whose people named a cluster, confirmed a detection, corrected another and rejected an event."""
    made = tmp_path_factory.mktemp("site")
    make_journal(made, messages)
    write_settings(made)
    detections, networks = bodies(messages, "detection"), bodies(messages, "network")
    first = detections[0]["data"]["cluster"]["id"]
    name_cluster(made, first, Label(name=ODD, colour="#123456", event_type="rock burst"))
    say(made, detections[0]["id"], ODD, agrees=True)
    say(made, detections[1]["id"], "crusher", agrees=False)
    say(made, networks[1]["id"], "noise", agrees=False)
    return made


def bodies(messages: list[Message], kind: str) -> list[dict[str, Any]]:
    return [json.loads(one.body) for one in messages if one.kind == kind]


def run(capsys: pytest.CaptureFixture[str], folder: Path, *options: object) -> tuple[int, str, str]:
    given_options = [str(option) for option in options]
    status = cli.main(["journal", "export", "--config", str(folder / "site.yaml"), *given_options])
    said = capsys.readouterr()
    return status, said.out, said.err


def test_quakeml_is_valid_and_says_what_people_said(
    folder: Path, messages: list[Message], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    path = tmp_path / "out.xml"
    status, _, err = run(capsys, folder, "--format", "quakeml", "--out", path)
    assert (status, err) == (0, f"tscc-stream: {len(messages)} messages\n")
    assert _validate(str(path))
    catalogue = obspy.read_events(str(path), format="QUAKEML")
    detections, networks = bodies(messages, "detection"), bodies(messages, "network")
    assert len(catalogue) == len(networks)
    picks = {str(pick.resource_id).rpartition("/")[2]: pick for event in catalogue for pick in event.picks}
    assert set(picks) == {body["id"] for body in detections}
    for body in detections:
        pick = picks[body["id"]]
        assert pick.time.ns // 1000 == body["data"]["onset_ns"] // 1000
        assert pick.waveform_id.get_seed_string() == "XX." + body["subject"][8] + "..HHZ"
        assert any(DEMO.sha256 in comment.text for comment in pick.comments)
        assert any("membership" in comment.text for comment in pick.comments)
    evaluations = [(picks[body["id"]].evaluation_mode, picks[body["id"]].evaluation_status) for body in detections[:2]]
    assert evaluations == [("manual", "confirmed"), ("manual", "reviewed")]
    assert 'blast <b>&"?$x$' in picks[detections[0]["id"]].comments[0].text
    assert "mara at" in picks[detections[1]["id"]].comments[-1].text
    by_id = {str(event.resource_id).rpartition("/")[2]: event for event in catalogue}
    rejected = by_id[networks[1]["id"]]
    assert (rejected.event_type, rejected.event_type_certainty) == ("not existing", "known")
    assert {(pick.evaluation_mode, pick.evaluation_status) for pick in rejected.picks} == {("manual", "rejected")}
    untouched = by_id[networks[2]["id"]]
    assert (untouched.event_type_certainty, untouched.picks[0].evaluation_mode) == ("suspected", "automatic")
    named = detections[0]["data"]["cluster"]["id"]
    types = {by_id[b["id"]].event_type for b in networks[2:] if b["data"]["cluster"]["id"] == named}
    assert types <= {"rock burst"}


def test_csv_is_that_of_classify_with_what_people_said(
    folder: Path, messages: list[Message], capsys: pytest.CaptureFixture[str]
) -> None:
    status, out, _ = run(capsys, folder, "--format", "csv")
    rows = list(csv.DictReader(io.StringIO(out)))
    assert status == 0
    assert [row["id"] for row in rows] == [message.uid for message in messages]
    by_id = {row["id"]: row for row in rows}
    detections = bodies(messages, "detection")
    first, second = by_id[detections[0]["id"]], by_id[detections[1]["id"]]
    assert (first["name"], first["verdict"], first["agrees"], first["judged_by"]) == (ODD, ODD, "True", "mara")
    assert (second["name"], second["agrees"], second["cluster"]) == (
        "crusher",
        "False",
        detections[1]["data"]["cluster"]["name"],
    )
    assert float(first["peak_amplitude"]) == detections[0]["data"]["peak_amplitude"]
    assert {row["peak_velocity_m_s"] for row in rows} == {""}


def test_a_time_and_a_name_choose(folder: Path, messages: list[Message], capsys: pytest.CaptureFixture[str]) -> None:
    middle = sorted(message.onset_ns for message in messages)[len(messages) // 2]
    parts = [
        run(capsys, folder, "--format", "csv", "--to", iso_time(middle))[1],
        run(capsys, folder, "--format", "csv", "--from", iso_time(middle))[1],
    ]
    rows = [list(csv.DictReader(io.StringIO(part))) for part in parts]
    assert sorted(row["id"] for part in rows for row in part) == sorted(message.uid for message in messages)
    assert all(int(row["onset_ns"]) < middle for row in rows[0])
    crusher = list(csv.DictReader(io.StringIO(run(capsys, folder, "--format", "csv", "--cluster", "crusher")[1])))
    assert [row["id"] for row in crusher] == [bodies(messages, "detection")[1]["id"]]
    last = run(capsys, folder, "--format", "csv", "--since", len(messages) - 1)[1]
    assert [row["id"] for row in csv.DictReader(io.StringIO(last))] == [messages[-1].uid]


def test_a_word_that_quakeml_does_not_know_is_not_reported_and_takes_nothing_away(
    messages: list[Message], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    make_journal(tmp_path, messages)
    write_settings(tmp_path)
    for cluster in range(DEMO.spec.clusters):
        name_cluster(
            tmp_path, cluster, Label(name=f"name {cluster}", event_type=("party", "Not Existing")[cluster % 2])
        )
    say(tmp_path, bodies(messages, "network")[0]["id"], "name 1", agrees=False)
    path = tmp_path / "out.xml"
    status, _, err = run(capsys, tmp_path, "--format", "quakeml", "--out", path)
    assert (status, err.splitlines()) == (
        0,
        [
            "tscc-stream: event type 'party' is none of QuakeML's, and is written as not reported",
            f"tscc-stream: {len(messages)} messages",
        ],
    )
    assert _validate(str(path))
    events = {event.event_descriptions[0].text: event for event in obspy.read_events(str(path), format="QUAKEML")}
    rejected = events.pop("name 1")
    assert (rejected.event_type, rejected.picks[0].evaluation_status) == ("not existing", "rejected")
    assert {event.event_type for event in events.values()} == {"not reported"}


def _picks(path: Path) -> dict[str, set[str]]:
    """By event, the detections that it has picks of."""
    return {
        str(event.resource_id).rpartition("/")[2]: {str(one.resource_id).rpartition("/")[2] for one in event.picks}
        for event in obspy.read_events(str(path), format="QUAKEML")
    }


def test_no_border_between_two_exports_tears_a_network_event_apart(
    folder: Path, messages: list[Message], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    whole = {body["id"]: set(body["data"]["detections"]) for body in bodies(messages, "network")}
    onsets = {message.uid: message.onset_ns for message in messages}
    torn = bodies(messages, "network")[1]["data"]["detections"]
    border = iso_time(sorted(onsets[uid] for uid in torn)[1])
    parts = []
    for name, options in (("first", ("--to", border)), ("second", ("--from", border))):
        path = tmp_path / f"{name}.xml"
        assert run(capsys, folder, "--format", "quakeml", *options, "--out", path)[0] == 0
        parts.append(_picks(path))
    assert all(parts)
    assert parts[0].keys().isdisjoint(parts[1])
    assert parts[0] | parts[1] == whole


def test_a_network_event_after_a_seq_has_its_earlier_detections(
    folder: Path, messages: list[Message], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    event = bodies(messages, "network")[1]
    members = event["data"]["detections"]
    after = next(place for place, message in enumerate(messages) if message.uid == event["id"])
    assert {message.uid for message in messages[:after]} & set(members)
    path = tmp_path / "later.xml"
    assert run(capsys, folder, "--format", "quakeml", "--since", after, "--out", path)[0] == 0
    assert _picks(path)[event["id"]] == set(members)


def test_windows_read_back_as_the_journal_holds_them(
    folder: Path, messages: list[Message], capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    status, _, err = run(capsys, folder, "--format", "mseed", "--out", tmp_path / "sds")
    windows = [message for message in messages if message.kind == "detection"]
    assert (status, err) == (0, f"tscc-stream: {len(windows)} windows\n")
    files = sorted(path.relative_to(tmp_path / "sds") for path in (tmp_path / "sds").rglob("*") if path.is_file())
    assert [str(path) for path in files] == [f"2023/XX/{c}/HHZ.D/XX.{c}..HHZ.D.2023.318" for c in "ABCD"]
    read = {
        (trace.stats.station, trace.stats.starttime.ns // 1000): trace
        for path in files
        for trace in obspy.read(str(tmp_path / "sds" / path))
    }
    assert len(read) == len(windows)
    for message in windows:
        window = json.loads(message.body)["data"]["window"]
        trace = read[message.sid[8], window["start_ns"] // 1000]
        assert trace.stats.sampling_rate == window["sample_rate_hz"]
        assert trace.data.dtype == np.float32
        assert trace.data.tobytes() == message.band_passed
    refused = run(capsys, folder, "--format", "mseed", "--out", tmp_path / "sds")
    assert refused[0] == 1
    assert "expected a new or an empty folder" in refused[2]


@given(starts=st.lists(st.integers(0, 30_000), min_size=1, max_size=12, unique=True), samples=st.integers(2, 1500))
def test_windows_that_overlap_stay_apart(starts: list[int], samples: int) -> None:
    """However they lie: obspy gives the very samples at each time, whatever it joins."""
    rng = np.random.default_rng(samples)
    written = {start: rng.standard_normal(samples).astype(np.float32) for start in starts}
    data = b"".join(record for start, x in written.items() for record in _one_record(start, x))
    stream = obspy.read(io.BytesIO(data), format="MSEED")
    found = [(trace.stats.starttime.ns - START_NS, trace.data) for trace in stream]
    for start, x in written.items():
        assert any(
            0 <= (place := (start * 10**6 - begin) // 20_000_000) <= len(all_) - samples
            and np.array_equal(all_[place : place + samples], x)
            for begin, all_ in found
        )


def _one_record(start_ms: int, samples: np.ndarray) -> list[bytes]:
    made = snippets.pack("FDSN:XX_A__H_H_Z", START_NS + start_ms * 10**6, 50.0, samples)
    assert len(made) == 1
    return made


def test_components_go_to_their_own_channels(tmp_path: Path) -> None:
    spec = DEMO.spec.model_copy(update={"channels": 3, "components": ("Z", "N", "E")})
    document = spec.model_dump_json().encode()
    x = read_only(np.random.default_rng(1).standard_normal((500, 3)).astype(np.float32))
    message = Publish("s", ModelIdentity("m", "1", "ab")).detection(detection(waveform=x, normalised=x))
    path = make_journal(tmp_path, [message])
    with JournalFile(path) as journal:
        journal.remember_model("ab", document)
    site = SiteJournal(path, config.parse(json.dumps(settings(tmp_path))), tmp_path)
    try:
        assert snippets.write_sds(site, Wanted(), tmp_path / "sds", lambda *_: None) == 1
    finally:
        site.close()
    for column, code in enumerate("ZNE"):
        folder = tmp_path / "sds" / "2010" / "BW" / "UH1" / f"SH{code}.D"
        (trace,) = obspy.read(str(folder / f"BW.UH1..SH{code}.D.2010.147"))
        assert np.array_equal(trace.data, x[:, column])


def test_options_that_contradict_one_another(folder: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    for options, sentence in (
        (("--format", "csv", "--topic", "network."), "expected only with --format json"),
        (("--from", "2026-01-01"), "expected only with --format quakeml, csv or mseed"),
        (("--format", "csv", "--from", "2026-01-02", "--to", "2026-01-01"), "expected later than --from 2026-01-02"),
        (("--format", "csv", "--from", "soon"), "expected ISO 8601"),
        (("--format", "mseed"), "expected --out DIR"),
    ):
        status, out, err = run(capsys, folder, *options)
        assert (status, out) == (2, ""), options
        assert sentence in err
    (tmp_path / "there").write_text("x")
    status, _, err = run(capsys, folder, "--format", "csv", "--out", tmp_path / "there")
    assert (status, "is there already" in err) == (2, True)
    assert (tmp_path / "there").read_text() == "x"


@pytest.mark.parametrize("ends", [JournalError("the disk is gone"), KeyboardInterrupt()])
def test_half_an_export_leaves_no_file(
    folder: Path,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    ends: BaseException,
) -> None:
    def half(_site: SiteJournal, _wanted: Wanted, out: TextIO, _update: object) -> int:
        out.write("id,onset\n" * 10_000)
        raise ends

    options, path = ("--format", "csv", "--out", tmp_path / "day.csv"), tmp_path / "day.csv"
    with monkeypatch.context() as broken:
        broken.setattr(journal_formats, "write_csv", half)
        assert run(capsys, folder, *options)[0] != 0
    assert not path.exists()
    assert run(capsys, folder, *options)[0] == 0
    assert path.stat().st_size > 0


def test_lines_of_json_are_as_before(folder: Path, messages: list[Message]) -> None:
    done = finished("journal", "export", "--state-dir", folder / "state", "--topic", "detection.")
    assert done.returncode == 0
    assert [json.loads(line)["id"] for line in done.stdout.splitlines()] == [
        message.uid for message in messages if message.kind == "detection"
    ]


def test_no_cell_of_csv_is_a_formula(tmp_path: Path, messages: list[Message]) -> None:
    """Names come from people, and spreadsheets carry out what begins so."""
    path = make_journal(tmp_path, messages)
    first, second, third = [message.uid for message in messages if message.kind == "detection"][:3]
    say(tmp_path, first, '=HYPERLINK("http://evil.example")', agrees=False, who="@SUM(A1)")
    say(tmp_path, second, "\t+1+cmd|' /C calc'!A0", agrees=False, who="-mara")
    say(tmp_path, third, "a = b", agrees=False, who="-5")
    site = SiteJournal(path, config.parse(json.dumps(settings(tmp_path))), tmp_path)
    out = io.StringIO()
    try:
        journal_formats.write_csv(site, Wanted(), out, lambda *_: None)
    finally:
        site.close()
    rows = {row["id"]: row for row in csv.DictReader(io.StringIO(out.getvalue()))}
    found = [(rows[uid]["verdict"], rows[uid]["judged_by"]) for uid in (first, second, third)]
    assert found == [
        ('\'=HYPERLINK("http://evil.example")', "'@SUM(A1)"),
        ("'\t+1+cmd|' /C calc'!A0", "'-mara"),
        ("a = b", "-5"),
    ]
    assert all(float(row["peak_ratio"]) > 0 for row in rows.values() if row["type"] == "detection")
