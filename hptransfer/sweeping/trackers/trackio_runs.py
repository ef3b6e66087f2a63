"""trackio: a run per trial in the project `hptransfer`, grouped by sweep.

`trackio show` draws them. TRACKIO_SPACE_ID sends them to a Space, as ever.
"""

from __future__ import annotations

import sys
from contextlib import redirect_stdout
from pathlib import Path

import trackio  # pyright: ignore[reportMissingImports]

from hptransfer.sweeping.trackers.run_names import (
    PROJECT,
    Curve,
    Row,
    finite,
    last_step,
    parameters,
    run_name,
)


class TrackioRuns:
    """Runs of a sweep."""

    def __init__(self, folder: Path, sweep_name: str) -> None:
        self._sweep_name = sweep_name

    def row(self, row: Row, curve: Curve) -> None:
        """Send a trial as a finished run."""
        with redirect_stdout(sys.stderr):  # it prints, and stdout holds only what a command answers
            run = trackio.init(
                project=PROJECT,
                name=f"{self._sweep_name}/{run_name(row)}",
                group=self._sweep_name,
                config=parameters(row),
                embed=False,
            )
            for step, loss in finite(curve):
                run.log({"train_loss": loss}, step=step)
            if row["loss"] is not None:
                run.log({"loss": row["loss"]}, step=last_step(curve))
            run.finish()

    def close(self) -> None:
        """Nothing stays open between trials."""
