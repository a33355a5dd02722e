"""Report and figures of an evaluation, into one folder."""

from __future__ import annotations

from pathlib import Path

import numpy as np

from tscc_stream.learn import canvas, figures_clusters, figures_signals, report
from tscc_stream.learn.evaluate import Arrays, Judged
from tscc_stream.learn.figures_clusters import Panel
from tscc_stream.learn.scores import partners


def write_arrays(arrays: Arrays, folder: Path) -> None:
    """What there is to see of stored arrays."""
    folder.mkdir(parents=True, exist_ok=True)
    panels = [Panel("true", arrays.y, arrays.names)]
    if arrays.group is not None:
        found = _cluster_names(arrays.report.clusters)
        colours = partners(arrays.y, arrays.group, arrays.report.clusters)
        panels.insert(0, Panel("predicted", arrays.group, found, colours))
        counts = np.array(arrays.report.confusion)
        arrays.report.figures.append(canvas.confusion(counts, arrays.names, found, folder, "confusion"))
    arrays.report.figures.append(figures_clusters.clusters(arrays.r, panels, folder, arrays.report.seed))
    report.write(arrays.report, folder)


def write_model(judged: Judged, folder: Path) -> None:
    """Everything, for a model on labelled windows."""
    folder.mkdir(parents=True, exist_ok=True)
    spec, found, seed = judged.package.spec, judged.report, judged.report.seed
    names = [judged.package.name_of(k) for k in range(spec.clusters)]
    colours = partners(judged.y, judged.group, spec.clusters)
    panels = [Panel("predicted", judged.group, names, colours), Panel("true", judged.y, judged.names)]
    found.figures[:] = [
        figures_clusters.comparison(judged.methods, judged.scores, (judged.y, judged.names), folder, seed),
        figures_clusters.clusters(judged.r, panels, folder, seed),
        canvas.confusion(np.array(found.confusion), judged.names, names, folder, "confusion"),
        figures_clusters.representatives(judged.data, judged.membership, names, folder),
        figures_signals.latent(judged.encoder, spec, judged.data, folder, seed),
        figures_signals.samples(judged.data, spec.onset_sample, folder),
        figures_signals.architecture(judged.encoder, spec, folder),
    ]
    report.write(found, folder)


def _cluster_names(clusters: int) -> list[str]:
    return [f"cluster {k}" for k in range(clusters)]
