"""What people said of detections: precision per cluster, labels of a data set, names in the package."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from made_journal import DEMO, make_journal, name_cluster, say
from made_messages import detection
from made_site import write_settings

from tscc_stream import cli, package, verdicts
from tscc_stream.edges.people import FILE, PeopleFile
from tscc_stream.learn import dataset, from_journal
from tscc_stream.learn.dataset import DataSetError
from tscc_stream.messages import Message, NetworkEvent, read_only
from tscc_stream.package import Label
from tscc_stream.stages.publish import ModelIdentity, Publish
from tscc_stream.verdicts import Verdict

PUBLISH = Publish("site", ModelIdentity("demo", "1", DEMO.sha256))
MINE, YOURS = Verdict("blast", False, "a", 1), Verdict("noise", True, "b", 2)


def _detection(number: int) -> Message:
    """Cluster 1, in the microseismic half of the numbers a decaying swing, else noise."""
    rng = np.random.default_rng(number)
    t = np.arange(500) / 50.0
    swing = 50.0 * np.where(t > 2, np.exp(-2 * (t - 2)) * np.sin(2 * np.pi * 5 * t), 0.0) if number % 2 else 0.0
    x = read_only((rng.standard_normal(500) + swing).astype(np.float32).reshape(500, 1))
    at = {"uid": f"u-{number}", "onset_ns": (1000 + 20 * number) * 10**9}
    return PUBLISH.detection(detection(waveform=x, normalised=x, **at))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Forty detections, one of which belongs to a network event with the next."""
    event = NetworkEvent(
        "network-1", 10**12, 1.0, ("FDSN:BW_UH1__S_H_Z",) * 2, ("u-38", "u-39"), {"x": 2}, 1, "x", final=True
    )
    make_journal(tmp_path, [*(_detection(number) for number in range(40)), PUBLISH.network_event(event)])
    write_settings(tmp_path)
    return tmp_path


def test_precision_with_wilsons_interval() -> None:
    found = verdicts.precision([("a", True)] * 9 + [("b", False)] + [("a", False)])
    assert list(found) == ["a", "b"]
    assert (found["a"].agreed, found["a"].judged, found["a"].share) == (9, 10, 0.9)
    assert (found["a"].low, found["a"].high) == pytest.approx((0.59585, 0.98212), abs=1e-5)
    assert (found["b"].low, found["b"].high) == pytest.approx((0.0, 0.79345), abs=1e-5)


@given(st.integers(0, 200), st.integers(1, 200))
def test_the_interval_holds_the_share_and_solves_wilsons_equation(agreed: int, judged: int) -> None:
    """Its ends are the p at which |share - p| is 1.96 standard deviations of the binomial with that p."""
    agreed = min(agreed, judged)
    found = verdicts.precision([("a", number < agreed) for number in range(judged)])["a"]
    assert 0.0 <= found.low <= found.share <= found.high <= 1.0
    for p in (found.low, found.high):
        if 0.0 < p < 1.0:
            assert abs(found.share - p) == pytest.approx(1.959964 * (p * (1 - p) / judged) ** 0.5, rel=1e-4)


def test_a_word_on_an_event_holds_for_its_detections_without_one_of_their_own() -> None:
    found = verdicts.over_members({"n": MINE, "b": YOURS}, [("n", ["a", "b"]), ("m", ["c"])])
    assert found == {"n": MINE, "a": MINE, "b": YOURS}


