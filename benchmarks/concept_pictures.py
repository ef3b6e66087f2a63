"""Draw the pictures of the concept pages and of the architecture page.

    python -m benchmarks.concept_pictures

Each is written as SVG to `docs/pictures`. Every curve is fitted anew to the committed rows in
`results/studies`; the layers of the packages follow from the table in `tests/test_architecture.py`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np
import pandas as pd

from benchmarks.architecture_picture import draw_architecture
from hptransfer import fit, load_results
from hptransfer.reporting.figures import FORMATS, Picture, drawn
from hptransfer.reporting.figures.style import ARMS, FAIL, INK, MUTED, PAPER, RC, width_colors

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

STUDIES = Path("results/studies")
PAGES = Path("docs/pictures")
GREEN, AMBER, PINK = "#007a58", ARMS[4], ARMS[3]
HIGHEST = 1.0  # loss that the picture of the widths shows
SHOWN = 0.13  # of the lowest loss: how far above the highest optimum a panel reaches
RATES = (0.001, 0.003, 0.01, 0.03, 0.1)
SCALES = (0.1, 1.0, 10.0, 64.0)


def main() -> None:
    """Draw every picture."""
    import matplotlib.style

    PAGES.mkdir(parents=True, exist_ok=True)
    for picture in PICTURES:
        figure = drawn(picture)
        path = PAGES / f"{picture.name}.svg"
        with matplotlib.style.context(["default", RC]):
            figure.savefig(path, bbox_inches="tight", pad_inches=0.12, **FORMATS[".svg"])
        print(path)


# What is drawn.


class Curve(NamedTuple):
    """One setting's points and fitted curve; theta is log2 of the hyperparameter."""

    theta: np.ndarray
    mean: np.ndarray  # NaN where the point failed
    fit: tuple[np.ndarray, np.ndarray]
    optimum: float
    low: float  # of the 90 % interval; the first or last point where an end is not known
    high: float
    loss: float


class Trials(NamedTuple):
    """The trials of one width, a field each: (trial,)."""

    theta: np.ndarray
    seed: np.ndarray
    loss: np.ndarray
    loss_at_init: np.ndarray


def arm_record(study: str, parametrization: str) -> Mapping[str, Any]:
    """Return the answer of one parametrization of a study."""
    return load_results(STUDIES / study).fit().arm(parametrization).record


def curve_of(optimum: Mapping[str, Any]) -> Curve:
    """Select a setting's curve from its entry in the answer."""
    basin = optimum["basin"]
    theta = np.array(basin["theta"])
    low, high = optimum["low"], optimum["high"]
    return Curve(
        theta=theta,
        mean=np.array([np.nan if m is None else m for m in basin["mean"]]),
        fit=(np.array(basin["fit_theta"] or []), np.array(basin["fit_loss"] or [])),
        optimum=optimum["optimum"],
        low=theta[0] if low is None else low,
        high=theta[-1] if high is None else high,
        loss=optimum["loss"],
    )


def curves_of(arm: Mapping[str, Any]) -> dict[int, Curve]:
    """Return the curves of a parametrization by width."""
    return {optimum["width"]: curve_of(optimum) for optimum in arm["optima"]}


def trials_of(study: str, hp: str, parametrization: str, width: int) -> Trials:
    """Return the trials of one width under one parametrization."""
    rows = load_results(STUDIES / study).rows
    keep = (rows["width"] == width) & (rows["parametrization"] == parametrization)
    found = [
        rows[name].to_numpy(dtype=np.float64)[keep.to_numpy()]
        for name in (hp, "seed", "loss", "loss_at_init")
    ]
    return Trials(*found)


# How it is drawn.


def draw_curve(ax: Axes, curve: Curve, color: str, *, label: str | None = None) -> None:
    """Draw points and fitted curve."""
    ax.plot(*curve.fit, color=color, lw=1.8, zorder=3)
    ax.plot(curve.theta, curve.mean, "o", ms=4, color=color, label=label, zorder=3)


