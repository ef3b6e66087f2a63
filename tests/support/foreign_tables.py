"""Tables of trials as other programs and people write them, with a known answer."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from hptransfer.results.ledger_rows import read_ledger

WIDTHS = (64, 128, 256, 512)
POINTS = tuple(float(point) for point in range(-11, -3))
SEEDS = (0, 1, 2)


def loss_of(width: int, log2_lr: float, seed: int, *, drift: float = 0.0) -> float:
    """A basin whose optimum lies at -7.4 at width 64 and moves by `drift` octaves a doubling."""
    doublings = math.log2(width / 64)
    noise = np.random.default_rng([width, int(1000 * (log2_lr + 20)), seed]).standard_normal()
    away = log2_lr + 7.4 - drift * doublings
    return round(3 - 0.1 * doublings + 0.03 * away**2 + 0.01 * seed + 0.004 * noise, 5)


def records(*, arm: str = "mup", drift: float = 0.0) -> list[dict[str, Any]]:
    """Trials as plain dicts: width, lr, seed, param, val_loss."""
    return [
        {
            "width": width,
            "lr": 2.0**point,
            "seed": seed,
            "param": arm,
            "val_loss": loss_of(width, point, seed, drift=drift),
        }
        for width in WIDTHS
        for point in POINTS
        for seed in SEEDS
    ]


def write_csv(path: Path, rows: Sequence[Mapping[str, object]]) -> Path:
    """Write dicts as plain CSV."""
    lines = [",".join(rows[0]), *(",".join(map(str, row.values())) for row in rows)]
    path.write_text("\n".join(lines) + "\n", encoding="utf-8")
    return path


def write_messy(path: Path) -> Path:
    """Write two arms as somebody's spreadsheet has them: the standard one drifts and diverges."""
    lines = [
        "# LR sweep of our transformer, June; ask Kim about the 512s",
        'Width (d_model);"Learning rate";Seed; Param ;Val loss [nats];notes',
    ]
    for written, drift in ((("muP", "µP", "MUP"), 0.0), (("SP", "sp", "Standard"), -0.8)):
        for width in reversed(WIDTHS):
            lines.append("# ---")
            for point in POINTS:
                for seed in SEEDS:
                    is_dead = point + 7.4 - drift * math.log2(width / 64) > 2.6
                    loss = "" if is_dead else f"{loss_of(width, point, seed, drift=drift):.4f}"
                    rate = f"{2.0**point:.8f}".replace(".", ",")
                    label = written[(seed + int(point)) % 3]
                    cells = (str(width), rate, str(seed), label, loss.replace(".", ","), "ok ")
                    lines.append(";".join(cells))
        lines.append(";;;;;")
    path.write_bytes(("\ufeff" + "\r\n".join(lines)).encode())
    return path


def outcomes(folder: Path = Path("results/mine")) -> dict[tuple, float | None]:
    """Losses of an imported folder by arm, width, log2 lr and seed."""
    return {
        (row["parametrization"], row["width"], row["hps"]["log2_lr"], row["seed"]): row["loss"]
        for row in read_ledger(folder).rows
    }


EXPECTED = {
    ("mup", width, point, seed): loss_of(width, point, seed)
    for width in WIDTHS
    for point in POINTS
    for seed in SEEDS
}
