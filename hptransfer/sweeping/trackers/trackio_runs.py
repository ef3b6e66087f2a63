"""trackio: a run per trial in the project `hptransfer`, grouped by sweep.

`trackio show` draws the runs. With TRACKIO_SPACE_ID they are sent to a Space.
"""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path

import trackio  # pyright: ignore[reportMissingImports]

from hptransfer.sweeping.trackers.run_names import (
    PROJECT,
    Row,
    TrainingCurve,
    TrialTracker,
    parameters,
    run_name,
    scalars,
)


class TrackioRuns(TrialTracker):
    """The trackio runs of a sweep."""

    def __init__(self, folder: Path, sweep_name: str) -> None:
        self._sweep_name = sweep_name

    def row(self, row: Row, curve: TrainingCurve) -> None:
        """Send a trial as a finished run."""
        with redirect_stdout(sys.stderr):  # trackio prints; stdout holds only a command's answer
            run = trackio.init(
                project=PROJECT,
                name=f"{self._sweep_name}/{run_name(row)}",
                group=self._sweep_name,
                config=parameters(row),
                embed=False,
            )
            for name, step, value in scalars(row, curve):
                run.log({name: value}, step=step)
            run.finish()