def draw_optimum(ax: Axes, curve: Curve, height: float, color: str) -> None:
    """Draw an optimum as a white dot, with its 90 % interval as a bar."""
    ax.plot([curve.low, curve.high], [height] * 2, color=color, lw=5, alpha=0.35, zorder=4)
    ax.plot([curve.optimum], [height], "o", ms=7, mfc=PAPER, mec=color, mew=2, zorder=6)


def join_optima(ax: Axes, curves: Sequence[Curve]) -> None:
    """Lead from each optimum to the next one: upright where nothing moves."""
    ax.plot([c.optimum for c in curves], [c.loss for c in curves], color=INK, lw=1.2, zorder=5)


def values_axis(ax: Axes, values: Sequence[float], name: str = "learning rate") -> None:
    """Label a log2 axis with the values themselves."""
    ax.set_xticks(np.log2(values), [f"{value:g}" for value in values])
    ax.set_xlabel(name)


def note(
    ax: Axes, text: str, tip: tuple[float, float], at: tuple[float, float], **more: Any
) -> None:
    """Write a text with an arrow to what it speaks of."""
    settings: dict[str, Any] = {"color": INK, "fontsize": 9, "ha": "center", "va": "center"}
    arrow = {"arrowstyle": "-|>", "color": MUTED, "lw": 1.0, "shrinkA": 2, "shrinkB": 4}
    ax.annotate(text, tip, at, arrowprops=arrow, zorder=8, **{**settings, **more})


def title(ax: Axes, words: str, text: str) -> None:
    """Give a panel a bold title, and a line or two of text below it."""
    lines = text.count("\n") + 1
    where: dict[str, Any] = {"xycoords": "axes fraction", "textcoords": "offset points"}
    bold: dict[str, Any] = {"fontsize": 11.5, "fontweight": "bold"}
    ax.annotate(text, (0, 1), (0, 6), fontsize=9, color=MUTED, va="bottom", **where)
    ax.annotate(words, (0, 1), (0, 10 + 12.5 * lines), va="bottom", **bold, **where)


# What µP transfers.


def draw_transfer(figure: Figure) -> None:
    """Draw loss against learning rate at five widths, under µP and the standard rule."""
    left, right = figure.subplots(1, 2, sharey=True)
    mup, standard = (curves_of(arm_record("lr_transfer", name)) for name in ("mup", "standard"))
    _draw_widths(left, mup)
    _draw_widths(right, standard)
    left.set_ylabel("loss after training")
    title(left, "Under µP", "the best learning rate hardly depends on the width")
    below = "the wider the model, the lower the best learning rate"
    title(right, "Under the standard parametrization", below)
    narrowest = mup[16].optimum, mup[16].loss
    note(
        left, "white dot: the optimum of one width\nbar: its 90 % interval", narrowest, (-6.0, 0.94)
    )
    base = "width 16 is the base width: here\nboth pictures show the same model"
    note(right, base, narrowest, (-6.0, 0.94))


def _draw_widths(ax: Axes, curves: Mapping[int, Curve]) -> None:
    colors = width_colors(list(curves))
    for width, curve in curves.items():
        draw_curve(ax, curve, colors[width])
        draw_optimum(ax, curve, curve.loss, colors[width])
        first = int(np.flatnonzero(curve.mean < HIGHEST)[0])
        ax.annotate(
            f"width {width}", (curve.theta[first], curve.mean[first]), (-7, 0), fontsize=9,
            textcoords="offset points", color=colors[width], fontweight="bold", ha="right",
            va="center",
        )  # fmt: skip
    join_optima(ax, list(curves.values()))
    values_axis(ax, RATES)
    ax.set(ylim=(0.48, HIGHEST), xlim=(-11.9, -2.7))


# An optimum and its interval.


