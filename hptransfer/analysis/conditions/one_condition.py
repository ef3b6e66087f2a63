"""One condition alone: the drift over width at each value, and whether the optimum still moves."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from hptransfer.analysis.basins.numbers import interval, number
from hptransfer.analysis.conditions.joint_law import Estimates, JointLaw, fit_joint
from hptransfer.analysis.conditions.reference import WORDS
from hptransfer.analysis.conditions.settings import Setting, setting_estimates

SETTLED_SLOPE = 0.25  # octaves per doubling: it takes four doublings to lose an octave

_LONGER = {"steps": "a longer run", "batch_size": "a larger batch", "depth": "a deeper model"}
PLACE = {"steps": "{:g} steps", "batch_size": "a batch size of {:g}", "depth": "depth {:g}"}


def over_entry(
    settings: Sequence[Setting],
    axis: str,
    reference: Mapping[str, float | None],
    *,
    noisy: bool,
) -> dict[str, Any]:
    """Return what an axis does to the optimum, the other conditions at the reference."""
    others = [name for name in reference if name != axis]
    along = [s for s in settings if all(s.condition[n] == reference[n] for n in others)]
    lines = {
        value: {s.width: s for s in along if s.value(axis) == value and s.basin.usable}
        for value in sorted({s.value(axis) for s in along})
    }
    drifts = {value: _drift(list(line.values())) for value, line in lines.items()}
    steps = {end: _moved(lines[start], lines[end], end / start) for start, end in _pairs(lines)}
    read_at = float(reference[axis] or 0.0)
    end = next((end for start, end in _pairs(lines) if start == read_at), max(lines))
    moves, sentence = _still_moves(steps.get(end), axis, read_at, noisy=noisy)
    return {
        "axis": axis,
        "values": [
            {
                "value": value,
                "drift": _entry(drifts[value], noisy=noisy),
                "optimum_at_widest": _widest(line, along),
                "moved_per_doubling": _entry(steps.get(value), noisy=noisy),
            }
            for value, line in lines.items()
        ],
        "still_moves": moves,
        "sentence": " ".join([sentence, *_false_drift(drifts, axis, read_at, noisy=noisy)]),
    }


def _pairs(lines: Mapping[float, Any]) -> list[tuple[float, float]]:
    return list(itertools.pairwise(lines))


def _drift(line: Sequence[Setting]) -> JointLaw | None:
    """Fit the drift over width at one value; None below two widths."""
    if len(line) < 2:
        return None
    octaves = np.log2([setting.width for setting in line])
    return fit_joint({"a": np.ones(len(line)), "slope": octaves}, setting_estimates(line))


def _moved(
    before: Mapping[int, Setting], after: Mapping[int, Setting], ratio: float
) -> JointLaw | None:
    """Fit by how much the optimum moves per doubling, the same at every width that has both."""
    widths = sorted(before.keys() & after.keys())
    if not widths:
        return None
    first, second = (setting_estimates([line[w] for w in widths]) for line in (before, after))
    octaves = np.log2(ratio)
    rates = Estimates(
        (second.values - first.values) / octaves, (second.draws - first.draws) / octaves
    )
    return fit_joint({"slope": np.ones(len(widths))}, rates)


def _entry(law: JointLaw | None, *, noisy: bool) -> dict[str, Any]:
    if law is None:
        return interval(None)
    return interval(law.draws["slope"], estimate=law.coefficients["slope"], noisy=noisy)


def _widest(line: Mapping[int, Setting], along: Sequence[Setting]) -> float | None:
    """Return the optimum of the widest width, where it is resolved."""
    widest = max(setting.width for setting in along)
    return number(line[widest].basin.optimum) if widest in line else None


def _still_moves(
    step: JointLaw | None, axis: str, read_at: float, *, noisy: bool
) -> tuple[bool | None, str]:
    """Say whether the optimum moves where the answer is read; None: the rows do not tell."""
    place, word = PLACE[axis].format(read_at), WORDS[axis]
    if step is None or not noisy:
        lack = "no width has both optima" if step is None else "there is no noise estimate"
        return None, f"Whether the optimum still moves at {place} is not known: {lack}."
    rate = step.coefficients["slope"]
    low, high = np.quantile(step.draws["slope"], (0.05, 0.95))
    if low >= -SETTLED_SLOPE and high <= SETTLED_SLOPE:
        most = max(abs(low), abs(high))
        return False, (
            f"At {place} the optimum moves by at most {most:.2f} octaves per doubling of the "
            f"{word}."
        )
    if low <= 0 <= high:
        return None, (
            f"Whether the optimum still moves at {place} is not settled: {rate:+.2f} octaves per "
            f"doubling of the {word} ({low:+.2f} to {high:+.2f})."
        )
    return True, (
        f"At {place} the optimum still {'falls' if rate < 0 else 'rises'} by {abs(rate):.1f} "
        f"octaves per doubling of the {word}: an answer read here does not hold for "
        f"{_LONGER[axis]}."
    )


def _false_drift(
    drifts: Mapping[float, JointLaw | None], axis: str, read_at: float, *, noisy: bool
) -> list[str]:
    """Say where the drift over width at the reference is another than at the largest value."""
    here, last = drifts.get(read_at), max(drifts)
    there = drifts[last]
    if here is None or there is None or last == read_at or not noisy:
        return []
    low, high = np.quantile(here.draws["slope"] - there.draws["slope"], (0.05, 0.95))
    if low <= 0 <= high:
        return []
    found = [law.coefficients["slope"] for law in (here, there)]
    return [
        f"The drift over the width is {found[0]:+.2f} octaves per doubling here and "
        f"{found[1]:+.2f} at {PLACE[axis].format(last)}: it belongs to the {WORDS[axis]}, not to "
        "the width alone."
    ]
