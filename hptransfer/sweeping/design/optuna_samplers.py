"""Points chosen by Optuna's samplers, round by round: TPE, Gaussian processes, CMA-ES.

Every arm and width has a study of its own, in memory. TPE and Gaussian processes depend on nothing
but the trials of their study, so each round has a fresh study of the trials before it. CMA-ES
carries a state from round to round, so its study is replayed from the first round. No study is
ever loaded from a file.

The samplers get a failed point as a loss that is as far above the worst sound loss as that is above
the best one. TPE ignores trials of state FAIL and would ask for the same point again. In a Gaussian
process a huge loss would flatten all differences between the others.
"""

from __future__ import annotations

import logging
import math
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager
from functools import lru_cache
from pathlib import Path
from sqlite3 import Connection, connect
from typing import cast

import optuna
from optuna.distributions import FloatDistribution
from optuna.exceptions import StorageInternalError
from optuna.samplers import BaseSampler, CmaEsSampler, GPSampler, TPESampler
from optuna.storages import RDBStorage
from optuna.trial import FrozenTrial, TrialState, create_trial

from hptransfer.config import TrialConfig
from hptransfer.config.choices import Method
from hptransfer.config.identity import trial_key
from hptransfer.config.sweep import Axis, SweepConfig
from hptransfer.errors import MachineError
from hptransfer.results.sweep_file import AskedPoints, asked_points_record
from hptransfer.sweeping.design.rounds import (
    ArmAndWidth,
    History,
    Point,
    Rows,
    TriedPoint,
    arms_and_widths,
    tried_point,
)
from hptransfer.system.files import opening
from hptransfer.system.random_streams import stream

# Decimals of a point in log2. A thousandth of an octave is finer than any basin, and coarse enough
# that the last bits of another machine's arithmetic do not make another point.
DECIMALS = 3

Search = tuple[tuple[str, Axis], ...]
Rounds = tuple[tuple[TriedPoint, ...], ...]


def propose(sweep: SweepConfig, history: History) -> Mapping[ArmAndWidth, Sequence[Point]]:
    """Return the next round's points of every arm and width; none once all were asked for."""
    method, batch = sweep.design.method, sweep.design.batch
    chosen: dict[ArmAndWidth, Sequence[Point]] = {}
    for place, rounds in history.items():
        count = min(batch, sweep.design.total - sum(map(len, rounds)))
        if count > 0:
            name = (sweep.design.seed, place.arm, place.width)
            told = tuple(tuple(points) for points in rounds)
            chosen[place] = next_points(method, sweep.search, name, told, count, batch)
    return chosen


@lru_cache(maxsize=4096)  # a sweep asks for all its rounds at the end of each
def next_points(
    method: Method, search: Search, name: tuple[object, ...], rounds: Rounds, count: int, batch: int
) -> tuple[Point, ...]:
    """Return the points that follow these rounds; a pure function of its arguments."""
    with _quiet():
        if method is Method.cmaes:
            return _after_replay(search, name, rounds, count, batch)
        study = optuna.create_study(sampler=_sampler(method, name, len(rounds), batch))
        study.add_trials(_past(search, [point for points in rounds for point in points]))
        return tuple(_ask(study, search)[1] for _ in range(count))


def _after_replay(
    search: Search, name: tuple[object, ...], rounds: Rounds, count: int, batch: int
) -> tuple[Point, ...]:
    """Return the next points of a CMA-ES study that is replayed: each round is a generation."""
    study = optuna.create_study(sampler=_sampler(Method.cmaes, name, 0, batch))
    for points in rounds:
        numbers = [_ask(study, search)[0] for _ in points]
        for number, value in zip(numbers, told_values(points), strict=True):
            study.tell(number, value)
    return tuple(_ask(study, search)[1] for _ in range(count))


def _sampler(method: Method, name: tuple[object, ...], index: int, batch: int) -> BaseSampler:
    seed = int(stream(*name, index).integers(2**31))
    if method is Method.tpe:
        return TPESampler(seed=seed)
    if method is Method.gp:
        return GPSampler(seed=seed)
    return CmaEsSampler(seed=seed, popsize=max(batch, 2))


def distributions(search: Search) -> dict[str, FloatDistribution]:
    """Return the axes as Optuna's distributions, by `log2_<hp>`."""
    return {f"log2_{name}": FloatDistribution(axis.low, axis.high) for name, axis in search}


def _ask(study: optuna.Study, search: Search) -> tuple[int, Point]:
    box = distributions(search)
    trial = study.ask(dict(box))
    point = {
        axis: min(max(round(value, DECIMALS), box[axis].low), box[axis].high)
        for axis, value in trial.params.items()
    }
    return trial.number, {axis: point[axis] for axis in box}


def _past(search: Search, points: Sequence[TriedPoint]) -> list[FrozenTrial]:
    return [
        create_trial(params=dict(p.point), distributions=dict(distributions(search)), value=value)
        for p, value in zip(points, told_values(points), strict=True)
    ]


def told_values(points: Sequence[TriedPoint]) -> list[float]:
    """Return the points' mean losses; a failed one is worse than all sound ones of the list."""
    sound = [p.loss for p in points if math.isfinite(p.loss)]
    worst = 2 * max(sound) - min(sound) if len(set(sound)) > 1 else max(sound, default=0.0) + 1.0
    return [p.loss if math.isfinite(p.loss) else worst for p in points]


def write_study(
    path: Path, sweep: SweepConfig, rounds: Sequence[Sequence[TrialConfig]], rows: Rows
) -> None:
    """Write a SQLite file for optuna-dashboard, with a study for each arm and width.

    A point's losses are its user attributes, one for each seed. A failed point has the state FAIL;
    a point without all rows is left out. The file is made from the rows alone and never read.
    """
    asked = AskedPoints.of_record(asked_points_record(sweep, rounds)).points
    draft = path.with_name(f".{path.name}.partial")
    with _quiet(), opening(path.parent), _storing(path):
        draft.unlink(missing_ok=True)
        storage = RDBStorage("sqlite:///:memory:")  # a file would be synced for each trial
        for place in arms_and_widths(sweep):
            study = optuna.create_study(
                study_name=f"{sweep.name} {place.arm} width {place.width}", storage=storage
            )
            study.add_trials(
                [
                    _shown(tried_point(place, point, sweep.seeds, rows), sweep)
                    for point in asked.get((place.arm, place.width), ())
                    if all(trial_key(c) in rows for c in place.trials(point, sweep.seeds))
                ]
            )
        with closing(storage.engine.raw_connection()) as source, closing(connect(draft)) as copy:
            cast(Connection, source.driver_connection).backup(copy)
        draft.replace(path)


@contextmanager
def _storing(path: Path) -> Iterator[None]:
    try:
        yield
    except StorageInternalError as error:
        raise MachineError(
            f"{path} could not be written: {error.__cause__ or error}. Free space or repair the "
            "disk and run the same command again; nothing recorded was lost."
        ) from error


def _shown(point: TriedPoint, sweep: SweepConfig) -> FrozenTrial:
    losses = zip(sweep.seeds, point.losses, strict=True)
    sound = math.isfinite(point.loss)
    return create_trial(
        state=TrialState.COMPLETE if sound else TrialState.FAIL,
        value=point.loss if sound else None,
        params=dict(point.point),
        distributions=dict(distributions(sweep.search)),
        user_attrs={f"seed {s}": loss if math.isfinite(loss) else None for s, loss in losses},
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep Optuna's log lines and warnings of its experimental parts from the terminal."""
    log = logging.getLogger("optuna")
    level = log.level
    log.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        log.setLevel(level)
