"""Records for the tests of figures, report and printed text.

Estimates are those of committed studies and planted sweeps, fitted anew; what training would have
to give is by hand.
"""

from __future__ import annotations

from copy import deepcopy
from functools import cache
from typing import Any

import numpy as np
import pandas as pd

from hptransfer.analysis.answer.estimates import estimate
from hptransfer.analysis.of_folder import estimates_of
from hptransfer.analysis.target_rows import refreshed
from hptransfer.results.folder import ResultsFolder
from hptransfer.results.metrics import metric_named
from tests.support.paths import ROOT
from tests.support.planted_tables import sweep


@cache
def _study(name: str, metric: str) -> dict[str, Any]:
    folder = ResultsFolder(ROOT / "results" / "studies" / name)
    return estimates_of(folder, metric=metric_named(metric))


def study(name: str = "quickstart", metric: str = "loss") -> dict[str, Any]:
    """Return the estimates of a committed study's rows, fitted once and copied."""
    return deepcopy(_study(name, metric))


@cache
def _target_sweep() -> dict[str, Any] | None:
    return refreshed(ResultsFolder(ROOT / "results" / "studies" / "quickstart"))[1]


def target_sweep() -> dict[str, Any]:
    """Return what the own sweep of the quickstart's target gave."""
    found = deepcopy(_target_sweep())
    assert found is not None
    return found


def fitted(*tables: pd.DataFrame, target: int | None = None) -> dict[str, Any]:
    """Return the estimates of planted rows."""
    rows = pd.concat(tables, ignore_index=True)
    found = estimate(rows, sweep_name="planted", axes=["log2_lr"], target_width=target)
    return found | {"trials": {"fitted": len(rows), "missing": 0, "left_out": 0}}


def bare() -> dict[str, Any]:
    """An imported arm of one width, whose loss falls to the grid's lower end, of one seed."""
    label = {"parametrization": "../<b>mine", "grid": np.arange(-10.0, -7.0)}
    return fitted(sweep({64: -13.0}, seeds=1, **label))


def noiseless() -> dict[str, Any]:
    """Three widths of one seed and three rates: no interval is known."""
    few = {"grid": np.array([-8.0, -6.0, -4.0]), "seeds": 1}
    return fitted(sweep({24: -6.0, 48: -6.1, 96: -5.9}, **few), target=192)


def many_widths() -> dict[str, Any]:
    """Eight widths from 16 to 2048."""
    return fitted(sweep({16 * 2**i: -6.0 + 0.05 * i for i in range(8)}), target=4096)


def two_families() -> dict[str, Any]:
    """A sweep whose rows are of two families."""
    optima = {24: -6.0, 48: -6.1, 96: -5.9}
    return fitted(*(sweep(optima, family=name) for name in ("dit", "uvit")), target=192)


def over_depth() -> dict[str, Any]:
    """One width at three depths: the answer is read along the depth."""
    tables = [
        sweep({64: -6.0 - 0.5 * i}, fall=0.0, depth=depth, rng=i)
        for i, depth in enumerate((2, 4, 8))
    ]
    return fitted(*tables)


def interval(estimate: float, low: float, high: float) -> dict[str, float]:
    return {"estimate": estimate, "low": low, "high": high}


COST = {
    "sweep_flops": 9.31e13,
    "target_flops": 2.94e13,
    "arm_over_target_percent": 174.0,
    "narrowest_over_target_percent": 12.6,
    "over_direct_search_percent": 6.6,
}


