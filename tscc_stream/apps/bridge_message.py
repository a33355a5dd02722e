"""A message of the bus as JetStream gets it: subject, id for de-duplication, headers. Pure.

    tscc.<site>.detection.<cluster>.<NET>.<STA>.<LOC>.<CHA>     payload: the JSON body as it was on the bus
    tscc.<site>.network.<cluster>
    tscc.<site>.status.<kind>
    tscc.<site>.waveform.detection.<...>                        payload: float32 little-endian [samples, channels]

The id (`Nats-Msg-Id`) is `<site>/<uid>`. A uid is made of source id and onset time, so that two sites that read the
same sensor give the same uid to two judgements: hence the site. It holds no epoch: the same event out of a restored
journal, or of two shards of one site, is one message. A network event's early notice has `/early` behind it, since its
last word has the same uid; a copy with the waveform `/waveform`. A status, and whatever has no uid, is
`<site>/<epoch>/<seq>`.
"""

from __future__ import annotations

import hashlib
import re

from tscc_stream.client import Received
from tscc_stream.edges.jetstream import Outgoing
from tscc_stream.stages.publish import WAVEFORM

NO_CODE = "--"
"""Stands for an empty part, such as the location of most sensors: a subject has no empty ones."""
LONGEST_TOKEN, LONGEST_VALUE = 64, 300
_SOURCE = "/tscc-stream/"
_NOT_IN_A_TOKEN = re.compile(r"[^A-Za-z0-9_-]")
_NOT_IN_A_HEADER = re.compile(r"[^\x20-\x7e]")


def token(text: str) -> str:
    """One part of a subject: letters, digits, _ and -; anything else becomes _."""
    return _NOT_IN_A_TOKEN.sub("_", text)[:LONGEST_TOKEN] or NO_CODE


def _value(text: object) -> str:
    return _NOT_IN_A_HEADER.sub("_", str(text))[:LONGEST_VALUE].strip()


def _unique(text: str) -> str:
    """As `_value`, but never the same for two texts: what had to be changed gets a digest of what it was."""
    value = _value(text)
    return (
        value if value == text else f"{value[:200]}~{hashlib.sha256(text.encode('utf-8', 'replace')).hexdigest()[:32]}"
    )


def site_of(received: Received, otherwise: str) -> str:
    """Who says it: the body's `source`, or what is given where it has none."""
    source = received.body.get("source")
    return source.removeprefix(_SOURCE) if isinstance(source, str) and source.startswith(_SOURCE) else otherwise


def subject(prefix: str, site: str, topic: str) -> str:
    """`detection.1.BW.UH1..SHZ.` of site north -> `tscc.north.detection.1.BW.UH1.--.SHZ`."""
    return ".".join([prefix, token(site), *map(token, topic.removesuffix(".").split("."))])


def message_id(received: Received, site: str) -> str:
    """As described at the top of this file."""
    uid, kind = received.body.get("id"), received.body.get("type")
    if not isinstance(uid, str) or not uid or kind == "tscc.status.v1":
        name = f"{received.epoch}/{received.seq}"
    else:
        data = received.body.get("data")
        early = kind == "tscc.network_event.v1" and isinstance(data, dict) and data.get("final") is False
        name = f"{uid}/early" if early else uid
    return f"{site}/{name}" + ("/waveform" if received.waveform is not None else "")


def outgoing(received: Received, prefix: str, otherwise: str) -> Outgoing:
    """otherwise: the site, where the body names none."""
    site = site_of(received, otherwise)
    headers = {
        "Nats-Msg-Id": _unique(message_id(received, site)),
        "Tscc-Site": _value(site),
        "Tscc-Epoch": _value(received.epoch),
        "Tscc-Seq": str(received.seq),
        "Tscc-Topic": _value(received.topic),
    }
    topic = subject(prefix, site, received.topic)
    if received.waveform is None:
        return Outgoing(topic, received.raw, headers)
    return Outgoing(topic, received.waveform, headers | _shape(received))


def _shape(received: Received) -> dict[str, str]:
    """What a waveform needs to be read without its detection."""
    data = received.body.get("data")
    window = data.get("window") if isinstance(data, dict) else None
    known = window if isinstance(window, dict) else {}
    named = ("start_ns", "sample_rate_hz", "samples", "channels")
    shape = {f"Tscc-{name.replace('_', '-').title()}": _value(known[name]) for name in named if name in known}
    return {"Tscc-Uid": _value(received.body.get("id", "")), **shape}


def stand_in(message: Outgoing, limit: int) -> Outgoing:
    """What goes in place of a message that the server cannot take: the same but for its payload, which is empty.

    `Tscc-Omitted` says how large it is. The message itself is in the daemon's journal.
    """
    return Outgoing(
        message.subject, b"", message.headers | {"Tscc-Omitted": f"{message.size} bytes of at most {limit}"}
    )


WAVEFORM_TOPIC = f"{WAVEFORM}detection."
