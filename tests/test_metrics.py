"""Every family that dashboards and alerts are written against is there from the start, and promtool finds no fault."""

from __future__ import annotations

import math
import re
import shutil
import subprocess

import numpy as np
import pytest
from in_time import PATIENCE_S
from prometheus_client import CollectorRegistry, generate_latest

from tscc_stream import __version__, metrics
from tscc_stream.messages import Record
from tscc_stream.metrics import Metrics

CONTRACT = {
    "tscc_samples_total": "counter",
    "tscc_last_sample_timestamp_seconds": "gauge",
    "tscc_gaps_total": "counter",
    "tscc_records_rejected_total": "counter",
    "tscc_seedlink_connected": "gauge",
    "tscc_seedlink_reconnects_total": "counter",
    "tscc_triggers_total": "counter",
    "tscc_windows_dropped_total": "counter",
    "tscc_detections_total": "counter",
    "tscc_unknown_total": "counter",
    "tscc_network_events_total": "counter",
    "tscc_queue_depth": "gauge",
    "tscc_batch_size": "histogram",
    "tscc_stage_seconds": "histogram",
    "tscc_sample_to_publish_seconds": "histogram",
    "tscc_journal_head_seq": "gauge",
    "tscc_replay_requests_total": "counter",
    "tscc_replay_refused_total": "counter",
    "tscc_bus_refused_total": "counter",
    "tscc_model_info": "gauge",
    "tscc_drift_score": "gauge",
    "tscc_build_info": "gauge",
    "tscc_cluster_info": "gauge",
    "tscc_healthy": "gauge",
    "tscc_state_free_bytes": "gauge",
    "process_resident_memory_bytes": "gauge",
    "process_start_time_seconds": "gauge",
}


@pytest.fixture
def made() -> Metrics:
    return Metrics(CollectorRegistry())


def used(made: Metrics) -> str:
    """A scrape after every family was used once."""
    made.channels.took(Record("FDSN:A_B__E_H_Z", 1_001_000_000, 1000.0, np.zeros(500, np.int32)))
    made.gaps["FDSN:A_B__E_H_Z"].inc()
    made.records_rejected["crc"].inc()
    made.seedlink_connected["127.0.0.1:18000"].set(1)
    made.seedlink_reconnects["127.0.0.1:18000"].inc()
    made.triggers.inc()
    made.windows_dropped["gap"].inc()
    made.detections["1"].inc()
    made.unknown.inc()
    made.queue_depth["front"].set(3)
    made.batch_size.observe(8)
    made.stage_seconds["infer"].observe(0.003)
    made.sample_to_publish_seconds.observe(0.2)
    made.journal_head_seq.set(9)
    made.replay_requests.inc()
    made.replay_refused["peer_rate"].inc()
    made.bus_refused["unknown_key"].inc()
    made.set_model("demo", "1", "ab")
    made.set_drift({"all": float("nan"), "1": 0.5})
    return generate_latest(made.registry).decode()


def test_every_family_is_there_before_anything_happened(made: Metrics) -> None:
    text = generate_latest(made.registry).decode()
    types = dict(re.findall(r"^# TYPE (\S+) (\S+)$", text, re.MULTILINE))
    assert {name: types.get(name) for name in CONTRACT} == CONTRACT
    assert f'tscc_build_info{{python="{".".join(map(str, __import__("sys").version_info[:3]))}"' in text
    assert f'version="{__version__}"' in text


def test_labels_and_values(made: Metrics) -> None:
    text = used(made)
    for line in (
        'tscc_samples_total{sid="FDSN:A_B__E_H_Z"} 500.0',
        'tscc_last_sample_timestamp_seconds{sid="FDSN:A_B__E_H_Z"} 1.5',
        'tscc_gaps_total{sid="FDSN:A_B__E_H_Z"} 1.0',
        'tscc_records_rejected_total{reason="crc"} 1.0',
        'tscc_seedlink_connected{server="127.0.0.1:18000"} 1.0',
        'tscc_seedlink_reconnects_total{server="127.0.0.1:18000"} 1.0',
        'tscc_windows_dropped_total{reason="gap"} 1.0',
        'tscc_detections_total{cluster="1"} 1.0',
        'tscc_queue_depth{stage="front"} 3.0',
        'tscc_stage_seconds_count{stage="infer"} 1.0',
        'tscc_batch_size_bucket{le="8.0"} 1.0',
        'tscc_model_info{name="demo",sha256="ab",version="1"} 1.0',
        'tscc_drift_score{cluster="1"} 0.5',
        "tscc_journal_head_seq 9.0",
    ):
        assert line in text.splitlines()


