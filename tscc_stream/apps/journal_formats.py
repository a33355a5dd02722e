"""A journal's detections and network events as QuakeML or CSV, with what people said of them."""

from __future__ import annotations

import csv
import json
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from tscc_stream.apps.amplitudes import Amplitudes, responses_of
from tscc_stream.apps.stored import EVER, Stored, events, everything, may_have_members_in, specs
from tscc_stream.apps.words import Words
from tscc_stream.classifier import CSV_COLUMNS, csv_row
from tscc_stream.config import Config
from tscc_stream.edges.obspy_formats import Meaning, quakeml
from tscc_stream.edges.sqlite import JournalReader
from tscc_stream.event_types import NOT_EXISTING, canonical
from tscc_stream.package import Label
from tscc_stream.progress import Update
from tscc_stream.spreadsheet import harmless
from tscc_stream.stages.publish import iso_time

MOST_QUAKEML = 200_000
"""Messages in one QuakeML document, which is held in memory whole (about 10 kB each)."""
COLUMNS = (*CSV_COLUMNS, "name", "verdict", "agrees", "judged_by", "judged_at", "peak_velocity_m_s")


class ExportError(ValueError):
    """What cannot be exported as it was asked for, and what was expected."""


@dataclass(frozen=True, slots=True)
class Wanted:
    """Which messages. span_ns: of the onset, without its end; name: what they are at the site, empty: all."""

    since: int = 0
    span_ns: tuple[int, int] = EVER
    name: str = ""


class SiteJournal:
    """A journal as people at the site see it. Close it after use."""

    def __init__(self, path: Path, config: Config, base: Path, *, without_people: bool = False) -> None:
        """base: the folder of the configuration; without_people: as Words has it. complaints: what could not be written
        as it was said, one sentence each.

        Raises JournalError, PeopleError, ResponseError.
        """
        responses = responses_of(config, base)
        self.words = Words(config, base, without_people=without_people)
        self.reader = JournalReader(path)
        try:
            self.specs = specs(self.reader)
        except BaseException:
            self.close()
            raise
        self.amplitudes = Amplitudes(responses, self.specs)
        self.complaints: list[str] = []

    def close(self) -> None:
        self.reader.close()

    def label(self, one: Stored) -> Label:
        """What it is, in people's words."""
        return self.words.of_body(one.body, one.sha256)

    def stored(self, uid: str) -> Stored | None:
        """A detection by its id; None where there is none, or retention has removed it."""
        found = self.reader.last_word(uid)
        if found is None:
            return None
        body = json.loads(found.message.body)
        return Stored(found.seq, found.message.sid, found.message.onset_ns, body, body["data"]["model"]["sha256"])

    def chosen(self, wanted: Wanted, update: Update) -> Iterator[Stored]:
        """In the order of their seq."""
        for one in events(self.reader, update, wanted.since, wanted.span_ns):
            if not wanted.name or self.label(one).name == wanted.name:
                yield one


def write_csv(site: SiteJournal, wanted: Wanted, out: IO[str], update: Update) -> int:
    """One row per detection and network event; how many."""
    writer = csv.DictWriter(out, COLUMNS, lineterminator="\n")
    writer.writeheader()
    count = 0
    for one in site.chosen(wanted, update):
        row = csv_row(one.body, one.sid) | _columns(site, one)
        writer.writerow(harmless(row))
        count += 1
    return count


def _columns(site: SiteJournal, one: Stored) -> dict[str, Any]:
    verdict = site.words.verdicts.get(one.body["id"])
    velocity = site.amplitudes.metres_per_second(one.body) if one.sid else None
    return {
        "name": site.label(one).name,
        "verdict": verdict.name if verdict else "",
        "agrees": verdict.agrees if verdict else "",
        "judged_by": verdict.who if verdict else "",
        "judged_at": iso_time(verdict.at_ns) if verdict else "",
        "peak_velocity_m_s": "" if velocity is None else f"{velocity:.6g}",
    }


def write_quakeml(site: SiteJournal, wanted: Wanted, out: IO[str], update: Update) -> int:
    """One document; how many messages went into it. A network event comes whole: with all its detections, where they
    lie outside the span as well, and they come with no other.

    Raises ExportError where there are too many for one document.
    """
    chosen = _whole_events(site, wanted, update)
    for uid in {uid for one in chosen.values() for uid in one.body["data"].get("detections", ())} - chosen.keys():
        if (member := site.stored(uid)) is not None:
            chosen[uid] = member
    bodies = [one.body for one in chosen.values()]
    out.write(
        quakeml(bodies, lambda body: _meaning(site.words, body, chosen[body["id"]].sha256), site.complaints.append)
    )
    return len(bodies)


def _whole_events(site: SiteJournal, wanted: Wanted, update: Update) -> dict[str, Stored]:
    """What is wanted, by id, without detections of network events outside the span: those have them."""
    chosen: dict[str, Stored] = {}
    of_others: set[str] = set()
    for one in everything(site.reader, update, wanted.since, wanted.span_ns[0]):
        if wanted.name and site.label(one).name != wanted.name:
            continue
        if wanted.span_ns[0] <= one.onset_ns < wanted.span_ns[1]:
            chosen[one.body["id"]] = one
        elif not one.sid and may_have_members_in(one, wanted.span_ns):
            of_others.update(one.body["data"]["detections"])
        if len(chosen) > MOST_QUAKEML:
            raise ExportError(f"more than {MOST_QUAKEML} messages: expected a shorter time (--from, --to) for QuakeML")
    return {uid: one for uid, one in chosen.items() if uid not in of_others}


def _meaning(words: Words, body: Mapping[str, Any], sha256: str) -> Meaning:
    label, verdict = words.of_body(body, sha256), words.verdicts.get(body["id"])
    if verdict is None:
        return Meaning(label.name, label.event_type)
    corrected = "" if verdict.agrees else ", not what it was called"
    note = f"{verdict.who} at {iso_time(verdict.at_ns)}: {verdict.name}{corrected}"
    if verdict.agrees:
        return Meaning(label.name, label.event_type, "confirmed", note)
    return Meaning(
        label.name, label.event_type, "rejected" if canonical(label.event_type) == NOT_EXISTING else "reviewed", note
    )
