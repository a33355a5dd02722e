"""The command line: arguments in, one function called, errors as one sentence on stderr."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from tscc_stream import __version__, config, package

_Commands = Any  # argparse's own type for a set of sub-commands is private
PROGRAM = "tscc-stream"


class UsageError(Exception):
    """A command that cannot be carried out as it was given."""


def main(arguments: list[str] | None = None) -> int:
    """Exit status: 0 done, 1 failed, 2 wrong usage or configuration."""
    options = _parser().parse_args(arguments)
    try:
        return int(options.run(options))
    except KeyboardInterrupt:
        return 130
    except BrokenPipeError:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # whoever read our output has gone
        return 0
    except config.ConfigError as error:
        if options.debug:
            raise
        for mistake in error.mistakes:
            print(f"{PROGRAM}: {mistake}", file=sys.stderr)
        return 2
    except Exception as error:  # noqa: BLE001 the one place where errors become a sentence; --debug shows the rest
        if options.debug:
            raise
        print(f"{PROGRAM}: {_sentence(error)}", file=sys.stderr)
        return 1


def _sentence(error: Exception) -> str:
    text = " ".join(str(error).split())
    known = type(error).__module__.startswith("tscc_stream")
    return text if known and text else f"{type(error).__name__}: {text} (--debug shows where)"


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog=PROGRAM, description="Real-time clustering of microseismic events: SeedLink in, clustered detections out."
    )
    parser.add_argument("--version", action="version", version=f"{PROGRAM} {__version__}")
    parser.add_argument("--debug", action="store_true", help="show tracebacks")
    commands = parser.add_subparsers(metavar="COMMAND", required=True)
    for add in (
        _add_run,
        _add_demo,
        _add_classify,
        _add_serve,
        _add_simulate,
        _add_tail,
        _add_train,
        _add_dataset,
        _add_model,
        _add_check_config,
    ):
        add(commands)
    return parser


def _add(
    commands: _Commands, name: str, text: str, example: str, run: Callable[[argparse.Namespace], int]
) -> argparse.ArgumentParser:
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


def _config_of(options: argparse.Namespace) -> tuple[config.Config, Path]:
    """The configuration that a command was given, or the shipped one; and the folder its paths are relative to."""
    if options.config is None:
        return config.shipped(), Path.cwd()
    return config.load(options.config), options.config.resolve().parent


def _add_run(commands: _Commands) -> None:
    parser = _add(commands, "run", "the daemon", "run --config config.yaml", _run)
    parser.add_argument("--config", type=Path, required=True, metavar="FILE")


def _run(options: argparse.Namespace) -> int:
    from tscc_stream.daemon import run  # noqa: PLC0415 torch takes seconds, which the other commands need not wait for

    settings, folder = _config_of(options)
    return run(settings, folder)


def _add_demo(commands: _Commands) -> None:
    parser = _add(
        commands, "demo", "recordings of real earthquakes through a real daemon", "demo --simulate 8 --speed 10", _demo
    )
    parser.add_argument("--simulate", type=int, metavar="N", help="N channels of a simulated mine instead")
    parser.add_argument("--speed", type=float, default=10.0, metavar="X", help="times real time (default 10)")
    parser.add_argument("--jsonl", action="store_true", help="one message per line on stdout and nothing else there")
    parser.add_argument("--keep-running", action="store_true", help="keep the daemon up until Ctrl-C")


def _demo(options: argparse.Namespace) -> int:
    from tscc_stream.demo import demo  # noqa: PLC0415

    return demo(options.simulate, options.speed, jsonl=options.jsonl, keep_running=options.keep_running)


def _add_classify(commands: _Commands) -> None:
    parser = _add(
        commands, "classify", "the pipeline over files or folders", "classify archive/ --output csv", _classify
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH")
    parser.add_argument("--model", metavar="DIR", help="model package; default: the configuration's")
    parser.add_argument("--config", type=Path, metavar="FILE", help="default: the shipped configuration")
    parser.add_argument("--output", choices=("jsonl", "csv", "quakeml"), default="jsonl")


def _classify(options: argparse.Namespace) -> int:
    from tscc_stream.classify import classify  # noqa: PLC0415

    settings, folder = _config_of(options)
    model = package.find(options.model) if options.model else package.find(settings.model, folder)
    return classify(options.paths, settings, model, options.output, sys.stdout)


def _add_check_config(commands: _Commands) -> None:
    parser = _add(
        commands, "check-config", "every mistake of a configuration at once", "check-config config.yaml", _check_config
    )
    parser.add_argument("file", type=Path, metavar="FILE")


def _check_config(options: argparse.Namespace) -> int:
    settings = config.load(options.file)
    try:
        folder = package.find(settings.model, options.file.resolve().parent)
        package.load(folder)
    except package.PackageError as error:
        raise config.ConfigError([f"model: {error}"]) from error
    print(f"{options.file}: good ({len(settings.seedlink)} SeedLink server(s), model {folder.name})")
    return 0
