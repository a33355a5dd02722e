"""Commands for the journal: journal check, export, backup, compact."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, TextIO

from tscc_stream import config, progress
from tscc_stream.cli.command import (
    PROGRAM,
    Commands,
    UsageError,
    add_command,
    journal_in,
    needs_site,
    positive,
    sequence,
    site_of,
)

if TYPE_CHECKING:
    from tscc_stream.apps.journal_formats import SiteJournal, Wanted


def add(commands: Commands) -> None:
    """Add `journal` with its actions."""
    parser = commands.add_parser("journal", help="look after the journal: check, export, backup, compact")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    made = [add_one(actions) for add_one in (_add_check, _add_export, _add_backup, _add_compact)]
    for action in made:
        needs_site(action)


def _add_check(actions: Commands) -> argparse.ArgumentParser:
    parser = add_command(
        actions,
        "check",
        "whether the journal is whole, while the daemon runs",
        "journal check --config site.yaml",
        _check,
    )
    parser.add_argument(
        "--seconds", type=positive, default=60.0, metavar="S", help="for SQLite's own check, at most (default 60)"
    )
    return parser


def _add_export(actions: Commands) -> argparse.ArgumentParser:
    parser = add_command(
        actions,
        "export",
        "messages as JSON lines, also out of a damaged file; or detections as QuakeML, CSV or miniSEED",
        "journal export --config site.yaml --format quakeml --from 2026-11-26 --to 2026-11-27 --out day.xml",
        _export,
    )
    parser.add_argument(
        "--format",
        choices=("json", "quakeml", "csv", "mseed"),
        default="json",
        help="json (default): every message; the others: detections and network events, with people's verdicts; mseed: "
        "the stored windows (in the model's band and at its rate, not raw), as an SDS archive",
    )
    parser.add_argument("--since", type=sequence, default=0, metavar="SEQ", help="begin after this one (default 0)")
    parser.add_argument("--topic", default="", metavar="PREFIX", help="json only; for example detection. or network.")
    span = parser.add_argument_group("not for json")
    span.add_argument("--from", dest="from_time", metavar="TIME", help="onsets from then on; UTC, or with an offset")
    span.add_argument("--to", dest="to_time", metavar="TIME", help="onsets before then")
    span.add_argument("--cluster", default="", metavar="NAME", help="only what is called so at the site")
    parser.add_argument(
        "--out", type=Path, metavar="FILE|DIR", help="a new file (default: stdout); for mseed a new or empty folder"
    )
    return parser


def _add_backup(actions: Commands) -> argparse.ArgumentParser:
    parser = add_command(
        actions,
        "backup",
        "a copy as of now, while the daemon runs",
        "journal backup --config site.yaml --out /backup/journal.sqlite",
        _backup,
    )
    parser.add_argument("--out", type=Path, required=True, metavar="FILE", help="a new file")
    return parser


def _add_compact(actions: Commands) -> argparse.ArgumentParser:
    return add_command(
        actions,
        "compact",
        "give free room in the journal back to the disk; the daemon must not run",
        "journal compact --config site.yaml",
        _compact,
    )


def _place(options: argparse.Namespace) -> tuple[Path, config.RetentionConfig | None]:
    """The journal, and what the site keeps of it, where that is said."""
    settings, _ = site_of(options)
    path = journal_in(Path(settings.state_dir))
    return path, None if options.config is None else settings.retention


def _check(options: argparse.Namespace) -> int:
    from tscc_stream.journal_upkeep import check  # noqa: PLC0415  # loaded where it is needed

    path, retention = _place(options)
    with progress.bar("check") as update:
        report = check(path, retention, options.seconds, update)
    for finding in report.findings:
        print(f"wrong: {finding}")
    for fact in report.facts:
        print(fact)
    print(f"{path}: {'not whole' if report.findings else 'whole'}")
    return 1 if report.findings else 0


def _export(options: argparse.Namespace) -> int:
    path, _ = _place(options)
    if options.format == "json":
        return _export_messages(options, path)
    if options.topic:
        raise UsageError("--topic: expected only with --format json; --cluster chooses by name")
    return _export_events(options, path)


def _export_messages(options: argparse.Namespace, path: Path) -> int:
    from tscc_stream.stages.publish import TOPIC_EXPECTED, WAVEFORM, may_match  # noqa: PLC0415  # loaded where it is needed

    if options.from_time or options.to_time or options.cluster:
        raise UsageError("--from, --to, --cluster: expected only with --format quakeml, csv or mseed")
    if options.topic.startswith(WAVEFORM) or not may_match(options.topic):
        raise UsageError(f"--topic {options.topic}: {TOPIC_EXPECTED.partition(' or waveform.')[0]}")
    with _output(options.out) as out:
        return _write(options, path, out)


@contextmanager
def _output(path: Path | None) -> Iterator[TextIO]:
    """A new file, or standard output. Where the work fails there is no file: half of one would look like a whole."""
    if path is None:
        yield sys.stdout
        return
    try:
        out = path.open("x", encoding="utf-8")
    except FileExistsError as error:
        raise UsageError(f"{path}: is there already; give another name, or move it away") from error
    try:
        with out:
            yield out
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _export_events(options: argparse.Namespace, path: Path) -> int:
    from tscc_stream.apps import journal_formats  # noqa: PLC0415  # loaded where it is needed

    wanted = journal_formats.Wanted(options.since, _span_ns(options), options.cluster)
    settings, base = site_of(options)
    site = journal_formats.SiteJournal(path, settings, base)
    try:
        count = _write_events(options, site, wanted)
    finally:
        site.close()
    for sentence in (*(f"amplitudes in counts: {one}" for one in site.amplitudes.refused.values()), *site.complaints):
        print(f"{PROGRAM}: {sentence}", file=sys.stderr)
    print(f"{PROGRAM}: {count} {'windows' if options.format == 'mseed' else 'messages'}", file=sys.stderr)
    return 0


def _write_events(options: argparse.Namespace, site: SiteJournal, wanted: Wanted) -> int:
    from tscc_stream.apps import journal_formats, snippets  # noqa: PLC0415  # loaded where it is needed

    if options.format == "mseed":
        if options.out is None:
            raise UsageError("--format mseed: expected --out DIR")
        with progress.bar("export") as update:
            return snippets.write_sds(site, wanted, options.out, update)
    write = journal_formats.write_csv if options.format == "csv" else journal_formats.write_quakeml
    with _output(options.out) as out, progress.bar("export") as update:
        return write(site, wanted, out, update)


def _span_ns(options: argparse.Namespace) -> tuple[int, int]:
    from tscc_stream.apps.stored import EVER  # noqa: PLC0415  # loaded where it is needed
    from tscc_stream.sampling import time_ns_of  # noqa: PLC0415  # loaded where it is needed

    ends = list(EVER)
    for place, (name, text) in enumerate((("--from", options.from_time), ("--to", options.to_time))):
        try:
            ends[place] = ends[place] if text is None else time_ns_of(text)
        except ValueError as error:
            raise UsageError(f"{name} {error}") from error
    if ends[0] >= ends[1]:
        raise UsageError(f"--to {options.to_time}: expected later than --from {options.from_time}")
    return ends[0], ends[1]


def _write(options: argparse.Namespace, path: Path, out: TextIO) -> int:
    from tscc_stream.journal_upkeep import export  # noqa: PLC0415  # loaded where it is needed

    with progress.bar("export") as update:
        lost = export(path, options.since, options.topic, out, update)
    for stretch in lost:
        print(f"{PROGRAM}: lost: seq {stretch.first} to {stretch.last}", file=sys.stderr)
    return 1 if lost else 0


def _backup(options: argparse.Namespace) -> int:
    from tscc_stream.edges.journal_copy import backup  # noqa: PLC0415  # loaded where it is needed

    path, _ = _place(options)
    with progress.bar("backup") as update:
        size = backup(path, options.out, update)
    print(f"{options.out}: {size / 2**20:.1f} MiB")
    return 0


def _compact(options: argparse.Namespace) -> int:
    from tscc_stream.edges.journal_copy import compact  # noqa: PLC0415  # loaded where it is needed

    path, _ = _place(options)
    with progress.bar("compact") as update:
        before, after = compact(path, update)
    print(f"{path}: {before / 2**20:.1f} MiB before, {after / 2**20:.1f} MiB after")
    return 0
