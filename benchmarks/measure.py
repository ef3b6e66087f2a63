"""What all benchmarks share: the machine, a command's wall time, figures, tables and the record."""

from __future__ import annotations

import argparse
import os
import platform
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any, NamedTuple

from hptransfer.results.folder import write_json
from hptransfer.results.provenance import provenance
from hptransfer.system.files import write_text

PACKAGES = ("torch", "ray", "hydra-core", "numpy", "scipy", "pandas", "matplotlib")


@dataclass(frozen=True)
class Figure:
    """A measured quantity: its values, one for each run, and the aim that its median must keep."""

    name: str
    unit: str
    values: tuple[float, ...]
    aim: float | None = None  # the median must lie below; None: reported only

    @property
    def verdict(self) -> str:
        """Say pass or fail; nothing where there is no aim."""
        if self.aim is None:
            return ""
        return "pass" if statistics.median(self.values) < self.aim else "fail"

    def record(self) -> dict[str, Any]:
        """Return the figure for JSON."""
        return {
            "name": self.name,
            "unit": self.unit,
            "aim": self.aim,
            **spread(self.values),
            "verdict": self.verdict or None,
        }

    def cells(self) -> list[str]:
        """Return the figure as cells of `FIGURE_COLUMNS`."""
        kept = spread(self.values)
        aim = "-" if self.aim is None else f"< {self.aim:g}"
        numbers = [f"{kept[name]:.2f}" for name in ("median", "min", "max")]
        return [self.name, self.unit, aim, *numbers, self.verdict or "-"]


FIGURE_COLUMNS = ("figure", "unit", "aim", "median", "min", "max", "verdict")


def spread(values: Sequence[float]) -> dict[str, Any]:
    """Return median, least, greatest and number of values."""
    return {
        "median": round(statistics.median(values), 4),
        "min": round(min(values), 4),
        "max": round(max(values), 4),
        "n": len(values),
    }


def count(text: str) -> int:
    """Read a positive whole number from the command line."""
    number = int(text)
    if number < 1:
        raise argparse.ArgumentTypeError(f"it must be 1 or more, but is {number}")
    return number


def machine() -> dict[str, Any]:
    """Describe the machine, and how busy it is already."""
    return {
        "cpu": _cpu_model(),
        "cores": _usable_cores(),
        "load_at_start": round(os.getloadavg()[0], 2),  # processes that want a core, last minute
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "keeps_bytecode": not sys.dont_write_bytecode,  # else each process compiles our files
        "versions": {name: _version(name) for name in PACKAGES},
    }


def _version(package: str) -> str | None:
    """Return a package's version; null where it is not installed, as Ray on a lent GPU machine."""
    try:
        return version(package)
    except PackageNotFoundError:
        return None


def _cpu_model() -> str:
    listing = Path("/proc/cpuinfo")
    lines = listing.read_text().splitlines() if listing.is_file() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor()


def _usable_cores() -> int:
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


class Spent(NamedTuple):
    """The seconds that a command took: wall time, and CPU time with that of its children."""

    wall: float
    cpu: float


def spent_seconds(command: Sequence[str], *, code: int = 0) -> Spent:
    """Run a command to its end and return its seconds; another exit code is no measurement."""
    before = resource.getrusage(resource.RUSAGE_CHILDREN)
    started = time.perf_counter()
    ended = subprocess.run(command, capture_output=True, text=True, check=False)
    wall = time.perf_counter() - started
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    if ended.returncode != code:
        raise RuntimeError(
            f"{' '.join(command)} ended with {ended.returncode}:\n{ended.stderr.strip()}"
        )
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    return Spent(wall, cpu)


def wall_seconds(command: Sequence[str]) -> float:
    """Run a command to its end and return its wall time; one that fails is no measurement."""
    return spent_seconds(command).wall


def record(benchmark: str, settings: dict[str, Any], described: dict[str, Any]) -> dict[str, Any]:
    """Begin a benchmark's JSON: what ran, how, where, and on which code."""
    return {
        "benchmark": benchmark,
        "settings": settings,
        "machine": described,
        "provenance": provenance(),
    }


def publish(
    answer: dict[str, Any], columns: Sequence[str], rows: Sequence[Sequence[str]], out: Path
) -> None:
    """Print a benchmark's table and machine, and write its JSON."""
    write_json(out, answer)
    print(table_text(columns, rows))
    print(machine_line(answer["machine"]))
    print(f"record  {out}")


def machine_line(described: dict[str, Any]) -> str:
    """Say in one line where the figures were taken."""
    found = described["versions"].items()
    versions = ", ".join(f"{name} {number}" for name, number in found if number is not None)
    return (
        f"machine {described['cpu']}, {described['cores']} cores (load {described['load_at_start']}"
        f" at the start), Python {described['python']}, {versions}"
    )


def write_between(page: Path, name: str, text: str) -> None:
    """Put a text into a page between the line `<!-- name -->` and the next `<!-- end -->`."""
    before, mark, rest = page.read_text().partition(f"<!-- {name} -->\n")
    _, end, after = rest.partition("<!-- end -->")
    if not (mark and end):
        raise SystemExit(f"{page} has no lines `<!-- {name} -->` and `<!-- end -->`.")
    write_text(page, f"{before}{mark}{text}\n{end}{after}")


def table_text(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """Lay out a Markdown table, so that it can be copied into README.md as it stands."""
    lines = [columns, *rows]
    widths = [max(len(line[i]) for line in lines) for i in range(len(columns))]
    rule = ["-" * width for width in widths]
    return "\n".join(
        "| "
        + " | ".join(cell.ljust(width) for cell, width in zip(line, widths, strict=True))
        + " |"
        for line in (columns, rule, *rows)
    )
