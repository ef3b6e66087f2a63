"""How long a user waits for help, for `fit` and for `plot` of a large ledger, as whole processes.

    python -m benchmarks.latency [--runs 5] [--rows 10000] [--out results/benchmarks/latency.json]

Wall seconds from starting `python -m hptransfer ...` to its end. Each command runs once untimed, so
that files are in memory and bytecode is compiled, and then `--runs` times; the three take turns, so
that a busy spell of the machine meets all of them. Where PYTHONDONTWRITEBYTECODE is set no bytecode
is kept and each process compiles hptransfer anew (`keeps_bytecode` in the record): unset it, since
an installed package has its bytecode. The ledger is synthetic (`synthetic.py`).
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from pathlib import Path

from benchmarks import measure
from benchmarks.synthetic import write_folder

# Seconds that the median of each command must stay below.
AIMS = {"help": 0.4, "fit": 2.0, "plot": 3.5}


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
        figures = _figures(folder, arguments)
    settings = {"runs": arguments.runs, "rows": arguments.rows}
    answer = measure.record("latency", settings, described)
    answer["figures"] = [figure.record() for figure in figures]
    cells = [figure.cells() for figure in figures]
    measure.publish(answer, measure.FIGURE_COLUMNS, cells, arguments.out)
    return 0


def _figures(folder: Path, arguments: argparse.Namespace) -> list[measure.Figure]:
    words = {"help": ["--help"], "fit": ["fit", str(folder)], "plot": ["plot", str(folder)]}
    names = {
        "help": "hptransfer --help",
        "fit": f"hptransfer fit, {arguments.rows} rows",
        "plot": f"hptransfer plot, {arguments.rows} rows",
    }
    seconds: dict[str, list[float]] = {name: [] for name in words}
    for turn in range(arguments.runs + 1):
        for name, given in words.items():
            taken = measure.wall_seconds([sys.executable, "-m", "hptransfer", *given])
            if turn:  # the first warms up
                seconds[name].append(taken)
    return [measure.Figure(names[n], "s", tuple(seconds[n]), AIMS[n]) for n in words]


if __name__ == "__main__":
    sys.exit(main())
