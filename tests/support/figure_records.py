"""Records like those of the digits quickstart, by hand, for the tests of figures and report."""

from __future__ import annotations

from typing import Any

GRID = [-10.0, -9.0, -8.0, -7.0, -6.0, -5.0, -4.0, -3.0]


def optimum(width: int, theta: float, loss: float, *, failed: int = 1) -> dict[str, Any]:
    """A digits-like basin: flat to the left, steep to the right, the last points failed."""
    grid_loss = [loss + (0.03 if t < theta else 0.09) * (t - theta) ** 2 for t in GRID]
    dead = [i >= len(GRID) - failed for i in range(len(GRID))]
    fit = [theta - 1.6 + 3.0 * i / 59 for i in range(60)]
    return {
        "width": width,
        "optimum": theta,
        "low": theta - 0.22,
        "high": theta + 0.17,
        "loss": loss,
        "n_seeds": 3,
        "n_points": 5,
        "censored": None,
        "curvature": {"low": 0.03, "high": 0.09},
        "cliff": 2.5,
        "noise": {"fit_sd": 0.08, "model_sd": 0.15, "loss_sd": 0.0021},
        "basin": {
            "theta": GRID,
            "mean": [None if d else m for m, d in zip(grid_loss, dead, strict=True)],
            "low": [None if d else m - 0.004 for m, d in zip(grid_loss, dead, strict=True)],
            "high": [None if d else m + 0.005 for m, d in zip(grid_loss, dead, strict=True)],
            "failed": dead,
            "window": [theta - 1.6, theta + 1.4],
            "fit_theta": fit,
            "fit_loss": [loss + (0.03 if t < theta else 0.09) * (t - theta) ** 2 for t in fit],
        },
    }


def band(start: float, slope: float, spread_at_end: float) -> dict[str, list[float]]:
    """A law from width 24 to 192, `slope` octaves per doubling."""
    doublings = [3 * i / 39 for i in range(40)]
    half = [0.15 + (spread_at_end - 0.15) * d / 3 for d in doublings]
    theta = [start + slope * d for d in doublings]
    return {
        "width": [24 * 2**d for d in doublings],
        "theta": theta,
        "low": [t - h for t, h in zip(theta, half, strict=True)],
        "high": [t + h for t, h in zip(theta, half, strict=True)],
    }


def interval(estimate: float, low: float, high: float) -> dict[str, float]:
    return {"estimate": estimate, "low": low, "high": high}


def mup_arm() -> dict[str, Any]:
    return {
        "family": "dit",
        "parametrization": "mup",
        "hp": "log2_lr",
        "optima": [
            optimum(24, -5.7, 0.613),
            optimum(48, -5.5, 0.552),
            optimum(96, -5.6, 0.517),
        ],
        "drift_octaves_per_doubling": interval(0.05, -0.08, 0.17),
        "regret": {
            "held_out": interval(0.0003, 0.0, 0.0013),
            "at_target": interval(0.0004, 0.0, 0.0011),
            "delta": 0.0088,
            "share_of_gain": interval(0.011, 0.0, 0.031),
            "percent": interval(0.08, 0.0, 0.21),
        },
        "law": {
            "name": "constant",
            "candidates": [
                {"name": "constant", "weight": 0.71, "coefficients": {"a": -5.6}, "chi2": 0.9},
                {
                    "name": "linear",
                    "weight": 0.17,
                    "coefficients": {"a": -5.8, "b": 0.05},
                    "chi2": 0.6,
                },
                {
                    "name": "inverse",
                    "weight": 0.12,
                    "coefficients": {"a": -5.5, "b": -0.2},
                    "chi2": 0.4,
                },
            ],
            "band": band(-5.6, 0.0, 0.24),
        },
        "target": {
            "width": 192,
            "optimum": -5.6,
            "low": -5.84,
            "high": -5.36,
            "emitted": -5.6,
            "expected_regret": {"mean": 0.0004, "low": 0.0, "high": 0.0011},
        },
        "gain": {"estimate": 0.035},
        "verdict": "transfers",
        "reasons": [
            "The held-out regret is at most 0.0013 and the regret at the target at most 0.0011; "
            "both are below the tolerance of 0.0088."
        ],
        "warnings": [],
    }


