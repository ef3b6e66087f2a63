"""The figures: what they select from the records, and that their files repeat byte for byte."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from hptransfer.reporting.figures import pictures, write_pictures
from hptransfer.reporting.figures.basins import basins_data
from hptransfer.reporting.figures.coordinate_check import coordinate_check_data, coordinate_rms_data
from hptransfer.reporting.figures.optimum_width import optimum_width_data
from hptransfer.reporting.figures.realised import realised_data
from hptransfer.reporting.figures.style import DARK, arm_colors, spread, width_colors
from hptransfer.reporting.figures.summary import draw_summary, summary_data
from tests.support.figure_extras import COST
from tests.support.figure_records import (
    MODULES,
    bare_arm,
    coordinate_check,
    many_widths,
    mup_arm,
    noiseless_arm,
    quickstart,
    standard_arm,
    target_sweep,
)


def test_basins_show_the_rows_of_their_arm_and_share_their_limits():
    mup, standard = basins_data(quickstart()).panels
    assert (mup.title, standard.title) == ("µP: transfers", "standard: drifts")
    assert [c.width for c in standard.curves] == [24, 48, 96]
    assert [c.optimum for c in standard.curves] == [-5.7, -6.4, -7.2]
    assert standard.curves[2].failed == (-4.0, -3.0)
    assert mup.curves[0].interval == pytest.approx((-5.92, -5.53))
    assert mup[3:] == standard[3:]
    assert mup.curves[0] == standard.curves[0]


def test_every_minimum_is_in_the_picture_and_points_above_it_are_listed():
    panel = basins_data(quickstart()).panels[1]
    assert all(panel.floor < c.loss < panel.ceiling < panel.top for c in panel.curves)
    for curve in panel.curves:
        expected = tuple(p.theta for p in curve.points if p.loss > panel.ceiling)
        assert curve.above == expected
    assert panel.curves[0].above == (-10.0, -9.0, -8.0, -4.0)


def test_one_wild_point_does_not_ruin_the_loss_axis():
    wild = quickstart()
    wild["arms"][0]["optima"][1]["basin"]["mean"][6] = 1e6
    calm, ruined = basins_data(quickstart()).panels[0], basins_data(wild).panels[0]
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


def test_coordinate_check_marks_what_is_outside():
    data = coordinate_check_data(coordinate_check(0.9))
    assert data.title == "coordinate check: fails"
    assert data.modules == tuple(MODULES)
    assert {data.modules[s.row] for s in data.slopes if not s.ok} == {"final.linear"}
    rms = coordinate_rms_data(coordinate_check(0.9))
    assert (rms.step, rms.widths) == (6, (32, 64, 128, 256))
    assert [line.module for line in rms.lines if not line.ok] == ["final.linear"]


def test_realised_selects_both_regrets():
    data = realised_data(target_sweep())
    assert data.title == "target, width 192: prediction held"
    assert data.predicted[1:] == (0.0004, 0.0, 0.0011)
    assert data.realised[1:] == (0.0007, 0.0, 0.0019)
    assert (data.transferred, data.loss_at_transferred) == (-5.6, 0.4982)


def test_files_are_written_and_repeat_byte_for_byte(tmp_path: Path):
    records = {"estimates": quickstart(), "check": coordinate_check(), "realised": target_sweep()}
    records |= {"transfer": {"cost": COST}}
    before = copy.deepcopy(records)
    first = write_pictures(tmp_path / "first", pictures(**records))
    second = write_pictures(tmp_path / "second", pictures(**records))
    stems = ["summary", "basins-mup", "basins-standard", "optimum_width", "regret", "loss_width"]
    stems += ["realised", "cost", "coordinate_check", "coordinate_rms"]
    suffixes = (".png", ".svg", ".pdf")
    assert [p.name for p in first] == [f"{s}{suffix}" for s in stems for suffix in suffixes]
    for one, other in zip(first, second, strict=True):
        assert one.read_bytes() == other.read_bytes(), one.name
    assert records == before


@pytest.mark.parametrize(
    "arms",
    [[], [bare_arm()], [noiseless_arm()], [many_widths()], [mup_arm(), standard_arm(), bare_arm()]],
    ids=["none", "bare", "no intervals", "eight widths", "three arms"],
)
@pytest.mark.filterwarnings("error")
def test_any_number_of_arms_and_widths_is_drawn(tmp_path: Path, arms: list[dict[str, Any]]):
    estimates = {"schema": 1, "sweep": "edge", "arms": arms}
    nothing = dict.fromkeys(("check", "realised", "transfer"))
    written = write_pictures(tmp_path, pictures(estimates=estimates, **nothing))
    of_arms = [p for p in written if p.name.startswith("basins")]
    assert len(of_arms) == 3 * len(arms)
    assert bool(written) == bool(arms)
    assert all(p.parent == tmp_path and p.stat().st_size > 4000 for p in written)


def test_the_summary_marks_the_value_that_is_emitted_and_not_the_laws_middle():
    estimates = quickstart()
    estimates["arms"][1]["target"]["emitted"] = -8.3  # below a cliff the value leans far down
    figure = Figure()
    draw_summary(figure, summary_data(estimates))
    strip = figure.axes[3]
    (square,) = [line for line in strip.lines if line.get_marker() == "s"]
    assert np.asarray(square.get_xdata()).tolist() == [-8.3]
    assert "−8.30" in [text.get_text() for text in strip.texts]


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
