"""The figures: what they select from the records, and that their files repeat byte for byte."""

from __future__ import annotations

import pytest

from hptransfer.reporting.figures import pictures
from hptransfer.reporting.figures.basins import basins_data
from hptransfer.reporting.figures.over_width import optimum_width_data
from hptransfer.reporting.figures.style import DARK, arm_colors, spread, width_colors
from tests.support.figure_records import (
    mup_arm,
    noiseless_arm,
    quickstart,
    target_sweep,
)


def test_basins_show_the_rows_of_their_arm_and_share_their_limits():
    mup, standard = basins_data(quickstart())
    assert (mup.title, standard.title) == ("µP: transfers", "standard: drifts")
    assert [c.width for c in standard.curves] == [24, 48, 96]
    assert [c.optimum for c in standard.curves] == [-5.7, -6.4, -7.2]
    assert standard.curves[2].failed == (-4.0, -3.0)
    assert mup.curves[0].interval == pytest.approx((-5.92, -5.53))
    assert mup[3:] == standard[3:]
    assert mup.curves[0] == standard.curves[0]


def test_every_minimum_is_in_the_picture_and_points_above_it_are_listed():
    panel = basins_data(quickstart())[1]
    assert all(panel.floor < c.loss < panel.ceiling < panel.top for c in panel.curves)
    for curve in panel.curves:
        expected = tuple(p.theta for p in curve.points if p.loss > panel.ceiling)
        assert curve.above == expected
    assert panel.curves[0].above == (-10.0, -9.0, -8.0, -4.0)


def test_one_wild_point_does_not_ruin_the_loss_axis():
    wild = quickstart()
    wild["arms"][0]["optima"][1]["basin"]["mean"][6] = 1e6
    calm, ruined = basins_data(quickstart())[0], basins_data(wild)[0]
    assert (ruined.floor, ruined.ceiling) == pytest.approx((calm.floor, calm.ceiling))
    assert -4.0 in ruined.curves[1].above


def test_optimum_width_selects_marks_band_target_and_the_realised_optimum():
    data = optimum_width_data(quickstart(), target_sweep())
    mup, standard = data.tracks
    assert data.y_label == "optimal log2 base learning rate"
    assert (data.widths, data.target_width) == ((24, 48, 96), 192)
    assert [m.value for m in standard.marks] == [-5.7, -6.4, -7.2]
    assert mup.emitted == -5.6
    assert standard.target is not None and standard.target.interval == (-8.35, -7.51)
    assert mup.band is not None and len(mup.band.width) == 40
    assert data.realised is not None and data.realised.value == -5.45
    assert mup.color != standard.color


def test_a_law_without_noise_keeps_its_line():
    track = optimum_width_data({"arms": [noiseless_arm()]}).tracks[0]
    assert track.band is not None
    assert (len(track.band.value), track.band.low, track.band.high) == (40, (), ())


def test_a_small_drift_is_not_blown_up_to_the_whole_axis():
    low, high = optimum_width_data({"arms": [mup_arm()]}).limits
    assert high - low == pytest.approx(3)


def test_two_hps_of_one_arm_have_their_own_pictures():
    other = {**mup_arm(), "hp": "log2_weight_decay"}
    estimates = {"schema": 1, "sweep": "two", "arms": [mup_arm(), other]}
    nothing = dict.fromkeys(("check", "realised", "transfer"))
    names = [p.name for p in pictures(estimates=estimates, **nothing)]
    assert names == [
        "summary",
        "basins-mup",
        "basins-mup-2",
        *(f"{kind}-log2_lr" for kind in ("optimum_width", "regret", "loss_width")),
        *(f"{kind}-log2_weight_decay" for kind in ("optimum_width", "regret", "loss_width")),
    ]


def test_colours_are_distinct_and_have_a_dark_counterpart():
    for count in range(1, 9):
        colors = width_colors(list(range(16, 16 * (count + 1), 16)))
        assert len(set(colors.values())) == count
        assert set(colors.values()) <= DARK.keys()
    arms = arm_colors(["mine", "standard", "mup", "yours"])
    assert len(set(arms)) == 4
    assert arms[1:3] == arm_colors(["standard", "mup"])


def test_labels_are_moved_apart_and_keep_their_order():
    assert spread([0.0, 0.1, 5.0], 1.0, (-9, 9)) == pytest.approx([-0.3, 0.7, 4.7])
    assert spread([1.0, 1.0], 1.0, (1, 9)) == pytest.approx([2.0, 1.0])
    assert spread([], 1.0, (0, 1)) == []
