"""Progress: counts, time left, and silence on stdout."""

from __future__ import annotations

import os
import pty
import random
import re
import subprocess
import sys

import pytest

from hptransfer.config import TrialConfig
from hptransfer.config.choices import Scaling, Status
from hptransfer.results.trial_result import TrialResult
from hptransfer.sweeping.run.progress import Display, SweepProgress
from hptransfer.sweeping.run.time_left import (
    SecondsLeft,
    TrialCounts,
    seconds_left,
)
from tests.support.paths import ROOT


def _result(
    config: TrialConfig,
    loss: float | None = 0.5,
    seconds: float = 1.0,
    status: Status = Status.completed,
) -> TrialResult:
    return TrialResult(
        config=config,
        status=Status.diverged if loss is None else status,
        loss=loss if status is Status.completed else None,
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
    progress = SweepProgress(7, 2, packs=[wide, base], display=Display.quiet)
    progress.started(0, wide)
    progress.started(0, wide)  # handed out again after its worker was lost
    progress.started(1, base)
    line = (
        "2 of 7 trials finished, 5 running, 0 diverged, 1 group of trials restarted, time left "
        "unknown"
    )
    assert progress.line() == line
    losses = (0.6, 0.4, None)
    progress.finished(0, [_result(c, loss) for c, loss in zip(wide, losses, strict=True)])
    tally = progress.counts["mup", 16]
    assert (tally.left, tally.running, tally.finished, tally.diverged) == (0, 0, 3, 1)
    assert tally.best_loss == 0.4
    # Two trials at half the width on one of two workers: 2 · 1 s / 2 / 2.
    line = (
        "5 of 7 trials finished, 2 running, 1 diverged, 1 group of trials restarted, about 1 s left"
    )
    assert progress.line() == line
    progress.finished(1, [_result(base[0])])  # of a pack that reran, only what is new
    assert progress.counts["shared", 8].left == 0
    assert progress.done == 6


def test_time_left_scales_with_width_and_prefers_the_own_arm():
    counts = {
        ("mup", 64): TrialCounts(left=2, finished=2, seconds=8.0),
        ("standard", 64): TrialCounts(left=1, finished=1, seconds=10.0),
        ("mup", 32): TrialCounts(left=3),
    }
    own, other = 2 * 4.0 + 10.0, 3 * 4.0
    assert seconds_left(counts) == (own + other / 4, own + other / 2, own + other)
    assert seconds_left(counts, unplanned=1) == (21 + 6, 24 + 6, 30 + 6)
    assert seconds_left({("mup", 64): TrialCounts(left=2)}) is None


def test_time_left_has_the_spread_of_the_packs_so_far():
    steady = TrialCounts(left=8, finished=8, seconds=80.0, packs=[10.0] * 4)
    assert seconds_left({("mup", 64): steady}) == (80.0, 80.0, 80.0)
    uneven = TrialCounts(left=8, finished=8, seconds=80.0, packs=[8.0, 12.0, 8.0, 12.0])
    # A share of 0.2·√(4/3) of 80 s, over four packs measured and four left.
    margin = 1.645 * 80 * 0.2 * (4 / 3) ** 0.5 * (1 / 4 + 1 / 4) ** 0.5
    assert seconds_left({("mup", 64): uneven}) == pytest.approx((80 - margin, 80, 80 + margin))
    assert str(SecondsLeft(6600, 7800, 9600)) == "about 2 h 10 min left (1 h 50 min to 2 h 40 min)"
    assert str(SecondsLeft(50.1, 50.2, 50.3)) == "about 50 s left"


def test_the_interval_holds_what_remains_of_simulated_sweeps():
    draws = random.Random(0)
    inside = 0
    for _ in range(300):
        seconds = [draws.lognormvariate(2.0, 0.3) for _ in range(20)]
        tally = TrialCounts(left=12, finished=8, seconds=sum(seconds[:8]), packs=seconds[:8])
        left = seconds_left({("mup", 64): tally})
        assert left is not None
        inside += left.low <= sum(seconds[8:]) <= left.high
    assert 0.8 < inside / 300 < 0.97


def test_more_work_and_stopped_trials_are_counted(tiny_trial):
    first = [tiny_trial(log2_lr=lr) for lr in (-7.0, -6.0)]
    progress = SweepProgress(2, 0, packs=[first], display=Display.quiet)
    progress.started(0, first)
    progress.finished(0, [_result(c, status=Status.stopped) for c in first])
    assert progress.line() == "2 of 2 trials finished, 0 running, 0 diverged, 2 stopped"
    second = [tiny_trial(log2_lr=lr) for lr in (-5.0, -4.0)]
    progress.add([second[1:]], 2, 1)
    progress.started(1, second[1:])
    assert (
        progress.line()
        == "3 of 4 trials finished, 1 running, 0 diverged, 2 stopped, about 1 s left"
    )
    progress.finished(1, [_result(second[1])])
    assert progress.line() == "4 of 4 trials finished, 0 running, 0 diverged, 2 stopped"


def test_plain_lines_are_sparse_and_on_stderr(tiny_trial, capsys):
    packs = [[tiny_trial(seed=seed)] for seed in range(50)]
    with SweepProgress(50, 0, packs=packs, display=Display.plain) as progress:
        for index, pack in enumerate(packs):
            progress.started(index, pack)
            progress.finished(index, [_result(pack[0])])
    out, err = capsys.readouterr()
    assert out == ""
    assert err.splitlines() == [
        "1 of 50 trials finished, 0 running, 0 diverged, about 49 s left",
        "50 of 50 trials finished, 0 running, 0 diverged",
    ]


def test_an_interrupted_sweep_says_how_far_it_came(tiny_trial, capsys):
    packs = [[tiny_trial(seed=seed)] for seed in range(5)]
    with (
        pytest.raises(KeyboardInterrupt),
        SweepProgress(5, 0, packs=packs, display=Display.plain) as progress,
    ):
        for index, pack in enumerate(packs[:3]):
            progress.started(index, pack)
            progress.finished(index, [_result(pack[0])])
        raise KeyboardInterrupt
    assert capsys.readouterr().err.splitlines()[1:] == [
        "3 of 5 trials finished, 0 running, 0 diverged, about 2 s left"
    ]


def test_quiet_prints_notes_only(tiny_trial, capsys):
    with SweepProgress(1, 0, quiet=True) as progress:
        progress.started(0, [tiny_trial()])
        progress.finished(0, [_result(tiny_trial())])
        progress.note("The last line of [ledger.jsonl] was cut off.")
    out, err = capsys.readouterr()
    assert (out, err) == ("", "The last line of [ledger.jsonl] was cut off.\n")


LIVE = """
from hptransfer.config import TrialConfig
from hptransfer.config.hyperparameters import with_hyperparameters
from hptransfer.sweeping.run.progress import SweepProgress
import sys
sys.path.insert(0, {tests!r})
from tests.sweeping.test_progress import _result
axes = ["log2_lr", "log2_init_scale"]
with SweepProgress(2, 1, axes=axes) as progress:
    best = with_hyperparameters(TrialConfig(), {{"log2_lr": -7.5, "log2_init_scale": 0.25}})
    progress.started(0, [best])
    progress.finished(0, [_result(best, 0.4321)])
print("answer")
"""


def test_a_terminal_shows_the_table_and_stdout_stays_clean():
    master, terminal = pty.openpty()
    program = LIVE.format(tests=str(ROOT))
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "COLUMNS": "100"}
    answer = subprocess.run(
        [sys.executable, "-c", program],
        stdout=subprocess.PIPE,
        stderr=terminal,
        env={**environment, "TERM": "xterm"},
        check=True,
    )
    os.close(terminal)
    shown = re.sub("\x1b\\[[0-9;?]*[a-zA-Z]", "", os.read(master, 100_000).decode())
    os.close(master)
    assert answer.stdout == b"answer\n"
    heading, best = (line for line in shown.splitlines() if "best loss" in line or "0.4321" in line)
    assert heading.split("best loss")[1].split() == ["at", "log2_lr", "at", "log2_init_scale"]
    assert best.split("0.4321")[1].split() == ["-7.5", "0.25"]
    assert "2 of 2 trials" in shown


def test_split_packs_wait_again_and_failed_trials_are_not_waited_for(tiny_trial):
    pack = [tiny_trial(seed=seed) for seed in range(2)]
    progress = SweepProgress(2, 0, packs=[pack], display=Display.quiet)
    progress.started(0, pack)
    progress.split(0)
    assert progress.line() == "0 of 2 trials finished, 0 running, 0 diverged, time left unknown"
    for index, config in enumerate(pack, start=1):
        progress.started(index, [config])
    progress.failed(1)
    progress.finished(2, [_result(pack[1])])
    assert progress.line() == "1 of 2 trials finished, 0 running, 0 diverged, 1 failed"
