"""Charts of the page Clusters, as Bokeh's JSON: mean spectra, and detections by hour of the day."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from bokeh.core.types import ID
from bokeh.embed import json_item
from bokeh.models import ColumnDataSource, HoverTool
from bokeh.models.annotations import BoxAnnotation
from bokeh.plotting import figure

from tscc_stream.apps.console.spectra import Spectrum
from tscc_stream.messages import Float64Array

_DIM, _LINE, _RAISED = "#9db0c1", "#2c3947", "#1b242e"  # as console.css has them
_HEIGHT = 260
DASHES = ((), (8, 4), (2, 3), (12, 3, 2, 3), (4, 2))
"""Of the spectra's lines, by cluster, in pixels: so that none is told by its colour alone."""
Curve = tuple[int, str, str]
"""Cluster, name, colour."""


def spectrum_chart(target: str, spectra: list[tuple[Curve, Spectrum]], *, spread: bool) -> dict[str, Any]:
    """spread: one standard deviation of the logarithms as a band."""
    chart = _figure("frequency (Hz)", "amplitude (counts/Hz)", y_axis_type="log")
    if spectra:
        hz = spectra[0][1].hz
        chart.x_range.start, chart.x_range.end = float(hz[0]), float(hz[-1])
    for (cluster, name, colour), one in spectra:
        source = ColumnDataSource({"hz": one.hz, "mean": one.mean, "low": one.low, "high": one.high})
        if spread:
            chart.varea("hz", "low", "high", source=source, fill_color=colour, fill_alpha=0.25)
        dash = list(DASHES[cluster % len(DASHES)])
        line = chart.line("hz", "mean", source=source, color=colour, width=2, line_dash=dash)
        tips = [(name, ""), ("", "@hz{0.0} Hz"), ("mean", "@mean{0.0} counts/Hz")]
        chart.add_tools(HoverTool(renderers=[line], tooltips=tips))
    return _as_json(target, chart)


def hours_chart(target: str, rates: list[tuple[Curve, Float64Array]], zone: str) -> dict[str, Any]:
    """rates: detections an hour [24], stacked; hours of the day that are not in the period (NaN) are shaded."""
    chart = _figure(f"hour of the day ({zone})", "detections an hour")
    chart.x_range.start, chart.x_range.end = 0, 24
    below = np.zeros(24)
    for (_, name, colour), rate in rates:
        above = below + np.nan_to_num(rate)
        source = ColumnDataSource(
            {
                "left": np.arange(24) + 0.08,
                "right": np.arange(24) + 0.92,
                "below": below,
                "above": above,
                "rate": rate,
                "hour": [f"{hour:02d}:00 to {(hour + 1) % 24:02d}:00" for hour in range(24)],
            }
        )
        bars = chart.quad(
            left="left", right="right", bottom="below", top="above", source=source, color=colour, line_color=_RAISED
        )
        tips = [(name, ""), ("", "@hour"), ("detections an hour", "@rate{0.0}")]
        chart.add_tools(HoverTool(renderers=[bars], tooltips=tips))
        below = above
    for hour in np.flatnonzero(np.isnan(rates[0][1])).tolist() if rates else ():
        chart.add_layout(BoxAnnotation(left=hour, right=hour + 1, fill_color=_LINE, fill_alpha=0.5, line_color=None))
    chart.y_range.start, chart.y_range.end = 0, max(1e-9, float(below.max())) * 1.08
    chart.xaxis.ticker = list(range(0, 25, 4))
    chart.xaxis.major_label_overrides = {hour: f"{hour:02d}" for hour in range(0, 25, 4)}
    return _as_json(target, chart)


def _figure(x_label: str, y_label: str, **more: Any) -> Any:  # noqa: ANN401  # Bokeh's figures have no types of their own
    chart = figure(
        height=_HEIGHT,
        sizing_mode="stretch_width",
        toolbar_location=None,
        tools="",
        x_axis_label=x_label,
        y_axis_label=y_label,
        background_fill_color=_RAISED,
        border_fill_color=_RAISED,
        outline_line_color=_LINE,
        min_border_right=12,
        **more,
    )
    for axis in (*chart.xaxis, *chart.yaxis):
        axis.axis_label_text_color = axis.major_label_text_color = _DIM
        axis.axis_label_text_font_size = axis.major_label_text_font_size = "13px"
        axis.axis_label_text_font_style = "normal"
        axis.axis_line_color = axis.major_tick_line_color = axis.minor_tick_line_color = _LINE
    chart.grid.grid_line_color = _LINE
    return chart


def _as_json(target: str, chart: Any) -> dict[str, Any]:  # noqa: ANN401  # as above
    """json_item holds numpy's arrays and NaN in a form of Bokeh's own."""
    made: dict[str, Any] = json.loads(json.dumps(json_item(chart, ID(target))))
    return made
