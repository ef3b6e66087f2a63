"""The pictures of regrets, losses, costs, conditions and surfaces: what they select and repeat."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from hptransfer.reporting.figures import pictures
from hptransfer.reporting.figures.basins import basins_data
from hptransfer.reporting.figures.conditions import condition_optima
from hptransfer.reporting.figures.cost import draw_cost
from hptransfer.reporting.figures.over_width import loss_width_data, optimum_width_data
from hptransfer.reporting.figures.regret import name_lines, regret_data
from hptransfer.reporting.figures.surface import excess_loss, fitted_widths, shown_hps
from tests.support.artists import axes_of, bars
from tests.support.figure_extras import (
    COST,
    loss_law,
    over_training,
    surface,
)
from tests.support.figure_records import bare_arm, mup_arm, noiseless_arm, quickstart, target_sweep

HP = "log2_lr"


def at(theta: np.ndarray, values: np.ndarray, where: float) -> float:
    """The value at the grid point nearest to `where`."""
    return values[min(range(len(values)), key=lambda i: abs(theta[i] - where))]


def test_regret_rises_from_the_laws_optimum_by_the_mean_curvature_and_ends_at_the_cliff():
    arm = mup_arm()
    curve = regret_data({"arms": [arm]}, hp=HP).curves[0]
    below, above = -6.6, -4.9  # of an optimum of -5.6, whose sides rise by 0.03 and 0.09
    for where, rise in ((below, 0.03), (above, 0.09)):
        near = min(curve.theta, key=lambda t: abs(t - where))
        assert at(curve.theta, curve.regret, where) == pytest.approx(rise * (near + 5.6) ** 2)
    assert len(curve.regret) == len(curve.theta)  # its cliff, 2.5 octaves up, is outside
    arm["optima"] = [{**optimum, "cliff": 1.0} for optimum in arm["optima"]]
    near_cliff = regret_data({"arms": [arm]}, hp=HP).curves[0]
    assert near_cliff.theta[len(near_cliff.regret) - 1] == pytest.approx(-4.6, abs=0.04)
    assert at(near_cliff.theta, near_cliff.high, -4.7) == math.inf  # its lowest optimum: -5.84


def test_regrets_band_is_zero_inside_the_optimums_interval_and_holds_the_line():
    curve = regret_data({"arms": [mup_arm()]}, hp=HP).curves[0]
    assert at(curve.theta, curve.low, -5.5) == 0
    for line, low, high in zip(curve.regret, curve.low, curve.high, strict=True):
        assert low <= line <= high
    bare = regret_data({"arms": [noiseless_arm()]}, hp=HP).curves[0]
    assert (len(bare.low), len(bare.high), bare.expected) == (0, 0, None)


def test_names_of_neighbouring_curves_have_lines_of_their_own() -> None:
    (curve,) = regret_data({"arms": [mup_arm()]}, hp=HP).curves
    width = curve.theta[-1] - curve.theta[0]
    at = [curve._replace(emitted=curve.emitted + shift * width) for shift in (0.0, 0.1, 0.2, 0.8)]
    assert name_lines(tuple(at)) == [0, 1, 2, 0]


def test_regret_rows_are_multiples_of_the_arms_own_tolerance():
    rows = regret_data(quickstart(), hp=HP).rows
    assert [r.name for r in rows] == [
        f"{arm}, {what}" for arm in ("µP", "standard") for what in ("held out", "at target")
    ]
    assert rows[3].estimate == pytest.approx(0.21 / 0.007)
    past = mup_arm()
    past["regret"]["at_target"] = {"estimate": None, "low": 0.05, "high": None}
    assert regret_data({"arms": [past]}, hp=HP).rows[1].high == math.inf
    assert regret_data({"arms": [bare_arm()]}, hp=HP)[1:3] == ((), ())


def test_loss_over_width_has_its_law_and_the_loss_expected_of_the_target():
    arm: dict[str, Any] = mup_arm() | {"loss_law": loss_law(0.613, 0.045)}
    arm["optima"][0]["loss_at_optimum"] = {"estimate": 0.612, "low": 0.609, "high": 0.616}
    data = loss_width_data({"arms": [arm]}, target_sweep(), hp=HP)
    track = data.tracks[0]
    assert [(m.at, m.value, m.interval) for m in track.marks] == [
        (24, 0.612, (0.609, 0.616)),
        (48, 0.552, None),
        (96, 0.517, None),
    ]
    assert track.emitted == pytest.approx(0.613 - 3 * 0.045)
    assert track.band is not None and track.band.value[0] == 0.613
    assert data.realised is not None and data.realised.value == 0.4975
    assert all(data.limits[0] < m.value < data.limits[1] for m in (*track.marks, data.realised))
    plain = loss_width_data({"arms": [mup_arm()]}, hp=HP).tracks[0]
    assert (plain.band, plain.target, len(plain.marks)) == (None, None, 3)


def test_the_key_names_only_marks_that_are_drawn():
    known, unknown = mup_arm(), mup_arm() | {"target": None}
    bars = "bars: 90 % intervals"
    assert optimum_width_data({"arms": [unknown]}).key == bars
    assert optimum_width_data({"arms": [known]}).key == f"{bars}   □ value for the target"
    own = optimum_width_data({"arms": [known]}, target_sweep()).key
    assert own == f"{bars}   □ value for the target   ★ its own optimum"
    assert loss_width_data({"arms": [unknown]}, hp=HP).key == bars


def test_costs_leave_out_what_is_not_known():
    ax = axes_of(draw_cost, COST | {"arm_over_target_percent": None})
    assert bars(ax) == [pytest.approx((100, 12.6)), pytest.approx((100, 6.6))]
    nothing: dict[str, Any] = dict.fromkeys(("check", "realised"))
    empty = pictures(estimates={"arms": []}, transfer={"cost": dict.fromkeys(COST)}, **nothing)
    assert empty == []


def test_a_condition_is_shown_at_the_others_own_values():
    arm = over_training()
    arm["conditions"]["varied"] = ["steps", "batch_size"]
    other = {**arm["conditions"]["optima"][0], "batch_size": 128, "optimum": 9.0}
    arm["conditions"]["optima"].append(other)
    optima = condition_optima(arm, "steps")
    assert {width: len(marks) for width, marks in optima.items()} == {24: 4, 48: 4, 96: 4}
    assert [mark.at for mark in optima[24]] == [75, 150, 300, 600]
    assert optima[24][3].censored == "grid_low"


def test_the_excess_loss_is_that_of_the_recorded_surface():
    entry = surface()["widths"][-1]
    x, y = np.array([0.5, -1.0]), np.array([[0.25], [2.0]])
    expected = 0.03 * x**2 + 0.015 * y**2 + 0.038 * x * y + 0.01 * (x**3 + y**3) / 6
    assert excess_loss(entry, {0: x, 1: y}) == pytest.approx(expected)


def test_more_hps_than_a_page_holds_are_cut_in_the_order_of_importance():
    hps = ("log2_lr", "log2_weight_decay", "log2_beta2", "log2_eps")
    record: dict[str, Any] = surface(hps) | {"hps": [*hps, "log2_warmup_fraction"]}
    record["importance"]["surface"] = {"log2_eps": 0.9}
    assert shown_hps(record) == ["log2_eps", "log2_lr", "log2_weight_decay", "log2_beta2"]
    for entry in record["widths"]:
        entry["interactions"] = None
    assert fitted_widths(record) == []


def test_basins_say_seeds_cliff_and_draws_on_an_edge():
    estimates = quickstart()
    first, second, _ = estimates["arms"][0]["optima"]
    first["edge"], second["edge"] = {"low": 0.12, "high": 0.01}, {"low": 0.05, "high": 0.0}
    second["n_seeds"] = 2
    panel = basins_data(estimates)[0]
    assert panel.seeds == "2 to 3 seeds"
    assert [c.note for c in panel.curves] == ["edge 12 %", "", ""]
    assert panel.curves[0].cliff == pytest.approx(-5.7 + 2.5)
