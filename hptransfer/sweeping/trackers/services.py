"""Tracking services, each with a run per trial; their packages are imported where they are asked.

- Weights & Biases: the project `hptransfer`, grouped by sweep. W&B's own variables hold, such as
  WANDB_PROJECT, WANDB_ENTITY and WANDB_MODE=offline. Nothing about this machine is sent: no command
  line, no code, no commit, no output.
- MLflow: an experiment per sweep. MLflow's own variables hold, such as MLFLOW_TRACKING_URI. Runs
  are made by MLflow's client, since its fluent functions would add the user, the command and the
  commit.
- trackio: the project `hptransfer`, grouped by sweep; `trackio show` draws the runs. With
  TRACKIO_SPACE_ID they are sent to a Space.
"""

from __future__ import annotations

import os
import sys
import time
from contextlib import redirect_stdout
from pathlib import Path

from hptransfer.sweeping.trackers.run_names import (
    Row,
    TrainingCurve,
    curve_scalars,
    parameters,
    run_name,
    scalars,
)

# pyright: reportMissingImports=false

PROJECT = "hptransfer"
MOST_METRICS, MOST_PARAMS = 900, 100  # in one request; MLflow itself allows 1000 and 100


class Service:
    """A tracker that sends every trial as one finished run, so nothing is open between trials."""

    def __init__(self, folder: Path, sweep_name: str) -> None:
        self._folder, self._sweep_name = folder, sweep_name

    def row(self, row: Row, curve: TrainingCurve) -> None:
        """Send a trial as a finished run."""
        raise NotImplementedError

    def close(self) -> None:
        """Do nothing."""


class WandbRuns(Service):
    """The W&B runs of a sweep; the login is verified before anything runs."""

    def __init__(self, folder: Path, sweep_name: str) -> None:
        import wandb

        super().__init__(folder, sweep_name)
        wandb.login(verify=True)  # raises where there is no valid key; offline it asks for none
        self._wandb = wandb

    def row(self, row: Row, curve: TrainingCurve) -> None:
        """Send a trial as a finished run."""
        run = self._wandb.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            group=self._sweep_name,
            name=run_name(row),
            config=parameters(row),
            dir=str(self._folder),
            settings=self._wandb.Settings(
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


class MlflowRuns(Service):
    """The MLflow runs of a sweep; the experiment is made before anything runs."""

    def __init__(self, folder: Path, sweep_name: str) -> None:
        import mlflow

        super().__init__(folder, sweep_name)
        self._experiment = mlflow.set_experiment(f"{PROJECT}-{sweep_name}").experiment_id
        self._client = mlflow.MlflowClient()

    def row(self, row: Row, curve: TrainingCurve) -> None:
        """Send a trial as a finished run."""
        from mlflow.entities import Metric, Param

        run = self._client.create_run(self._experiment, run_name=run_name(row)).info.run_id
        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, step, value in scalars(row, curve)]
        params = [Param(name, str(value)) for name, value in parameters(row).items()]
        for first in range(0, len(params), MOST_PARAMS):
            self._client.log_batch(run, params=params[first : first + MOST_PARAMS])
        for first in range(0, len(metrics), MOST_METRICS):
            self._client.log_batch(run, metrics=metrics[first : first + MOST_METRICS])
        self._client.set_terminated(run, status="FINISHED")


class TrackioRuns(Service):
    """The trackio runs of a sweep."""

    def __init__(self, folder: Path, sweep_name: str) -> None:
        import trackio

        super().__init__(folder, sweep_name)
        self._trackio = trackio

    def row(self, row: Row, curve: TrainingCurve) -> None:
        """Send a trial as a finished run."""
        with redirect_stdout(sys.stderr):  # trackio prints; stdout holds only a command's answer
            run = self._trackio.init(
                project=PROJECT,
                name=f"{self._sweep_name}/{run_name(row)}",
                group=self._sweep_name,
                config=parameters(row),
                embed=False,
            )
            for name, step, value in scalars(row, curve):
                run.log({name: value}, step=step)
            run.finish()


SERVICES = {"wandb": WandbRuns, "mlflow": MlflowRuns, "trackio": TrackioRuns}
