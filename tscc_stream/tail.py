"""`tail`: print what a daemon publishes, each message once, in the order of its seq."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TextIO

import msgspec

from tscc_stream.bus.keys import CurveKeys
from tscc_stream.client import Received, Subscriber
from tscc_stream.client_merged import MergedSubscriber, Source
from tscc_stream.messages import topic_group
from tscc_stream.source_id import name_of


def tail(
    connect: str,
    replay: str,
    *,
    since: int | None,
    topic: str,
    jsonl: bool,
    count: int | None,
    out: TextIO,
    notice: Callable[[str], None],
    curve: CurveKeys | None = None,
    position: Path | None = None,
) -> int:
    """Print messages whose topic begins with `topic` until there were `count` (None: without end); returns 0.

    since: everything after this seq, 0 for all that the journal holds, None for what comes from now on. jsonl: one
    body per line with "epoch" and "seq" added. notice, curve, position: as in Subscriber. Raises SubscriberError.
    """
    line_of = as_json if jsonl else as_text
    with Subscriber(
        connect, replay, since=since, topic=topic, notice=notice, curve=curve, position=position
    ) as subscriber:
        printed = 0
        while count is None or printed < count:
            received = subscriber.receive()
            if received is not None:
                print(line_of(received), file=out, flush=True)
                subscriber.done()
                printed += 1
    return 0


def tail_many(
    sources: Sequence[Source],
    *,
    since: int | None,
    topic: str,
    patience_seconds: float,
    jsonl: bool,
    count: int | None,
    out: TextIO,
    notice: Callable[[str], None],
    positions: Path | None = None,
) -> int:
    """The same of several daemons, merged in time: each line says which of them it is of; returns 0.

    patience_seconds, positions: as in MergedSubscriber. Raises SubscriberError.
    """
    width = max(len(source.name) for source in sources)
    with MergedSubscriber(
        sources, since=since, topic=topic, patience_seconds=patience_seconds, notice=notice, positions=positions
    ) as subscriber:
        printed = 0
        while count is None or printed < count:
            given = subscriber.receive()
            if given is not None:
                name, received = given
                line = as_json(received, name) if jsonl else f"{name:<{width}}  {as_text(received)}"
                print(line, file=out, flush=True)
                subscriber.done()
                printed += 1
    return 0


def as_json(received: Received, publisher: str | None = None) -> str:
    """The body, with epoch and seq, and where there are several the publisher's name, on one line."""
    place = {"epoch": received.epoch, "seq": received.seq}
    of = {} if publisher is None else {"publisher": publisher}
    return msgspec.json.encode({**received.body, **of, **place}).decode()


def as_text(received: Received) -> str:
    """One line for people: time, where, cluster, how sure. Characters that could steer a terminal are replaced."""
    try:
        columns = _columns(received)
    except (KeyError, IndexError, TypeError):  # written by another version: show what there is
        columns = [received.topic, received.raw.decode("utf-8", "replace")]
    return "".join(character if character.isprintable() else "?" for character in "  ".join(columns))


def _columns(received: Received) -> list[str]:
    body, kind = received.body, topic_group(received.topic).partition(".")[0]
    if kind == "detection":
        return [body["time"], *_detection(body["subject"], body["data"])]
    if kind == "network":
        return [body["time"], *_network(body["data"])]
    return [body["time"], f"{body['subject']:<16}", msgspec.json.encode(body["data"]).decode()]


def _detection(sid: str, data: dict[str, Any]) -> list[str]:
    cluster = data["cluster"]
    membership = cluster["membership"][cluster["id"]]
    sure = "?    " if membership is None else f"{membership:.3f}"
    columns = [f"{name_of(sid):<16}", f"{cluster['name']:<24}", sure, "known" if cluster["known"] else "unknown"]
    return [*columns, "late"] if data["late"] else columns


def _network(data: dict[str, Any]) -> list[str]:
    votes = ", ".join(f"{name} {number}" for name, number in data["votes"].items())
    where = f"{len(data['channels'])} channels"
    return [f"{where:<16}", f"{data['cluster']['name']:<24}", votes, "final" if data["final"] else "early"]
