"""A sweep's job: the gate, what runs, and what lies outside."""

from __future__ import annotations

import dataclasses
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from hptransfer.analysis import of_folder
from hptransfer.config import AdamWConfig, TrialConfig
from hptransfer.config.sweep import Axis
from hptransfer.results.curves import read_curve
from hptransfer.results.folder import read_json
from hptransfer.results.ledger_writer import LedgerWriter
from hptransfer.results.sweep_file import read_facts
from hptransfer.sweeping.design.trials import wanted
from hptransfer.sweeping.run import driver
from hptransfer.sweeping.run import job as jobs
from tests.support.sweeps import LEDGER, opened, recorded_checks, rows, run

__all__ = ["opened"]


def test_only_a_mup_arm_that_fails_stops_a_sweep(opened, monkeypatch) -> None:
    recorded_checks(monkeypatch, mup="pass", standard="fail")
    assert [c["verdict"] for c in jobs.gate(opened("sweep.gate=true"))] == ["pass", "fail"]
    recorded_checks(monkeypatch, mup="fail", standard="pass")
    with pytest.raises(jobs.CheckFailed, match="check of µP failed"):
        jobs.gate(opened("sweep.gate=true", "name=other"))
    recorded_checks(monkeypatch, mup="inconclusive", standard="pass")
    answers = jobs.gate(opened("sweep.gate=true", "name=third"))
    assert [c["verdict"] for c in answers] == ["inconclusive", "pass"]


def test_checks_are_kept_until_widths_or_rates_change(opened, monkeypatch) -> None:
    asked = recorded_checks(monkeypatch, mup="pass", standard="fail")
    jobs.check(opened())
    jobs.check(opened())
    assert asked == [("mup", (8, 16, 32), -5.5), ("standard", (8, 16, 32), -5.5)]
    jobs.check(opened("sweep.widths=8,16"))
    jobs.check(opened("sweep.widths=8,16", "search.lr.low=-7"))
    assert asked[2::2] == [("mup", (8, 16), -5.5), ("mup", (8, 16), -5.0)]


def test_a_pack_with_a_missing_row_runs_as_it_was_cut(opened, monkeypatch) -> None:
    job = opened("sweep.widths=[8]")
    driver.sweep(job)
    LEDGER.write_bytes(b"".join(LEDGER.read_bytes().splitlines(keepends=True)[:-1]))
    seen: list = []
    whole = driver.run_packs
    monkeypatch.setattr(
        driver, "run_packs", lambda packs, *a, **k: (seen.extend(packs), whole(packs, *a, **k))[1]
    )
    assert driver.sweep(job) == 1
    assert [len(pack) for pack in seen] == [4]
    assert driver.sweep(job) == 0


def test_every_row_has_its_curve_before_it_is_recorded(opened, monkeypatch) -> None:
    append = LedgerWriter.append

    def checked(writer: LedgerWriter, new: Any) -> None:
        for row in new:
            assert read_curve(writer.folder, row["trial_key"])[-1][0] == 12
        append(writer, new)

    monkeypatch.setattr(LedgerWriter, "append", checked)
    job = opened("sweep.widths=[8]")
    driver.sweep(job)
    assert len(rows()) == len(list(Path("results/tiny/curves").iterdir())) == 12


def test_what_lies_outside_is_neither_counted_nor_fitted(opened) -> None:
    driver.sweep(opened("sweep.widths=8,16"))
    small = opened("sweep.widths=8,16")
    before = of_folder.fit_folder(small.folder)
    driver.sweep(opened("sweep.seeds=0,1,2"))
    small = opened("sweep.widths=8,16", shrink=True)
    assert jobs.intention(small) == "tiny: all 36 trials are finished"
    assert of_folder.status(small.folder)["recorded"] == 36
    after = of_folder.fit_folder(small.folder)
    assert after.pop("trials") == {"fitted": 36, "missing": 0, "left_out": 54}
    assert before.pop("trials") == {"fitted": 36, "missing": 0, "left_out": 0}
    assert after == before


