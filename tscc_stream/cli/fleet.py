"""Commands over many daemons: coincide."""

from __future__ import annotations

import argparse
from pathlib import Path

from tscc_stream.cli.command import Commands, add_command, config_of


def add(commands: Commands) -> None:
    """Add them all."""
    parser = add_command(
        commands,
        "coincide",
        "network events over the detections of many daemons, such as shards, published like a daemon's",
        "coincide --config centre.yaml",
        _coincide,
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE")


def _coincide(options: argparse.Namespace) -> int:
    from tscc_stream.apps.coincide import run  # noqa: PLC0415  # loaded where it is needed

    settings, _ = config_of(options)
    return run(settings)
