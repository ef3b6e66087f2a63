"""`hptransfer train` as processes: killed, asked to end, and started several at once."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from hptransfer.cli.main import main
from hptransfer.results.folder import RunFolder
from hptransfer.results.ledger_rows import read_ledger_rows
from hptransfer.training.target.record import read_log

TARGET = """\
name: target
model: {width: 16, base_width: 8, depth: 1, head_dim: 4}
optimizer: {beta2: 0.99}
budget: {steps: 240, batch_size: 8, eval_samples: 16, eval_draws: 1}
train: {log_every: 5, checkpoint_s: 0, sample_columns: 1, sample_steps: 1}
"""
TRAIN = ("-m", "hptransfer", "train", "target.yaml", "--quiet")
TORCHRUN = ("-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2")
ENVIRONMENT = {**os.environ, "OMP_NUM_THREADS": "1"}
PATIENCE = 240.0  # seconds for a process to come somewhere, on a busy machine


@pytest.fixture
def target(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Write a config that trains for seconds into an empty folder, and go there."""
    monkeypatch.chdir(tmp_path)
    path = tmp_path / "target.yaml"
    path.write_text(TARGET)
    return path


def started(words: Sequence[str]) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, *words],
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        env=ENVIRONMENT,
    )


def finished(words: Sequence[str]) -> tuple[int, str, str]:
    process = started(words)
    out, error = process.communicate(timeout=PATIENCE)
    return process.returncode, out, error


def run_folder(root: str = "results") -> RunFolder | None:
    found = list(Path(root, "target/target/runs").glob("*"))
    return RunFolder(found[0]) if found else None


def logged(root: str = "results") -> int:
    """Return the last step that the run has logged."""
    folder = run_folder(root)
    entries = read_log(folder.log_file) if folder else []
    return entries[-1]["step"] if entries else 0


def wait_for(process: subprocess.Popen[str], passed: Callable[[], bool]) -> None:
    began = time.monotonic()
    while not passed():
        assert process.poll() is None, process.communicate()
        assert time.monotonic() - began < PATIENCE
        time.sleep(0.005)


def weights(root: str) -> dict[str, torch.Tensor]:
    folder = run_folder(root)
    assert folder is not None
    return load_file(folder.weights_file)


def record() -> dict[str, Any]:
    folder = run_folder()
    assert folder is not None
    return json.loads(folder.record_file.read_text())


@pytest.mark.slow
def test_killed_and_terminated_it_ends_with_the_same_bits(
    target: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    process = started(TRAIN)
    wait_for(process, lambda: logged() >= 20)
    process.kill()
    process.communicate()
    assert process.returncode == -signal.SIGKILL and record()["status"] == "running"
    process = started(TRAIN)
    wait_for(process, lambda: logged() >= 80)
    process.terminate()
    _, error = process.communicate(timeout=PATIENCE)
    assert process.returncode == 143 and record()["status"] == "interrupted"
    assert "the run goes on at its last checkpoint. Continue with\n  hptransfer train" in error
    assert not read_ledger_rows(Path("results/target/target"))
    words = TRAIN[TRAIN.index("train") :]
    assert main([*words]) == 0
    assert "The run goes on at step" in capsys.readouterr().out
    assert main([*words, "--results", "whole"]) == 0
    ours, theirs = weights("results"), weights("whole")
    assert all(torch.equal(ours[name], theirs[name]) for name in theirs)
    (row,), (other,) = (
        read_ledger_rows(Path(f"{root}/target/target")) for root in ("results", "whole")
    )
    assert row["loss"] == other["loss"] and row["metrics"] == other["metrics"]


@pytest.mark.slow
def test_processes_end_together_go_on_together_and_one_of_them_writes(target: Path) -> None:
    words = (*TORCHRUN, *TRAIN, "train.parallel=ddp", "budget.steps=60", "train.log_every=1")
    process = started(words)
    wait_for(process, lambda: logged() >= 10)
    process.terminate()
    _, error = process.communicate(timeout=PATIENCE)
    assert error.count("the run goes on at its last checkpoint") == 1
    assert "torchrun --nproc-per-node 2 -m hptransfer train target.yaml" in error
    stopped_at = record()["steps_done"]
    assert record()["status"] == "interrupted" and 10 <= stopped_at < 60
    code, out, error = finished([*words, "--json"])
    assert code == 0, error
    answer = json.loads(out)  # one answer, of one process
    assert answer["status"] == "completed" and record()["processes"] == 2
    assert [start["step"] for start in record()["starts"]] == [0, stopped_at]
    assert len(read_ledger_rows(Path("results/target/target"))) == 1
    alone = [*TRAIN, "budget.steps=60", "--results", "whole", "--json"]
    assert answer["loss"] == pytest.approx(json.loads(finished(alone)[1])["loss"], rel=1e-6)
    code, out, _ = finished([*words, "--json"])
    assert code == 0 and json.loads(out)["recorded_before"]


@pytest.mark.parametrize(("launched", "said"), [({"RANK": "0"}, ""), ({}, "shut down\n")])
def test_a_launched_process_ends_without_shutting_python_down(
    launched: dict[str, str], said: str
) -> None:
    """Threads of gloo that still let go of tensors would abort it."""
    code = (
        "import atexit, runpy, sys; atexit.register(print, 'shut down'); "
        "sys.argv = ['hptransfer', 'list', 'nothing']; "
        "runpy.run_module('hptransfer', run_name='__main__')"
    )
    ended = subprocess.run(
        [sys.executable, "-c", code],
        env=ENVIRONMENT | launched,
        capture_output=True,
        text=True,
        timeout=PATIENCE,
        check=False,
    )
    assert ended.returncode == 2 and "nothing" in ended.stderr
    assert ended.stdout == said


@pytest.mark.slow
def test_a_process_that_lost_another_says_so_and_how_to_go_on(target: Path) -> None:
    words = (*TORCHRUN, *TRAIN, "train.parallel=ddp", "budget.steps=1000")
    process = started(words)
    wait_for(process, lambda: logged() >= 10)
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    second = [
        pid
        for pid in children
        if b"RANK=1" in Path(f"/proc/{pid}/environ").read_bytes().split(b"\0")
    ]
    os.kill(int(second[0]), signal.SIGKILL)
    _, error = process.communicate(timeout=PATIENCE)
    assert "hptransfer: Process 0 of the run lost another" in error and "[rank0]" not in error
    code, out, _ = finished(words)
    assert code == 0 and "The run goes on at step" in out
