"""Trials of a user's own command on nodes with GPUs, which are numbers only: no program uses them.

The nodes are processes of this machine with addresses of their own (127.0.0.2 and so on), so that
what is found here says nothing of networks, nor of file systems that hosts share.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from ray.cluster_utils import Cluster

from hptransfer.cli.main import main
from hptransfer.results.ledger_rows import read_ledger_rows
from hptransfer.system.storage import LocalStorage
from tests.integration.test_cluster import STORE, cluster

__all__ = ["cluster"]

pytestmark = pytest.mark.cluster

TRAINER = """\
import json, math, os, pathlib, sys, time

width, lr, hosts = int(sys.argv[1]), float(sys.argv[2]), sys.argv[3].split(",")
folder = pathlib.Path("facts")
fact = {
    "width": width,
    "hosts": hosts,
    "gpus": os.environ.get("CUDA_VISIBLE_DEVICES", "").split(","),
    "pid": os.getpid(),
    "worker": int(pathlib.Path(f"/proc/{os.getppid()}/stat").read_text().split()[3]),
    "began": time.time(),
}
began = folder / f"{width}-{lr:.4g}-{os.getpid()}.began"
began.write_text(json.dumps(fact))
exec(os.environ.get("WAIT_FOR", ""))
fact["ended"] = time.time()
began.with_suffix(".json").write_text(json.dumps(fact))
print("val_loss =", 1.5 * width**-0.2 + 0.03 * (math.log2(lr) + 7) ** 2)
"""
SWEEP = f"""\
train: {{command: '{sys.executable} train.py {{width}} {{lr}} {{hosts}}', result: val_loss = (.*)}}
sweep: {{widths: [64, 128], target: {{width: 512}}}}
search: {{lr: {{low: -10, high: -3}}}}
"""


@pytest.fixture
def sweep(cluster: Cluster, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., int]:
    """A function that sweeps with overrides and returns the exit code; in the sweep's folder."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("hptransfer.execution.ray.executor.RETRY_SECONDS", 0.1)
    (tmp_path / "facts").mkdir()
    (tmp_path / "train.py").write_text(TRAINER)
    (tmp_path / "mine.yaml").write_text(SWEEP)

    def run(*words: str, waiting: str = "") -> int:
        # A node gives its environment to its workers.
        monkeypatch.setenv("WAIT_FOR", waiting)
        for number in (2, 3):
            _add(cluster, number)
        return main(["sweep", "mine.yaml", f"executor.address={cluster.address}", *words])

    return run


def _add(cluster: Cluster, number: int):
    return cluster.add_node(
        num_cpus=8, num_gpus=4, object_store_memory=STORE, node_ip_address=f"127.0.0.{number}"
    )


def _facts(kind: str = "json") -> list[dict]:
    found = [json.loads(path.read_text()) for path in Path("facts").glob(f"*.{kind}")]
    return sorted(found, key=lambda fact: fact["began"])


def _require_own_gpus(facts: list[dict]) -> None:
    """Require that no two trials have a GPU of a node at the same time."""
    taken = [
        (host, gpu, fact["began"], fact["ended"])
        for fact in facts
        for host in fact["hosts"]
        for gpu in fact["gpus"]  # of its own node; on the others as many
    ]
    for n, (host, gpu, began, ended) in enumerate(taken):
        for other, same, start, end in taken[n + 1 :]:
            together = (host, gpu) == (other, same) and began < end and start < ended
            assert not together, f"two trials have GPU {gpu} of {host} at the same time"


@pytest.mark.slow
def test_eight_trials_train_at_a_time_each_on_its_own_gpu(sweep):
    eight = "while len([*folder.glob('*.began')]) < 8:\n    time.sleep(0.1)\ntime.sleep(0.2)"
    assert sweep("executor.gpus=1", waiting=eight) == 0
    facts = _facts()
    assert len(facts) == 16
    _require_own_gpus(facts)
    used = {(fact["hosts"][0], *fact["gpus"]) for fact in facts}
    assert used == {(f"127.0.0.{host}", str(gpu)) for host in (2, 3) for gpu in range(4)}
    rows = read_ledger_rows(Path("results/mine"))
    assert [row["cost"]["device"] for row in rows] == ["cuda"] * 16
    assert main(["fit", "results/mine"]) == 0
    (arm,) = json.loads(Path("results/mine/estimates.json").read_text())["arms"]
    assert [each["optimum"] for each in arm["optima"]] == pytest.approx([-7.0, -7.0], abs=0.1)


