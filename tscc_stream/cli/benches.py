"""The command `bench`."""

from __future__ import annotations

import argparse
import json
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING

from tscc_stream.cli.command import Commands, UsageError, add_command

if TYPE_CHECKING:
    from tscc_stream.bench.measure import Results

ALL = "all"


def add(commands: Commands) -> None:
    """Add it."""
    parser = add_command(
        commands, "bench", "measure side by side, in one run", "bench training --json training.json", _bench
    )
    parser.add_argument("name", nargs="?", choices=(*_benches(), ALL), default=ALL, help="default: all")
    parser.add_argument("--json", type=Path, metavar="FILE", help="{bench: {variant: {value, unit, ratio}}}")


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


def _bench(options: argparse.Namespace) -> int:
    from tscc_stream.bench.measure import machine, table  # noqa: PLC0415 torch takes seconds

    if options.json is not None and not options.json.parent.is_dir():
        raise UsageError(f"--json {options.json}: there is no folder {options.json.parent}")
    benches = _benches()
    print(machine(), flush=True)
    results: Results = {}
    for name in benches if options.name == ALL else (options.name,):
        results |= benches[name]()
    print(table(results))
    if options.json is not None:
        document = {
            bench: {variant: figure.document() for variant, figure in variants.items()}
            for bench, variants in results.items()
        }
        options.json.write_text(json.dumps(document, indent=1) + "\n", encoding="utf-8")
    return 0