def surface(hps: tuple[str, ...] = ("log2_lr", "log2_weight_decay")) -> dict[str, Any]:
    """Three widths' surfaces of several HPs; the first two trade off along a flat direction."""
    count = len(hps)
    bend = [[0.06 if i == j else 0.0 for j in range(count)] for i in range(count)]
    bend[1][1], bend[0][1], bend[1][0] = 0.03, 0.038, 0.038
    correlation = [[1.0 if i == j else 0.0 for j in range(count)] for i in range(count)]
    correlation[0][1] = correlation[1][0] = -0.88
    centers = [(-5.6, 0.25), (-4.0, 0.5), (-1.0, 0.4), (-6.0, 0.8)][:count]
    widths = [
        {
            "width": width,
            "optimum": {
                hp: {"value": c + 0.1 * k, "low": c + 0.1 * k - h, "high": c + 0.1 * k + h}
                for hp, (c, h) in zip(hps, centers, strict=True)
            },
            "loss": 0.61 - 0.05 * k,
            "n_points": 25,
            "ridge": 0.001,
            "interactions": bend,
            "skew": [0.01] * count,
            "box": {hp: [c - 2.0, c + 2.5] for hp, (c, _) in zip(hps, centers, strict=True)},
            "correlation": correlation,
            "principal_axes": [
                {
                    "direction": {hps[0]: -0.54, hps[1]: 0.84},
                    "curvature": 0.0054,
                    "reach": 0.8,
                    "sentence": "A lower learning rate with more decay costs nearly nothing.",
                },
                {"direction": {hps[0]: 0.84, hps[1]: 0.54}, "curvature": 0.08}
                | {"reach": 0.2, "sentence": None},
            ],
            "censored": dict.fromkeys(hps),
        }
        for k, width in enumerate((24, 48, 96))
    ]
    left = [0.62, 0.27, 0.08, 0.03][:count]
    return {
        "family": "dit",
        "parametrization": "mup",
        "hps": list(hps),
        "widths": widths,
        "importance": {
            "surface": dict(zip(hps, left, strict=True)),
            "ped_anova": dict(zip(hps, [0.7, 0.2, 0.06, 0.04][:count], strict=True)),
        },
        "target": {
            "hps": {hp: {"value": -5.5, "low": -5.8, "high": -5.2} for hp in hps},
            "expected_regret": {"mean": 0.0006, "low": 0.0, "high": 0.0019},
        },
    }


MODULES = ["patch_embed", "time_embed.0", "time_embed.2", "label_embed"] + [
    f"blocks.{i}.{part}" for i in (0, 1) for part in ("attn.qkv", "attn.proj", "mlp.0", "mlp.2")
] + ["final.adaln", "final.linear"]  # fmt: skip


def coordinate_check(worst: float = 0.0) -> dict[str, Any]:
    """A coordinate check of 14 modules; `worst` is added to the readout's slope."""
    slopes, rms = [], []
    for row, module in enumerate(MODULES):
        for step in (1, 2, 3, 4, 5, 6):
            quantity = "init" if step == 1 else "update"
            slope = 0.11 * ((row * 7 + step * 3) % 5 - 2) / 2
            slope += worst if module == "final.linear" and step > 1 else 0.0
            ok = abs(slope) <= 0.2
            slopes.append(
                {"module": module, "quantity": quantity, "step": step, "slope": slope, "ok": ok}
            )
            rms += [
                {"module": module, "quantity": quantity, "step": step, "width": width}
                | {"rms": 0.02 * (row + 1) * (width / 32) ** slope}
                for width in (32, 64, 128, 256)
            ]
    found = max(slopes, key=lambda s: abs(s["slope"]))
    return {
        "family": "dit",
        "parametrization": "mup",
        "widths": [32, 64, 128, 256],
        "log2_lr": -6.0,
        "seeds": [0, 1],
        "steps": [2, 3, 4, 5, 6],
        "loss_drop": 0.14,
        "slopes": slopes,
        "zero": ["blocks.0.adaln", "blocks.1.adaln"],
        "verdict": "pass" if all(s["ok"] for s in slopes) else "fail",
        "worst": {k: found[k] for k in ("module", "quantity", "step", "slope")},
        "rms": rms,
        "limit": 0.2,
        "warnings": [],
    }
