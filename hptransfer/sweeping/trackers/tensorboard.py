"""TensorBoard: `tensorboard --logdir <folder>/tensorboard`.

A trial is a run named `<arm>/w<width>/<HPs>,seed=<seed>`. Its curve is the scalar `train_loss`; its
HPs and deciding loss are in the HPARAMS view, whose scatter plot shows the loss over a swept HP.
Only the first `TRIAL_RUNS` trials of a folder are runs of their own. All trials count in the run
`sweep/<start>`, one per command: rows by status, and the best loss so far of each arm and width.

Events are written by tensorboardX's `EventsWriter` in the caller's thread, since tensorboardX's
`SummaryWriter` would write them in a thread that hides a full disk.
"""

from __future__ import annotations

import math
import time
from collections import Counter
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from pathlib import Path

from tensorboardX.event_file_writer import EventsWriter
from tensorboardX.proto.event_pb2 import (
    Event,  # pyright: ignore[reportAttributeAccessIssue]
    SessionLog,  # pyright: ignore[reportAttributeAccessIssue]
)
from tensorboardX.proto.summary_pb2 import Summary  # pyright: ignore[reportAttributeAccessIssue]
from tensorboardX.summary import hparams

from hptransfer.sweeping.trackers.run_names import (
    TRIAL_RUNS,
    Row,
    Scalar,
    TrainingCurve,
    run_name,
    scalars,
    summary,
)
from hptransfer.system.files import require_inside


class TensorBoard:
    """The event files of a sweep, under its folder."""

    def __init__(self, folder: Path) -> None:
        self._root = folder / "tensorboard"
        require_inside(folder, self._root)
        self._trials = sum(1 for _ in self._root.glob("*/w*/*"))
        self._counts: Counter[str] = Counter()
        self._best: dict[str, float] = {}
        self._sweep: EventsWriter | None = None  # opened at the first row

    def row(self, row: Row, curve: TrainingCurve) -> None:
        """Write a trial's run, and count it in the sweep's."""
        if self._trials < TRIAL_RUNS:
            self._trials += 1
            self._trial(row, curve)
        if self._sweep is None:
            start = datetime.now(UTC).strftime("%Y-%m-%dT%H-%M-%S")
            self._sweep = _writer(self._root / "sweep" / start)
        self._counts.update(["rows", row["status"]])
        step = self._counts["rows"]
        _write(self._sweep, [(name, step, count) for name, count in self._counts.items()])
        cell = f"best_loss/{row['parametrization']}/w{row['width']}"
        if row["loss"] is not None:
            self._best[cell] = min(self._best.get(cell, math.inf), row["loss"])
            _write(self._sweep, [(cell, step, self._best[cell])])
        self._sweep.flush()

    def close(self) -> None:
        """Close the sweep's run."""
        if self._sweep is not None:
            self._sweep.close()

    def _trial(self, row: Row, curve: TrainingCurve) -> None:
        run = _writer(self._root / run_name(row))
        for part in hparams(summary(row), {"loss": row["loss"]}):
            run.write_event(Event(summary=part))
        _write(run, scalars(row, curve))
        run.close()


class RunBoard:
    """The scalars of one training run, under the run's folder; a step's are written once."""

    def __init__(self, folder: Path) -> None:
        self._root = folder / "tensorboard"
        require_inside(folder, self._root)
        self._events: EventsWriter | None = None  # opened at the first scalars

    def write(self, step: int, values: Mapping[str, float | None]) -> None:
        """Write the scalars of a step.

        After a restart from a checkpoint, TensorBoard no longer shows what an earlier process wrote
        of later steps.
        """
        if self._events is None:
            self._events = _writer(self._root)
            start = SessionLog(status=SessionLog.START)
            self._events.write_event(Event(step=step, wall_time=time.time(), session_log=start))
        known = [(name, step, value) for name, value in values.items() if value is not None]
        _write(self._events, known)
        self._events.flush()

    def close(self) -> None:
        """Close the file of events."""
        if self._events is not None:
            self._events.close()


def _write(writer: EventsWriter, values: Iterable[Scalar]) -> None:
    for tag, step, value in values:
        part = Summary(value=[Summary.Value(tag=tag, simple_value=value)])
        writer.write_event(Event(step=step, wall_time=time.time(), summary=part))


def _writer(folder: Path) -> EventsWriter:
    folder.mkdir(parents=True, exist_ok=True)
    return EventsWriter(str(folder / "events"))
