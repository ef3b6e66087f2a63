"""A run in its directory: what it leaves, and that a cut costs nothing but time."""

from __future__ import annotations

import dataclasses
import json
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from matplotlib import image
from safetensors import SafetensorError
from safetensors.torch import load_file

from hptransfer.config.compose.compose import compose_file
from hptransfer.errors import Interrupted, MachineError, UserError
from hptransfer.models.weights import load_weights
from hptransfer.results.curves import read_curve, read_held_out
from hptransfer.results.folder import ResultsFolder, RunFolder
from hptransfer.results.ledger_rows import read_ledger_rows
from hptransfer.system.folder_lock import FolderLock
from hptransfer.system.signals import raised_as_interrupted
from hptransfer.training import checkpoint_pace
from hptransfer.training.packs.run import run_pack, train_trial
from hptransfer.training.target.checkpoints import RunCheckpoints
from hptransfer.training.target.engine import Engine, StepReport
from hptransfer.training.target.record import LogEntry, RunLog, RunProgress, read_log
from hptransfer.transfer import target_run
from tests.support.files import flip

TARGET = """\
name: target
model: {width: 16, base_width: 8, depth: 1, head_dim: 4}
optimizer: {beta2: 0.99, clip_norm: 0.5}
budget: {steps: 12, batch_size: 8, eval_samples: 16, eval_draws: 2, weights: ema}
train: {log_every: 1, checkpoint_s: 0, keep: 3, sample_columns: 1, sample_steps: 1}
"""
OWN = ("samples_per_second", "tflops", "utilisation")  # of a process, not of the run


@pytest.fixture
def train(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., dict[str, Any]]:
    """Return a function that trains a tiny config, in `results` unless told otherwise."""
    monkeypatch.chdir(tmp_path)
    Path("target.yaml").write_text(TARGET)

    def run(*overrides: str, root: str = "results", **told: Any) -> dict[str, Any]:
        path = Path("target.yaml")
        with raised_as_interrupted(at_once=False):
            answer = target_run.train(
                path, list(overrides), config_dir=None, root=Path(root), **told
            )
        assert answer is not None
        return answer

    return run


def folder_of(answer: dict[str, Any]) -> RunFolder:
    return RunFolder(Path(answer["run"]))


def only_run(root: str = "results") -> RunFolder:
    (path,) = Path(root, "target/target/runs").iterdir()
    return RunFolder(path)


def same_bits(one: Path, other: Path) -> bool:
    """Whether two files hold the same tensors; their headers may stand in another order."""
    ours, theirs = load_file(one), load_file(other)
    return ours.keys() == theirs.keys() and all(torch.equal(ours[n], theirs[n]) for n in ours)


def raising_at(step: int, number: int = signal.SIGTERM) -> Callable[[LogEntry], None]:
    def show(entry: LogEntry) -> None:
        if entry.step == step:
            signal.raise_signal(number)

    return show


def lasting(folder: RunFolder) -> list[dict[str, Any]]:
    """Return what of a log does not depend on the clock."""
    return [{k: v for k, v in line.items() if k not in OWN} for line in read_log(folder.log_file)]


def test_a_run_gives_what_the_pack_of_its_row_gives(train) -> None:
    answer = train("train.eval_every=4")
    composed = compose_file(Path("target.yaml"), [])
    runtime = dataclasses.replace(composed.runtime, held_out_curve=True)
    result, weights = train_trial(composed.trial, runtime)
    assert answer["loss"] == pytest.approx(result.loss, rel=1e-6)
    (row,) = read_ledger_rows(Path("results/target/target"))
    assert row["metrics"]["loss_at_init"] == pytest.approx(result.loss_at_init, rel=1e-6)
    assert row["metrics"]["train_loss"] == pytest.approx(result.train_loss, rel=1e-6)
    assert row["metrics"]["clipped_share"] == pytest.approx(result.clipped_share)
    assert result.clipped_share > 0
    key, target = answer["trial_key"], Path("results/target/target")
    for (step, loss), (at, known) in zip(read_curve(target, key), result.curve, strict=True):
        assert (step, loss) == (at, pytest.approx(known, rel=1e-6))
    known = dict(result.held_out)
    assert [step for step, _ in read_held_out(target, key)] == [4, 8, 12]
    for step, loss in read_held_out(target, key):
        assert loss == pytest.approx(known[step], rel=1e-6)
    kept = dict(load_weights(composed.trial, Path(answer["weights"])).named_parameters())
    # Biases of keys change nothing: their gradients, and so their steps, are noise.
    apart = torch.cat(
        [(kept[name].detach() - value).abs().flatten() for name, value in weights.items()]
    )
    assert float(apart.median()) < 1e-6


