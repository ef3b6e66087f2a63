"""How far estimators of an optimum are from the truth, on planted and on recorded basins.

Every estimator reads the same means over seeds at the same grid; basins whose lowest point lies on
an edge, or below a failed point, are left out for all. Planted basins are those of
`benchmarks.coverage`. Recorded ones are half-octave digits basins of four families: each is thinned
to one octave in two ways, and the truth is the mean of a cubic's and an Akima spline's minimum on
all its points. The Gaussian processes are scikit-learn's, which only this benchmark needs.
"""

from __future__ import annotations

import argparse
import warnings
from collections.abc import Callable, Iterator
from itertools import product
from pathlib import Path

import numpy as np

from benchmarks import coverage
from benchmarks.refine import AXIS, RESULTS, STUDIES
from hptransfer.analysis.basins.basin import Basin, fit_basin, pool_noise
from hptransfer.analysis.basins.cross_checks import FINE, akima, local_cubic
from hptransfer.analysis.basins.curve import Floats
from hptransfer.analysis.basins.grid import Grid
from hptransfer.analysis.basins.rows import TrialArrays, read_rows, width_grids
from hptransfer.results.folder import write_json
from hptransfer.results.ledger_rows import read_ledger
from hptransfer.results.table import rows_table
from hptransfer.system.random_streams import stream
from tests.support import planted

LOW, LOWER = 1.05, 1.03  # of the lowest loss: the points that local estimators read
RECORD = Path("results/benchmarks/estimators.json")


def three_point_parabola(theta: Floats, means: Floats) -> float:
    """Return the vertex of the parabola through the lowest point and its neighbours."""
    at = int(means.argmin())
    return _vertex(theta[at - 1 : at + 2], means[at - 1 : at + 2])


def global_parabola(theta: Floats, means: Floats) -> float:
    """Return the vertex of the parabola through all points."""
    return float(np.clip(_vertex(theta, means), theta[0], theta[-1]))


def grid_argmin(theta: Floats, means: Floats) -> float:
    """Return the lowest point."""
    return float(theta[means.argmin()])


def cubic_near(theta: Floats, means: Floats) -> float:
    """Return a cubic's minimum: two points each side, within 3 % of the lowest."""
    at = int(means.argmin())
    near = np.abs(np.arange(len(theta)) - at) <= 2
    keep = near & ((means <= LOWER * means[at]) | (np.abs(np.arange(len(theta)) - at) <= 1))
    found = local_cubic(theta[keep], means[keep])
    return three_point_parabola(theta, means) if found is None else found


def akima_all(theta: Floats, means: Floats) -> float:
    """Return the Akima spline's minimum through all points."""
    found = akima(theta, means)
    return grid_argmin(theta, means) if found is None else found


def local_gaussian_process(theta: Floats, means: Floats) -> float:
    """Return the minimum of a Gaussian process about a parabola, points within 5 %."""
    keep = means <= LOW * means.min()
    if keep.sum() < 4:
        return three_point_parabola(theta, means)
    theta, means = theta[keep], means[keep]
    parabola = np.polyfit(theta, means, 2)
    return _process(theta, means - np.polyval(parabola, theta), parabola)


def gaussian_process(theta: Floats, means: Floats) -> float:
    """Return the minimum of a Gaussian process about the mean, all points."""
    return _process(theta, means - means.mean(), np.zeros(3))


def _process(theta: Floats, residual: Floats, trend: Floats) -> float:
    from sklearn.gaussian_process import GaussianProcessRegressor
    from sklearn.gaussian_process.kernels import RBF, ConstantKernel, WhiteKernel

    kernel = ConstantKernel(1.0) * RBF(2.0, (0.5, 20.0)) + WhiteKernel(0.01, (1e-6, 1.0))
    scale = float(residual.std()) or 1.0
    model = GaussianProcessRegressor(kernel, n_restarts_optimizer=0)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        model.fit(theta[:, None], residual / scale)
    fine = np.linspace(theta[0], theta[-1], FINE)
    fitted = scale * np.asarray(model.predict(fine[:, None])) + np.polyval(trend, fine)
    return float(fine[fitted.argmin()])


def _vertex(theta: Floats, means: Floats) -> float:
    centre = theta.mean()
    bend, slope, _ = np.polyfit(theta - centre, means, 2)
    return float(centre - slope / (2.0 * bend)) if bend > 0 else float(theta[means.argmin()])


