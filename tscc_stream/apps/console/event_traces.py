"""The windows of one event side by side: samples, onsets, spectrograms; in counts, or in m/s."""

from __future__ import annotations

from base64 import b64encode
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import msgspec
import numpy as np
from pydantic import ValidationError

from tscc_stream.apps.console.spectrogram import RANGE_DB, as_bytes, spectrogram
from tscc_stream.apps.response import Responses
from tscc_stream.edges.journal_events import EventReader, StoredEvent
from tscc_stream.messages import Float32Array
from tscc_stream.package import EACH_CHANNEL, PackageSpec
from tscc_stream.source_id import to_nslc

_THUMBNAIL = 120

Document = dict[str, Any]


@dataclass(frozen=True, slots=True)
class _Window:
    """One detection's window [samples, channels]; in_counts: else as the encoder saw it, which has no unit."""

    event: StoredEvent
    data: Document
    samples: Float32Array
    in_counts: bool


def _windows(journal: EventReader, events: Sequence[StoredEvent]) -> list[_Window]:
    stored = journal.samples_of(event.seq for event in events)
    found = []
    for event in events:
        data = msgspec.json.decode(event.body)["data"]
        window = stored.get(event.seq)
        shape = data["window"]["samples"], data["window"].get("channels", 1)
        raw = None if window is None else window.band_passed or window.normalised
        if window is not None and raw is not None and len(raw) == 4 * shape[0] * shape[1]:
            samples = np.frombuffer(raw, "<f4").astype(np.float32).reshape(shape)
            found.append(_Window(event, data, samples, window.band_passed is not None))
    return found


def traces(
    journal: EventReader, events: Sequence[StoredEvent], origin_ns: int, responses: Responses | None
) -> tuple[list[Document], float]:
    """One a channel, times in seconds from origin_ns on, and the decibels of the brightest colour.

    responses: by which samples come in m/s where they have the channel; None: all stay in counts.
    The colours of all spectrograms of a page mean the same, unless some are in counts and others in m/s: then each unit
    has its own brightest.
    """
    specs = _specs(journal)
    made = [
        trace
        for window in _windows(journal, events)
        for trace in _of_window(window, origin_ns, specs.get(window.data["model"]["sha256"]), responses)
    ]
    tops: dict[str, float] = {}
    for trace in made:
        tops[trace["unit"]] = max(tops.get(trace["unit"], -np.inf), float(trace["db"].max()))
    for trace in made:
        db, top = trace.pop("db"), tops[trace["unit"]]
        trace["spectrogram"] |= {"top_db": top, "range_db": RANGE_DB, "picture": _text(as_bytes(db, top))}
    return made, max(tops.values(), default=0.0)


def _specs(journal: EventReader) -> Mapping[str, PackageSpec]:
    found = {}
    for sha256, document in journal.models().items():
        try:
            found[sha256] = PackageSpec.model_validate_json(document)
        except ValidationError:
            continue  # of a later version: its components are numbered instead of named
    return found


def _of_window(
    window: _Window, origin_ns: int, spec: PackageSpec | None, responses: Responses | None
) -> list[Document]:
    nslc, data = to_nslc(window.event.sid), window.data
    rate_hz = data["window"]["sample_rate_hz"]
    found = []
    for number in range(window.samples.shape[1]):
        channel = _channel(nslc, number, spec)
        samples, unit = _converted(window, number, channel, spec, responses)
        picture = spectrogram(samples, rate_hz)
        found.append(
            {
                "uid": window.event.uid,
                "channel": channel,
                "unit": unit,
                "start_s": (data["window"]["start_ns"] - origin_ns) / 1e9,
                "onset_s": (window.event.onset_ns - origin_ns) / 1e9,
                "end_s": (window.event.onset_ns - origin_ns) / 1e9 + (data["duration_s"] or 0.0),
                "rate_hz": rate_hz,
                "peak": float(np.abs(samples).max()),
                "samples": _text(samples.astype("<f4").tobytes()),
                "quality": data["quality"],
                "db": picture.db,
                "spectrogram": {
                    "rows": picture.db.shape[0],
                    "columns": picture.db.shape[1],
                    "first_s": picture.first_s,
                    "step_s": picture.step_s,
                    "step_hz": picture.step_hz,
                },
            }
        )
    return found


def _channel(nslc: str, number: int, spec: PackageSpec | None) -> str:
    """Of one component of a sensor's window, whose message names the first."""
    if spec is None or spec.components == EACH_CHANNEL:
        return nslc if number == 0 else f"{nslc} ({number + 1})"
    return nslc[:-1] + spec.components[number]


def _converted(
    window: _Window, number: int, channel: str, spec: PackageSpec | None, responses: Responses | None
) -> tuple[Float32Array, str]:
    samples: Float32Array = np.ascontiguousarray(window.samples[:, number])
    if not window.in_counts:
        return samples, "normalised"
    if spec is None or responses is None:
        return samples, "counts"
    per_count = responses.metres_per_second(channel, 1.0, window.event.onset_ns, spec.band_hz)
    return (samples, "counts") if per_count is None else ((samples * per_count).astype(np.float32), "m/s")


def _text(raw: bytes) -> str:
    return b64encode(raw).decode("ascii")


def thumbnails(journal: EventReader, events: Sequence[StoredEvent]) -> dict[str, list[int]]:
    """By uid: the first channel's window as lowest and highest value of each of 120 stretches, -100 to 100."""
    return {window.event.uid: _thumbnail(window.samples[:, 0]) for window in _windows(journal, events)}


def _thumbnail(samples: Float32Array) -> list[int]:
    scaled = 100.0 * samples / max(float(np.abs(samples).max()), 1e-30)
    pieces = np.array_split(scaled, min(_THUMBNAIL, len(scaled)))
    return [round(float(value)) for piece in pieces for value in (piece.min(), piece.max())]
