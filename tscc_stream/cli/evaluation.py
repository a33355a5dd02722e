"""The command `evaluate`: models and stored arrays against known truth."""

from __future__ import annotations

import argparse
import io
from pathlib import Path

from tscc_stream import package, progress
from tscc_stream.cli.command import Commands, UsageError, add_command, config_of, whole
from tscc_stream.sampling import time_ns_of

_FORMS = "--model with --data, --model with --stream and --truth, or --representations with --labels"


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
    stream = parser.add_argument_group("a model on a continuous stream")
    stream.add_argument("--stream", type=Path, nargs="+", metavar="PATH", help="recordings, as classify takes them")
    stream.add_argument("--truth", type=Path, metavar="TABLE.csv", help="truth.csv of simulate, or one with p_utc_STA")
    stream.add_argument("--config", type=Path, metavar="F", help="trigger settings; default: the shipped ones")
    stream.add_argument("--from-time", metavar="ISO8601", help="judge from here on only; UTC unless it says otherwise")
    stream.add_argument("--to-time", metavar="ISO8601")
    stream.add_argument("--target", metavar="KIND", help="what alerts are for (default microseismic, or event)")
    arrays = parser.add_argument_group("stored arrays")
    arrays.add_argument("--representations", type=Path, metavar="R.npy", help="[n, dimensions]")
    arrays.add_argument("--labels", type=Path, metavar="Y.npy", help="class of each, [n]")
    arrays.add_argument("--assignments", type=Path, metavar="P.npy", help="cluster of each, [n]")
    parser.add_argument("--report", type=Path, metavar="DIR", help="report.json, report.md and figures")
    parser.add_argument("--seed", type=whole, default=0, metavar="S")


def _evaluate(options: argparse.Namespace) -> int:
    """Exactly one form must be there, whole."""
    forms = {
        _evaluate_arrays: (options.representations, options.labels),
        _evaluate_windows: (options.model, options.data),
        _evaluate_stream: (options.model, options.stream, options.truth),
    }
    begun = (options.representations, options.data, options.stream)
    for run, needed in forms.items():
        if None not in needed and sum(one is not None for one in begun) == 1:
            return run(options)
    raise UsageError(f"evaluate: expected {_FORMS}")


def _evaluate_arrays(options: argparse.Namespace) -> int:
    from tscc_stream.learn import evaluate, evaluation_report, report  # noqa: PLC0415 torch takes seconds

    with progress.bar("evaluate"):
        arrays = evaluate.evaluate_arrays(
            options.representations, options.labels, options.assignments, seed=options.seed
        )
    print(report.markdown(arrays.report), end="")
    if options.report is not None:
        evaluation_report.write_arrays(arrays, options.report)
    return 0


def _evaluate_windows(options: argparse.Namespace) -> int:
    from tscc_stream.learn import evaluate, evaluation_report, report  # noqa: PLC0415  # loaded where it is needed

    model = package.find(options.model)
    with progress.bar("evaluate") as update:
        judged = evaluate.evaluate_model(
            model, options.data, representation=options.representation, seed=options.seed, update=update
        )
    print(report.markdown(judged.report), end="")
    if options.report is not None:
        evaluation_report.write_model(judged, options.report)
    return 0


def _evaluate_stream(options: argparse.Namespace) -> int:
    from tscc_stream.classifier import classify  # noqa: PLC0415  # loaded where it is needed
    from tscc_stream.edges import archive  # noqa: PLC0415  # loaded where it is needed
    from tscc_stream.learn import stream_report, stream_scores, stream_truth  # noqa: PLC0415  # loaded where it is needed
    from tscc_stream.source_id import name_of  # noqa: PLC0415  # loaded where it is needed

    settings, _ = config_of(options)
    truth, found = stream_truth.read(options.truth), archive.index(options.stream)
    span_ns = (
        max(found.start_ns, _time_ns("--from-time", options.from_time, found.start_ns)),
        min(found.stop_ns, _time_ns("--to-time", options.to_time, found.stop_ns)),
    )
    rows = io.StringIO()
    classify(options.stream, settings, package.find(options.model), "jsonl", rows)
    judged = stream_scores.judge_stream(
        stream_scores.read_detections(rows.getvalue().splitlines()),
        truth,
        [name_of(channel.sid) for channel in archive.channels(found)],
        span_ns,
        recorded_ns=found.recorded_ns(span_ns),
        target=options.target,
        seed=options.seed,
    )
    print(stream_report.markdown(judged), end="")
    if options.report is not None:
        stream_report.write(judged, options.report)
    return 0


def _time_ns(option: str, text: str | None, default: int) -> int:
    """Nanoseconds since 1970 of an option's time, to the microsecond."""
    if text is None:
        return default
    try:
        return time_ns_of(text)
    except ValueError as error:
        raise UsageError(f"{option} {error}") from error
