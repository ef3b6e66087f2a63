"""What a study's folder holds: its question, rows and answers, read as they stand."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from hptransfer.reporting.figures.style import hp_name
from hptransfer.results.folder import ResultsFolder, read_json
from hptransfer.results.ledger_rows import LEDGER_NAME, read_ledger, read_ledger_rows
from hptransfer.results.metrics import METRICS
from hptransfer.results.sweep_file import SweepFacts, read_facts

Record = Mapping[str, Any]

NOT_RUN = "not run"


@dataclass(frozen=True)
class Study:
    """A study's folder; an answer that was not asked for yet is None."""

    name: str
    facts: SweepFacts
    finished: int  # rows that the sweep wants
    others: int  # rows of the target and of the comparisons at its width
    seconds: float  # of all rows, summed
    devices: tuple[str, ...]
    estimates: Record | None
    transfer: Record | None
    realised: Record | None
    by_metric: Record | None  # the same fit of the Fréchet distance
    convergence: Record | None

    @property
    def widths(self) -> Sequence[int]:
        """The widths that the sweep wants."""
        return self.facts.tree["sweep"]["widths"]

    @property
    def wanted(self) -> int:
        """How many rows the sweep wants."""
        return self.facts.wanted_count()

    def holds(self, record: str) -> bool:
        """Whether a record is there, and of the rows that are there now."""
        found = getattr(self, record)
        return found is not None and found.get("trials", {}).get("fitted") in (None, self.finished)

    @property
    def arms(self) -> Sequence[Record]:
        """The arms as fitted by loss, one for each searched HP."""
        return () if self.estimates is None else self.estimates["arms"]

    def arm(self, parametrization: str) -> Record | None:
        """Return the first arm of a parametrization, None where it has none."""
        return next((a for a in self.arms if a["parametrization"] == parametrization), None)

    @property
    def count(self) -> str:
        """Say what was trained: widths, points, conditions, seeds, trials."""
        section = self.facts.tree["sweep"]
        parts = [
            f"{len(self.widths)} widths ({min(self.widths)} to {max(self.widths)})",
            *self._points(),
            *_conditions(section.get("vary") or {}),
            f"{len(section['seeds'])} seeds",
        ]
        return f"{', '.join(parts)}, {self.trials}"

    @property
    def trials(self) -> str:
        """Count the rows: of the sweep, and beside them at the target's width."""
        missing = f" of {self.wanted}" if self.finished < self.wanted else ""
        others = f" + {self.others}" if self.others else ""
        return f"{self.finished}{missing}{others} trials"

    def _points(self) -> list[str]:
        if self.facts.design is None:
            return [f"{len(v)} values of the {hp_name(hp)}" for hp, v in self.facts.points.items()]
        most = max(map(len, self.facts.design.points.values()), default=0)
        names = ", ".join(hp_name(hp) for hp in self.facts.axes)
        return [f"up to {most} points of {names} at a width"]


def _conditions(vary: Record) -> list[str]:
    """Name the conditions that vary beside the width."""
    listed = {name: [str(v) for v in values] for name, values in vary.items() if values}
    return [f"{name.replace('_', ' ')} {', '.join(v)}" for name, v in listed.items()]


def read_study(path: Path) -> Study | None:
    """Read a study's folder; None where nobody ran it."""
    folder = ResultsFolder(path)
    if not folder.sweep_file.is_file():
        return None
    facts = read_facts(folder)
    rows = [row for ledger in _ledgers(path) for row in read_ledger(ledger).rows]
    finished = sum(map(facts.wants, read_ledger_rows(path)))
    return Study(
        name=path.name,
        facts=facts,
        finished=finished,
        others=len(rows) - finished,
        seconds=sum(row["cost"]["seconds"] for row in rows),
        devices=tuple(sorted({row["cost"]["device"] for row in rows})),
        estimates=read_json(folder.estimates_file, "arms"),
        transfer=read_json(folder.transfer_file, "target"),
        realised=read_json(folder.realised_file, "hp"),
        by_metric=read_json(folder.estimates_by(METRICS["frechet_distance"]), "agreement"),
        convergence=read_json(path / "convergence.json", "baselines"),
    )


def _ledgers(path: Path) -> list[Path]:
    """List a study's ledgers: its own, its target's, those of comparisons."""
    return sorted(path.rglob(LEDGER_NAME))
