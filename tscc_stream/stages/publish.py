"""Detections, network events and status as messages on the bus; heartbeats; replay requests and their answers.

A message on the bus is multipart: topic, header, body, and for `waveform.` topics a fourth frame.

    topic    detection.<cluster id|unknown>.<NET.STA.LOC.CHA>.  network.<cluster id|unknown>.  status.<kind>.
             heartbeat.  waveform.detection.<...>. for the copy with the waveform
    header   {"epoch": "...", "seq": 123, "topic_seq": 17}
    body     JSON, UTF-8, with the attribute names of CloudEvents 1.0 (https://github.com/cloudevents/spec, v1.0.2)
    waveform [samples, channels] float32 little-endian, as the encoder saw it

Topics end in a dot, since ZeroMQ matches prefixes of bytes. A number that is not finite is null: JSON has no other way.

Replay. A request is one frame of JSON, `{"since": SEQ, "topic": "...", "limit": N}`: what was committed after SEQ with
a topic that begins so, at most N messages. Without "since" only the journal's state is wanted. The answer is multipart:

    frame 0  {"epoch", "oldest", "head", "heads", "through", "count", "complete", "frames"}
    then, for each of the `count` messages, `frames` frames as on the bus: 3, or 4 for topics under `waveform.`

`through`: every message that matches, up to this seq, has been given; asking again with it as "since" gives the next
page. `complete`: through has reached head. `oldest`: the first seq that the journal still holds (head + 1 where it
holds none). `heads`: last topic_seq per first two parts of the topic, at head. A page may be empty and not complete,
since one answer looks at a bounded stretch of the journal only. A bad request is answered with one frame,
`{"epoch", "error"}`; with "retry_after_s" nothing was wrong with it, and after so many seconds it may be sent again.
A REQ socket works, and so does a DEALER with or without an empty delimiter frame.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Annotated, Any

import msgspec
import numpy as np

from tscc_stream.messages import Committed, Detection, Float32Array, Message, NetworkEvent
from tscc_stream.sampling import offset_ns
from tscc_stream.source_id import to_nslc

WAVEFORM = "waveform."
HEARTBEAT_TOPIC = b"heartbeat."
REQUEST_BYTES = 4096
MOST_MESSAGES = 1000
KINDS = ("detection.", "network.", "status.")
_EPOCH_START = datetime(1970, 1, 1, tzinfo=UTC)
_encode = msgspec.json.Encoder().encode


@dataclass(frozen=True, slots=True)
class ModelIdentity:
    """Which model made an assignment; sha256 of its model.json."""

    name: str
    version: str
    sha256: str


class Header(msgspec.Struct, frozen=True):
    """Frame 1. epoch: which journal; seq: over all its messages; topic_seq: per first two parts of the topic."""

    epoch: str
    seq: int
    topic_seq: int


class ReplayState(msgspec.Struct, frozen=True):
    """Frame 0 of a replay answer, as described at the top of this file."""

    epoch: str
    oldest: int
    head: int
    heads: dict[str, int]
    through: int
    count: int
    complete: bool
    frames: int


class _Event(msgspec.Struct, frozen=True):
    """Frame 2, in the order in which it is written."""

    specversion: str
    type: str
    id: str
    source: str
    subject: str
    time: str
    data: Any


class RequestError(ValueError):
    """A replay request that cannot be answered: what was wrong and what was expected."""


class ReplayRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What a subscriber missed: everything after `since` whose topic begins with `topic`; None: only the state."""

    since: Annotated[int, msgspec.Meta(ge=0, le=2**63 - 1)] | None = None
    topic: Annotated[str, msgspec.Meta(max_length=200, pattern=r"\A[A-Za-z0-9._-]*\Z")] = ""
    limit: Annotated[int, msgspec.Meta(ge=1, le=MOST_MESSAGES)] = 500


@dataclass(frozen=True, slots=True)
class Page:
    """One stretch of the journal, read in one transaction. The fields are those of frame 0 of a replay answer."""

    oldest: int
    head: int
    heads: Mapping[str, int]
    through: int
    messages: tuple[Committed, ...]


