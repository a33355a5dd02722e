"""Commands for alerts: alert run, test, replay, list, ack, suppress."""

from __future__ import annotations

import argparse
import getpass
import json
import re
import sys
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any
from zoneinfo import ZoneInfo

from tscc_stream.cli.command import PROGRAM, Commands, UsageError, add_command, journal_in, needs_config

if TYPE_CHECKING:
    from tscc_stream.config import Config
    from tscc_stream.edges.alert_journal import AlertJournal, StoredAlert
    from tscc_stream.edges.people import PeopleFile

_UNITS = {"s": 1, "m": 60, "h": 3600}
_DURATION = re.compile(r"(\d{1,6})([smh])")
NS = 10**9


def add(commands: Commands) -> None:
    """Add `alert` with its actions."""
    parser = commands.add_parser("alert", help="tell people: run, test, replay, list, ack, suppress")
    actions = parser.add_subparsers(metavar="ACTION", required=True)
    for add_one in (_add_run, _add_test, _add_replay, _add_list, _add_ack, _add_suppress):
        needs_config(add_one(actions))


def _add_run(actions: Commands) -> argparse.ArgumentParser:
    return add_command(
        actions, "run", "read the daemon's messages and tell people", "alert run --config site.yaml", _run
    )


def _add_test(actions: Commands) -> argparse.ArgumentParser:
    parser = add_command(
        actions,
        "test",
        "send a marked rehearsal through the real actions",
        "alert test --config site.yaml --rule swarm",
        _test,
    )
    parser.add_argument("--rule", metavar="NAME", help="to whom this rule or watch speaks (default: every action)")
    parser.add_argument(
        "--wait", type=_duration_ns, default=60 * NS, metavar="TIME", help="for the deliveries (default 60s)"
    )
    return parser


def _add_replay(actions: Commands) -> argparse.ArgumentParser:
    parser = add_command(
        actions,
        "replay",
        "what the rules would have done over the journal; sends nothing",
        "alert replay --config site.yaml --since 2026-11-20",
        _replay,
    )
    parser.add_argument(
        "--since", required=True, metavar="TIME|SEQ", help="onsets from this time on (UTC), or messages after this seq"
    )
    parser.add_argument("--all", action="store_true", help="also what was withheld, and why")
    parser.add_argument("--jsonl", action="store_true", help="one JSON object a line, with what was withheld")
    return parser


def _add_list(actions: Commands) -> argparse.ArgumentParser:
    parser = add_command(
        actions, "list", "recent alerts, their deliveries and answers", "alert list --config site.yaml", _list
    )
    parser.add_argument("--most", type=_count, default=20, metavar="N", help="the latest so many (default 20)")
    parser.add_argument("--jsonl", action="store_true", help="one JSON object a line, with every attempt")
    parser.add_argument("--withheld", action="store_true", help="instead: events that were not told, and why")
    return parser


def _add_ack(actions: Commands) -> argparse.ArgumentParser:
    parser = add_command(
        actions,
        "ack",
        "answer an alert: it is not repeated any more",
        'alert ack 3fa9c1d20b77 --config site.yaml --note "section cleared"',
        _ack,
    )
    parser.add_argument("id", metavar="ID", help="of the alert, or how it begins")
    parser.add_argument("--note", default="", metavar="TEXT", help="what was done")
    parser.add_argument("--who", default=None, metavar="NAME", help="(default: the user's name)")
    return parser


def _add_suppress(actions: Commands) -> argparse.ArgumentParser:
    parser = add_command(
        actions,
        "suppress",
        "announce a blast or drilling: small known events are not told meanwhile",
        "alert suppress --config site.yaml --for 30m --reason blast",
        _suppress,
    )
    what = parser.add_mutually_exclusive_group(required=True)
    what.add_argument("--for", dest="duration", type=_duration_ns, metavar="TIME", help="such as 90s, 30m or 2h")
    what.add_argument("--end", action="store_true", help="end what was announced")
    parser.add_argument("--reason", metavar="TEXT", help="with --for: blast, drilling, ...")
    parser.add_argument("--who", default=None, metavar="NAME", help="(default: the user's name)")
    return parser


def _duration_ns(text: str) -> int:
    match = _DURATION.fullmatch(text)
    if match is None or int(match.group(1)) == 0:
        raise argparse.ArgumentTypeError(f"{text}: expected a time such as 90s, 30m or 2h")
    return int(match.group(1)) * _UNITS[match.group(2)] * NS


def _count(text: str) -> int:
    if not text.isdigit() or not 1 <= int(text) <= 100_000:
        raise argparse.ArgumentTypeError(f"{text}: expected 1 to 100000")
    return int(text)


