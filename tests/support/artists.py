"""What a drawing holds, read from its artists in data coordinates."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
from matplotlib.axes import Axes
from matplotlib.collections import PolyCollection
from matplotlib.container import ErrorbarContainer
from matplotlib.figure import Figure

Points = list[tuple[float, float]]


def figure_of(draw: Callable[[Figure], None]) -> Figure:
    """Return a figure with a drawing on it, neither laid out nor written."""
    figure = Figure()
    draw(figure)
    return figure


def axes_of(draw: Callable[[Axes, Any], None], data: object) -> Axes:
    """Return axes with a drawing on them."""
    ax = Figure().subplots()
    draw(ax, data)
    return ax


def lines(ax: Axes) -> list[Points]:
    """Return the points of every line, markers and curves alike, in the order of drawing."""
    return [[(float(x), float(y)) for x, y in np.asarray(line.get_xydata())] for line in ax.lines]


def marked(ax: Axes, *markers: str) -> Points:
    """Return the points that are drawn with one of some markers, in the order of drawing."""
    drawn = zip(ax.lines, lines(ax), strict=True)
    return [point for line, points in drawn if line.get_marker() in markers for point in points]


def intervals(ax: Axes) -> list[tuple[float, float, float, float]]:
    """Return the ends (x, y, x, y) of every error bar."""
    bars = [c.lines[2] for c in ax.containers if isinstance(c, ErrorbarContainer)]
    segments = [segment for bar in bars for lines in bar for segment in lines.get_segments()]
    return [tuple(float(v) for v in np.ravel(segment)) for segment in segments]  # pyright: ignore


def bars(ax: Axes) -> list[tuple[float, float]]:
    """Return where each horizontal bar begins and ends."""
    return [(p.get_x(), p.get_x() + p.get_width()) for p in ax.patches if hasattr(p, "get_x")]  # pyright: ignore


def shades(ax: Axes) -> list[np.ndarray]:
    """Return the outlines (point, 2) of every shaded band."""
    bands = [c for c in ax.collections if isinstance(c, PolyCollection)]
    return [np.asarray(path.vertices) for band in bands for path in band.get_paths()]


def texts(ax: Axes) -> list[str]:
    """Return every text inside and beside the axes."""
    return [text.get_text() for text in ax.texts]
