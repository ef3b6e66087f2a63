"""A results folder of any size without training: invented losses in rows as the sweep writes them.

Loss over θ is a basin that rises less steeply to the left than to the right and ends in a cliff.
Its optimum is constant under µP and falls with width in the other arms. Nothing here is a result.
"""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np

from hptransfer.analysis.answer.realised import realised_regret
from hptransfer.config import RuntimeConfig, TrialConfig
from hptransfer.config.choices import Scaling, Status
from hptransfer.config.compose.compose import (
    compose_file,
    resolved_yaml,
    shipped_folder,
    sweep_config,
)
from hptransfer.config.hyperparameters import HYPERPARAMETERS, hps
from hptransfer.config.identity import arm_of, with_scaling
from hptransfer.config.sweep import SweepConfig
from hptransfer.results.folder import ResultsFolder, write_json
from hptransfer.results.ledger_rows import LEDGER_NAME, encode_row, ledger_row
from hptransfer.results.provenance import provenance
from hptransfer.results.table import rows_table
from hptransfer.results.trial_result import TrialResult
from hptransfer.sweeping.design.trials import realised as target_trials
from hptransfer.sweeping.design.trials import wanted
from hptransfer.sweeping.run.job import central_log2_lr
from hptransfer.system.files import write_text
from hptransfer.training.flops import trial_flops
from hptransfer.training.packs.coordinate_check import coordinate_check

# Four widths, three arms that share the base width, twenty rates: 200 rows for each seed.
ROWS_PER_SEED = 200
SHAPE = (
    "sweep.widths=[24,48,96,192]",
    "sweep.parametrizations=[mup,standard,standard_embed]",
    "sweep.target.model.width=384",
    "search.lr.low=-11",
    "search.lr.high=-1.5",
    "search.lr.step=0.5",
)
DRIFT = {"shared": 0.0, "mup": 0.0, "standard": -0.7, "standard_embed": -0.9}  # octaves/doubling
OPTIMUM = -6.0  # log2 of the best rate at base width
RISE = (0.02, 0.07)  # of the loss per squared octave, to the left and to the right
CLIFF = 2.75  # octaves from the optimum to the first rate that diverges, on average
LOSS_AT_INIT = 1.9
NOISE = 0.002  # sd of the loss within a seed; a seed's own offset has the same


def write_folder(folder: Path, rows: int) -> ResultsFolder:
    """Write sweep, ledger, coordinate check and the target's own answer: all that `plot` draws."""
    if rows % ROWS_PER_SEED:
        raise SystemExit(f"--rows must be a multiple of {ROWS_PER_SEED}, but got {rows}.")
    seeds = f"sweep.seeds={list(range(rows // ROWS_PER_SEED))}".replace(" ", "")
    composed = compose_file(shipped_folder("sweeps") / "quickstart.yaml", [*SHAPE, seeds])
    sweep = sweep_config(composed)
    written = ResultsFolder(folder)
    write_text(written.sweep_file, resolved_yaml(composed, name=sweep.name))
    trials = list(wanted(sweep).values())
    assert len(trials) == rows, "the sweep's shape gives ROWS_PER_SEED rows for each seed"
    lines = rows_of(trials, sweep)
    (folder / LEDGER_NAME).write_bytes(b"".join(encode_row(line) for line in lines))
    _write_check(written, sweep)
    _write_realised(written, sweep)
    return written


def rows_of(trials: list[TrialConfig], sweep: SweepConfig) -> list[dict]:
    """Return the rows of a sweep's trials, with invented losses."""
    rng = np.random.default_rng(0)
    made_by = provenance()
    pairs = sorted({(config.model.width, config.seed) for config in trials})
    offsets = {pair: float(rng.normal(0, NOISE)) for pair in pairs}
    return [
        ledger_row(
            _result(config, offsets[config.model.width, config.seed], rng),
            hps(config, sweep.axes),
            made_by,
        )
        for config in trials
    ]


def _result(config: TrialConfig, offset: float, rng: np.random.Generator) -> TrialResult:
    doublings = math.log2(config.width_mult)
    distance = HYPERPARAMETERS["lr"].log2(config) - OPTIMUM - DRIFT[arm_of(config)] * doublings
    floor = 0.5 * 2 ** (-0.12 * doublings)
    room = LOSS_AT_INIT - floor
    rise = RISE[distance > 0] * distance**2
    loss = floor + room * (1 - math.exp(-rise / room)) + offset + float(rng.normal(0, NOISE))
    died = distance > CLIFF + float(rng.normal(0, 0.2))
    return TrialResult(
        config=config,
        status=Status.diverged if died else Status.completed,
        loss=None if died else loss,
        loss_at_init=LOSS_AT_INIT,
        train_loss=None if died else loss,
        diverged_at_step=config.budget.steps // 3 if died else None,
        clipped_share=0.0,
        flops=trial_flops(config),
        seconds=0.01 * config.model.width,
        device="cpu",
    )


def _write_check(folder: ResultsFolder, sweep: SweepConfig) -> None:
    """Write a real coordinate check of the µP arm."""
    base = with_scaling(sweep.base, Scaling.mup)
    answer = coordinate_check(base, sweep.widths, central_log2_lr(sweep), RuntimeConfig())
    write_json(folder.check_file, {"checks": [answer]})


def _write_realised(folder: ResultsFolder, sweep: SweepConfig) -> None:
    """Write what invented rows of the target say about the transferred rate."""
    assert sweep.target is not None, "the quickstart names a target"
    rows = rows_of(list(target_trials(sweep, sweep.target, {"log2_lr": OPTIMUM})), sweep)
    answer = realised_regret(
        rows_table(rows),
        transferred=OPTIMUM,
        predicted={"mean": 0.001, "low": 0.0, "high": 0.003},
        hp="log2_lr",
        width=sweep.target.model.width,
    )
    write_json(folder.realised_file, answer)
