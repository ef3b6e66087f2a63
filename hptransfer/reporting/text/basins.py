"""Basins as text, for people on a login node: no plotting library, no colour unless asked for."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from itertools import pairwise
from string import ascii_uppercase
from typing import Any

from hptransfer.reporting.figures import wording
from hptransfer.reporting.figures.basins import BasinPanel, Curve, basins_data

ROWS = 16  # lines of a panel's loss axis
MARGIN = 9  # columns left of the plot
NARROWEST = 40  # columns that any picture needs
TICK_ROOM = 6  # columns from one label of the HP axis to the next

# Colours that a terminal adapts to its own background.
COLOURS = (34, 36, 32, 33, 35, 31)
RESET = "\x1b[0m"


@dataclass(frozen=True)
class Glyphs:
    """What pictures are drawn with."""

    optimum: str
    censored: str
    emitted: str
    fit: str
    failed: str
    above: str
    several: str
    bar: str
    bar_low: str
    bar_high: str
    side: str
    corner: str
    floor: str
    tick: str


UNICODE = Glyphs("●", "◇", "□", "·", "×", "▲", "*", "─", "├", "┤", "│", "└", "─", "┴")
ASCII = Glyphs("o", "?", "#", ".", "x", "^", "*", "-", "|", "|", "|", "+", "-", "+")
SPELT = {"µ": "mu", "−": "-", "δ": "delta", "θ": "theta", "±": "+-", "–": "-"}


@dataclass(frozen=True)
class Canvas:
    """The columns of one panel: where θ lies, and what it is drawn with."""

    low: float
    high: float
    columns: int
    glyphs: Glyphs

    def column(self, theta: float) -> int:
        """Return the column of log2 HP, moved to the edge where it lies outside."""
        share = (theta - self.low) / (self.high - self.low)
        return round(min(max(share, 0.0), 1.0) * (self.columns - 1))

    def line(self, text: str) -> str:
        """Return text that fits the panel's width and holds no control character."""
        # An arm's label may come from an imported file.
        shown = "".join(c if c.isprintable() else "?" for c in text)
        shown = shown if self.glyphs is UNICODE else _ascii(shown)
        return _cut(shown, self.columns + MARGIN)

    def blank(self) -> list[Cell]:
        """Return an empty line."""
        return [(" ", None)] * self.columns


Cell = tuple[str, int | None]  # a character, and the width whose colour it has


def basins_text(estimates: Mapping[str, Any], *, columns: int, unicode: bool, colour: bool) -> str:
    """Return a panel per arm and HP, no line longer than `columns` (at least 40)."""
    arms = [arm for arm in estimates["arms"] if arm["optima"]]
    if not arms:
        return "No arm has a basin to draw yet."
    glyphs = UNICODE if unicode else ASCII
    width = max(columns, NARROWEST)
    panels = basins_data({**estimates, "arms": arms}).panels
    blocks = []
    for arm, panel in zip(arms, panels, strict=True):
        canvas = Canvas(*panel.x_limits, width - MARGIN, glyphs)
        blocks.append(_panel(arm, panel, canvas, colour=colour))
    key = _key(glyphs)
    lines = [*[line for block in blocks for line in [*block, ""]], *_wrapped(key, width)]
    return "\n".join(line if unicode else _ascii(line) for line in lines)


def _panel(arm: Mapping[str, Any], panel: BasinPanel, canvas: Canvas, *, colour: bool) -> list[str]:
    label = panel.metric.label
    title = f"{panel.title}   {label} over {panel.x_label}, {panel.seeds}"
    lines = [canvas.line(title)]
    for index, curve in enumerate(panel.curves):
        if curve.above or curve.failed:
            lines.append(_label(_letter(index)) + _painted(_strip(curve, index, canvas), colour))
    lines += _plot(panel, canvas, colour=colour)
    lines += _axis(canvas)
    for index, curve in enumerate(panel.curves):
        cells = _bar(curve.optimum, curve.interval, index, canvas, censored=bool(curve.censored))
        lines.append(_label(f"{_letter(index)} {curve.width}") + _painted(cells, colour))
    lines += _target(arm, canvas, colour=colour)
    lines += [canvas.line(f" {_letter(i)} {_told(o, label)}") for i, o in enumerate(arm["optima"])]
    return lines


def _letter(index: int) -> str:
    return ascii_uppercase[index % len(ascii_uppercase)]


def _strip(curve: Curve, index: int, canvas: Canvas) -> list[Cell]:
    """Return the line of a width's points that lie above the picture or failed."""
    cells = canvas.blank()
    for theta in curve.above:
        cells[canvas.column(theta)] = (canvas.glyphs.above, index)
    for theta in curve.failed:
        cells[canvas.column(theta)] = (canvas.glyphs.failed, index)
    return cells


