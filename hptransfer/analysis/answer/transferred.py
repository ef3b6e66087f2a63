"""What of a sweep's estimates goes to the target: values, cost, verdict and warnings."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
import pandas as pd

from hptransfer.analysis.answer.text import target_differs
from hptransfer.analysis.basins.curve import Floats
from hptransfer.config.hyperparameters import hp_words
from hptransfer.config.sweep import AXIS_WORDS, TARGET_WORDS
from hptransfer.errors import UserError

EMPTY_REGRET = dict.fromkeys(("mean", "low", "high", "percent", "compute_percent"))


@dataclass(frozen=True)
class Transferred:
    """The answer of one arm: its estimates by HP, and the joint ones where there are several."""

    arms: Mapping[str, Mapping[str, Any]]  # by HP, as `estimate` returned them
    joint: Mapping[str, Any] | None  # `target` of the arm's response surface

    @cached_property
    def first(self) -> Mapping[str, Any]:
        """The first HP's estimates."""
        return next(iter(self.arms.values()))

    @property
    def hps(self) -> dict[str, dict[str, float | None]]:
        """Value and 90 % interval by HP, in log2."""
        if self.joint is not None:
            return {hp: dict(self.joint["hps"][hp]) for hp in self.arms}
        return {
            hp: {
                "value": arm["target"]["emitted"],
                "low": arm["target"]["low"],
                "high": arm["target"]["high"],
            }
            for hp, arm in self.arms.items()
        }

    @property
    def point(self) -> dict[str, float]:
        """The value of each HP."""
        return {hp: float(value["value"] or 0.0) for hp, value in self.hps.items()}

    @property
    def at(self) -> dict[str, Any]:
        """The conditions that the answer is read at, where the rows say: depth, batch, steps."""
        known = self.first.get("at") or {}
        return {name: int(value) for name, value in known.items() if value is not None}

    @property
    def holds_for(self) -> dict[str, Any]:
        """The conditions that the values hold for: the target's where the rows tell how to go."""
        told = target_differs(self.first)
        return {**self.at, **{name: int(value) for name, value in told.items()}}

    def of_condition(self, table: pd.DataFrame) -> pd.DataFrame:
        """Return the arm's rows under the conditions that the answer is read at."""
        rows = arm_rows(table, self.first["parametrization"])
        for name, value in self.at.items():
            rows = rows.loc[rows[name].to_numpy(dtype=np.float64) == value]
        return rows

    @property
    def answers(self) -> dict[str, dict[str, Any]]:
        """What every HP's answer says in words, and where its grid should reach farther, by HP."""
        told = ("headline", "moves", "matters", "verdict", "reasons", "extend")
        return {hp: {name: arm[name] for name in told} for hp, arm in self.arms.items()}

    @property
    def predicted_loss(self) -> dict[str, Any] | None:
        """The loss at the target's optimum, if the loss has a law there."""
        if target_differs(self.first):
            return None  # the law is that of another condition than the target's
        found = (self.first["loss_law"] or {}).get("at_target")
        return None if found is None or found["estimate"] is None else dict(found)

    @property
    def expected_regret(self) -> dict[str, Any]:
        """The cost of the transferred values in units of the loss, in % of it, and in compute."""
        own = (self.joint or self.first["target"])["expected_regret"]
        if own is None or own["mean"] is None:
            return {**EMPTY_REGRET, "reason": _no_prediction(self.first)}
        if self.joint is not None:
            loss = self.first["optima"][-1]["loss"]
            percent = round(100 * own["mean"] / loss, 3) if loss > 0 else None
            return {**own, "percent": percent, "compute_percent": None}
        cost = self.first["cost"]["emitted"]
        shares = {name: (cost[name] or {}).get("mean") for name in ("percent", "compute_percent")}
        return {**own, **shares}

    @property
    def verdict(self) -> str:
        """The worst verdict of the HPs."""
        return worst_verdict([arm["verdict"] for arm in self.arms.values()])

    @property
    def warnings(self) -> list[str]:
        """The HPs' own warnings, each once, and what the values rest on beyond the sweep."""
        warnings = [warning for arm in self.arms.values() for warning in arm["warnings"]]
        if self.verdict == "drifts":
            warnings.append(self._extrapolated())
        if len(self.arms) > 1 and self.joint is None:
            warnings.append(
                "The expected cost is that of the first hyperparameter alone; those of the "
                "others are not added."
            )
        return list(dict.fromkeys(warnings))

    def _extrapolated(self) -> str:
        arm = next(arm for arm in self.arms.values() if arm["verdict"] == "drifts")
        axis = arm["axis"]
        last, there = arm["optima"][-1][axis], arm["target"][axis]
        far = f"{math.log2(there / last):.2g}"
        doublings = "1 doubling" if far == "1" else f"{far} doublings"
        return (
            f"The {hp_words(arm['hp'])} is extrapolated over {doublings} of the "
            f"{AXIS_WORDS[axis]} beyond the last swept one ({last:g}). It is right only if the "
            "optimum goes on moving at the same rate there: sweep a value nearer to the target "
            "to be surer."
        )


