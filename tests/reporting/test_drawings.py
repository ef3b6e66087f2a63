"""The drawings: every number that a picture's data holds is where it belongs on the axes."""

from __future__ import annotations

from collections.abc import Callable
from copy import deepcopy
from functools import partial
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from hptransfer.reporting.figures import drawn, pictures, write_pictures
from hptransfer.reporting.figures.basins import (
    basins_data,
    draw_basins,
    draw_realised,
)
from hptransfer.reporting.figures.conditions import condition_data, draw_condition
from hptransfer.reporting.figures.coordinate_check import (
    draw_coordinate_check,
    draw_coordinate_rms,
)
from hptransfer.reporting.figures.cost import draw_cost
from hptransfer.reporting.figures.cost_of_value import cost_data, draw_cost_of_value
from hptransfer.reporting.figures.over_axis import (
    draw_over_axis,
    draw_summary,
    loss_data,
    optimum_data,
)
from hptransfer.reporting.figures.style import FAIL, setting_name
from hptransfer.reporting.figures.surface import (
    draw_importance,
    draw_surface,
    excess_loss,
)
from tests.support.artists import axes_of, bars, figure_of, intervals, lines, marked, shades, texts
from tests.support.figure_records import (
    COST,
    MODULES,
    bare,
    coordinate_check,
    many_widths,
    noiseless,
    over_depth,
    study,
    surface,
    target_sweep,
    two_families,
)

HP = "log2_lr"


def test_basins_draw_points_fits_optima_and_intervals() -> None:
    panel = basins_data(study())[1]
    ax = axes_of(draw_basins, panel)
    for curve in panel.curves:
        points = [(p.theta, p.loss) for p in curve.points]
        assert points in lines(ax)
        assert [tuple(map(float, point)) for point in curve.fit] in lines(ax)
        assert curve.name in texts(ax)
    assert marked(ax, "o") == [(c.optimum, c.loss) for c in panel.curves]
    ends = [c.interval for c in panel.curves if c.interval]
    drawn_ends = [(low, high) for low, _, high, _ in intervals(ax)]
    assert drawn_ends == [pytest.approx(each) for each in ends]
    assert ax.get_xlim() == panel.x_limits and ax.get_ylim() == (panel.floor, panel.top)


def test_basins_draw_failed_points_points_above_and_censored_optima_apart() -> None:
    panel = basins_data(study())[1]
    ax = axes_of(draw_basins, panel)
    assert [x for x, _ in marked(ax, "x")] == [t for c in panel.curves for t in c.failed]
    assert [x for x, _ in marked(ax, "^")] == [t for c in panel.curves for t in c.above]
    assert all(y > panel.ceiling for _, y in marked(ax, "x", "^"))
    censored = axes_of(draw_basins, basins_data(bare())[0])
    assert [x for x, _ in marked(censored, "D")] == [-10.0]
    assert marked(censored, "o") == []


def test_the_interval_of_a_censored_optimum_may_lie_beside_it() -> None:
    told = bare()
    told["arms"][0]["optima"][0] |= {"low": -9.5, "high": -8.5}
    ax = axes_of(draw_basins, basins_data(told)[0])
    assert [x for x, _ in marked(ax, "D")] == [-10.0]
    assert [(low, high) for low, _, high, _ in intervals(ax)] == [pytest.approx((-9.5, -8.5))]


