"""The record of several HPs: joint regret and value, importance, and what is written."""

from __future__ import annotations

import json
from dataclasses import replace
from typing import Any

import numpy as np
import optuna
import pytest
from optuna.distributions import FloatDistribution
from optuna.importance import PedAnovaImportanceEvaluator, get_param_importances
from optuna.trial import create_trial

from hptransfer.analysis.basins.curve import Floats
from hptransfer.analysis.basins.rows import TrialArrays
from hptransfer.analysis.basins.scale import Scale
from hptransfer.analysis.surfaces.importance import importance
from hptransfer.analysis.surfaces.joint_regret import joint_regret, joint_value
from hptransfer.analysis.surfaces.ped_anova import ped_anova
from hptransfer.analysis.surfaces.points import point_array
from hptransfer.analysis.surfaces.quadratic import Quadratics
from hptransfer.analysis.surfaces.record import surface_entry, surface_notes
from hptransfer.analysis.surfaces.surface import ArmSurfaces, arm_surfaces
from tests.support.surface_truth import (
    LEVEL,
    NAMES,
    Cell,
    Planted,
    by_setting,
    losses_at,
    plant,
    rows_of,
)

WIDTHS = (32, 64, 128)
NO_CLIFF = np.full(2, np.inf)


def sweep(cell: Cell, bends: Floats, *, seed: int = 0) -> TrialArrays:
    """Return the rows of a sweep whose optimum is the same at every width."""
    rng = np.random.default_rng(seed)
    optimum = rng.uniform(-0.5, 0.5, cell.hps)
    planted = {}
    for width in WIDTHS:
        positions = plant(cell, rng).positions
        losses = losses_at(positions, optimum, bends, cell, rng)
        planted[width] = Planted(optimum, bends, positions, losses)
    return rows_of(planted)


def answered(rows: TrialArrays) -> tuple[ArmSurfaces, dict[str, Floats]]:
    """Return the arm and, as stand-in for the laws, draws of the widest width's basins."""
    arm = arm_surfaces(by_setting(rows), "arm", draws=400)
    widest = {hp: list(arm.basins(hp).values())[-1] for hp in arm.hps}
    rng = np.random.default_rng(0)
    return arm, {hp: basin.draws(rng, 400).optimum for hp, basin in widest.items()}


def entry_of(arm: ArmSurfaces, theta: dict[str, Floats], highest: float = np.inf) -> dict[str, Any]:
    return surface_entry(
        *("dit", "mup", arm),
        theta_target=theta,
        highest=dict.fromkeys(theta, highest),
        scale=Scale(is_log=False),
        units=[1.0] * len(arm.hps),
    )


def test_a_joint_value_stays_below_the_highest_that_is_taken() -> None:
    arm, theta = answered(sweep(Cell(2, 49, "grid"), np.diag([0.01, 0.02])))
    free = [value["value"] for value in entry_of(arm, theta)["target"]["hps"].values()]
    bound = entry_of(arm, theta, highest=-1.0)["target"]["hps"].values()
    assert min(free) > -1.0 and all(value["value"] == -1.0 for value in bound)


def test_joint_regret_is_the_quadratic_form_and_infinite_past_a_cliff() -> None:
    hessian = np.array([[[2.0, 1.0], [1.0, 4.0]]])
    theta = np.array([[0.0, 0.0], [1.0, -1.0]])
    x = np.array([1.0, 1.0])
    np.testing.assert_allclose(joint_regret(x, theta, hessian, NO_CLIFF), [4.0, 8.0])
    walled = joint_regret(x, theta, hessian, np.array([0.5, np.inf]))
    assert np.isinf(walled[0]) and walled[1] == 8.0


