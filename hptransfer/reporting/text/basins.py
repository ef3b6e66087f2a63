"""Basins as text, for people on a login node: no plotting library, no colour unless asked for."""

from __future__ import annotations

import textwrap
from collections.abc import Callable, Mapping
from functools import partial
from itertools import pairwise
from string import ascii_uppercase
from typing import Any

from hptransfer.analysis.answer.text import CENSORED
from hptransfer.config.sweep import AXIS_WORDS
from hptransfer.reporting.figures import wording
from hptransfer.reporting.figures.basins import BasinCurve, BasinPanel, basins_data

ROWS = 16  # lines of a panel's loss axis
MARGIN = 9  # columns left of the plot
NARROWEST = 40  # columns that any picture needs
TICK_ROOM = 6  # columns from one label of the HP axis to the next

ANSI_COLOURS = (34, 36, 32, 33, 35, 31)  # of the widths, in turn
ASCII = str.maketrans("●◇□·×▲─├┤│└┴−µδθ±–", "o?#.x^-|||++-udt+-")  # for terminals without UTF-8
KEY = (
    "A, B, ...: mean loss at a width (*: at several widths); ·: fitted curve; ●: best value, "
    "with its 90 % interval below; ◇: best value that the grid does not show clearly; ▲: loss "
    "above the picture; ×: failed; T □: value for the target"
)

TextLine = dict[int, tuple[str, int | None]]  # column to a character and the number of its width


def basins_text(estimates: Mapping[str, Any], *, columns: int, unicode: bool, colour: bool) -> str:
    """Return a panel per arm and HP, no line longer than `columns` (at least 40)."""
    arms = [arm for arm in estimates["arms"] if arm["optima"]]
    if not arms:
        return "There is nothing to draw yet, because no width has a fitted curve."
    width = max(columns, NARROWEST)
    lines = []
    for arm, panel in zip(arms, basins_data({**estimates, "arms": arms}), strict=True):
        lines += [*_panel(arm, panel, width, colour=colour), ""]
    text = "\n".join([*lines, textwrap.fill(KEY, width)])
    return text if unicode else text.translate(ASCII).encode("ascii", "replace").decode()


def _panel(arm: Mapping[str, Any], panel: BasinPanel, width: int, *, colour: bool) -> list[str]:
    label, columns = panel.metric.label, width - MARGIN
    column = partial(_column, panel.x_limits, columns)
    plot = _plot(panel, column)
    lines = [part for line in arm["headline"].splitlines() for part in textwrap.wrap(line, width)]
    lines += [_cut(f"{panel.title}   {label} over {panel.x_label}, {panel.seeds}", width)]
    lines += [
        f"{_loss_label(row, panel):>{MARGIN - 2}} │{_painted(line, colour)}"
        for row, line in enumerate(plot)
    ]
    lines += _axis(panel.x_limits, columns)
    for index, curve in enumerate(panel.curves):
        shape = "◇" if curve.censored else "●"
        line = {column(theta): ("▲", index) for theta in curve.above}
        line |= {column(theta): ("×", index) for theta in curve.failed}
        line |= _bar(curve.optimum, curve.interval, shape, index, column)
        lines.append(_named(f"{_letter(index)} {curve.at:g}", line, colour))
    target = arm["target"]
    if target is not None:
        ends = None if None in (target["low"], target["high"]) else (target["low"], target["high"])
        bar = _bar(target["emitted"], ends, "□", None, column)
        lines.append(_named(f"T {target[arm['axis']]:g}", bar, colour))
    axis, words = arm["axis"], AXIS_WORDS[arm["axis"]]
    said = (
        f" {_letter(i)} {words} {o[axis]:g}: {_optimum_text(o, label)}"
        for i, o in enumerate(arm["optima"])
    )
    return lines + [_cut(line, width) for line in said]


def _letter(index: int) -> str:
    return ascii_uppercase[index % len(ascii_uppercase)]


def _column(limits: tuple[float, float], columns: int, theta: float) -> int:
    """Return the column of log2 HP, moved to the edge where it lies outside."""
    low, high = limits
    return round(min(max((theta - low) / (high - low), 0.0), 1.0) * (columns - 1))


