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


def needs_config(parser: argparse.ArgumentParser) -> None:
    """--config FILE, without which the command does nothing."""
    parser.add_argument("--config", type=Path, required=True, metavar="FILE", help="the site's")


def needs_site(parser: argparse.ArgumentParser) -> None:
    """--config FILE or --state-dir DIR: whose state folder. `site_of` reads them."""
    where = parser.add_mutually_exclusive_group(required=True)
    where.add_argument("--config", type=Path, metavar="FILE", help="the site's, which names its state_dir")
    where.add_argument("--state-dir", type=Path, metavar="DIR", help="the daemon's, without a configuration")


def site_of(options: argparse.Namespace) -> tuple[Config, Path]:
    """As `config_of`, with the state folder that was given."""
    settings, folder = config_of(options)
    if options.config is None:
        settings = settings.model_copy(update={"state_dir": str(options.state_dir.absolute())})
    return settings, folder


def journal_in(state_dir: Path) -> Path:
    """The daemon's journal. Raises UsageError where none is there."""
    path = state_dir / "journal.sqlite"
    if not path.is_file():
        raise UsageError(
            f"journal {path.absolute()}: no such file; the daemon makes it when it first starts (is state_dir right?)"
        )
    return path


def whole(text: str) -> int:
    """A whole number of the command line."""
    try:
        return int(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text}: expected a whole number") from error


def real(text: str) -> float:
    """A number of the command line."""
    try:
        return float(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(f"{text}: expected a number") from error


def positive(text: str) -> float:
    """A number above 0."""
    number = real(text)
    if not number > 0:
        raise argparse.ArgumentTypeError(f"{text}: expected more than 0")
    return number


def count(text: str) -> int:
    """How many, at least one."""
    number = whole(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"{text}: expected 1 or more")
    return number


def sequence(text: str) -> int:
    """A message's seq."""
    number = whole(text)
    if not 0 <= number < 2**63:
        raise argparse.ArgumentTypeError(f"{text}: expected a message's seq, 0 or more")
    return number


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
