"""The command that works on whole archives: scan."""

from __future__ import annotations

import argparse
import os
from pathlib import Path
from typing import TYPE_CHECKING

from tscc_stream.cli.command import Commands, UsageError, add_command, config_of

if TYPE_CHECKING:
    from tscc_stream.scan.run import Place


def add(commands: Commands) -> None:
    """Add it."""
    parser = add_command(
        commands, "scan", "classify for archives of years: tables in Parquet", "scan archive/ --out scanned/", _scan
    )
    parser.add_argument("paths", nargs="+", type=Path, metavar="PATH", help="files or folders of recordings")
    parser.add_argument("--out", required=True, type=Path, metavar="DIR", help="a new folder, or one to go on with")
    parser.add_argument("--model", metavar="DIR", help="model package; default: the configuration's")
    parser.add_argument("--config", type=Path, metavar="FILE", help="default: the shipped configuration")
    parser.add_argument("--workers", default="auto", metavar="N|auto", help="processes; auto: one for each core")
    parser.add_argument(
        "--part-hours", type=float, default=24.0, metavar="H", help="how archive time is cut (default 24)"
    )
    parser.add_argument("--windows", action="store_true", help="store the windows as well, for training")
    parser.add_argument(
        "--ray", default="off", metavar="local|ADDRESS|off", help="place the work by Ray (default: off)"
    )


def _scan(options: argparse.Namespace) -> int:
    from tscc_stream import package  # noqa: PLC0415  # loaded where it is needed
    from tscc_stream.scan.run import Options, scan  # noqa: PLC0415  # loaded where it is needed

    settings, folder = config_of(options)
    model = package.find(options.model) if options.model else package.find(settings.model, folder)
    how = Options(_workers(options), _part_hours(options.part_hours), options.windows)
    return scan(options.paths, options.out, settings, model, how, _place(options.ray))


def _place(ray: str) -> Place:
    if ray == "off":
        from tscc_stream.scan.local import Local  # noqa: PLC0415  # loaded where it is needed

        return Local
    from tscc_stream.scan import on_ray  # noqa: PLC0415  # loaded where it is needed

    return on_ray.placing(ray)


def _workers(options: argparse.Namespace) -> int:
    """0: as many as a cluster has cores."""
    text = options.workers
    if text == "auto":
        return len(os.sched_getaffinity(0)) if options.ray in ("off", "local") else 0
    if not text.isdigit() or not 1 <= int(text) <= 1024:
        raise UsageError(f"--workers {text}: expected auto or a whole number from 1 to 1024")
    return int(text)


def _part_hours(hours: float) -> float:
    if not 1e-3 <= hours <= 24 * 366:
        raise UsageError(f"--part-hours {hours:g}: expected 0.001 to 8784")
    return hours