@pytest.mark.parametrize(
    "override",
    ["sweep.widths=8,16", "sweep.seeds=[0]", "sweep.parametrizations=[mup]", "search.lr.low=-7"],
)
def test_a_row_is_wanted_only_where_every_axis_wants_it(opened, override: str) -> None:
    jobs_wanted = wanted(opened().sweep)
    facts = read_facts(opened(override).folder)
    smaller = wanted(opened(override).sweep)
    for key, config in jobs_wanted.items():
        from hptransfer.config.hyperparameters import hps
        from hptransfer.config.identity import arm_of, canonical

        row = {
            "width": config.model.width,
            "seed": config.seed,
            "parametrization": arm_of(config),
            "hps": hps(config, ["log2_lr"]),
            "config": canonical(config),
        }
        assert facts.wants(row) == (key in smaller)
    assert facts.wanted_count() == len(smaller)


def test_checks_of_other_arms_stay_and_outdated_ones_go(opened, monkeypatch) -> None:
    def kept() -> list[tuple]:
        checks = read_json(job.folder.check_file, "checks")["checks"]  # pyright: ignore
        return [(check["parametrization"], check["asked_log2_lr"]) for check in checks]

    asked = recorded_checks(monkeypatch, mup="pass", standard="fail")
    job = opened("sweep.parametrizations=[mup]")
    jobs.check(job)
    jobs.check(opened())
    assert [arm for arm, *_ in asked] == ["mup", "standard"]
    assert kept() == [("mup", -5.5), ("standard", -5.5)]
    jobs.check(opened("search.lr.low=-7"))
    assert kept() == [("mup", -5.0), ("standard", -5.0)]


def test_a_fixed_rate_is_the_central_one(opened) -> None:
    base = TrialConfig(optimizer=AdamWConfig(lr=2**-3))
    fixed = dataclasses.replace(opened().sweep, base=base, search=(("init_scale", Axis(-1, 1)),))
    assert jobs.central_log2_lr(fixed) == -3


@pytest.mark.parametrize(
    ("words", "count"),
    [
        (("sweep.widths=8,16", "sweep.gate=true"), 2),
        (("sweep.widths=8,16", "sweep.gate=false"), 0),
        (("sweep.widths=[16]", "sweep.gate=true"), 0),  # there is no slope over one width
    ],
)
def test_the_gate_needs_two_widths(opened, monkeypatch, words: tuple[str, ...], count: int) -> None:
    recorded_checks(monkeypatch, mup="pass", standard="fail")
    assert len(jobs.gate(opened(*words))) == count


def test_a_check_that_could_not_tell_says_so() -> None:
    answer = {"worst": {"module": "m", "quantity": "init", "step": 0, "slope": 0.1}, "limit": 0.2}
    answer |= {"parametrization": "mup", "warnings": ["The loss hardly fell."]}
    assert jobs.failure_sentence(answer).startswith(
        "The coordinate check of µP failed: The loss hardly fell. "
    )


HOLD = """
import sys
from hptransfer.system.folder_lock import FolderLock
with FolderLock(__import__("pathlib").Path("results/tiny")):
    print("held", flush=True)
    sys.stdin.read()
"""


def test_a_refused_second_sweep_changes_nothing_of_the_running_one(
    tiny_sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("sweep", "tiny.yaml", "sweep.widths=[8]") == 0
    folder = Path("results/tiny")
    before = {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    with subprocess.Popen(
        [sys.executable, "-c", HOLD],
        env=environment,
        text=True,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        for words in (("sweep.seeds=[0,1,2]",), ("sweep.widths=[8,16]", "sweep.gate=true")):
            assert run("sweep", "tiny.yaml", *words) == 2
            assert f"pid {other.pid} is writing it" in capsys.readouterr().err
        other.communicate("")
    after = {
        path: path.read_bytes()
        for path in folder.rglob("*")
        if path.is_file() and path.name != ".lock"
    }
    assert after == before


def test_an_open_job_keeps_other_processes_out_until_its_end(opened) -> None:
    job = opened("sweep.widths=[8]")
    program = HOLD.replace("sys.stdin.read()", "")
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}

    def other() -> subprocess.CompletedProcess[str]:
        command = [sys.executable, "-c", program]
        return subprocess.run(command, env=environment, text=True, capture_output=True, check=False)

    assert "is writing it" in other().stderr
    driver.sweep(job)
    assert "is writing it" in other().stderr  # the ledger's writer did not release the lock
    opened("name=another")
    assert other().stdout == "held\n"


def test_a_changed_question_names_the_folder_that_holds_the_recorded_one(
    tiny_sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ("sweep", "tiny.yaml", "sweep.widths=[8]", "--results", "other")
    assert run(*words) == 0
    assert run(*words, "budget.steps=13") == 2
    assert "other/tiny holds another sweep: budget.steps was 12" in capsys.readouterr().err
