"""How long a user waits for a command, as whole processes: help, refusals, answers, first trials.

    python -m benchmarks.latency [--runs 5] [--rows 10000] [--out results/benchmarks/latency.json]

Wall seconds from starting `python -m hptransfer ...` to its end, and beside them the CPU seconds of
that process and the children it waited for, which other work on the machine disturbs less (Ray's
own processes are not among them). Each command runs once untimed, so that files are in memory,
bytecode is compiled and pack sizes are cached, and then `--runs` times; all take turns, so that a
busy spell of the machine meets all of them. Where PYTHONDONTWRITEBYTECODE is set no bytecode is
kept and each process compiles hptransfer anew (`keeps_bytecode` in the record): unset it, since an
installed package has its bytecode. The ledger is synthetic (`synthetic.py`).

"First trials" is a sweep of two trials of one step at one width, into a folder of its own each
time: its end comes later than the first training step, so its time bounds the wait for that.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks import measure
from benchmarks.synthetic import write_folder

SWEPT = "quickstart sweep.widths=[24] sweep.parametrizations=[mup] sweep.seeds=[0] budget.steps=1"
AXIS = "search.lr.low=-7 search.lr.high=-6"


@dataclass(frozen=True)
class Case:
    """A command that is timed, and the wall seconds that its median must stay below."""

    name: str
    words: tuple[str, ...]  # after `python`
    aim: float | None = None
    code: int = 0  # the exit code that it must end with


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the table and write the record."""
    parser = argparse.ArgumentParser(prog="python -m benchmarks.latency", description=__doc__)
    parser.add_argument("--runs", type=measure.count, default=5, help="timed runs of each command")
    parser.add_argument("--rows", type=measure.count, default=10_000, help="rows of the ledger")
    parser.add_argument("--out", type=Path, default=Path("results/benchmarks/latency.json"))
    arguments = parser.parse_args(argv)
    described = measure.machine()
    with tempfile.TemporaryDirectory(prefix="hpt-latency-") as temporary:
        folder = Path(temporary) / "sweep"
        write_folder(folder, arguments.rows)
        figures = _figures(Path(temporary), folder, arguments)
    settings = {"runs": arguments.runs, "rows": arguments.rows}
    answer = measure.record("latency", settings, described)
    answer["figures"] = [figure.record() for figure in figures]
    cells = [figure.cells() for figure in figures]
    measure.publish(answer, measure.FIGURE_COLUMNS, cells, arguments.out)
    return 0


def cases(temporary: Path, folder: Path, rows: int, turn: int) -> list[Case]:
    """Return the commands of one turn, each of which writes below `temporary` only."""
    hpt, swept = ("-m", "hptransfer"), f"{SWEPT} {AXIS} name=turn{turn}".split()
    planned = ("plan", "quickstart", f"--results={temporary}")
    cases = [
        Case("import hptransfer", ("-c", "import hptransfer"), 0.1),
        Case("hptransfer --help", (*hpt, "--help"), 0.1),
        Case("hptransfer fit --help", (*hpt, "fit", "--help"), 0.1),
        Case("a command that there is not", (*hpt, "fitt"), 0.1, code=2),
        Case("a sweep that there is not", (*hpt, "sweep", "nothing"), code=2),
        Case("a key that there is not", (*hpt, "plan", "quickstart", "model.dept=3"), code=2),
        Case(f"hptransfer fit, {rows} rows", (*hpt, "fit", str(folder)), 1.0),
        Case(f"hptransfer plot, {rows} rows", (*hpt, "plot", str(folder)), 3.5),
        Case(f"hptransfer report, {rows} rows", (*hpt, "report", str(folder))),
        Case("hptransfer plan quickstart", (*hpt, *planned)),
    ]
    for executor in ("local", "ray"):
        root = f"--results={temporary / executor}"
        words = (*hpt, "sweep", *swept, f"executor={executor}", root, "--quiet")
        cases.append(Case(f"first trials, executor {executor}", words, 8.0))
    return cases


def _figures(temporary: Path, folder: Path, arguments: argparse.Namespace) -> list[measure.Figure]:
    wall: dict[str, list[float]] = {}
    cpu: dict[str, list[float]] = {}
    for turn in range(arguments.runs + 1):
        of_turn = cases(temporary, folder, arguments.rows, turn)
        for case in of_turn:
            taken = measure.spent_seconds([sys.executable, *case.words], code=case.code)
            if turn:  # the first warms up
                wall.setdefault(case.name, []).append(taken.wall)
                cpu.setdefault(case.name, []).append(taken.cpu)
    return [
        figure
        for case in of_turn
        for figure in (
            measure.Figure(case.name, "s", tuple(wall[case.name]), case.aim),
            measure.Figure(f"{case.name}: CPU", "s", tuple(cpu[case.name])),
        )
    ]


if __name__ == "__main__":
    sys.exit(main())
