"""What a reader of an arm's estimates must be told, in plain words."""

from __future__ import annotations

from collections.abc import Mapping

from hptransfer.analysis.answer.verdict import Decision, Verdict
from hptransfer.analysis.basins.basin import Basin, Censoring
from hptransfer.analysis.basins.noise import Noise, NoiseSource


def warnings_of(
    basins: dict[int, Basin],
    noise: Noise | None,
    gain: float | None,
    *,
    decision: Decision,
    drift: Mapping[str, float | None],
    lost: list[int],
) -> list[str]:
    """Return an arm's warnings.

    Args:
        gain: by how much the best loss fell over the last width doubling.
        drift: the drift's `low` and `high` end, in octaves per width doubling.
        lost: the widths without a sound point.
    """
    notes = [
        f"Width {width} has no point at which every trial is sound; left out." for width in lost
    ]
    for width, basin in basins.items():
        notes += _grid_warnings(width, basin)
    notes += _noise_warnings(noise)
    if gain is not None and gain <= 0:
        notes.append(
            "The loss did not fall over the last width doubling; the limit is noise alone."
        )
    if decision.verdict is Verdict.drifts:
        notes.append(_DRIFTS if excludes_zero(drift) else _COSTS)
    return notes


def excludes_zero(drift: Mapping[str, float | None]) -> bool:
    """Say whether a drift's interval, from `low` to `high`, is known and does not hold zero."""
    low, high = drift["low"], drift["high"]
    return low is not None and high is not None and not low <= 0.0 <= high


def _noise_warnings(noise: Noise | None) -> list[str]:
    if noise is None:
        return [
            "There is no noise estimate, hence no intervals: it takes two seeds and three sound "
            "points near a minimum, standard deviations, or at least four neighbouring points."
        ]
    if noise.source is NoiseSource.residuals:
        return [
            "Each point has one run: the noise is borrowed from what neighbouring points of all "
            f"widths differ by beyond a smooth curve ({noise.degrees} degrees of freedom). Two "
            "seeds would measure it."
        ]
    if noise.source is NoiseSource.given:
        return ["The noise is the standard deviation that the rows give, seeds' shifts included."]
    return []


def _grid_warnings(width: int, basin: Basin) -> list[str]:
    grid, notes = basin.grid, []
    if grid.isolated_failures:
        notes.append(
            f"Width {width}: {grid.isolated_failures} failed with sound ones at higher values; "
            "not counted as a cliff."
        )
    if grid.incomplete_points:
        notes.append(
            f"Width {width}: {grid.incomplete_points} of the points lack a seed; not fitted."
        )
    if grid.seeds_left_out:
        notes.append(f"Width {width}: {grid.seeds_left_out} seeds have too few rows; not fitted.")
    if basin.censored in (Censoring.flat, Censoring.too_few):
        notes.append(f"Width {width}: {_PLAIN[basin.censored]}; no law uses it.")
    if basin.censored is Censoring.divergence:
        notes.append(f"Width {width}: {_PLAIN[basin.censored]}; a finer grid would resolve it.")
    return notes


_DRIFTS = "The optimum moves with width: the emitted value follows the law."
_COSTS = (
    "One value for all widths costs more than the limit, though the optimum is not seen to move: "
    "the emitted value follows the law."
)
_PLAIN = {
    Censoring.flat: "the points around the minimum do not differ by more than noise",
    Censoring.too_few: "fewer than three sound points",
    Censoring.divergence: "the point above the minimum failed, so the optimum is only bracketed",
}
