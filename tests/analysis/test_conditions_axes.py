"""Optima over depth, batch size and training time: the joint law, what still moves, and the shift.

The truth is planted: θ = a + b·log2 width + c·log2 batch + d·log2 steps.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
import pandas as pd
import pytest

from hptransfer.analysis.basins.rows import TrialArrays, read_rows
from hptransfer.analysis.conditions.conditions import Shift, conditions_block
from hptransfer.analysis.conditions.joint_law import Estimates, fit_joint
from hptransfer.analysis.conditions.reference import caveats, reference, rows_at_condition
from hptransfer.errors import UserError
from tests.support import planted

CELL = planted.Cell(seeds=3, step=1.0, shape="quadratic", widths=(32, 64, 128))
BASE = {"depth": 2.0, "batch_size": 64.0, "steps": 150.0}
Optimum = Callable[[float, Mapping[str, float]], float]


def linear(width: float, on: Mapping[str, float]) -> float:
    """Return the planted optimum."""
    octaves = np.log2([width / 64, on["batch_size"] / 64, on["steps"] / 150])
    return float(-6.0 + octaves @ [-0.2, 0.5, -0.4])


def rows_of(
    optimum: Optimum, *, seed: int = 0, cell: planted.Cell = CELL, **values: tuple[float, ...]
) -> pd.DataFrame:
    """Return a star's rows: each value of each condition with the others at `BASE`."""
    rng = np.random.default_rng(seed)
    star = [BASE, *({**BASE, n: v} for n, found in values.items() for v in found if v != BASE[n])]
    parts = []
    for on in star:
        drawn = planted.draw(cell, {w: optimum(w, on) for w in cell.widths}, rng)
        parts.append(planted.table(drawn).assign(**on))
    return pd.concat(parts, ignore_index=True)


def arrays(table: Any) -> TrialArrays:
    return read_rows(table, ["log2_lr"])


def block_of(
    table: Any,
    on: Mapping[str, float | None] = BASE,
    target: Mapping[str, float | None] | None = None,
    draws: int = 400,
) -> tuple[Any, Shift]:
    return conditions_block(
        arrays(table), on, target, hp="log2_lr", names=("dit", "mup"), draws=draws
    )


VARIED = {"batch_size": (32.0, 64.0), "steps": (75.0, 150.0, 300.0)}
TRUTH = {"log2_width": -0.2, "log2_batch_size": 0.5, "log2_steps": -0.4}


def test_intervals_of_the_joint_law_cover() -> None:
    """Optima with known errors: 90 % intervals hold the truth in 85 to 95 % of 3,000 draws."""
    rng = np.random.default_rng(1)
    width, steps = (x.reshape(-1) for x in np.meshgrid([5.0, 6.0, 7.0], [-1.0, 0.0, 1.0]))
    terms = {"a": np.ones(9), "log2_width": width, "log2_steps": steps}
    errors = rng.uniform(0.05, 0.2, 9)
    held = {"log2_width": 0, "log2_steps": 0}
    for _ in range(1000):
        found = -0.2 * width - 0.4 * steps + errors * rng.standard_normal(9)
        draws = found + errors * rng.standard_normal((500, 9))
        law = fit_joint(terms, Estimates(found, draws))
        assert law is not None and law.degrees == 6
        for name in held:
            low, high = np.quantile(law.draws[name], (0.05, 0.95))
            held[name] += bool(low <= TRUTH[name] <= high)
    assert all(850 <= count <= 950 for count in held.values()), held


def test_where_the_law_does_not_hold_its_intervals_grow() -> None:
    terms = {"a": np.ones(4), "slope": np.arange(4.0)}
    draws = 0.1 * np.random.default_rng(0).standard_normal((2000, 4))
    straight, bent = np.arange(4.0), np.array([0.0, 1.9, 2.1, 3.0])
    spreads = []
    for values in (straight, bent):
        law = fit_joint(terms, Estimates(values, values + draws))
        assert law is not None
        spreads.append(law.draws["slope"].std())
        ratio = np.sqrt(max(1.0, law.chi2 / law.degrees))
        assert spreads[-1] == pytest.approx(spreads[0] * ratio, rel=1e-9)
    assert spreads[1] > 3 * spreads[0]


def test_the_joint_law_is_recovered_from_rows() -> None:
    held, errors = dict.fromkeys([*TRUTH, "shift"], 0), {name: [] for name in TRUTH}
    target = {**BASE, "steps": 300.0, "batch_size": 32.0}
    for seed in range(40):
        block, _ = block_of(rows_of(linear, seed=seed, **VARIED), target=target)
        moved = block["shift_to_target"]
        held["shift"] += moved["low"] <= -0.4 - 0.5 <= moved["high"]
        assert block["varied"] == ["batch_size", "steps"] and block["joint"]["settings"] == 12
        for entry in block["joint"]["coefficients"][1:]:
            truth = TRUTH[entry["name"]]
            held[entry["name"]] += entry["low"] <= truth <= entry["high"]
            errors[entry["name"]].append(entry["estimate"] - truth)
    assert min(held.values()) >= 0.85 * 40
    assert all(abs(np.mean(found)) < 0.05 for found in errors.values())


