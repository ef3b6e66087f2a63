"""The progress of a sweep on stderr: a live table in a terminal, else a plain line a minute."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Iterable, Sequence
from enum import Enum
from typing import Self

from rich.console import Console, Group
from rich.live import Live
from rich.table import Table
from rich.text import Text

from hptransfer.config import TrialConfig
from hptransfer.config.hyperparameters import hps
from hptransfer.results.trial_result import TrialResult
from hptransfer.sweeping.run.time_left import (
    ArmAndWidth,
    SecondsLeft,
    TrialCounts,
    arm_and_width,
    seconds_left,
)

# Least seconds between two plain lines; the first pack and the end always get one.
PLAIN_SECONDS = 60.0
REFRESHES_PER_SECOND = 4  # of the live table


class Display(Enum):
    """The three ways to show progress."""

    live = "live"
    plain = "plain"
    quiet = "quiet"


class SweepProgress:
    """Counts a sweep's trials and shows the counts, for use in a `with` block.

    Args:
        total: trials of the sweep.
        done: trials that have a row already.
        axes: the searched HPs, as `log2_<hp>`; the table shows each width's best point on them.
        packs: the packs that are about to run, if known; they make the time left more exact.
        display: how to show the counts; None: quiet where `quiet`, else live in a terminal and
            plain elsewhere.
    """

    def __init__(
        self,
        total: int,
        done: int,
        *,
        axes: Sequence[str] = (),
        quiet: bool = False,
        packs: Iterable[Sequence[TrialConfig]] = (),
        display: Display | None = None,
    ) -> None:
        self.total = total
        self.done = done
        self.restarted = 0  # packs that were handed out again
        self.counts: dict[ArmAndWidth, TrialCounts] = {}
        self._axes = axes
        self._plan(packs)
        self._running: dict[int, list[ArmAndWidth]] = {}  # trials of each running pack
        self._packs_at_a_time = 1
        self._line_at = -math.inf
        self._line = ""  # the last line printed
        self._display = display or _display(quiet=quiet)
        self._console = Console(stderr=True, highlight=False)
        # stdout holds only what a command answers.
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
        """Count a pack as running; a running pack that starts again was restarted."""
        if pack_index in self._running:
            self.restarted += 1
            return
        self._running[pack_index] = [arm_and_width(config) for config in configs]
        for place in self._running[pack_index]:
            self._counts(place).running += 1
        self._packs_at_a_time = max(self._packs_at_a_time, len(self._running))

    def finished(self, pack_index: int, results: Sequence[TrialResult]) -> None:
        """Count a pack as finished, with the results that are new; print a line if one is due."""
        for place in self._ended(pack_index):
            self._counts(place).left = max(self._counts(place).left - 1, 0)
        for result in results:
            self._counts(arm_and_width(result.config)).add(result)
        if results:
            seconds = sum(result.seconds for result in results) / len(results)
            self._counts(arm_and_width(results[0].config)).packs.append(seconds)
        self.done += len(results)
        due = time.monotonic() - self._line_at >= PLAIN_SECONDS or self.done >= self.total
        if self._display is Display.plain and due:
            self._print_line()

    def split(self, pack_index: int) -> None:
        """Count a pack's trials as waiting again, in smaller packs."""
        self._ended(pack_index)

    def failed(self, pack_index: int) -> None:
        """Count the trials of a pack as failed."""
        for place in self._ended(pack_index):
            self._counts(place).left -= 1
            self._counts(place).failed += 1

    def _ended(self, pack_index: int) -> list[ArmAndWidth]:
        places = self._running.pop(pack_index)
        for place in places:
            self._counts(place).running -= 1
        return places

    def _print_line(self) -> None:
        self._line_at, self._line = time.monotonic(), self.line()
        self._console.print(self._line, markup=False, soft_wrap=True)

    def _plan(self, packs: Iterable[Sequence[TrialConfig]]) -> None:
        for place in sorted(arm_and_width(config) for pack in packs for config in pack):
            self._counts(place).left += 1

    def _counts(self, place: ArmAndWidth) -> TrialCounts:
        return self.counts.setdefault(place, TrialCounts())

    def line(self) -> str:
        """Return one line of counts and the time left."""
        counts = list(self.counts.values())
        parts = [
            f"{self.done} of {self.total} trials finished",
            f"{sum(each.running for each in counts)} running",
            f"{sum(each.diverged for each in counts)} diverged",
        ]
        if stopped := sum(each.stopped for each in counts):
            parts.append(f"{stopped} stopped")
        if failed := sum(each.failed for each in counts):
            parts.append(f"{failed} failed")
        if self.restarted:
            parts.append(f"{self.restarted} group{'s' * (self.restarted > 1)} of trials restarted")
        to_run = self.total - self.done - failed
        if to_run > 0:
            unplanned = max(to_run - sum(each.left for each in counts), 0)
            left = seconds_left(dict(self.counts), unplanned=unplanned)
            wall = left and SecondsLeft(*(seconds / self._packs_at_a_time for seconds in left))
            parts.append(str(wall) if wall else "time left unknown")
        return ", ".join(parts)

    def table(self) -> Group:
        """Draw the live display: a row per arm and width, and the line."""
        table = Table(box=None, padding=(0, 2, 0, 0))
        table.add_column("arm")
        best = ("best loss", *(f"at {axis}" for axis in self._axes))
        for heading in ("width", "done", "running", "diverged", "stopped", "failed", *best):
            table.add_column(heading, justify="right")
        for (arm, width), each in sorted(self.counts.copy().items()):
            numbers = (each.finished, each.running, each.diverged, each.stopped, each.failed)
            table.add_row(arm, str(width), *map(str, numbers), *self._best(each))
        return Group(table, Text(self.line()))

    def _best(self, counts: TrialCounts) -> list[str]:
        """Return the least loss, and where it lies on each axis."""
        if counts.best is None:
            return ["–"] * (1 + len(self._axes))
        point = hps(counts.best.config, self._axes)
        return [f"{counts.best_loss:.4g}", *(f"{point[axis]:g}" for axis in self._axes)]


def _display(*, quiet: bool) -> Display:
    """Return the live table only where stderr is a terminal."""
    if quiet:
        return Display.quiet
    return Display.live if sys.stderr.isatty() else Display.plain