OTHERS: dict[str, Callable[[Floats, Floats], float]] = {
    "3-point parabola": three_point_parabola,
    "local cubic": cubic_near,
    "Akima": akima_all,
    "Gaussian process about a parabola, points within 5 %": local_gaussian_process,
    "grid argmin": grid_argmin,
    "parabola through all points": global_parabola,
    "plain Gaussian process": gaussian_process,
}


def _errors(optimum: float, basin: Basin) -> dict[str, float]:
    grid = basin.grid
    theta, means = grid.theta[grid.sound], grid.losses[:, grid.sound].mean(axis=0)
    found = {name: estimator(theta, means) for name, estimator in OTHERS.items()}
    return {"ours": basin.optimum - optimum} | {n: x - optimum for n, x in found.items()}


def _is_inside(basin: Basin) -> bool:
    grid = basin.grid
    return bool(grid.sound[0] < grid.minimum < grid.sound[-1])


def planted_errors(repeats: int, step: float) -> Iterator[dict[str, float]]:
    """Yield every estimator's error on the planted basins of a grid step."""
    for shape, seeds in product(planted.SHAPES, coverage.SEEDS):
        cell = planted.Cell(seeds, step, shape)
        for repeat in range(repeats):
            for optimum, basin in coverage.sweep_basins(cell, repeat):
                if _is_inside(basin):
                    yield _errors(optimum, basin)


def recorded_errors() -> Iterator[dict[str, float]]:
    """Yield every estimator's error on the recorded basins, thinned to one octave."""
    for family, study in STUDIES.items():
        half = RESULTS / "benchmarks" / "half_octave" / f"{family}.jsonl"
        recorded = [*read_ledger(RESULTS / "studies" / study).rows, *read_ledger(half).rows]
        rows = read_rows(rows_table(recorded), [AXIS])
        for arm in np.unique(rows.parametrization):
            yield from _thinned(rows.where(rows.parametrization == arm))


def _thinned(rows: TrialArrays) -> Iterator[dict[str, float]]:
    truths = {width: _truth(grid) for width, grid in width_grids(rows, AXIS).items() if grid}
    for start in (0.0, 0.5):
        thin = width_grids(rows.where(rows.hps[AXIS] % 1.0 == start), AXIS)
        noise = pool_noise([g for g in thin.values() if g], rng=stream("estimators", start))
        for width, grid in thin.items():
            truth = truths.get(width)
            if grid is None or truth is None:
                continue
            basin = fit_basin(grid, noise, rng=stream("estimators", width, start))
            if _is_inside(basin):
                yield _errors(truth, basin)


def _truth(grid: Grid) -> float | None:
    theta, means = grid.theta[grid.window], grid.losses[:, grid.window].mean(axis=0)
    cubic, spline = local_cubic(theta, means), akima(theta, means)
    return None if cubic is None or spline is None else (cubic + spline) / 2.0


def summary(errors: list[dict[str, float]]) -> dict[str, dict[str, float]]:
    """Return each estimator's median and 90 % quantile of |error| and its bias, octaves."""
    return {
        name: {
            "median": round(float(np.median(np.abs(column))), 4),
            "ninety": round(float(np.quantile(np.abs(column), 0.9)), 4),
            "bias": round(float(np.mean(column)), 4),
        }
        for name in errors[0]
        for column in [np.array([entry[name] for entry in errors])]
    }


def as_table(found: dict[str, dict]) -> str:
    """Return a Markdown table: a row per estimator, a column per set of basins."""
    lines = [
        "| estimator | "
        + " | ".join(f"{name} (n = {e['basins']})" for name, e in found.items())
        + " |",
        "|---|" + "---|" * len(found),
    ]
    for name in ("ours", *OTHERS):
        parts = [entry["errors"][name] for entry in found.values()]
        texts = [f"{p['median']:.3f}, {p['ninety']:.2f}, {p['bias']:+.2f}" for p in parts]
        lines.append(f"| {name} | " + " | ".join(texts) + " |")
    return "\n".join(lines)


def main() -> None:
    """Measure, print the table and write the record."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=20, help="sweeps a cell (default 20)")
    parser.add_argument("--out", type=Path, default=RECORD)
    options = parser.parse_args()
    sets = {
        f"planted, {step:g} octaves": list(planted_errors(options.repeats, step))
        for step in coverage.STEPS
    }
    sets["recorded, 1 octave"] = list(recorded_errors())
    found = {
        name: {"basins": len(errors), "errors": summary(errors)} for name, errors in sets.items()
    }
    write_json(options.out, {"repeats": options.repeats, "sets": found})
    print(as_table(found))


if __name__ == "__main__":
    main()
