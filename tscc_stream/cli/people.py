"""Commands for people: console."""

from __future__ import annotations

import argparse
import logging
import sys

from tscc_stream.cli.command import Commands, add_command, add_shard, config_of, needs_config


def add(commands: Commands) -> None:
    """Add them all."""
    parser = add_command(
        commands, "console", "the web console: live wall, events, clusters, health", "console --config site.yaml",
        _console,
    )  # fmt: skip
    needs_config(parser)
    parser.add_argument("--bind", metavar="HOST:PORT", help="instead of console.bind")
    add_shard(parser)


def _console(options: argparse.Namespace) -> int:
    from tscc_stream import config  # noqa: PLC0415  # loaded where it is needed
    from tscc_stream.apps.console import web  # noqa: PLC0415  # loaded where it is needed

    settings, folder = config_of(options)
    if options.bind is not None:
        settings = config.changed(settings, "console", bind=options.bind)
    logging.basicConfig(stream=sys.stderr, level=logging.INFO, format="%(asctime)s %(levelname)s %(name)s: %(message)s")
    return web.run(settings, folder)
