"""Weights & Biases: a run per trial in the project `hptransfer`, grouped by sweep.

W&B's own variables hold, such as WANDB_PROJECT, WANDB_ENTITY and WANDB_MODE=offline. Nothing about
this machine is sent: no command line, no code, no commit, no output.
"""

from __future__ import annotations

import os
from pathlib import Path

import wandb  # pyright: ignore[reportMissingImports]

from hptransfer.sweeping.trackers.run_names import (
    PROJECT,
    Row,
    TrainingCurve,
    TrialTracker,
    curve_scalars,
    parameters,
    run_name,
)


class WandbRuns(TrialTracker):
    """The W&B runs of a sweep; the login is verified before anything runs."""

    def __init__(self, folder: Path, sweep_name: str) -> None:
        wandb.login(verify=True)  # raises where there is no valid key; offline it asks for none
        self._folder, self._sweep_name = folder, sweep_name

    def row(self, row: Row, curve: TrainingCurve) -> None:
        """Send a trial as a finished run."""
        run = wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            group=self._sweep_name,
            name=run_name(row),
            config=parameters(row),
            dir=str(self._folder),
            settings=wandb.Settings(
                silent=True,
                console="off",
                disable_git=True,
                disable_code=True,
                x_disable_meta=True,
                x_disable_stats=True,
            ),
        )
        for name, step, value in curve_scalars(curve):
            run.log({name: value}, step=step)
        run.summary.update({"status": row["status"], "loss": row["loss"]})
        run.finish()
