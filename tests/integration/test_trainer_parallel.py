"""The trainer on two processes: the same losses as one process gives, and the same state."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from filelock import FileLock
from safetensors.torch import load_file

from hptransfer.config import RuntimeConfig, TrainerConfig
from hptransfer.config.choices import Parallel
from hptransfer.errors import UserError
from hptransfer.training.target.parallel import ProcessGroup
from tests.support.paths import ROOT
from tests.support.trainer_processes import CASES, COMPILED, CUT, TRIALS, engine, seen, steps_of

ALONE = TrainerConfig()
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")


def on_two_processes(made: Path, *more: str) -> Path:
    """Run cases under torchrun, two processes on this machine; return the folder given."""
    words = [sys.executable, *TORCHRUN, "-m", "tests.support.trainer_processes", str(made), *more]
    environment = {**os.environ, "OMP_NUM_THREADS": "1"}
    ended = subprocess.run(
        words, capture_output=True, text=True, cwd=ROOT, env=environment, check=False
    )
    assert ended.returncode == 0, ended.stderr[-3000:]
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Run every case once for all tests, and for all workers of pytest."""
    if "PYTEST_XDIST_WORKER" not in os.environ:
        return on_two_processes(tmp_path_factory.mktemp("processes"))
    made = tmp_path_factory.getbasetemp().parent / "processes"
    with FileLock(f"{made}.lock"):
        if not (made / "said.json").exists():
            made.mkdir(exist_ok=True)
            on_two_processes(made)
    return made


@pytest.fixture(scope="module")
def said(folder: Path) -> dict[str, Any]:
    """Return what the first of the two processes saw."""
    return json.loads((folder / "said.json").read_text())


@pytest.fixture(scope="module")
def alone() -> dict[str, dict[str, Any]]:
    """Return what one process sees of every trial."""
    return {name: seen(engine(name, ALONE)) for name in TRIALS}


@pytest.mark.parametrize(("name", "how"), CASES, ids=lambda part: part)
def test_two_processes_see_the_losses_of_one(
    said: dict[str, Any], alone: dict[str, dict[str, Any]], name: str, how: str
) -> None:
    require_alike(said["runs"][f"{name}: {how}"], alone[name])


@pytest.mark.slow
def test_compiled_blocks_give_them_too(tmp_path: Path, alone: dict[str, dict[str, Any]]) -> None:
    on_two_processes(tmp_path, "compiled")
    runs = json.loads((tmp_path / "said.json").read_text())["runs"]
    for name, how in COMPILED:
        require_alike(runs[f"{name}: {how}"], alone[name])


def require_alike(ours: dict[str, Any], theirs: dict[str, Any]) -> None:
    for step, (here, there) in enumerate(zip(ours["steps"], theirs["steps"], strict=True)):
        assert here[0] == pytest.approx(there[0], rel=1e-6), f"loss of step {step}"
        assert here[1] == pytest.approx(there[1], rel=1e-5), f"gradient norm of step {step}"
        assert here[2] == there[2], f"clipping of step {step}"
    assert ours["held_out"] == pytest.approx(theirs["held_out"], rel=1e-6)


def test_the_cases_clip_some_steps_and_not_others(alone: dict[str, dict[str, Any]]) -> None:
    clipped = [step[2] for run in alone.values() for step in run["steps"]]
    assert 0 < sum(clipped) < len(clipped)


def test_processes_agree(said: dict[str, Any]) -> None:
    assert (said["size"], said["backend"]) == (2, "gloo")
    assert said["any"] == [True, False]
    assert said["mean"] == 0.5
    assert said["facts"] == {"from": 0}


@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_a_run_that_was_cut_goes_on_with_the_same_bits(said: dict[str, Any], how: str) -> None:
    assert said["cut"][how]["again"] == said["cut"][how]["went_on"]


@pytest.mark.parametrize("how", ["ddp", "fsdp"])
def test_one_process_goes_on_where_two_were_cut(
    said: dict[str, Any], folder: Path, how: str
) -> None:
    went_on = engine("dit", ALONE)
    state = load_file(folder / f"{how}.safetensors")
    assert list(state) and set(state) == {name for name, _ in went_on.state()}
    went_on.restore(state.__getitem__, CUT)
    ours = [*steps_of(went_on, CUT), [went_on.held_out_loss()]]
    for here, there in zip(ours, said["cut"][how]["went_on"], strict=True):
        assert here == pytest.approx(there, rel=1e-5)


def test_under_fsdp_a_process_holds_half_of_the_parameters(said: dict[str, Any]) -> None:
    every = sum(weight.numel() for weight in engine("dit", ALONE).weights.values())
    assert said["held"] == pytest.approx(every / 2, rel=0.02)


def test_more_processes_than_the_config_says_are_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    with pytest.raises(UserError, match="trains in one process, but torchrun started 2"):
        ProcessGroup.of(ALONE, RuntimeConfig())


def test_the_trials_threads_are_set_before_anything_is_measured() -> None:
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(3)
        ProcessGroup.of(ALONE, RuntimeConfig(threads=2))
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(before)


def test_a_parallel_run_needs_processes_and_gpus_of_their_own(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    with pytest.raises(UserError, match=r"not started together\. Run `torchrun"):
        ProcessGroup.of(TrainerConfig(parallel=Parallel.fsdp), RuntimeConfig())
    monkeypatch.setenv("RANK", "0")
    with pytest.raises(UserError, match="must be cuda, but got cuda:1"):
        ProcessGroup.of(TrainerConfig(parallel=Parallel.ddp), RuntimeConfig(device="cuda:1"))
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 1)
    monkeypatch.setenv("LOCAL_RANK", "1")
    with pytest.raises(UserError, match="but process 1 of this machine finds 1"):
        ProcessGroup.of(TrainerConfig(parallel=Parallel.ddp), RuntimeConfig(device="cuda"))