def draw_optima(figure: Figure) -> None:
    """Draw one curve in full, and three that are harder to read."""
    grid = figure.add_gridspec(2, 3, height_ratios=(1.35, 1))
    _draw_one_curve(figure.add_subplot(grid[0, :]))
    _draw_flat(figure.add_subplot(grid[1, 0]))
    _draw_cut_off(figure.add_subplot(grid[1, 1]))
    _draw_failed(figure.add_subplot(grid[1, 2]))


def _draw_one_curve(ax: Axes) -> None:
    curve = curves_of(arm_record("quickstart", "mup"))[96]
    trials = trials_of("quickstart", "log2_lr", "mup", 96)
    halfway = float(np.sqrt(np.nanmin(curve.mean) * trials.loss_at_init[0]))
    has_failed = np.isin(trials.theta, curve.theta[np.isnan(curve.mean)])
    color = ARMS[0]
    ax.axvspan(curve.low, curve.high, color=color, alpha=0.15, lw=0, zorder=1)
    ax.axvline(curve.optimum, ymax=0.55, color=color, lw=1.4, ls="--", zorder=2)
    ax.axhline(halfway, color=FAIL, lw=1.2, ls=":")
    line = "halfway back to the loss before training"
    ax.text(-10.3, halfway + 0.012, line, fontsize=9, color=FAIL)
    ax.plot(*curve.fit, color=color, lw=2.2, zorder=3)
    dot: dict[str, Any] = {"ms": 5, "mfc": PAPER, "mec": color, "mew": 1.2, "zorder": 4}
    ax.plot(trials.theta[~has_failed], trials.loss[~has_failed], "o", **dot)
    ax.plot(trials.theta[has_failed], trials.loss[has_failed], "x", ms=6.5, color=FAIL, mew=1.8)
    trial = "each dot is one trial:\na training run with its own seed"
    note(ax, trial, (-9.0, 0.643), (-8.55, 0.80))
    note(ax, "the fitted curve", (-7.62, 0.569), (-8.9, 0.55))
    value, low, high = 2.0**curve.optimum, 2.0**curve.low, 2.0**curve.high
    told = f"the optimum: {value:.2g}\n90 % interval (shaded): {low:.2g} to {high:.2g}"
    note(ax, told, (curve.optimum, 0.74), (-6.45, 0.84), fontweight="bold")
    note(ax, "this rate has failed:\none seed lies above the line", (-3.06, 0.90), (-4.05, 0.80))
    values_axis(ax, RATES)
    ax.set(ylim=(0.48, 1.02), xlim=(-10.4, -2.6), ylabel="loss after training")
    title(ax, "One width: eight learning rates, three seeds each", "quickstart, µP, width 96")


def _draw_flat(ax: Axes) -> None:
    curve = curves_of(arm_record("output_scale", "standard"))[64]
    trials = trials_of("output_scale", "log2_output_scale", "standard", 64)
    ax.axvspan(curve.theta[0] - 1, curve.high, color=PINK, alpha=0.15, lw=0)
    ax.plot(trials.theta, trials.loss, "o", ms=3.5, mfc=PAPER, mec=PINK, mew=1)
    values_axis(ax, SCALES, "output scale")
    ax.set(xlim=(-3.6, 6.5), ylabel="loss after training")
    low = "neighbours differ by less than seeds do:\n"
    title(ax, "Flat", f"{low}the optimum lies somewhere below {2.0**curve.high:.2g}")


