"""The record of several HPs: joint regret and value, importance, and what is written."""

from __future__ import annotations

import json

import numpy as np
import pytest

from hptransfer.analysis.basins.curve import Floats
from hptransfer.analysis.basins.rows import TrialArrays
from hptransfer.analysis.surfaces.importance import importance
from hptransfer.analysis.surfaces.joint_regret import joint_regret, joint_value
from hptransfer.analysis.surfaces.ped_anova import ped_anova
from hptransfer.analysis.surfaces.quadratic import Quadratics
from hptransfer.analysis.surfaces.record import surface_entry, surface_notes
from hptransfer.analysis.surfaces.surface import ArmSurfaces, arm_surfaces
from tests.support.surface_truth import LEVEL, NAMES, Cell, Planted, losses_at, plant, rows_of

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
    """Return the arm and, as stand-in for a law, the mean of its widths' draws."""
    arm = arm_surfaces(rows, "arm", draws=400)
    drawn = {
        hp: [
            basin.theta_draws for basin in arm.basins(hp).values() if basin.theta_draws is not None
        ]
        for hp in arm.hps
    }
    return arm, {hp: np.mean(draws, axis=0) for hp, draws in drawn.items() if draws}


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
    entry = surface_entry("dit", "mup", arm, theta_target=theta, ped_anova=shares)
    assert entry["importance"]["surface"]["log2_lr"] > 0.9
    assert entry["importance"]["ped_anova"]["log2_lr"] == pytest.approx(shares["log2_lr"], abs=1e-4)


def test_ped_anova_needs_points_and_leaves_failed_ones_out() -> None:
    rows = sweep(Cell(2, 8, "sobol"), np.diag([0.02, 0.01]))
    assert ped_anova(rows, NAMES[:2]) is None
    rows = sweep(Cell(2, 64, "sobol"), np.diag([0.02, 0.001]))
    rows.loss[rows.hps["log2_weight_decay"] > 2.5] = np.inf
    shares = ped_anova(rows, NAMES[:2])
    assert shares is not None and shares["log2_lr"] > 0.5


def test_the_entry_is_small_strict_json_and_describes_the_surface() -> None:
    bends = np.array([[0.016, 0.005], [0.005, 0.012]])
    rows = sweep(Cell(2, 49, "sobol"), bends)
    arm, theta = answered(rows)
    entry = surface_entry("dit", "mup", arm, theta_target=theta)
    text = json.dumps(entry, allow_nan=False)
    assert len(text) < 6000
    assert [width["width"] for width in entry["widths"]] == list(WIDTHS)
    for width in entry["widths"]:
        np.testing.assert_allclose(width["interactions"], LEVEL * bends, atol=0.003)
        assert width["correlation"][0][1] < 0.0 and width["correlation"][0][0] == 1.0
        assert width["censored"] == {"log2_lr": None, "log2_weight_decay": None}
        low, high = width["box"]["log2_lr"]
        assert low < width["optimum"]["log2_lr"]["value"] < high
    assert entry["importance"]["ped_anova"] is None


def test_the_joint_target_knows_that_errors_are_correlated() -> None:
    bends = np.array([[0.016, 0.012], [0.012, 0.016]])
    rows = sweep(Cell(2, 36, "sobol"), bends)
    arm, theta = answered(rows)
    target = surface_entry("dit", "mup", arm, theta_target=theta)["target"]
    regret = target["expected_regret"]
    assert 0.0 < regret["low"] < regret["mean"] < regret["high"]
    shuffled = {**theta, "log2_lr": np.random.default_rng(0).permutation(theta["log2_lr"])}
    apart = surface_entry("dit", "mup", arm, theta_target=shuffled)["target"]
    assert apart["expected_regret"]["mean"] > 1.3 * regret["mean"]


def test_no_joint_target_without_a_law_for_every_hp() -> None:
    arm, theta = answered(sweep(Cell(2, 36, "sobol"), np.diag([0.016, 0.012])))
    theta.pop("log2_lr")
    assert surface_entry("dit", "mup", arm, theta_target=theta)["target"] is None


def test_too_few_points_are_said() -> None:
    arm, theta = answered(sweep(Cell(3, 10, "sobol"), np.diag([0.016, 0.012, 0.01])))
    entry = surface_entry("dit", "mup", arm, theta_target=theta)
    assert entry["target"] is None and entry["importance"]["surface"] is None
    assert all(width["interactions"] is None for width in entry["widths"])
    json.dumps(entry, allow_nan=False)
    assert surface_notes(arm)[0].startswith("Width 32: 10 sound points do not determine")


def test_flat_directions_are_said() -> None:
    arm, _ = answered(sweep(Cell(2, 49, "sobol"), np.full((2, 2), 0.012)))
    assert "can be traded along" in surface_notes(arm)[0]
