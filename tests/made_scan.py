"""Scans for tests: in this process or others, beside what `classify` makes of the same archive."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.dataset
from made_site import START_NS, write_settings

from tscc_stream import classifier, config, package
from tscc_stream.edges import archive
from tscc_stream.scan import run as scanning
from tscc_stream.scan.placement import Done, Hand, Task
from tscc_stream.source_id import to_nslc

MODEL = package.find("models/demo")
PART_HOURS = 0.01  # 36 s: five parts of 150 s
Rows = dict[str, dict[str, Any]]


class Here:
    """Placement in this process. fails: told of each task before it is done; what it returns is what comes of it."""

    room = 1

    def __init__(self, folder: Path, _workers: int = 1, fails: Callable[[Task], Done | None] = lambda _: None) -> None:
        self._hand, self._fails = Hand(folder), fails
        self._done: list[Done] = []
        self.tasks: list[Task] = []

    def submit(self, task: Task) -> None:
        self.tasks.append(task)
        self._done.append(self._fails(task) or self._hand.carry_out(task))

    def wait(self, _seconds: float) -> list[Done]:
        done, self._done = self._done, []
        return done

    def close(self) -> None:
        pass


@dataclass(frozen=True)
class Reference:
    """What classify makes of an archive: rows by uid."""

    detections: Rows
    network: Rows


def configured(folder: Path, **over: Any) -> config.Config:
    return config.load(write_settings(folder, **over))


def reference(paths: Sequence[Path], settings_: config.Config, model: Path = MODEL) -> Reference:
    one = classifier.Classifier(settings_, package.load_live(model))
    bodies = [json.loads(message.body) for message in classifier.messages_of(archive.index(paths), one)]
    kinds: dict[str, Rows] = {"tscc.detection.v1": {}, "tscc.network_event.v1": {}}
    for body in bodies:
        kinds[body["type"]][body["id"]] = body
    return Reference(*kinds.values())


def rows_of(folder: Path) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = pa.dataset.dataset(folder, format="parquet").to_table().to_pylist()
    return rows


def assert_equal(out: Path, expected: Reference) -> None:
    found = rows_of(out / "detections")
    assert sorted(row["id"] for row in found) == sorted(expected.detections)
    for row in found:
        assert_same_detection(row, expected.detections[row["id"]])
    events = rows_of(out / "network_events")
    assert sorted(row["id"] for row in events) == sorted(expected.network)
    for row in events:
        assert_same_event(row, expected.network[row["id"]])


def assert_same_detection(row: dict[str, Any], body: dict[str, Any]) -> None:
    data, cluster = body["data"], body["data"]["cluster"]
    assert row["sid"] == to_nslc(body["subject"])
    for name in ("onset_ns", "peak_ratio", "duration_s", "peak_amplitude", "quality"):
        assert row[name] == data[name], name
    assert (row["cluster"], row["cluster_name"], row["known"]) == (cluster["id"], cluster["name"], cluster["known"])
    assert np.abs(np.subtract(row["membership"], cluster["membership"])).max() < 1e-6
    assert row["model_sha256"] == data["model"]["sha256"]
    assert row["window_start_ns"] == data["window"]["start_ns"]
    assert f"{row['time']:%Y-%m-%dT%H:%M:%S.%fZ}" == body["time"]


def assert_same_event(row: dict[str, Any], body: dict[str, Any]) -> None:
    data = body["data"]
    assert row["channels"] == [to_nslc(sid) for sid in data["channels"]]
    for name in ("onset_ns", "duration_s", "detections"):
        assert row[name] == data[name], name
    assert dict(row["votes"]) == data["votes"]
    assert (row["cluster"], row["cluster_name"]) == (data["cluster"]["id"], data["cluster"]["name"])


def scan(
    paths: Sequence[Path],
    out: Path,
    settings_: config.Config,
    place: scanning.Place = Here,
    *,
    part_hours: float = PART_HOURS,
    workers: int = 1,
    model: Path = MODEL,
    windows: bool = False,
) -> int:
    options = scanning.Options(workers, part_hours, windows)
    return scanning.scan(list(paths), out, settings_, model, options, place)


def day_files(source: Path, folder: Path, seconds: float) -> Path:
    """The same records, cut by their start into files as days cut them, in the layout of SDS."""
    for record in archive.iter_raw(archive.index([source])):
        day = int((record.start_ns - START_NS) // (seconds * 1e9))
        network, station, location, channel = to_nslc(record.sid).split(".")
        path = (
            folder / "2023" / network / station / f"{channel}.D" / f"{network}.{station}.{location}.{channel}.D.{day}"
        )
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as file:
            file.write(record.payload)
    return folder
