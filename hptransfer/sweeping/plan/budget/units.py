"""What `--budget` may say: device-hours, wall time, money, or a share of the target run."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hptransfer.config.budget_units import UNITS, written
from hptransfer.errors import UserError, abbreviate
from hptransfer.execution.pack_sizes import makespan
from hptransfer.sweeping.plan.costs import Place

HOUR = 3600.0

_WRITTEN = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*(" + "|".join(UNITS) + ")", re.IGNORECASE)


@dataclass(frozen=True)
class Budget:
    """So much of a unit."""

    amount: float
    unit: str

    def __str__(self) -> str:
        return written(self.amount, self.unit)

    def times(self, factor: float) -> Budget:
        """Return the budget scaled."""
        return Budget(self.amount * factor, self.unit)


@dataclass(frozen=True)
class Work:
    """What a design makes the machine do."""

    seconds: tuple[float, ...]  # of each pack
    trials: int  # that are not recorded
    flops: float  # of these


@dataclass(frozen=True)
class Meter:
    """Says what work costs in a budget's unit."""

    unit: str
    place: Place
    workers: int  # packs at a time
    target_flops: float

    def spent(self, work: Work) -> float:
        """Return the work's cost in the unit."""
        hours = sum(work.seconds) / HOUR
        match self.unit:
            case "%":
                return 100.0 * work.flops / self.target_flops
            case "h":
                return makespan(work.seconds, self.workers) / HOUR
            case "min":
                return makespan(work.seconds, self.workers) / 60.0
            case "usd":
                assert self.place.price_per_hour is not None, "`require_unit` has seen to it"
                return hours * self.place.price_per_hour
            case _:
                return hours * self.place.count


def parse_budget(text: str) -> Budget:
    """Read `8gpuh`, `16cpuh`, `90min`, `2h`, `50usd` or `5%`.

    Raises:
        UserError: it is none of these, or nothing.
    """
    found = _WRITTEN.fullmatch(text.strip())
    if found is None or not 0 < float(found[1]) < 1e12:
        known = ", ".join(f"{unit} ({meaning})" for unit, meaning in UNITS.items())
        raise UserError(
            "--budget must be a positive number and a unit, such as 8gpuh, but got "
            f"{abbreviate(text)}. "
            f"The units are {known}."
        )
    return Budget(float(found[1]), found[2].lower())


def require_unit(budget: Budget, place: Place) -> None:
    """Refuse a unit that packs of this sweep do not spend.

    Raises:
        UserError: hours of the other kind of device, or money without a price.
    """
    own = "gpuh" if place.unit == "GPU" else "cpuh"
    if budget.unit in ("gpuh", "cpuh") and budget.unit != own:
        raise UserError(
            f"--budget must be in what the sweep's packs occupy, which is a {place.unit}, but got "
            f"{budget}. Write it in {own}, or set runtime.device."
        )
    if budget.unit == "usd" and not place.price_per_hour:
        raise UserError(
            f"--budget={budget} needs the price of what one pack occupies, but "
            f"executor.price_per_hour is {place.price_per_hour}. Set executor.price_per_hour."
        )
