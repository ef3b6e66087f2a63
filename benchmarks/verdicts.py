"""How often the verdict is right, and how often the intervals hold, on arms whose truth is known.

    python -m benchmarks.verdicts [--repeats 2000] [--jobs 1] [--out FILE]

Until all are done finished cells are kept in FILE.cells, one a line; after a break the same command
goes on from there.

What is planted, and how true regrets are classed, stands in tests/support/planted_arms.py. Every
cell
(seeds, grid step in octaves, shape of the basin) has noise of 0.2 % of the loss, five widths, 400
draws.

Columns: `drifts, low` is the share of `drifts` among arms whose true regret is at most δ/2 (aim:
2 % at most), `transfers, high` that of `transfers` where it is at least 2 δ (2 %), `inconclusive`
that of both classes together (20 %), each by the δ that was fitted; `between` lists transfers,
inconclusive and drifts of the rest. `R` and `θ` are the shares of arms whose true regret and
optimum at the target lie within their 90 % intervals, both ends included (aim: at least 85 %, and R
strictly at most 95 % from three seeds and a step of one octave on), beside their median width, in δ
and in octaves. `strictly` leaves out what planted_arms.py allows for regrets near zero; `below` and
`above` say on which side of R's interval the truth was missed. Arms with fewer than three usable
widths have no interval and are not counted there.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from pathlib import Path
from typing import Any

from benchmarks import measure
from tests.support import planted, planted_arms

ROOT = Path(__file__).resolve().parents[1]

SETTINGS = (  # seeds, step
    *((3, 0.5), (3, 1.0), (5, 0.5), (5, 1.0), (10, 0.5), (10, 1.0)),
    *((1, 1.0), (2, 1.0), (3, 2.0)),
)
COLUMNS = (
    *("seeds", "step", "shape", "drifts, low", "transfers, high", "inconclusive", "between"),
    *("R", "strictly", "below", "above", "width", "θ", "width"),
)


def cells() -> list[planted.Cell]:
    """Return the cells: every shape at every setting."""
    return [planted.Cell(seeds, step, s) for seeds, step in SETTINGS for s in planted.SHAPES]


def entry(cell: planted.Cell, repeats: int) -> dict[str, Any]:
    """Return one cell's shares, as in the record."""
    found = planted_arms.summary(planted_arms.outcomes(cell, repeats))
    return {"seeds": cell.seeds, "step": cell.step, "shape": cell.shape, **found}


def every_entry(repeats: int, jobs: int, kept: Path) -> list[dict[str, Any]]:
    """Return every cell's entry; those in the file `kept` are read, the others added to it."""
    lines = kept.read_text().splitlines() if kept.exists() else []
    known = {_place(found): found for found in map(json.loads, lines) if found["n"] == repeats}
    left = [cell for cell in cells() if (cell.seeds, cell.step, cell.shape) not in known]
    kept.parent.mkdir(parents=True, exist_ok=True)
    with ProcessPoolExecutor(jobs) as pool, kept.open("a") as file:
        for done in as_completed([pool.submit(entry, cell, repeats) for cell in left]):
            found = done.result()
            known[_place(found)] = found
            print(json.dumps(found), file=file, flush=True)
            print(f"{len(known)} of {len(cells())} cells", file=sys.stderr)
    return [known[cell.seeds, cell.step, cell.shape] for cell in cells()]


def _place(found: Mapping[str, Any]) -> tuple[int, float, str]:
    return found["seeds"], found["step"], found["shape"]


def main(argv: Sequence[str] | None = None) -> int:
    """Draw, print the table and write the record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.verdicts", description=__doc__)
    parser.add_argument("--repeats", type=measure.count, default=2000, help="arms of a cell")
    parser.add_argument("--jobs", type=measure.count, default=1, help="processes")
    out = ROOT / "results" / "benchmarks" / "verdicts.json"
    parser.add_argument("--out", type=Path, default=out)
    arguments = parser.parse_args(argv)
    answer = measure.record("verdicts", {"repeats": arguments.repeats}, measure.machine())
    kept = arguments.out.with_suffix(arguments.out.suffix + ".cells")
    answer["cells"] = every_entry(arguments.repeats, arguments.jobs, kept)
    measure.publish(answer, COLUMNS, [_row(found) for found in answer["cells"]], arguments.out)
    kept.unlink()
    return 0


def _row(found: Mapping[str, Any]) -> list[str]:
    verdicts, regret, theta = found["verdicts"], found["regret"], found["theta"]
    rest = [verdicts["between"][name] for name in ("transfers", "inconclusive", "drifts")]
    return [
        *(str(found["seeds"]), f"{found['step']:g}", found["shape"]),
        _percent(verdicts["low"]["drifts"]),
        _percent(verdicts["high"]["transfers"]),
        _percent(found["inconclusive"]),
        "/".join(_percent(share) for share in rest),
        *(_percent(regret[name]) for name in ("coverage", "strictly", "below", "above")),
        *(_width(regret), _percent(theta["coverage"]), _width(theta)),
    ]


def _percent(share: float | None) -> str:
    return "-" if share is None else f"{100 * share:.1f}"


def _width(found: Mapping[str, Any]) -> str:
    return "-" if found["median_width"] is None else f"{found['median_width']:.2f}"


if __name__ == "__main__":
    sys.exit(main())
