"""Trial-steps per second of proxies on one device: ours beside one process per trial and sharing.

    python -m benchmarks.throughput [--device cuda] [--shapes 72,6,64,64 ...] [--only METHOD ...]
        [--sizes 1 2 4 ...] [--minutes 9] [--resume] [--all] [--small] [--show] [--profile]

Every method trains a DiT with a learned variance under DDPM's hybrid loss with AdamW, labels
dropped, and keeps an EMA; latents are synthetic, and VAE and reading are left out everywhere.

official          one trial in one process as the released script trains it: eager, float32
                  parameters, TF32 products, `loss.item()` each step (`throughput_baseline`)
official_bf16     the same under bfloat16 autocast
shared_eager      k such processes at once on the device, k of 1, 2, 4, 8, in the best precision;
shared_compiled   the same with compiled blocks; the sum of their rates in a common window
ours              T trials as one pack, T doubling while that gains 3 % (on the CPU up to 8), in the
                  best precision: eight learning rates, then the next seed; latents and noise come
                  from main memory, which the others spare
ours_fp32         the same in float32 with TF32 products

T or k is that of the highest rate, the median of `--blocks` blocks; all others are under `runs`.
Warm-up: from configs to the end of the tenth step (third on the CPU), with an empty compiler cache,
and cached with that of the same shape; process and driver start are left out. Memory: what torch
reserved, summed over processes (on the CPU: resident). Utilisation: model FLOPs over the rate of a
large product measured in the same run; the roofline: `throughput_roofline`.

Each measurement runs in processes of its own under `--limit` seconds; what fails becomes a row with
an `error`. The record is written after every one; `--resume` measures what it lacks or what failed,
`--minutes` ends the benchmark in time. Shapes with aims come first, `official` and `ours` before
all others. A width of a multiple of 72 has heads of 72 and 1,000 classes, any other heads of 8 and
10 classes. `--show` prints and draws the record, `--profile` says where our time goes.
"""

from __future__ import annotations

import argparse
import json
import math
import signal
import sys
import tempfile
import time
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType
from typing import Any

from benchmarks import measure
from benchmarks.throughput_plot import draw
from benchmarks.throughput_processes import Cut, Failed, Machine, run
from benchmarks.throughput_rows import (
    AIM_COLUMNS,
    COLUMNS,
    Row,
    aims,
    cells,
    key_of,
    method_row,
    rate,
    size_of,
)
from benchmarks.throughput_search import Task, search
from benchmarks.throughput_shapes import (
    AIMED,
    METHODS,
    PACK_SIZES,
    PROCESSES,
    Shape,
    precision_of,
    shape_of,
    shapes_of,
)
from hptransfer.results.folder import write_json
from hptransfer.results.provenance import provenance

SAME = ("device", "commit", "threads", "compile", "graph")  # of a row that is continued
CPU_METHODS = ("official", "ours", "shared_eager")
PROFILE_COLUMNS = ("width, depth, batch, tokens", "T", "group", "share of the time")


def main(argv: Sequence[str] | None = None) -> int:
    """Measure, print the tables, write the record and draw it."""
    arguments = _arguments(argv)
    rows = _rows(arguments.out) if arguments.resume or arguments.show or arguments.profile else []
    machine = _machine(arguments)
    if arguments.profile:
        return _profile(arguments, machine, rows)
    if not arguments.show:
        try:
            rows = _measure(arguments, machine, rows)
        except Failed as error:
            print(f"The device could not be measured: {error}", file=sys.stderr)
            return 1
    _publish(rows, arguments.out, gpu=machine.gpu)
    return 0


