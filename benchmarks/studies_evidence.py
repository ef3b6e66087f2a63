"""The short tables of docs/evidence/README.md, from the records of the two benchmarks behind it.

`benchmarks.leave_widest_out` and `benchmarks.planted` write the long tables of that page.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from benchmarks.planted import REFERENCE, SMOOTH
from benchmarks.studies_words import table
from hptransfer.results.folder import read_json

PAGE = "docs/evidence/README.md"
OURS = "ours"
CORNERS = {"kink": "a kink at the minimum", "V": "a V", "two minima": "two minima"}
STEEP = ("quartic", "cosh")
# Studies that ran after the constants of the analysis had been chosen.
LATER = (
    *("frechet", "four_axes", "four_axes_without_duration", "four_axes_width_alone"),
    *("lr_transfer_muon", "quickstart_muon", "ema_frechet"),
)
LATER_ARM = "quickstart-dit_modern "  # likewise, in a group of earlier ones
TURNING, BENDING = "turn", "late bend"
Cell = Mapping[str, Any]


def evidence_blocks(benchmarks: Path) -> dict[str, str]:
    """Return the generated blocks of the page, by the names of their markers."""
    predicted = read_json(benchmarks / "leave_widest_out.json", "summary")
    planted = read_json(benchmarks / "planted.json", "cells")
    assert predicted is not None and planted is not None, "both records are committed"
    return {
        "next_width": _next_width(predicted),
        "planted": _planted(planted),
        "short": _short(planted["cells"]),
    }


def _next_width(record: Mapping[str, Any]) -> str:
    """Return the table of recorded and public sweeps, and what was found of the loss."""
    entries = {(e["group"], e["method"]): e for e in record["summary"]}
    names = {"all recorded": "recorded studies", "all public": "public sweeps", "all": "together"}
    rows = [_next_width_row(name, group, entries) for group, name in names.items()]
    columns = (
        "", "tasks", "interval holds the optimum found", "mean cost of the value",
        "of the best other method",
    )  # fmt: skip
    losses = record["losses"]
    return "\n\n".join(
        [
            f"n = {len(record['cases'])} tasks; costs in percent of the loss. Recorded on "
            f"{_day(record)}.",
            table(columns, rows),
            f"The loss at the optimum that was found lies in its own 90 % interval in "
            f"{losses['held']} of {losses['n']} tasks; the median error is "
            f"{losses['median_error_percent']:.1f} %.",
            _later(record["cases"]),
        ]
    )


def _later(cases: Sequence[Mapping[str, Any]]) -> str:
    """Say how often the intervals held in studies at which no constant was chosen."""
    found = [c for c in cases if c["group"] in LATER or c["arm"].startswith(LATER_ARM)]
    held = [c["methods"][OURS]["held"] for c in found]
    missed = sorted({c["group"] for c in found if c["methods"][OURS]["held"] is False})
    groups = " and ".join(f"`{group}`" for group in missed)
    where = f", and missed in {groups}" if missed else ""
    return (
        f"Of studies that ran after the constants of the analysis had been chosen, the interval "
        f"held in {held.count(True)} of {held.count(True) + held.count(False)} tasks{where}."
    )


def _next_width_row(
    name: str, group: str, entries: Mapping[tuple[str, str], Mapping[str, Any]]
) -> list[str]:
    ours = entries[group, OURS]
    others = [e for (g, method), e in entries.items() if g == group and method != OURS]
    best = min(others, key=lambda e: e["mean_percent"])
    return [
        name,
        str(ours["n"]),
        f"{ours['held']} of {ours['intervals']}",
        f"{ours['mean_percent']:.2g} %",
        f"{best['mean_percent']:.2g} % ({best['method']})",
    ]


def _day(record: Mapping[str, Any]) -> str:
    return record["provenance"]["time"][:10]


def _planted(record: Mapping[str, Any]) -> str:
    settings, cells = record["settings"], record["cells"]
    command = (
        f"$ python -m benchmarks.planted --repeats {settings['repeats']} --others "
        f"{settings['others']} --jobs 3 --page {PAGE}"
    )
    reference = [cell for cell in cells if cell["design"] == REFERENCE]
    few = sorted({cell["n"] for cell in cells})
    said = (
        f"{len(reference)} cells of {few[-1]} sweeps in the reference design, the same cells of "
        f"{few[0]} sweeps in every other design: {sum(cell['n'] for cell in cells):,} sweeps in "
        f"all. Recorded on {_day(record)}."
    )
    smooth = [cell for cell in reference if cell["shape"] in SMOOTH]
    rows = {"smooth curves": smooth, "all curves": reference}
    return "\n\n".join([f"```console\n{command}\n```", said, _judged("reference design", rows)])


def _short(cells: Sequence[Cell]) -> str:
    """Return the table of what falls short."""
    reference = [cell for cell in cells if cell["design"] == REFERENCE]
    three = [cell for cell in cells if cell["design"] == "three widths"]
    rows = {name: _shaped(reference, (shape,)) for shape, name in CORNERS.items()}
    rows["a curve that steepens on both sides"] = _shaped(reference, STEEP)
    rows["… with one seed"] = _shaped([c for c in cells if c["design"] == "one seed"], STEEP)
    rows["an optimum that turns back"] = _following(_shaped(reference, SMOOTH), TURNING)
    rows["three widths"] = _shaped(three, SMOOTH)
    rows["… and a bend behind the widest"] = _following(_shaped(three, SMOOTH), BENDING)
    return _judged("", rows)


def _shaped(cells: Sequence[Cell], shapes: Sequence[str]) -> list[Cell]:
    return [cell for cell in cells if cell["shape"] in shapes]


def _following(cells: Sequence[Cell], law: str) -> list[Cell]:
    return [cell for cell in cells if cell["law"] == law]


def _judged(name: str, rows: Mapping[str, Sequence[Cell]]) -> str:
    """Return a table of the means over some cells."""
    columns = (
        name, "interval holds the optimum", "cost within what was told", "wrong answers", "unclear",
    )  # fmt: skip
    shares = ("target", "cost", "wrong", "unclear")
    return table(
        columns,
        [[what, *(_share(cells, share) for share in shares)] for what, cells in rows.items()],
    )


def _share(cells: Sequence[Cell], share: str) -> str:
    return f"{100 * sum(cell[share] for cell in cells) / len(cells):.0f} %"
