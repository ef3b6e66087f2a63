"""How far a sweep is, on stderr: a live table in a terminal, sparse plain lines elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hptransfer.config import TrialConfig
from hptransfer.identity import arm_of
from hptransfer.outcome import TrialResult
from hptransfer.questions import HYPERPARAMETERS
from hptransfer.vocabulary import Status

# Least seconds between two plain lines; the first and the last pack always get one.
PLAIN_SECONDS = 5.0
REFRESHES_PER_SECOND = 4


class Display(Enum):
    """How progress is shown."""

    live = "live"
    plain = "plain"
    quiet = "quiet"


def choose_display(*, quiet: bool) -> Display:
    """Choose the live table only where stderr is a terminal."""
    if quiet:
        return Display.quiet
    return Display.live if sys.stderr.isatty() else Display.plain


@dataclass
class Tally:
    """What is known of the trials of one arm at one width."""

    left: int = 0  # to run, running ones included
    running: int = 0
    finished: int = 0
    diverged: int = 0
    seconds: float = 0.0  # of the finished trials, summed
    best: TrialResult | None = None

    def add(self, result: TrialResult) -> None:
        """Count a finished trial."""
        self.finished += 1
        self.seconds += result.seconds
        self.diverged += result.status is Status.diverged
        if result.loss is not None and (self.best is None or result.loss < self.best_loss):
            self.best = result

    @property
    def best_loss(self) -> float:
        """The least loss so far; infinite if no trial has completed."""
        return math.inf if self.best is None or self.best.loss is None else self.best.loss


def say(text: str, *, quiet: bool) -> None:
    """Print a line on stderr, where a sweep's progress goes, unless quiet."""
    if not quiet:
        Console(stderr=True, highlight=False).print(text, markup=False, soft_wrap=True)


Cell = tuple[str, int]  # arm and width


def cell_of(config: TrialConfig) -> Cell:
    """Say which row of the table a trial belongs to."""
    return arm_of(config), config.model.width


def seconds_left(tallies: Mapping[Cell, Tally], *, unplanned: int = 0) -> float | None:
    """Estimate the compute of the trials left; None before anything has finished.

    Seconds per trial are those measured at the same arm and width, else those of the nearest
    measured width, taken as proportional to the width. `unplanned` trials, of which nothing is
    known, take the mean of all that finished.
    """
    measured = {
        cell: tally.seconds / tally.finished for cell, tally in tallies.items() if tally.finished
    }
    if not measured:
        return None
    finished = sum(tally.finished for tally in tallies.values())
    work = unplanned * sum(tally.seconds for tally in tallies.values()) / finished
    for cell, tally in tallies.items():
        width = cell[1]
        nearest = min(measured, key=lambda other: (other != cell, abs(other[1] - width)))
        work += tally.left * measured[nearest] * width / nearest[1]
    return work


def time_text(seconds: float) -> str:
    """Write a duration in the coarsest unit that still says something."""
    if seconds < 90:
        return f"{max(round(seconds), 1)} s"
    minutes = round(seconds / 60)
    return f"{minutes} min" if minutes < 90 else f"{minutes // 60} h {minutes % 60:02d} min"


class Progress:
    """Shows a sweep's progress, for use in a `with` block.

    Args:
        total: trials of the sweep.
        done: those that have a row already.
        packs: what is about to run, if known; it makes the time left more exact.
        display: how to show it; None: by `quiet`, and live only in a terminal.
    """

    def __init__(
        self,
        total: int,
        done: int,
        *,
        quiet: bool = False,
        packs: Iterable[Sequence[TrialConfig]] = (),
        display: Display | None = None,
    ) -> None:
        self.total = total
        self.done = done
        self.tallies: dict[Cell, Tally] = {}
        for cell in sorted(cell_of(config) for pack in packs for config in pack):
            self._tally(cell).left += 1
        self._running: dict[int, list[Cell]] = {}
        self._packs_at_a_time = 1
        self._line_at = -math.inf
        self._display = display or choose_display(quiet=quiet)
        self._console = Console(stderr=True, highlight=False)
        # Through stdout goes nothing but what a command answers.
        self._live = Live(
            get_renderable=self.table,
            console=self._console,
            refresh_per_second=REFRESHES_PER_SECOND,
            redirect_stdout=False,
        )

    def __enter__(self) -> Self:
        if self._display is Display.live:
            self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        if self._display is Display.live:
            self._live.stop()

    def note(self, text: str) -> None:
        """Print a sentence the user must see, also when quiet."""
        self._console.print(text, markup=False, soft_wrap=True)

    def started(self, pack_index: int, configs: Sequence[TrialConfig]) -> None:
        """Count a pack as running; a pack that is handed out again counts once."""
        if pack_index in self._running:
            return
        self._running[pack_index] = [cell_of(config) for config in configs]
        for cell in self._running[pack_index]:
            self._tally(cell).running += 1
        self._packs_at_a_time = max(self._packs_at_a_time, len(self._running))

    def finished(self, pack_index: int, results: Sequence[TrialResult]) -> None:
        """Count a pack as finished, with the results that are new; print a line if one is due."""
        for cell in self._running.pop(pack_index):
            tally = self._tally(cell)
            tally.running -= 1
            tally.left = max(tally.left - 1, 0)
        for result in results:
            self._tally(cell_of(result.config)).add(result)
        self.done += len(results)
        due = time.monotonic() - self._line_at >= PLAIN_SECONDS or self.done >= self.total
        if self._display is Display.plain and due:
            self._line_at = time.monotonic()
            self._console.print(self.line(), markup=False, soft_wrap=True)

    def _tally(self, cell: Cell) -> Tally:
        return self.tallies.setdefault(cell, Tally())

    def line(self) -> str:
        """Say in one line how far the sweep is."""
        tallies = list(self.tallies.values())
        parts = [
            f"{self.done}/{self.total} trials",
            f"{sum(tally.running for tally in tallies)} running",
            f"{sum(tally.diverged for tally in tallies)} diverged",
        ]
        if self.done < self.total:
            unplanned = max(self.total - self.done - sum(tally.left for tally in tallies), 0)
            left = seconds_left(dict(self.tallies), unplanned=unplanned)
            wall = None if left is None else left / self._packs_at_a_time
            parts.append("time left unknown" if wall is None else f"~{time_text(wall)} left")
        return ", ".join(parts)

    def table(self) -> Group:
        """Draw the live display: a row per arm and width, and the line."""
        table = Table(box=None, padding=(0, 2, 0, 0))
        table.add_column("arm")
        for heading in ("width", "done", "running", "diverged", "best loss", "at log2_lr"):
            table.add_column(heading, justify="right")
        for (arm, width), tally in sorted(self.tallies.copy().items()):
            counts = (width, tally.finished, tally.running, tally.diverged)
            table.add_row(arm, *map(str, counts), *_best(tally))
        return Group(table, Text(self.line()))


def _best(tally: Tally) -> tuple[str, str]:
    if tally.best is None:
        return "–", "–"
    log2_lr = HYPERPARAMETERS["lr"].log2(tally.best.config)
    return f"{tally.best_loss:.4g}", f"{log2_lr:g}"