def test_the_joint_value_minimises_the_expected_regret() -> None:
    rng = np.random.default_rng(0)
    theta = rng.multivariate_normal([0.3, -0.2], [[0.2, -0.15], [-0.15, 0.3]], 500)
    factors = rng.standard_normal((500, 2, 2))
    hessian = factors @ factors.transpose(0, 2, 1) + np.eye(2)
    x = joint_value(theta, hessian, NO_CLIFF)
    least = joint_regret(x, theta, hessian, NO_CLIFF).mean()
    for step in rng.normal(0.0, 0.05, (20, 2)):
        assert joint_regret(x + step, theta, hessian, NO_CLIFF).mean() > least
    shy = joint_value(theta, hessian, np.array([0.1, np.inf]))
    assert (shy[0] - theta[:, 0] >= 0.1).mean() <= 0.01


def test_importance_is_the_share_of_the_variance_over_the_box() -> None:
    hessian = np.array([[[2.0, 0.7], [0.7, 1.0]]])
    surface = Quadratics(np.zeros(1), np.array([[0.3, -0.2]]), hessian, np.array([[0.5, 0.0]]))
    found = importance(surface)
    assert found is not None
    z = np.random.default_rng(0).uniform(-1.0, 1.0, (400_000, 2))
    whole = surface.loss(z)[0].var()
    alone = [surface.loss(z * keep)[0].var() for keep in (np.array([1.0, 0]), np.array([0, 1.0]))]
    np.testing.assert_allclose(found.alone, np.array(alone) / whole, atol=0.01)
    assert found.alone.sum() + found.pairs.sum() == pytest.approx(1.0)
    np.testing.assert_allclose(found.total, found.alone + found.pairs[0])


def test_importance_of_a_constant_is_not_invented() -> None:
    still = Quadratics(np.ones(1), np.zeros((1, 2)), np.zeros((1, 2, 2)), np.zeros((1, 2)))
    assert importance(still) is None


def test_both_importances_name_the_hp_that_matters() -> None:
    rows = sweep(Cell(2, 64, "sobol"), np.diag([0.02, 0.001]))
    arm, theta = answered(rows)
    shares = ped_anova(rows, arm.hps)
    assert shares is not None and shares["log2_lr"] > 2.0 * shares["log2_weight_decay"]
    assert sum(shares.values()) == pytest.approx(1.0)
    entry = entry_of(arm, theta)
    assert entry["importance"]["surface"]["log2_lr"] > 0.9


def test_ped_anova_needs_points_and_leaves_failed_ones_out() -> None:
    rows = sweep(Cell(2, 8, "sobol"), np.diag([0.02, 0.01]))
    assert ped_anova(rows, NAMES[:2]) is None
    rows = sweep(Cell(2, 64, "sobol"), np.diag([0.02, 0.001]))
    rows.loss[rows.hps["log2_weight_decay"] > 2.5] = np.inf
    shares = ped_anova(rows, NAMES[:2])
    assert shares is not None and shares["log2_lr"] > 0.5


def optunas_shares(positions: Floats, losses: Floats) -> list[float]:
    """Return what Optuna's own evaluator says of points (point, hp)."""
    names = [f"x{at}" for at in range(positions.shape[1])]
    study = optuna.create_study()
    ends = zip(positions.min(axis=0), positions.max(axis=0), strict=True)
    box = {n: FloatDistribution(float(a), float(b)) for n, (a, b) in zip(names, ends, strict=True)}
    for position, loss in zip(positions, losses, strict=True):
        params = dict(zip(names, map(float, position), strict=True))
        study.add_trial(create_trial(params=params, distributions=dict(box), value=float(loss)))
    evaluator = PedAnovaImportanceEvaluator(target_quantile=max(0.1, 5 / len(losses)))
    found = get_param_importances(study, evaluator=evaluator)
    return [found[name] for name in names]