def transferred(estimates: Mapping[str, Any], label: str, family: str | None = None) -> Transferred:
    """Return the answer of the arm `label`; `family` where rows of several are there.

    Raises:
        UserError: the sweep has no such arm, or no optimum in it.
    """
    arms = {
        arm["hp"]: arm
        for arm in estimates["arms"]
        if arm["parametrization"] in (label, "shared") and family in (None, arm["family"])
    }
    if not arms:
        swept = sorted({arm["parametrization"] for arm in estimates["arms"]})
        raise UserError(
            "The target's parametrization must be one of those that were swept, but it is "
            f"{label} and the sweep has {', '.join(swept) or 'no finished trial'}. Set "
            "parametrization=."
        )
    for hp, arm in arms.items():
        if arm["target"] is None and arm["optima"] and arm["axis"] != "width":
            axis = AXIS_WORDS[arm["axis"]]
            raise UserError(
                f"The sweep compares values of the {axis}, so a transfer needs the target's "
                f"{axis} beyond {arm['optima'][-1][arm['axis']]:g}, but none was named. Name it, "
                f"for example {TARGET_WORDS[arm['axis']]}={2 * arm['optima'][-1][arm['axis']]:g}."
            )
        if arm["target"] is None:
            raise UserError(
                "A value can be transferred only from a fitted optimum, but the trials of "
                f"{label} have none for {hp}: {'; '.join(arm['reasons'])}"
            )
    return Transferred(arms, _joint(estimates, arms))


def _joint(
    estimates: Mapping[str, Any], arms: Mapping[str, Mapping[str, Any]]
) -> Mapping[str, Any] | None:
    """Return the joint answer of several HPs at the target, if a surface was fitted."""
    first = next(iter(arms.values()))
    for surface in estimates.get("surfaces", ()):
        same = all(surface[name] == first[name] for name in ("family", "parametrization"))
        if same and set(surface["hps"]) == set(arms):
            return surface["target"]
    return None


def costs(
    table: pd.DataFrame, label: str, *, target_flops: float | None, direct_runs: int
) -> dict[str, float | None]:
    """Return FLOPs of all rows and of the target, and the arm's ratios to it in percent.

    The third ratio's denominator is a direct search, `direct_runs` target runs. What is not known
    is null.
    """
    arm = arm_rows(table, label)
    flops, width = table["flops"].to_numpy(dtype=np.float64), arm["width"].to_numpy()
    of_arm = arm["flops"].to_numpy(dtype=np.float64)
    known = bool(np.isfinite(flops).all())

    def percent(spent: Floats, runs: int) -> float | None:
        if target_flops is None or not known:
            return None
        return round(100 * float(spent.sum()) / (target_flops * runs), 3)

    return {
        "sweep_flops": float(flops.sum()) if known else None,
        "target_flops": target_flops,
        "arm_over_target_percent": percent(of_arm, 1),
        "narrowest_over_target_percent": percent(of_arm[width == width.min()], 1),
        "over_direct_search_percent": percent(of_arm, direct_runs),
    }


def points_of_width(table: pd.DataFrame, label: str, axes: Sequence[str]) -> int:
    """Return the largest number of distinct points that an arm has at a width."""
    arm = arm_rows(table, label)
    width = arm["width"].to_numpy()
    hps = np.stack([arm[axis].to_numpy(dtype=np.float64) for axis in axes], axis=1)
    return max(len(np.unique(hps[width == each], axis=0)) for each in np.unique(width))


def arm_rows(table: pd.DataFrame, label: str) -> pd.DataFrame:
    """Return an arm's rows, those that all arms share among them."""
    return table.loc[np.isin(table["parametrization"].to_numpy(dtype=np.str_), [label, "shared"])]


def worst_verdict(verdicts: Sequence[str]) -> str:
    """Return the verdict that counts where several HPs have one each."""
    for worst in ("drifts", "inconclusive"):
        if worst in verdicts:
            return worst
    return "transfers"


def _no_prediction(arm: Mapping[str, Any]) -> str:
    if arm["optima"][-1]["noise"]["sd"] is None:
        return "the noise of a run is not known"
    return "the target's optimum may lie where training diverges"
