"""Recordings in formats other than miniSEED (SAC, GSE2, ...), and QuakeML: the only place that imports obspy."""

from __future__ import annotations

import io
import warnings
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

import numpy as np

from tscc_stream.event_types import EVENT_TYPES, NOT_REPORTED, canonical
from tscc_stream.messages import AnyArray, Record, read_only
from tscc_stream.source_id import to_nslc


class FormatError(ValueError):
    """A file that no format known to obspy can read; the text says why, without the path."""


def read_recording(path: Path) -> list[Record]:
    """Every unbroken trace of a recording as one Record (at least one), in the file's order.

    Compressed files (.gz, .bz2, .zip, .tar) are read as well. Raises FormatError.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            stream = _obspy_read(str(path))
    except Exception as error:  # a format's reader may raise anything at all on a foreign file
        raise FormatError(_reason(error)) from error
    records = records_of(stream)
    if not records:
        raise FormatError("holds no samples")
    return records


def records_of(stream: Any) -> list[Record]:  # noqa: ANN401 obspy has no types
    """Every unbroken trace of an obspy Stream as one Record, in its order."""
    return [_record(trace) for trace in stream.split() if len(trace.data)]


def _obspy_read(path: str) -> Any:  # noqa: ANN401 obspy has no types
    import obspy  # noqa: PLC0415 takes a second, which only foreign formats are worth
    from obspy.core.util.base import ENTRY_POINTS  # noqa: PLC0415  # loaded where it is needed

    ENTRY_POINTS["waveform"].pop("PICKLE", None)  # reading a pickle runs whatever code its author put in
    return obspy.read(path)


def _reason(error: Exception) -> str:
    if isinstance(error, TypeError) and "Unknown format" in str(error):
        return "neither miniSEED nor any other format that obspy knows"
    first_line = (str(error).splitlines() or [""])[0]
    return f"obspy cannot read it: {type(error).__name__}: {first_line:.200}"


def _record(trace: Any) -> Record:  # noqa: ANN401 obspy has no types
    stats = trace.stats
    sid = f"FDSN:{stats.network}_{stats.station}_{stats.location}_{_channel(stats.channel)}"
    samples = read_only(_samples(np.asarray(trace.data)))
    return Record(sid, int(stats.starttime.ns), float(stats.sampling_rate), samples)


def _channel(code: str) -> str:
    """`SHZ` -> `S_H_Z`; other lengths keep their letters where band, source and subsource would stand."""
    return f"{code[:1]}_{code[1:2]}_{code[2:]}"


def _samples(data: AnyArray) -> AnyArray:
    """In one of the three types of a Record, without a change of value."""
    if data.dtype.kind in "iu":
        narrow = data.astype(np.int32)
        return narrow if np.array_equal(narrow, data) else data.astype(np.float64)
    return data.astype(np.float32 if data.dtype.itemsize <= 4 else np.float64)


@dataclass(frozen=True, slots=True)
class Meaning:
    """What a detection or network event is. event_type: QuakeML's; status: what a person made of it, None where
    nobody looked; note: who and when.
    """

    name: str
    event_type: str
    status: Literal["confirmed", "reviewed", "rejected"] | None = None
    note: str = ""


def quakeml(
    bodies: Sequence[Mapping[str, Any]],
    meaning_of: Callable[[Mapping[str, Any]], Meaning],
    complain: Callable[[str], None],
) -> str:
    """Messages (detections, and network events with their last word) as QuakeML 1.2.

    One event per network event, with a pick per detection of it; a detection that belongs to none is an event of its
    own. No origins: nothing here locates. meaning_of: body -> what it is. Where a person has looked, the type is
    certain, and the picks have that evaluation. complain: told once of each event type that QuakeML does not
    know, which is written as not reported.
    """
    from obspy.core.event import Catalog, ResourceIdentifier  # noqa: PLC0415 takes a second, for this output alone

    detections = {body["id"]: body for body in bodies if body["type"] == "tscc.detection.v1"}
    networks = [body for body in bodies if body["type"] == "tscc.network_event.v1"]
    alone = dict.fromkeys(detections)
    unknown: set[str] = set()

    def in_quakeml(body: Mapping[str, Any]) -> Meaning:
        meaning = meaning_of(body)
        if (known := canonical(meaning.event_type)) is None:
            unknown.add(meaning.event_type)
        return replace(meaning, event_type=known or NOT_REPORTED)

    events = []
    for body in networks:
        members = [detections[uid] for uid in body["data"]["detections"] if uid in detections]
        events.append(_event(body, members, in_quakeml))
        for member in members:
            alone.pop(member["id"], None)
    events += [_event(detections[uid], [detections[uid]], in_quakeml) for uid in alone]
    for word in sorted(unknown):
        complain(f"event type {word!r:.80} is none of QuakeML's, and is written as {NOT_REPORTED}")
    written = io.BytesIO()
    identity = ResourceIdentifier("smi:tscc-stream/catalogue")
    Catalog(events=events, resource_id=identity).write(written, format="QUAKEML")
    return written.getvalue().decode()


def _event(
    body: Mapping[str, Any], members: list[Mapping[str, Any]], meaning_of: Callable[[Mapping[str, Any]], Meaning]
) -> Any:  # noqa: ANN401 obspy is not typed
    from obspy.core.event import Event, EventDescription, ResourceIdentifier  # noqa: PLC0415  # loaded where it is needed

    meaning, uid = meaning_of(body), body["id"]
    votes = f"votes {body['data']['votes']}" if "votes" in body["data"] else "one channel"
    return Event(
        resource_id=ResourceIdentifier(f"smi:tscc-stream/event/{uid}"),
        event_type=meaning.event_type,
        event_type_certainty="known" if meaning.status else "suspected",
        event_descriptions=[EventDescription(text=_xml(meaning.name))],
        comments=[_comment(f"{uid}/votes", votes), *_notes(f"{uid}/event", meaning)],
        picks=[_pick(member, meaning_of(member), meaning) for member in members],
    )


def _pick(body: Mapping[str, Any], own: Meaning, of_event: Meaning) -> Any:  # noqa: ANN401 obspy is not typed
    """A person's word on the event holds for its picks, unless there is one on the pick."""
    from obspy import UTCDateTime  # noqa: PLC0415  # loaded where it is needed
    from obspy.core.event import Pick, ResourceIdentifier, WaveformStreamID  # noqa: PLC0415  # loaded where it is needed

    cluster, model, uid = body["data"]["cluster"], body["data"]["model"], body["id"]
    status = own.status or of_event.status
    membership = cluster["membership"][cluster["id"]]
    sure = "not a number" if membership is None else f"{membership:.3f}"
    unknown = "" if cluster["known"] else f", unknown; nearest is cluster {cluster['id']}"
    return Pick(
        resource_id=ResourceIdentifier(f"smi:tscc-stream/pick/{uid}"),
        time=UTCDateTime(ns=body["data"]["onset_ns"]),
        waveform_id=WaveformStreamID(seed_string=to_nslc(body["subject"])),
        evaluation_mode="manual" if status else "automatic",
        evaluation_status=status,
        comments=[
            _comment(f"{uid}/cluster", f"cluster {own.name}, membership {sure}{unknown}"),
            _comment(f"{uid}/model", f"model {model['name']} {model['version']}, sha256 {model['sha256']}"),
            *_notes(f"{uid}/pick", own),
        ],
    )


def _notes(about: str, meaning: Meaning) -> list[Any]:
    return [_comment(f"{about}/verdict", meaning.note)] if meaning.note else []


def _comment(about: str, text: str) -> Any:  # noqa: ANN401 obspy is not typed
    from obspy.core.event import Comment, ResourceIdentifier  # noqa: PLC0415  # loaded where it is needed

    return Comment(text=_xml(text), resource_id=ResourceIdentifier(f"smi:tscc-stream/comment/{about}"))


def _xml(text: str) -> str:
    """Without the characters that XML cannot hold: names come from people."""
    return "".join(character if character.isprintable() else "?" for character in text)


def event_types() -> list[str]:
    """The event types that QuakeML 1.2 knows."""
    return list(EVENT_TYPES)
