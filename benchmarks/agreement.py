"""How often intervals of the difference between two measures' optima hold a planted truth.

    python -m benchmarks.agreement [--repeats 50]

Sweeps of three widths, three seeds and one octave a step are invented twice
(tests/support/planted.py) on the same grid, from the same noise: with the loss's shape, and with
another one for the metric, whose optimum lies a known distance away. Printed are, per pair of
shapes and distance, the share of 90 % intervals that hold it: a width's, and that of the mean
over widths with its median length.
"""

from __future__ import annotations

import argparse
from itertools import product

import numpy as np

from hptransfer.analysis.answer.agreement import agreement
from hptransfer.system.random_streams import stream
from tests.support import planted

PAIRS = (
    ("kinked_above", "quadratic"),
    ("asymmetric", "cosh"),
    ("wall", "asymmetric"),
    ("quadratic", "cosh"),
)
APART = (0.0, 0.7)  # octaves
WIDTHS = (16, 32, 64)
NOISE = 0.003  # of the loss
SPREAD = 0.3  # octaves that optima differ by between widths
DRAWS = 400


def compared(shapes: tuple[str, str], apart: float, repeat: int) -> dict:
    """Return the agreement of one invented sweep."""
    rng = stream("agreement", shapes, apart, repeat)
    optima = {width: planted.CENTRE + rng.uniform(-SPREAD, SPREAD) for width in WIDTHS}
    moved = {width: optimum + apart for width, optimum in optima.items()}
    loss, metric = (
        planted.table(
            planted.draw(
                planted.Cell(3, 1.0, shape, NOISE, WIDTHS), at, stream("agreement noise", repeat)
            )
        )
        for shape, at in zip(shapes, (optima, moved), strict=True)
    )
    metric = metric.assign(loss=100.0 * metric["loss"], loss_at_init=np.nan)
    return agreement(loss, metric, axes=["log2_lr"], draws=DRAWS)[0]


def main() -> None:
    """Print the table, and the shares over all cells."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--repeats", type=int, default=50)
    repeats = parser.parse_args().repeats
    every: list[bool] = []
    print("| loss | metric | apart | width | mean | its length |\n|---|---|---:|---:|---:|---:|")
    for shapes, apart in product(PAIRS, APART):
        found = [compared(shapes, apart, repeat) for repeat in range(repeats)]
        alone = [at["difference"] for arm in found for at in arm["widths"]]
        means = [arm["mean_difference"] for arm in found]
        lengths = [told["high"] - told["low"] for told in means if told["low"] is not None]
        held = _held(means, apart)
        every += held
        print(
            f"| {shapes[0]} | {shapes[1]} | {apart} | {np.mean(_held(alone, apart)):.2f} "
            f"| {np.mean(held):.2f} | {np.median(lengths):.2f} |",
            flush=True,
        )
    print(f"\n{sum(every)} of {len(every)} means")


def _held(told: list[dict], truth: float) -> list[bool]:
    return [each["low"] <= truth <= each["high"] for each in told if each["low"] is not None]


if __name__ == "__main__":
    main()
