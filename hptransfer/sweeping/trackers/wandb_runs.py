"""Weights & Biases: a run per trial in the project `hptransfer`, grouped by sweep.

WANDB_PROJECT, WANDB_ENTITY, WANDB_MODE=offline and its other variables work as ever. Of this
machine it is told nothing: no command line, no code, no commit, no output.
"""

from __future__ import annotations

import os
from pathlib import Path

import wandb  # pyright: ignore[reportMissingImports]

from hptransfer.sweeping.trackers.run_names import PROJECT, Curve, Row, finite, parameters, run_name


class WandbRuns:
    """Runs of a sweep; the login is verified before anything runs."""

    def __init__(self, folder: Path, sweep_name: str) -> None:
        wandb.login(verify=True)  # raises where there is no valid key; offline it asks for none
        self._folder, self._sweep_name = folder, sweep_name

    def row(self, row: Row, curve: Curve) -> None:
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
        for step, loss in finite(curve):
            run.log({"train_loss": loss}, step=step)
        run.summary.update({"status": row["status"], "loss": row["loss"]})
        run.finish()

    def close(self) -> None:
        """Nothing stays open between trials."""
