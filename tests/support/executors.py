"""Packs that cost nothing, and a recorder of what an executor reports."""

from __future__ import annotations

import threading
import time
from collections.abc import Sequence

import pytest

from hptransfer.config import ExecutorConfig, RuntimeConfig, TrialConfig
from hptransfer.config.choices import Status
from hptransfer.execution import run_packs
from hptransfer.results.trial_result import TrialResult

RUNTIME = RuntimeConfig()


def cheap(configs: Sequence[TrialConfig], runtime: RuntimeConfig) -> list[TrialResult]:
    """Give a result that depends on nothing but the config."""
    return [
        TrialResult(
            config=config,
            status=Status.completed,
            loss=config.optimizer.lr,
            loss_at_init=1.0,
            train_loss=None,
            diverged_at_step=None,
            clipped_share=0.0,
            flops=1.0,
            seconds=0.0,
            device="cpu",
            curve=((1, float("nan")),),
        )
        for config in configs
    ]


class Recorder:
    """What a driver keeps of a sweep."""

    def __init__(self) -> None:
        self.started: list[int] = []
        self.times: list[float] = []  # of the starts
        self.results: dict[int, list[TrialResult]] = {}
        self.threads: set[threading.Thread] = set()

    def on_start(self, index: int) -> None:
        self.started.append(index)
        self.times.append(time.monotonic())

    def on_results(self, index: int, results: list[TrialResult]) -> None:
        assert index not in self.results
        self.results[index] = results
        self.threads.add(threading.current_thread())

    def run(self, packs: Sequence, executor: ExecutorConfig, run_pack=None, runtime=RUNTIME):
        """Run packs and keep what comes; returns itself."""
        run_packs(
            packs,
            runtime,
            executor,
            on_results=self.on_results,
            on_start=self.on_start,
            run_pack=run_pack,
        )
        return self


@pytest.fixture(params=["local", pytest.param("ray", marks=pytest.mark.cluster)])
def executor(request: pytest.FixtureRequest) -> ExecutorConfig:
    return ExecutorConfig(name=request.param)
