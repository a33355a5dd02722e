"""Figures without any window or global state: made, drawn on and saved here. Colours are Okabe and Ito's (2008)."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from matplotlib.axes import Axes
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure

from tscc_stream.learn.dataset import Int64Array
from tscc_stream.messages import AnyArray, Float64Array

COLOURS = ("#0072B2", "#D55E00", "#009E73", "#CC79A7", "#E69F00", "#56B4E9", "#F0E442", "#000000")
MARKERS = ("o", "^", "s", "D", "v", "P", "X", "*")
HEAT = "cividis"
DOTS_PER_INCH = 110


def new_figure(width: float, height: float) -> Figure:
    """An empty figure, in inches."""
    figure = Figure(figsize=(width, height), layout="constrained")
    FigureCanvasAgg(figure)
    return figure


def save(figure: Figure, folder: Path, name: str) -> str:
    """Write `<name>.png` into the folder; the file's name."""
    file = f"{name}.png"
    figure.savefig(folder / file, dpi=DOTS_PER_INCH)
    return file


def scatter(
    axes: Axes, places: Float64Array, group: Int64Array, names: Sequence[str], colours: Sequence[int] | None = None
) -> None:
    """Points [n, 2], one colour and marker for each group; rare groups last, so that they are not covered.

    colours: for each group a number of its colour and marker, so that what belongs together looks alike.
    """
    shades = range(len(names)) if colours is None else colours
    counts = np.bincount(group, minlength=len(names))
    for k in np.argsort(-counts, kind="stable"):
        chosen = places[group == k]
        axes.scatter(
            chosen[:, 0],
            chosen[:, 1],
            s=9,
            alpha=0.6,
            linewidths=0,
            color=COLOURS[shades[k] % len(COLOURS)],
            marker=MARKERS[shades[k] % len(MARKERS)],
            label=f"{names[k]} ({counts[k]})",
        )
    axes.set(xticks=[], yticks=[])


def legend(axes: Axes) -> None:
    """Below the axes, in as few rows as fit."""
    axes.legend(loc="upper center", bbox_to_anchor=(0.5, -0.08), ncols=3, fontsize=8, markerscale=1.8, frameon=False)


def confusion(counts: AnyArray, rows: Sequence[str], columns: Sequence[str], folder: Path, name: str) -> str:
    """Counts [classes, clusters] with the share of each row as shade."""
    share = counts / np.maximum(counts.sum(axis=1, keepdims=True), 1)
    figure = new_figure(2.2 + 0.9 * len(columns), 1.4 + 0.55 * len(rows))
    axes = figure.add_subplot()
    image = axes.imshow(share, cmap=HEAT, vmin=0.0, vmax=1.0, aspect="auto")
    for (row, column), count in np.ndenumerate(counts):
        shade = "black" if share[row, column] > 0.5 else "white"
        axes.text(column, row, f"{count:d}", ha="center", va="center", color=shade)
    axes.set_xticks(range(len(columns)), columns, rotation=30, ha="right", rotation_mode="anchor")
    axes.set_yticks(range(len(rows)), rows)
    axes.set(xlabel="found", ylabel="true")
    figure.colorbar(image, ax=axes, label="share of the class")
    return save(figure, folder, name)
