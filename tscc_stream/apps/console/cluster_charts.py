"""Charts of the page Clusters, as Bokeh's JSON: mean spectra, and detections by hour of the day."""

from __future__ import annotations

import json
from typing import Any

import numpy as np
from bokeh.embed import json_item
from bokeh.models import ColumnDataSource, HoverTool, Range1d
from bokeh.plotting import figure

from tscc_stream.apps.console.spectra import Spectrum
from tscc_stream.messages import Float64Array

_TEXT, _DIM, _LINE, _RAISED = "#e8edf2", "#9db0c1", "#2c3947", "#1b242e"  # as console.css has them
_HEIGHT = 260
_DASHES = ("solid", "dashed", "dotted", "dotdash", "dashdot")
"""So that no cluster is told by its colour alone."""


def spectrum_chart(target: str, spectra: list[tuple[str, str, Spectrum]], *, spread: bool) -> dict[str, Any]:
    """spectra: name, colour, and what it is. spread: one standard deviation of the logarithms as a band."""
    chart = _figure("frequency (Hz)", "amplitude (counts/Hz)", y_axis_type="log")
    if spectra:
        hz = spectra[0][2].hz
        chart.x_range = Range1d(float(hz[0]), float(hz[-1]))
    for number, (name, colour, one) in enumerate(spectra):
        source = ColumnDataSource({"hz": one.hz, "mean": one.mean, "low": one.low, "high": one.high})
        if spread:
            chart.varea("hz", "low", "high", source=source, fill_color=colour, fill_alpha=0.25)
        dash = _DASHES[number % len(_DASHES)]
        line = chart.line("hz", "mean", source=source, color=colour, width=2, line_dash=dash, legend_label=_short(name))
        tips = [(name, ""), ("", "@hz{0.0} Hz"), ("mean", "@mean{0.0} counts/Hz")]
        chart.add_tools(HoverTool(renderers=[line], tooltips=tips))
    _legend(chart, shown=len(spectra) > 1)
    return _as_json(target, chart)


def hours_chart(target: str, rates: list[tuple[str, str, Float64Array]], zone: str) -> dict[str, Any]:
    """rates: name, colour, detections an hour [24]; stacked where there are several."""
    chart = _figure(f"hour of the day ({zone})", "detections an hour")
    chart.x_range = Range1d(0, 24)
    below = np.zeros(24)
    for name, colour, rate in rates:
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
    chart.y_range = Range1d(0, max(1e-9, float(below.max())) * 1.08)
    chart.xaxis.ticker = list(range(0, 25, 4))
    chart.xaxis.major_label_overrides = {hour: f"{hour:02d}" for hour in range(0, 25, 4)}
    _legend(chart, shown=False)
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


def _legend(chart: Any, *, shown: bool) -> None:  # noqa: ANN401  # as above
    for legend in chart.legend:
        legend.visible = shown
        legend.background_fill_color, legend.background_fill_alpha = _RAISED, 0.7
        legend.border_line_color, legend.label_text_color = None, _TEXT
        legend.label_text_font_size, legend.spacing, legend.padding = "12px", 0, 4
        legend.glyph_height = legend.label_height = 16


def _short(name: str) -> str:
    return name if len(name) <= 28 else f"{name[:27]}…"


def _as_json(target: str, chart: Any) -> dict[str, Any]:  # noqa: ANN401  # as above
    """json_item holds numpy's arrays and NaN in a form of Bokeh's own."""
    made: dict[str, Any] = json.loads(json.dumps(json_item(chart, target)))
    return made
