"""Progress: counts, time left, and silence on stdout."""

from __future__ import annotations

import os
import pty
import subprocess
import sys
from pathlib import Path

import pytest

from hptransfer.config import TrialConfig
from hptransfer.outcome import TrialResult
from hptransfer.progress import Display, Progress, Tally, seconds_left, time_text
from hptransfer.vocabulary import Scaling, Status


def _result(config: TrialConfig, loss: float | None = 0.5, seconds: float = 1.0) -> TrialResult:
    return TrialResult(
        config=config,
        status=Status.diverged if loss is None else Status.completed,
        loss=loss,
        loss_at_init=1.0,
        train_loss=loss,
        diverged_at_step=3 if loss is None else None,
        clipped_share=0.0,
        flops=1e9,
        seconds=seconds,
        device="cpu",
    )


def test_counts_follow_the_packs(tiny_trial):
    wide = [tiny_trial(log2_lr=lr, width=16) for lr in (-7.0, -6.0, -5.0)]
    base = [tiny_trial(log2_lr=lr, width=8, scaling=Scaling.standard) for lr in (-7.0, -6.0)]
    progress = Progress(7, 2, packs=[wide, base], display=Display.quiet)
    progress.started(0, wide)
    progress.started(0, wide)  # handed out again after its worker was lost
    progress.started(1, base)
    assert progress.line() == "2/7 trials, 5 running, 0 diverged, time left unknown"
    losses = (0.6, 0.4, None)
    progress.finished(0, [_result(c, loss) for c, loss in zip(wide, losses, strict=True)])
    tally = progress.tallies["mup", 16]
    assert (tally.left, tally.running, tally.finished, tally.diverged) == (0, 0, 3, 1)
    assert tally.best_loss == 0.4
    # Two trials at half the width on one of two workers: 2 · 1 s / 2 / 2.
    assert progress.line() == "5/7 trials, 2 running, 1 diverged, ~1 s left"
    progress.finished(1, [_result(base[0])])  # of a pack that reran, only what is new
    assert progress.tallies["shared", 8].left == 0
    assert progress.done == 6


def test_time_left_scales_with_width_and_prefers_the_own_arm():
    tallies = {
        ("mup", 64): Tally(left=2, finished=2, seconds=8.0),
        ("standard", 64): Tally(left=1, finished=1, seconds=10.0),
        ("mup", 32): Tally(left=3),
    }
    assert seconds_left(tallies) == 2 * 4.0 + 10.0 + 3 * 4.0 / 2
    assert seconds_left(tallies, unplanned=1) == 24.0 + 18.0 / 3
    assert seconds_left({("mup", 64): Tally(left=2)}) is None


@pytest.mark.parametrize(
    ("seconds", "text"),
    [(0.2, "1 s"), (80, "80 s"), (200, "3 min"), (5430, "1 h 30 min")],
)
def test_time_is_told_coarsely(seconds: float, text: str):
    assert time_text(seconds) == text


def test_plain_lines_are_sparse_and_on_stderr(tiny_trial, capsys):
    packs = [[tiny_trial(seed=seed)] for seed in range(50)]
    with Progress(50, 0, packs=packs, display=Display.plain) as progress:
        for index, pack in enumerate(packs):
            progress.started(index, pack)
            progress.finished(index, [_result(pack[0])])
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "1/50 trials, 0 running, 0 diverged, ~49 s left",
        "50/50 trials, 0 running, 0 diverged",
    ]


def test_quiet_prints_notes_only(tiny_trial, capsys):
    with Progress(1, 0, quiet=True) as progress:
        progress.started(0, [tiny_trial()])
        progress.finished(0, [_result(tiny_trial())])
        progress.note("The last line of [ledger.jsonl] was cut off.")
    out, err = capsys.readouterr()
    assert (out, err) == ("", "The last line of [ledger.jsonl] was cut off.\n")


LIVE = """
from hptransfer.config import TrialConfig
from hptransfer.progress import Progress
import sys
sys.path.insert(0, {tests!r})
from test_progress import _result
with Progress(2, 1) as progress:
    progress.started(0, [TrialConfig()])
    progress.finished(0, [_result(TrialConfig(), 0.4321)])
print("answer")
"""


def test_a_terminal_shows_the_table_and_stdout_stays_clean():
    master, terminal = pty.openpty()
    program = LIVE.format(tests=str(Path(__file__).parent))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "100"}
    answer = subprocess.run(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=terminal,
        env={**environment, "TERM": "xterm"},
        check=True,
    )
    os.close(terminal)
    shown = os.read(master, 100_000).decode()
    os.close(master)
    assert answer.stdout == b"answer\n"
    assert "best loss" in shown
    assert "0.4321" in shown
    assert "2/2 trials" in shown
