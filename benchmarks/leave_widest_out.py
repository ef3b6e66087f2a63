"""The next width's optimum, predicted from the narrower ones: on recorded and on public sweeps.

    python -m benchmarks.leave_widest_out [CSV ...] [--out FILE] [--page docs/evidence/README.md]

A task is one arm and one of its widths from the third on: only narrower widths are read. Arms are
those of every study in results/studies that searched one hyperparameter over widths alone, by its
ledger (a target's own rows, which lie about the predicted value, and a study that trains another's
proxies again are left out), and those of CSV files with the columns `arm` or `optimizer`, `lr`,
`loss` and `width`, or `depth` where the width is the same in all rows; several rows with equal
columns count as seeds.

The optimum that is found at the held-out width is the minimum of the parabola through the lowest
point and its neighbours, in log losses (means over seeds; a point of which a seed failed is left
out). What a predicted value costs there is read from that parabola between the three points, from a
monotone cubic (PCHIP) elsewhere, and from a straight line beyond the outermost points. Where the
lowest point is the outermost one the optimum is only bounded: the cost counts, the interval does
not. The loss at the optimum is predicted too, from three known widths on.

Beside ours: the widest known width's best point; the parabola there; a straight line in log2 width
through all widths' parabolas; a Gaussian process (leave_widest_out_rivals.py).
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pandas as pd
from scipy.interpolate import PchipInterpolator

from benchmarks import measure
from benchmarks.leave_widest_out_rivals import RIVALS, Points, parabola
from hptransfer.analysis.answer.estimates import estimate
from hptransfer.analysis.basins.curve import Floats
from hptransfer.config.sweep import CONDITIONS
from hptransfer.results.ledger_rows import LEDGER_NAME, read_ledger
from hptransfer.results.table import TABLE_COLUMNS, rows_table

RESULTS = Path(__file__).resolve().parents[1] / "results"
FEWEST = 2  # widths that predict the next one
OURS = "ours"
WORST = 8  # cases that are listed
COLUMNS = ("group", "method", "n", "held", "median %", "mean %", "90 % quantile %")
WORST_COLUMNS = ("arm", "held out", "predicted", "interval", "found", "costs %")


class Prediction(NamedTuple):
    """A value for the next width, and the 90 % interval of its optimum where a method has one."""

    value: float
    low: float | None
    high: float | None


@dataclass(frozen=True)
class Found:
    """The basin of the width that was left out."""

    theta: Floats  # (point,) ascending
    y: Floats  # log of the loss

    @property
    def lowest(self) -> int:
        """Index of the lowest point."""
        return int(np.argmin(self.y))

    @property
    def is_bounded_only(self) -> bool:
        """Whether the lowest point is the outermost one."""
        return self.lowest in (0, len(self.y) - 1)

    @property
    def optimum(self) -> float:
        """The parabola's minimum; the outermost point where that is the lowest."""
        return parabola(self.theta, self.y)

    @cached_property
    def _curve(self) -> Floats:
        """The parabola's coefficients about the lowest point."""
        near = slice(self.lowest - 1, self.lowest + 2)
        return np.polyfit(self.theta[near] - self.theta[self.lowest], self.y[near], 2)

    @property
    def bottom(self) -> float:
        """The log of the loss at the optimum."""
        if self.is_bounded_only:
            return float(self.y[self.lowest])
        return float(np.polyval(self._curve, self.optimum - self.theta[self.lowest]))

    def costs_percent(self, value: float) -> float:
        """Return what a value costs, in percent of the loss at the optimum."""
        theta, y, i = self.theta, self.y, self.lowest
        inside = float(np.clip(value, theta[0], theta[-1]))
        rise = float(PchipInterpolator(theta, y)(inside))
        if not self.is_bounded_only and theta[i - 1] <= value <= theta[i + 1]:
            rise = float(np.polyval(self._curve, value - theta[i]))
        if value < theta[0]:
            rise += max(0.0, (y[0] - y[1]) / (theta[1] - theta[0])) * (theta[0] - value)
        if value > theta[-1]:
            rise += max(0.0, (y[-1] - y[-2]) / (theta[-1] - theta[-2])) * (value - theta[-1])
        return 100.0 * float(np.expm1(rise - self.bottom))