def test_the_optimum_over_width_draws_laws_bands_and_the_target() -> None:
    own = target_sweep()
    own["optimum"]["censored"] = None
    data = optimum_data(study(), own, hp=HP)
    ax = axes_of(draw_over_axis, data)
    for track, shade in zip(data.tracks, shades(ax), strict=True):
        assert track.band is not None
        assert list(zip(track.band.at, track.band.value, strict=True)) in lines(ax)
        assert shade[:, 1].min() == pytest.approx(min(track.band.low))
        assert shade[:, 1].max() == pytest.approx(max(track.band.high))
        assert track.name in texts(ax)
    optima = [(mark.at, mark.value) for track in data.tracks for mark in track.marks]
    for (x, y), (width, value) in zip(marked(ax, "o", "D"), optima, strict=True):
        assert (x, y) == (pytest.approx(width, rel=0.02), value)  # arms stand beside one another
    assert [y for _, y in marked(ax, "s")] == [track.emitted for track in data.tracks]
    assert [y for _, y in marked(ax, "*")] == [own["optimum"]["optimum"]]
    labels = [label.get_text() for label in ax.get_xticklabels()]
    assert labels == ["24", "48", "96", "192\ntarget"]
    assert ax.get_xlabel() == "width"


def test_the_loss_over_width_draws_its_law_and_the_expected_loss() -> None:
    data = loss_data(study(), hp=HP)
    ax = axes_of(draw_over_axis, data)
    values = [mark.value for track in data.tracks for mark in track.marks]
    assert [y for _, y in marked(ax, "o", "D")] == values
    assert [y for _, y in marked(ax, "s")] == [track.emitted for track in data.tracks]
    for track in data.tracks:
        assert track.band is not None
        assert list(zip(track.band.at, track.band.value, strict=True)) in lines(ax)


def test_the_cost_of_a_value_draws_its_curve_and_both_values() -> None:
    data = cost_data(study(), hp=HP)
    assert data is not None
    ax = axes_of(draw_cost_of_value, data)
    top = 2 * data.ceiling
    for curve in data.curves:
        cut = [(value, min(mean, top)) for value, mean in zip(curve.value, curve.mean, strict=True)]
        assert cut in lines(ax) and curve.name in texts(ax)
    assert marked(ax, "s") == [curve.emitted for curve in data.curves]
    assert marked(ax, "D") == [(c.kept[0], min(c.kept[1], data.ceiling)) for c in data.curves]
    highest = [shade[:, 1].max() for shade in shades(ax)]
    assert highest == [pytest.approx(min(max(c.high), top)) for c in data.curves]
    assert ax.get_ylim()[1] == data.ceiling
    assert "◇ width 96's value, kept" in ax.get_title(loc="left") + ax.get_title(loc="center")


def test_the_realised_sweep_draws_its_basin_the_value_and_both_costs() -> None:
    own = target_sweep()
    upper, lower = figure_of(partial(draw_realised, realised=own)).axes
    assert upper.get_title(loc="center") == "target, width 192: prediction held"
    assert marked(upper, "s") == [(own["transferred"], own["loss_at_transferred"])]
    assert marked(upper, "o", "D") == [(own["optimum"]["optimum"], own["optimum"]["loss"])]
    predicted, found = own["predicted"], own["regret"]
    far = {**own, "loss_at_transferred": 2 * own["optimum"]["loss"]}
    upper_far, _ = figure_of(partial(draw_realised, realised=far)).axes
    assert upper_far.get_ylim()[1] > far["loss_at_transferred"] > upper.get_ylim()[1]
    assert [x for x, _ in marked(lower, "o")] == [predicted["mean"], found["estimate"]]
    for row, each in enumerate((predicted, found)):
        assert [(each["low"], row), (each["high"], row)] in lines(lower)


def test_costs_are_bars_from_the_denominator() -> None:
    ax = axes_of(draw_cost, COST)
    assert bars(ax) == [pytest.approx((100, percent)) for percent in (174.0, 12.6, 6.6)]
    assert texts(ax) == [
        "170 %",
        "the arm's sweep, of one target run",
        "13 %",
        "its narrowest proxy alone, of one target run",
        "6.6 %",
        "the arm's sweep, of a direct search at the target, same grid and seeds",
    ]
    assert ax.patches[0].get_facecolor()[:3] != ax.patches[2].get_facecolor()[:3]  # dearer


