"""The trial as a trainer that is not ours sees it, and what such a trainer reports.

Every trial has a folder, which is the same in every attempt at the trial. hptransfer writes
`trial.json` there and names it in the environment variable HPTRANSFER_TRIAL. The trainer may keep a
checkpoint in the folder, and what it reports is a line each of `reports.jsonl`.
"""

from __future__ import annotations

import json
import math
import os
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from hptransfer.errors import UserError, abbreviate
from hptransfer.training.stopping import is_hopeless

VARIABLE = "HPTRANSFER_TRIAL"  # the environment variable with the path of trial.json
TRIAL_FILE, REPORTS_FILE = "trial.json", "reports.jsonl"


@dataclass(frozen=True)
class Trial:
    """One trial of a sweep, for the function or the program that trains it."""

    width: int  # of the model that this trial trains
    base_width: int | None  # the width at which the parametrization changes nothing
    depth: int | None  # `fixed.depth`, if the sweep gives it
    seed: int  # for the random numbers of the trainer
    parametrization: str  # the arm; `trainer` where the sweep names none
    hps: Mapping[str, float]  # the searched hyperparameters by name: values, not log2
    fixed: Mapping[str, Any]  # the section `fixed` of the sweep
    folder: Path  # of this trial, the same in every attempt at it
    trial_key: str  # 12 hex digits, which follow from all that the trial is told
    stop_hopeless: bool = False  # `train.stop_hopeless`
    hosts: tuple[str, ...] = ("localhost",)  # addresses of the trial's nodes, this one first
    _losses: dict[int, float] = field(default_factory=dict, repr=False, compare=False)  # by step

    @classmethod
    def current(cls) -> Trial:
        """Return the trial that this process is to train, in a program that a sweep has started.

        Raises:
            UserError: no sweep has started this program.
        """
        path = os.environ.get(VARIABLE)
        if not path:
            raise UserError(
                "hptransfer.Trial.current() needs a program that `hptransfer sweep` has started, "
                f"but the environment variable {VARIABLE} is not set. Name the program in "
                "`train.command` of a sweep."
            )
        return cls.read(Path(path))

    @classmethod
    def read(cls, path: Path) -> Trial:
        """Return the trial that a trial.json describes."""
        told = json.loads(path.read_text(encoding="utf-8"))
        names = ("width", "base_width", "depth", "seed", "parametrization", "hps", "fixed")
        fields = {name: told[name] for name in (*names, "trial_key", "stop_hopeless")}
        trial = cls(**fields, folder=Path(told["folder"]), hosts=tuple(told["hosts"]))
        trial._losses.update(read_reports(trial.folder / REPORTS_FILE).losses)
        return trial

    @property
    def checkpoint(self) -> Path:
        """The path at which the trainer may keep its state, a file or a folder.

        Where it exists when a trial begins, an earlier attempt was interrupted: go on from it.
        """
        return self.folder / "checkpoint"

    @property
    def should_stop(self) -> bool:
        """Whether the trial should end now, since its reported losses rose and stay high.

        This is only so with `train.stop_hopeless`. The trial then counts as stopped, whatever it
        answers.
        """
        return self.stop_hopeless and gave_up_at(list(self._losses.values())) is not None

    def report(self, step: int, loss: float | None = None, **metrics: float) -> None:
        """Report the loss and other numbers after a training step.

        The losses make the trial's curve. A loss that is not finite ends the trial as diverged.
        Where the trainer gives no other answer, the last reported loss is the trial's result. A
        loss takes back those of later steps, which an attempt has reported that was interrupted.
        In a program of several processes (torchrun) only that of rank 0 reports.

        Args:
            step: optimizer steps taken so far.
            loss: the measure that the sweep is to minimise, for example a validation loss.
            metrics: further numbers, kept beside the loss.
        """
        if os.environ.get("RANK", "0") != "0":
            return
        numbers = {name: as_number(name, value) for name, value in metrics.items()}
        if loss is not None:
            numbers["loss"] = as_number("loss", loss)
            take_loss(self._losses, int(step), numbers["loss"])
        line = json.dumps({"step": int(step), **numbers})
        with (self.folder / REPORTS_FILE).open("a", encoding="utf-8") as file:
            file.write(line + "\n")

    def param_groups(self, model: Any, **settings: Any) -> list[dict[str, Any]]:
        """Return the optimizer's groups of a model that `hptransfer.mup.build` built.

        See `hptransfer.mup.param_groups`, which gets the same arguments.
        """
        import hptransfer

        return hptransfer.mup.param_groups(model, **settings)