@dataclass(frozen=True)
class Arm:
    """One arm's rows over its widths, or depths."""

    group: str
    name: str
    rows: pd.DataFrame
    axis: str  # width or depth
    hp: str
    is_public: bool = False


@dataclass(frozen=True)
class Task:
    """One arm, and the width that its narrower ones are to predict."""

    arm: Arm
    held_out: int

    @cached_property
    def points(self) -> dict[int, Points]:
        """The points of every narrower width."""
        known = sorted(n for n in self.arm.rows[self.arm.axis].unique() if n < self.held_out)
        return {int(n): self._points_at(int(n)) for n in known}

    @cached_property
    def found(self) -> Found:
        """What the width that was left out shows."""
        return Found(*self._points_at(self.held_out))

    def _points_at(self, n: int) -> Points:
        """Return theta and the log of the mean loss of the points of which no run failed."""
        rows = self.arm.rows.loc[self.arm.rows[self.arm.axis] == n]
        loss = rows.loc[:, "loss"].where(rows["status"] == "completed")
        means = loss.groupby(rows[self.arm.hp]).agg(lambda runs: runs.mean(skipna=False)).dropna()
        theta = means.index.to_numpy(dtype=np.float64)
        return theta, np.log(means.to_numpy(dtype=np.float64))

    @cached_property
    def answer(self) -> dict[str, Any]:
        """Our analysis of the narrower widths, the held-out one as the target."""
        rows, axis = self.arm.rows, self.arm.axis
        at_width = axis == "width"
        return estimate(
            rows.loc[rows[axis] < self.held_out],
            sweep_name="leave_widest_out",
            axes=[self.arm.hp],
            target_width=self.held_out if at_width else None,
            target_at=None if at_width else {axis: float(self.held_out)},
        )["arms"][0]

    def predictions(self) -> dict[str, Prediction]:
        """Return every method's prediction."""
        told = self.answer["target"]
        others = {name: Prediction(*m(self.points, self.held_out)) for name, m in RIVALS.items()}
        return {OURS: Prediction(told["emitted"], told["low"], told["high"]), **others}


AGAIN = ("four_axes_without_duration",)  # its proxies have the losses of `four_axes`


def study_tasks(studies: Path) -> Iterator[Task]:
    """Yield the tasks of the recorded studies."""
    for folder in sorted(path for path in studies.iterdir() if (path / LEDGER_NAME).is_file()):
        rows = rows_table(read_ledger(folder).rows)
        hps = [name for name in rows.columns if name.startswith("log2_")]
        if folder.name in AGAIN or len(hps) != 1:
            continue
        if any(len(rows[name].dropna().unique()) > 1 for name in CONDITIONS):
            continue
        group = folder.name.split("-")[0]
        for arm in sorted(set(rows["parametrization"]) - {"shared"}):
            own = rows.loc[rows["parametrization"].isin([arm, "shared"])]
            yield from _each_width(Arm(group, f"{folder.name} {arm}", own, "width", hps[0]))


def csv_tasks(file: Path) -> Iterator[Task]:
    """Yield the tasks of a public sweep."""
    read = pd.read_csv(file)
    arm = "arm" if "arm" in read.columns else "optimizer"
    for name in sorted(read[arm].unique()):
        own = read.loc[read[arm] == name]
        axis = "width" if len(own["width"].unique()) > 1 else "depth"
        named = f"{file.stem} {name}"
        yield from _each_width(
            Arm(file.stem, named, _as_rows(own), axis, "log2_lr", is_public=True)
        )