def iso_time(time_ns: int) -> str:
    """UTC with six decimals, cut off, not rounded: 2010-05-27T16:24:33.210000Z."""
    moment = _EPOCH_START + timedelta(microseconds=time_ns // 1000)
    return moment.strftime("%Y-%m-%dT%H:%M:%S.%fZ")


def _finite(value: float) -> float | None:
    return float(value) if math.isfinite(value) else None


def _shortest(values: Float32Array) -> list[float | None]:
    """float32 as the shortest decimals that read back as the same float32: 0.98, not 0.9800000190734863."""
    return [_finite(float(str(value))) for value in values]


class Publish:
    """Writes messages in the name of one site and one model."""

    def __init__(self, site: str, model: ModelIdentity) -> None:
        self._source = f"/tscc-stream/{site}"
        self._model = {"name": model.name, "version": model.version, "sha256": model.sha256}

    def feed(self, item: Detection | NetworkEvent) -> list[Message]:
        """The message of a detection or of a network event."""
        return [self.detection(item) if isinstance(item, Detection) else self.network_event(item)]

    def detection(self, detection: Detection) -> Message:
        """Raises ValueError where the window's source id is none."""
        window, assignment = detection.assignment.window, detection.assignment
        cluster = str(assignment.cluster) if detection.known else "unknown"
        return Message(
            uid=window.uid,
            kind="detection",
            topic=f"detection.{cluster}.{to_nslc(window.sid)}.",
            body=self._body("tscc.detection.v1", window.uid, window.sid, window.onset_ns, self._data(detection)),
            onset_ns=window.onset_ns,
            sid=window.sid,
            tolerance_ns=offset_ns(1, window.stream_rate_hz) // 2,
            waveform=np.ascontiguousarray(window.normalised, dtype="<f4").tobytes(),
            received_ns=window.received_ns,
            band_passed=np.ascontiguousarray(window.waveform, dtype="<f4").tobytes(),
        )

    def _data(self, detection: Detection) -> dict[str, Any]:
        """`data` of a detection. cluster.id stays that of the nearest centre where the window is unknown.

        window.channels only where there are several.
        """
        assignment, window = detection.assignment, detection.assignment.window
        samples, channels = window.normalised.shape
        several = {"channels": channels} if channels > 1 else {}
        return {
            "onset_ns": window.onset_ns,
            "peak_ratio": _finite(window.peak_ratio),
            "duration_s": _finite(window.duration_s),
            "peak_amplitude": _finite(window.peak_amplitude),
            "window": {
                "start_ns": window.start_ns,
                "sample_rate_hz": window.sample_rate_hz,
                "samples": samples,
                **several,
            },
            "cluster": {
                "id": int(assignment.cluster),
                "name": detection.name,
                "membership": _shortest(assignment.membership),
                "known": detection.known,
                "p_value": None if detection.p_value is None else _finite(detection.p_value),
            },
            "model": self._model,
            "quality": list(window.quality),
            "late": detection.late,
        }

    def network_event(self, event: NetworkEvent) -> Message:
        """Early notice and last word have the same id and differ in `final`."""
        cluster = "unknown" if event.cluster_id is None else str(event.cluster_id)
        data = {
            "onset_ns": event.onset_ns,
            "duration_s": _finite(event.duration_s),
            "channels": list(event.channels),
            "detections": list(event.detections),
            "votes": dict(event.votes),
            "cluster": {"id": event.cluster_id, "name": event.cluster_name},
            "final": event.final,
        }
        return Message(
            uid=event.uid,
            kind="network",
            topic=f"network.{cluster}.",
            body=self._body("tscc.network_event.v1", event.uid, "network", event.onset_ns, data),
            onset_ns=event.onset_ns,
            final=event.final,
        )

    def status(self, kind: str, data: Mapping[str, Any], now_ns: int, about: str = "") -> Message:
        """What the daemon says of itself. kind: letters, digits and hyphens; now_ns: wall time, which makes the id.

        about: makes the id instead, for what is told once however often it is met.
        """
        if not kind.replace("-", "").isalnum() or not kind.isascii():
            raise ValueError(f"status kind {kind!r}: expected letters, digits and hyphens")
        uid = f"status-{kind}-{about or now_ns}"
        body = self._body("tscc.status.v1", uid, kind, now_ns, dict(data))
        return Message(uid=uid, kind="status", topic=f"status.{kind}.", body=body, onset_ns=now_ns)

    def _body(self, kind: str, uid: str, subject: str, time_ns: int, data: Mapping[str, Any]) -> bytes:
        return _encode(_Event("1.0", kind, uid, self._source, subject, iso_time(time_ns), data))


def heartbeat(site: str, epoch: str, head: int, heads: Mapping[str, int], now_ns: int) -> list[bytes]:
    """Frames of a heartbeat: the heads up to which messages were sent. It uses up no seq: its header has head's."""
    body = _Event(
        specversion="1.0",
        type="tscc.heartbeat.v1",
        id=f"heartbeat-{now_ns}",
        source=f"/tscc-stream/{site}",
        subject="heartbeat",
        time=iso_time(now_ns),
        data={"head": head, "heads": dict(heads)},
    )
    return [HEARTBEAT_TOPIC, _encode(Header(epoch, head, 0)), _encode(body)]


def _frames(committed: Committed, header: bytes) -> list[bytes]:
    return [committed.message.topic.encode(), header, committed.message.body]


def _frames_with_waveform(committed: Committed, header: bytes) -> list[bytes]:
    topic, _, body = _frames(committed, header)
    return [WAVEFORM.encode() + topic, header, body, committed.message.waveform or b""]


def multiparts(epoch: str, committed: Committed) -> list[list[bytes]]:
    """What goes out for a committed message: itself, and for a detection its copy with the waveform."""
    header = _encode(Header(epoch, committed.seq, committed.topic_seq))
    parts = [_frames(committed, header)]
    if committed.message.waveform is not None:
        parts.append(_frames_with_waveform(committed, header))
    return parts


def may_match(topic: str) -> bool:
    """Whether any message can ever have a topic that begins so."""
    prefix = topic.removeprefix(WAVEFORM)
    kinds = KINDS[:1] if topic.startswith(WAVEFORM) else KINDS
    return any(kind.startswith(prefix) or prefix.startswith(kind) for kind in kinds)


TOPIC_EXPECTED = f"expected nothing, or a prefix that begins with {', '.join(KINDS)} or {WAVEFORM}detection."
_decode_request = msgspec.json.Decoder(ReplayRequest).decode


def parse_request(payload: bytes) -> ReplayRequest:
    """A replay request. Raises RequestError that says what was expected."""
    expected = f'expected {{"since": SEQ, "topic": "PREFIX", "limit": 1 to {MOST_MESSAGES}}}'
    if len(payload) > REQUEST_BYTES:
        raise RequestError(f"request of {len(payload)} bytes: {expected} in at most {REQUEST_BYTES} bytes")
    try:
        request = _decode_request(payload)
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise RequestError(f"{error}: {expected}") from error
    if not may_match(request.topic):
        raise RequestError(f"topic {request.topic}: {TOPIC_EXPECTED}")
    return request


def reply(epoch: str, request: ReplayRequest, page: Page) -> list[bytes]:
    """Frames that answer a request, as described at the top of this file."""
    wants_waveform = request.topic.startswith(WAVEFORM)
    state = ReplayState(
        epoch=epoch,
        oldest=page.oldest,
        head=page.head,
        heads=dict(page.heads),
        through=page.through,
        count=len(page.messages),
        complete=page.through >= page.head,
        frames=4 if wants_waveform else 3,
    )
    frames = [_encode(state)]
    one = _frames_with_waveform if wants_waveform else _frames
    for committed in page.messages:
        frames += one(committed, _encode(Header(epoch, committed.seq, committed.topic_seq)))
    return frames


def error_reply(epoch: str, sentence: str) -> list[bytes]:
    """The one frame that answers a request which cannot be served."""
    return [_encode({"epoch": epoch, "error": sentence})]


def busy_reply(epoch: str, retry_after_s: float) -> list[bytes]:
    """The one frame that answers a request which comes too early."""
    sentence = f"too many requests: ask again in {retry_after_s:.3f} s"
    return [_encode({"epoch": epoch, "error": sentence, "retry_after_s": round(retry_after_s, 3)})]