def _arguments(argv: Sequence[str] | None) -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="python -m benchmarks.throughput",
        description=__doc__,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add = parser.add_argument
    add("--device", help="cpu, cuda or cuda:N; a GPU where there is one unless told")
    add("--shapes", type=shape_of, nargs="+", help="width,depth,batch,tokens each")
    add("--all", action="store_true", help="every width, depth, batch and tokens")
    add("--small", action="store_true", help="tiny shapes and short blocks: a smoke test")
    add("--only", choices=METHODS, nargs="+", help="methods")
    add("--sizes", type=measure.count, nargs="+", help="trials of a pack to try, rising")
    add("--processes", type=measure.count, nargs="+", help="processes to try, rising")
    add("--seconds", type=float, help="of one timed block, about")
    add("--blocks", type=measure.count, default=3, help="timed blocks of each measurement")
    add("--limit", type=float, default=240.0, help="seconds of one measurement")
    add("--minutes", type=float, default=math.inf, help="of the whole benchmark")
    add("--threads", type=measure.count, default=1, help="CPU threads of a process")
    add("--compile", action=argparse.BooleanOptionalAction, help="our blocks compiled or not")
    add("--graph", action=argparse.BooleanOptionalAction, help="our steps captured or not")
    add("--resume", action="store_true", help="keep the record and measure what it lacks")
    add("--show", action="store_true", help="measure nothing: table and plot of the record")
    add("--profile", action="store_true", help="profile our fastest packs of the record")
    add("--commit", help="of the code, where there is no git")
    add("--out", type=Path)
    found = parser.parse_args(argv)
    found.device = found.device or ("cuda" if _gpu_here() else "cpu")
    gpu = found.device.startswith("cuda")
    name = "throughput.json" if gpu else "throughput_cpu.json"
    found.out = found.out or Path("results/benchmarks") / name
    found.seconds = found.seconds or (0.02 if found.small else 1.0)
    few = (1, 2) if found.small else (1, 2, 4, 8)
    found.sizes = tuple(found.sizes or (PACK_SIZES if gpu else few))
    found.processes = tuple(found.processes or (PROCESSES if gpu else (1, 2)))
    return found


def _gpu_here() -> bool:
    import torch

    return torch.cuda.is_available()


def _machine(arguments: argparse.Namespace) -> Machine:
    return Machine(
        device=arguments.device,
        threads=arguments.threads,
        seconds=arguments.seconds,
        blocks=arguments.blocks,
        limit=arguments.limit,
        deadline=time.monotonic() + 60 * arguments.minutes,
    )


def _rows(file: Path) -> list[Row]:
    """Read a record's rows; there are none where there is no file."""
    if not file.is_file():
        return []
    try:
        rows = json.loads(file.read_text(encoding="utf-8"))
        [key_of(row) for row in rows]
    except (ValueError, KeyError, TypeError):
        raise SystemExit(
            f"{file} must be a record that this benchmark wrote, but it is not. Move it away, or "
            "name another with --out."
        ) from None
    return rows


def ordered(shapes: Sequence[Shape], methods: Sequence[str]) -> list[tuple[Shape, str]]:
    """Return what is measured in which order: shapes with aims first, and there the main ratio."""
    first = [method for method in methods if method in ("official", "ours")]
    aimed = [shape for shape in shapes if shape in AIMED]
    pairs = [(shape, method) for shape in aimed for method in first]
    every = sorted(shapes, key=lambda shape: shape not in AIMED)
    return list(dict.fromkeys([*pairs, *((shape, m) for shape in every for m in methods)]))


def _measure(arguments: argparse.Namespace, machine: Machine, earlier: list[Row]) -> list[Row]:
    """Return the record's rows, those that were measured anew in the place of earlier ones."""
    context = _context(arguments, machine)
    rows = {key_of(row): row for row in earlier}
    shapes = shapes_of(arguments.shapes, gpu=machine.gpu, small=arguments.small, full=arguments.all)
    methods = [
        m for m in METHODS if m in (arguments.only or (METHODS if machine.gpu else CPU_METHODS))
    ]
    tasks = ordered(shapes, methods)
    for number, (shape, method) in enumerate(tasks):
        precision = precision_of(method, gpu=machine.gpu)
        task = Task(shape, method, precision, arguments.compile, arguments.graph)
        key = (shape.size, method.removesuffix("_fp32"), precision)
        known = rows.get(key)
        same = known and all(known[name] == context[name] for name in SAME)
        kept: list[Row] = known["runs"] if known and same else []
        if method == "shared_eager" and not kept:
            kept = _alone(rows, shape, precision)

        def keep(runs: list[Row], one: Row, task: Task = task, key: Any = key) -> None:
            context["date"] = datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ")
            rows[key] = method_row(task.shape, task.method, task.precision, runs, context)
            write_json(arguments.out, list(rows.values()))
            _say(task, one)

        sizes, first_only = _sizes(arguments, task, rows)
        try:
            search(machine, task, sizes, kept, keep, first_only=first_only)
        except Cut:
            left = [f"{shape} {method}" for shape, method in tasks[number:]]
            print(f"--minutes are over; --resume goes on with: {'; '.join(left)}", file=sys.stderr)
            break
    return list(rows.values())


