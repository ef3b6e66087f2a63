"""MLflow: an experiment per sweep and a run per trial.

MLflow's own variables, such as MLFLOW_TRACKING_URI, hold. Runs are made by MLflow's client, since
MLflow's fluent functions would add the user, the command and the commit.
"""

from __future__ import annotations

import time
from pathlib import Path

from mlflow import MlflowClient, set_experiment  # pyright: ignore[reportMissingImports]
from mlflow.entities import Metric, Param  # pyright: ignore[reportMissingImports]

from hptransfer.sweeping.trackers.run_names import (
    PROJECT,
    Row,
    TrainingCurve,
    TrialTracker,
    parameters,
    run_name,
    scalars,
)

MOST_METRICS, MOST_PARAMS = 900, 100  # in one request; MLflow itself allows 1000 and 100


class MlflowRuns(TrialTracker):
    """The MLflow runs of a sweep; the experiment is made before anything runs."""

    def __init__(self, folder: Path, sweep_name: str) -> None:
        self._experiment = set_experiment(f"{PROJECT}-{sweep_name}").experiment_id
        self._client = MlflowClient()

    def row(self, row: Row, curve: TrainingCurve) -> None:
        """Send a trial as a finished run."""
        run = self._client.create_run(self._experiment, run_name=run_name(row)).info.run_id
        now = int(time.time() * 1000)
        metrics = [Metric(name, value, now, step) for name, step, value in scalars(row, curve)]
        params = [Param(name, str(value)) for name, value in parameters(row).items()]
        for first in range(0, len(params), MOST_PARAMS):
            self._client.log_batch(run, params=params[first : first + MOST_PARAMS])
        for first in range(0, len(metrics), MOST_METRICS):
            self._client.log_batch(run, metrics=metrics[first : first + MOST_METRICS])
        self._client.set_terminated(run, status="FINISHED")
