"""Sweeps of which only a product of HPs matters, or one HP alone, up to the target's values."""

from __future__ import annotations

import numpy as np
import pytest

from hptransfer.analysis.basins.curve import Floats
from tests.support.hp_tables import answered, crossed, table_of

HPS = ["log2_lr", "log2_weight_decay"]
GRID = {"log2_lr": np.arange(-11.0, -4.0), "log2_weight_decay": np.arange(-7.0, 0.0)}


@pytest.mark.parametrize("seeds", [1, 2])
@pytest.mark.parametrize("drift", [0.0, -0.5])
@pytest.mark.parametrize("share", [0.0, 0.001])
def test_of_a_ridge_the_product_is_answered(share: float, drift: float, seeds: int) -> None:
    """`share` is the curvature along the ridge over the one across, `drift` that of the product."""

    def rise(x: dict[str, Floats], step: int) -> Floats:
        product = x["log2_lr"] + x["log2_weight_decay"] + 12.0 - drift * step
        other = x["log2_lr"] - x["log2_weight_decay"] + 4.0
        return 0.005 * (product**2 + share * other**2)

    record = answered(table_of(crossed(**GRID), rise, seeds=seeds), HPS)
    rate, decay = record["arms"]
    for arm in (rate, decay):
        for entry in arm["optima"]:
            assert entry["censored"] is None and entry["high"] - entry["low"] < 1.0
        slope = arm["drift_octaves_per_doubling"]
        assert slope["low"] < drift / 2.0 < slope["high"] and slope["high"] - slope["low"] < 0.6
        assert arm["cost"]["emitted"]["percent"]["mean"] < 0.5
    product = rate["target"]["emitted"] + decay["target"]["emitted"]
    assert product == pytest.approx(-12.0 + 4.0 * drift, abs=0.4)
    note = "What matters is learning rate × weight decay: as long as it stays the same, the loss"
    said = [each for each in rate["warnings"] if note in each]
    assert len(said) == 1 and "values belong together" in said[0]
    assert said[0].startswith("Width 64, 128, 256: ")
    target = record["surfaces"][0]["target"]
    for arm in (rate, decay):  # what the headline says is what a transfer writes
        value = target["hps"][arm["hp"]]["value"]
        assert arm["target"]["emitted"] == pytest.approx(value, abs=1e-5)
    joint = sum(each["value"] for each in target["hps"].values())
    assert joint == pytest.approx(-12.0 + 4.0 * drift, abs=0.4)
    assert target["expected_regret"]["mean"] < 0.005 * 3.0


def test_a_ridge_of_other_powers_is_named_with_them() -> None:
    def rise(x: dict[str, Floats], step: int) -> Floats:
        return 0.008 * (x["log2_lr"] + 0.5 * x["log2_weight_decay"] + 10.0) ** 2

    record = answered(table_of(crossed(**GRID), rise), HPS)
    rate, decay = record["arms"]
    told = "\n".join(rate["warnings"])
    assert "What matters is learning rate × weight decay^0.5" in told
    emitted = rate["target"]["emitted"] + 0.5 * decay["target"]["emitted"]
    assert emitted == pytest.approx(-10.0, abs=0.25)


def test_a_third_hp_is_answered_beside_a_ridge() -> None:
    axes = {"log2_lr": np.arange(-10.0, -5.0), "log2_weight_decay": np.arange(-6.0, -1.0)}
    points = crossed(**axes, log2_init_scale=np.arange(-2.0, 3.0))

    def rise(x: dict[str, Floats], step: int) -> Floats:
        product = x["log2_lr"] + x["log2_weight_decay"] + 12.0
        return 0.005 * product**2 + 0.01 * (x["log2_init_scale"] - 0.3) ** 2

    record = answered(table_of(points, rise), [*HPS, "log2_init_scale"])
    scale = record["arms"][2]
    assert all(abs(each["optimum"] - 0.3) < 0.15 for each in scale["optima"])
    flattest = record["surfaces"][0]["widths"][0]["principal_axes"][0]
    assert "What matters is learning rate × weight decay" in flattest["sentence"]
    assert abs(flattest["direction"]["log2_init_scale"]) < 0.1


def test_an_additive_rate_and_decay_have_no_product() -> None:
    """Two HPs that add up are answered one by one, though the decay matters thirty times less."""
    points = crossed(log2_lr=np.arange(-11.0, -5.0), log2_weight_decay=np.log2([0.01, 0.03, 0.1]))

    def rise(x: dict[str, Floats], step: int) -> Floats:
        return 0.006 * (x["log2_lr"] + 8.0) ** 2 + 0.0002 * (x["log2_weight_decay"] + 5.4) ** 2

    record = answered(table_of(points, rise, seeds=1), HPS)
    assert not any("What matters" in each for arm in record["arms"] for each in arm["warnings"])
    for entry in record["arms"][0]["optima"]:
        assert entry["optimum"] == pytest.approx(-8.0, abs=0.1)


def test_an_hp_that_hardly_matters_costs_hardly_anything() -> None:
    """Its optimum is anywhere, and its basin has no bend to price a wrong value with."""

    def rise(x: dict[str, Floats], step: int) -> Floats:
        return 0.01 * (x["log2_lr"] + 8.3) ** 2

    record = answered(table_of(crossed(**GRID), rise), HPS)
    rate, decay = record["arms"]
    assert all(abs(each["optimum"] + 8.3) < 0.2 for each in rate["optima"])
    assert all(each["censored"] == "flat" for each in decay["optima"])
    assert decay["cost"]["emitted"]["percent"]["mean"] < 0.3
    assert decay["verdict"] == "transfers"
    assert any("weight decay hardly matters" in each for each in rate["warnings"])
