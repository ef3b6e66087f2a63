"""MLflow: an experiment per sweep, a run per trial; MLFLOW_TRACKING_URI and its like work as ever.

The client is used and not the fluent functions, which add the user, the command and the commit.
"""

from __future__ import annotations

import time
from pathlib import Path

from mlflow import MlflowClient, set_experiment  # pyright: ignore[reportMissingImports]
from mlflow.entities import Metric, Param  # pyright: ignore[reportMissingImports]

from hptransfer.sweeping.trackers.run_names import (
    PROJECT,
    Curve,
    Row,
    finite,
    last_step,
    parameters,
    run_name,
)

MOST_METRICS, MOST_PARAMS = 900, 100  # of one request, by MLflow's own limits


class MlflowRuns:
    """Runs of a sweep; the experiment is made before anything runs."""

    def __init__(self, folder: Path, sweep_name: str) -> None:
        self._experiment = set_experiment(f"{PROJECT}-{sweep_name}").experiment_id
        self._client = MlflowClient()

    def row(self, row: Row, curve: Curve) -> None:
        """Send a trial as a finished run."""
        run = self._client.create_run(self._experiment, run_name=run_name(row)).info.run_id
        now = int(time.time() * 1000)
        metrics = [Metric("train_loss", loss, now, step) for step, loss in finite(curve)]
        if row["loss"] is not None:
            metrics.append(Metric("loss", row["loss"], now, last_step(curve)))
        params = [Param(name, str(value)) for name, value in parameters(row).items()]
        for first in range(0, len(params), MOST_PARAMS):
            self._client.log_batch(run, params=params[first : first + MOST_PARAMS])
        for first in range(0, len(metrics), MOST_METRICS):
            self._client.log_batch(run, metrics=metrics[first : first + MOST_METRICS])
        self._client.set_terminated(run, status="FINISHED")

    def close(self) -> None:
        """Nothing stays open between trials."""
