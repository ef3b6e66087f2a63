"""Search axes: ranges in log2, ranges of values, and what is refused because it may be either."""

from __future__ import annotations

import math
import re
import shlex

import pytest

from hptransfer.config.compose.compose import compose_file, shipped_folder, sweep_config
from hptransfer.config.sweep import Axis, axis_entry, read_axis
from hptransfer.errors import UserError

QUICKSTART = shipped_folder("sweeps") / "quickstart.yaml"


def lr_axis(*overrides: str) -> Axis:
    return dict(sweep_config(compose_file(QUICKSTART, list(overrides))).search)["lr"]


def values(axis: Axis) -> list[float]:
    return [2.0**point for point in axis.points]


def typed(message: str) -> list[str]:
    """Return the overrides that a refusal proposes, as a shell hands them over."""
    return [shlex.split(word)[0] for word in re.findall(r"'search\.lr=[^']*'", message)]


@pytest.mark.parametrize(
    ("name", "low", "high", "step", "expected"),
    [
        ("lr", 0.001, 0.009, 0.002, [0.001, 0.003, 0.005, 0.007, 0.009]),
        ("lr", 0.05, 0.2, 0.05, [0.05, 0.1, 0.15, 0.2]),
        ("weight_decay", 0.01, 0.05, 0.02, [0.01, 0.03, 0.05]),
        ("one_minus_beta2", 0.1, 0.5, 0.2, [0.1, 0.3, 0.5]),  # in log2 it would be above 1
    ],
)
def test_a_range_that_can_only_be_values_is_read_as_values(
    name: str, low: float, high: float, step: float, expected: list[float]
):
    axis = read_axis(name, {"low": low, "high": high, "step": step})
    assert values(axis) == pytest.approx(expected)
    assert read_axis(name, axis_entry(axis)) == axis  # as the results folder records it


def test_a_range_of_rates_may_be_given_as_an_override():
    axis = lr_axis("search.lr={low: 0.001, high: 0.009, step: 0.002}")
    assert values(axis) == pytest.approx([0.001, 0.003, 0.005, 0.007, 0.009])


@pytest.mark.parametrize(
    ("name", "low", "high", "step"),
    [
        ("lr", -10.0, -3.0, 1.0),
        ("lr", -1.0, 0.5, 0.5),
        ("lr", 0.0, 0.5, 0.25),
        ("lr", 0.5, 2.0, 0.5),
        ("init_scale", 0.25, 0.75, 0.25),
        ("clip_norm", 0.1, 0.2, 0.1),
    ],
)
def test_other_ranges_are_in_log2_as_ever(name: str, low: float, high: float, step: float):
    axis = read_axis(name, {"low": low, "high": high, "step": step})
    assert axis == Axis(low, high, step) and axis.listed == ()


def test_a_range_that_may_be_either_is_refused_with_both_readings():
    with pytest.raises(UserError) as refused:
        lr_axis("search.lr={low: 0.1, high: 0.5, step: 0.1}")
    said = "or their log2, which would be values from 1.072 to 1.414"
    assert said in str(refused.value)
    first, second = typed(str(refused.value))
    assert values(lr_axis(first)) == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5])
    assert lr_axis(second).points == pytest.approx([0.1, 0.2, 0.3, 0.4, 0.5], abs=1e-6)


@pytest.mark.parametrize("step", [None, 1.0])
def test_a_range_of_rates_without_its_step_is_refused_with_a_list(step: float | None):
    entry = {"low": 0.001, "high": 0.009} | ({} if step is None else {"step": step})
    with pytest.raises(UserError) as refused:
        read_axis("lr", entry)
    (word,) = typed(str(refused.value))
    assert values(lr_axis(word)) == pytest.approx([0.001, 0.002, 0.004, 0.008])


def test_a_range_of_rates_must_end_on_its_grid():
    with pytest.raises(UserError, match=r"must be a multiple of its step.* has step=0\.003"):
        read_axis("lr", {"low": 0.001, "high": 0.009, "step": 0.003})
    assert math.isclose(read_axis("lr", [0.5, 0.25]).low, -2.0)
