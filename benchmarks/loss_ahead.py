"""The loss at a wider optimum, predicted from narrower ones: on the recorded studies.

    python -m benchmarks.loss_ahead [--studies FOLDER] [--out FILE]

Of every arm in results/studies, each width from the fourth on is predicted from all narrower ones;
of every study whose target was swept, the target's from all widths. Counted is how often the 90 %
interval holds the loss that was found, by the law of the loss as it is and by the same without
`mended` (all widths, errors as they are). Losses and their errors are those of estimates.json,
taken as normal; studies of another metric or of several HPs are left out.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from benchmarks import measure
from benchmarks.refine import RESULTS
from hptransfer.analysis.answer.optimum_record import NORMAL_NINETY
from hptransfer.analysis.laws.law import MIN_WIDTHS, Optima, mix_laws
from hptransfer.analysis.laws.loss_law import mended, predicted_at
from hptransfer.results.folder import ResultsFolder, read_json

COLUMNS = ("study", "arm", "from widths", "of width", "found", "mended", "as it is")
DRAWS = 4000


class Case(NamedTuple):
    """A loss that was found, and what predicts it."""

    study: str
    arm: str
    width: int
    found: float
    narrower: Optima


def cases(studies: Path) -> Iterator[Case]:
    """Yield the losses that three or more narrower widths predict, study by study."""
    for path in sorted(filter(Path.is_dir, studies.iterdir())):
        folder = ResultsFolder(path)
        estimates = read_json(folder.estimates_file, "arms")
        if estimates is None or estimates.get("surfaces"):
            continue
        for arm in estimates["arms"]:
            levels = _levels(arm)
            for place in range(MIN_WIDTHS, len(levels.widths)):
                width, found = int(levels.widths[place]), float(levels.optima[place])
                narrower = levels.at(levels.widths < width)
                yield Case(path.name, arm["parametrization"], width, found, narrower)
        yield from _target(folder, estimates["arms"])


def _target(folder: ResultsFolder, arms: Sequence[Any]) -> Iterator[Case]:
    """Yield the target's loss, where it was swept and differs from the proxies in width alone."""
    told, levels = read_json(folder.realised_file, "hp"), _levels(arms[0])
    if told is None or told["predicted_loss"] is None or len(levels.widths) < MIN_WIDTHS:
        return
    found = told["loss_at_transferred"]
    yield Case(folder.path.name, arms[0]["parametrization"], told["width"], found, levels)


def _levels(arm: Any) -> Optima:
    """Return the losses at an arm's optima, with normal errors from their intervals."""
    known = [
        (entry["width"], entry["loss_at_optimum"])
        for entry in arm["optima"]
        if entry["loss_at_optimum"] and entry["loss_at_optimum"]["low"] is not None
    ]
    widths = np.array([width for width, _ in known], dtype=float)
    losses = np.array([loss["estimate"] for _, loss in known])
    sd = np.array([(loss["high"] - loss["low"]) / (2 * NORMAL_NINETY) for _, loss in known])
    noise = np.random.default_rng(0).standard_normal((DRAWS, len(known)))
    return Optima(widths, losses, sd**2, losses + sd * noise)


def predicted(levels: Optima, width: int) -> dict[str, float]:
    """Return the loss at a width by the mixture of laws, with its 90 % interval."""
    found = predicted_at(mix_laws(levels, rng=np.random.default_rng(0)), width)
    assert found is not None, "three widths have a law"
    return found


def entry(case: Case) -> dict[str, Any]:
    """Return a case with both predictions."""
    return {
        "study": case.study,
        "arm": case.arm,
        "from": [int(width) for width in case.narrower.widths],
        "width": case.width,
        "found": round(case.found, 5),
        "mended": predicted(mended(case.narrower), case.width),
        "as_it_is": predicted(case.narrower, case.width),
    }


def summary(entries: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """Count the losses held, with the median error and width of the interval."""
    return {
        name: {
            "cases": len(entries),
            "held": sum(_holds(e[name], e["found"]) for e in entries),
            "error": measure.spread([abs(e[name]["estimate"] - e["found"]) for e in entries]),
            "width": measure.spread([e[name]["high"] - e[name]["low"] for e in entries]),
        }
        for name in ("mended", "as_it_is")
    }


def _holds(interval: dict[str, float], found: float) -> bool:
    return interval["low"] <= found <= interval["high"]


def _cells(e: dict[str, Any]) -> list[str]:
    said = [_said(e[name], e["found"]) for name in ("mended", "as_it_is")]
    widths = ", ".join(map(str, e["from"]))
    return [e["study"], e["arm"], widths, str(e["width"]), f"{e['found']:.4f}", *said]


def _said(interval: dict[str, float], found: float) -> str:
    missed = "" if _holds(interval, found) else " missed"
    return f"{interval['estimate']:.3f} ({interval['low']:.3f} to {interval['high']:.3f}){missed}"


def main(argv: Sequence[str] | None = None) -> int:
    """Predict, print the table and write the record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.loss_ahead", description=__doc__)
    parser.add_argument("--studies", type=Path, default=RESULTS / "studies")
    parser.add_argument("--out", type=Path, default=RESULTS / "benchmarks" / "loss_ahead.json")
    arguments = parser.parse_args(argv)
    entries = [entry(case) for case in cases(arguments.studies)]
    answer = measure.record("loss_ahead", {"draws": DRAWS}, measure.machine())
    answer |= {"summary": summary(entries), "cases": entries}
    measure.publish(answer, COLUMNS, [_cells(e) for e in entries], arguments.out)
    for name, counted in answer["summary"].items():
        print(f"{name}: {counted['held']} of {counted['cases']} held")
    return 0


if __name__ == "__main__":
    sys.exit(main())
