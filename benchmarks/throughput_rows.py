"""Rows of `benchmarks.throughput`: what each size gave, the best of them, ratios, aims, tables."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

from benchmarks import measure
from benchmarks.throughput_roofline import Peaks, floor, step_flops
from benchmarks.throughput_shapes import Shape

Row = dict[str, Any]
Size = tuple[int, int, int, int]
Table = list[list[str]]

SHARED = ("shared_eager", "shared_compiled")
COLUMNS = (
    "width, depth, batch, tokens", "method", "precision", "T or k", "trial-steps/s", "range",
    "over official", "over official_bf16", "over best shared", "of peak", "over roofline", "GiB",
    "warm-up, s", "cached, s", "error",
)  # fmt: skip
AIM_COLUMNS = ("width, depth, batch, tokens", "aim", "value", "verdict")

# Ours over another method, at least; the last is seconds over the roofline, at most.
AIMS: dict[Size, dict[str, float]] = {
    (72, 6, 64, 64): {"official": 100},
    (144, 12, 32, 256): {"official": 22, "shared": 6},
    (288, 28, 256, 256): {"official": 5, "official_bf16": 2.8, "roofline": 1.4},
}
WARMUP_AIMS = {"warmup_seconds": 30.0, "warmup_cached_seconds": 5.0}  # seconds, at most


def method_row(shape: Shape, method: str, precision: str, runs: Sequence[Row], context: Row) -> Row:
    """Return a method's row: its fastest size, set against peak and roofline, and all sizes."""
    sound = [run for run in runs if run["trial_steps_per_second"] is not None]
    best = max(sound, key=rate, default=None)
    peaks = Peaks(**context["peaks"])
    row: Row = {
        **{name: context[name] for name in ("device", "date", "commit")},
        **shape.fields(),
        "method": method.removesuffix("_fp32"),
        "precision": precision,
        "T": None,
        "trial_steps_per_second": None,
        "range": None,
        "warmup_seconds": None,
        "warmup_cached_seconds": None,
        "gib": None,
        "flops_per_trial_step": step_flops(shape),
        "tflops": None,
        "utilisation": None,
        "roofline_seconds": _digits(floor(shape, precision, peaks)["seconds"]),
        "roofline_quotient": None,
        "error": None if best or not runs else runs[-1]["error"],
    }
    if best:
        speed = rate(best)
        row |= {
            "T": best["size"],
            "trial_steps_per_second": speed,
            "range": [best["trial_steps_per_second"][end] for end in ("min", "max")],
            **{name: best[name] for name in (*WARMUP_AIMS, "gib")},
            "tflops": _digits(speed * step_flops(shape) / 1e12),
            "utilisation": _digits(speed * step_flops(shape) / peaks.flops(precision)),
            "roofline_quotient": _digits(1 / speed / row["roofline_seconds"]),
        }
    # `compile` and `graph` are null where they were left to the runtime: both on on a GPU.
    kept = (
        "peaks", "threads", "compile", "graph", "cpu", "cores", "load_at_start", "versions",
    )  # fmt: skip
    return {**row, **{name: context[name] for name in kept}, "runs": list(runs)}


def size_run(
    size: int,
    *,
    rates: Sequence[float] = (),
    warmup_seconds: float | None = None,
    gib: float | None = None,
    error: str | None = None,
) -> Row:
    """Return what one size gave, or why it gave nothing."""
    return {
        "size": size,
        "trial_steps_per_second": measure.spread(rates) if rates else None,
        "warmup_seconds": warmup_seconds if warmup_seconds is None else round(warmup_seconds, 2),
        "warmup_cached_seconds": None,
        "gib": gib if gib is None else round(gib, 3),
        "error": error,
    }


def rate(run: Row) -> float:
    """Return a size's trial-steps per second."""
    return run["trial_steps_per_second"]["median"]


def size_of(row: Row) -> Size:
    """Return a row's width, depth, batch and tokens."""
    return row["width"], row["depth"], row["batch"], row["tokens"]


def key_of(row: Row) -> tuple[Size, str, str]:
    """Return what tells rows apart."""
    return size_of(row), row["method"], row["precision"]


def over(row: Row, rows: Iterable[Row], other: str) -> float | None:
    """Return a row's speed over another method's at its shape; `shared` is the best of those."""
    names = SHARED if other == "shared" else (other,)
    speeds = [
        o["trial_steps_per_second"]
        for o in rows
        if size_of(o) == size_of(row) and o["method"] in names and o["trial_steps_per_second"]
    ]
    own = row["trial_steps_per_second"]
    return own / max(speeds) if speeds and own else None


def cells(rows: Sequence[Row]) -> Table:
    """Return the rows as cells of `COLUMNS`."""
    return [_cells(row, rows) for row in rows]


def _cells(row: Row, rows: Sequence[Row]) -> list[str]:
    ratios = [over(row, rows, other) for other in ("official", "official_bf16", "shared")]
    share, quotient = row["utilisation"], row["roofline_quotient"]
    return [
        ", ".join(map(str, size_of(row))),
        row["method"],
        row["precision"],
        _number(row["T"]),
        _number(row["trial_steps_per_second"]),
        " to ".join(_number(end) for end in row["range"]) if row["range"] else "–",
        *(_number(ratio) for ratio in ratios),
        "–" if share is None else f"{100 * share:.1f} %",
        _number(quotient),
        *(_number(row[name]) for name in ("gib", *WARMUP_AIMS)),
        (row["error"] or "")[:60],
    ]


def aims(rows: Sequence[Row], *, gpu: bool) -> Table:
    """Return what was aimed at, what ours reached, and whether that passes: `AIM_COLUMNS`."""
    if not gpu:
        return [
            _aim(row, "ours over official, at least", 1.0, over(row, rows, "official"), least=True)
            for row in _best_of_ours(rows)
        ]
    found: Table = []
    for row in _best_of_ours(rows):
        for other, aim in AIMS.get(size_of(row), {}).items():
            if other == "roofline":
                value, words = row["roofline_quotient"], "seconds over the roofline's, at most"
            else:
                value, words = over(row, rows, other), f"ours over {other}, at least"
            found.append(_aim(row, words, aim, value, least=other != "roofline"))
        for name, aim in WARMUP_AIMS.items():
            words = "warm-up of a cached shape" if "cached" in name else "warm-up of a new shape"
            found.append(_aim(row, f"{words}, s, at most", aim, row[name], least=False))
    return found


def _best_of_ours(rows: Sequence[Row]) -> list[Row]:
    """Return ours in its fastest precision at each shape."""
    best: dict[Size, Row] = {}
    for row in rows:
        if row["method"] == "ours" and row["trial_steps_per_second"]:
            kept = best.get(size_of(row))
            if not kept or kept["trial_steps_per_second"] < row["trial_steps_per_second"]:
                best[size_of(row)] = row
    return list(best.values())


def _aim(row: Row, words: str, aim: float, value: float | None, *, least: bool) -> list[str]:
    if value is None:
        verdict = "not measured"
    else:
        verdict = "pass" if (value >= aim if least else value <= aim) else "fail"
    return [", ".join(map(str, size_of(row))), f"{words} {aim:g}", _number(value), verdict]


def _number(value: float | None) -> str:
    if value is None:
        return "–"
    return f"{value:.3g}" if abs(value) < 1000 else f"{value:.0f}"


def _digits(value: float) -> float:
    """Round to five significant digits."""
    return round(value, 4 - math.floor(math.log10(abs(value)))) if value else 0.0
