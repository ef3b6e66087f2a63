"""Packs that cost nothing, a recorder of what an executor reports, and a Ray that tests share."""

from __future__ import annotations

import os
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

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


def ray_cache(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Return the folder of caches of workers of the Ray that runs."""
    return tmp_path_factory.getbasetemp() / "cache-of-ray"


@pytest.fixture(scope="session")
def started_ray(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a Ray of two CPUs on this machine once for all tests; return its address."""
    from ray.cluster_utils import Cluster

    variables = {
        "RAY_AUTH_MODE": "disabled",
        "RAY_USAGE_STATS_ENABLED": "0",
        "PYTHONPATH": os.pathsep.join(path for path in sys.path if path),
        "XDG_CACHE_HOME": str(ray_cache(tmp_path_factory)),
    }
    head = {"num_cpus": 2, "include_dashboard": False, "object_store_memory": 80_000_000}
    with pytest.MonkeyPatch.context() as patch:
        for name, value in variables.items():
            patch.setenv(name, value)
        cluster = Cluster(initialize_head=True, head_node_args=head, shutdown_at_exit=False)
    yield str(cluster.address)
    cluster.shutdown()


@pytest.fixture
def running_ray(started_ray: str, monkeypatch: pytest.MonkeyPatch) -> ExecutorConfig:
    """Return how a sweep joins the Ray that runs, in a tenth of the time that starting one takes.

    What a test leaves there ends with its sweep, which is a job of its own. Tests of starting,
    ending and cleaning up start their own.
    """
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    return ExecutorConfig(name="ray", address=started_ray)


@pytest.fixture(params=["local", pytest.param("ray", marks=pytest.mark.cluster)])
def executor(request: pytest.FixtureRequest) -> ExecutorConfig:
    """Return each executor; Ray's joins the one that runs."""
    if request.param == "local":
        return ExecutorConfig(name="local")
    return request.getfixturevalue("running_ray")
