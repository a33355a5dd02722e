"""Stored windows as miniSEED, in the layout of an SDS archive (https://www.seiscomp.de/doc/base/concepts/waveformarchives.html).

    YEAR/NET/STA/CHA.D/NET.STA.LOC.CHA.D.YEAR.DAY

What is written is what the journal holds: the window in the model's band and at the model's rate, in counts, float32.
It is not the raw recording. Every window is one record (more where it has over 16,000 samples), so that windows which
overlap stay apart; it lies in the file of the day on which it begins. Times are to the microsecond.
"""

from __future__ import annotations

import json
from collections import defaultdict
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import numpy as np

from tscc_stream import miniseed
from tscc_stream.apps.journal_formats import ExportError, SiteJournal, Wanted
from tscc_stream.apps.stored import Stored, first_after
from tscc_stream.edges.sqlite import StoredWindow
from tscc_stream.messages import Float32Array
from tscc_stream.package import EACH_CHANNEL, PackageSpec
from tscc_stream.progress import Update
from tscc_stream.source_id import split_component, to_nslc, with_component

_HEADER = 128
"""Bytes of a version 2 record before its samples, at most: fixed header and the blockettes that libmseed writes."""
_LONGEST = 65_536
_PAGE = 200


def write_sds(site: SiteJournal, wanted: Wanted, folder: Path, update: Update) -> int:
    """How many windows were written under a folder, which must be new or empty. Raises ExportError, JournalError."""
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise ExportError(f"{folder}: expected a new or an empty folder, so that no other archive is added to")
    after, head, count = max(wanted.since, first_after(site.reader, wanted.span_ns[0])), site.reader.head(), 0
    while page := site.reader.windows(after, _PAGE):
        after = page[-1].seq
        files: dict[Path, list[bytes]] = defaultdict(list)
        for stored in page:
            body = json.loads(stored.body)
            if _is_wanted(site, wanted, stored, body):
                count += 1
                for path, records in _records(site, stored, body):
                    files[path] += records
        _append(folder, files)
        update(after, head)
    return count


def _is_wanted(site: SiteJournal, wanted: Wanted, stored: StoredWindow, body: dict[str, Any]) -> bool:
    if not wanted.span_ns[0] <= stored.onset_ns < wanted.span_ns[1]:
        return False
    one = Stored(stored.seq, stored.sid, stored.onset_ns, body, body["data"]["model"]["sha256"])
    return not wanted.name or site.label(one).name == wanted.name


def _records(site: SiteJournal, stored: StoredWindow, body: dict[str, Any]) -> Iterator[tuple[Path, list[bytes]]]:
    """Of each of a window's channels: where in the layout, and what."""
    window, spec = body["data"]["window"], site.specs.get(body["data"]["model"]["sha256"])
    samples: Float32Array = np.frombuffer(stored.band_passed, "<f4").reshape(-1, window.get("channels", 1))
    for column, sid in enumerate(_sids(stored.sid, spec, samples.shape[1])):
        records = pack(sid, window["start_ns"], window["sample_rate_hz"], samples[:, column])
        yield sds_path(sid, window["start_ns"]), records


def pack(sid: str, start_ns: int, sample_rate_hz: float, samples: Float32Array) -> list[bytes]:
    """Samples [n] as one record of just enough bytes, or as several of the longest."""
    length = min(1 << (4 * len(samples) + _HEADER - 1).bit_length(), _LONGEST)
    return miniseed.encode(sid, start_ns, sample_rate_hz, samples, record_length=length, encoding="float32")


def _sids(sid: str, spec: PackageSpec | None, channels: int) -> list[str]:
    if channels == 1 or spec is None or spec.components == EACH_CHANNEL:
        return [sid]
    sensor, _ = split_component(sid)
    return [with_component(sensor, component) for component in spec.components]


def sds_path(sid: str, start_ns: int) -> Path:
    """Where in the layout a record that begins then lies."""
    name = to_nslc(sid)
    network, station, _, channel = name.split(".")
    day = datetime(1970, 1, 1, tzinfo=UTC) + timedelta(microseconds=start_ns // 1000)
    folder = Path(f"{day.year:04d}", network, station, f"{channel}.D")
    return folder / f"{name}.D.{day.year:04d}.{day.timetuple().tm_yday:03d}"


def _append(folder: Path, files: dict[Path, list[bytes]]) -> None:
    for place, records in files.items():
        path = folder / place
        path.parent.mkdir(parents=True, exist_ok=True)
        with path.open("ab") as out:
            out.writelines(records)
