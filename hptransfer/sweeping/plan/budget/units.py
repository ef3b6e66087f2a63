"""What `--budget` may say: device-hours, wall time, money, or a share of the target run."""

from __future__ import annotations

import re
from dataclasses import dataclass

from hptransfer.config.runtime import UNITS, amount_text
from hptransfer.errors import UserError, abbreviate
from hptransfer.execution.pack_sizes import makespan
from hptransfer.sweeping.plan.plan import HOUR, Occupancy

_WRITTEN = re.compile(r"(\d+(?:\.\d+)?|\.\d+)\s*(" + "|".join(UNITS) + ")", re.IGNORECASE)


@dataclass(frozen=True)
class Budget:
    """An amount of compute, in one of the units of `UNITS`."""

    amount: float
    unit: str

    def __str__(self) -> str:
        return amount_text(self.amount, self.unit)

    def times(self, factor: float) -> Budget:
        """Return the budget scaled."""
        return Budget(self.amount * factor, self.unit)


@dataclass(frozen=True)
class Workload:
    """The packs that a candidate still has to run."""

    seconds: tuple[float, ...]  # of each pack
    trials: int  # without a row
    flops: float  # of the trials without a row


@dataclass(frozen=True)
class Meter:
    """The cost of workloads in a budget's unit."""

    unit: str
    occupied: Occupancy  # by one pack
    workers: int  # packs at a time
    target_flops: float

    def spent(self, work: Workload) -> float:
        """Return a workload's cost in the unit."""
        hours = sum(work.seconds) / HOUR
        match self.unit:
            case "%":
                return 100.0 * work.flops / self.target_flops
            case "h":
                return makespan(work.seconds, self.workers) / HOUR
            case "min":
                return makespan(work.seconds, self.workers) / 60.0
            case "usd":
                assert self.occupied.price_per_hour is not None, "`require_unit` has seen to it"
                return hours * self.occupied.price_per_hour
            case _:
                return hours * self.occupied.count


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


def require_unit(budget: Budget, occupied: Occupancy) -> None:
    """Refuse a unit in which the packs of the sweep cost nothing.

    Raises:
        UserError: hours of the other kind of device, or money without a price.
    """
    own = "gpuh" if occupied.unit == "GPU" else "cpuh"
    if budget.unit in ("gpuh", "cpuh") and budget.unit != own:
        raise UserError(
            f"--budget must be in what the sweep's packs occupy, a {occupied.unit}, but got "
            f"{budget}. Write it in {own}, or set runtime.device."
        )
    if budget.unit == "usd" and not occupied.price_per_hour:
        raise UserError(
            f"--budget={budget} needs the price of what one pack occupies, but "
            f"executor.price_per_hour is {occupied.price_per_hour}. Set executor.price_per_hour."
        )
