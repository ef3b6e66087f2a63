"""How far a sweep is, on stderr: a live table in a terminal, sparse plain lines elsewhere."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from enum import Enum
from typing import NamedTuple, Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hptransfer.config import TrialConfig
from hptransfer.config.choices import Status
from hptransfer.config.hyperparameters import HYPERPARAMETERS
from hptransfer.config.identity import arm_of
from hptransfer.results.trial_result import TrialResult

# Least seconds between two plain lines; the first pack and the end always get one.
PLAIN_SECONDS = 60.0
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
    stopped: int = 0
    seconds: float = 0.0  # of the finished trials, summed
    packs: list[float] = field(default_factory=list)  # seconds per trial of each finished pack
    best: TrialResult | None = None

    def add(self, result: TrialResult) -> None:
        """Count a finished trial."""
        self.finished += 1
        self.seconds += result.seconds
        self.diverged += result.status is Status.diverged
        self.stopped += result.status is Status.stopped
        if result.loss is not None and (self.best is None or result.loss < self.best_loss):
            self.best = result

    @property
    def best_loss(self) -> float:
        """The least loss so far; infinite if no trial has completed."""
        return math.inf if self.best is None or self.best.loss is None else self.best.loss


Cell = tuple[str, int]  # arm and width


def cell_of(config: TrialConfig) -> Cell:
    """Say which row of the table a trial belongs to."""
    return arm_of(config), config.model.width


class SecondsLeft(NamedTuple):
    """Compute that is left: the estimate and its 90 % interval."""

    low: float
    likely: float
    high: float

    def __str__(self) -> str:
        low, likely, high = map(time_text, self)
        return f"~{likely} left" + (f" ({low} to {high})" if low != high else "")


def seconds_left(tallies: Mapping[Cell, Tally], *, unplanned: int = 0) -> SecondsLeft | None:
    """Estimate the compute of the trials left; None before anything has finished.

    Seconds per trial are those measured at the same arm and width, else those of the nearest
    measured width, taken as proportional to the width. `unplanned` trials, of which nothing is
    known, take the mean of all that finished. The interval has the spread of the packs measured so
    far, and for a width not yet measured all between no growth with the width and its square.
    """
    measured = {
        cell: tally.seconds / tally.finished for cell, tally in tallies.items() if tally.finished
    }
    if not measured:
        return None
    finished = sum(tally.finished for tally in tallies.values())
    low = likely = high = unplanned * sum(tally.seconds for tally in tallies.values()) / finished
    variance, spread = 0.0, _relative_spread(tallies)
    for cell, tally in tallies.items():
        width = cell[1]
        nearest = min(measured, key=lambda other: (other != cell, abs(other[1] - width)))
        growth, work = width / nearest[1], tally.left * measured[nearest]
        low += work * min(1.0, growth**2)
        likely += work * growth
        high += work * max(1.0, growth**2)
        packs = max(len(tallies[nearest].packs), 1)
        packs_left = max(tally.left * packs / tallies[nearest].finished, 1.0)
        variance += (work * growth * spread) ** 2 * (1 / packs + 1 / packs_left)
    margin = 1.645 * math.sqrt(variance)
    return SecondsLeft(max(low - margin, 0.0), likely, high + margin)


def _relative_spread(tallies: Mapping[Cell, Tally]) -> float:
    """Pool the standard deviation of packs of one arm and width, as a share of their mean."""
    several = [tally.packs for tally in tallies.values() if len(tally.packs) > 1]
    if not several:
        return 0.0
    squares = (sum((x * len(p) / sum(p) - 1) ** 2 for x in p) for p in several if sum(p))
    return math.sqrt(sum(squares) / sum(len(p) - 1 for p in several))


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
        self.restarted = 0  # packs that were handed out again
        self.tallies: dict[Cell, Tally] = {}
        self._plan(packs)
        self._running: dict[int, list[Cell]] = {}
        self._packs_at_a_time = 1
        self._line_at = -math.inf
        self._line = ""  # the last one printed
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
        if self._display is Display.plain and self._line and self._line != self.line():
            self._print_line()

    def note(self, text: str) -> None:
        """Print a sentence the user must see, also when quiet."""
        self._console.print(text, markup=False, soft_wrap=True)

    def add(self, packs: Iterable[Sequence[TrialConfig]], trials: int, recorded: int = 0) -> None:
        """Count further packs, and further trials of which some have a row already."""
        self.total += trials
        self.done += recorded
        self._plan(packs)

    def started(self, pack_index: int, configs: Sequence[TrialConfig]) -> None:
        """Count a pack as running; one that is handed out again runs once, and was restarted."""
        if pack_index in self._running:
            self.restarted += 1
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
        if results:
            seconds = sum(result.seconds for result in results) / len(results)
            self._tally(cell_of(results[0].config)).packs.append(seconds)
        self.done += len(results)
        due = time.monotonic() - self._line_at >= PLAIN_SECONDS or self.done >= self.total
        if self._display is Display.plain and due:
            self._print_line()

    def _print_line(self) -> None:
        self._line_at, self._line = time.monotonic(), self.line()
        self._console.print(self._line, markup=False, soft_wrap=True)

    def _plan(self, packs: Iterable[Sequence[TrialConfig]]) -> None:
        for cell in sorted(cell_of(config) for pack in packs for config in pack):
            self._tally(cell).left += 1

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
        if stopped := sum(tally.stopped for tally in tallies):
            parts.append(f"{stopped} stopped")
        if self.restarted:
            parts.append(f"{self.restarted} pack{'s' * (self.restarted > 1)} restarted")
        if self.done < self.total:
            unplanned = max(self.total - self.done - sum(tally.left for tally in tallies), 0)
            left = seconds_left(dict(self.tallies), unplanned=unplanned)
            wall = left and SecondsLeft(*(seconds / self._packs_at_a_time for seconds in left))
            parts.append(str(wall) if wall else "time left unknown")
        return ", ".join(parts)

    def table(self) -> Group:
        """Draw the live display: a row per arm and width, and the line."""
        table = Table(box=None, padding=(0, 2, 0, 0))
        table.add_column("arm")
        for heading in (
            "width",
            "done",
            "running",
            "diverged",
            "stopped",
            "best loss",
            "at log2_lr",
        ):
            table.add_column(heading, justify="right")
        for (arm, width), tally in sorted(self.tallies.copy().items()):
            counts = (tally.finished, tally.running, tally.diverged, tally.stopped)
            table.add_row(arm, str(width), *map(str, counts), *_best(tally))
        return Group(table, Text(self.line()))


def _best(tally: Tally) -> tuple[str, str]:
    if tally.best is None:
        return "–", "–"
    log2_lr = HYPERPARAMETERS["lr"].log2(tally.best.config)
    return f"{tally.best_loss:.4g}", f"{log2_lr:g}"
