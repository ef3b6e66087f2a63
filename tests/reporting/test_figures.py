"""The figures: what they select from the records."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest

from hptransfer.reporting.figures import pictures
from hptransfer.reporting.figures.basins import basins_data
from hptransfer.reporting.figures.conditions import condition_data
from hptransfer.reporting.figures.cost import draw_cost
from hptransfer.reporting.figures.cost_of_value import cost_data, name_lines
from hptransfer.reporting.figures.over_axis import loss_data, optimum_data
from hptransfer.reporting.figures.style import DARK, arm_colors, spread, width_colors
from hptransfer.reporting.figures.surface import excess_loss, fitted_widths, shown_hps
from tests.support.artists import axes_of, bars
from tests.support.figure_records import (
    COST,
    bare,
    many_widths,
    noiseless,
    over_depth,
    study,
    surface,
    target_sweep,
    two_families,
)

HP = "log2_lr"


def test_basins_show_the_rows_of_their_arm_and_share_their_limits() -> None:
    estimates = study()
    mup, standard = basins_data(estimates)
    told = estimates["arms"][1]
    assert (mup.title, standard.title) == ("µP: transfers", f"standard: {told['verdict']}")
    assert [c.name for c in standard.curves] == ["d = 24", "d = 48", "d = 96"]
    assert [c.optimum for c in standard.curves] == [o["optimum"] for o in told["optima"]]
    assert standard.curves[2].failed == (-4.0, -3.0)
    assert standard.curves[2].cliff == pytest.approx(-4.0)
    narrowest = estimates["arms"][0]["optima"][0]
    assert mup.curves[0].interval == (narrowest["low"], narrowest["high"])
    assert mup[3:] == standard[3:]
    assert mup.seeds == "3 seeds"


def test_every_minimum_is_in_the_picture_and_points_above_it_are_listed() -> None:
    panel = basins_data(study())[1]
    assert all(panel.floor < c.loss < panel.ceiling < panel.top for c in panel.curves)
    for curve in panel.curves:
        assert curve.above == tuple(p.theta for p in curve.points if p.loss > panel.ceiling)
    assert any(curve.above for curve in panel.curves)


def test_one_wild_point_does_not_ruin_the_loss_axis() -> None:
    wild = study()
    wild["arms"][0]["optima"][1]["basin"]["mean"][6] = 1e6
    calm, ruined = basins_data(study())[0], basins_data(wild)[0]
    assert (ruined.floor, ruined.ceiling) == pytest.approx((calm.floor, calm.ceiling))
    assert -4.0 in ruined.curves[1].above


def test_basins_say_how_probably_an_optimum_lies_beyond_the_grid() -> None:
    estimates = study()
    first, second, _ = estimates["arms"][0]["optima"]
    first["edge"], second["edge"] = {"low": 0.12, "high": 0.01}, {"low": 0.05, "high": 0.0}
    second["n_seeds"] = 2
    panel = basins_data(estimates)[0]
    assert panel.seeds == "2 to 3 seeds"
    assert [c.note for c in panel.curves] == ["12 % beyond", "", ""]


def test_the_optimum_over_width_selects_marks_band_target_and_the_realised_optimum() -> None:
    estimates, own = study(), target_sweep()
    data = optimum_data(estimates, own, hp=HP)
    for track, arm in zip(data.tracks, estimates["arms"], strict=True):
        assert [m.value for m in track.marks] == [o["optimum"] for o in arm["optima"]]
        assert track.emitted == arm["target"]["emitted"]
        assert track.target is not None
        assert track.target.interval == (arm["target"]["low"], arm["target"]["high"])
        assert track.band is not None and list(track.band.value) == arm["law"]["band"]["optimum"]
    assert (data.x_label, data.y_label) == ("width", "optimal log2 base learning rate")
    assert (data.places, data.target) == ((24, 48, 96), 192)
    assert data.realised is not None and data.realised.value == own["optimum"]["optimum"]
    assert data.tracks[0].color != data.tracks[1].color


def test_an_answer_along_the_depth_is_drawn_over_the_depth() -> None:
    estimates = over_depth()
    data = optimum_data(estimates, hp=HP)
    assert (data.x_label, data.places, data.target) == ("depth", (2, 4, 8), None)
    assert [c.name for c in basins_data(estimates)[0].curves] == ["depth 2", "depth 4", "depth 8"]
    names = [picture.name for picture in pictures(estimates=estimates)]
    assert "optimum_depth" in names and "loss_depth" in names
    costs = cost_data(estimates, hp=HP)
    assert costs is not None and costs.y_label == "cost at depth 8, in % of the loss"


def test_arms_of_several_families_have_names_colours_and_files_of_their_own() -> None:
    estimates = two_families()
    tracks = optimum_data(estimates, hp=HP).tracks
    assert [track.name for track in tracks] == ["dit µP", "uvit µP"]
    assert tracks[0].color != tracks[1].color
    titles = [panel.title.partition(":")[0] for panel in basins_data(estimates)]
    assert titles == ["dit µP", "uvit µP"]
    names = [picture.name for picture in pictures(estimates=estimates)]
    assert names[1:3] == ["basins-dit-mup", "basins-uvit-mup"]


def test_a_law_without_noise_keeps_its_line() -> None:
    track = optimum_data(noiseless(), hp=HP).tracks[0]
    assert track.band is not None
    assert (len(track.band.value), track.band.low, track.band.high) == (40, (), ())


def test_a_small_drift_is_not_blown_up_to_the_whole_axis() -> None:
    low, high = optimum_data(many_widths(), hp=HP).limits
    assert high - low == pytest.approx(3)


def test_loss_over_width_has_its_law_and_the_loss_expected_of_the_target() -> None:
    estimates, own = study(), target_sweep()
    arm = estimates["arms"][0]
    data = loss_data(estimates, own, hp=HP)
    track = data.tracks[0]
    told = [o["loss_at_optimum"] for o in arm["optima"]]
    assert [(m.value, m.interval) for m in track.marks] == [
        (each["estimate"], (each["low"], each["high"])) for each in told
    ]
    assert track.emitted == arm["loss_law"]["at_target"]["estimate"]
    assert track.band is not None and list(track.band.value) == arm["loss_law"]["band"]["loss"]
    assert data.realised is not None
    assert all(data.limits[0] < m.value < data.limits[1] for m in (*track.marks, data.realised))
    alone = loss_data(bare(), hp=HP).tracks[0]
    assert (alone.band, alone.target, len(alone.marks)) == (None, None, 1)


def test_a_target_under_other_conditions_has_no_loss_on_their_law() -> None:
    estimates = study("conditions")
    arm = estimates["arms"][0]
    assert arm["target"]["steps"] != arm["at"]["steps"]
    own = target_sweep()
    assert loss_data(estimates, own, hp=HP).realised is None
    assert loss_data(estimates, own, hp=HP).tracks[0].target is None
    assert "value for the target at training steps 1200" in optimum_data(estimates, hp=HP).key


def test_the_key_names_only_marks_that_are_drawn() -> None:
    known, unknown = study(), over_depth()
    bars_only = "bars: 90 % intervals"
    assert optimum_data(unknown, hp=HP).key == bars_only
    assert optimum_data(known, hp=HP).key == f"{bars_only}   □ value for the target"
    own = target_sweep()
    own["optimum"]["censored"] = None
    told = f"{bars_only}   □ value for the target   ★ its own optimum"
    assert optimum_data(known, own, hp=HP).key == told
    own["optimum"]["censored"] = "flat"
    assert optimum_data(known, own, hp=HP).key == told.replace("★", "◇")
    assert loss_data(unknown, hp=HP).key == bars_only


def test_costs_are_those_of_the_record_and_infinite_past_the_cliff() -> None:
    estimates = study()
    arm = estimates["arms"][1]
    arm["cost"]["curve"]["high"][-1] = None
    data = cost_data(estimates, hp=HP)
    assert data is not None and data.y_label == "cost at width 192, in % of the loss"
    curve, told = data.curves[1], arm["cost"]
    assert (list(curve.value), list(curve.mean)) == (told["curve"]["value"], told["curve"]["mean"])
    assert curve.high[-1] == math.inf
    assert curve.emitted == (arm["target"]["emitted"], told["emitted"]["percent"]["mean"])
    assert curve.kept == (told["ignoring"]["value"], told["ignoring"]["percent"]["mean"])
    assert all(c.emitted[1] < data.ceiling for c in data.curves)
    assert cost_data(bare(), hp=HP) is None


def test_names_of_neighbouring_curves_have_lines_of_their_own() -> None:
    data = cost_data(study(), hp=HP)
    assert data is not None
    curve = data.curves[0]
    width, (value, cost) = curve.value[-1] - curve.value[0], curve.emitted
    at = [curve._replace(emitted=(value + s * width, cost)) for s in (0.0, 0.1, 0.2, 0.8)]
    assert name_lines(tuple(at)) == [0, 1, 2, 0]


def test_several_hps_of_one_arm_have_their_own_pictures() -> None:
    names = [p.name for p in pictures(estimates=study("mmdit_search"))]
    hps = ("log2_lr", "log2_clip_norm", "log2_warmup_fraction", "log2_output_scale")
    assert names[1:5] == ["basins-mup", "basins-mup-2", "basins-mup-3", "basins-mup-4"]
    kinds = ("optimum_width", "cost_of_value", "loss_width")
    assert names[5:-2] == [f"{kind}-{hp}" for hp in hps for kind in kinds]
    assert names[-2:] == ["surface-mup", "importance-mup"]


def test_colours_are_distinct_and_have_a_dark_counterpart() -> None:
    for count in range(1, 9):
        colors = width_colors(list(range(16, 16 * (count + 1), 16)))
        assert len(set(colors.values())) == count
        assert set(colors.values()) <= DARK.keys()
    arms = arm_colors(["mine", "standard", "µP", "yours"])
    assert len(set(arms)) == 4
    assert arms[1:3] == arm_colors(["standard", "µP"])


def test_labels_are_moved_apart_and_keep_their_order() -> None:
    assert spread([0.0, 0.1, 5.0], 1.0, (-9, 9)) == pytest.approx([-0.3, 0.7, 4.7])
    assert spread([1.0, 1.0], 1.0, (1, 9)) == pytest.approx([2.0, 1.0])
    assert spread([], 1.0, (0, 1)) == []


def test_costs_of_the_search_leave_out_what_is_not_known() -> None:
    ax = axes_of(draw_cost, COST | {"arm_over_target_percent": None})
    assert bars(ax) == [pytest.approx((100, 12.6)), pytest.approx((100, 6.6))]
    nothing: dict[str, Any] = dict.fromkeys(("check", "realised"))
    empty = pictures(estimates={"arms": []}, transfer={"cost": dict.fromkeys(COST)}, **nothing)
    assert empty == []


def test_a_condition_is_shown_at_the_others_own_values() -> None:
    arm = study("conditions")["arms"][0]
    data = condition_data(arm, "steps", "µP")
    assert [line.name for line in data.lines] == ["d = 16", "d = 32", "d = 64"]
    for line, width in zip(data.lines, (16, 32, 64), strict=True):
        told = {
            row["steps"]: row["optimum"]
            for row in arm["conditions"]["optima"]
            if row["width"] == width and row["batch_size"] == arm["at"]["batch_size"]
        }
        assert {mark.at: mark.value for mark in line.points} == told and len(told) == 4
    octaves = arm["conditions"]["octaves_per_doubling"]["steps"]["estimate"]
    assert data.title.startswith(f"µP: {octaves:.2f}".replace("-", "−"))
    assert data.read_at == 150


def test_the_excess_loss_is_that_of_the_recorded_surface() -> None:
    entry = surface()["widths"][-1]
    x, y = np.array([0.5, -1.0]), np.array([[0.25], [2.0]])
    expected = 0.03 * x**2 + 0.015 * y**2 + 0.038 * x * y + 0.01 * (x**3 + y**3) / 6
    assert excess_loss(entry, {0: x, 1: y}) == pytest.approx(expected)


def test_more_hps_than_a_page_holds_are_cut_in_the_order_of_importance() -> None:
    hps = ("log2_lr", "log2_weight_decay", "log2_beta2", "log2_eps")
    record: dict[str, Any] = surface(hps) | {"hps": [*hps, "log2_warmup_fraction"]}
    record["importance"]["surface"] = {"log2_eps": 0.9}
    assert shown_hps(record) == ["log2_eps", "log2_lr", "log2_weight_decay", "log2_beta2"]
    for entry in record["widths"]:
        entry["interactions"] = None
    assert fitted_widths(record) == []
