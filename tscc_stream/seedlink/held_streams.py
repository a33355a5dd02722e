"""Which streams a server says it holds, and until when: the answer to INFO STREAMS.

Source: FDSN SeedLink 4.0, appendix B: station[].id is NET_STA, stream[].id LOC_B_S_SS, with start_time and end_time.
Version 3 has <station network name> with <stream location seedname begin_time end_time>.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from datetime import UTC, datetime
from typing import Any, Final

from tscc_stream.seedlink.info import Answer

_TIME: Final = re.compile(r"(\d{4})[-/,](\d\d)[-/,](\d\d)[T ,](\d\d)[:,](\d\d)[:,](\d\d)(?:\.(\d{1,9}))?")
_TAG: Final = re.compile(r"<(station|stream)\s([^>]*)>")
_FIELD: Final = re.compile(r'\b(network|name|location|seedname|end_time)="([^"]{0,40})"')


def held_streams(answer: Answer) -> dict[str, int | None]:
    """Source id -> data time of its newest sample (ns), None where that cannot be read; empty where it says none."""
    if answer.protocol == 4:
        return dict(_of_json(answer.document))
    return dict(_of_xml(answer.document.decode("utf-8", "replace")))


def _of_json(document: bytes) -> Iterator[tuple[str, int | None]]:
    try:
        stations = json.loads(document)["station"]
    except (ValueError, KeyError, TypeError, RecursionError):
        return
    for station in _objects(stations):
        for stream in _objects(station.get("stream")):
            sid = f"FDSN:{station.get('id')}_{stream.get('id')}"
            if sid.count("_") == 5:
                yield sid, _ns(str(stream.get("end_time")))


def _objects(value: object) -> Iterator[dict[str, Any]]:
    yield from (one for one in value if isinstance(one, dict)) if isinstance(value, list) else ()


def _of_xml(text: str) -> Iterator[tuple[str, int | None]]:
    station = ""
    for kind, inside in _TAG.findall(text):
        fields = dict(_FIELD.findall(inside))
        if kind == "station":
            station = f"{fields.get('network', '')}_{fields.get('name', '')}"
        elif len(code := fields.get("seedname", "")) == 3:
            location = fields.get("location", "").strip().replace("--", "")
            yield f"FDSN:{station}_{location}_{'_'.join(code)}", _ns(fields.get("end_time", ""))


def _ns(text: str) -> int | None:
    match = _TIME.match(text)
    if match is None:
        return None
    *parts, fraction = match.groups()
    try:
        moment = datetime(*map(int, parts), tzinfo=UTC)  # type: ignore[misc, arg-type]  # six numbers, as the pattern says
    except ValueError:
        return None
    return int(moment.timestamp()) * 10**9 + int((fraction or "0").ljust(9, "0"))