def test_a_verdict_that_cannot_be_read(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    assert verdicts.read(tmp_path) == {}
    people = PeopleFile(tmp_path / FILE)
    people.say("verdict", "u-1", {"name": "", "agrees": "yes"}, "x", 1)
    people.close()
    assert verdicts.read(tmp_path) == {}
    assert "the verdict on u-1 cannot be read, and is left out: expected a name, and agrees" in caplog.text


def test_a_verdict_that_was_taken_back_does_not_hold(tmp_path: Path) -> None:
    people = PeopleFile(tmp_path / FILE)
    blast, noise = ({"name": name, "agrees": name == "blast", "cluster": 1} for name in ("blast", "noise"))
    gone = {"name": "withdrawn", "agrees": False, "cluster": 1, "withdrawn": True, "undo": True}
    for uid, said in {"once": [blast, gone], "twice": [blast, noise, {**blast, "undo": True}], "again": [gone]}.items():
        for document in said:
            people.say("verdict", uid, document, "ann", 1)
    people.say("verdict", "again", noise, "bob", 2)
    people.close()
    assert verdicts.read(tmp_path) == {
        "twice": Verdict("blast", True, "ann", 1),
        "again": Verdict("noise", False, "bob", 2),
    }


def test_data_sets_hold_what_people_said(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    say(folder, "u-3", "blast", agrees=True)
    say(folder, "u-4", "drilling", agrees=False)
    say(folder, "u-4", "noise", agrees=False, who="later")
    say(folder, "network-1", "blast", agrees=True)
    say(folder, "u-39", "noise", agrees=False)
    say(folder, "gone", "noise", agrees=False)
    data = from_journal.read(folder / "state" / "journal.sqlite")
    assert data.verdict is not None
    said = {
        int(onset // 10**9 - 1000) // 20: str(name) for onset, name in zip(data.onset_ns, data.verdict, strict=True)
    }
    assert {number: name for number, name in said.items() if name} == {3: "blast", 4: "noise", 38: "blast", 39: "noise"}
    out = folder / "said.npz"
    site = ["--from", "journal", "--config", str(folder / "site.yaml"), "--out", str(out)]
    assert cli.main(["dataset", "build", *site]) == 0
    assert capsys.readouterr().out == f"{out}: 40 windows, people said what 4 of them are\n"
    assert dataset.load(out).y is None
    assert dataset.load(out).take(np.array([3])).verdict.tolist() == ["blast"]
    assert cli.main(["dataset", "build", *site, "--labels", "verdicts"]) == 0
    labelled = dataset.load(out)
    assert labelled.y is not None
    assert [labelled.y_names[k] for k in labelled.y] == ["blast", "noise", "blast", "noise"]
    assert labelled.verdict is not None


def test_without_a_word_there_is_nothing_to_judge_by(folder: Path) -> None:
    with pytest.raises(DataSetError, match="nobody has said what any window is"):
        dataset.by_verdict(from_journal.read(folder / "state" / "journal.sqlite"))


def test_a_model_is_judged_by_verdicts(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    for number in range(40):
        say(folder, f"u-{number}", "seismic event" if number % 2 else "noise", agrees=bool(number % 2))
    out = folder / "said.npz"
    site = ["--from", "journal", "--config", str(folder / "site.yaml"), "--out", str(out), "--labels", "verdicts"]
    assert cli.main(["dataset", "build", *site]) == 0
    report = folder / "report"
    assert cli.main(["evaluate", "--model", "models/demo", "--data", str(out), "--report", str(report)]) == 0
    assert json.loads((report / "report.json").read_text())["n"] == 40
    capsys.readouterr()


def test_precision_at_the_command_line(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    command = ["model", "precision", "--config", str(folder / "site.yaml")]
    assert cli.main(command) == 0
    assert capsys.readouterr().out == "nobody has confirmed or corrected a detection yet\n"
    name_cluster(folder, 1, Label(name="rock\x1bfall"))
    for number in range(4):
        say(folder, f"u-{number}", "rockfall", agrees=number > 0)
    say(folder, "gone", "x", agrees=True)
    say(folder, "network-1", "x", agrees=True)
    assert cli.main(command) == 0
    said = capsys.readouterr().out.splitlines()
    assert said[1].split() == [DEMO.sha256[:12], "rock?fall", "3", "of", "4", "75", "%", "30", "to", "95", "%"]
    assert said[2:] == ["1 verdicts are on detections that the journal no longer holds"]


def test_names_of_the_site_go_into_the_package(folder: Path, capsys: pytest.CaptureFixture[str]) -> None:
    copy = folder / "model"
    shutil.copytree(DEMO.folder, copy)
    command = ["model", "label", str(copy), "--from-site", "--config", str(folder / "site.yaml")]
    assert cli.main(command) == 2
    assert "nobody has named anything at this site yet" in capsys.readouterr().err
    name_cluster(folder, 1, Label(name="orepass 3", colour="#112233", event_type="other event"))
    name_cluster(folder, 77, Label(name="of another model"))
    assert cli.main(command) == 0
    assert capsys.readouterr().out == f"{copy}: cluster 1 is now orepass 3\n"
    again = package.load(copy)
    assert again.sha256 == DEMO.sha256
    assert again.labels == DEMO.labels | {1: Label(name="orepass 3", colour="#112233", event_type="other event")}
    for options in (["--cluster", "1"], ["--from-site"], ["--from-site", "--config", "x", "--name", "y"]):
        assert cli.main(["model", "label", str(copy), *options]) == 2
        assert "model label: expected" in capsys.readouterr().err
