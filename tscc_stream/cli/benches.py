"""The command `bench`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

from tscc_stream.cli.command import Commands, UsageError, add_command

if TYPE_CHECKING:
    from tscc_stream.bench.measure import Results

ALL, SCALE = "all", "scale"
MOST = 1e7
"""Of anything that a plan is asked for."""


def add(commands: Commands) -> None:
    """Add it."""
    parser = add_command(
        commands, "bench", "measure side by side, in one run", "bench training --json training.json", _bench
    )
    parser.add_argument("name", nargs="?", choices=(*_benches(), SCALE, ALL), default=ALL, help="default: all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="{bench: {variant: {value, unit, ratio}}}")
    plan = parser.add_argument_group(f"{SCALE}: what a site needs, by the costs measured here")
    plan.add_argument("--channels", type=int, metavar="N", help="of all sensors")
    plan.add_argument("--rate", type=float, metavar="HZ", help="samples a second of each")
    plan.add_argument("--triggers", type=float, metavar="T", help="a second, of all channels together")
    plan.add_argument("--subscribers", type=int, metavar="S", help="that get every message; default: 1")
    plan.add_argument("--days", type=float, metavar="D", help="that the journal keeps; default: 90")
    plan.add_argument("--costs", type=Path, metavar="FILE", help="by an earlier run's --json, without measuring again")


def _benches() -> dict[str, Callable[[], Results]]:
    return {
        "frontend": _frontend,
        "ingest": _ingest,
        "encoder": _encoder,
        "training": _training,
        "latency": _latency,
        "memory": _memory,
        "replay": _replay,
        "fanout": _fanout,
        "console": _console,
        "relabel": _relabel,
    }


def _frontend() -> Results:
    from tscc_stream.bench import frontend  # noqa: PLC0415 obspy takes a second

    return frontend.run()


def _ingest() -> Results:
    from tscc_stream.bench import ingest  # noqa: PLC0415  # loaded where it is needed

    return ingest.run()


def _encoder() -> Results:
    from tscc_stream.bench import encoder  # noqa: PLC0415 torch takes seconds

    return encoder.run()


def _training() -> Results:
    from tscc_stream.bench import training  # noqa: PLC0415 torch takes seconds

    return training.run()


def _latency() -> Results:
    from tscc_stream.bench import latency  # noqa: PLC0415  # loaded where it is needed

    return latency.run()


def _memory() -> Results:
    from tscc_stream.bench import memory  # noqa: PLC0415  # loaded where it is needed

    return memory.run()


def _replay() -> Results:
    from tscc_stream.bench import replay  # noqa: PLC0415  # loaded where it is needed

    return replay.run()


def _fanout() -> Results:
    from tscc_stream.bench import fanout  # noqa: PLC0415  # loaded where it is needed

    return fanout.run()


def _console() -> Results:
    from tscc_stream.bench import console  # noqa: PLC0415  # loaded where it is needed

    return console.run()


def _relabel() -> Results:
    from tscc_stream.bench import relabel  # noqa: PLC0415 torch takes seconds

    return relabel.run()


def _scale(options: argparse.Namespace) -> Results:
    """The runs, or the costs of an earlier one; then what a site needs, where one is given."""
    from tscc_stream.bench import scale, scale_costs, scale_plan  # noqa: PLC0415 scipy takes a while
    from tscc_stream.bench.scale_run import Load  # noqa: PLC0415  # loaded where it is needed

    results: Results = {}
    if options.costs is None:
        results, costs = scale.run()
    else:
        costs = scale_costs.read(options.costs)
    if options.channels is not None:
        site = Load(
            options.channels, options.rate, options.triggers, 1 if options.subscribers is None else options.subscribers
        )
        needs = scale_plan.needs(costs, site, options.days or scale_plan.DAYS)
        print(scale_plan.told(needs, "this run" if options.costs is None else str(options.costs)))
        results |= scale_plan.figures(needs)
    return results


def _check_site(options: argparse.Namespace) -> None:
    """Whether the options of `bench scale` go together. Raises UsageError."""
    needed = {f"--{name}": getattr(options, name) for name in ("channels", "rate", "triggers")}
    given = needed | {f"--{name}": getattr(options, name) for name in ("subscribers", "days", "costs")}
    named = [option for option, value in given.items() if value is not None]
    if named and options.name != SCALE:
        raise UsageError(f"{named[0]}: only `bench {SCALE}` takes it")
    if named and None in needed.values():
        missing = [option for option, value in needed.items() if value is None]
        raise UsageError(f"{named[0]}: a plan needs --channels, --rate and --triggers; {missing[0]} is missing")
    for option, value in given.items():
        least = 0 if option in ("--triggers", "--subscribers") else 1e-3
        if isinstance(value, int | float) and not least <= value < MOST:
            raise UsageError(f"{option} {value:g}: expected a number from {least:g} to {MOST:g}")


def _bench(options: argparse.Namespace) -> int:
    from tscc_stream.bench.measure import machine, table  # noqa: PLC0415 torch takes seconds

    if options.json is not None and not options.json.parent.is_dir():
        raise UsageError(f"--json {options.json}: there is no folder {options.json.parent}")
    _check_site(options)
    benches: dict[str, Callable[[], Results]] = {**_benches(), SCALE: partial(_scale, options)}
    print(machine(), flush=True)
    results: Results = {}
    for name in benches if options.name == ALL else (options.name,):
        results |= benches[name]()
    if options.costs is None:
        print(table(results))
    if options.json is not None:
        document = {
            bench: {variant: figure.document() for variant, figure in variants.items()}
            for bench, variants in results.items()
        }
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0
