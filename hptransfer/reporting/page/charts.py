"""What the page's own drawing shows: curves and optima as plain JSON, each mark with its words.

The selection is that of the pictures (`figures/basins.py`, `figures/over_axis.py`), so that page
and pictures show the same; `report.js` only draws.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable, Mapping
from typing import Any

from hptransfer.analysis.answer.text import CENSORED, arm_names, value_span
from hptransfer.analysis.basins.rows import SAME_DECIMALS, SHARED
from hptransfer.config.hyperparameters import axis_digits, hp_value, hp_words, value_text
from hptransfer.config.sweep import AXIS_WORDS
from hptransfer.reporting.figures.basins import LANE, BasinCurve, BasinPanel, basins_data
from hptransfer.reporting.figures.over_axis import OverAxis, Track, optimum_data
from hptransfer.reporting.figures.style import INK, Mark, arm_colors
from hptransfer.reporting.figures.wording import number_text
from hptransfer.results.table import conditions_of

JsonObject = dict[str, Any]
SeedCounts = Mapping[tuple[float, float], int]  # (width, point of the HP's axis) -> seeds


def charts(
    estimates: Mapping[str, Any],
    realised: Mapping[str, Any] | None = None,
    rows: Iterable[Mapping[str, Any]] = (),
) -> JsonObject:
    """Return the curves of each arm, and the optima of each hyperparameter over the width.

    Args:
        rows: the ledger's, which tell the seeds of each point; without them, those of its width.
    """
    arms = [arm for arm in estimates["arms"] if arm["optima"]]
    names, rows = arm_names(arms), list(rows)
    so_far = ", so far" if arms and estimates["trials"]["missing"] else ""
    panels: list[JsonObject] = [
        _panel(panel, arm, name, _point_seeds(rows, arm))
        | {"title": f"{name}{so_far}: {arm['verdict']}"}
        for panel, arm, name in zip(
            basins_data({**estimates, "arms": arms}) if arms else [], arms, names, strict=True
        )
    ]
    settings: dict[str, JsonObject] = {c["key"]: c for p in panels for c in p["curves"]}
    return {
        "sweep": estimates["sweep"],
        "axis": AXIS_WORDS[arms[0]["axis"]] if arms else "",
        "settings": [
            {"key": key, "name": settings[key]["name"], "color": settings[key]["color"]}
            for key in sorted(settings, key=lambda key: settings[key]["at"])
        ],
        "arms": [
            {"key": name, "name": name, "color": color}
            for name, color in zip(names, arm_colors(names), strict=True)
        ],
        "panels": panels,
        "over": [
            _over(optimum_data({**estimates, "arms": arms}, realised, hp=hp), hp)
            for hp in dict.fromkeys(arm["hp"] for arm in arms)
        ],
    }


def _point_seeds(rows: Iterable[Mapping[str, Any]], arm: Mapping[str, Any]) -> SeedCounts:
    """Count the finished runs of each point of an arm's curves, where one HP was searched."""
    hp, axis = arm["hp"], arm["axis"]
    held = {name: value for name, value in arm["at"].items() if name != axis and value is not None}
    counts: Counter[tuple[float, float]] = Counter()
    for row in rows:
        at = {**conditions_of(row["config"]), "width": row["width"]}
        if (
            row["parametrization"] in (arm["parametrization"], SHARED)
            and row["config"]["model"]["family"] == arm["family"]
            and list(row["hps"]) == [hp]
            and row["loss"] is not None
            and all(at[name] == value for name, value in held.items())
        ):
            runs = row["config"].get("foreign", {}).get("n_seeds", 1)
            counts[at[axis], round(row["hps"][hp] or 0.0, SAME_DECIMALS)] += runs
    return counts


def _panel(panel: BasinPanel, arm: Mapping[str, Any], name: str, seeds: SeedCounts) -> JsonObject:
    hp, lane = arm["hp"], LANE * (panel.ceiling - panel.floor)
    words = _Words(hp, AXIS_WORDS[arm["axis"]], panel.metric.label)
    optima = {optimum[arm["axis"]]: optimum for optimum in arm["optima"]}
    return {
        "arm": name,
        "x": {"label": hp_words(hp), "log": hp.startswith("log2_"), "limits": panel.x_limits},
        "y": {"label": panel.metric.axis, "limits": [panel.floor, panel.top]},
        "ceiling": panel.ceiling,
        "curves": [
            _curve(curve, optima[curve.at], words, seeds, panel.top - (place + 0.5) * lane)
            for place, curve in enumerate(panel.curves)
        ],
    }


