"""Upkeep of a journal by people: is it whole, its messages as lines, a copy, a smaller file."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TextIO

import msgspec

from tscc_stream.client import Received
from tscc_stream.config import RetentionConfig
from tscc_stream.edges.journal_check import Extent, Numbering, extent, ledger_findings, sqlite_findings
from tscc_stream.edges.journal_salvage import Lost, Salvage, Stored, connect_read_only
from tscc_stream.edges.journal_schema import SCHEMA_VERSION, check_format, explained
from tscc_stream.stages.journal import JournalError
from tscc_stream.tail import as_json

Progress = Callable[[int, int], None]
"""Done, of so many."""
MOST_FINDINGS = 100
BYTES_PER_GIB = 2**30
HOURS_PER_DAY = 24
DAYS_LATE = 4.0  # retention waits for 72 hours of operation, goes by the hour and in small steps
GROWN = 1.2  # as does what is too much


@dataclass(frozen=True, slots=True)
class Report:
    """findings: what is wrong, one line each; facts: what else there is to know."""

    findings: tuple[str, ...]
    facts: tuple[str, ...]


def check(path: Path, retention: RetentionConfig | None, seconds: float, on_progress: Progress) -> Report:
    """Look at the whole journal, beside a daemon that writes. Raises JournalError where it cannot be read at all.

    seconds: what SQLite's own check, which keeps the write-ahead log from being folded back, may take at most.
    """
    db = connect_read_only(path)
    try:
        with explained(path, "read it"):
            version = check_format(db, path, oldest=1)
            if version < SCHEMA_VERSION:
                raise JournalError(
                    f"journal {path}: has format {version}, this program checks format {SCHEMA_VERSION}: "
                    "start the daemon on it once, which keeps a copy and brings it up to date"
                )
            findings, complete = sqlite_findings(db, "integrity_check", seconds)
            numbering = Numbering(db)
            numbering.walk(on_progress)
            findings += [*numbering.findings, *ledger_findings(db)]
        seen = extent(db, path, time.time_ns())
    finally:
        db.close()
    findings += _over(seen, retention)
    return Report(tuple(_at_most(findings)), tuple(_facts(seen, complete, seconds)))


def _at_most(findings: list[str]) -> Iterator[str]:
    yield from findings[:MOST_FINDINGS]
    if len(findings) > MOST_FINDINGS:
        yield f"and {len(findings) - MOST_FINDINGS} more"


def _over(seen: Extent, retention: RetentionConfig | None) -> Iterator[str]:
    if retention is None:
        return
    days = (seen.hours or 0.0) / HOURS_PER_DAY
    if days > retention.days + DAYS_LATE:
        yield f"the oldest message is {days:.1f} days old, retention.days is {retention.days:g}"
    if seen.used_bytes > GROWN * retention.max_gib * BYTES_PER_GIB:
        yield f"{seen.used_bytes / BYTES_PER_GIB:.3f} GiB are used, retention.max_gib is {retention.max_gib:g}"


def _facts(seen: Extent, complete: bool, seconds: float) -> Iterator[str]:
    yield f"{seen.messages} messages, seq {seen.oldest} to {seen.head}"
    if seen.hours is not None:
        yield f"the oldest was committed {seen.hours / HOURS_PER_DAY:.1f} days ago"
    yield f"{seen.used_bytes / 2**20:.1f} MiB used of {seen.file_bytes / 2**20:.1f} MiB"
    if not complete:
        yield f"SQLite's own check did not come to its end within {seconds:g} s; --seconds gives it more"


def export(path: Path, since: int, topic: str, out: TextIO, on_progress: Progress) -> list[Lost]:
    """Messages after `since` whose topic begins with `topic`, one line each as `tail --jsonl` prints them.

    What could not be read, whatever its topic. Raises JournalError where nothing can be.
    """
    source = Salvage(path)
    lost: list[Lost] = []
    try:
        for one in source.after(since):
            line = "" if isinstance(one, Lost) else _line(source.epoch, one)
            if isinstance(one, Lost) or not line:
                _add(lost, one if isinstance(one, Lost) else Lost(one.seq, one.seq))
            elif one.topic.startswith(topic):
                out.write(f"{line}\n")
            on_progress(one.last if isinstance(one, Lost) else one.seq, source.head)
    finally:
        source.close()
    return lost


def _line(epoch: str, stored: Stored) -> str:
    """Empty where the body is none any more."""
    try:
        body = msgspec.json.decode(stored.body, type=dict)
    except (msgspec.DecodeError, UnicodeDecodeError):
        return ""
    return as_json(Received(epoch, stored.seq, 0, stored.topic, body, stored.body))


def _add(lost: list[Lost], more: Lost) -> None:
    if lost and lost[-1].last + 1 == more.first:
        lost[-1] = Lost(lost[-1].first, more.last)
    else:
        lost.append(more)
