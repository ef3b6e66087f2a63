"""Rows as a sweep records them, without training."""

from __future__ import annotations

import dataclasses
from pathlib import Path

from hptransfer.config import TrialConfig
from hptransfer.config.choices import Status
from hptransfer.config.compose.compose import compose_file, resolved_yaml, sweep_config
from hptransfer.config.hyperparameters import hps, with_hyperparameters
from hptransfer.results import curves, ledger_rows, ledger_writer
from hptransfer.results.folder import ResultsFolder
from hptransfer.results.trial_result import TrialResult
from hptransfer.sweeping.design.trials import wanted
from tests.support.tiny import TINY_SWEEP, completed

PROVENANCE = {
    "commit": "0123456789abcdef0123456789abcdef01234567",
    "hptransfer": "0.1.0",
    "torch": "2.14.1",
    "time": "2026-11-22T21:31:00Z",
}
HPS = {"log2_lr": -7.5}


def result(seed: int = 0, **changes: object) -> TrialResult:
    config = dataclasses.replace(with_hyperparameters(TrialConfig(), HPS), seed=seed)
    finished = completed(
        config,
        loss=0.6123456954956055 + seed,
        loss_at_init=1.002,
        train_loss=0.7,
        clipped_share=0.125,
        flops=1.5e12,
        seconds=1.25,
    )
    return dataclasses.replace(finished, **changes)


def diverged(seed: int) -> TrialResult:
    return result(seed, status=Status.diverged, loss=None, train_loss=None, diverged_at_step=7)


def make_row(seed: int = 0, **changes: object) -> dict:
    return ledger_rows.ledger_row(result(seed, **changes), HPS, PROVENANCE)


def write_rows(folder: Path, count: int) -> Path:
    with ledger_writer.LedgerWriter(folder) as writer:
        writer.append([make_row(seed) for seed in range(count)])
    return folder / "ledger.jsonl"


def write_sweep(folder: Path, *overrides: str) -> tuple[ResultsFolder, list[dict]]:
    """Write the tiny sweep's folder without a ledger; return it with the rows that it wants."""
    folder.mkdir(parents=True)
    source = folder / "sweep.yaml"
    source.write_text(TINY_SWEEP)
    composed = compose_file(source, list(overrides))
    sweep = sweep_config(composed)
    source.write_text(resolved_yaml(composed, name=sweep.name))
    rows = [
        ledger_rows.ledger_row(result(config=config), hps(config, sweep.axes), PROVENANCE)
        for config in wanted(sweep).values()
    ]
    return ResultsFolder(folder), rows


def append_rows(folder: Path, rows: list[dict]) -> None:
    """Append rows, each with a curve."""
    with ledger_writer.LedgerWriter(folder) as writer:
        for row in rows:
            curves.write_curve(folder, row["trial_key"], [(1, 0.5)])
        writer.append(rows)
