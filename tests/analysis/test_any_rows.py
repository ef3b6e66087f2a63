"""Whatever rows a sweep left: an answer of strict JSON, or one sentence; never a traceback."""

from __future__ import annotations

import json

import numpy as np
import pandas as pd
import pytest

from hptransfer.analysis.answer.estimates import estimate
from hptransfer.errors import UserError
from tests.support.planted_tables import COLUMNS

KINDS = (
    *("whole", "holes", "constant", "negative", "huge"),
    *("rounded", "tiny", "cliff", "half failed"),
)


def rows_of(kind: str, rng: np.random.Generator) -> pd.DataFrame:
    """Return rows of a few widths, seeds and values, some of them strange."""
    widths = np.sort(rng.choice([8, 24, 32, 64, 128, 1000], rng.integers(1, 6), replace=False))
    values = np.sort(rng.choice(np.arange(-14.0, 2.0, 0.5), rng.integers(1, 10), replace=False))
    seeds, with_steps = int(rng.integers(1, 4)), rng.random() < 0.3
    rows = []
    for width in widths:
        for seed in range(seeds):
            for value in values:
                if kind == "holes" and rng.random() < 0.2:
                    continue
                offset = value + 6.0 + rng.normal(0.0, 0.2)
                loss = float(np.exp(-0.5 + 0.02 * offset**2 + rng.normal(0.0, 0.002)))
                failed = (kind == "cliff" and value > -5) or (
                    kind == "half failed" and rng.random() < 0.5
                )
                loss = {
                    "constant": 1.0,
                    "negative": -loss,
                    "huge": 1e30 * loss,
                    "rounded": round(loss, 1),
                    "tiny": 1e-12 * loss,
                }.get(kind, loss)
                rows.append(
                    {
                        **COLUMNS,
                        "width": int(width),
                        "seed": seed,
                        "log2_lr": value,
                        "loss": np.nan if failed else loss,
                        "status": "diverged" if failed else "completed",
                        "steps": 100.0 * width if with_steps else np.nan,
                    }
                )
    return pd.DataFrame(rows)


@pytest.mark.parametrize("kind", KINDS)
def test_any_rows_give_an_answer_or_a_sentence(kind: str) -> None:
    answered = 0
    for repeat in range(12):
        rng = np.random.default_rng([KINDS.index(kind), repeat])
        table = rows_of(kind, rng)
        if not len(table):
            continue
        target = 2 * int(np.max(table["width"].to_numpy())) if rng.random() < 0.6 else None
        try:
            found = estimate(
                table, sweep_name="any", axes=["log2_lr"], target_width=target, draws=200
            )
        except UserError as refused:
            assert str(refused)
            continue
        json.dumps(found, allow_nan=False)
        (arm,) = found["arms"]
        assert arm["verdict"] in ("transfers", "drifts", "inconclusive") and arm["headline"]
        answered += 1
    assert answered >= 10
