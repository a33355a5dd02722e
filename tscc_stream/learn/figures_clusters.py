"""Figures of clusters: each method's, predicted beside true, and representative members."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from sklearn.decomposition import PCA
from sklearn.manifold import TSNE

from tscc_stream.learn import canvas
from tscc_stream.learn.baselines import Clustering
from tscc_stream.learn.dataset import DataSet, Int64Array
from tscc_stream.learn.scores import Score, partners
from tscc_stream.messages import AnyArray, Float64Array

MOST_POINTS = 1200
MEMBERS = 5
_PERPLEXITY = 30.0
_COLUMNS = 4


@dataclass(frozen=True, slots=True, eq=False)
class Panel:
    """One colouring of a map: group [n], a name and (optional) a number of its colour for each."""

    title: str
    group: Int64Array
    names: Sequence[str]
    colours: Sequence[int] | None = None


def comparison(
    methods: dict[str, Clustering],
    scores: dict[str, Score],
    truth: tuple[Int64Array, Sequence[str]],
    folder: Path,
    seed: int,
) -> str:
    """Each method's clusters in the first two principal components of its own features, with ACC and NMI.

    truth: class of each window [n] and the classes' names; last, the truth in the plane of the first method. Clusters
    have the colour of the class that they match.
    """
    y, classes = truth
    rows = -(-(len(methods) + 1) // _COLUMNS)
    figure = canvas.new_figure(3.1 * _COLUMNS, 3.3 * rows)
    for number, (name, method) in enumerate(methods.items()):
        axes = figure.add_subplot(rows, _COLUMNS, number + 1)
        chosen = some_of(len(method.group))
        names = [f"cluster {k}" for k in range(method.clusters)]
        colours = partners(y, method.group, method.clusters)
        places = _plane(method.features[chosen], seed)
        canvas.scatter(axes, places, method.group[chosen], names, colours)
        _frame(axes, places)
        score = scores[name]
        axes.set_title(f"{method.title}\nACC {100 * score.acc:.1f} %, NMI {100 * score.nmi:.1f} %", fontsize=9)
        if method.features.shape[1] == 1:
            axes.set(xlabel="feature (no unit)", ylabel="jitter")
        else:
            axes.set(xlabel="principal component 1", ylabel="principal component 2")
    axes = figure.add_subplot(rows, _COLUMNS, len(methods) + 1)
    _draw_truth(axes, next(iter(methods.values())), y, classes, seed)
    figure.legend(
        *axes.get_legend_handles_labels(), loc="outside lower center", ncols=8, markerscale=1.8, frameon=False
    )
    return canvas.save(figure, folder, "comparison")


def _draw_truth(axes: Axes, first: Clustering, y: Int64Array, classes: Sequence[str], seed: int) -> None:
    chosen = some_of(len(y))
    places = _plane(first.features[chosen], seed)
    canvas.scatter(axes, places, y[chosen], classes)
    _frame(axes, places)
    axes.set_title(f"truth, in the plane of\n{first.title}", fontsize=9)
    axes.set(xlabel="principal component 1", ylabel="principal component 2")


def _frame(axes: Axes, places: Float64Array) -> None:
    """Limits that a few far points do not set: the inner 99 % and a tenth more."""
    low, high = np.percentile(places, (0.5, 99.5), axis=0)
    margin = 0.1 * np.maximum(high - low, 1e-9)
    axes.set(xlim=(low[0] - margin[0], high[0] + margin[0]), ylim=(low[1] - margin[1], high[1] + margin[1]))


def clusters(r: Float64Array, panels: Sequence[Panel], folder: Path, seed: int) -> str:
    """One t-SNE map of representations r [n, D], coloured by each panel in turn."""
    chosen = some_of(len(r))
    places = _map(r[chosen], seed)
    figure = canvas.new_figure(4.6 * len(panels), 4.9)
    for number, panel in enumerate(panels):
        axes = figure.add_subplot(1, len(panels), number + 1)
        canvas.scatter(axes, places, panel.group[chosen], panel.names, panel.colours)
        axes.set_title(panel.title)
        axes.set(xlabel="t-SNE 1 (no unit)", ylabel="t-SNE 2 (no unit)")
        canvas.legend(axes)
    return canvas.save(figure, folder, "clusters")


def representatives(data: DataSet, membership: Float64Array, names: Sequence[str], folder: Path) -> str:
    """The windows of highest membership in each cluster: one row a cluster, first channel, in its own scale."""
    group, count = membership.argmax(axis=1), membership.shape[1]
    figure = canvas.new_figure(2.5 * MEMBERS, 1.2 + 1.35 * count)
    grid = figure.subplots(count, MEMBERS, squeeze=False, sharex=True)
    seconds = np.arange(data.x.shape[1]) / data.sample_rate_hz
    for k, name in enumerate(names):
        best = [i for i in np.argsort(-membership[:, k], kind="stable") if group[i] == k][:MEMBERS]
        for column, axes in enumerate(grid[k]):
            axes.set(yticks=[])
            axes.tick_params(labelsize=7)
            if column == 0:
                axes.set_ylabel(f"{name}\n({int((group == k).sum())})", fontsize=8)
            if column < len(best):
                _draw(axes, seconds, data, int(best[column]), float(membership[best[column], k]), k)
    for axes in grid[-1]:
        axes.set_xlabel("time in window (s)", fontsize=8)
    figure.suptitle("Windows of highest membership u in each cluster (counts; each in its own scale)", fontsize=10)
    return canvas.save(figure, folder, "representatives")


def _draw(axes: Axes, seconds: AnyArray, data: DataSet, row: int, membership: float, cluster: int) -> None:
    axes.plot(seconds, data.x[row, :, 0], color=canvas.COLOURS[cluster % len(canvas.COLOURS)], linewidth=0.6)
    axes.set_title(f"{data.sid[row]}  u = {membership:.3f}", fontsize=7)


def some_of(n: int) -> Int64Array:
    """At most MOST_POINTS rows, spread evenly."""
    rows: Int64Array = np.unique(np.linspace(0, n - 1, min(n, MOST_POINTS)).astype(np.int64))
    return rows


def _plane(features: Float64Array, seed: int) -> Float64Array:
    """[n, 2]: principal components; a single feature beside a seeded jitter."""
    if features.shape[1] == 1:
        jitter = np.random.default_rng(seed).uniform(-1.0, 1.0, (len(features), 1))
        return np.hstack([features, jitter])
    return np.asarray(PCA(2, random_state=seed).fit_transform(features), np.float64)


def _map(r: Float64Array, seed: int) -> Float64Array:
    scaled = (r - r.mean(axis=0)) / max(float(r.std()), 1e-12)
    perplexity = min(_PERPLEXITY, (len(r) - 1) / 3)
    method = TSNE(2, perplexity=perplexity, init="pca", random_state=seed, n_jobs=1)
    return np.asarray(method.fit_transform(scaled), np.float64)
