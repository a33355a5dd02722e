"""Commands that work on recordings: classify, serve, simulate."""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

from tscc_stream import progress
from tscc_stream.cli.command import Commands, UsageError, add_command, config_of, real, whole


def add(commands: Commands) -> None:
    """Add them all."""
    for add_one in (_add_classify, _add_serve, _add_simulate):
        add_one(commands)


def _add_classify(commands: Commands) -> None:
    parser = add_command(
        commands, "classify", "the pipeline over files or folders", "classify archive/ --output csv", _classify
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH")
    parser.add_argument("--model", metavar="DIR", help="model package; default: the configuration's")
    parser.add_argument("--config", type=Path, metavar="FILE", help="default: the shipped configuration")
    parser.add_argument("--output", choices=("jsonl", "csv", "quakeml"), default="jsonl")


def _classify(options: argparse.Namespace) -> int:
    from tscc_stream import package  # noqa: PLC0415  # loaded where it is needed
    from tscc_stream.classifier import classify  # noqa: PLC0415  # loaded where it is needed

    settings, folder = config_of(options)
    model = package.find(options.model) if options.model else package.find(settings.model, folder)
    return classify(options.paths, settings, model, options.output, sys.stdout)


def _add_serve(commands: Commands) -> None:
    parser = add_command(
        commands, "serve", "a SeedLink server that replays an archive", "serve archive/ --bind 127.0.0.1:18000", _serve
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH")
    parser.add_argument("--bind", default="127.0.0.1:18000", metavar="HOST:PORT", help="port 0: any")
    parser.add_argument("--speed", default="1", metavar="X|max", help="times real time (default 1)")
    parser.add_argument("--loop", action="store_true", help="play again and again, with later times")
    parser.add_argument(
        "--start-at",
        choices=("recorded", "now", "ended"),
        default="recorded",
        help="which times records bear: their own; from now on; up to now, all at once (--loop: and on from there)",
    )
    parser.add_argument("--once", action="store_true", help="end when everything was played and read")
    parser.add_argument("--wait-for-client", action="store_true", help="begin with the first client's request for data")
    parser.add_argument("--ring-mib", type=real, default=256.0, metavar="X", help="MiB of records that are kept")


def _serve(options: argparse.Namespace) -> int:
    from tscc_stream.serve.command import parse_speed, serve_command  # noqa: PLC0415  # loaded where it is needed

    try:
        speed = parse_speed(options.speed)
    except ValueError as error:
        raise UsageError(f"--{error}") from error
    if not 0.0 < options.ring_mib < float("inf"):
        raise UsageError(f"--ring-mib {options.ring_mib:g}: expected a number above 0")
    return serve_command(
        options.paths,
        options.bind,
        speed=speed,
        loop=options.loop,
        start_at=options.start_at,
        once=options.once,
        wait_for_client=options.wait_for_client,
        ring_bytes=round(options.ring_mib * 2**20),
    )


def _add_simulate(commands: Commands) -> None:
    parser = add_command(
        commands,
        "simulate",
        "a simulated mine with known truth",
        "simulate --channels 8 --seconds 600 --rate 500 --seed 101 --out mine/",
        _simulate,
    )
    parser.add_argument("--channels", type=whole, required=True, metavar="N")
    parser.add_argument("--seconds", type=real, required=True, metavar="S")
    parser.add_argument("--rate", type=real, required=True, metavar="HZ")
    parser.add_argument("--seed", type=whole, required=True, metavar="K")
    parser.add_argument("--out", type=Path, required=True, metavar="DIR")


def _simulate(options: argparse.Namespace) -> int:
    from tscc_stream.serve.mine import simulate  # noqa: PLC0415  # loaded where it is needed

    with progress.bar("simulate") as update:
        try:
            simulate(
                options.out,
                channels=options.channels,
                seconds=options.seconds,
                rate_hz=options.rate,
                seed=options.seed,
                on_channel=update,
            )
        except FileExistsError as error:
            raise UsageError(
                f"simulate: --out {options.out}: is a file; expected a folder, or a name for one"
            ) from error
        except ValueError as error:
            raise UsageError(f"simulate: {error}") from error
    return 0
