"""What every command needs: its parser, its errors, its configuration."""

from __future__ import annotations

import argparse
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from tscc_stream.config import Config

PROGRAM = "tscc-stream"
Commands = Any  # argparse's own type for a set of sub-commands is private
Handler = Callable[[argparse.Namespace], int]


class UsageError(Exception):
    """A command that cannot be carried out as it was given."""


def add_command(commands: Commands, name: str, text: str, example: str, run: Handler) -> argparse.ArgumentParser:
    """A sub-command with an example in its help."""
    parser: argparse.ArgumentParser = commands.add_parser(
        name,
        help=text,
        description=text[0].upper() + text[1:] + ".",
        epilog=f"example: {PROGRAM} {example}",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--debug", action="store_true", default=argparse.SUPPRESS, help=argparse.SUPPRESS)
    parser.set_defaults(run=run)
    return parser


def config_of(options: argparse.Namespace) -> tuple[Config, Path]:
    """The configuration that a command was given, or the shipped one; and the folder its paths are relative to."""
    from tscc_stream import config  # noqa: PLC0415 takes a tenth of a second

    if options.config is None:
        return config.shipped(), Path.cwd()
    return made_of(options)(config.load(options.config)), options.config.resolve().parent


def add_shard(parser: argparse.ArgumentParser) -> None:
    """The option that says which shard of a configuration for several is meant."""
    parser.add_argument(
        "--shard", type=int, metavar="I", help="of shard.count, 1 for the first: with its own state folder and ports"
    )


def made_of(options: argparse.Namespace) -> Callable[[Config], Config]:
    """What the command makes of a configuration file: as it is, or one shard's."""
    from tscc_stream.sharded import for_shard  # noqa: PLC0415 takes a tenth of a second

    index = getattr(options, "shard", None)
    return (lambda config: config) if index is None else partial(for_shard, index=index)
