"""Commands for the journal: journal check, export, backup, compact."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

from tscc_stream import config
from tscc_stream.cli.command import PROGRAM, Commands, UsageError, add_command

Update = Callable[[int, int], None]
FILE = "journal.sqlite"


def add(commands: Commands) -> None:
    """Add `journal` with its actions."""
    parser = commands.add_parser("journal", help="look after the journal: check, export, backup, compact")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    made = [add_one(actions) for add_one in (_add_check, _add_export, _add_backup, _add_compact)]
    for action in made:
        where = action.add_mutually_exclusive_group(required=True)
        where.add_argument("--config", type=Path, metavar="FILE", help="whose state_dir")
        where.add_argument("--state-dir", type=Path, metavar="DIR")


def _add_check(actions: Commands) -> argparse.ArgumentParser:
    parser = add_command(
        actions,
        "check",
        "whether the journal is whole, while the daemon runs",
        "journal check --config site.yaml",
        _check,
    )
    parser.add_argument(
        "--seconds", type=_positive, default=60.0, metavar="S", help="for SQLite's own check, at most (default 60)"
    )
    return parser


def _add_export(actions: Commands) -> argparse.ArgumentParser:
    parser = add_command(
        actions,
        "export",
        "messages as JSON lines, out of a damaged file as many as can be read",
        "journal export --state-dir var --topic detection. --out detections.jsonl",
        _export,
    )
    parser.add_argument("--since", type=_sequence, default=0, metavar="SEQ", help="begin after this one (default 0)")
    parser.add_argument("--topic", default="", metavar="PREFIX", help="for example detection. or network.")
    parser.add_argument("--out", type=Path, metavar="FILE", help="a new file (default: stdout)")
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


def _positive(text: str) -> float:
    number = float(text)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"{text}: expected more than 0")
    return number


def _sequence(text: str) -> int:
    number = int(text)
    if not 0 <= number < 2**63:
        raise argparse.ArgumentTypeError(f"{text}: expected 0 or more")
    return number


def _place(options: argparse.Namespace) -> tuple[Path, config.RetentionConfig | None]:
    """The journal, and what the site keeps of it, where that is said."""
    settings = None if options.config is None else config.load(options.config)
    folder = options.state_dir if settings is None else Path(settings.state_dir)
    path = folder / FILE
    if not path.is_file():
        raise UsageError(f"journal {path}: no such file; the daemon makes it when it first starts")
    return path, None if settings is None else settings.retention


@contextmanager
def _progress(text: str) -> Iterator[Update]:
    from rich.console import Console  # noqa: PLC0415  # loaded where it is needed
    from rich.progress import Progress  # noqa: PLC0415  # loaded where it is needed

    console = Console(stderr=True)
    with Progress(console=console, disable=not console.is_terminal) as progress:
        task = progress.add_task(text, total=None)
        yield lambda done, total: progress.update(task, completed=done, total=total)


def _check(options: argparse.Namespace) -> int:
    from tscc_stream.journal_upkeep import check  # noqa: PLC0415  # loaded where it is needed

    path, retention = _place(options)
    with _progress("check") as update:
        report = check(path, retention, options.seconds, update)
    for finding in report.findings:
        print(f"wrong: {finding}")
    for fact in report.facts:
        print(fact)
    print(f"{path}: {'not whole' if report.findings else 'whole'}")
    return 1 if report.findings else 0


def _export(options: argparse.Namespace) -> int:
    from tscc_stream.stages.publish import TOPIC_EXPECTED, WAVEFORM, may_match  # noqa: PLC0415

    path, _ = _place(options)
    if options.topic.startswith(WAVEFORM) or not may_match(options.topic):
        raise UsageError(f"--topic {options.topic}: {TOPIC_EXPECTED.partition(' or waveform.')[0]}")
    if options.out is None:
        return _write(options, path, sys.stdout)
    try:
        with options.out.open("x", encoding="utf-8") as out:
            return _write(options, path, out)
    except FileExistsError as error:
        raise UsageError(f"{options.out}: is there already; give another name, or move it away") from error


def _write(options: argparse.Namespace, path: Path, out: TextIO) -> int:
    from tscc_stream.journal_upkeep import export  # noqa: PLC0415  # loaded where it is needed

    with _progress("export") as update:
        lost = export(path, options.since, options.topic, out, update)
    for stretch in lost:
        print(f"{PROGRAM}: lost: seq {stretch.first} to {stretch.last}", file=sys.stderr)
    return 1 if lost else 0


def _backup(options: argparse.Namespace) -> int:
    from tscc_stream.edges.journal_copy import backup  # noqa: PLC0415  # loaded where it is needed

    path, _ = _place(options)
    with _progress("backup") as update:
        size = backup(path, options.out, update)
    print(f"{options.out}: {size / 2**20:.1f} MiB")
    return 0


def _compact(options: argparse.Namespace) -> int:
    from tscc_stream.edges.journal_copy import compact  # noqa: PLC0415  # loaded where it is needed

    path, _ = _place(options)
    with _progress("compact") as update:
        before, after = compact(path, update)
    print(f"{path}: {before / 2**20:.1f} MiB before, {after / 2**20:.1f} MiB after")
    return 0
