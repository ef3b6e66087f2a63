"""Held-out curves, and steps to equal loss read from them."""

from __future__ import annotations

import dataclasses
import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from benchmarks import convergence
from benchmarks.convergence_answer import (
    Pair,
    Relation,
    Run,
    band,
    compared,
    first_at,
    mean_loss,
    over_seeds,
    risen,
    speed_up,
)
from benchmarks.convergence_plot import convergence_data, convergence_figure, ratio_text
from hptransfer.cli.main import main
from hptransfer.config import CheckpointConfig, RuntimeConfig, TrialConfig
from hptransfer.config.choices import Schedule, Status, Weights
from hptransfer.results import curves
from hptransfer.results.ledger_rows import read_ledger_rows
from hptransfer.results.trial_result import TrialResult
from hptransfer.training.packs.run import run_pack
from tests.support.checkpoints import cut_off, with_death
from tests.support.packs import varied
from tests.support.strict_json import strict

PLAIN, MEASURED = RuntimeConfig(), RuntimeConfig(held_out_curve=True)


def recorded(results: list[TrialResult]) -> list[tuple[Any, ...]]:
    """Return all that a trial gave but its held-out curve and its time."""
    return [
        dataclasses.astuple(dataclasses.replace(r, seconds=0.0, notes=(), held_out=()))
        for r in results
    ]


