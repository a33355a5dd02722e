"""Through-the-stream scores as stream.json (percent), stream.md and figures."""

from __future__ import annotations

import json
from dataclasses import asdict
from pathlib import Path
from typing import Any

import numpy as np

from tscc_stream.learn import canvas
from tscc_stream.learn.scores import NAMES
from tscc_stream.learn.stream_scores import CLEAR_SNR, TARGET_RECALL, StreamReport


def document(found: StreamReport) -> dict[str, Any]:
    """stream.json: shares in percent with two decimals; false detections per day over all channels."""
    return {
        "target": found.target,
        "days": found.days,
        "channels": found.channels,
        "detections": found.detections,
        "true_detections": found.true_detections,
        "arrivals": found.arrivals,
        "trigger": {
            "recall": _percent(found.trigger_recall),
            "recall_clear": _percent(found.trigger_recall_clear),
            "event_recall": _percent(found.event_recall),
            "precision": _percent(found.true_detections / found.detections),
        },
        "steps": [{name: _part(name, value) for name, value in asdict(step).items()} for step in found.steps],
        "false_per_day": {
            "recall": 100.0 * TARGET_RECALL,
            "trigger": round(found.false_per_day_trigger, 1),
            "clusters": None if found.false_per_day_clusters is None else round(found.false_per_day_clusters, 1),
        },
        "clustering": {name: _percent(getattr(found.clustering, name)) for name in NAMES},
        "intervals": {name: [_percent(end) for end in getattr(found.clustering, f"{name}_interval")] for name in NAMES},
        "kinds": found.kinds,
        "clusters": found.clusters,
        "confusion": found.confusion,
    }


def _part(name: str, value: float) -> float | None:
    return value if name == "clusters" else _percent(value)


def _percent(share: float | None) -> float | None:
    """None where there was nothing to count."""
    return None if share is None else round(100.0 * share, 2)


def markdown(found: StreamReport) -> str:
    """stream.md: what the trigger finds, what clusters add, what is mistaken for what."""
    share = found.trigger_recall_clear
    clear = "" if share is None else f"; of those with SNR >= {CLEAR_SNR:g}: {100 * share:.1f} %"
    with_clusters = found.false_per_day_clusters
    reached = "not reached by any group of clusters" if with_clusters is None else f"{with_clusters:.0f} with clusters"
    lines = [
        f"# Through the stream: {found.target}",
        "",
        f"{found.days * 24:.2f} h, {found.channels} channels, {found.detections} detections, of which "
        f"{found.true_detections} ({100 * found.true_detections / found.detections:.1f} %) belong to {found.target}.",
        "",
        f"- Trigger recall: {100 * found.trigger_recall:.1f} % of {found.arrivals} arrivals{clear}; "
        f"{100 * found.event_recall:.1f} % of events at one channel or more.",
        f"- False detections a day, all channels, at {100 * TARGET_RECALL:g} % recall of the true detections: "
        f"{found.false_per_day_trigger:.0f} by peak ratio alone, {reached}.",
        f"- All detections: ACC {100 * found.clustering.acc:.1f} %, NMI {100 * found.clustering.nmi:.1f} % "
        f"(always naming the commonest kind: ACC {100 * max(found.kinds.values()) / found.detections:.1f} %).",
        "",
        *_steps(found),
        *_confusion(found),
    ]
    return "\n".join(lines).rstrip() + "\n"


def _steps(found: StreamReport) -> list[str]:
    if not found.steps:
        return ["All detections are in one cluster.", ""]
    lines = ["| best clusters | recall % | recall x trigger recall % | precision % | peak ratio alone, precision % |"]
    lines.append("| --- | --- | --- | --- | --- |")
    for step in found.steps:
        cells = (step.recall, step.recall * found.trigger_recall, step.precision, step.peak_ratio_precision)
        lines.append(f"| {step.clusters} | {' | '.join(f'{100 * value:.1f}' for value in cells)} |")
    note = "Which clusters are best is learnt on one half of the time and applied to the other."
    return [*lines, "", note, ""]


def _confusion(found: StreamReport) -> list[str]:
    columns = column_names(found)
    lines = [f"| kind | {' | '.join(columns)} |", "| --- |" + " --- |" * len(columns)]
    for name, row in zip(found.kinds, found.confusion, strict=True):
        lines.append(f"| {name} | {' | '.join(map(str, row))} |")
    return lines


def column_names(found: StreamReport) -> list[str]:
    """Of the confusion matrix."""
    known = [f"cluster {k}" for k in range(found.clusters)]
    return known if len(found.confusion[0]) == found.clusters else [*known, "unknown"]


def write(found: StreamReport, folder: Path) -> None:
    """stream.json, stream.md, stream_confusion.png and stream_recall.png."""
    folder.mkdir(parents=True, exist_ok=True)
    (folder / "stream.json").write_text(json.dumps(document(found), indent=1) + "\n", encoding="utf-8")
    (folder / "stream.md").write_text(markdown(found), encoding="utf-8")
    canvas.confusion(np.array(found.confusion), list(found.kinds), column_names(found), folder, "stream_confusion")
    _draw_recall(found, folder)


def _draw_recall(found: StreamReport, folder: Path) -> None:
    """Precision against recall: peak ratio alone as a curve, groups of best clusters as points."""
    recall, precision = found.curve
    figure = canvas.new_figure(5.0, 4.0)
    axes = figure.add_subplot()
    axes.plot(100 * recall, 100 * precision, color=canvas.COLOURS[0], label="peak ratio alone")
    axes.plot(
        [100 * step.recall for step in found.steps],
        [100 * step.precision for step in found.steps],
        linestyle="none",
        marker="^",
        markersize=8,
        color=canvas.COLOURS[1],
        label="best clusters",
    )
    axes.set(xlabel=f"recall of triggered {found.target} (%)", ylabel="precision (%)", xlim=(0, 101), ylim=(0, 101))
    axes.grid(alpha=0.3)
    axes.legend(loc="lower left")
    canvas.save(figure, folder, "stream_recall")
