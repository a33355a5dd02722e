"""Commands for whoever keeps a site running: doctor, support-bundle."""

from __future__ import annotations

import argparse
import os
import sys
from pathlib import Path

from tscc_stream.cli.command import Commands, add_command, add_shard, positive


def add(commands: Commands) -> None:
    """Add them all."""
    for add_one in (_add_doctor, _add_support_bundle):
        add_one(commands)


def _add_doctor(commands: Commands) -> None:
    parser = add_command(
        commands,
        "doctor",
        "can this machine and this site run: one line per check, with what to do",
        "doctor --config config.yaml",
        _doctor,
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="the site's; without it, the machine alone")
    add_shard(parser)
    parser.add_argument("--json", action="store_true", help="for programs")
    parser.add_argument(
        "--seconds", type=positive, default=10.0, metavar="S", help="for each check at most (default 10)"
    )


def _doctor(options: argparse.Namespace) -> int:
    from tscc_stream.apps import doctor  # noqa: PLC0415  # loaded where it is needed

    colour = sys.stdout.isatty() and not os.environ.get("NO_COLOR")
    findings = []
    for finding in doctor.examine(options.config, options.seconds, options.shard):
        findings.append(finding)
        if not options.json:
            print(doctor.line(finding, colour=colour), flush=True)
    print(doctor.as_json(findings) if options.json else doctor.summary(findings))
    return 1 if any(finding.state == "fail" for finding in findings) else 0


def _add_support_bundle(commands: Commands) -> None:
    parser = add_command(
        commands,
        "support-bundle",
        "one file that says how a site is, without its secrets, for whoever shall help",
        "support-bundle --config config.yaml --out support.tar.gz",
        _support_bundle,
    )
    parser.add_argument("--config", type=Path, metavar="FILE", help="the site's; without it, the machine alone")
    add_shard(parser)
    parser.add_argument("--out", type=Path, required=True, metavar="FILE.tar.gz", help="a new file")
    parser.add_argument("--log", type=Path, metavar="FILE", help="the daemon's log, where journald does not have it")


def _told(text: str) -> None:
    print(text, file=sys.stderr)


def _support_bundle(options: argparse.Namespace) -> int:
    from tscc_stream.apps import support  # noqa: PLC0415  # loaded where it is needed

    size = support.write(options.config, options.out, options.log, _told, options.shard)
    print(f"{options.out}: {size / 1024:.0f} KiB; look into it before you send it: tar xzf {options.out}")
    return 0