@pytest.mark.parametrize("weights", list(Weights))
@pytest.mark.parametrize("family", ["dit", "custom"])
def test_measuring_the_held_out_curve_changes_nothing_to_the_bit(
    family: str, weights: Weights, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = varied(family, steps=8, weights=weights, ema_fraction=0.5)
    with_death(1, 3, monkeypatch)
    plain, measured = run_pack(trials, PLAIN), run_pack(trials, MEASURED)
    assert recorded(plain) == recorded(measured)
    assert [r.held_out for r in plain] == [()] * 4
    sound = [result for result in measured if result.status is Status.completed]
    assert len(sound) == 3
    for result in sound:
        assert [step for step, _ in result.held_out] == [step for step, _ in result.curve]
        assert result.held_out[-1] == (8, result.loss)
        assert len({loss for _, loss in result.held_out}) == 8
    assert [step for step, _ in measured[1].held_out] == [1, 2, 3]  # no loss of the dead


def test_a_point_of_a_constant_run_is_the_end_of_a_shorter_one(
    tiny_trial: Callable[..., TrialConfig],
) -> None:
    def trained(steps: int) -> TrialResult:
        config = tiny_trial(-6.0)
        changes = {"steps": steps, "schedule": Schedule.constant, "warmup_fraction": 0.0}
        budget = dataclasses.replace(config.budget, **changes)
        return run_pack([dataclasses.replace(config, budget=budget)], MEASURED)[0]

    assert dict(trained(12).held_out)[5] == trained(5).loss


@pytest.mark.parametrize("report", [0, 3, 6])
def test_a_pack_cut_off_keeps_its_held_out_curve_to_the_bit(
    report: int, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trials = varied("dit", steps=8, weights=Weights.ema, ema_fraction=0.5)
    with_death(2, 2, monkeypatch)
    expected = run_pack(trials, MEASURED)
    checkpoints = CheckpointConfig(str(tmp_path / "checkpoints"), every_s=0.0)
    cut_off(trials, checkpoints, report, MEASURED)
    continued = run_pack(trials, MEASURED, checkpoints=checkpoints)
    assert [r.held_out for r in continued] == [r.held_out for r in expected]
    assert recorded(continued) == recorded(expected)
    assert bool(continued[0].notes) == (report > 0)


def test_a_checkpoint_without_the_curve_is_no_beginning_of_one(tmp_path: Path) -> None:
    trials = varied("dit", steps=4)
    checkpoints = CheckpointConfig(str(tmp_path / "checkpoints"), every_s=0.0)
    cut_off(trials, checkpoints, 2, PLAIN)
    (result, *_) = run_pack(trials, MEASURED, checkpoints=checkpoints)
    assert "held_out_curve was False and is True" in result.notes[0]
    assert [step for step, _ in result.held_out] == [1, 2, 3, 4]


def test_the_sidecar_holds_both_curves_and_old_ones_stay_readable(tmp_path: Path) -> None:
    curves.write_curve(tmp_path, "key", [(1, 0.5)], [(1, 0.6), (2, math.inf)])
    assert curves.read_curve(tmp_path, "key") == ((1, 0.5),)
    assert curves.read_held_out(tmp_path, "key") == ((1, 0.6), (2, None))
    curves.write_curve(tmp_path, "old", [(1, 0.5)])
    assert json.loads((tmp_path / "curves" / "old.json").read_text()) == {
        "trial_key": "old",
        "curve": [[1, 0.5]],
    }
    assert curves.read_held_out(tmp_path, "old") == curves.read_held_out(tmp_path, "none") == ()


def planted(
    speed: float, *, seed: int = 0, steps: int = 300, floor: float = 0.5, shift: float = 0.0
) -> Run:
    """Return a run whose loss falls as a power of speed times the step."""
    at = range(10, steps + 1, 10)
    curve = tuple((s, floor + 3.0 * (speed * s + 20) ** -0.5 + shift) for s in at)
    return Run(seed, steps, 1.7, curve[-1][1], curve)


def broken(run: Run) -> Run:
    return dataclasses.replace(run, loss=None, curve=run.curve[:3])


@pytest.mark.parametrize("speed", [1.05, 2.0, 2.9, 8.0])
def test_a_planted_speed_up_is_found_both_ways(speed: float) -> None:
    pair = compared(planted(speed), planted(1.0))
    assert pair.ratio == pytest.approx(speed, rel=0.01) and pair.relation is Relation.equal
    assert (pair.baseline, pair.level) == (300, planted(1.0).loss)
    turned = compared(planted(1.0), planted(speed))
    assert (turned.mup, turned.level) == (300, planted(1.0).loss)
    assert turned.ratio is not None and turned.ratio * (pair.ratio or 0.0) == pytest.approx(1.0)


def test_runs_that_end_alike_have_a_ratio_of_one() -> None:
    same = compared(planted(1.0), planted(1.0))
    assert (same.ratio, same.relation) == (1.0, Relation.equal)
    for shift in (-1e-4, 1e-4):
        ratio = compared(planted(1.0, shift=shift), planted(1.0)).ratio
        assert ratio == pytest.approx(1.0, abs=0.01) and (ratio or 1.0) != 1.0


def test_what_was_reached_before_the_first_report_is_a_bound() -> None:
    pair = compared(planted(60.0), planted(1.0))
    assert (pair.ratio, pair.relation) == (30.0, Relation.above)
    assert compared(planted(1.0), planted(60.0)).relation is Relation.below


def test_the_loss_is_linear_in_the_logarithm_of_the_step() -> None:
    curve = [(10, 1.0), (40, 0.5), (80, 0.4)]
    assert first_at(curve, 0.75) == (pytest.approx(20.0), True)
    assert first_at(curve, 0.5) == (pytest.approx(40.0), True)
    assert first_at([(10, 1.0), (20, 0.4), (40, 0.9), (80, 0.4)], 0.5)[0] < 20  # the first time


def test_a_run_that_did_not_train_never_arrives() -> None:
    sound = planted(1.0)
    blown_up = dataclasses.replace(sound, loss=1.8, curve=(*sound.curve[:-1], (300, 1.8)))
    for lost in (broken(sound), blown_up):
        above, below = compared(sound, lost), compared(lost, sound)
        assert (above.ratio, above.relation, above.level) == (1.0, Relation.above, sound.loss)
        assert (below.ratio, below.relation) == (1.0, Relation.below)
        nothing = compared(lost, broken(sound))
        assert (nothing.ratio, nothing.relation) == (None, Relation.unknown)


def test_seeds_give_a_geometric_mean_with_students_interval() -> None:
    found = over_seeds([1.0, 2.0, 4.0], [Relation.equal] * 3)
    half = 2.919986 / math.sqrt(3)  # the t quantile of two degrees of freedom; the sd is one octave
    ends = (found["low"], found["high"])
    assert found["estimate"] == 2.0 and found["n_seeds"] == 3
    assert ends == pytest.approx((2 ** (1 - half), 2 ** (1 + half)), rel=1e-5)
    assert found["verdict"] == "undecided"
    assert over_seeds([2.0, 2.1, 2.2], [Relation.equal] * 3)["verdict"] == "faster"
    assert over_seeds([0.5, 0.51, 0.52], [Relation.equal] * 3)["verdict"] == "slower"
    alone = over_seeds([3.0], [Relation.equal])
    assert (alone["estimate"], alone["low"], alone["verdict"]) == (3.0, None, "undecided")


def test_bounds_open_the_interval_on_their_side() -> None:
    above = [Relation.equal, Relation.above, Relation.above]
    found = over_seeds([28.0, 30.0, 30.0], above)
    assert (found["relation"], found["high"], found["verdict"]) == (">", None, "faster")
    assert 25 < found["low"] < 30
    below = over_seeds([0.5, 0.4, 0.4], [Relation.equal, Relation.below, Relation.below])
    assert (below["relation"], below["low"], below["verdict"]) == ("<", None, "slower")
    for relations in ([*above[:2], Relation.below], [*above[:2], Relation.unknown]):
        torn = over_seeds([2.0, 30.0, 0.1], relations)
        assert (torn["estimate"], torn["relation"], torn["n_seeds"]) == (None, "?", 3)
        assert torn["verdict"] == "undecided"


def test_intervals_of_planted_ratios_cover_as_often_as_they_say() -> None:
    rng = np.random.default_rng(0)
    inside = 0
    for _ in range(2000):
        found = over_seeds(list(2.0 ** rng.normal(1.0, 0.3, 3)), [Relation.equal] * 3)
        inside += found["low"] <= 2.0 <= found["high"]
    assert 0.88 < inside / 2000 < 0.92


def test_tuning_is_counted_on_both_sides() -> None:
    pair = Pair(0, 0.6, mup=150.0, baseline=300.0, relation=Relation.equal)
    assert pair.ratio == 2.0
    assert pair.with_tuning(300, (0.0, 0.0)) == 2.0
    assert pair.with_tuning(300, (8.0, 0.0)) == pytest.approx(1.0 / 8.5)
    assert pair.with_tuning(300, (8.0, 24.0)) == pytest.approx(25.0 / 8.5)
    ours, theirs = ([planted(speed, seed=s) for s in (0, 1)] for speed in (2.0, 1.0))
    told = speed_up(ours, theirs, (8.0, 24.0))
    assert told["speed_up"]["estimate"] == pytest.approx(2.0, rel=0.01)
    assert told["speed_up_with_tuning"]["estimate"] == pytest.approx(25.0 / 8.5, rel=0.01)
    assert [pair["seed"] for pair in told["pairs"]] == [0, 1]


def test_what_is_said_of_runs_leaves_no_seed_out() -> None:
    sound = planted(1.0)
    assert mean_loss([sound, planted(1.0, shift=0.1)]) == pytest.approx((sound.loss or 0) + 0.05)
    assert mean_loss([sound, broken(sound)]) is None
    told = band([sound, planted(1.0, shift=0.2), broken(sound)])
    assert told["step"] == [10, 20, 30]
    assert told["high"][0] - told["low"][0] == pytest.approx(0.2, abs=1e-5)
    overfitted = dataclasses.replace(sound, loss=1.0, curve=(*sound.curve[:-1], (300, 1.0)))
    assert risen("x", [sound, broken(sound)]) == []
    assert "x, seed 0" in risen("x", [overfitted])[0] and "step 290" in risen("x", [overfitted])[0]


def test_ratios_are_told_with_their_relation() -> None:
    told = {"estimate": 2.0, "low": 1.5, "high": 2.5, "relation": "="}
    assert ratio_text(told) == "×2 (1.5 to 2.5)"
    assert ratio_text({**told, "relation": ">", "high": None}) == "> ×2 (1.5 to open)"
    assert ratio_text({**told, "estimate": None, "low": None, "high": None}) == "no answer"


SMALL = (
    *("name=tiny", "budget=constant_ema", "budget.steps=20", "budget.batch_size=16"),
    *("budget.eval_samples=16", "budget.eval_draws=2", "model.depth=1", "model.head_dim=4"),
    *("model.width=8", "model.base_width=8", "sweep.widths=[8,12,16]", "sweep.gate=false"),
    *("sweep.target.model.width=24", "sweep.seeds=[0,1]", "search.lr.low=-7"),
    *("runtime.pack_size=10", "executor=local", "--quiet"),
)


@pytest.fixture
def swept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Sweep the smallest edition of the study and return its folder."""
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", "convergence", *SMALL]) == 0
    return tmp_path / "results" / "tiny"


def test_the_target_is_trained_compared_and_drawn(swept: Path) -> None:
    proxies = (swept / "ledger.jsonl").read_bytes()
    assert convergence.main([str(swept), "--quiet"]) == 0
    answer = strict(swept / "convergence.json")
    names = ["default", "proxy_tuned", "law_tuned", "target_tuned"]
    assert [each["name"] for each in answer["baselines"]] == names
    rows = {row["trial_key"]: row for row in read_ledger_rows(swept / "convergence")}
    places = {(row["parametrization"], row["hps"]["log2_lr"]) for row in rows.values()}
    assert answer["runs"] == len(rows) == 2 * len(places) >= 2 * (2 * 5 + 2)
    assert {(r["width"], r["config"]["budget"]["steps"]) for r in rows.values()} == {(24, 20)}

    def held_out(entry: dict[str, Any]) -> list[dict[int, float]]:
        at = [
            row
            for row in rows.values()
            if row["parametrization"] == entry["parametrization"]
            and abs(row["hps"]["log2_lr"] - entry["log2_lr"]) < 1e-9
        ]
        ordered = sorted(at, key=lambda row: row["seed"])
        found = [curves.read_held_out(swept / "convergence", r["trial_key"]) for r in ordered]
        return [{step: loss for step, loss in curve if loss is not None} for curve in found]

    ours = held_out(answer["transferred"])
    assert [curve[20] for curve in ours] == answer["transferred"]["losses"]
    for each in answer["baselines"]:
        for mup, theirs, pair in zip(ours, held_out(each), each["pairs"], strict=True):
            assert pair["level"] == max(mup[20], theirs[20])
            faster, slower = ("mup", "baseline") if mup[20] < theirs[20] else ("baseline", "mup")
            assert pair[f"{slower}_steps"] == 20
            curve = mup if faster == "mup" else theirs
            reached = min(step for step, loss in curve.items() if loss <= pair["level"])
            assert reached - 1 <= pair[f"{faster}_steps"] <= reached
    spent = [each["tuning_target_runs"] for each in answer["baselines"]]
    assert spent[0] == 0 and spent[1] == spent[2] > 0 and spent[3] == 2 * 5
    assert answer["transferred"]["tuning_target_runs"] == pytest.approx(
        answer["cost"]["arm_over_target_percent"] / 100, rel=1e-3
    )
    assert all((swept / "figures" / f"convergence.{s}").is_file() for s in ("png", "svg"))
    data = convergence_data(answer)
    assert len(data.lines) == 5
    (axes,) = convergence_figure(answer).axes
    for curve, line in zip(axes.lines, data.lines, strict=True):
        assert np.array_equal(curve.get_xydata(), np.column_stack([line.steps, line.mean]))
    assert [text.get_text() for text in axes.texts][:5] == [line.label for line in data.lines]
    lost = {**answer["transferred"], "loss": None, "curve": band([broken(planted(1.0))])}
    nowhere = {**lost, "curve": {**lost["curve"], "step": []}}
    drawn = convergence_data({**answer, "transferred": nowhere})
    assert len(drawn.lines) == 4 and drawn.limits[0] < drawn.limits[1]
    assert convergence_data({**answer, "transferred": lost}).lines[0].label.endswith("lost a seed")
    recorded_rows = (swept / "convergence" / "ledger.jsonl").read_bytes()
    assert convergence.main([str(swept), "--quiet"]) == 0  # nothing is missing
    assert (swept / "convergence" / "ledger.jsonl").read_bytes() == recorded_rows
    assert (swept / "ledger.jsonl").read_bytes() == proxies


@pytest.mark.parametrize(
    ("override", "said"),
    [
        ("budget.schedule=linear_decay", "Sweep with budget=constant_ema"),
        ("sweep.parametrizations=[mup]", "under mup and standard, with a target"),
        ("sweep.target.budget.steps=40", "Remove sweep.target.budget"),
    ],
)
def test_a_sweep_that_cannot_be_compared_is_refused_in_one_sentence(
    override: str,
    said: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    assert main(["sweep", "convergence", *SMALL, override, "--print-config"]) == 0
    folder = tmp_path / "results" / "tiny"
    folder.mkdir(parents=True)
    (folder / "sweep.yaml").write_text(capsys.readouterr().out)
    assert convergence.main([str(folder)]) == 2
    assert said in capsys.readouterr().err


@pytest.mark.gpu
@pytest.mark.parametrize("weights", list(Weights))
def test_measuring_between_captured_steps_changes_nothing(weights: Weights) -> None:
    trials = varied("dit", steps=40, weights=weights)
    plain, measured = (
        run_pack(trials, RuntimeConfig(device="cuda", held_out_curve=asked))
        for asked in (False, True)
    )
    assert recorded(plain) == recorded(measured)
    assert [r.held_out[-1][1] for r in measured] == [r.loss for r in measured]
