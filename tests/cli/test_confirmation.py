"""Before many GPU-hours `run` and `sweep` ask; the GPU itself is not needed to find out."""

from __future__ import annotations

import os
import sys
from pathlib import Path

import pytest

from hptransfer.cli.main import main

ON_GPU = "runtime.device=cuda"
NEVER_LITTLE = "plan.confirm_gpu_hours=0"


@pytest.fixture
def terminal(monkeypatch: pytest.MonkeyPatch):
    """Give the command a terminal on its standard input, and return what types there."""
    keyboard, inside = os.openpty()
    stdin = os.fdopen(inside)
    monkeypatch.setattr(sys, "stdin", stdin)
    yield lambda text: os.write(keyboard, text.encode())
    stdin.close()
    os.close(keyboard)


@pytest.mark.parametrize("command", ["run", "sweep"])
def test_without_a_terminal_much_is_refused_in_a_sentence(
    command: str, tiny_sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([command, str(tiny_sweep), ON_GPU, NEVER_LITTLE]) == 2
    said = capsys.readouterr().err
    assert "reckoned from FLOPs and not measured" in said and "--yes" in said
    assert len(said.splitlines()) == 1
    assert not Path("results").exists()


@pytest.mark.parametrize(
    "words", [[NEVER_LITTLE, "--yes"], ["plan.confirm_gpu_hours=null"], []], ids=str
)
def test_what_is_allowed_or_little_is_not_asked_for(
    words: list[str], tiny_sweep: Path, capsys: pytest.CaptureFixture[str], no_gpu: None
) -> None:
    """The command goes on to the next thing that is missing: the GPU."""
    assert main(["sweep", str(tiny_sweep), ON_GPU, *words]) == 2
    said = capsys.readouterr().err
    assert "GPU-hours" not in said and "runtime.device" in said


@pytest.fixture
def no_gpu() -> None:
    import torch

    if torch.cuda.is_available():
        pytest.skip("the command would find a GPU and train")


@pytest.mark.parametrize(("answer", "goes_on"), [("y\n", True), ("n\n", False), ("\n", False)])
def test_at_a_terminal_the_answer_decides(
    answer: str,
    goes_on: bool,
    tiny_sweep: Path,
    terminal,
    no_gpu: None,
    capsys: pytest.CaptureFixture[str],
) -> None:
    terminal(answer)
    assert main(["sweep", str(tiny_sweep), ON_GPU, NEVER_LITTLE]) == 2
    said = capsys.readouterr().err
    assert "Start it? [y/N]" in said
    assert ("Nothing was started" in said) is not goes_on
    assert ("runtime.device" in said) is goes_on


def test_a_sweep_on_the_cpu_is_never_asked_about(tiny_sweep: Path, capsys) -> None:
    few = ("sweep.widths=[8]", "sweep.seeds=1", "sweep.parametrizations=[mup]", "budget.steps=1")
    assert main(["sweep", str(tiny_sweep), *few, NEVER_LITTLE]) == 0


def test_run_counts_the_targets_own_trials_and_sweep_does_not(
    tiny_sweep: Path, capsys: pytest.CaptureFixture[str], no_gpu: None
) -> None:
    """A target of a million steps is nearly all of the cost."""
    words = [str(tiny_sweep), ON_GPU, "sweep.target.budget.steps=1000000"]
    limit = "plan.confirm_gpu_hours=1e-4"
    assert main(["sweep", *words, limit]) == 2
    assert "GPU-hours" not in capsys.readouterr().err
    assert main(["run", *words, limit]) == 2
    assert "GPU-hours" in capsys.readouterr().err