def _as_rows(read: pd.DataFrame) -> pd.DataFrame:
    """Return a CSV's rows with the columns that `estimate` reads; an empty loss has failed."""
    rows = pd.DataFrame({column.name: np.nan for column in TABLE_COLUMNS}, index=read.index)
    rows = rows.drop(columns="log2_<hp>").assign(
        log2_lr=np.log2(read["lr"]).round(6),
        loss=read["loss"],
        status=np.where(read["loss"].notna(), "completed", "diverged"),
        width=read["width"],
        depth=read["depth"].astype(float) if "depth" in read.columns else np.nan,
        family="public",
        parametrization="public",
        n_seeds=1,
    )
    return rows.assign(seed=rows.groupby(["width", "depth", "log2_lr"], dropna=False).cumcount())


def _each_width(arm: Arm) -> Iterator[Task]:
    for held_out in sorted(arm.rows[arm.axis].unique())[FEWEST:]:
        yield Task(arm, int(held_out))


def case(task: Task) -> dict[str, Any]:
    """Return a task with what every method predicted and what that costs."""
    found = task.found
    return {
        "group": task.arm.group,
        "public": task.arm.is_public,
        "arm": task.arm.name,
        "hp": task.arm.hp,
        "axis": task.arm.axis,
        "from": list(task.points),
        "held_out": task.held_out,
        "found": round(found.optimum, 4),
        "bounded_only": found.is_bounded_only,
        "methods": {
            name: {
                "value": round(told.value, 4),
                "low": None if told.low is None else round(told.low, 4),
                "high": None if told.high is None else round(told.high, 4),
                "costs_percent": round(found.costs_percent(told.value), 5),
                "held": _held(told, found),
            }
            for name, told in task.predictions().items()
        },
        "loss": _loss(task.answer["loss_law"]["at_target"], found),
    }


def _loss(told: Mapping[str, Any] | None, found: Found) -> dict[str, Any]:
    """Return the loss at the optimum that was found, beside the predicted one."""
    loss = float(np.exp(found.bottom))
    held = None if told is None or told["low"] is None else told["low"] <= loss <= told["high"]
    return {"found": round(loss, 5), "predicted": told, "held": held}


def _held(told: Prediction, found: Found) -> bool | None:
    if found.is_bounded_only or told.low is None or told.high is None:
        return None
    return told.low <= found.optimum <= told.high


