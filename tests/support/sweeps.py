"""Sweeps run in a test, and their recorded rows."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from hptransfer.cli.main import main
from hptransfer.config.compose.compose import compose_file
from hptransfer.execution.pack_sizes import MeasuredPack, Measurement, PackCost, Trials
from hptransfer.results.ledger_rows import read_ledger
from hptransfer.sweeping.run import driver
from hptransfer.sweeping.run import job as jobs

LEDGER = Path("results/tiny/ledger.jsonl")


def rows(path: Path = LEDGER) -> dict[str, dict[str, Any]]:
    return {row["trial_key"]: row for row in read_ledger(path).rows}


def outcomes(path: Path = LEDGER) -> dict[str, tuple[str, float | None]]:
    return {key: (row["status"], row["loss"]) for key, row in rows(path).items()}


def run(*words: str) -> int:
    return main([*words, "--quiet"])


@pytest.fixture
def opened(tiny_sweep: Path) -> Iterator[Callable[..., jobs.Job]]:
    """Open the tiny sweep's job, with overrides; the job opened before it is closed."""
    held = ExitStack()

    def make(*overrides: str, shrink: bool = False) -> jobs.Job:
        held.close()
        composed = compose_file(tiny_sweep, list(overrides))
        job = jobs.open_job(composed, Path("results"), quiet=True, shrink=shrink)
        return held.enter_context(job)

    with held:
        yield make


def recorded_checks(monkeypatch: pytest.MonkeyPatch, **verdicts: str) -> list[tuple]:
    """Put fixed verdicts in the place of coordinate checks; return the list of those asked."""
    asked: list[tuple] = []

    def check(base: Any, widths: Any, log2_lr: float, runtime: Any) -> dict[str, Any]:
        arm = base.parametrization.scaling.value
        asked.append((arm, tuple(widths), log2_lr))
        worst = {"module": "m", "quantity": "init", "step": 0, "slope": 1.0}
        return {
            "parametrization": arm,
            "widths": list(widths),
            "log2_lr": log2_lr - 1,
            "asked_log2_lr": log2_lr,
            "verdict": verdicts[arm],
            "worst": worst,
            "warnings": [],
            "limit": 0.2,
        }

    monkeypatch.setattr("hptransfer.training.packs.coordinate_check.coordinate_check", check)
    return asked


PACKS = Path("results/tiny/packs.json")


@pytest.fixture
def known_costs(monkeypatch: pytest.MonkeyPatch) -> Callable[..., list[int]]:
    """Put fixed costs in the place of measured ones; return the widths that were asked for."""

    def make(seconds: dict[int, float], workers: int = 1) -> list[int]:
        asked: list[int] = []
        cost = PackCost(tuple(MeasuredPack(size, taken, 0.0) for size, taken in seconds.items()))

        def measure_packs(groups: Sequence[Trials], *_: object, **__: object) -> Measurement:
            asked.extend(group[0].model.width for group in groups)
            return Measurement([cost] * len(groups), workers, ("a note",))

        monkeypatch.setattr(driver, "measure_packs", measure_packs)
        return asked

    return make