def test_the_coordinate_check_draws_every_slope_in_its_modules_row() -> None:
    check = coordinate_check(0.9)
    ax = axes_of(draw_coordinate_check, check)
    places = np.concatenate([np.asarray(c.get_offsets()) for c in ax.collections])
    expected = sorted((slope["slope"], MODULES.index(slope["module"])) for slope in check["slopes"])
    drawn_at = sorted((float(x), round(float(y))) for x, y in places)
    assert drawn_at == expected
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == MODULES
    assert ax.get_title(loc="center") == "coordinate check: fails"
    assert (ax.patches[0].get_x(), ax.patches[0].get_width()) == (-0.2, 0.4)  # pyright: ignore
    over = axes_of(draw_coordinate_rms, check)
    last = [entry for entry in check["rms"] if entry["step"] == 6]
    assert lines(over) == [
        [(entry["width"], entry["rms"]) for entry in last if entry["module"] == module]
        for module in MODULES
    ]
    outside = [line.get_color() == FAIL for line in over.lines]
    assert outside == [module == "final.linear" for module in MODULES]
    assert texts(over) == ["final.linear"]


def test_a_condition_draws_each_widths_optima() -> None:
    data = condition_data(study("conditions")["arms"][0], "steps", "µP")
    ax = axes_of(draw_condition, data)
    for line in data.lines:
        values = [point.value for point in line.points]
        assert values in [[y for _, y in points] for points in lines(ax)]
        assert line.name in texts(ax)
    assert [x for x in ax.get_xticks() if x > 0] == [75, 150, 300, 600]
    assert [(150, 0), (150, 1)] in lines(ax)  # where the answer is read


def test_a_surface_draws_slices_contours_and_the_joint_optimum() -> None:
    record = surface()
    first, _, below, second = figure_of(partial(draw_surface, surface=record, name="µP")).axes
    widest = record["widths"][-1]
    best = [widest["optimum"][hp]["value"] for hp in record["hps"]]
    for ax, bend, at in ((first, 0.03, best[0]), (second, 0.015, best[1])):
        cut = np.array(lines(ax)[2])  # of the widest
        apart = cut[:, 0] - at
        assert cut[:, 1] == pytest.approx(widest["loss"] + bend * apart**2 + 0.01 * apart**3 / 6)
        assert marked(ax, "o")[2] == (at, cut[:, 1].min())
    low, high = first.get_xlim()
    assert (low, high) == pytest.approx((-7.6, -3.1))  # all widths' points
    (contours,) = [c for c in below.collections if hasattr(c, "levels")]
    highest = max(
        float(excess_loss(widest, {0: np.array(x - best[0]), 1: np.array(y - best[1])}))
        for x in below.get_xlim()
        for y in below.get_ylim()
    )
    levels = list(contours.levels)  # pyright: ignore
    assert levels[-1] == pytest.approx(highest / 2, rel=0.05)
    assert levels[1:] == pytest.approx([2 * level for level in levels[:-1]], rel=0.05)
    assert marked(below, "o") == [tuple(best)]
    flat, region = lines(below)[:2]
    assert np.diff(flat, axis=0).tolist() == [pytest.approx([-1.082, 1.682], abs=1e-3)]
    assert np.mean(flat, axis=0) == pytest.approx(best)
    assert np.ptp(region, axis=0) == pytest.approx([0.5 * 2.146 / 1.645, 2.146 / 1.645], rel=0.01)


def test_importance_draws_a_bar_per_hp_and_method() -> None:
    record = surface()
    draw = partial(draw_importance, name="µP")
    ax = axes_of(draw, record)
    assert bars(ax) == [pytest.approx((0, percent)) for percent in (62, 70, 27, 20)]
    assert texts(ax) == ["62 %", "70 %", "27 %", "20 %"]
    labels = [label.get_text() for label in ax.get_yticklabels()]
    assert labels == ["base learning rate", "weight decay"]
    record["importance"] = {"surface": {"log2_lr": 0.1, "log2_weight_decay": 0.9}}
    alone = axes_of(draw, record)
    assert texts(alone) == ["90 %", "10 %"]  # by falling share
    assert alone.get_title(loc="center") == "µP.  blue: response surface"


