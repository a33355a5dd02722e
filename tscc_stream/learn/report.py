"""What an evaluation found, as report.json (for programs, in percent) and report.md (for people)."""

from __future__ import annotations

import json
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tscc_stream.learn.scores import BLOCK_SECONDS, CONFIDENCE, NAMES, Score

Table = dict[str, Score]
_TITLES = {
    "kmeans_raw": "KMeans on raw windows",
    "kmeans_logspec": "KMeans on log-spectrograms",
    "gmm_log_kurtosis": "log kurtosis (one number), Gaussian mixture",
    "kmeans_untrained": "untrained encoder, KMeans",
    "gmm_untrained": "untrained encoder, Gaussian mixture",
    "dec_logspec": "autoencoder (DEC type) on log-spectrograms",
    "linear": "linear",
    "knn": "KNN (5)",
    "svm": "SVM",
}
_CONTROLS = ("gmm_log_kurtosis", "kmeans_untrained", "gmm_untrained")


@dataclass(frozen=True, slots=True)
class Report:
    """An evaluation of n windows. confusion: rows are classes, columns clusters; notes: how it was done, in sentences;
    figures: files beside the report.
    """

    subject: str
    classes: dict[str, int]
    clusters: int
    clustering: Score | None
    representation: Table
    raw: Table
    baselines: Table
    confusion: list[list[int]]
    notes: tuple[str, ...]
    seed: int
    figures: list[str] = field(default_factory=list)

    @property
    def n(self) -> int:
        return sum(self.classes.values())


def document(report: Report) -> dict[str, Any]:
    """report.json: scores in percent with two decimals; `intervals` has the same shape with [low, high]."""
    parts = {"representation": report.representation, "raw": report.raw, "baselines": report.baselines}
    clustering = {} if report.clustering is None else {"clustering": report.clustering}
    return {
        "n": report.n,
        "clusters": report.clusters,
        "clustering": {name: _values(score) for name, score in clustering.items()}.get("clustering", {}),
        **{part: {name: _values(score) for name, score in table.items()} for part, table in parts.items()},
        "intervals": {
            "confidence": 100.0 * CONFIDENCE,
            "clustering": {name: _intervals(score) for name, score in clustering.items()}.get("clustering", {}),
            **{part: {name: _intervals(score) for name, score in table.items()} for part, table in parts.items()},
        },
        "classes": report.classes,
        "confusion": report.confusion,
        "notes": list(report.notes),
        "seed": report.seed,
        "figures": report.figures,
    }


def _values(score: Score) -> dict[str, float]:
    return {name: round(100.0 * getattr(score, name), 2) for name in NAMES}


def _intervals(score: Score) -> dict[str, list[float]]:
    return {name: [round(100.0 * end, 2) for end in getattr(score, f"{name}_interval")] for name in NAMES}


def markdown(report: Report) -> str:
    """report.md: the table with its intervals, the confusion matrix, how it was done."""
    counted = ", ".join(f"{count} {name}" for name, count in report.classes.items())
    lines = [
        f"# Evaluation of {report.subject}",
        "",
        f"{report.n} windows ({counted}), {report.clusters} clusters.",
        "",
    ]
    lines += ["| what | ACC % | NMI % | AUPRC % |", "| --- | --- | --- | --- |"]
    lines += [_row(title, score) for title, score in _rows(report)]
    lines += ["", *_verdict(report), *_confusion(report)]
    lines += [f"- {note}" for note in (*report.notes, _interval_note(report))]
    lines += ["", *(f"![{Path(name).stem}]({name})" for name in report.figures)]
    return "\n".join(lines).rstrip() + "\n"


def _rows(report: Report) -> list[tuple[str, Score]]:
    rows = [] if report.clustering is None else [("**clustering**", report.clustering)]
    for where, table in (("R", report.representation), ("raw", report.raw)):
        rows += [(f"{_TITLES[name]} on {where} (labels)", score) for name, score in table.items()]
    return rows + [(_TITLES[name], score) for name, score in report.baselines.items()]


def _row(title: str, score: Score) -> str:
    cells = []
    for name in NAMES:
        low, high = getattr(score, f"{name}_interval")
        cells.append(f"{100 * getattr(score, name):.2f} ({100 * low:.1f} to {100 * high:.1f})")
    return f"| {title} | {' | '.join(cells)} |"


def _verdict(report: Report) -> list[str]:
    """Whether the model was worth its training: above every control by ACC and by NMI, or not."""
    commonest = 100 * max(report.classes.values()) / report.n
    lines = [f"Always naming the commonest class would give ACC {commonest:.1f} %.", ""]
    controls = {name: report.baselines[name] for name in _CONTROLS if name in report.baselines}
    if report.clustering is None or not controls:
        return lines
    compared, above = [], True
    for name in ("acc", "nmi"):
        best = max(controls, key=lambda control: float(getattr(controls[control], name)))
        own, other = 100 * getattr(report.clustering, name), 100 * getattr(controls[best], name)
        above = above and own > other
        compared.append(f"{name.upper()} {own:.1f} % against {other:.1f} % ({_TITLES[best]})")
    word = "above" if above else "NOT above"
    return [f"The clustering is {word} the best of the untrained controls: {'; '.join(compared)}.", "", *lines]


def _confusion(report: Report) -> list[str]:
    if not report.confusion:
        return []
    head = " | ".join(f"cluster {k}" for k in range(len(report.confusion[0])))
    lines = [f"| class | {head} |", "| --- |" + " --- |" * len(report.confusion[0])]
    for name, row in zip(report.classes, report.confusion, strict=True):
        lines.append(f"| {name} | {' | '.join(map(str, row))} |")
    return [*lines, ""]


def _interval_note(report: Report) -> str:
    unit = "windows (times are not known)" if not report.raw else f"time blocks of {BLOCK_SECONDS:g} s"
    return f"In brackets: {100 * CONFIDENCE:g} % intervals of a bootstrap over {unit}; seed {report.seed}."


def write(report: Report, folder: Path) -> None:
    """report.json and report.md into a folder that exists."""
    (folder / "report.json").write_text(json.dumps(document(report), indent=1) + "\n", encoding="utf-8")
    (folder / "report.md").write_text(markdown(report), encoding="utf-8")
