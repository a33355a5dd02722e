"""Detections and network events out of a journal, in the order of their seq."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import msgspec
from pydantic import ValidationError

from tscc_stream.edges.sqlite import JournalReader
from tscc_stream.mistakes import first
from tscc_stream.package import PackageSpec
from tscc_stream.progress import Update
from tscc_stream.sampling import NS_PER_SECOND
from tscc_stream.stages.journal import JournalError

MARGIN_NS = 24 * 3600 * NS_PER_SECOND
"""A recorder's clock may be ahead by as much, so that its data are committed before their own time."""
LONGEST_NS = 3600 * NS_PER_SECOND
"""From the end of a network event to the last onset of its detections, at most; also before its beginning."""
EVER = (-(2**63), 2**63 - 1)
_PAGE = 1000
_decode = msgspec.json.Decoder(dict[str, Any]).decode


@dataclass(frozen=True, slots=True, eq=False)
class Stored:
    """A detection, or a network event with its last word (sid empty). sha256: of the model that made it."""

    seq: int
    sid: str
    onset_ns: int
    body: dict[str, Any]
    sha256: str


def events(reader: JournalReader, update: Update, since: int = 0, span_ns: tuple[int, int] = EVER) -> Iterator[Stored]:
    """Those after a seq whose onset lies from span_ns[0] up to, and without, span_ns[1]. Raises JournalError."""
    for one in everything(reader, update, since, span_ns[0]):
        if span_ns[0] <= one.onset_ns < span_ns[1]:
            yield one


def everything(reader: JournalReader, update: Update, since: int = 0, from_ns: int = EVER[0]) -> Iterator[Stored]:
    """Those after a seq, among them all whose onset is at or after a data time. Raises JournalError."""
    after = max(since, first_after(reader, from_ns))
    sha256 = ""
    while True:
        page = reader.since(after, "", _PAGE)
        for one in page.messages:
            message = one.message
            if message.kind == "status" or not message.final:
                continue
            body = _decode(message.body)
            sha256 = body["data"].get("model", {}).get("sha256", sha256)
            yield Stored(one.seq, message.sid, message.onset_ns, body, sha256)
        after = page.through
        update(after, page.head)
        if after >= page.head:
            return


def may_have_members_in(event: Stored, span_ns: tuple[int, int]) -> bool:
    """Whether detections of a network event may have onsets within a span, by its own onset and duration."""
    end_ns = event.onset_ns + round((event.body["data"]["duration_s"] or 0.0) * NS_PER_SECOND)
    return end_ns + LONGEST_NS >= span_ns[0] and event.onset_ns - LONGEST_NS < span_ns[1]


def first_after(reader: JournalReader, from_ns: int) -> int:
    """A seq after which everything lies whose onset is at or after a data time."""
    return 0 if from_ns <= EVER[0] + MARGIN_NS else reader.before(from_ns - MARGIN_NS)


def specs(reader: JournalReader) -> dict[str, PackageSpec]:
    """model.json of every model that was live, by its SHA-256. Raises JournalError where one cannot be read."""
    try:
        return {sha256: PackageSpec.model_validate_json(document) for sha256, document in reader.models().items()}
    except ValidationError as error:
        raise JournalError(
            f"journal {reader.path}: a stored model.json is not valid: {first(error, 'file')}"
        ) from error
