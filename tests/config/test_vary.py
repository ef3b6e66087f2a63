"""A sweep's conditions besides width: which trials they add, and what makes none of them."""

from __future__ import annotations

from collections import Counter
from pathlib import Path

import pytest

from hptransfer.analysis.of_folder import status
from hptransfer.cli.main import main
from hptransfer.config.compose.compose import compose_file, shipped_folder, sweep_config
from hptransfer.config.identity import arm_of
from hptransfer.config.sweep import SweepConfig, condition_of, with_condition
from hptransfer.errors import UserError
from hptransfer.execution.pack_sizes import by_shape
from hptransfer.results.folder import find_folder
from hptransfer.results.ledger_rows import read_ledger_rows
from hptransfer.results.sweep_file import read_facts
from hptransfer.sweeping.design.trials import check_same_question, check_target, wanted
from hptransfer.sweeping.plan.plan import planned_trials
from tests.support.recorded_rows import write_sweep
from tests.support.tiny import TINY_SWEEP

QUICKSTART = shipped_folder("sweeps") / "quickstart.yaml"
VARIED = ("sweep.vary.steps=75,150,300", "sweep.vary.batch_size=32,64", "sweep.vary.depth=2,4")
A_CONDITION = 8 * 3 * (1 + 2 + 2)  # rates x seeds x (width 24 once, 48 and 96 twice)

FOLDER = Path("other/quickstart")


def quickstart(*overrides: str) -> SweepConfig:
    return sweep_config(compose_file(QUICKSTART, list(overrides)))


def test_a_star_holds_every_value_with_the_others_at_rest() -> None:
    sweep = quickstart(*VARIED)
    assert [tuple(c.values()) for c in sweep.conditions] == [
        *((2, 64, 150), (4, 64, 150), (2, 32, 150)),
        *((2, 64, 75), (2, 64, 300)),
    ]
    assert sweep.varied == ("model.depth", "budget.batch_size", "budget.steps")
    counts = Counter(tuple(condition_of(c).values()) for c in wanted(sweep).values())
    assert set(counts.values()) == {A_CONDITION} and len(counts) == 5
    assert len(by_shape(wanted(sweep).values())) == 5 * 5
    assert len(planned_trials(sweep)) == 5 * A_CONDITION


def test_the_bases_own_value_may_be_left_out() -> None:
    short = quickstart("sweep.vary.steps=75,300")
    assert wanted(short) == wanted(quickstart("sweep.vary.steps=75,150,300"))
    assert wanted(quickstart()).items() < wanted(short).items()


def test_a_grown_condition_is_the_same_question() -> None:
    check_same_question(quickstart(), quickstart(*VARIED), FOLDER)
    check_same_question(quickstart(*VARIED), quickstart("sweep.vary.steps=75,600"), FOLDER)


@pytest.mark.parametrize("base_depth", ["null", "2"])
def test_wanted_rows_are_counted_as_they_are_made(tmp_path: Path, base_depth: str) -> None:
    """With depth scaling the arms share the base width at the base depth alone."""
    varied = ("model.depth=2", f"model.base_depth={base_depth}", "sweep.vary.depth=[2,4]")
    folder, rows = write_sweep(tmp_path / "results", *varied, "sweep.vary.steps=[6]")
    facts = read_facts(folder)
    assert facts.wanted_count() == len(rows) and all(facts.wants(row) for row in rows)
    shared = sum(row["parametrization"] == "shared" for row in rows)
    assert shared == 6 * 2 * (3 if base_depth == "null" else 2)
    _, others = write_sweep(tmp_path / "other", "model.depth=2", "sweep.vary.steps=[7]")
    outside = [row for row in others if row["config"]["budget"]["steps"] == 7]
    assert outside and not any(facts.wants(row) for row in outside)


def test_one_hps_sobol_points_are_repeated_under_every_condition(tmp_path: Path) -> None:
    sobol = ("sweep.design.method=sobol", "sweep.design.points=5", "sweep.vary.steps=[6,24]")
    sweep = quickstart(*sobol)
    assert len(wanted(sweep)) == 3 * 5 * 3 * (1 + 2 + 2)
    with pytest.raises(
        UserError, match=r"a grid, or sobol with one hyperparameter, but got sobol with log2_"
    ):
        quickstart(*sobol, "search.init_scale={low: -1, high: 1}")


@pytest.mark.parametrize(
    ("overrides", "sentence"),
    [
        (["sweep.vary.steps=300,75"], r"must be increasing, but got \[300, 75\]"),
        (["sweep.vary.steps=75,75"], "must be increasing"),
        (["sweep.vary.steps=0,75"], r"`sweep\.vary\.steps` must be positive, but got 0"),
        (["sweep.vary.steps=150"], "other than that of the base config, but got only 150"),
        (["sweep.vary.steps=7.5"], r"`sweep\.vary\.steps.*` must be a whole number"),
        (["sweep.vary.steps=[[75]]"], r"steps\[0\]` must be a whole number, but got \[75\]"),
        (["sweep.vary.step=75"], r"Did you mean sweep\.vary\.steps"),
        (["sweep.vary=[75]"], r"`sweep\.vary` must be a section"),
        (["sweep.vary.lr=75"], "There is no config key"),
        (["model=uvit", "model.depth=2", "sweep.vary.depth=3"], "must be even, but got 3"),
        (
            ["sweep.vary.steps=75", "sweep.design.method=refine"],
            "a grid, or sobol with one hyperparameter",
        ),
        (
            ["sweep.vary.steps=75", "sweep.design.method=tpe"],
            "a grid, or sobol with one hyperparameter",
        ),
    ],
)
def test_what_is_unclear_is_refused_in_a_sentence(overrides: list[str], sentence: str) -> None:
    with pytest.raises(UserError, match=sentence) as caught:
        quickstart(*overrides)
    assert "\n" not in str(caught.value)


def test_a_model_without_depth_has_none_to_vary() -> None:
    with pytest.raises(
        UserError, match="needs the depth that all other trials have, but a custom model has none"
    ):
        quickstart("model=custom", "model.factory=a.b:c", "sweep.vary.depth=2,4")


def test_a_target_of_a_varied_depth_is_let_through() -> None:
    sweep = quickstart("sweep.vary.depth=2,4")
    assert sweep.target is not None
    deeper = with_condition(sweep.target, {"depth": 8})
    check_target(sweep, deeper)
    with pytest.raises(UserError, match=r"sweep\.vary\.depth"):
        check_target(quickstart(), deeper)


def test_growing_the_conditions_runs_the_new_trials_alone(tiny_sweep: Path) -> None:
    tiny_sweep.write_text(TINY_SWEEP.replace("[8, 16, 32]", "[8, 16]").replace("[0, 1]", "[0]"))
    assert main(["sweep", "tiny.yaml", "--quiet"]) == 0
    folder = tiny_sweep.parent / "results" / "tiny"
    before = read_ledger_rows(folder)
    assert len(before) == 6 * 3
    assert main(["sweep", "tiny.yaml", "sweep.vary.steps=6", "--quiet"]) == 0
    after = read_ledger_rows(folder)
    assert after[: len(before)] == before and len(after) == 2 * 6 * 3
    added = [row["config"]["budget"]["steps"] for row in after[len(before) :]]
    assert set(added) == {6}
    told = status(find_folder(folder))
    assert (told["wanted"], told["recorded"], told["outside_count"]) == (36, 36, 0)


def test_arms_share_the_base_width_under_every_condition() -> None:
    trials = wanted(quickstart(*VARIED)).values()
    at_base = {arm_of(c) for c in trials if c.model.width == 24}
    assert at_base == {"shared"}