def _draw_cut_off(ax: Axes) -> None:
    """Draw the same rows as in the large panel, as if the four highest rates were missing."""
    rows = load_results(STUDIES / "quickstart").rows
    columns = ["width", "log2_lr", "seed", "loss", "loss_at_init"]
    keep = (rows["parametrization"] != "standard") & (rows["log2_lr"] <= -6)
    swept = pd.DataFrame(rows.loc[keep, columns])
    curve = curves_of(fit(swept).arm().record)[96]
    every = curves_of(arm_record("quickstart", "mup"))[96]
    above = every.theta > -6
    ax.axvspan(curve.low, -3.6, color=AMBER, alpha=0.15, lw=0)
    ax.plot(curve.theta, curve.mean, "o", ms=4.5, color=AMBER)
    ax.plot(*curve.fit, color=AMBER, lw=1.8)
    ax.plot(every.theta[above], every.mean[above], "o", ms=4.5, mfc=PAPER, mec=MUTED, mew=1)
    note(ax, "not swept", (-4.9, 0.535), (-5.1, 0.60), fontsize=8.5, color=MUTED)
    values_axis(ax, RATES)
    ax.set(ylim=(0.5, 0.76), xlim=(-10.4, -3.6))
    text = "the loss still falls at the last rate swept:\nthe interval has a lower end only"
    title(ax, "Cut off", text)


def _draw_failed(ax: Axes) -> None:
    curve = curves_of(arm_record("lr_transfer-pixart", "standard"))[256]
    failed = curve.theta[np.isnan(curve.mean)]
    ax.axvspan(curve.low, curve.high, color=FAIL, alpha=0.15, lw=0)
    ax.plot(curve.theta, curve.mean, "o", ms=4.5, color=FAIL)
    ax.plot(*curve.fit, color=FAIL, lw=1.8)
    ax.plot(failed, [0.615] * len(failed), "x", color=FAIL, ms=7, mew=2)
    ax.axvline(failed[0], color=FAIL, lw=1, ls=":")
    cliff = "the cliff: from here on\nevery rate has failed"
    note(ax, cliff, (failed[0], 0.58), (-4.6, 0.575), fontsize=8.5)
    values_axis(ax, RATES)
    ax.set(ylim=(0.515, 0.62), xlim=(-10.4, -2.6))
    text = "the interval ends at the cliff,\nthe first of the failed rates"
    title(ax, "Next to failed trials", text)


# The verdict.


def draw_verdict(figure: Figure) -> None:
    """Draw what *moves* and *matters* measure, and which verdict both give."""
    left, right = figure.subplots(1, 2, width_ratios=(1.4, 1))
    _draw_measures(left)
    _draw_table(right)


def _draw_measures(ax: Axes) -> None:
    arm = arm_record("quickstart", "standard")
    told, ignoring = arm["cost"]["curve"], arm["cost"]["ignoring"]
    target, kept = arm["target"]["optimum"], ignoring["value"]
    value, mean = np.array(told["value"]), np.array(told["mean"], dtype=float)
    at_target, at_kept = np.interp([target, kept], value, mean)
    mark: dict[str, Any] = {"ms": 8, "mfc": PAPER, "mec": ARMS[1], "mew": 2, "zorder": 5}
    ax.plot(value, mean, color=ARMS[1], lw=2.2, zorder=3)
    ax.plot([target], [at_target], "o", **mark)
    ax.plot([kept], [at_kept], "s", **mark)
    for place in (target, kept):
        ax.plot([place] * 2, [0.0, 4.3], color=MUTED, lw=1, ls=":", zorder=2)
    arrow = {"arrowstyle": "<|-|>", "lw": 1.6, "shrinkA": 0, "shrinkB": 0, "color": INK}
    ax.annotate("", (target, 4.2), (kept, 4.2), arrowprops=arrow, zorder=6)
    ax.annotate("", (kept + 0.15, 0), (kept + 0.15, at_kept), arrowprops=arrow, zorder=6)
    factor = 2.0 ** abs(ignoring["movement"]["estimate"])
    bold: dict[str, Any] = {"fontsize": 9.5, "fontweight": "bold"}
    moves = f"Does it move?\n{factor:.1f} times;\nlimit: 1.4"
    ax.text((target + kept) / 2, 4.45, moves, ha="center", va="bottom", **bold)
    compute = ignoring["compute_percent"]["mean"]
    matters = (
        f"Does that matter?\nkeeping it costs {at_kept:.1f} %\nof the loss, worth {compute:.2g} %\n"
        "more compute; limit: 5 %"
    )
    ax.text(kept + 0.25, 0.85, matters, va="center", **bold)
    optimum = "the optimum at the target\n(its cost is not zero, since\nits place is uncertain)"
    note(ax, optimum, (target, at_target), (-9.4, 0.6))
    note(ax, "the widest proxy's best\nvalue, if one keeps it", (kept, at_kept), (-6.0, 2.6))
    values_axis(ax, (0.002, 0.004, 0.008, 0.016))
    ax.set(ylim=(0, 5.9), xlim=(-10.3, -5.0), ylabel="expected cost at the target, % of the loss")
    text = "the quickstart's standard parametrization, at its target of width 192"
    title(ax, "Two questions", text)