def _plot(panel: BasinPanel, canvas: Canvas, *, colour: bool) -> list[str]:
    """Return the loss axis: fits as dots, points as their width's letter, optima on top."""
    lines = [canvas.blank() for _ in range(ROWS)]
    span = panel.ceiling - panel.floor

    def put(theta: float, loss: float, character: str, index: int) -> None:
        if panel.floor <= loss <= panel.ceiling:
            row = round((panel.ceiling - loss) / span * (ROWS - 1))
            column = canvas.column(theta)
            there = lines[row][column]
            mixed = character in ascii_uppercase and there[0] in ascii_uppercase
            several = mixed and there[0] != character
            lines[row][column] = (canvas.glyphs.several if several else character, index)

    for index, curve in enumerate(panel.curves):
        for theta, loss in _dots(curve, canvas):
            put(theta, loss, canvas.glyphs.fit, index)
    for index, curve in enumerate(panel.curves):
        for point in curve.points:
            put(point.theta, point.loss, _letter(index), index)
    for index, curve in enumerate(panel.curves):
        shape = canvas.glyphs.censored if curve.censored else canvas.glyphs.optimum
        put(curve.optimum, curve.loss, shape, index)
    return [
        f"{_loss_label(row, panel):>{MARGIN - 2}} {canvas.glyphs.side}" + _painted(cells, colour)
        for row, cells in enumerate(lines)
    ]


def _dots(curve: Curve, canvas: Canvas) -> list[tuple[float, float]]:
    """Return the fit at every column it spans, between its given points in straight lines."""
    dots = []
    for (a, loss_a), (b, loss_b) in pairwise(curve.fit):
        count = max(canvas.column(b) - canvas.column(a), 1)
        dots += [
            (a + (b - a) * k / count, loss_a + (loss_b - loss_a) * k / count) for k in range(count)
        ]
    return dots


def _loss_label(row: int, panel: BasinPanel) -> str:
    loss = panel.ceiling - (panel.ceiling - panel.floor) * row / (ROWS - 1)
    return f"{loss:.4g}" if row % 5 == 0 else ""


def _axis(canvas: Canvas) -> list[str]:
    """Return the line under the plot with its ticks, and their labels."""
    glyphs, step = canvas.glyphs, 1
    octave = (canvas.columns - 1) / (canvas.high - canvas.low)
    while step * octave < TICK_ROOM:
        step *= 2
    line, labels = [glyphs.floor] * canvas.columns, [" "] * canvas.columns
    first = -int(-canvas.low // step) * step
    for theta in range(first, int(canvas.high // 1) + 1, step):
        at = canvas.column(theta)
        line[at] = glyphs.tick
        text = str(theta).replace("-", "−")
        start = min(max(at - len(text) + 1, 0), canvas.columns - len(text))
        labels[start : start + len(text)] = text
    return [
        " " * (MARGIN - 1) + glyphs.corner + "".join(line),
        (" " * MARGIN + "".join(labels)).rstrip(),
    ]


def _bar(
    middle: float,
    interval: tuple[float, float] | None,
    index: int | None,
    canvas: Canvas,
    *,
    censored: bool = False,
    emitted: bool = False,
) -> list[Cell]:
    """Return a line with an optimum and its interval."""
    glyphs, cells = canvas.glyphs, canvas.blank()
    if interval is not None:
        low, high = canvas.column(interval[0]), canvas.column(interval[1])
        for column in range(low, high + 1):
            cells[column] = (glyphs.bar, index)
        cells[low], cells[high] = (glyphs.bar_low, index), (glyphs.bar_high, index)
    shape = glyphs.emitted if emitted else glyphs.censored if censored else glyphs.optimum
    cells[canvas.column(middle)] = (shape, index)
    return cells


def _target(arm: Mapping[str, Any], canvas: Canvas, *, colour: bool) -> list[str]:
    target = arm.get("target")
    if not target or target.get("emitted") is None:
        return []
    ends = (target["low"], target["high"])
    known = None if None in ends else ends
    cells = _bar(target["emitted"], known, None, canvas, emitted=True)
    return [_label(f"T {target['width']}") + _painted(cells, colour)]


def _told(optimum: Mapping[str, Any], label: str) -> str:
    ends = wording.interval(optimum["low"], optimum["high"], 2)
    why = optimum["censored"]
    said = f"; {wording.CENSORED[why]}" if why else ""
    loss = "" if optimum["loss"] is None else f", {label} {optimum['loss']:.4g}"
    return f"width {optimum['width']}: {wording.number(optimum['optimum'], 2)}{ends}{loss}{said}"


def _key(glyphs: Glyphs) -> list[str]:
    return [
        "letters: mean losses of a width;",
        f"{glyphs.several} several;",
        f"{glyphs.fit} fit;",
        f"{glyphs.optimum} optimum with its 90 % interval;",
        f"{glyphs.censored} censored;",
        f"{glyphs.failed} failed;",
        f"{glyphs.above} above the picture;",
        f"T {glyphs.emitted} value for the target",
    ]


def _wrapped(parts: list[str], width: int) -> list[str]:
    lines = [""]
    for part in parts:
        joined = f"{lines[-1]} {part}".strip()
        if len(joined) <= width:
            lines[-1] = joined
        else:
            lines.append(part)
    return lines


def _painted(cells: list[Cell], colour: bool) -> str:
    """Return a line's characters, coloured by width where that is wanted."""
    last = max((at for at, cell in enumerate(cells) if cell[0] != " "), default=-1)
    text = ""
    for character, index in cells[: last + 1]:
        if colour and index is not None and character != " ":
            text += f"\x1b[{COLOURS[index % len(COLOURS)]}m{character}{RESET}"
        else:
            text += character
    return text


def _label(text: str) -> str:
    return f"{_cut(text, MARGIN - 1):<{MARGIN}}"


def _cut(text: str, width: int) -> str:
    return text if len(text) <= width else text[: width - 3] + "..."


def _ascii(line: str) -> str:
    for character, spelt in SPELT.items():
        line = line.replace(character, spelt)
    return line.encode("ascii", "replace").decode("ascii")
