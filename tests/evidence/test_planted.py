"""Answers hold where the truth is planted: a few arms of what `benchmarks.planted` plants."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks import planted
from benchmarks.planted import DESIGNS, LAWS, REFERENCE, SHAPES, TUNED_ON, Cell
from hptransfer.analysis.basins.curve import Floats
from tests.support import planted as sweeps
from tests.support.paths import ROOT
from tests.support.strict_json import strict

STEEP = ("kink", "V", "two minima", "wall")  # an optimum's interval may miss these
UNSEEN = [shape for shape in SHAPES if shape not in (*TUNED_ON["shapes"], *STEEP)]


@pytest.mark.parametrize("shape", SHAPES)
def test_a_shape_has_its_minimum_at_zero(shape: str) -> None:
    offset: Floats = np.arange(-32.0, 33.0) / 8.0
    rise = SHAPES[shape](offset)
    assert rise[offset == 0.0] == pytest.approx(0.0, abs=1e-12)
    assert (rise[offset != 0.0] > 0.0).all()
    falls = int((np.diff(rise[offset <= 0.0]) > 0.0).sum())
    assert (falls > 0) == (shape == "two minima")
    assert (np.diff(rise[offset >= 0.0]) > 0.0).all()


@pytest.mark.parametrize("shape", (*sweeps.SHAPES, *sweeps.ONCE_HELD_OUT, *sweeps.HELD_OUT))
def test_an_invented_sweeps_shape_rises_from_its_optimum(shape: str) -> None:
    offset: Floats = np.arange(-16.0, 13.0) / 8.0  # below every cliff
    rise = sweeps.rise(shape, offset)
    assert rise[offset == 0.0] == 0.0
    assert (np.diff(rise) * (offset[1:] - 0.0625) > 0).all()


def test_answers_hold_on_arms_that_nothing_was_tuned_on() -> None:
    cells = [Cell(REFERENCE, law, shape) for law in LAWS for shape in UNSEEN]
    found = [planted.outcome(planted.plant(cell, 1000)) for cell in cells]
    share = {name: float(np.mean([each[name] for each in found])) for name in found[0]}
    assert len(found) == 21
    assert min(share["target"], share["drift"], share["cost"]) >= 0.8
    assert share["wrong"] + share["alarm"] < 0.1
    assert share["width"] < 1.0  # octaves


def test_an_arm_is_what_its_cell_says() -> None:
    arm = planted.plant(Cell(REFERENCE, "linear -0.7", "parabola"), 0)
    assert arm.target == 1024 and list(arm.drawn) == [32, 64, 128, 256, 512]
    assert arm.movement == pytest.approx(-0.7) and arm.drift == pytest.approx(-0.7)
    compute = 2.0 * 0.02 * 0.7**2 / 0.06  # doublings
    assert arm.ignoring_percent == pytest.approx(100.0 * (2.0**compute - 1.0))
    assert arm.cost(arm.optima[-1]) == 0.0 and arm.cost(arm.optima[-1] + 3.7) == np.inf
    for (theta, losses), optimum in zip(arm.drawn.values(), arm.optima, strict=False):
        assert (np.isinf(losses) == (theta - optimum > planted.CLIFF)).all()
        sound = np.isfinite(losses).all(axis=0)
        rise = np.log(losses[:, sound]).mean(axis=0) - planted.RISE * (theta[sound] - optimum) ** 2
        assert np.ptp(rise) < 6.0 * planted.NOISE


def test_designs_change_what_they_name() -> None:
    drawn = {name: planted.plant(Cell(name, "constant", "parabola"), 0).drawn for name in DESIGNS}
    shapes = {name: next(iter(each.values()))[1].shape for name, each in drawn.items()}
    assert shapes == {
        **dict.fromkeys(DESIGNS, (3, 8)),
        "one seed": (1, 8),
        "half octave": (3, 15),
        "ten seeds, quarter octave": (10, 29),
        "copied seed": (4, 8),
    }
    assert list(drawn["three widths"]) == [64, 128, 256]
    missing = np.mean([np.isnan(losses).mean() for _, losses in drawn["15 % missing"].values()])
    assert 0.05 < missing < 0.3
    copied = next(iter(drawn["copied seed"].values()))[1]
    assert (copied[0] == copied[3]).all()


def test_a_missing_trial_has_no_row() -> None:
    arm = planted.plant(Cell("15 % missing", "constant", "parabola"), 0)
    there = sum(int((~np.isnan(losses)).sum()) for _, losses in arm.drawn.values())
    assert len(sweeps.table(arm.drawn)) == there < 5 * 3 * 8


def test_a_cell_that_fails_is_named() -> None:
    held = planted.entry(Cell(REFERENCE, "constant", "parabola"), 2)
    missed = {**held, "target": 0.75}
    assert planted.failing([held]) == []
    ((name, *_),) = planted.failing([missed])
    assert name == "reference: constant, parabola"
    ((name, *_),) = planted.failing([{**missed, "design": "one seed"}])
    assert name == "one seed: parabola"


def test_fewer_widths_give_wider_intervals() -> None:
    three, five = (
        planted.entry(Cell(design, "linear -0.3", "parabola"), 3)["width"]
        for design in ("three widths", REFERENCE)
    )
    assert three > 1.3 * five


def test_the_page_shows_the_records_tables() -> None:
    page = (ROOT / "docs" / "evidence" / "README.md").read_text()
    record = strict(ROOT / "results" / "benchmarks" / "planted.json")
    for text in planted.page_tables(record["cells"]).values():
        assert text in page
    repeats, others = record["settings"]["repeats"], record["settings"]["others"]
    assert f"--repeats {repeats} --others {others} " in page
