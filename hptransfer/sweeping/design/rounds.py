"""Designs that ask in rounds, each from the losses of those before.

Nothing is kept of a search but the ledger's rows: whoever continues it replays it, so a search
that was killed anywhere asks for the same points as one that was not.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence

from hptransfer.config import TrialConfig
from hptransfer.config.choices import Method
from hptransfer.config.identity import trial_key
from hptransfer.config.sweep import SweepConfig
from hptransfer.results.folder import ResultsFolder
from hptransfer.sweeping.design.history import History, Place, Point, Rows, Tried, places, tried

Propose = Callable[[SweepConfig, History], Mapping[Place, Sequence[Point]]]


def asked(sweep: SweepConfig, rows: Rows) -> list[tuple[TrialConfig, ...]]:
    """Return all rounds asked so far; a round follows from the complete rows of those before.

    The last round is the only one that may lack rows; if it lacks none, the search is over. A
    trial stands in the first round that asks for it, and in no other.
    """
    propose = _method(sweep)
    history: dict[Place, list[list[Tried]]] = {place: [] for place in places(sweep)}
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
            history[place].append([tried(place, p, sweep.seeds, rows) for p in points])
    return rounds


def _trials(sweep: SweepConfig, chosen: Mapping[Place, Sequence[Point]]) -> list[TrialConfig]:
    """Return the trials of the chosen points: place by place, seed by seed, as a grid's are."""
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
    """Write `optuna.db` for optuna-dashboard, where the method is Optuna's; it is never read."""
    if sweep.design.method is Method.refine:
        return
    from hptransfer.sweeping.design import optuna_samplers

    optuna_samplers.write_study(folder.path / "optuna.db", sweep, rounds, rows)