@pytest.mark.slow
def test_widths_ask_for_their_own_gpus_and_for_two_nodes(sweep):
    words = ["executor.gpus=1", "resources.128.gpus=4", "resources.128.nodes=2"]
    assert sweep(*words, "search.lr.low=-8", "search.lr.high=-6", waiting="time.sleep(0.3)") == 0
    facts = _facts()
    assert [fact["width"] for fact in facts].count(128) == 3
    assert len(facts) == 6
    for fact in facts:
        large = fact["width"] == 128
        assert len(fact["gpus"]) == (4 if large else 1)
        assert len(set(fact["hosts"])) == (2 if large else 1)
    _require_own_gpus(facts)


@pytest.mark.parametrize(
    ("words", "told"),
    [
        (["resources.64.gpus=5"], "must fit on one node, but it asks for 1 CPUs and 5 GPUs"),
        (["resources.64.nodes=3", "resources.64.gpus=1"], "must fit on 3 nodes, but it asks"),
    ],
)
def test_a_width_whose_request_no_nodes_meet_is_refused_before_any_trial_runs(
    sweep, words, told, capsys
):
    assert sweep(*words) == 2
    assert told in capsys.readouterr().err
    assert _facts("began") == []


@pytest.mark.slow
def test_results_that_a_node_does_not_see_are_refused(sweep, monkeypatch, capsys):
    monkeypatch.setattr(LocalStorage, "write_bytes", lambda *_: None)
    assert sweep() == 2
    assert "`--results` must be a folder that every node sees" in capsys.readouterr().err
    assert _facts("began") == []


ONCE = "while len([*folder.glob(f'{width}-*.began')]) < 2:\n    time.sleep(0.1)"
SINGLE = ["sweep.widths=64", "search.lr.low=-8", "search.lr.high=-7", "executor.workers=1"]


def _when_one_waits(act: Callable[[dict], None]) -> threading.Thread:
    """Act on the first trial that begins, in a thread."""

    def wait() -> None:
        while not any(path.read_text() for path in Path("facts").glob("*.began")):
            time.sleep(0.1)
        act(_facts("began")[0])

    thread = threading.Thread(target=wait, daemon=True)
    thread.start()
    return thread


@pytest.mark.slow
def test_a_trial_whose_worker_is_killed_runs_again_and_its_command_is_gone(sweep):
    # The command of the first attempt never ends by itself in time.
    first = "if len([*folder.glob('*.began')]) == 1:\n    time.sleep(600)"
    killed: list[int] = []

    def kill(fact: dict) -> None:
        os.kill(fact["worker"], signal.SIGKILL)
        killed.append(fact["pid"])

    thread = _when_one_waits(kill)
    assert sweep(*SINGLE, "executor.gpus=4", waiting=first) == 0
    thread.join()
    assert len(_facts("began")) == 3
    assert len(_facts()) == 2
    with pytest.raises(ProcessLookupError):
        os.kill(killed[0], 0)


@pytest.mark.slow
def test_a_trial_that_failed_since_its_second_node_is_gone_runs_again(sweep, cluster):
    first = (
        "if len([*folder.glob('*.began')]) == 1:\n"
        "    while not (folder / 'gone').exists():\n"
        "        time.sleep(0.1)\n"
        "    sys.exit(1)"
    )

    def remove(fact: dict) -> None:
        second = next(n for n in cluster.worker_nodes if n.node_ip_address == fact["hosts"][1])
        cluster.remove_node(second, allow_graceful=False)
        Path("facts/gone").touch()
        _add(cluster, 4)

    thread = _when_one_waits(remove)
    words = [*SINGLE, "executor.gpus=4", "executor.nodes=2", "executor.wait_for_nodes_s=60"]
    assert sweep(*words, waiting=first) == 0
    thread.join()
    again = _facts()
    assert len(again) == 2
    assert all("127.0.0.4" in fact["hosts"] for fact in again)
    assert not Path("results/mine/failed.json").exists()
