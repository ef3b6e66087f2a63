"""What only a cluster can show, on an in-process Ray of several nodes."""

from __future__ import annotations

import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path

import pytest
import ray
from ray.cluster_utils import Cluster

from hptransfer.config import CheckpointConfig, ExecutorConfig, RuntimeConfig, TrialConfig
from hptransfer.errors import UserError
from hptransfer.execution import run_packs
from hptransfer.results.trial_result import TrialResult
from hptransfer.system.storage import LocalStorage
from tests.support.executors import Recorder, cheap
from tests.support.paths import ROOT

pytestmark = pytest.mark.cluster
STORE = 80_000_000
# A node is dead after two seconds of silence, not half a minute.
FAST_DEATH = {
    "health_check_initial_delay_ms": 1000,
    "health_check_period_ms": 500,
    "health_check_timeout_ms": 500,
    "health_check_failure_threshold": 3,
}


def slow_once(configs: Sequence[TrialConfig], runtime: RuntimeConfig) -> list[TrialResult]:
    """Say on which node this is, and there take a minute the first time."""
    marker = Path(runtime.data_folder or "") / f"node{configs[0].seed}"
    if not marker.exists():
        marker.write_text(ray.get_runtime_context().get_node_id())
        time.sleep(60.0)
    return cheap(configs, runtime)


def short(configs: Sequence[TrialConfig], runtime: RuntimeConfig) -> list[TrialResult]:
    """Say on which node this is; take far less than a worker takes to start."""
    with (Path(runtime.data_folder or "") / "nodes").open("a") as file:
        file.write(f"{ray.get_runtime_context().get_node_id()}\n")
    time.sleep(0.4)
    return cheap(configs, runtime)


@pytest.fixture
def cluster(monkeypatch: pytest.MonkeyPatch) -> Iterator[Cluster]:
    """A head that takes no packs."""
    monkeypatch.setenv("RAY_AUTH_MODE", "disabled")
    monkeypatch.setenv("RAY_USAGE_STATS_ENABLED", "0")
    monkeypatch.setenv("PYTHONPATH", ":".join(path for path in sys.path if path))
    head = {"num_cpus": 0, "include_dashboard": False, "object_store_memory": STORE}
    made = Cluster(
        initialize_head=True,
        head_node_args={**head, "_system_config": FAST_DEATH},
        shutdown_at_exit=False,
    )
    yield made
    ray.shutdown()
    made.shutdown()


def _add(cluster: Cluster, **resources: float):
    return cluster.add_node(
        num_cpus=1, memory=2**30, object_store_memory=STORE, resources=resources
    )


def _packs(make: Callable[..., TrialConfig], count: int) -> list[tuple[TrialConfig, ...]]:
    return [(make(seed=seed),) for seed in range(count)]


def _joining(cluster: Cluster, **settings) -> ExecutorConfig:
    return ExecutorConfig(name="ray", address=str(cluster.address), **settings)


def test_what_no_node_has_is_refused_with_what_there_is(cluster, tiny_trial, capfd):
    _add(cluster, disk=2.0)
    _add(cluster, disk=2.0)
    executor = _joining(cluster, resources={"disk": 3.0}, memory_gib=0.5, accelerator_type="H100")
    with pytest.raises(UserError, match="asks for 1 CPUs, 0 GPUs, 0") as caught:
        Recorder().run(_packs(tiny_trial, 1), executor, cheap)
    asked, _, offered = str(caught.value).partition(", and the nodes have: ")
    assert asked.endswith("0.5 GiB of memory, H100: yes and 3 disk")
    assert offered.startswith("2 with 1 CPUs, 0 GPUs, 1 GiB of memory, ")
    assert "H100: no and 2 disk; 0 CPUs" in offered
    assert "anyone who can reach" in capfd.readouterr().err


