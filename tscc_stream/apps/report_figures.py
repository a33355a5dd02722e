"""Figures of a shift report, as SVG that needs nothing else: no fonts, no style sheets, no address.

There is no name in them: names come from people, and stand in the page's own legend.
"""

from __future__ import annotations

import base64
import io
from collections.abc import Mapping, Sequence
from html import escape

import matplotlib as mpl
import numpy as np
from matplotlib.backends.backend_svg import FigureCanvasSVG
from matplotlib.figure import Figure

from tscc_stream.apps.report_health import SILENT, UNKNOWN, Break
from tscc_stream.apps.shifts import HOUR_NS, Span, local, whole_hours
from tscc_stream.gap_causes import LOST
from tscc_stream.messages import AnyArray, Float32Array

_SIZE = (6.4, 2.9)  # inches; with letters of 13 points it can still be read at the width of a phone
_LETTERS = 13
_MOST_BARS = 72
_MINUTE_NS = HOUR_NS // 60
_BARS_NS = tuple(
    round(_MINUTE_NS * minutes) for minutes in (1 / 6, 1 / 2, 1, 5, 10, 15, 30, 60, 120, 180, 360, 720, 1440, 10080)
)
_MOST_TICKS = 8
_THUMB = (200, 56)  # of a window's drawing
_STRIP_WIDTH = 1000


def over_time(onsets: Mapping[str, AnyArray], colours: Mapping[str, str], span: Span) -> str:
    """Detections in stacked bars. onsets: name -> onset [n] ns; colours: name -> #rrggbb, in the order of stacking."""
    begin, end = span.ns
    width = next((ns for ns in _BARS_NS if (end - begin) / ns <= _MOST_BARS), _BARS_NS[-1])
    first = whole_hours(span.ns, span.zone)[0]
    edges = np.arange(first, end + width, width)
    edges = edges[np.searchsorted(edges, begin, side="right") - 1 :]
    counts = {name: np.histogram(onsets.get(name, np.empty(0)), edges)[0] for name in colours}
    figure = _figure()
    axes = figure.add_subplot()
    hours = (edges[:-1] - begin) / HOUR_NS
    _stack(axes, hours, counts, colours, width / HOUR_NS)
    places = tick_places(span)
    axes.set_xticks([(at - begin) / HOUR_NS for at in places], [_tick(at, span) for at in places])
    axes.set_xlim(0, (end - begin) / HOUR_NS)
    axes.set_ylabel(f"per {_minutes(width)}")
    return _image(figure, "Detections over time")