def test_every_setting_is_an_entry_and_each_axis_is_told_apart() -> None:
    block, shift = block_of(rows_of(linear, **VARIED))
    places = {(o["width"], o["batch_size"], o["steps"]) for o in block["optima"]}
    assert len(places) == len(block["optima"]) == 12
    assert shift == Shift() and block["shift_to_target"] is None
    batch, steps = block["over"]
    assert [value["value"] for value in steps["values"]] == [75, 150, 300]
    assert [value["value"] for value in batch["values"]] == [32, 64]
    assert steps["still_moves"] is True and batch["still_moves"] is True
    assert steps["sentence"].startswith("At 150 steps the optimum still falls by 0.")
    assert "does not hold for a longer run" in steps["sentence"]
    assert batch["sentence"].startswith("At a batch size of 64 the optimum still rises by 0.")


def early(width: float, on: Mapping[str, float]) -> float:
    """An optimum that drifts over width at 75 steps, and from 300 on neither drifts nor moves."""
    late = min(np.log2(on["steps"] / 75) / 2, 1.0)
    return float(-6.0 + (1 - late) * (1.0 - np.log2(width / 64)))


def test_a_false_drift_read_too_early_is_found() -> None:
    cell = planted.Cell(seeds=5, step=0.5, shape="quadratic", noise=0.001, widths=(32, 64, 128))
    table = rows_of(early, cell=cell, steps=(75.0, 150.0, 300.0, 600.0))
    block, _ = block_of(table, {**BASE, "steps": 75.0})
    (over,) = block["over"]
    assert over["still_moves"] is True and "At 75 steps the optimum still falls" in over["sentence"]
    assert "it belongs to the training time, not to the width alone" in over["sentence"]
    drifts = [value["drift"]["estimate"] for value in over["values"]]
    assert drifts[0] == pytest.approx(-1.0, abs=0.2) and abs(drifts[-1]) < 0.2
    (settled,) = block_of(table, {**BASE, "steps": 600.0})[0]["over"]
    assert settled["still_moves"] is False
    assert settled["sentence"].startswith("At 600 steps the optimum moves by at most 0.")


def test_the_shift_leads_to_the_targets_condition() -> None:
    cell = planted.Cell(seeds=5, step=0.5, shape="quadratic", noise=0.001, widths=(32, 64, 128))
    table = rows_of(linear, cell=cell, **VARIED)
    block, shift = block_of(table, target={**BASE, "steps": 300.0, "batch_size": 32.0}, draws=2000)
    assert shift.draws is not None and shift.warnings == ()
    assert np.median(shift.draws) == pytest.approx(-0.4 - 0.5, abs=0.2)
    ends = [block["shift_to_target"][name] for name in ("low", "high")]
    assert ends == pytest.approx(np.quantile(shift.draws, (0.05, 0.95)), rel=1e-3)
    _, far = block_of(table, target={**BASE, "steps": 1200.0}, draws=2000)
    assert far.draws is not None
    assert np.median(far.draws) == pytest.approx(-1.2, abs=0.3)
    assert far.draws.std() > 1.3 * 3 * (shift_of(table, 300.0).std())
    assert far.warnings == (
        "At 1200 steps the target lies 2 octaves beyond the swept 75 to 300: the optimum there is "
        "extrapolated.",
    )


def shift_of(table: Any, steps: float) -> Any:
    return block_of(table, target={**BASE, "steps": steps}, draws=2000)[1].draws


def test_a_shift_that_the_optima_do_not_tell_is_not_invented() -> None:
    table = rows_of(linear, steps=(75.0, 150.0))
    table.loc[table["steps"] == 75, ["status", "loss"]] = ["diverged", np.nan]
    block, shift = block_of(table, target={**BASE, "steps": 75.0})
    assert block["shift_to_target"] is None and shift.draws is None
    assert shift.reason is not None and "how they follow the training time" in shift.reason
    assert shift.warnings


def test_where_width_alone_varies_there_is_nothing_to_say() -> None:
    assert block_of(rows_of(linear)) == (None, Shift())


def test_the_order_of_rows_does_not_matter() -> None:
    table = rows_of(linear, **VARIED)
    mixed = table.sample(frac=1.0, random_state=3)
    target = {**BASE, "steps": 600.0}
    (one, first), (two, second) = (block_of(rows, target=target) for rows in (table, mixed))
    assert one == two
    assert first.draws is not None and second.draws is not None
    assert np.array_equal(first.draws, second.draws)


def test_imported_rows_are_read_at_the_last_step_that_every_width_has() -> None:
    table = rows_of(linear, **VARIED)
    table = table[(table["width"] < 128) | (table["steps"] < 300)]
    assert reference(arrays(table), None) == BASE
    assert reference(arrays(table), {"steps": 300}) == {**BASE, "steps": 300.0}
    with pytest.raises(UserError, match=r"at steps=200, which must be .* they have 75, 150, 300"):
        reference(arrays(table), {"steps": 200})
    kept = rows_at_condition(arrays(table), BASE)
    assert len(kept.width) == 3 * 3 * 9 and caveats(kept, BASE) == []


def test_what_grows_with_the_width_is_said_and_not_held() -> None:
    table = rows_of(linear)
    table["steps"] = table["width"] * 10.0
    found = reference(arrays(table), None)
    assert found == {**BASE, "steps": None}
    assert block_of(table, found) == (None, Shift())
    (told,) = caveats(arrays(table), found)
    assert told.startswith("The training time differs from width to width")


def test_rows_that_do_not_say_their_condition_are_counted() -> None:
    table = rows_of(linear, steps=(75.0,))
    table.loc[table.index[:4], "steps"] = np.nan
    found = reference(arrays(table), None)
    assert caveats(arrays(table), found) == ["4 rows do not say their steps; they are left out."]
    unknown = reference(arrays(table.assign(steps=np.nan)), None)
    assert unknown["steps"] is None and len(rows_at_condition(arrays(table), unknown).width) > 0