def _settings(options: argparse.Namespace) -> tuple[Config, Path]:
    from tscc_stream import config  # noqa: PLC0415  # loaded where it is needed

    settings = config.load(options.config)
    return settings, Path(settings.state_dir)


def _run(options: argparse.Namespace) -> int:
    from tscc_stream.apps.alert_run import run  # noqa: PLC0415  # loaded where it is needed

    settings, state_dir = _settings(options)
    return run(settings, state_dir, options.config.resolve().parent)


def _test(options: argparse.Namespace) -> int:
    from tscc_stream.apps.alert_rehearsal import rehearse  # noqa: PLC0415  # loaded where it is needed

    settings, state_dir = _settings(options)
    state_dir.mkdir(parents=True, exist_ok=True)
    alert = rehearse(settings, state_dir, options.rule, options.wait / NS)
    for one in alert.deliveries:
        print(f"{one.action}: {one.state}: {one.outcome or 'not tried yet'}")
    return 0 if all(one.state == "delivered" for one in alert.deliveries) else 1


def _replay(options: argparse.Namespace) -> int:
    from tscc_stream.apps.alert_people import announced  # noqa: PLC0415  # loaded where it is needed
    from tscc_stream.apps.alert_replay import replay  # noqa: PLC0415  # loaded where it is needed
    from tscc_stream.apps.alert_text import clock  # noqa: PLC0415  # loaded where it is needed
    from tscc_stream.edges.people import FILE, PeopleFile  # noqa: PLC0415  # loaded where it is needed

    settings, state_dir = _settings(options)
    journal = journal_in(state_dir)
    seq, since_ns = _since(options.since)
    windows = []
    if (state_dir / FILE).is_file():
        people = PeopleFile(state_dir / FILE, read_only=True)
        windows = list(announced(people).values())
        people.close()
    _warn_of_names(settings, state_dir, options.config.resolve().parent)
    zone, told, withheld = ZoneInfo(settings.time_zone), 0, 0
    for one in replay(
        journal, settings.alerts, settings.shifts, zone, since_seq=seq, since_ns=since_ns, announced=windows
    ):
        is_alert = one.what in {"event", "more"}
        told, withheld = told + is_alert, withheld + (not is_alert)
        if options.jsonl:
            print(json.dumps({name: getattr(one, name) for name in one.__slots__}))
        elif is_alert or options.all:
            print(f"{clock(one.onset_ns, zone)}  {one.severity:<8}  {one.rule:<20}  {one.what:<10}  {one.text}")
    if not options.jsonl:
        print(
            f"{told} alerts; {withheld} events withheld{'' if options.all or not withheld else ' (--all shows them)'}"
        )
    return 0


def _warn_of_names(settings: Config, state_dir: Path, folder: Path) -> None:
    from tscc_stream.apps.alert_names import names_in_use, without_cluster  # noqa: PLC0415  # loaded where it is needed

    known = names_in_use(settings, state_dir, folder)
    for sentence in () if known is None else without_cluster(settings, known):
        print(f"{PROGRAM}: warning: {sentence}", file=sys.stderr)


def _since(text: str) -> tuple[int, int | None]:
    from tscc_stream.sampling import time_ns_of  # noqa: PLC0415  # loaded where it is needed

    if (text.isdigit() and len(text) < 8) or (text.isdigit() and len(text) > 8 and int(text) < 2**63):
        return int(text), None
    try:
        return 0, time_ns_of(text)
    except ValueError as error:
        raise UsageError(f"--since {error}, or a seq") from error


def _journal(state_dir: Path) -> AlertJournal:
    from tscc_stream.edges.alert_journal import FILE, AlertJournal  # noqa: PLC0415  # loaded where it is needed

    path = state_dir / FILE
    if not path.is_file():
        raise UsageError(f"{path}: no such file; `{PROGRAM} alert run` makes it when it first starts")
    return AlertJournal(path, read_only=True)


def _people(state_dir: Path) -> PeopleFile:
    from tscc_stream.edges.people import FILE, PeopleFile  # noqa: PLC0415  # loaded where it is needed

    if not state_dir.is_dir():
        raise UsageError(f"state_dir {state_dir}: no such folder; expected that of a daemon that has run")
    return PeopleFile(state_dir / FILE)


def _list(options: argparse.Namespace) -> int:
    from tscc_stream.apps.alert_people import answers_in  # noqa: PLC0415  # loaded where it is needed

    settings, state_dir = _settings(options)
    zone = ZoneInfo(settings.time_zone)
    with _journal(state_dir) as journal:
        if options.withheld:
            return _list_withheld(journal, zone, options)
        answers = answers_in(state_dir)
        for alert in reversed(journal.recent(options.most)):
            answer = answers.get(alert.id)
            said = None if answer is None else {"who": answer.who, "at_ns": answer.at_ns, **answer.document}
            if options.jsonl:
                print(json.dumps(_as_document(journal, alert, said)))
            else:
                _print(alert, said, zone)
    return 0


