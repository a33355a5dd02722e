"""The command `evaluate`: models and stored arrays against known truth."""

from __future__ import annotations

import argparse
from pathlib import Path

from tscc_stream import package
from tscc_stream.cli.command import Commands, UsageError, add_command

_FORMS = "--model with --data or --stream, or --representations with --labels"


def add(commands: Commands) -> None:
    """Add it."""
    parser = add_command(
        commands,
        "evaluate",
        "how good a model is where the truth is known, beside simple methods",
        "evaluate --model models/rutford --data labelled.npz --report report/",
        _evaluate,
    )
    windows = parser.add_argument_group("a model on labelled windows")
    windows.add_argument("--model", metavar="DIR")
    windows.add_argument("--data", type=Path, metavar="FILE.npz", help="windows with y, as dataset build writes them")
    windows.add_argument(
        "--representation",
        choices=("series", "spectrogram"),
        default="series",
        help="what the probes beside the model's representation are taught on (default series)",
    )
    arrays = parser.add_argument_group("stored arrays")
    arrays.add_argument("--representations", type=Path, metavar="R.npy", help="[n, dimensions]")
    arrays.add_argument("--labels", type=Path, metavar="Y.npy", help="class of each, [n]")
    arrays.add_argument("--assignments", type=Path, metavar="P.npy", help="cluster of each, [n]")
    parser.add_argument("--report", type=Path, metavar="DIR", help="report.json, report.md and figures")
    parser.add_argument("--seed", type=int, default=0, metavar="S")


def _evaluate(options: argparse.Namespace) -> int:
    from tscc_stream.learn import evaluate, report  # noqa: PLC0415 torch takes seconds

    if options.representations is not None and options.labels is not None and options.model is None:
        arrays = evaluate.evaluate_arrays(
            options.representations, options.labels, options.assignments, seed=options.seed
        )
        print(report.markdown(arrays.report), end="")
        if options.report is not None:
            evaluate.write_arrays(arrays, options.report)
        return 0
    if options.model is not None and options.data is not None and options.representations is None:
        model = package.find(options.model)
        judged = evaluate.evaluate_model(model, options.data, representation=options.representation, seed=options.seed)
        print(report.markdown(judged.report), end="")
        if options.report is not None:
            evaluate.write_model(judged, options.report)
        return 0
    raise UsageError(f"evaluate: expected {_FORMS}")
