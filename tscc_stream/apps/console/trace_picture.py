"""A window as a small SVG: its outline, filled with the cluster's colour. Pure."""

from __future__ import annotations

import numpy as np

from tscc_stream.messages import Float32Array

WIDTH, HEIGHT = 200, 56
_COLUMNS = 200
NOTHING = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}"></svg>'


def picture(samples_t: Float32Array, onset_share: float, colour: str) -> str:
    """Of samples [T], scaled to their largest. onset_share: where the onset stands, 0 to 1; colour: #rrggbb."""
    if not samples_t.size:
        return NOTHING
    edges = np.linspace(0, samples_t.size, min(_COLUMNS, samples_t.size) + 1).astype(int)
    low, high = (edge(samples_t, edges[:-1]) for edge in (np.minimum.reduceat, np.maximum.reduceat))
    largest = float(np.abs(samples_t).max()) or 1.0
    x = np.linspace(0, WIDTH, low.size)
    middle, half = HEIGHT / 2, HEIGHT / 2 - 2
    above = [f"{a:.1f} {middle - half * b / largest:.1f}" for a, b in zip(x, high, strict=True)]
    below = [f"{a:.1f} {middle - half * b / largest:.1f}" for a, b in zip(x[::-1], low[::-1], strict=True)]
    onset = onset_share * WIDTH
    return (
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {HEIGHT}" preserveAspectRatio="none">'
        f'<path d="M{onset:.1f} 0V{HEIGHT}" stroke="#9db0c1" stroke-width="1" stroke-dasharray="3 3"/>'
        f'<path d="M{"L".join(above + below)}Z" fill="{colour}" stroke="{colour}" stroke-width="0.8"/></svg>'
    )