def summary(cases: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return every method's figures by group, and over all tasks."""
    chosen = {
        group: [each for each in cases if each["group"] == group]
        for group in dict.fromkeys(each["group"] for each in cases)
    }
    chosen["all recorded"] = [each for each in cases if not each["public"]]
    chosen["all public"] = [each for each in cases if each["public"]]
    chosen["all"] = list(cases)
    return [
        {"group": group, "method": name, **_figures([each["methods"][name] for each in part])}
        for group, part in chosen.items()
        for name in (OURS, *RIVALS)
        if part
    ]


def losses_held(cases: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Count the losses at the held-out optimum that lie in their 90 % interval."""
    told = [each["loss"] for each in cases if each["loss"]["held"] is not None]
    if not told:
        return {"n": 0, "held": 0, "median_error_percent": 0.0}
    errors = [abs(t["predicted"]["estimate"] / t["found"] - 1.0) for t in told]
    return {
        "n": len(told),
        "held": sum(t["held"] for t in told),
        "median_error_percent": round(100.0 * float(np.median(errors)), 3),
    }


def _figures(told: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    costs = [each["costs_percent"] for each in told]
    judged = [each["held"] for each in told if each["held"] is not None]
    return {
        "n": len(told),
        "intervals": len(judged),
        "held": sum(judged) if judged else None,
        "median_percent": round(float(np.median(costs)), 5),
        "mean_percent": round(float(np.mean(costs)), 5),
        "quantile_90_percent": round(float(np.quantile(costs, 0.9)), 5),
    }


def worst(cases: Sequence[Mapping[str, Any]]) -> list[Mapping[str, Any]]:
    """Return the tasks in which our value cost the most, and then all others that ours missed."""
    by_cost = sorted(cases, key=lambda each: -each["methods"][OURS]["costs_percent"])
    missed = [each for each in by_cost[WORST:] if each["methods"][OURS]["held"] is False]
    return [*by_cost[:WORST], *missed]


def _cells(entry: Mapping[str, Any]) -> list[str]:
    held, count = entry["held"], entry["intervals"]
    told = "–" if held is None else f"{held} of {count} ({100 * held / count:.0f} %)"
    figures = ("median_percent", "mean_percent", "quantile_90_percent")
    return [
        *(entry["group"], entry["method"], str(entry["n"]), told),
        *(f"{entry[name]:.3f}" for name in figures),
    ]


def _worst_cells(each: Mapping[str, Any]) -> list[str]:
    told = each["methods"][OURS]
    return [
        each["arm"],
        f"{each['axis']} {each['held_out']} from {', '.join(map(str, each['from']))}",
        f"{told['value']:.2f}",
        f"{told['low']:.2f} to {told['high']:.2f}" + (" missed" if told["held"] is False else ""),
        f"{each['found']:.2f}" + (" or beyond" if each["bounded_only"] else ""),
        f"{told['costs_percent']:.3f}",
    ]


def page_tables(answer: Mapping[str, Any]) -> dict[str, str]:
    """Return the tables of docs/evidence: every method over all tasks, ours by group, the worst."""
    whole = [entry for entry in answer["summary"] if entry["group"].startswith("all")]
    ours = [e for e in answer["summary"] if e["method"] == OURS and e not in whole]
    return {
        "methods": measure.table_text(COLUMNS, [_cells(entry) for entry in whole]),
        "groups": measure.table_text(COLUMNS, [_cells(entry) for entry in ours]),
        "worst": measure.table_text(
            WORST_COLUMNS, [_worst_cells(each) for each in worst(answer["cases"])]
        ),
    }


def main(argv: Sequence[str] | None = None) -> int:
    """Predict, print both tables, write the record and the picture beside it."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.leave_widest_out", description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )  # fmt: skip
    parser.add_argument("sweeps", nargs="*", type=Path, metavar="CSV", help="public sweeps")
    parser.add_argument("--studies", type=Path, default=RESULTS / "studies")
    out = RESULTS / "benchmarks" / "leave_widest_out.json"
    parser.add_argument("--out", type=Path, default=out)
    parser.add_argument("--page", type=Path, help="into which the short tables are written")
    arguments = parser.parse_args(argv)
    for file in arguments.sweeps:
        if not file.is_file():
            parser.error(f"there is no file {file}")
    tasks = [*study_tasks(arguments.studies), *(t for f in arguments.sweeps for t in csv_tasks(f))]
    cases = [case(task) for task in tasks]
    settings = {"sweeps": [file.stem for file in arguments.sweeps]}
    answer = measure.record("leave_widest_out", settings, measure.machine())
    answer |= {"summary": summary(cases), "losses": losses_held(cases), "cases": cases}
    measure.publish(answer, COLUMNS, [_cells(entry) for entry in answer["summary"]], arguments.out)
    print(measure.table_text(WORST_COLUMNS, [_worst_cells(each) for each in worst(cases)]))
    losses = answer["losses"]
    print(f"loss    {losses['held']} of {losses['n']} held, {losses['median_error_percent']} % off")
    if arguments.page is not None:
        for name, text in page_tables(answer).items():
            measure.write_between(arguments.page, name, text)
    from benchmarks import leave_widest_out_plot  # matplotlib

    leave_widest_out_plot.draw(cases, arguments.out.with_suffix(".png"))
    return 0


if __name__ == "__main__":
    sys.exit(main())