def test_a_run_directory_says_what_it_is(train) -> None:
    where: list[str] = []
    folder = folder_of(train("train.sample_every=5", "train.log_every=4", announce=where.append))
    assert where == [f"run      {folder.path}"]
    record = json.loads(folder.record_file.read_text())
    assert (record["status"], record["steps_done"], record["steps"]) == ("completed", 12, 12)
    assert (record["device"], record["processes"], record["parallel"]) == ("cpu", 1, "none")
    assert record["parameters"] == 10496 and record["flops_per_step"] > 6 * 10496 * 8
    share = record["tflops"] / record["matmul_peak_tflops"]
    assert record["utilisation"] == pytest.approx(share, rel=1e-2)
    assert [start["step"] for start in record["starts"]] == [0]
    log = read_log(folder.log_file)
    assert [line["step"] for line in log] == [4, 8, 12]
    assert [line["held_out_loss"] for line in log] == [None, None, record["loss"]]
    assert log[0]["lr_multiplier"] == 1.0 > log[-1]["lr_multiplier"] > 0
    assert sorted(path.name for path in folder.checkpoints.iterdir()) == ["12", "4", "8"]
    for step in (5, 10, 12):
        assert image.imread(folder.samples_file(step)).std() > 0
    assert len(list(folder.path.joinpath("tensorboard").iterdir())) == 1


def test_the_runs_own_config_trains_the_same_trial(train) -> None:
    first = train()
    config = folder_of(first).config_file
    again = target_run.train(config, [], config_dir=None, root=Path("results"))
    assert again is not None and again["recorded_before"]
    assert {**again, "recorded_before": False} == first


def cut_at(cut: int) -> Callable[[Engine, int], StepReport]:
    """Return a step during which SIGTERM arrives once `cut` are taken with it."""
    take = Engine.train_step

    def train_step(engine: Engine, step: int) -> StepReport:
        if step + 1 == cut:
            signal.raise_signal(signal.SIGTERM)
        return take(engine, step)

    return train_step


def test_slow_checkpoints_are_rare(train, monkeypatch: pytest.MonkeyPatch) -> None:
    """A step takes 10 s by this clock and a checkpoint 5 s, so the next is due after 100 s."""
    now, saved, take, save = [0.0], [], Engine.train_step, RunCheckpoints.save

    def step(engine: Engine, number: int) -> StepReport:
        now[0] += 10
        return take(engine, number)

    def slow(self: RunCheckpoints, number: int, *rest: Any) -> None:
        saved.append(number)
        now[0] += 5
        save(self, number, *rest)

    monkeypatch.setattr(Engine, "train_step", step)
    monkeypatch.setattr(RunCheckpoints, "save", slow)
    monkeypatch.setattr(checkpoint_pace.time, "monotonic", lambda: now[0])
    train("budget.steps=30", "train.log_every=1", "train.checkpoint_s=20")
    assert saved == [2, 12, 22, 30]  # the last one as the run ends