def _plot(panel: BasinPanel, column: Callable[[float], int]) -> list[TextLine]:
    """Return the loss axis, highest loss first: fits, over them points, over them optima."""
    lines: list[TextLine] = [{} for _ in range(ROWS)]
    span = panel.ceiling - panel.floor

    def put(theta: float, loss: float, character: str, index: int) -> None:
        if panel.floor <= loss <= panel.ceiling:
            line = lines[round((panel.ceiling - loss) / span * (ROWS - 1))]
            there, _ = line.get(column(theta), (character, None))
            letters = character in ascii_uppercase and there in f"{ascii_uppercase}*"
            line[column(theta)] = ("*" if letters and there != character else character, index)

    for index, curve in enumerate(panel.curves):
        for theta, loss in _fit_points(curve, column):
            put(theta, loss, "·", index)
    for index, curve in enumerate(panel.curves):
        for point in curve.points:
            put(point.theta, point.loss, _letter(index), index)
    for index, curve in enumerate(panel.curves):
        put(curve.optimum, curve.loss, "◇" if curve.censored else "●", index)
    return lines


def _fit_points(curve: BasinCurve, column: Callable[[float], int]) -> list[tuple[float, float]]:
    """Return the fit at every column it spans, straight between its given points."""
    points = []
    for (a, loss_a), (b, loss_b) in pairwise(curve.fit):
        count = max(column(b) - column(a), 1)
        shares = [k / count for k in range(count)]
        points += [(a + (b - a) * s, loss_a + (loss_b - loss_a) * s) for s in shares]
    return points


def _loss_label(row: int, panel: BasinPanel) -> str:
    loss = panel.ceiling - (panel.ceiling - panel.floor) * row / (ROWS - 1)
    return f"{loss:.4g}" if row % 5 == 0 else ""


def _axis(limits: tuple[float, float], columns: int) -> list[str]:
    """Return the line under the plot with a tick every 1, 2, 4, ... octaves, and their labels."""
    low, high = limits
    step = 1
    while step * (columns - 1) / (high - low) < TICK_ROOM:
        step *= 2
    line, labels = ["─"] * columns, [" "] * columns
    for theta in range(-int(-low // step) * step, int(high // 1) + 1, step):
        at, text = _column(limits, columns, theta), str(theta).replace("-", "−")
        line[at] = "┴"
        start = min(max(at - len(text) + 1, 0), columns - len(text))
        labels[start : start + len(text)] = text
    return [" " * (MARGIN - 1) + "└" + "".join(line), (" " * MARGIN + "".join(labels)).rstrip()]


def _bar(
    middle: float,
    interval: tuple[float, float] | None,
    shape: str,
    index: int | None,
    column: Callable[[float], int],
) -> TextLine:
    """Return an optimum with its interval."""
    line: TextLine = {}
    if interval is not None:
        low, high = map(column, interval)
        line = {at: ("─", index) for at in range(low, high + 1)}
        line |= {low: ("├", index), high: ("┤", index)}
    return line | {column(middle): (shape, index)}


def _optimum_text(optimum: Mapping[str, Any], label: str) -> str:
    ends = wording.interval_text(optimum["low"], optimum["high"], 2)
    why = optimum["censored"]
    said = f"; {CENSORED[why]}" if why else ""
    loss = "" if optimum["loss"] is None else f", {label} {optimum['loss']:.4g}"
    middle = wording.number_text(optimum["optimum"], 2)
    return f"{middle}{ends}{loss}{said}"


def _named(name: str, line: TextLine, colour: bool) -> str:
    return f"{_cut(name, MARGIN - 1):<{MARGIN}}{_painted(line, colour)}"


def _painted(line: TextLine, colour: bool) -> str:
    """Return a line's characters, coloured by width where that is wanted."""
    text = ""
    for at in range(max(line, default=-1) + 1):
        character, index = line.get(at, (" ", None))
        if colour and index is not None:
            character = f"\x1b[{ANSI_COLOURS[index % len(ANSI_COLOURS)]}m{character}\x1b[0m"
        text += character
    return text


def _cut(text: str, width: int) -> str:
    """Return text that fits into `width`, without control characters an imported name may hold."""
    shown = "".join(c if c.isprintable() else "?" for c in text)
    return shown if len(shown) <= width else shown[: width - 3] + "..."