def _alone(rows: dict[Any, Row], shape: Shape, precision: str) -> list[Row]:
    """Return what one unshared process of the same precision gave: it is k = 1 of the shared."""
    name = "official_bf16" if precision == "bf16" else "official"
    found = rows.get((shape.size, name, precision))
    return [one for one in found["runs"] if one["error"] is None] if found else []


def _context(arguments: argparse.Namespace, machine: Machine) -> Row:
    """Return what rows say of the device, the machine and the code."""
    with tempfile.TemporaryDirectory() as name:
        job = {"kind": "peaks", "small": arguments.small}
        ((answer,), _) = run(machine, [job], Path(name))
    described, code = measure.machine(), provenance()
    return {
        **answer,
        "commit": arguments.commit or code["commit"],
        "versions": {**answer["versions"], "hptransfer": code["hptransfer"]},
        "threads": machine.threads,
        "compile": arguments.compile,
        "graph": arguments.graph,
        "cpu": described["cpu"],
        "cores": described["cores"],
        "load_at_start": described["load_at_start"],
    }


def _sizes(
    arguments: argparse.Namespace, task: Task, rows: dict[Any, Row]
) -> tuple[tuple[int, ...], bool]:
    """Return the sizes to try, and whether the first that works is enough."""
    if not task.packed:
        return (arguments.processes if task.method.startswith("shared") else (1,)), False
    best = rows.get((task.shape.size, "ours", "bf16"))
    if task.method == "ours_fp32" and best and best["T"]:
        return tuple(best["T"] >> i for i in range(best["T"].bit_length())), True
    return arguments.sizes, False


def _say(task: Task, one: Row) -> None:
    said = one["error"] or (
        f"{rate(one):.4g} trial-steps/s, warm-up {one['warmup_seconds']} s "
        f"(cached {one['warmup_cached_seconds'] or '–'}), {one['gib']} GiB"
    )
    print(
        f"{task.shape}  {task.method} {task.precision}  {one['size']}: {said}",
        file=sys.stderr,
        flush=True,
    )


def _publish(rows: list[Row], out: Path, *, gpu: bool) -> None:
    """Print the tables and draw the plot."""
    rows = sorted(rows, key=lambda row: [s.size for s in AIMED].count(size_of(row)) == 0)
    print(measure.table_text(COLUMNS, cells(rows)))
    if found := aims(rows, gpu=gpu):
        print(f"\n{measure.table_text(AIM_COLUMNS, found)}")
    print(f"\nrecord  {out}")
    if any(row["trial_steps_per_second"] for row in rows):
        draw(rows, out.with_suffix(".png"))
        print(f"plot    {out.with_suffix('.png')}")


def _profile(arguments: argparse.Namespace, machine: Machine, rows: list[Row]) -> int:
    """Profile our fastest packs at the chosen shapes, those with aims unless told."""
    asked = [shape.size for shape in arguments.shapes or AIMED]
    ours = [row for row in rows if row["method"] == "ours" and row["T"]]
    chosen = [row for row in ours if size_of(row) in asked] or ours
    if not chosen:
        print(f"{arguments.out} holds no pack of ours to profile: measure first.", file=sys.stderr)
        return 1
    found, table = [], []
    for row in chosen:
        fields = Shape.__dataclass_fields__
        shape = Shape(**{name: row[name] for name in fields})
        task = Task(shape, "ours", row["precision"], arguments.compile, arguments.graph)
        job = {**task.job(machine, row["T"]), "kind": "profile"}
        kept = {name: row[name] for name in (*fields, "device", "precision", "T", "commit")}
        try:
            with tempfile.TemporaryDirectory() as name:
                ((answer,), _) = run(machine, [job], Path(name))
        except (Failed, Cut) as error:
            answer = {"error": str(error) or "--minutes are over", "groups": {}}
        found.append({**kept, **answer})
        write_json(arguments.out.with_name(f"{arguments.out.stem}_profile.json"), found)
        table += [
            [str(shape), str(row["T"]), group, f"{100 * share:.1f} %"]
            for group, share in (answer["groups"] or {answer.get("error", ""): 0.0}).items()
        ]
    print(measure.table_text(PROFILE_COLUMNS, table))
    return 0


def _end(number: int, frame: FrameType | None) -> None:
    """End the processes too that this one started."""
    raise SystemExit(128 + number)


if __name__ == "__main__":
    signal.signal(signal.SIGTERM, _end)
    sys.exit(main())
