"""Everything that a GPU must show, in one command and a quarter of an hour, into one folder.

    python -m benchmarks.gpu_quarter_hour --out FOLDER [--minutes 15] [--data FOLDER]

It takes a machine with one GPU, and needs no Ray. The steps, in this order:

tests        the tests marked `gpu`, but for the next step's
isolation    a member that dies changes no other to the bit, in captured packs
throughput   `benchmarks.throughput` at the three shapes with aims: ours, the released script's step
             and processes that share the GPU
sweep        a slice of `lr_transfer_fashion`; `--data` or HPTRANSFER_FASHION_MNIST names the folder
             with the data set's four files, and without one the step is left out

Each step has a share of the minutes and takes what earlier ones leave. The folder gets what a step
writes, its output as `<step>.txt`, and its record `<step>.json`: command, device, date, versions,
seconds, and how it ended (passed, failed, cut off or left out). `summary.md` has a row for each.
The same command again goes on: steps that passed or failed are skipped, the others continue.
"""

from __future__ import annotations

import argparse
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from contextlib import suppress
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from benchmarks import measure
from benchmarks.throughput_shapes import AIMED
from hptransfer.results.folder import write_json
from hptransfer.results.provenance import provenance

END_SECONDS = 20.0  # that a step has to end after SIGTERM
METHODS = ("official", "ours", "official_bf16", "shared_eager", "shared_compiled")
COLUMNS = ("step", "ended", "seconds", "last line")
DONE = ("passed", "failed")  # of which a step is not run again
DATA = "HPTRANSFER_FASHION_MNIST"


class Step(NamedTuple):
    """A command and its share of all minutes; `command` is empty where it cannot run."""

    name: str
    share: float
    command: tuple[str, ...]


def steps(out: Path, data: str | None) -> list[Step]:
    """Return the steps in their order, each a command of this Python."""
    python = (sys.executable, "-m")
    quiet = ("-q", "-p", "no:cacheprovider", "--continue-on-collection-errors")
    tests = (*python, "pytest", *quiet, *marked_files(), "-m", "gpu", "-k")
    shapes = [",".join(map(str, shape.size)) for shape in AIMED]
    throughput = (*python, "benchmarks.throughput", "--device", "cuda", "--resume", "--shapes")
    record = ("--only", *METHODS, "--out", str(out / "throughput_rows.json"))
    sweep = (*python, "hptransfer", "run", "lr_transfer_fashion", "--results", str(out / "sweep"))
    return [
        Step("tests", 0.3, (*tests, "not a_dead_member")),
        Step("isolation", 0.2, (*tests, "a_dead_member")),
        Step("throughput", 0.35, (*throughput, *shapes, *record)),
        Step("sweep", 1.0, (*sweep, f"runtime.data_folder={data}") if data else ()),
    ]


def marked_files() -> list[str]:
    """Return the files with tests marked `gpu`: others may import packages that are not there."""
    found = sorted((Path(__file__).parents[1] / "tests").rglob("test_*.py"))
    return [str(path) for path in found if "pytest.mark.gpu" in path.read_text(encoding="utf-8")]


def main(argv: Sequence[str] | None = None) -> int:
    """Run what is missing; return 0 if everything passed, 1 if not, 2 without a GPU."""
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.gpu_quarter_hour",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--out", type=Path, required=True, help="the folder that comes back")
    parser.add_argument("--minutes", type=float, default=15.0, help="of the whole command")
    parser.add_argument("--data", default=os.environ.get(DATA), help="folder of Fashion-MNIST")
    asked = parser.parse_args(argv)
    import torch

    if not torch.cuda.is_available():
        print(
            "A GPU must be there, but torch sees none on this machine. Run the same command where "
            "nvidia-smi lists one.",
            file=sys.stderr,
        )
        return 2
    facts = {"device": torch.cuda.get_device_name(), **measure.machine(), **provenance()}
    return run(steps(asked.out, asked.data), asked.out, 60 * asked.minutes, facts)


def run(todo: Sequence[Step], out: Path, seconds: float, facts: dict[str, Any]) -> int:
    """Run the steps that have not ended within `seconds` in all; write records and summary."""
    out.mkdir(parents=True, exist_ok=True)
    ends = time.monotonic() + seconds
    for step in todo:
        file = out / f"{step.name}.json"
        if file.is_file() and json.loads(file.read_text(encoding="utf-8"))["ended"] in DONE:
            continue
        left = ends - time.monotonic() - END_SECONDS
        limit = min(left, step.share * seconds)
        write_json(file, {**facts, **_ended(step, out / f"{step.name}.txt", limit)})
        _summarise(todo, out)
    records = _summarise(todo, out)
    return 0 if all(record["ended"] == "passed" for record in records) else 1


def _ended(step: Step, output: Path, limit: float) -> dict[str, Any]:
    """Run a step for at most `limit` seconds, and return how it ended."""
    date = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
    record = {"step": step.name, "date": date, "command": list(step.command), "seconds": 0.0}
    if not step.command or limit <= 0:
        why = f"--data names no folder, nor does {DATA}" if not step.command else "no time was left"
        return {**record, "ended": "left out", "last_line": why}
    print(f"{step.name}: at most {limit:.0f} s", file=sys.stderr, flush=True)
    began = time.monotonic()
    with output.open("wb") as file:
        process = subprocess.Popen(
            step.command, stdout=file, stderr=subprocess.STDOUT, start_new_session=True
        )
        try:
            ended = "passed" if process.wait(limit) == 0 else "failed"
        except subprocess.TimeoutExpired:
            ended = "cut off"
        finally:
            _end(process)
    lines = output.read_text(encoding="utf-8", errors="replace").strip().splitlines() or [""]
    seconds = round(time.monotonic() - began, 1)
    return {**record, "seconds": seconds, "ended": ended, "last_line": lines[-1]}


def _end(process: subprocess.Popen[bytes]) -> None:
    """End a step and the processes that it started; one that has ended already stays as it is."""
    for number in (signal.SIGTERM, signal.SIGKILL):
        with suppress(ProcessLookupError):
            os.killpg(process.pid, number)
        with suppress(subprocess.TimeoutExpired):
            process.wait(END_SECONDS)


def _summarise(todo: Sequence[Step], out: Path) -> list[dict[str, Any]]:
    """Write summary.md from the records so far, and return them."""
    files = [out / f"{step.name}.json" for step in todo]
    records = [json.loads(f.read_text(encoding="utf-8")) for f in files if f.is_file()]
    rows = [[r["step"], r["ended"], f"{r['seconds']:g}", r["last_line"]] for r in records]
    facts = records[0] if records else {}
    head = f"# A quarter of an hour on {facts.get('device')}\n\n{facts.get('date')}, commit "
    table = measure.table_text(COLUMNS, rows)
    (out / "summary.md").write_text(f"{head}{facts.get('commit')}\n\n{table}\n", encoding="utf-8")
    return records


if __name__ == "__main__":
    sys.exit(main())