def _list_withheld(journal: AlertJournal, zone: ZoneInfo, options: argparse.Namespace) -> int:
    from tscc_stream.apps.alert_text import clock  # noqa: PLC0415  # loaded where it is needed

    for one in reversed(journal.withheld(options.most)):
        if options.jsonl:
            print(json.dumps({name: getattr(one, name) for name in one.__slots__}))
        else:
            print(f"{clock(one.onset_ns, zone)}  {one.rule:<20}  {one.why:<10}  {one.reason}  {one.uid}")
    counts = ", ".join(f"{why} {count}" for why, count in sorted(journal.withheld_counts().items()))
    if not options.jsonl:
        print(f"withheld in all: {counts or 'none'}")
    return 0


def _as_document(journal: AlertJournal, alert: StoredAlert, answer: dict[str, Any] | None) -> dict[str, Any]:
    deliveries = [
        {
            **{name: getattr(one, name) for name in ("action", "round", "state", "outcome")},
            "attempts": [
                {"at_ns": a.at_ns, "delivered": a.delivered, "outcome": a.outcome} for a in journal.attempts(one.number)
            ],
        }
        for one in alert.deliveries
    ]
    return {**alert.document, "acknowledged": answer, "deliveries": deliveries}


def _print(alert: StoredAlert, answer: dict[str, Any] | None, zone: ZoneInfo) -> None:
    from tscc_stream.apps.alert_text import clock  # noqa: PLC0415  # loaded where it is needed

    answered = "not acknowledged" if answer is None else f"acknowledged by {answer['who']}: {answer.get('note') or '-'}"
    print(f"{alert.id}  {clock(alert.at_ns, zone)}  {alert.severity:<8}  {alert.title}")
    print(f"{'':14}sensors: {alert.document['sensor_health'].get('text')}; {answered}")
    for one in alert.deliveries:
        again = f" (repetition {one.round})" if one.round else ""
        tries = "1 try" if one.attempts == 1 else f"{one.attempts} tries"
        print(f"{'':14}{one.action}{again}: {one.state} after {tries}: {one.outcome or '-'}")


def _ack(options: argparse.Namespace) -> int:
    from tscc_stream.apps.alert_people import acknowledge  # noqa: PLC0415  # loaded where it is needed

    _, state_dir = _settings(options)
    if not options.id:
        raise UsageError(f"alert ack: expected an alert's id, or how it begins; `{PROGRAM} alert list` shows them")
    with _journal(state_dir) as journal:
        found = journal.beginning_with(options.id)
    if len(found) != 1:
        what = f"begins {len(found)} or more ids: {', '.join(found)}" if found else "no alert has such an id"
        raise UsageError(f"alert ack {options.id}: {what}; `{PROGRAM} alert list` shows them")
    people = _people(state_dir)
    acknowledge(people, found[0], options.note, options.who or _user(), time.time_ns())
    people.close()
    print(f"alert {found[0]}: acknowledged")
    return 0


def _suppress(options: argparse.Namespace) -> int:
    from tscc_stream.apps.alert_people import LONGEST_NS, announce, end_announced  # noqa: PLC0415  # loaded where it is needed
    from tscc_stream.apps.alert_text import clock  # noqa: PLC0415  # loaded where it is needed
    from tscc_stream.apps.alert_times import Announced  # noqa: PLC0415  # loaded where it is needed

    settings, state_dir = _settings(options)
    who, now_ns = options.who or _user(), time.time_ns()
    people = _people(state_dir)
    if options.end:
        print(f"{end_announced(people, who, now_ns)} announced windows ended")
        people.close()
        return 0
    if not options.reason or options.duration > LONGEST_NS:
        people.close()
        raise UsageError("alert suppress: expected --reason, and --for at most 24h")
    if settings.alerts.suppress_below_amplitude == 0.0:
        people.close()
        raise UsageError(
            "alert suppress: expected alerts.suppress_below_amplitude (counts) in the configuration: from it on an "
            "event is told even during a blast"
        )
    announce(people, Announced(now_ns, now_ns + options.duration, options.reason), who, now_ns)
    people.close()
    print(
        f"{options.reason}: until {clock(now_ns + options.duration, ZoneInfo(settings.time_zone))} known events below "
        f"{settings.alerts.suppress_below_amplitude:g} counts are not told; unknown and larger ones are"
    )
    return 0


def _user() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError):  # an account without a name
        return "command line"
