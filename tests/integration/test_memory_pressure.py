"""Workers that Ray's memory monitor kills while another process holds the memory."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
import threading
import time
from collections.abc import Iterator, Sequence
from pathlib import Path

import pytest

from hptransfer.config import ExecutorConfig, RuntimeConfig, TrialConfig
from hptransfer.errors import MachineError
from hptransfer.results.trial_result import TrialResult
from tests.support.executors import Recorder, cheap
from tests.support.tiny import TINY

pytestmark = pytest.mark.cluster
MARGIN = 0.12  # share of the machine's memory between what is used now and Ray's limit
HELD = 0.2  # share of the machine's memory that the other process takes
HOLD = "import sys, time; held = b'1' * int(sys.argv[1]); time.sleep(120)"
PACKS = [(dataclasses.replace(TINY, seed=seed),) for seed in range(2)]


def memory() -> tuple[float, float]:
    """Return the machine's memory and how much of it is used, in bytes."""
    lines = (line.split() for line in Path("/proc/meminfo").read_text().splitlines())
    found = {words[0]: 1024.0 * int(words[1]) for words in lines}
    return found["MemTotal:"], found["MemTotal:"] - found["MemAvailable:"]


def wait_for_memory(configs: Sequence[TrialConfig], runtime: RuntimeConfig) -> list[TrialResult]:
    """Leave this worker's pid, and take half a minute while no file says that memory is free."""
    folder = Path(str(runtime.data_folder))
    (folder / "pid").write_text(str(os.getpid()))
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and not (folder / "free").exists():
        time.sleep(0.1)
    return cheap(configs, runtime)


@pytest.fixture
def hold(monkeypatch: pytest.MonkeyPatch) -> Iterator:
    """Return a function that takes more memory than Ray allows, in a process of its own."""
    total, used = memory()
    monkeypatch.setenv("RAY_memory_usage_threshold", str(used / total + MARGIN))
    monkeypatch.setenv("RAY_memory_monitor_refresh_ms", "100")
    holders: list[subprocess.Popen[bytes]] = []

    def start() -> subprocess.Popen[bytes]:
        holders.append(subprocess.Popen([sys.executable, "-c", HOLD, str(int(HELD * total))]))
        return holders[-1]

    yield start
    for holder in holders:
        holder.kill()
        holder.wait()


@pytest.mark.slow
def test_workers_killed_for_memory_are_retried_once_it_is_free(hold, tmp_path: Path) -> None:
    def press() -> None:
        while not (tmp_path / "pid").exists():
            time.sleep(0.1)
        pid = (tmp_path / "pid").read_text()
        holder = hold()
        while Path(f"/proc/{pid}").exists():
            time.sleep(0.05)
        holder.kill()
        (tmp_path / "free").touch()

    threading.Thread(target=press, daemon=True).start()
    recorder = Recorder()
    executor = ExecutorConfig(name="ray", workers=1, retries=5)
    recorder.run(PACKS, executor, wait_for_memory, RuntimeConfig(data_folder=str(tmp_path)))
    assert sorted(recorder.results) == [0, 1]
    assert recorder.started.count(0) >= 2


@pytest.mark.slow
def test_memory_that_never_comes_free_ends_the_sweep_with_a_sentence(hold, tmp_path: Path) -> None:
    def press() -> None:
        while not (tmp_path / "pid").exists():
            time.sleep(0.1)
        hold()

    threading.Thread(target=press, daemon=True).start()
    executor = ExecutorConfig(name="ray", workers=1, retries=1)
    runtime = RuntimeConfig(data_folder=str(tmp_path))
    with pytest.raises(MachineError, match="lost 2 times") as caught:
        Recorder().run(PACKS, executor, wait_for_memory, runtime)
    assert "smaller runtime.pack_size" in str(caught.value)
    assert "node running low on memory" in str(caught.value).split("Ray says of the last loss: ")[1]
