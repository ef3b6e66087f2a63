"""HPs that are searched linearly, alone and beside a rate, and rows whose HP is switched off."""

from __future__ import annotations

import numpy as np
import pytest

from hptransfer.analysis.basins.curve import Floats
from tests.support.hp_tables import answered, crossed, table_of

MOMENTA = np.array([0.5, 0.6, 0.7, 0.8, 0.85, 0.9, 0.95, 0.98])


@pytest.mark.parametrize("span", [1.0, 1000.0])
def test_a_linear_hp_is_answered_in_its_own_units(span: float) -> None:
    """The answer does not depend on the unit: thousandths of a momentum give the same."""
    optima = [0.80, 0.82, 0.84]
    points = {"momentum": span * MOMENTA}
    table = table_of(points, lambda x, step: 0.4 * (x["momentum"] / span - optima[step]) ** 2)
    (arm,) = answered(table, ["momentum"])["arms"]
    for entry, truth in zip(arm["optima"], optima, strict=True):
        assert entry["optimum"] / span == pytest.approx(truth, abs=0.03)
        assert entry["low"] / span < truth < entry["high"] / span
        assert (entry["high"] - entry["low"]) / span < 0.15
        assert entry["basin"]["theta"] == pytest.approx(list(span * MOMENTA))
        assert span * 0.5 <= entry["basin"]["fit_theta"][0] < entry["basin"]["fit_theta"][-1]
    assert arm["drift_octaves_per_doubling"]["estimate"] / span == pytest.approx(0.02, abs=0.015)
    target = arm["target"]
    assert target["low"] < target["emitted"] < target["high"]
    assert target["emitted"] / span == pytest.approx(0.88, abs=0.05)
    assert arm["cost"]["ignoring"]["value"] / span == pytest.approx(0.84, abs=0.03)
    value, moved, _ = arm["headline"].splitlines()
    emitted = float(f"{target['emitted']:.3g}")
    assert value.startswith(f"Use momentum {emitted:g} at width 1024 (")
    assert "octave" not in moved and "octave" not in " ".join(arm["reasons"])
    if span == 1.0:
        assert "changes the best momentum by +0.0" in moved


def test_a_linear_hp_and_a_rate_are_fitted_together() -> None:
    points = crossed(log2_lr=np.arange(-11.0, -4.0), momentum=MOMENTA[1:7])

    def rise(x: dict[str, Floats], step: int) -> Floats:
        return 0.01 * (x["log2_lr"] + 8.3) ** 2 + 0.5 * (x["momentum"] - 0.78) ** 2

    record = answered(table_of(points, rise), ["log2_lr", "momentum"])
    rate, momentum = record["arms"]
    for entry in rate["optima"]:
        assert entry["optimum"] == pytest.approx(-8.3, abs=0.15) and entry["censored"] is None
    for entry in momentum["optima"]:
        assert entry["optimum"] == pytest.approx(0.78, abs=0.03) and entry["censored"] is None
        assert entry["low"] < 0.78 < entry["high"]
    (surface,) = record["surfaces"]
    assert surface["target"]["hps"]["momentum"]["value"] == pytest.approx(0.78, abs=0.02)
    for width in surface["widths"]:
        level = width["loss"]
        assert width["optimum"]["momentum"]["value"] == pytest.approx(0.78, abs=0.03)
        assert 0.6 <= width["box"]["momentum"][0] < 0.78 < width["box"]["momentum"][1] <= 0.95
        # Second derivatives in the HPs' own units.
        assert width["interactions"][0][0] == pytest.approx(0.02 * level, rel=0.2)
        assert width["interactions"][1][1] == pytest.approx(1.0 * level, rel=0.4)


@pytest.mark.parametrize(("cost", "verb"), [(0.02, "costs"), (-0.02, "gains"), (0.0, "same")])
def test_an_hp_that_is_off_is_a_point_of_its_own(cost: float, verb: str) -> None:
    decays = np.array([-np.inf, -8.0, -7.0, -6.0, -5.0, -4.0])
    points = crossed(log2_lr=np.arange(-11.0, -5.0), log2_weight_decay=decays)

    def rise(x: dict[str, Floats], step: int) -> Floats:
        off = np.isneginf(x["log2_weight_decay"])
        decay = np.where(off, -6.0, x["log2_weight_decay"])
        by_decay = np.where(off, cost, 0.005 * (decay + 6.0) ** 2)
        return 0.01 * (x["log2_lr"] + 8.3) ** 2 + by_decay

    axes = ["log2_lr", "log2_weight_decay"]
    table = table_of(points, rise)
    record = answered(table, axes)
    _, decay = record["arms"]
    said = [each for each in decay["warnings"] if "weight decay off" in each]
    assert len(said) == 3 and said[0].startswith("Width 64: weight decay off ")
    assert all((verb in each) for each in said)
    if verb != "same":
        percent = float(said[0].split(f"{verb} ")[1].split(" %")[0])
        assert percent == pytest.approx(2.0, abs=0.4)
    # The basins are those of the rows without zero.
    without = answered(table.loc[np.isfinite(table["log2_weight_decay"])], axes)
    assert [a["optima"] for a in record["arms"]] == [a["optima"] for a in without["arms"]]
    assert record["surfaces"] == without["surfaces"]


def test_an_hp_that_is_on_or_off_leaves_the_other_one_basin() -> None:
    points = crossed(log2_lr=np.arange(-11.0, -5.0), log2_clip_norm=np.array([-np.inf, 0.0]))

    def rise(x: dict[str, Floats], step: int) -> Floats:
        return 0.01 * (x["log2_lr"] + 8.3) ** 2 + 0.03 * np.isneginf(x["log2_clip_norm"])

    record = answered(table_of(points, rise), ["log2_lr", "log2_clip_norm"])
    (rate,) = record["arms"]
    assert rate["hp"] == "log2_lr" and not record["surfaces"]
    assert all(abs(each["optimum"] + 8.3) < 0.2 for each in rate["optima"])
    said = [each for each in rate["warnings"] if "gradient clip norm off costs " in each]
    costs = [float(each.split("costs ")[1].split(" %")[0]) for each in said]
    assert costs == pytest.approx([3.0] * 3, abs=0.4)


def test_an_hp_whose_zero_fails_is_said_to_fail() -> None:
    table = table_of({"log2_eps": np.array([-np.inf, *np.arange(-30.0, -22.0)])}, _eps)
    table.loc[np.isneginf(table["log2_eps"]), ["loss", "status"]] = [np.inf, "diverged"]
    (arm,) = answered(table, ["log2_eps"])["arms"]
    assert all(each["n_points"] == 8 for each in arm["optima"])
    assert "Width 64: Adam epsilon off fails." in arm["warnings"]


def _eps(x: dict[str, Floats], step: int) -> Floats:
    return 0.002 * np.where(np.isneginf(x["log2_eps"]), 0.0, x["log2_eps"] + 26.0) ** 2