def _draw_table(ax: Axes) -> None:
    from matplotlib.patches import Rectangle

    answers = ("no", "unclear", "yes")
    for row, matters in enumerate(answers):
        for column, moves in enumerate(answers):
            word, color = verdict_of(moves, matters)
            place = column + 0.03, row + 0.03
            ax.add_patch(Rectangle(place, 0.94, 0.94, facecolor=color, alpha=0.14, lw=0))
            ax.text(
                column + 0.5, row + 0.5, word, ha="center", va="center", color=color,
                fontweight="bold", fontsize=10,
            )  # fmt: skip
    ax.set_xticks([0.5, 1.5, 2.5], answers, fontsize=10)
    ax.set_yticks([0.5, 1.5, 2.5], answers, fontsize=10)
    ax.set(xlim=(-0.02, 3.02), ylim=(3.02, -0.02))
    ax.set_xlabel("Does it move?", fontweight="bold")
    ax.set_ylabel("Does that matter?", fontweight="bold")
    ax.grid(visible=False)
    ax.tick_params(length=0)
    ax.spines[:].set_visible(False)
    title(ax, "One verdict", "what the two answers give together")


def verdict_of(moves: str, matters: str) -> tuple[str, str]:
    """Return the verdict that two answers give, and its colour."""
    if matters == "no":
        return "transfers", GREEN
    if matters == moves == "yes":
        return "drifts", FAIL
    return "inconclusive", MUTED


# When transfer fails.


def draw_failures(figure: Figure) -> None:
    """Draw six recorded sweeps in which transfer fails or stays open."""
    axes = figure.subplots(3, 2)
    panels = (_draw_drift, _draw_no_fall, _draw_batch, _draw_cliff, _draw_plain, _draw_seeds)
    for ax, draw in zip(axes.flat, panels, strict=True):
        ax.set_ylabel("" if draw is _draw_batch else "loss after training")
        draw(ax)


def _draw_settings(ax: Axes, curves: Mapping[int, Curve], **legend: Any) -> None:
    """Draw several widths' curves with their optima joined, a legend entry each."""
    colors = width_colors(list(curves))
    for width, curve in curves.items():
        draw_curve(ax, curve, colors[width], label=f"width {width}")
        draw_optimum(ax, curve, curve.loss, colors[width])
    best = list(curves.values())
    join_optima(ax, best)
    lowest = min(c.loss for c in best)
    values_axis(ax, RATES)
    ax.set(ylim=(0.965 * lowest, max(c.loss for c in best) + SHOWN * lowest), xlim=(-10.4, -2.6))
    ax.legend(frameon=False, fontsize=8, labelspacing=0.2, handletextpad=0.2, **legend)


def _draw_drift(ax: Axes) -> None:
    _draw_settings(ax, curves_of(arm_record("lr_transfer", "standard_embed")))
    text = "each doubling of the width nearly\nhalves the best learning rate"
    title(ax, "1  The parametrization is not µP", text)


def _draw_no_fall(ax: Axes) -> None:
    curves = curves_of(arm_record("lr_transfer-uvit", "standard"))
    _draw_settings(ax, {width: curves[width] for width in (64, 128, 256)})
    text = "the widest model is not the best one:\na loss cannot be counted in compute"
    title(ax, "2  The loss stops falling with width", text)


