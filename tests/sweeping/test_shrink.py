"""The trials that a folder has asked for stay asked for, unless the user says otherwise."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest

from hptransfer.config.choices import Method
from hptransfer.config.sweep import Axis, DesignConfig
from hptransfer.sweeping.design.trials import overrides_to_keep
from tests.support.quickstart import quickstart
from tests.support.sweeps import LEDGER, rows, run

SWEEP_FILE = Path("results/tiny/sweep.yaml")
WORDS = ("sweep", "tiny.yaml", "sweep.widths=[8]", "sweep.seeds=[0]")


@pytest.mark.parametrize(
    ("recorded", "asked", "to_keep"),
    [
        ([], [], []),
        ([], ["sweep.widths=24,48,96,192", "sweep.seeds=0,1,2,3", "search.lr.low=-12"], []),
        ([], ["sweep.widths=48,192"], ["sweep.widths=[24,48,96,192]"]),
        ([], ["sweep.seeds=[0]"], ["sweep.seeds=[0,1,2]"]),
        ([], ["sweep.parametrizations=[mup]"], ["sweep.parametrizations=[mup,standard]"]),
        (["search.lr.high=-2"], [], ["search.lr.high=-2"]),
        ([], ["search.lr.low=-9", "search.lr.high=-1"], ["search.lr.low=-10"]),
        (["search.lr.step=0.5"], [], ["search.lr.step=0.5"]),
        (
            ["sweep.vary.steps=75,300"],
            ["sweep.vary.steps=[600]"],
            ["sweep.vary.steps=[75,300,600]"],
        ),
        (["sweep.vary.steps=75,150,300"], ["sweep.vary.steps=75,300"], []),  # 150 is the base's own
    ],
)
def test_what_keeps_all_trials_is_named(recorded, asked, to_keep) -> None:
    assert overrides_to_keep(quickstart(*recorded), quickstart(*asked)) == to_keep
    assert overrides_to_keep(quickstart(*recorded), quickstart(*asked, *to_keep)) == []


def test_fewer_points_of_a_sequence_are_named() -> None:
    many, few = (
        dataclasses.replace(quickstart(), design=DesignConfig(Method.sobol, points))
        for points in (16, 8)
    )
    assert overrides_to_keep(many, few) == ["sweep.design.points=16"]
    assert overrides_to_keep(few, many) == []


def test_lists_of_points_are_joined() -> None:
    before, now = (
        dataclasses.replace(quickstart(), search=(("lr", Axis(min(p), max(p), 1.0, p)),))
        for p in ((-8.0, -6.5, -4.0), (-8.0, -5.0))
    )
    assert overrides_to_keep(before, now) == ["search.lr={points: [-8.0, -6.5, -5.0, -4.0]}"]


def test_recorded_trials_are_not_left_out_without_a_word(
    tiny_sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(*WORDS, "search.lr.high=-2") == 0
    before = SWEEP_FILE.read_bytes(), LEDGER.read_bytes()
    capsys.readouterr()
    assert run(*WORDS) == 2
    said = capsys.readouterr().err
    assert "results/tiny holds 1 that this command does not ask for (widths 8)" in said
    assert "Add search.lr.high=-2 to keep them in use, or --shrink" in said
    assert (SWEEP_FILE.read_bytes(), LEDGER.read_bytes()) == before
    assert run(*WORDS, "--shrink") == 0
    assert "1 recorded row is not used" in capsys.readouterr().out
    assert len(rows()) == 7 and SWEEP_FILE.read_bytes() != before[0]
    assert run("fit", "tiny") == 0
    assert "1 recorded row is not used" in capsys.readouterr().out
    assert run("report", "tiny") == 0
    assert "1 recorded row is not used" in Path("results/tiny/report.html").read_text()


def test_what_has_no_row_may_be_left_out_and_is_said(
    tiny_sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    from hptransfer.cli.main import main

    assert run(*WORDS) == 0
    LEDGER.unlink()
    assert main([*WORDS, "search.lr.high=-4"]) == 0
    said = capsys.readouterr().err
    assert (
        "results/tiny asked for more trials before; with search.lr.high=-3 this command would ask "
        "for them, too. None of those trials was finished, so nothing is lost.\n"
    ) in said
