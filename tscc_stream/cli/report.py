"""The command that makes the report of a shift."""

from __future__ import annotations

import argparse
import time
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING
from zoneinfo import ZoneInfo

from tscc_stream import progress
from tscc_stream.cli.command import Commands, UsageError, add_command, config_of, journal_in, needs_config

if TYPE_CHECKING:
    from tscc_stream.apps.shifts import Span
    from tscc_stream.config import Config


def add(commands: Commands) -> None:
    """Add `report` with its action."""
    parser = commands.add_parser("report", help="what happened, for people")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    shift = add_command(
        actions,
        "shift",
        "a shift on one HTML page: clusters, unknowns to name, sensor health, alerts and their answers",
        "report shift --config site.yaml --shift night --out night.html",
        _shift,
    )
    needs_config(shift)
    shift.add_argument("--shift", metavar="NAME", help="of the configuration's shifts; the latest that has begun")
    shift.add_argument("--date", metavar="YYYY-MM-DD", help="on which the shift began, instead")
    shift.add_argument("--from", dest="from_time", metavar="TIME", help="on the site's clock, or with an offset")
    shift.add_argument("--to", dest="to_time", metavar="TIME")
    shift.add_argument("--out", type=Path, metavar="FILE.html", required=True, help="replaced if it is there")


def _shift(options: argparse.Namespace) -> int:
    from tscc_stream.apps import report_facts, report_page  # noqa: PLC0415  # loaded where it is needed
    from tscc_stream.apps.journal_formats import SiteJournal  # noqa: PLC0415  # loaded where it is needed

    settings, base = config_of(options)
    state_dir, now_ns = Path(settings.state_dir), time.time_ns()
    span = _span(options, settings, now_ns)
    path = journal_in(state_dir)
    if not options.out.parent.is_dir():
        raise UsageError(f"--out {options.out}: expected a folder that is there, {options.out.parent} is not")
    site = SiteJournal(path, settings, base, without_people=True)
    try:
        with progress.bar("report") as update:
            facts = report_facts.gather(site, settings.site, span, now_ns, state_dir, update)
    finally:
        site.close()
    fresh = options.out.with_name(f".{options.out.name}.new")
    fresh.write_text(report_page.page(facts), encoding="utf-8")
    fresh.replace(options.out)
    print(f"{options.out}: {len(facts.detections)} detections, {len(facts.events)} network events")
    return 0


def _span(options: argparse.Namespace, settings: Config, now_ns: int) -> Span:
    from tscc_stream.apps import shifts  # noqa: PLC0415  # loaded where it is needed

    zone = ZoneInfo(settings.time_zone)
    ends = (options.from_time, options.to_time)
    if (options.shift is None) == (None in ends) or (options.shift and any(ends)):
        raise UsageError("report shift: expected --shift NAME, or --from TIME with --to TIME")
    try:
        if options.shift is None:
            if options.date:
                raise UsageError("--date: expected only with --shift")
            return shifts.between(*ends, zone)
        if options.date is None:
            return shifts.latest_shift(settings.shifts, options.shift, now_ns, zone)
        return shifts.shift_of(settings.shifts, options.shift, _date(options.date), zone)
    except shifts.SpanError as error:
        raise UsageError(str(error)) from error


def _date(text: str) -> date:
    try:
        return date.fromisoformat(text)
    except ValueError as error:
        raise UsageError(f"--date {text}: expected a date such as 2026-11-26") from error