def test_the_summary_has_a_column_per_arm_on_one_hp_axis() -> None:
    estimates = study()
    estimates["arms"][1]["target"]["emitted"] = -8.3  # below a cliff the value leans far down
    figure = figure_of(partial(draw_summary, estimates=estimates))
    above, below = figure.axes[:2], figure.axes[2:]
    verdicts = [arm["verdict"] for arm in estimates["arms"]]
    titles = [f"µP: {verdicts[0]}", f"standard: {verdicts[1]}"]
    assert [ax.get_title(loc="center") for ax in above] == titles
    for basins, strip, arm in zip(above, below, estimates["arms"], strict=True):
        assert basins.get_xlim() == strip.get_xlim()
        assert marked(strip, "o", "D") == [(o["optimum"], o["width"]) for o in arm["optima"]]
    # The value that is emitted is marked, not the middle of the law.
    assert [x for x, _ in marked(below[1], "s")] == [-8.3]
    assert "−8.30" in texts(below[1])


def thin() -> dict[str, Any]:
    """One condition at a single setting, and a surface without intervals."""
    estimates = study("conditions")
    told = estimates["arms"][0]["conditions"]
    told["optima"] = [row for row in told["optima"] if (row["width"], row["steps"]) == (16, 150)]
    record = surface()
    for width in record["widths"]:
        width |= {"correlation": None, "principal_axes": []}
        for best in width["optimum"].values():
            best |= {"low": None, "high": None}
    return estimates | {"surfaces": [record]}


@pytest.mark.parametrize(
    "told",
    [lambda: {"arms": []}, bare, noiseless, many_widths, two_families, over_depth, thin],
    ids=["none", "bare", "no intervals", "eight widths", "families", "depth", "thin"],
)
@pytest.mark.filterwarnings("error")
def test_any_number_of_arms_and_settings_is_drawn(told: Callable[[], dict[str, Any]]) -> None:
    estimates = told()
    figures = {picture.name: drawn(picture) for picture in pictures(estimates=estimates)}
    basins = [figure for name, figure in figures.items() if name.startswith("basins")]
    assert len(basins) == len(estimates["arms"])
    for arm, figure in zip(estimates["arms"], basins, strict=True):
        names = [setting_name(arm["axis"], optimum[arm["axis"]]) for optimum in arm["optima"]]
        assert [text for text in texts(figure.axes[0]) if text in names] == names
    assert all(ax.has_data() or not ax.axison for f in figures.values() for ax in f.axes)


def test_every_record_has_its_picture_and_records_are_not_changed() -> None:
    estimates = study("conditions") | {"surfaces": [surface()]}
    given = {"estimates": estimates, "check": coordinate_check()}
    given |= {"realised": target_sweep(), "transfer": {"cost": COST}}
    again = deepcopy(given)
    names = ["summary", "basins-mup", "optimum_width", "cost_of_value", "loss_width"]
    names += ["over-batch_size-mup", "over-steps-mup", "surface-mup", "importance-mup"]
    names += ["realised", "cost", "coordinate_check", "coordinate_rms"]
    assert [p.name for p in pictures(**given)] == names
    assert given == again


def test_files_are_written_in_three_formats_and_repeat_byte_for_byte(tmp_path) -> None:
    listed = [p for p in pictures(estimates={"arms": []}, transfer={"cost": COST})]
    first = write_pictures(tmp_path / "first", listed)
    assert [p.name for p in first] == ["cost.png", "cost.svg", "cost.pdf"]
    starts = [path.read_bytes()[:5] for path in first]
    assert starts == [b"\x89PNG\r", b"<?xml", b"%PDF-"]
    assert b"CreationDate" not in first[2].read_bytes()
    second = write_pictures(tmp_path / "second", listed)
    assert [p.read_bytes() for p in first] == [p.read_bytes() for p in second]
    assert isinstance(drawn(listed[0]), Figure)