@pytest.mark.filterwarnings("ignore::optuna.exceptions.ExperimentalWarning")
@pytest.mark.parametrize("design", ["grid", "sobol", "clustered"])
@pytest.mark.parametrize(("hps", "points"), [(2, 16), (2, 64), (3, 27), (4, 300)])
def test_ped_anova_is_optunas(design: str, hps: int, points: int) -> None:
    cell = Cell(hps, points, design)
    rng = np.random.default_rng(points)
    planted = plant(cell, rng)
    if design == "clustered":  # points beyond the box are clipped, and some to the same corner
        planted = replace(
            planted, positions=planted.positions + rng.normal(0.0, 0.01, planted.positions.shape)
        )
    rows = rows_of({8: planted})
    shares = ped_anova(rows, NAMES[:hps])
    assert shares is not None
    positions, losses = point_array(rows, NAMES[:hps])
    np.testing.assert_allclose(
        list(shares.values()), optunas_shares(positions, losses.mean(axis=0)), rtol=1e-8
    )


def test_the_entry_is_small_strict_json_and_describes_the_surface() -> None:
    bends = np.array([[0.016, 0.005], [0.005, 0.012]])
    rows = sweep(Cell(2, 49, "sobol"), bends)
    arm, theta = answered(rows)
    entry = entry_of(arm, theta)
    text = json.dumps(entry, allow_nan=False)
    assert len(text) < 8000
    assert [width["width"] for width in entry["widths"]] == list(WIDTHS)
    for width in entry["widths"]:
        np.testing.assert_allclose(width["interactions"], LEVEL * bends, atol=0.003)
        assert width["correlation"][0][1] < 0.0 and width["correlation"][0][0] == 1.0
        assert width["censored"] == {"log2_lr": None, "log2_weight_decay": None}
        low, high = width["box"]["log2_lr"]
        assert low < width["optimum"]["log2_lr"]["value"] < high
        first, second = width["principal_axes"]
        assert 0.0 < first["curvature"] < second["curvature"] and first["reach"] < 0.5
        assert first["sentence"] is None and second["sentence"] is None
    assert entry["importance"]["ped_anova"] is None


def test_the_joint_target_knows_that_errors_are_correlated() -> None:
    bends = np.array([[0.016, 0.012], [0.012, 0.016]])
    rows = sweep(Cell(2, 36, "sobol"), bends)
    arm, theta = answered(rows)
    regret = entry_of(arm, theta)["target"]["expected_regret"]
    assert 0.0 < regret["low"] < regret["mean"] < regret["high"]
    apart = [
        joint_regret(joint_value(x, h, NO_CLIFF), x, h, NO_CLIFF).mean()
        for x, h in [(np.stack(list(theta.values()), axis=1), LEVEL * bends[None])]
    ]
    assert apart[0] > 1.3 * regret["mean"]


def test_no_joint_target_without_a_law_for_every_hp() -> None:
    arm, theta = answered(sweep(Cell(2, 36, "sobol"), np.diag([0.016, 0.012])))
    theta.pop("log2_lr")
    assert entry_of(arm, theta)["target"] is None


def test_too_few_points_are_said() -> None:
    arm, theta = answered(sweep(Cell(3, 10, "sobol"), np.diag([0.016, 0.012, 0.01])))
    entry = entry_of(arm, theta)
    assert entry["target"] is None and entry["importance"]["surface"] is None
    assert all(width["interactions"] is None for width in entry["widths"])
    json.dumps(entry, allow_nan=False)
    assert surface_notes(arm, [1.0] * len(arm.hps))[0].startswith(
        "Width 32, 64, 128: 10 finished points are too few"
    )


def test_a_product_that_matters_is_said() -> None:
    arm, theta = answered(sweep(Cell(2, 49, "sobol"), np.full((2, 2), 0.012)))
    assert surface_notes(arm, [1.0] * len(arm.hps))[0].startswith(
        "Width 32, 64, 128: What matters is learning rate × weight decay: "
    )
    target = entry_of(arm, theta)["target"]
    product = sum(each["value"] for each in target["hps"].values())
    own = [s.fit.optimum.sum() for s in arm.surfaces.values() if s.fit is not None]
    assert abs(product - np.mean(own)) < 0.3
    # Both HPs are broad, but not the product: the joint value costs next to nothing.
    assert target["expected_regret"]["mean"] < 0.002 * LEVEL
