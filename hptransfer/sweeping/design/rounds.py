"""Adaptive designs: rounds of trials, each chosen from the losses of the rounds before.

Nothing is stored of a search but the ledger's rows. A search that is continued is replayed from its
rows, so it asks for the same points wherever it was killed.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from hptransfer.config import TrialConfig
from hptransfer.config.choices import Method
from hptransfer.config.identity import trial_key
from hptransfer.config.sweep import SweepConfig
from hptransfer.results.folder import ResultsFolder
from hptransfer.sweeping.design.history import (
    ArmAndWidth,
    History,
    Point,
    Rows,
    TriedPoint,
    arms_and_widths,
    tried_point,
)

Propose = Callable[[SweepConfig, History], Mapping[ArmAndWidth, Sequence[Point]]]


def asked(sweep: SweepConfig, rows: Rows) -> list[tuple[TrialConfig, ...]]:
    """Return the trials of all rounds asked so far.

    Only the last round may lack rows; if it lacks none, the search is over. A trial that several
    rounds ask for belongs to the first of them.
    """
    propose = _method(sweep)
    history: dict[ArmAndWidth, list[list[TriedPoint]]] = {
        place: [] for place in arms_and_widths(sweep)
    }
    rounds: list[tuple[TrialConfig, ...]] = []
    seen: set[str] = set()
    while chosen := propose(sweep, history):
        trials = {trial_key(c): c for c in _trials(sweep, chosen)}
        fresh = tuple(config for key, config in trials.items() if key not in seen)
        seen |= trials.keys()
        if fresh:
            rounds.append(fresh)
        if not rows.keys() >= trials.keys():
            break
        for place, points in chosen.items():
            history[place].append([tried_point(place, p, sweep.seeds, rows) for p in points])
    return rounds


def _trials(sweep: SweepConfig, chosen: Mapping[ArmAndWidth, Sequence[Point]]) -> list[TrialConfig]:
    """Return the trials of the chosen points, in a grid's order: arm and width, seed, point."""
    return [
        config
        for place, points in chosen.items()
        for of_seed in zip(*(place.trials(p, sweep.seeds) for p in points), strict=True)
        for config in of_seed
    ]


def _method(sweep: SweepConfig) -> Propose:
    if sweep.design.method is Method.refine:
        from hptransfer.sweeping.design.refine import propose
    else:
        from hptransfer.sweeping.design.optuna_samplers import propose
    return propose


def write_study(
    folder: ResultsFolder,
    sweep: SweepConfig,
    rounds: Sequence[Sequence[TrialConfig]],
    rows: Rows,
) -> None:
    """Write `optuna.db` for optuna-dashboard, if the method is Optuna's; the file is never read."""
    if sweep.design.method is Method.refine:
        return
    from hptransfer.sweeping.design import optuna_samplers

    optuna_samplers.write_study(folder.path / "optuna.db", sweep, rounds, rows)
