"""Command bridge."""

from __future__ import annotations

import argparse
from pathlib import Path

from tscc_stream.cli.command import Commands, add_command


def add(commands: Commands) -> None:
    """Add `bridge`."""
    parser = add_command(
        commands,
        "bridge",
        "hand the messages of daemons to NATS JetStream, so that a centre sees all sites",
        "bridge --config site.yaml",
        _run,
    )
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="with a section `bridge`")


def _run(options: argparse.Namespace) -> int:
    from tscc_stream import config  # noqa: PLC0415  # loaded where it is needed
    from tscc_stream.apps.bridge_run import run  # noqa: PLC0415  # loaded where it is needed

    settings = config.load(options.config)
    return run(settings, Path(settings.state_dir))
