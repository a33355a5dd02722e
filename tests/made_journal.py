"""A journal as a daemon leaves it: the bursts of made_site through the pipeline, and what people said of them."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from made_site import START_NS, make_archive, settings

from tscc_stream import classifier, config, names, package
from tscc_stream.edges import archive
from tscc_stream.edges.people import FILE, PeopleFile
from tscc_stream.edges.sqlite import JournalFile
from tscc_stream.messages import Gap, Message
from tscc_stream.package import Label
from tscc_stream.source_id import from_nslc

DEMO = package.load(package.find("models/demo"))
END_NS = START_NS + 150 * 10**9


def pipeline_messages(folder: Path, **over: Any) -> list[Message]:
    """What `classify` finds in four channels of five bursts each."""
    known = config.parse(json.dumps(settings(folder, **over)))
    index = archive.index([make_archive(folder / "archive")])
    expected = [(channel.sid, channel.start_ns) for channel in archive.channels(index)]
    return list(classifier.Classifier(known, DEMO).run(archive.iter_batches(index), expected))


def make_journal(folder: Path, messages: list[Message], gaps: tuple[Gap, ...] = ()) -> Path:
    """In the state folder of made_site's settings."""
    state = folder / "state"
    state.mkdir(parents=True, exist_ok=True)
    path = state / "journal.sqlite"
    with JournalFile(path, clock=lambda: END_NS) as journal:
        journal.remember_model(DEMO.sha256, DEMO.document)
        journal.append(messages, gaps)
    return path


def say(folder: Path, uid: str, name: str, *, agrees: bool, who: str = "mara") -> None:
    """A verdict."""
    people = PeopleFile(folder / "state" / FILE)
    people.say("verdict", uid, {"name": name, "agrees": agrees, "cluster": None}, who, END_NS + 10**9)
    people.close()


def name_cluster(folder: Path, cluster: int, label: Label) -> None:
    """Of the demo model."""
    people = PeopleFile(folder / "state" / FILE)
    names.give(people, DEMO.sha256, cluster, label, "mara", END_NS)
    people.close()


def sid(letter: str) -> str:
    """Of one of made_site's channels."""
    return from_nslc(f"XX.{letter}..HHZ")
