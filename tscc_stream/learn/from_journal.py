"""A running site's journal to a data set: the windows of its detections, and what the live model said of them."""

from __future__ import annotations

import json
import logging
from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from tscc_stream import verdicts
from tscc_stream.edges.sqlite import JournalReader, StoredWindow
from tscc_stream.learn.dataset import NO_SIGNAL, DataSet, DataSetError, WindowShape, hold_signal, shape_of
from tscc_stream.messages import Float32Array
from tscc_stream.mistakes import first
from tscc_stream.package import PackageSpec
from tscc_stream.progress import Update, silent
from tscc_stream.source_id import to_nslc
from tscc_stream.verdicts import Verdict

_log = logging.getLogger(__name__)
_PAGE = 500
_NETWORK = "network-"  # uids of network events begin so


def read(path: Path, update: Update = silent) -> DataSet:
    """The stored windows before normalisation, in order of onset, beside a daemon that may be writing.

    All have the shape of those that the latest live model is given; windows of another shape, and those that hold no
    signal, are left out and counted in the log. cluster: of the nearest centre, also where the window was unknown;
    model_sha256: whose cluster that is. verdict: what people said of the detection, or of its network event. Raises
    DataSetError where nothing comes of it, JournalError and PeopleError where one of the files cannot be read.
    """
    if not path.is_file():
        raise DataSetError(f"journal {path}: no such file; expected the state folder of a daemon that has run")
    reader = JournalReader(path)
    try:
        shapes = {sha256: _shape(path, document) for sha256, document in reader.models().items()}
        if not shapes:
            raise DataSetError(f"journal {path}: no model has served since it keeps windows for data sets")
        wanted = list(shapes.values())[-1]
        kept, left_out = _kept(reader, shapes, wanted, update)
        said = _said(reader, path.parent)
    finally:
        reader.close()
    for reason, count in left_out.items():
        _log.warning("journal %s: %d windows left out: %s", path, count, reason)
    if not kept:
        raise DataSetError(f"journal {path}: holds no window that a data set can be made of")
    return _data_set(kept, wanted, said)


def _shape(path: Path, document: bytes) -> WindowShape:
    try:
        return shape_of(PackageSpec.model_validate_json(document))
    except ValidationError as error:
        raise DataSetError(f"journal {path}: a stored model.json is not valid: {first(error, 'file')}") from error


def _said(reader: JournalReader, state_dir: Path) -> dict[str, Verdict]:
    """Verdicts by the uid of the detection."""
    found = verdicts.read(state_dir)
    events = [reader.last_word(uid) for uid in found if uid.startswith(_NETWORK)]
    bodies = [json.loads(event.message.body) for event in events if event is not None]
    return verdicts.over_members(found, map(verdicts.members_of, bodies))


class _Kept:
    """One window with what its message says."""

    def __init__(self, stored: StoredWindow, shape: WindowShape, body: dict[str, Any]) -> None:
        data = body["data"]
        self.uid = str(body["id"])
        self.nslc, self.onset_ns = to_nslc(stored.sid), stored.onset_ns
        self.cluster, self.sha256 = int(data["cluster"]["id"]), str(data["model"]["sha256"])
        self.peak_ratio = float(data["peak_ratio"] or 0.0)
        samples = np.frombuffer(stored.band_passed, "<f4").astype(np.float32)
        self.x: Float32Array = samples.reshape(shape.samples, shape.channels)


def _kept(
    reader: JournalReader, shapes: dict[str, WindowShape], wanted: WindowShape, update: Update
) -> tuple[list[_Kept], Counter[str]]:
    kept: list[_Kept] = []
    left_out: Counter[str] = Counter()
    after, head = 0, reader.head()
    while page := reader.windows(after, _PAGE):
        after = page[-1].seq
        update(after, head)
        for stored in page:
            body = json.loads(stored.body)
            sha256 = body["data"]["model"]["sha256"]
            if shapes.get(sha256) != wanted:
                left_out["cut for another model's windows"] += 1
            elif len(stored.band_passed) != 4 * wanted.samples * wanted.channels:
                left_out["not as long as its model's windows"] += 1
            elif hold_signal((one := _Kept(stored, wanted, body)).x[np.newaxis])[0]:
                kept.append(one)
            else:
                left_out[NO_SIGNAL] += 1
    return kept, left_out


def _data_set(kept: list[_Kept], shape: WindowShape, said: Mapping[str, Verdict]) -> DataSet:
    return DataSet(
        x=np.stack([one.x for one in kept]),
        sid=np.array([one.nslc for one in kept]),
        onset_ns=np.array([one.onset_ns for one in kept], np.int64),
        sample_rate_hz=shape.sample_rate_hz,
        triggered=np.ones(len(kept), bool),
        window=shape,
        cluster=np.array([one.cluster for one in kept], np.int64),
        model_sha256=np.array([one.sha256 for one in kept]),
        peak_ratio=np.array([one.peak_ratio for one in kept], np.float32),
        verdict=np.array([said[one.uid].name if one.uid in said else "" for one in kept], dtype=str),
    ).in_time()