@pytest.mark.parametrize("cuts", [(1,), (7,), (3, 4, 31)])
def test_a_run_that_was_cut_off_ends_with_the_same_bits(
    train, cuts: tuple[int, ...], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The curve has a point every second step, the log a line every fifth."""
    words = ("budget.steps=40", "train.log_every=5", "train.eval_every=3", "train.checkpoint_s=1e6")
    whole = train(*words, root="whole")
    said: list[str] = []
    for cut in cuts:
        with pytest.raises(Interrupted) as end, monkeypatch.context() as patch:
            patch.setattr(Engine, "train_step", cut_at(cut))
            train(*words)
        assert end.value.exit_code == 143
        record = json.loads(only_run().record_file.read_text())
        assert (record["status"], record["steps_done"]) == ("interrupted", cut)
        assert not only_run().weights_file.exists() and not read_ledger_rows(
            Path("results/target/target")
        )
    ended = train(*words, tell=said.append)
    assert said == [f"The run goes on at step {cuts[-1]} of 40."]
    ours, theirs = folder_of(ended), folder_of(whole)
    assert same_bits(ours.weights_file, theirs.weights_file)
    assert lasting(ours) == lasting(theirs)
    assert ended["loss"] == whole["loss"]
    curves = [f"{root}/target/target/curves" for root in ("results", "whole")]
    (one, other) = (next(Path(folder).iterdir()).read_bytes() for folder in curves)
    assert one == other
    record = json.loads(ours.record_file.read_text())
    assert [start["step"] for start in record["starts"]] == [0, *cuts]


def test_ctrl_c_finishes_the_step_and_exits_as_interrupted(train) -> None:
    with pytest.raises(Interrupted) as end:
        train(show=raising_at(2, signal.SIGINT))
    assert end.value.exit_code == 130 and only_run().checkpoints.joinpath("2").is_dir()


def test_a_damaged_checkpoint_is_passed_over_for_the_one_before(train) -> None:
    whole = train(root="whole")
    with pytest.raises(Interrupted):
        train(show=raising_at(6))
    flip(only_run().checkpoints / "6" / "00000.safetensors")
    said: list[str] = []
    ended = train(tell=said.append)
    damage, going_on = said
    assert damage == (
        "The checkpoint of step 6 cannot be used: its file 00000.safetensors is missing or damaged."
    )
    assert going_on == "The run goes on at step 5 of 12."
    assert same_bits(folder_of(ended).weights_file, folder_of(whole).weights_file)
    assert [line["step"] for line in read_log(folder_of(ended).log_file)] == [*range(1, 13)]


def test_where_no_checkpoint_is_sound_the_run_begins_anew_and_says_so(train) -> None:
    with pytest.raises(Interrupted):
        train(show=raising_at(2))
    for manifest in only_run().checkpoints.glob("*/manifest.json"):
        manifest.write_text("{}")
    said: list[str] = []
    ended = train(tell=said.append)
    assert len(said) == 3 and said[-1].endswith("so the run starts from its first step.")
    assert ended["loss"] == train(root="whole")["loss"]


def test_a_run_that_cannot_begin_leaves_no_config(train) -> None:
    with pytest.raises(UserError, match=r"batch_size=8 with 1 x 3"):
        train("train.accumulate=3")
    with pytest.raises(UserError, match=r"sampler's steps must not exceed .* got 20 with"):
        train("objective=ddpm", "objective.timesteps=10", "train.sample_steps=20", root="coarse")
    for root in ("results", "coarse"):
        assert not only_run(root).config_file.exists() and not only_run(root).record_file.exists()
    with pytest.raises(UserError, match=r"runtime\.data_folder"):
        train("data=imagenet_latents", root="without")
    assert not Path("without").exists()


@pytest.mark.parametrize("where", ["engine.Engine.train_step", "engine.make_optimizers"])
def test_too_little_memory_is_said_with_what_helps(train, monkeypatch, where: str) -> None:
    def exhausted(*_: Any, **__: Any) -> None:
        raise torch.OutOfMemoryError("no more")

    monkeypatch.setattr(f"hptransfer.training.target.{where}", exhausted)
    with pytest.raises(MachineError, match=r"4 samples .* raise train\.accumulate above 2, or set"):
        train("train.accumulate=2")


def test_another_way_of_computing_goes_on_and_is_told(train) -> None:
    with pytest.raises(Interrupted):
        train(show=raising_at(6))
    said: list[str] = []
    ended = train("train.accumulate=2", tell=said.append)
    assert "because accumulate was 1 and is 2." in said[0]
    assert ended["status"] == "completed"


def test_weights_that_were_removed_come_back_without_training(train, monkeypatch) -> None:
    first = train()
    kept = folder_of(first).weights_file.rename("kept.safetensors")
    monkeypatch.delattr("hptransfer.training.target.engine.Engine.train_step")
    again = train()
    assert again["recorded_before"] and same_bits(folder_of(again).weights_file, kept)


def test_a_run_goes_on_where_no_checkpoint_can_be_written(train, monkeypatch) -> None:
    def full(*_: Any) -> None:
        raise MachineError("The disk is full.")

    monkeypatch.setattr(RunCheckpoints, "save", full)
    said: list[str] = []
    assert train(tell=said.append)["status"] == "completed"
    assert (
        said[0] == "The checkpoint of step 1 could not be written: The disk is full."
        and len(said) == 12
    )


def test_a_disk_that_is_full_at_the_end_is_told_in_a_sentence(train, monkeypatch) -> None:
    def full(*_: Any) -> None:
        raise SafetensorError("Error while serializing: No space left on device")

    monkeypatch.setattr("hptransfer.models.weights.save_file", full)
    with pytest.raises(MachineError, match=r"weights\.safetensors could not be .*No space"):
        train()


def test_a_diverged_run_says_when_and_leaves_no_weights(train) -> None:
    answer = train("optimizer.lr=1e30")
    result = run_pack([compose_file(Path("target.yaml"), ["optimizer.lr=1e30"]).trial], RUNTIME)[0]
    assert answer["status"] == "diverged" and answer["weights"] is None
    assert answer["diverged_at_step"] == result.diverged_at_step
    record = json.loads(folder_of(answer).record_file.read_text())
    assert (record["status"], record["loss"]) == ("diverged", None)
    assert read_log(folder_of(answer).log_file)[-1]["step"] == answer["diverged_at_step"] + 1


RUNTIME = compose_file(None, []).runtime


def test_a_hopeless_run_is_stopped_where_a_pack_stops_it() -> None:
    budget = compose_file(None, ["budget.steps=60", "budget.stop_after=0.2"]).trial.budget
    progress = RunProgress(loss_at_init=1.0)
    for step in range(60):
        progress.took(2.0 if step < 4 else 0.9, clipped=False, sound=True)
        progress.report(budget)
        if progress.stopped_at is not None:
            break
    assert progress.stopped_at == 12
    assert progress.curve[:3] == [(2, 2.0), (4, 2.0), (6, 0.9)]


def test_quality_is_in_the_row_as_a_pack_measures_it(train) -> None:
    words = ("quality.samples=100", "quality.steps=1")
    train(*words)
    (row,) = read_ledger_rows(Path("results/target/target"))
    trial = compose_file(Path("target.yaml"), list(words)).trial
    (result,) = run_pack([trial], RUNTIME)
    assert result.quality is not None
    measured = row["metrics"]["frechet_distance"]
    assert measured == pytest.approx(result.quality.frechet_distance, rel=1e-3)


def test_two_commands_do_not_write_one_run(train) -> None:
    with pytest.raises(Interrupted):
        train(show=raising_at(2))
    lock = FolderLock(only_run().path).take()
    try:
        with pytest.raises(UserError, match="is writing it"):
            train()
    finally:
        lock.release()


def test_what_is_in_a_run_directory_stays_in_it(train, tmp_path: Path) -> None:
    with pytest.raises(Interrupted):
        train(show=raising_at(2))
    elsewhere = tmp_path / "elsewhere"
    only_run().checkpoints.rename(elsewhere)
    only_run().checkpoints.symlink_to(elsewhere)
    with pytest.raises(UserError, match="must stay in it"):
        train()


def test_weights_lie_in_the_runs_directory() -> None:
    folder = ResultsFolder(Path("results/x"))
    expected = Path("results/x/target/runs/0123456789ab/weights.safetensors")
    assert folder.weights_file("0123456789ab") == expected


def test_a_log_goes_on_where_its_run_does(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    line = LogEntry(1, 0.5, 1.0, None, 10.0, 1.0, 0.5, None)
    log = RunLog(path, 0)
    for step in (1, 2, 3):
        log.append(dataclasses.replace(line, step=step))
    with path.open("a") as file:
        file.write('{"step":4,"lo')
    assert [entry["step"] for entry in read_log(path)] == [1, 2, 3]
    RunLog(path, 2).append(dataclasses.replace(line, step=3, loss=0.25))
    assert [(e["step"], e["loss"]) for e in read_log(path)] == [(1, 0.5), (2, 0.5), (3, 0.25)]
