"""The command that prints the ledger of gaps."""

from __future__ import annotations

import argparse
import sys
from collections import Counter
from datetime import UTC, datetime
from fnmatch import fnmatchcase
from pathlib import Path

import msgspec

from tscc_stream.cli.command import Commands, UsageError, add_command, journal_in, needs_site, site_of
from tscc_stream.edges.sqlite import JournalReader
from tscc_stream.gap_causes import LOST
from tscc_stream.sampling import NS_PER_SECOND
from tscc_stream.source_id import name_of
from tscc_stream.stages.journal import GapEntry
from tscc_stream.stages.publish import iso_time


def add(commands: Commands) -> None:
    """Add it."""
    parser = add_command(
        commands,
        "gaps",
        "which data of which channel never came, and why",
        "gaps --config config.yaml --since 2026-11-26 --lost",
        _gaps,
    )
    needs_site(parser)
    parser.add_argument("--since", metavar="TIME", help="gaps that end later, UTC: 2026-11-26 or 2026-11-26T06:00:00")
    parser.add_argument("--channel", default="*", metavar="PATTERN", help="over NET.STA.LOC.CHA, * and ? allowed")
    parser.add_argument("--lost", action="store_true", help="only missing data, no flat or invalid ones")
    parser.add_argument("--jsonl", action="store_true", help="one gap per line as JSON")


def _gaps(options: argparse.Namespace) -> int:
    settings, _ = site_of(options)
    reader = JournalReader(journal_in(Path(settings.state_dir)))
    try:
        entries = reader.gaps(_time_ns(options.since))
    finally:
        reader.close()
    chosen = [
        entry
        for entry in entries
        if fnmatchcase(name_of(entry.sid), options.channel) and (entry.cause in LOST or not options.lost)
    ]
    for entry in chosen:
        print(_json(entry) if options.jsonl else _line(entry))
    if not options.jsonl:
        print(_total(chosen), file=sys.stderr)
    return 0


def _time_ns(text: str | None) -> int:
    if text is None:
        return -(2**63)
    try:
        moment = datetime.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"--since {text}: expected a time such as 2026-11-26T06:00:00") from error
    return int(moment.replace(tzinfo=moment.tzinfo or UTC).timestamp()) * NS_PER_SECOND


def _seconds(entry: GapEntry) -> float | None:
    return None if entry.to_ns is None else (entry.to_ns - entry.from_ns) / NS_PER_SECOND


def _json(entry: GapEntry) -> str:
    return msgspec.json.encode(entry).decode()


def _line(entry: GapEntry) -> str:
    to_ns, seconds = entry.to_ns, _seconds(entry)
    until = "still lasts" if to_ns is None else iso_time(to_ns)
    lasted = "" if seconds is None else f"{seconds:.3f} s"
    return f"{name_of(entry.sid):<16}  {iso_time(entry.from_ns)}  {until:<27}  {lasted:>14}  {entry.cause}"


def _total(entries: list[GapEntry]) -> str:
    lost: Counter[str] = Counter()
    for entry in entries:
        if entry.cause in LOST:
            lost[entry.cause] += round(1000 * (_seconds(entry) or 0.0))
    parts = ", ".join(f"{cause} {milliseconds / 1000:.3f} s" for cause, milliseconds in lost.most_common())
    return f"{len(entries)} gaps; lost: {parts or 'nothing'}"
