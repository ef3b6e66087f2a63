"""Records by hand for the pictures and tables beyond one HP: laws, surfaces, conditions."""

from __future__ import annotations

from typing import Any

from tests.support.figure_records import interval, mup_arm, standard_arm

COST = {
    "sweep_flops": 9.31e13,
    "target_flops": 2.94e13,
    "arm_over_target_percent": 174.0,
    "narrowest_over_target_percent": 12.6,
    "over_direct_search_percent": 6.6,
}


def loss_law(top: float, gain: float) -> dict[str, Any]:
    """A law of the loss that falls by `gain` for each of the three doublings from width 24."""
    doublings = [3 * i / 39 for i in range(40)]
    loss = [top - gain * d for d in doublings]
    end = loss[-1]
    return {
        "name": "linear",
        "from_width": 24,
        "candidates": [
            {"name": "linear", "weight": 0.8, "coefficients": {"a": top, "b": -gain}, "chi2": 1.1}
        ],
        "band": {
            "width": [24 * 2**d for d in doublings],
            "loss": loss,
            "low": [v - 0.004 - 0.006 * d for v, d in zip(loss, doublings, strict=True)],
            "high": [v + 0.004 + 0.006 * d for v, d in zip(loss, doublings, strict=True)],
        },
        "at_target": interval(end, end - 0.02, end + 0.02),
        "last_doubling_gain": interval(gain, gain - 0.01, gain + 0.01),
        "wider_is_better": True,
        "reason": "From width 48 to 96 the best loss fell by 0.03 to 0.05 per doubling.",
    }


def curvature_law() -> dict[str, Any]:
    """The rise below the optimum grows a little with width; above it nothing is known."""
    return {
        "low": {
            "name": "constant",
            "candidates": [
                {"name": "constant", "weight": 0.9, "coefficients": {"a": -5.06}, "chi2": 0.7}
            ],
            "log2_per_doubling": interval(0.12, -0.1, 0.35),
        },
        "high": {"name": "none", "candidates": [], "log2_per_doubling": interval(0, 0, 0)},
    }


def conditions() -> dict[str, Any]:
    """An optimum that falls with training and has not settled."""
    steps = (75, 150, 300, 600)
    optima = []
    for width, start in ((24, -5.2), (48, -5.25), (96, -5.4)):
        for k, count in enumerate(steps):
            theta = start - 0.28 * k - (0.05 * k if width == 96 else 0.0)
            optima.append(
                {
                    "width": width,
                    "depth": 2,
                    "batch_size": 64,
                    "steps": count,
                    "optimum": theta,
                    "low": None if k == 3 and width == 24 else theta - 0.2,
                    "high": None if k == 3 and width == 24 else theta + 0.25,
                    "censored": "grid_low" if k == 3 and width == 24 else None,
                }
            )
    return {
        "varied": ["steps"],
        "optima": optima,
        "joint": {
            "coefficients": [
                {"name": "a", **interval(-3.6, -4.1, -3.1)},
                {"name": "log2_width", **interval(-0.03, -0.11, 0.06)},
                {"name": "log2_steps", **interval(-0.29, -0.36, -0.22)},
            ],
            "chi2": 7.2,
            "degrees": 8,
            "settings": 11,
        },
        "over": [
            {
                "axis": "steps",
                "values": [
                    {
                        "value": count,
                        "drift": interval(-0.1 - 0.02 * k, -0.25 - 0.02 * k, 0.06),
                        "optimum_at_widest": -5.4 - 0.33 * k,
                    }
                    for k, count in enumerate(steps)
                ],
                "still_moves": True,
                "sentence": "From 300 to 600 steps the optimum moved by -0.45 to -0.2 octaves.",
            }
        ],
        "shift_to_target": interval(-0.58, -0.72, -0.44),
    }


def over_training() -> dict[str, Any]:
    """The quickstart's µP arm with its training length varied."""
    at = {"depth": 2, "batch_size": 64, "steps": 600}
    return {**mup_arm(), "at": at, "conditions": conditions()}


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
            "flat_directions": [
                {
                    "direction": {hps[0]: -0.54, hps[1]: 0.84},
                    "curvature": 0.0054,
                    "sentence": "A lower learning rate with more decay costs nearly nothing.",
                }
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


def full_estimates() -> dict[str, Any]:
    """Everything at once: laws of loss and curvature, conditions, and a surface."""
    mup = over_training() | {
        "loss_law": loss_law(0.613, 0.045),
        "curvature_law": curvature_law(),
        "quality": {
            "useful_transfer": {
                "answer": None,
                "regret_exponent": interval(0, 0, 0),
                "loss_gap_exponent": interval(0, 0, 0),
                "sentence": "Not assessable below five widths; here 3 can be used.",
            },
            "robustness": {
                "exponent": dict.fromkeys(("estimate", "low", "high")),
                "sentence": "Not assessable below five widths; here 3 can be used.",
            },
        },
    }
    standard = standard_arm() | {"loss_law": loss_law(0.613, 0.038)}
    return {
        "schema": 1,
        "sweep": "full",
        "trials": {"fitted": 120, "missing": 0, "left_out": 0},
        "arms": [mup, standard],
        "surfaces": [surface()],
    }