@pytest.mark.slow
def test_nodes_that_join_late_are_waited_for_and_used(cluster, tiny_trial, tmp_path, capfd):
    def on_start(index: int) -> None:
        recorder.on_start(index)
        if index == 0:
            _add(cluster, disk=1.0)

    threading.Timer(3.0, _add, (cluster,), {"disk": 1.0}).start()
    recorder = Recorder()
    run_packs(
        _packs(tiny_trial, 80),
        RuntimeConfig(data_folder=str(tmp_path)),
        _joining(cluster, wait_for_nodes_s=40.0, resources={"disk": 1.0}),
        on_results=recorder.on_results,
        on_start=on_start,
        run_pack=short,
    )
    assert sorted(recorder.results) == list(range(80))
    assert len(set((tmp_path / "nodes").read_text().split())) == 2
    assert capfd.readouterr().err.count("Waiting up to 40 s") == 1


def test_a_pack_whose_node_vanished_runs_elsewhere(cluster, tiny_trial, tmp_path, monkeypatch):
    monkeypatch.setattr("hptransfer.execution.ray.executor.RETRY_SECONDS", 0.1)
    nodes = {node.node_id: node for node in (_add(cluster), _add(cluster))}

    def on_start(index: int) -> None:
        recorder.on_start(index)
        if index == 1 and not killed:
            threading.Thread(target=remove).start()

    def remove() -> None:
        marker = tmp_path / "node1"
        while not marker.exists() or not marker.read_text():
            time.sleep(0.1)
        killed.append(marker.read_text())
        cluster.remove_node(nodes[killed[0]], allow_graceful=False)

    killed: list[str] = []
    (tmp_path / "node0").touch()
    recorder = Recorder()
    run_packs(
        _packs(tiny_trial, 2),
        RuntimeConfig(data_folder=str(tmp_path)),
        _joining(cluster),
        on_results=recorder.on_results,
        on_start=on_start,
        run_pack=slow_once,
    )
    assert killed
    assert sorted(recorder.results) == [0, 1]
    assert recorder.started.count(1) == 2


@pytest.mark.slow
def test_storage_that_a_node_does_not_see_is_refused(
    running_ray, tiny_trial, tmp_path, monkeypatch
):
    recorder = Recorder()

    def run(folder: str) -> None:
        run_packs(
            _packs(tiny_trial, 1),
            RuntimeConfig(),
            running_ray,
            on_results=recorder.on_results,
            run_pack=cheap,
            checkpoints=CheckpointConfig(folder),
        )

    run(str(tmp_path))
    assert list(recorder.results) == [0]
    assert list(tmp_path.iterdir()) == []
    monkeypatch.setattr(LocalStorage, "write_bytes", lambda *_: None)
    with pytest.raises(
        UserError, match=f"does not appear on node .*{tmp_path.name}|{tmp_path.name}.*"
    ):
        run(str(tmp_path))


@pytest.mark.slow
def test_a_head_that_is_gone_ends_the_sweep_with_a_sentence(cluster, tiny_trial, tmp_path):
    _add(cluster)
    program = f"""
import sys, time
from hptransfer.config import ExecutorConfig, RuntimeConfig
from hptransfer.errors import MachineError
from hptransfer.execution import run_packs
from tests.integration.test_cluster import _packs, slow_once
from tests.support.tiny import TINY
try:
    run_packs([(TINY,)], RuntimeConfig(data_folder={str(tmp_path)!r}),
              ExecutorConfig(name="ray", address={cluster.address!r}),
              on_results=lambda *_: None, run_pack=slow_once)
except MachineError as error:
    print(error)
    sys.exit(3)
"""
    driver = subprocess.Popen(
        [sys.executable, "-c", program],
        cwd=ROOT,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while not (tmp_path / "node0").exists():
        assert driver.poll() is None
        time.sleep(0.2)
    cluster.head_node.kill_gcs_server()
    out, err = driver.communicate(timeout=90)
    assert "has not for" in out, err
    assert "Traceback" not in err
    assert driver.returncode == 3
