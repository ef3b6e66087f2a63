"""The picture of `benchmarks.convergence`: held-out loss against steps, a line for each rate."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from hptransfer.reporting.figures.style import ARMS, INK, MUTED, RC, spread

if TYPE_CHECKING:
    from matplotlib.figure import Figure

COLORS = {
    "mup": ARMS[0],
    "default": MUTED,
    "proxy_tuned": ARMS[1],
    "law_tuned": ARMS[2],
    "target_tuned": ARMS[3],
}
START = 0.1  # of the steps: the picture's top is what µP's loss was then
GAP = 0.085  # between labels, as a share of the picture's height


class Line(NamedTuple):
    """The mean loss of a rate's seeds, their range, and what is said of it."""

    steps: tuple[int, ...]
    mean: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    color: str
    label: str


class ConvergenceData(NamedTuple):
    """The lines, µP's first, and the losses that the picture holds."""

    lines: tuple[Line, ...]
    limits: tuple[float, float]
    steps: int
    title: str
    key: str


def convergence_data(answer: Mapping[str, Any]) -> ConvergenceData:
    """Select the curves that have points; lines that end above the picture are named at its top."""
    entries = [answer["transferred"], *answer["baselines"]]
    lines = tuple(_line(entry) for entry in entries if entry["curve"]["step"])
    start = START * answer["steps"]
    late = [[m for s, m in zip(line.steps, line.mean, strict=True) if s >= start] for line in lines]
    top = max(next(filter(None, late), [1.0]))  # of µP, unless that did not come so far
    bottom = min((min(line.low) for line in lines), default=0.0)
    margin = 0.05 * (top - bottom)
    return ConvergenceData(
        lines,
        (bottom - margin, top + margin),
        answer["steps"],
        f"{answer['family']}, width {answer['width']}: steps to equal loss",
        f"mean and range of {len(answer['seeds'])} seeds; ×: how many times fewer steps µP needs, "
        "90 % interval over seeds",
    )


def _line(entry: Mapping[str, Any]) -> Line:
    curve = entry["curve"]
    lost = entry["loss"] is None
    told = [f"{entry['label']}, " + ("lost a seed" if lost else f"ends at {entry['loss']:.3f}")]
    told += [ratio_text(entry["speed_up"])] if "speed_up" in entry else []
    step, mean, low, high = (tuple(curve[name]) for name in ("step", "mean", "low", "high"))
    return Line(step, mean, low, high, COLORS[entry["name"]], "\n".join(told))


def ratio_text(told: Mapping[str, Any] | None) -> str:
    """Say how many times fewer steps µP needs, with its interval; `> ×3` where it is a bound."""
    if told is None:
        return "-"
    if told["estimate"] is None:
        return "no answer"
    sign = "" if told["relation"] == "=" else f"{told['relation']} "
    estimate = f"{sign}×{told['estimate']:.3g}"
    ends = [None if end is None else f"{end:.3g}" for end in (told["low"], told["high"])]
    if ends == [None, None]:
        return f"{estimate} (no interval)"
    low, high = (end or "open" for end in ends)
    return f"{estimate} ({low} to {high})"


def draw(answer: Mapping[str, Any], folder: Path) -> list[Path]:
    """Write the picture as PNG and SVG."""
    from matplotlib import style

    folder.mkdir(parents=True, exist_ok=True)
    paths = [folder / f"convergence.{suffix}" for suffix in ("png", "svg")]
    with style.context(["default", RC]):
        figure = convergence_figure(answer)
        for path in paths:
            figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)
    return paths


def convergence_figure(answer: Mapping[str, Any]) -> Figure:
    """Return the lines with their bands, labelled at their right ends, as a figure."""
    from matplotlib import style
    from matplotlib.figure import Figure

    data = convergence_data(answer)
    with style.context(["default", RC]):
        figure = Figure(figsize=(9.0, 4.8), layout="constrained")
        axes = figure.add_subplot()
        for line in data.lines:
            axes.fill_between(line.steps, line.low, line.high, color=line.color, alpha=0.15, lw=0)
            axes.plot(line.steps, line.mean, color=line.color, lw=1.8)
        low, high = data.limits
        axes.set_ylim(low, high)
        axes.set_xlim(0, data.steps)
        places = spread(
            [min(line.mean[-1], high) for line in data.lines],
            GAP * (high - low),
            (low + GAP / 2 * (high - low), high - GAP / 2 * (high - low)),
        )
        for line, place in zip(data.lines, places, strict=True):
            axes.annotate(
                line.label, (line.steps[-1], min(line.mean[-1], high)),
                xytext=(1.03 * data.steps, place), va="center", fontsize=8.5, color=line.color,
                annotation_clip=False,
                arrowprops={"arrowstyle": "-", "color": line.color, "lw": 0.7, "relpos": (0, 0.5)},
            )  # fmt: skip
        axes.set_xlabel("steps")
        axes.set_ylabel("held-out loss")
        axes.set_title(data.title, color=INK, pad=20)
        axes.text(0, 1.02, data.key, transform=axes.transAxes, fontsize=8.5, color=MUTED)
    return figure