def test_a_channel_of_before_a_restart_keeps_its_time_until_it_sends(made: Metrics) -> None:
    made.channels.awaited({"FDSN:A_B__E_H_Z": 1_250_000_000, "dead": 1_000_000_000})
    made.channels.took(Record("FDSN:A_B__E_H_Z", 1_001_000_000, 1000.0, np.zeros(500, np.int32)))
    text = generate_latest(made.registry).decode()
    assert re.findall(r"^tscc_(?:samples|last_sample)_.*", text, re.MULTILINE) == [
        'tscc_samples_total{sid="FDSN:A_B__E_H_Z"} 500.0',
        'tscc_last_sample_timestamp_seconds{sid="FDSN:A_B__E_H_Z"} 1.5',
        'tscc_last_sample_timestamp_seconds{sid="dead"} 1.0',
    ]


def test_channels_of_before_a_restart_are_not_without_end_either(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "MOST_CHILDREN", 3)
    few = Metrics(CollectorRegistry())
    few.channels.awaited({f"channel-{number}": 1_000_000_000 for number in range(10)})
    few.channels.took(Record("new", 1_001_000_000, 1000.0, np.zeros(500, np.int32)))
    text = generate_latest(few.registry).decode()
    assert re.findall(r'^tscc_last_sample.*"(.+)"', text, re.MULTILINE) == [
        "channel-0", "channel-1", "channel-2", "other"
    ]  # fmt: skip


def test_drift_is_nan_until_it_is_known(made: Metrics) -> None:
    value = made.registry.get_sample_value("tscc_drift_score", {"cluster": "all"})
    assert value is not None
    assert math.isnan(value)


def test_only_the_model_in_use_is_shown(made: Metrics) -> None:
    made.set_model("old", "1", "ab")
    made.set_model("new", "2", "cd")
    text = generate_latest(made.registry).decode()
    assert 'tscc_model_info{name="new",sha256="cd",version="2"} 1.0' in text
    assert 'name="old"' not in text


def test_clusters_have_the_names_of_now(made: Metrics) -> None:
    made.set_clusters({"0": "noise", "1": "cluster 1"})
    made.set_clusters({"0": "noise", "1": "blast"})
    text = generate_latest(made.registry).decode()
    assert re.findall(r"^tscc_cluster_info{(.*)} 1.0$", text, re.MULTILINE) == [
        'cluster="0",name="noise"', 'cluster="1",name="blast"', 'cluster="unknown",name="unknown"'
    ]  # fmt: skip


def test_a_server_cannot_grow_a_family_without_end(made: Metrics, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(metrics, "MOST_CHILDREN", 3)
    for number in range(10):
        made.gaps[f"channel-{number}"].inc()
    assert set(made.gaps) == {"channel-0", "channel-1", "channel-2", "other"}
    assert made.registry.get_sample_value("tscc_gaps_total", {"sid": "other"}) == 7.0


def test_two_daemons_in_one_process_do_not_share(made: Metrics) -> None:
    other = Metrics(CollectorRegistry())
    made.triggers.inc()
    assert other.registry.get_sample_value("tscc_triggers_total") == 0.0


def test_a_channel_costs_few_lines(made: Metrics) -> None:
    """No histogram per channel: what a scrape costs is its number of lines (timings belong to the bench)."""
    before = len(generate_latest(made.registry).splitlines())
    for number in range(100):
        sid = f"FDSN:XX_S{number:04d}__E_H_Z"
        made.channels.took(Record(sid, 1_700_000_000_000_000_000, 100.0, np.zeros(100, np.int32)))
        made.gaps[sid].inc()
    assert len(generate_latest(made.registry).splitlines()) - before <= 6 * 100


@pytest.mark.skipif(shutil.which("promtool") is None, reason="promtool is not installed")
def test_promtool_finds_no_fault(made: Metrics) -> None:
    done = subprocess.run(
        ["promtool", "check", "metrics"],
        input=used(made),
        capture_output=True,
        text=True,
        timeout=PATIENCE_S,
        check=False,
    )
    complaints = [line for line in done.stderr.splitlines() if "_created" not in line]
    assert complaints == []
