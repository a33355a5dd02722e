"""Through-the-stream scores: by hand on a few detections, and from files to report."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tscc_stream import cli, package
from tscc_stream.learn import stream_report, stream_scores, stream_truth
from tscc_stream.learn.stream_truth import Arrival, StreamTruthError

SECOND = 10**9
CHANNEL = "XX.A..HHZ"
SPAN = (0, 86_400 * SECOND)


def message(
    second: float, cluster: int, peak_ratio: float, *, known: bool = True, sid: str = "FDSN:XX_A__H_H_Z"
) -> str:
    data = {
        "onset_ns": round(second * SECOND),
        "peak_ratio": peak_ratio,
        "cluster": {"id": cluster, "membership": [0.5, 0.5], "known": known},
    }
    return json.dumps({"type": "tscc.detection.v1", "subject": sid, "data": data})


def arrival(second: float, kind: str = "microseismic", snr: float = 9.0, event: str = "") -> Arrival:
    at = round(second * SECOND)
    return Arrival(at, at + 2 * SECOND, CHANNEL, kind, event or f"{kind}{second}", snr)


def _judge(lines: list[str], arrivals: list[Arrival], **options: object) -> stream_scores.StreamReport:
    found = stream_scores.read_detections(lines)
    return stream_scores.judge_stream(found, arrivals, [CHANNEL], SPAN, **options)  # type: ignore[arg-type]  # of the type that is expected, by construction


def test_scores_by_hand() -> None:
    # ten events, of which eight are found; cluster 0 holds six of them and one of four noises
    events = [arrival(100 * k, snr=9.0 if k % 2 else 2.0) for k in range(1, 11)]
    lines = [message(100 * k + 1, 0 if k <= 6 else 1, 5.0 + k) for k in range(1, 9)]
    lines += [message(50 + 200 * k, 0 if k == 0 else 1, 50.0) for k in range(4)]
    lines.append(json.dumps({"type": "tscc.network_event.v1"}))
    report = _judge(lines, events)
    assert (report.detections, report.true_detections, report.arrivals) == (12, 8, 10)
    assert report.trigger_recall == pytest.approx(0.8)
    assert report.trigger_recall_clear == pytest.approx(0.8)
    assert report.event_recall == pytest.approx(0.8)
    assert report.kinds == {"microseismic": 8, "noise": 4}
    assert report.confusion == [[6, 2], [1, 3]]
    (step,) = report.steps
    assert (step.clusters, step.recall, step.precision) == (1, pytest.approx(6 / 8), pytest.approx(6 / 7))
    assert step.peak_ratio_precision == pytest.approx(6 / 10)  # the four noises are the loudest
    assert report.false_per_day_trigger == pytest.approx(4.0)
    assert report.false_per_day_clusters is None
    assert report.clustering.acc == pytest.approx(9 / 12)


def test_clusters_that_reach_the_recall_spare_false_alerts() -> None:
    events = [arrival(100 * k) for k in range(1, 11)]
    lines = [message(100 * k + 1, 0, 5.0) for k in range(1, 11)] + [message(100 * k + 50, 1, 9.0) for k in range(1, 7)]
    report = _judge(lines, events)
    assert (report.false_per_day_trigger, report.false_per_day_clusters) == (pytest.approx(6.0), pytest.approx(0.0))
    half_recorded = _judge(lines, events, recorded_ns=(SPAN[1] - SPAN[0]) // 2)
    assert half_recorded.false_per_day_trigger == pytest.approx(12.0)


def test_only_what_lies_within_the_span_counts() -> None:
    events = [arrival(100), arrival(200)]
    lines = [message(101, 0, 5.0), message(150, 1, 5.0), message(201, 0, 5.0)]
    found = stream_scores.read_detections(lines)
    report = stream_scores.judge_stream(found, events, [CHANNEL], (0, 160 * SECOND))
    assert (report.detections, report.true_detections, report.arrivals) == (2, 1, 1)
    assert report.days == pytest.approx(160 / 86_400)


def test_the_strongest_source_names_a_detection_and_unknown_windows_are_a_group_of_their_own() -> None:
    events = [arrival(10), arrival(11, "blast", snr=50.0), arrival(40)]
    lines = [message(11.5, 0, 5.0), message(40.5, 1, 5.0, known=False)]
    report = _judge(lines, events)
    assert report.kinds == {"blast": 1, "microseismic": 1, "noise": 0}
    assert report.trigger_recall == 1.0
    assert report.confusion == [[1, 0, 0], [0, 0, 1], [0, 0, 0]]
    assert stream_report.column_names(report) == ["cluster 0", "cluster 1", "unknown"]


def test_what_cannot_be_judged_is_said() -> None:
    with pytest.raises(StreamTruthError, match="no arrival of kind whale; the truth holds microseismic"):
        _judge([message(11, 0, 5.0)], [arrival(10)], target="whale")
    with pytest.raises(StreamTruthError, match="of which none belongs to kind microseismic"):
        _judge([message(50, 0, 5.0)], [arrival(10)])
    with pytest.raises(StreamTruthError, match="0 detections, of which none"):
        _judge([], [arrival(10)])
    with pytest.raises(StreamTruthError, match="line 2 of the detections"):
        stream_scores.read_detections([message(1, 0, 5.0), "{}"])


def test_both_kinds_of_table_are_read_and_others_refused(tmp_path: Path) -> None:
    mine, catalogue, other = (tmp_path / name for name in ("truth.csv", "events.csv", "other.csv"))
    mine.write_text(f"event_id,kind,channel,onset_ns,end_ns,snr\nb-1,blast,{CHANNEL},5000000000,9000000000,3.5\n")
    early = 5 * SECOND - stream_truth.EARLY_NS
    assert stream_truth.read(mine) == [Arrival(early, 9 * SECOND, CHANNEL, "blast", "b-1", 3.5)]
    catalogue.write_text("origin_utc,snr_A,p_utc_A\nx,4.0,1970-01-01T00:00:10.000001Z\n")
    (found,) = stream_truth.read(catalogue)
    assert found.first_ns + stream_truth.BEFORE_P_NS == 10 * SECOND + 1000
    assert (found.place, found.kind, found.snr) == ("A", "event", 4.0)
    assert stream_truth.within([found], [CHANNEL], SPAN) == [found]
    assert stream_truth.within([found], ["XX.B..HHZ"], SPAN) == []
    assert stream_truth.within([found], [CHANNEL], (0, 11 * SECOND)) == []
    other.write_text("a,b\n1,2\n")
    with pytest.raises(StreamTruthError, match="expected columns kind, channel"):
        stream_truth.read(other)
    mine.write_text(f"event_id,kind,channel,onset_ns,end_ns,snr\nb-1,blast,{CHANNEL},soon,9,3.5\n")
    with pytest.raises(StreamTruthError, match="not a table of truth"):
        stream_truth.read(mine)
    with pytest.raises(StreamTruthError, match="no such file"):
        stream_truth.read(tmp_path / "none.csv")


def test_from_a_simulated_mine_to_the_report(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    mine, out = tmp_path / "mine", tmp_path / "report"
    made = ["--channels", "2", "--seconds", "900", "--rate", "50", "--seed", "1001", "--out", str(mine)]
    assert cli.main(["simulate", *made]) == 0
    model = str(package.find("models/demo"))
    truth = str(mine / "truth.csv")
    assert cli.main(["evaluate", "--model", model, "--stream", str(mine), "--truth", truth, "--report", str(out)]) == 0
    text = capsys.readouterr().out
    later = ["--model", model, "--stream", str(mine), "--truth", truth, "--from-time", "2036-01-01"]
    assert cli.main(["evaluate", *later]) == 1
    assert "no arrival of kind" in capsys.readouterr().err
    assert cli.main(["evaluate", *later[:-1], "soon"]) == 2
    assert "--from-time soon: expected ISO 8601" in capsys.readouterr().err
    assert text == (out / "stream.md").read_text()
    found = json.loads((out / "stream.json").read_text())
    assert found["channels"] == 2
    assert found["days"] == pytest.approx(900 / 86_400, rel=1e-3)
    assert sum(found["kinds"].values()) == found["detections"] == np.array(found["confusion"]).sum()
    for name in ("stream_confusion.png", "stream_recall.png"):
        assert (out / name).read_bytes().startswith(b"\x89PNG")
