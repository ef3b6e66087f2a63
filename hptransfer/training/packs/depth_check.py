"""The coordinate check over depth: whether outputs change by as much in a deeper model.

A model of r times the blocks adds up r times as many residual branches. With branches of r^-a
(arXiv 2505.01618 and 2512.22382) what the blocks add to the stream, and its change in training, do
not grow with depth. They may shrink: branches whose weights are still nearly random add up to √r of
one branch, times r^-a, and a branch's own change falls as its rate does, by r^(a-1).
"""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Sequence
from typing import Any

from hptransfer.config import RuntimeConfig, TrialConfig
from hptransfer.config.choices import TRANSFERRING
from hptransfer.data import load_data
from hptransfer.errors import UserError
from hptransfer.training.coordinate_record import (
    MEASURED_STEPS,
    Asked,
    OutputSizes,
    WidthMeasurement,
    answer_at_telling_rate,
    coordinate_record,
)
from hptransfer.training.packs.coordinate_check import check_seeds, measured, probe_config

BLOCK = re.compile(r"\w*blocks\.(\d+)(?=[.[]|$)")
LAST = "blocks.last"  # the name that the last block has in the record, at every depth


def depth_check(
    base: TrialConfig, depths: Sequence[int], log2_lr: float, runtime: RuntimeConfig
) -> dict[str, Any]:
    """Return the coordinate check of a trial's parametrization over `depths`, at its base width.

    It is the object of `hptransfer check --axis depth --json`. Compared are the modules outside the
    blocks and those of the last block, which every depth has. The base depth is the trial's, or the
    least of `depths` where it has none.

    Raises:
        UserError: a model without blocks, or fewer than two depths.
        MachineError: the trials of a depth do not fit into the device's memory.
    """
    if not hasattr(base.model, "depth"):
        raise UserError(
            "A coordinate check over depth needs a family with blocks, but the depth of a "
            f"{base.model.family} model is not known. Check it over width."
        )
    if len(set(depths)) < 2:
        raise UserError(
            f"A coordinate check needs at least two different depths, but got {list(depths)}. Set "
            "sweep.vary.depth."
        )
    base_depth = getattr(base.model, "base_depth", None) or min(depths)
    dataset = load_data(base.data, runtime.data_folder)
    eager = dataclasses.replace(runtime, compile=False, graph=False)

    def at_depth(rate: float, depth: int) -> TrialConfig:
        own: dict[str, Any] = {"depth": depth, "base_depth": base_depth}
        model = dataclasses.replace(base.model, width=base.model.base_width, **own)
        return probe_config(dataclasses.replace(base, model=model), rate)

    def check_at(rate: float) -> dict[str, Any]:
        runs = {d: _of_last_block(measured(at_depth(rate, d), dataset, eager)) for d in depths}
        return _record(base, base_depth, runs, rate)

    return {**answer_at_telling_rate(check_at, log2_lr), "asked_log2_lr": log2_lr}


def may_shrink(a: float) -> float:
    """Return by how many octaves per doubling of the depth an output may fall at exponent a."""
    return max(a - 0.5, 1.0 - a)


def _of_last_block(run: WidthMeasurement) -> WidthMeasurement:
    """Return the measurements without those of blocks before the last, which is named alike."""
    numbers = [int(found[1]) for name, _, _ in run.sizes if (found := BLOCK.match(name))]
    last, kept = max(numbers, default=-1), OutputSizes()
    for (name, quantity, step), sizes in run.sizes.items():
        found = BLOCK.match(name)
        if found is None or int(found[1]) == last:
            kept[BLOCK.sub(LAST, name, count=1), quantity, step] = sizes
    return run._replace(sizes=kept)


def _record(
    base: TrialConfig, base_depth: int, runs: dict[int, WidthMeasurement], log2_lr: float
) -> dict[str, Any]:
    """Return the record of measurements by depth, with `depths` where a check over width has
    `widths`.
    """
    own = base.parametrization
    asked = Asked(
        heading={
            "family": base.model.family,
            "parametrization": own.scaling.value,
            "broken": own.broken.value,
            "axis": "depth",
        },
        base_width=base_depth,
        log2_lr=log2_lr,
        seeds=check_seeds(base),
        steps=MEASURED_STEPS,
        readouts=[],
        higher="search.lr.low, search.lr.high",
        causes=lambda outside: (),
        axis="depth",
        may_shrink=may_shrink(own.depth_alpha) if own.scaling in TRANSFERRING else 0.0,
    )
    return coordinate_record(asked, runs)
