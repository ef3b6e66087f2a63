"""Trials whose training raises: found in their pack, recorded apart from rows, and run again."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path

import pytest

from hptransfer.config import TrialConfig
from hptransfer.training.packs import run as packs_run
from tests.support.sweeps import outcomes, rows, run

FOLDER = Path("results/tiny")
WORDS = ("tiny.yaml", "sweep.widths=[8]")
Raises = Callable[[TrialConfig], bool]


@pytest.fixture
def broken(monkeypatch: pytest.MonkeyPatch) -> Callable[[Raises], list[int]]:
    """Have training raise for some trials; return the list of the sizes of the packs trained."""
    train = packs_run.train_pack

    def make(raises: Raises) -> list[int]:
        sizes: list[int] = []

        def train_pack(configs: Sequence[TrialConfig], *rest, **more):
            sizes.append(len(configs))
            if any(map(raises, configs)):
                raise ZeroDivisionError("a bug\nin the model")
            return train(configs, *rest, **more)

        monkeypatch.setattr(packs_run, "train_pack", train_pack)
        return sizes

    return make


def is_culprit(config: TrialConfig) -> bool:
    return config.seed == 1 and config.optimizer.lr == 2**-5


def test_a_raising_trial_is_found_and_the_others_are_as_without_it(
    tiny_sweep: Path, broken, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run("sweep", *WORDS, "name=healthy") == 0
    healthy = outcomes(Path("results/healthy/ledger.jsonl"))
    sizes = broken(is_culprit)
    capsys.readouterr()
    assert run("sweep", *WORDS) == 1
    said = capsys.readouterr().err
    (entry,) = json.loads((FOLDER / "failed.json").read_text())["failed"]
    assert sizes == [4, 4, 4, 2, 1, 1, 2]
    assert outcomes().keys() == healthy.keys() - {entry["trial_key"]}
    for key, (status, loss) in outcomes().items():  # smaller packs may differ in the last bits
        assert (status, loss) == (healthy[key][0], pytest.approx(healthy[key][1], rel=1e-6))
    assert "1 of 12 trials failed" in said and "Traceback (most" not in said
    culprit = "width 8, shared, log2_lr=-5, seed 1: ZeroDivisionError: a bug ("
    assert culprit in said and f"Traceback: {FOLDER / entry['log']}" in said
    assert entry["frame"].endswith("in train_pack")
    assert "ZeroDivisionError: a bug\nin the model" in (FOLDER / entry["log"]).read_text()
    assert run("status", "tiny") == 0
    assert f"failed   {culprit}" in capsys.readouterr().out
    events = map(json.loads, (FOLDER / "log.jsonl").read_text().splitlines())
    assert [e["event"] for e in events if "raised" in e["event"] or "failed" in e["event"]] == [
        "pack_raised",
        "pack_raised",
        "trial_failed",
    ]


def test_a_later_sweep_runs_failed_trials_again(
    tiny_sweep: Path, broken, capsys: pytest.CaptureFixture[str]
) -> None:
    broken(is_culprit)
    assert run("sweep", *WORDS) == run("sweep", *WORDS) == 1
    assert len(json.loads((FOLDER / "failed.json").read_text())["failed"]) == 1
    broken(lambda config: False)
    assert run("sweep", *WORDS) == 0
    assert len(rows()) == 12
    assert not (FOLDER / "failed.json").exists() and not (FOLDER / "failed").exists()


def test_three_failures_in_a_row_stop_the_sweep(
    tiny_sweep: Path, broken, capsys: pytest.CaptureFixture[str]
) -> None:
    sizes = broken(lambda config: True)
    assert run("sweep", *WORDS) == 1
    said = capsys.readouterr().err
    assert sizes == [4, 2, 1, 1, 2, 1]
    assert "3 failed one after another, so the sweep was stopped" in said
    assert said.count("ZeroDivisionError") == 3
    failed = json.loads((FOLDER / "failed.json").read_text())["failed"]
    assert len({entry["trial_key"] for entry in failed}) == 3 and rows() == {}


def test_failures_between_sound_trials_do_not_stop_the_sweep(tiny_sweep: Path, broken) -> None:
    broken(lambda config: config.optimizer.lr in (2**-8, 2**-6, 2**-4))
    assert run("sweep", *WORDS) == 1
    assert len(rows()) == 6
    assert len(json.loads((FOLDER / "failed.json").read_text())["failed"]) == 6
    assert not any(row["hps"]["log2_lr"] in (-8, -6, -4) for row in rows().values())


@pytest.fixture
def raising_step(monkeypatch: pytest.MonkeyPatch) -> None:
    """Have every step raise, in measurements and checks as in training."""
    from hptransfer.training.packs.state import TrainingState

    def train_step(state: TrainingState, step: int) -> None:
        raise ZeroDivisionError("a bug\nin the model")

    monkeypatch.setattr(TrainingState, "train_step", train_step)


@pytest.mark.usefixtures("tiny_sweep", "raising_step")
class TestWithoutAPackSize:
    """Failures that show before training, while packs are measured or the model is checked."""

    MEASURED = ("tiny.yaml", "runtime.pack_size=null", "sweep.gate=false")

    def test_a_measurement_that_raises_leaves_the_failure_to_the_trials(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run("sweep", *self.MEASURED) == 1
        said = capsys.readouterr().err
        assert "3 failed one after another, so the sweep was stopped" in said
        assert said.count("ZeroDivisionError: a bug (") == 3 and "Traceback (most" not in said
        assert not (FOLDER / "packs.json").exists()

    def test_an_adaptive_design_starts_no_trial(self, capsys: pytest.CaptureFixture[str]) -> None:
        assert run("sweep", *self.MEASURED, "sweep.design.method=refine") == 1
        said = capsys.readouterr().err
        assert said.startswith(
            "hptransfer: Trials must train without a Python error, but not all do: Width 8 could "
            "not be measured, because training a few steps raised ZeroDivisionError: a bug ("
        )

    def test_a_plan_is_printed_without_the_measured_seconds(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run("plan", *self.MEASURED, "--measure") == 0
        assert "Width 8 could not be measured, because" in capsys.readouterr().out

    def test_a_coordinate_check_ends_with_a_sentence(
        self, capsys: pytest.CaptureFixture[str]
    ) -> None:
        assert run("sweep", "tiny.yaml", "sweep.gate=true") == 2
        said = capsys.readouterr().err
        assert "a few steps at width 8 raised ZeroDivisionError: a bug (" in said