def _curve(
    curve: BasinCurve,
    optimum: Mapping[str, Any],
    words: _Words,
    seeds: SeedCounts,
    lane: float,
) -> JsonObject:
    def counted(theta: float) -> int | None:
        return seeds.get((curve.at, round(theta, SAME_DECIMALS)), optimum["n_seeds"])

    means = {point.theta: point for point in curve.points}
    return {
        "key": f"{curve.at:g}",
        "at": curve.at,
        "name": f"{curve.at:g}",
        "color": curve.color,
        "fit": curve.fit,
        "lane": lane,
        "cliff": curve.cliff,
        "points": [
            {"x": p.theta, "y": p.loss, "low": p.low, "high": p.high}
            | {"text": words.of_point(curve.at, p.theta, p.loss, counted(p.theta), p.low, p.high)}
            for p in curve.points
            if p.theta not in curve.above
        ],
        "above": [
            {"x": t, "text": words.of_point(curve.at, t, means[t].loss, counted(t), None, None)}
            for t in curve.above
        ],
        "failed": [{"x": t, "text": words.of_failed(curve.at, t)} for t in curve.failed],
        "optimum": {
            "x": curve.optimum,
            "y": curve.loss,
            "interval": curve.interval,
            "hollow": curve.censored is not None,
            "text": words.of_optimum(curve.at, optimum, curve.loss, curve.note),
        },
    }


class _Words:
    """The lines that stand beside a mark while it is pointed at."""

    def __init__(self, hp: str, axis: str, measured: str) -> None:
        self.hp, self.axis, self.measured = hp, axis, measured

    def of_point(
        self,
        at: float,
        theta: float,
        loss: float,
        seeds: int | None,
        low: float | None,
        high: float | None,
    ) -> list[str]:
        """Say what was measured at a point."""
        of = "" if seeds is None else f", {_seeds(seeds)}"
        lines = [f"{self.axis} {at:g}", self.value(theta), f"mean {self.measured} {loss:.4f}{of}"]
        if low is not None and high is not None and low < high:
            lines.append(f"{self.measured} of the seeds: {low:.4f} to {high:.4f}")
        return lines

    def of_failed(self, at: float, theta: float) -> list[str]:
        """Say that a point failed."""
        return [
            f"{self.axis} {at:g}: failed",
            self.value(theta),
            "diverged, or hardly better than at the start",
        ]

    def of_optimum(
        self, at: float, optimum: Mapping[str, Any], loss: float, note: str
    ) -> list[str]:
        """Say where the optimum of a curve lies, and how surely."""
        lines = [f"{self.axis} {at:g}: optimum", self.value(optimum["optimum"])]
        lines.append(f"90 % interval {value_span(self.hp, optimum['low'], optimum['high'])}")
        if optimum["censored"]:
            lines.append(CENSORED[optimum["censored"]])
        seeds = optimum["n_seeds"]
        of = "" if seeds is None else f", {_seeds(seeds)}"
        share = note.removesuffix(" beyond")
        beyond = [f"beyond the grid with a probability of {share}"] if note else []
        return [*lines, f"{self.measured} {loss:.4f}{of}", *beyond]

    def of_mark(self, title: str, mark: Mark) -> list[str]:
        """Say what a mark over the width shows."""
        ends = mark.interval or (None, None)
        lines = [title, self.value(mark.value), f"90 % interval {value_span(self.hp, *ends)}"]
        return lines + ([CENSORED[mark.censored]] if mark.censored else [])

    def value(self, theta: float) -> str:
        """Return a point of the HP's axis in words; one in log2 also as such."""
        text = f"{hp_words(self.hp)} {value_text(self.hp, hp_value(self.hp, theta))}"
        if not self.hp.startswith("log2_"):
            return text
        return f"{text} (log2 {number_text(theta, axis_digits(self.hp))})"


def _seeds(count: int) -> str:
    return "1 seed" if count == 1 else f"{count} seeds"


def _over(over: OverAxis, hp: str) -> JsonObject:
    words = _Words(hp, over.x_label, "")
    return {
        "title": f"Optimum over the {over.x_label}",
        "key": over.key,
        "x": {"label": over.x_label, "places": over.places, "target": over.target},
        "y": {
            "label": f"optimal {hp_words(hp)}",
            "log": hp.startswith("log2_"),
            "limits": over.limits,
        },
        "tracks": [_track(track, words) for track in over.tracks],
        "realised": over.realised
        and _mark(over.realised, words, f"the target's own optimum, {over.x_label}")
        | {"color": INK},
    }


def _track(track: Track, words: _Words) -> JsonObject:
    target = None
    if track.target is not None and track.emitted is not None:
        told = _mark(track.target, words, f"{track.name}: value for the target, {words.axis}")
        told["text"][1] = words.value(track.emitted)
        target = {**told, "y": track.emitted}
    return {
        "arm": track.name,
        "color": track.color,
        "band": track.band and track.band._asdict(),
        "marks": [_mark(mark, words, f"{track.name}: {words.axis}") for mark in track.marks],
        "target": target,
    }


def _mark(mark: Mark, words: _Words, title: str) -> JsonObject:
    return {
        "key": f"{mark.at:g}",
        "x": mark.at,
        "y": mark.value,
        "interval": mark.interval,
        "hollow": mark.censored is not None,
        "text": words.of_mark(f"{title} {mark.at:g}", mark),
    }