def report(step: int, loss: float | None = None, **metrics: float) -> None:
    """Report from a program that a sweep has started; see `hptransfer.Trial.report`.

    In a program that no sweep has started it does nothing, so that the program also runs alone.

    Example:
        >>> hptransfer.report(100, loss=0.52, accuracy=0.81)
    """
    global _CURRENT
    if not os.environ.get(VARIABLE):
        return
    if _CURRENT is None:
        _CURRENT = Trial.current()
    _CURRENT.report(step, loss, **metrics)


_CURRENT: Trial | None = None  # the trial of this process, once it has reported


def as_number(name: str, value: Any) -> float:
    """Return a number as a float: Python's, numpy's, or a tensor of one element.

    Raises:
        UserError: it is no number.
    """
    try:
        if isinstance(value, str | bytes | bool) or value is None:
            raise TypeError
        return float(value)
    except (TypeError, ValueError, RuntimeError, OverflowError):
        raise UserError(f"`{name}` must be a number, but got {abbreviate(value)}.") from None


def gave_up_at(losses: Sequence[float]) -> int | None:
    """Return the index of the first loss at which a curve is hopeless; None where it never is.

    The first loss stands for the loss before training.
    """
    if len(losses) < 2 or not losses[0] > 0:
        return None
    highest = losses[0]
    for last, loss in enumerate(losses):
        highest = max(highest, loss)
        if is_hopeless((highest, loss), losses[0]):
            return last
    return None


@dataclass(frozen=True)
class Reports:
    """What a trial has reported so far, without what a later report has taken back."""

    losses: tuple[tuple[int, float], ...] = ()  # (step, loss), ascending
    metrics: Mapping[str, float] = field(default_factory=dict)  # the last value of each

    @property
    def diverged_at(self) -> int | None:
        """The first step with a loss that is not finite."""
        return next((step for step, loss in self.losses if not math.isfinite(loss)), None)

    @property
    def hopeless_at(self) -> int | None:
        """The first step at which the losses had risen and stayed high."""
        at = gave_up_at([loss for _, loss in self.losses])
        return None if at is None else self.losses[at][0]


def take_loss(losses: dict[int, float], step: int, loss: float) -> None:
    """Add a reported loss to those by step, in ascending order of the steps.

    A loss takes back those of later steps: a trainer that reports an earlier step has gone back.
    """
    for other in reversed(list(losses)):
        if other < step:
            break
        del losses[other]
    losses[step] = loss


class ReportsReader:
    """Reads what a trial has reported, and only once what it has read before.

    Args:
        path: of the file of reports, which need not be there yet.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._read_bytes = 0
        self._losses: dict[int, float] = {}
        self._metrics: dict[str, float] = {}

    def read(self) -> Reports:
        """Return what is reported so far; lines that are no reports are left out."""
        for line in self._more().decode("utf-8", errors="replace").splitlines():
            found = report_of(line)
            if found is not None:
                step, numbers = found
                if "loss" in numbers:
                    take_loss(self._losses, step, numbers["loss"])
                self._metrics |= {k: value for k, value in numbers.items() if k != "loss"}
        return Reports(tuple(self._losses.items()), dict(self._metrics))

    def _more(self) -> bytes:
        """Return the whole lines that were written since the last call."""
        try:
            with self._path.open("rb") as file:
                file.seek(self._read_bytes)
                lines = file.read()
        except FileNotFoundError:
            return b""
        lines = lines[: lines.rfind(b"\n") + 1]
        self._read_bytes += len(lines)
        return lines


def read_reports(path: Path) -> Reports:
    """Return what a trial has reported; lines that are no reports are left out."""
    return ReportsReader(path).read()


def report_of(line: str) -> tuple[int, dict[str, float]] | None:
    """Return the step and the numbers of a JSON line with a step; None of any other line."""
    told = json_line(line)
    step = None if told is None else told.get("step")
    if told is None or isinstance(step, bool) or not isinstance(step, int | float):
        return None
    if isinstance(step, float) and not step.is_integer():
        return None
    return int(step), numbers_of({k: v for k, v in told.items() if k != "step"})


def json_line(line: str) -> dict[str, Any] | None:
    """Return the JSON object that a line of text is; None where it is none."""
    if not line.lstrip().startswith("{"):
        return None
    try:
        told = json.loads(line)
    except (ValueError, RecursionError):
        return None
    return told if isinstance(told, dict) else None


def numbers_of(told: Mapping[str, Any]) -> dict[str, float]:
    """Return the entries of a mapping that are numbers."""
    numbers = {}
    for name, value in told.items():
        if isinstance(value, int | float) and not isinstance(value, bool):
            with suppress(OverflowError):  # a whole number that no float holds
                numbers[str(name)] = float(value)
    return numbers
