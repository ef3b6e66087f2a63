"""Rounds of trials: what is asked, measured, handed out, told and cleaned up."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from hptransfer.cli.main import main
from hptransfer.config import CheckpointConfig
from hptransfer.errors import Interrupted, MachineError
from hptransfer.sweeping.run import driver
from hptransfer.training.packs import checkpoint
from hptransfer.training.packs.state import TrainingState
from tests.support.sweeps import LEDGER, PACKS, known_costs, opened, outcomes, rows

__all__ = ["known_costs", "opened"]
REFINE = ("sweep.design.method=refine", "sweep.design.points=5", "runtime.pack_size=null")


def events(kind: str, folder: str = "results/tiny") -> list[dict]:
    """Return a log's events of a kind."""
    lines = (Path(folder) / "log.jsonl").read_text().splitlines()
    return [event for event in map(json.loads, lines) if event["event"] == kind]


def test_an_adaptive_design_measures_all_shapes_before_it_asks(
    opened, known_costs, monkeypatch: pytest.MonkeyPatch
) -> None:
    asked = known_costs({1: 1.0, 2: 1.2, 4: 1.8})
    measured_before: list[int] = []
    run = driver.run_packs

    def run_packs(*given, **more) -> None:
        measured_before.extend(asked)
        run(*given, **more)

    monkeypatch.setattr(driver, "run_packs", run_packs)
    assert driver.sweep(opened(*REFINE)) == len(rows())
    assert sorted(asked) == sorted(measured_before) == [8, 16, 16, 32, 32]
    assert len(json.loads(PACKS.read_text())["packs"]) == 5
    assert {row["width"] for row in rows().values()} == {8, 16, 32}


@pytest.mark.parametrize("method", ["refine", pytest.param("tpe", marks=pytest.mark.slow)])
def test_an_adaptive_sweep_that_is_cut_ends_with_the_rows_of_an_undisturbed_one(
    opened, method: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    design = (f"sweep.design.method={method}", "sweep.design.points=6", "sweep.design.round=2")
    driver.sweep(opened(*design, "sweep.widths=8,16", "name=undisturbed"))
    whole = outcomes(Path("results/undisturbed/ledger.jsonl"))
    train, packs = TrainingState.train_step, 0

    def cut(state: TrainingState, step: int) -> None:
        nonlocal packs
        packs += step == 0
        if packs == 3 and step == 5:
            packs = 0
            raise Interrupted(2)
        train(state, step)

    cuts = 0
    with monkeypatch.context() as patch:
        patch.setattr(TrainingState, "train_step", cut)
        while cuts < 4:
            try:
                driver.sweep(opened(*design, "sweep.widths=8,16"))
                break
            except Interrupted:
                cuts += 1
    driver.sweep(opened(*design, "sweep.widths=8,16"))
    assert cuts >= 2
    assert outcomes() == whole
    design_files = [Path(f"results/{name}/design.json") for name in ("tiny", "undisturbed")]
    assert design_files[0].read_bytes() == design_files[1].read_bytes()


def test_what_is_done_before_the_first_trial_is_told(
    tiny_sweep: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["sweep", "tiny.yaml", "sweep.widths=[8]", "runtime.pack_size=null"]) == 0
    first, *others = capsys.readouterr().err.splitlines()
    assert first.startswith("preparing tiny: measuring how many trials train best together.")
    training = r"training 12 trials in \d+ groups?, one group after another in this process \.\.\."
    assert any(re.fullmatch(training, line) for line in others)


def test_the_log_tells_packs_rows_and_the_end(opened) -> None:
    driver.sweep(opened("sweep.widths=[8]"))
    (started,) = events("started")
    assert (started["trials"], started["recorded"], started["packs"]) == (12, 0, 3)
    assert len(events("pack_started")) == len(events("pack_finished")) == 3
    assert {event["trial_key"] for event in events("row")} == set(rows())
    (finished,) = events("finished")
    assert finished["outcome"] == "done" and finished["counts"]["rows"] == 12


def test_nothing_to_run_starts_no_watcher_and_no_executor(
    opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    driver.sweep(opened("sweep.widths=[8]"))
    before = Path("results/tiny/log.jsonl").read_bytes()

    def forbidden(*_: object, **__: object) -> None:
        raise AssertionError("nothing is left to run")

    monkeypatch.setattr(driver, "watchers", forbidden)
    monkeypatch.setattr(driver, "run_packs", forbidden)
    assert driver.sweep(opened("sweep.widths=[8]")) == 0
    assert Path("results/tiny/log.jsonl").read_bytes() == before


def test_checkpoints_go_once_their_rows_are_on_disk(
    opened, monkeypatch: pytest.MonkeyPatch
) -> None:
    seen: list[tuple[int, bool]] = []
    discard = checkpoint.discard_pack

    def recorded(checkpoints: CheckpointConfig, pack: Sequence) -> None:
        lines = LEDGER.read_bytes().count(b"\n")
        seen.append((lines, any(Path(checkpoints.folder).rglob("*.safetensors"))))
        discard(checkpoints, pack)

    monkeypatch.setattr(checkpoint, "discard_pack", recorded)
    driver.sweep(opened("sweep.widths=[8]", "executor.checkpoint_s=0"))
    assert seen == [(4, True), (8, True), (12, True)]
    assert not any(Path("results/tiny/checkpoints").rglob("*.safetensors"))


def test_a_checkpoint_that_cannot_be_removed_is_told_and_ends_nothing(
    opened, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(*_: object) -> None:
        raise MachineError("The storage is gone.")

    monkeypatch.setattr(checkpoint, "discard_pack", fail)
    assert driver.sweep(opened("sweep.widths=[8]")) == 12
    assert capsys.readouterr().err.count("could not be deleted: The storage is gone.") == 3
    assert len(events("note")) == 3


@pytest.mark.parametrize(
    ("overrides", "expected"),
    [
        ((), "{cwd}/results/tiny/checkpoints"),
        (("executor.name=ray",), "{cwd}/results/tiny/checkpoints"),
        (("executor.name=ray", "executor.address=head:6379"), None),
        (("executor.name=ray", "executor.address=auto", "executor.storage=/nfs/x/"), "/nfs/x/tiny"),
        (("executor.storage=s3://bucket/x",), "s3://bucket/x/tiny"),
        (("executor.storage=shared",), "{cwd}/shared/tiny"),
    ],
)
def test_checkpoints_lie_where_all_who_need_them_see_them(
    opened: Callable, overrides: tuple[str, ...], expected: str | None
) -> None:
    job = opened(*overrides, "executor.checkpoint_s=7")
    found = driver.checkpoints(job, job.folder.path)
    if expected is None:
        assert found is None
    else:
        assert found == CheckpointConfig(expected.format(cwd=Path.cwd()), 7.0)
        inner = driver.checkpoints(job, job.folder.target)
        assert found is not None and inner is not None and inner.folder != found.folder