def by_hour(
    counts: Mapping[str, AnyArray], colours: Mapping[str, str], labels: Sequence[str], earlier: Sequence[AnyArray]
) -> str:
    """Detections by hour in stacked bars. counts: name -> [hours]; earlier: [hours] of each earlier day, in all."""
    figure = _figure()
    axes = figure.add_subplot()
    at = np.arange(len(labels), dtype=float)
    _stack(axes, at - 0.4, counts, colours, 0.8)
    if earlier:
        days = np.stack([np.asarray(day, float) for day in earlier])
        middle, low, high = np.median(days, axis=0), days.min(axis=0), days.max(axis=0)
        axes.errorbar(at, middle, (middle - low, high - middle), fmt="D", color="#222222", markersize=5, capsize=4)
    step = max(1, -(-len(labels) // 8))
    axes.set_xticks(at[::step], [labels[place] for place in range(0, len(labels), step)])
    axes.set_xlim(-0.6, len(labels) - 0.4)
    axes.set_ylabel("per hour")
    return _image(figure, "Detections by hour")


def _stack(
    axes: mpl.axes.Axes, left: AnyArray, counts: Mapping[str, AnyArray], colours: Mapping[str, str], width: float
) -> None:
    below = np.zeros(len(left))
    for name, colour in colours.items():
        height = np.asarray(counts.get(name, np.zeros(len(left))), float)
        axes.bar(left, height, width, bottom=below, align="edge", color=colour, linewidth=0.3, edgecolor="white")
        below += height
    axes.set_ylim(0, max(1.0, float(below.max(initial=0.0)) * 1.08))
    axes.yaxis.set_major_locator(mpl.ticker.MaxNLocator(5, integer=True))


def _figure() -> Figure:
    with mpl.rc_context({"font.size": _LETTERS}):
        figure = Figure(figsize=_SIZE, layout="constrained")
    FigureCanvasSVG(figure)
    return figure


def _image(figure: Figure, text: str) -> str:
    """An `img` element that holds the figure."""
    for axes in figure.axes:
        axes.spines[["top", "right"]].set_visible(False)
        axes.tick_params(labelsize=_LETTERS)
        axes.yaxis.label.set_fontsize(_LETTERS)
    out = io.BytesIO()
    with mpl.rc_context({"svg.fonttype": "path", "svg.hashsalt": "tscc-stream"}):
        figure.savefig(out, format="svg", metadata={"Date": None, "Creator": None})
    drawn = out.getvalue()
    coded = base64.b64encode(drawn[drawn.index(b"<svg") :]).decode()  # without the address of a document type
    return f'<img class="figure" alt="{escape(text)}" src="data:image/svg+xml;base64,{coded}">'


def tick_places(span: Span) -> list[int]:
    """At most eight whole minutes, hours or midnights, on the zone's clock."""
    begin, end = span.ns
    hours = whole_hours(span.ns, span.zone)
    for minutes in (1, 2, 5, 10, 15, 30):
        places = [at for at in range(hours[0], end, minutes * _MINUTE_NS) if at >= begin]
        if len(places) <= _MOST_TICKS:
            return places
    for step in (1, 2, 3, 4, 6, 12, 24, 48, 168, 672):
        places = [at for at in hours if at >= begin and (local(at, span.zone).hour + 24 * _day(at, span)) % step == 0]
        if len(places) <= _MOST_TICKS:
            return places
    return hours[1 :: -(-len(hours) // _MOST_TICKS)]


def _day(at_ns: int, span: Span) -> int:
    return local(at_ns, span.zone).date().toordinal()


def _tick(at_ns: int, span: Span) -> str:
    at = local(at_ns, span.zone)
    return at.strftime("%H:%M") if span.ns[1] - span.ns[0] <= 48 * HOUR_NS else at.strftime("%d %b")


def _minutes(width_ns: int) -> str:
    minutes = width_ns // _MINUTE_NS
    if not minutes:
        return f"{60 * width_ns // _MINUTE_NS} s"
    return f"{minutes} min" if minutes < 60 else "hour" if minutes == 60 else f"{minutes // 60} h"


def waveform(samples: Float32Array) -> str:
    """A window [n] as a line: highest and lowest of each few samples, so that no peak is lost."""
    width, height = _THUMB
    parts = np.array_split(samples.astype(float), min(width, samples.size))
    ends = np.array([(part.min(), part.max()) if k % 2 else (part.max(), part.min()) for k, part in enumerate(parts)])
    peak = float(np.abs(ends).max(initial=0.0)) or 1.0
    y = height / 2 * (1.0 - 0.95 * ends.ravel() / peak)
    x = np.repeat(np.linspace(0, width, len(parts)), 2)
    points = " ".join(f"{a:.1f},{b:.1f}" for a, b in zip(x, y, strict=True))
    return (
        f'<svg class="wave" viewBox="0 0 {width} {height}" preserveAspectRatio="none" aria-hidden="true">'
        f'<polyline points="{points}"/></svg>'
    )


def strip(breaks: Sequence[Break], span_ns: tuple[int, int]) -> str:
    """A channel's span as a strip: red: data are missing; orange: they are bad; grey: nothing is known."""
    begin, end = span_ns
    bars = "".join(
        f'<rect class="{_kind_of(one)}" y="0" height="10" '
        f'x="{_STRIP_WIDTH * (one.from_ns - begin) / (end - begin):.1f}" '
        f'width="{max(3.0, _STRIP_WIDTH * (one.to_ns - one.from_ns) / (end - begin)):.1f}"/>'
        for one in breaks
    )
    return (
        f'<svg class="strip" viewBox="0 0 {_STRIP_WIDTH} 10" preserveAspectRatio="none" aria-hidden="true">'
        f'<rect class="there" width="{_STRIP_WIDTH}" height="10"/>{bars}</svg>'
    )


def _kind_of(one: Break) -> str:
    if one.cause == UNKNOWN:
        return "unknown"
    return "lost" if one.cause in LOST or one.cause == SILENT else "unusable"