def _draw_batch(ax: Axes) -> None:
    told = arm_record("conditions", "mup")["conditions"]["optima"]
    wanted = [o for o in told if o["width"] == 64 and o["steps"] == 150]
    wanted.sort(key=lambda o: o["batch_size"])
    colors = list(width_colors(range(len(wanted))).values())
    for place, (each, color) in enumerate(zip(wanted, colors, strict=True)):
        ax.plot([each["low"], each["high"]], [place] * 2, color=color, lw=5, alpha=0.35)
        ax.plot([each["optimum"]], [place], "o", ms=7, mfc=PAPER, mec=color, mew=2, zorder=4)
    ax.set_yticks(range(len(wanted)), [f"batch {o['batch_size']:g}" for o in wanted])
    values_axis(ax, (0.02, 0.03, 0.04))
    ax.set(ylim=(2.6, -0.6))
    text = "at one width and number of steps the\noptimum moves with the batch size"
    title(ax, "3  Something else grows as well", text)


def _draw_cliff(ax: Axes) -> None:
    curves = curves_of(arm_record("lr_transfer-pixart", "standard"))
    shown = {width: curves[width] for width in (64, 128, 256)}
    _draw_settings(ax, shown, loc="center right")
    top, colors = ax.get_ylim()[1], width_colors(list(shown))
    for place, (width, curve) in enumerate(shown.items()):
        failed = curve.theta[np.isnan(curve.mean)]
        heights = [top * (1 - 0.012 * (place + 1))] * len(failed)
        ax.plot(failed, heights, "x", color=colors[width], ms=6, mew=1.8)
    text = "failed rates (crosses) come closer\nto the optimum as the width grows"
    title(ax, "4  Runs fail near the optimum", text)


def _draw_plain(ax: Axes) -> None:
    _draw_settings(ax, {16: curves_of(arm_record("output_scale", "standard"))[16]})
    values_axis(ax, SCALES, "output scale")
    ax.set_xlim(-3.6, 6.5)
    text = "many values are as good as each other:\nthere is hardly an optimum to transfer"
    title(ax, "5  The curve is flat", text)


def _draw_seeds(ax: Axes) -> None:
    trials = trials_of("output_scale", "log2_output_scale", "standard", 64)
    colors = width_colors(list(np.unique(trials.seed)))
    for seed, color in colors.items():
        own = np.flatnonzero(trials.seed == seed)
        own = own[np.argsort(trials.theta[own])]
        theta, loss = trials.theta[own], trials.loss[own]
        best = int(loss.argmin())
        ax.plot(theta, loss, "-o", ms=3.5, lw=1.1, color=color, label=f"seed {seed:g}")
        mark: dict[str, Any] = {"ms": 7, "mfc": PAPER, "mec": color, "mew": 2, "zorder": 5}
        ax.plot([theta[best]], [loss[best]], "o", **mark)
    values_axis(ax, SCALES, "output scale")
    ax.set(xlim=(-3.6, 6.4), ylim=(0.54, 0.72))
    ax.legend(frameon=False, fontsize=8, labelspacing=0.2, handletextpad=0.4, loc="upper right")
    text = "the best values of five seeds (white dots)\nlie up to a factor of eight apart"
    title(ax, "6  One seed misleads", text)


PICTURES = (
    Picture("what_mup_transfers", "Loss against learning rate", (9.4, 4.5), draw_transfer),
    Picture("optima_and_intervals", "Curves and optima", (9.2, 7.2), draw_optima),
    Picture("verdicts", "Moves and matters", (10.0, 4.7), draw_verdict),
    Picture("when_transfer_fails", "Six ways to fail", (8.6, 10.0), draw_failures),
    Picture("architecture", "The packages", (8.6, 7.4), draw_architecture),
)

if __name__ == "__main__":
    main()