def standard_arm() -> dict[str, Any]:
    return {
        **mup_arm(),
        "parametrization": "standard",
        "optima": [
            optimum(24, -5.7, 0.613),
            optimum(48, -6.4, 0.556),
            optimum(96, -7.2, 0.528, failed=2),
        ],
        "drift_octaves_per_doubling": interval(-0.75, -0.89, -0.61),
        "regret": {
            "held_out": interval(0.069, 0.048, 0.094),
            "at_target": interval(0.21, 0.15, 0.29),
            "delta": 0.007,
            "share_of_gain": interval(2.5, 1.7, 3.4),
            "percent": interval(13.1, 9.1, 17.8),
        },
        "law": {
            "name": "linear",
            "candidates": [
                {
                    "name": "linear",
                    "weight": 0.86,
                    "coefficients": {"a": -5.7, "b": -0.75},
                    "chi2": 0.2,
                },
                {
                    "name": "inverse",
                    "weight": 0.14,
                    "coefficients": {"a": -7.9, "b": 2.1},
                    "chi2": 3.8,
                },
                {"name": "constant", "weight": 0.0, "coefficients": {"a": -6.4}, "chi2": 44.0},
            ],
            "band": band(-5.68, -0.75, 0.42),
        },
        "target": {
            "width": 192,
            "optimum": -7.93,
            "low": -8.35,
            "high": -7.51,
            "emitted": -7.95,
            "expected_regret": {"mean": 0.0031, "low": 0.0001, "high": 0.0097},
        },
        "gain": {"estimate": 0.028},
        "verdict": "drifts",
        "reasons": ["The held-out regret is at least 0.048, above the tolerance of 0.0070."],
        "warnings": ["The share of clipped steps differs between widths: 0.02 at 24, 0.11 at 96."],
    }


def quickstart() -> dict[str, Any]:
    """Estimates like those of the digits quickstart: three widths, two arms, target 192."""
    trials = {"fitted": 120, "missing": 0, "left_out": 0}
    arms = [mup_arm(), standard_arm()]
    return {"schema": 1, "sweep": "quickstart", "arms": arms, "trials": trials}


def target_sweep() -> dict[str, Any]:
    """What the target's own sweep gave."""
    return {
        "schema": 1,
        "width": 192,
        "hp": "log2_lr",
        "transferred": -5.6,
        "optimum": optimum(192, -5.45, 0.4975),
        "loss_at_transferred": 0.4982,
        "regret": interval(0.0007, 0.0, 0.0019),
        "predicted": {"mean": 0.0004, "low": 0.0, "high": 0.0011},
        "missed": False,
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


def bare_arm() -> dict[str, Any]:
    """An imported arm with one censored width and nothing else known."""
    only = {**optimum(64, -10.0, 0.9), "low": None, "high": None, "censored": "grid_low"}
    only["basin"] = {**only["basin"], "fit_theta": [], "fit_loss": []}
    nothing = dict.fromkeys(("regret", "drift_octaves_per_doubling", "target", "gain", "verdict"))
    law = {"name": "none", "candidates": [], "band": None}
    return {**mup_arm(), **nothing, "parametrization": "../<b>mine", "optima": [only], "law": law}


def many_widths() -> dict[str, Any]:
    widths = [16 * 2**i for i in range(8)]
    return {**mup_arm(), "optima": [optimum(w, -6 + w / 4096, 2 / w**0.3) for w in widths]}


def noiseless_arm() -> dict[str, Any]:
    """An arm of one seed: every estimate is there, no interval is."""
    arm = mup_arm()
    nothing: dict[str, Any] = {"low": None, "high": None}
    arm["optima"] = [o | nothing for o in arm["optima"]]
    arm["law"]["band"] |= {"low": [None] * 40, "high": [None] * 40}
    arm["target"] |= nothing | {"expected_regret": nothing | {"mean": None}}
    arm["drift_octaves_per_doubling"] |= nothing
    for name in ("held_out", "at_target", "share_of_gain", "percent"):
        arm["regret"][name] |= nothing
    return arm
