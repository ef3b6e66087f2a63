"""Static designs, the scalars of an objective as HPs, and the record of the points asked."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

import pytest

from hptransfer.config import DDPMConfig, DiTConfig, TrialConfig
from hptransfer.config.choices import Method, Scaling
from hptransfer.config.hyperparameters import hps, searchable
from hptransfer.config.identity import arm_of, canonical, trial_key
from hptransfer.config.sweep import Axis, DesignConfig, SweepConfig, axis_entry
from hptransfer.errors import UserError
from hptransfer.execution.pack_sizes import by_shape
from hptransfer.results.folder import ResultsFolder
from hptransfer.results.sweep_file import best_points, facts_of, read_design, write_asked_points
from hptransfer.sweeping.design.trials import check_same_question, grid, points, wanted

LR = ("lr", Axis(-10, -3))
CLIP = ("clip_norm", Axis(-4, 1))
DDPM = TrialConfig(
    model=DiTConfig(learn_sigma=True), objective=DDPMConfig(deciding_vlb_weight=1e-3)
)

FOLDER = Path("other/quickstart")


def sweep_of(
    *search: tuple[str, Axis], design: DesignConfig, base: TrialConfig | None = None
) -> SweepConfig:
    return SweepConfig(
        name="s",
        question="?",
        statistic="!",
        base=base or TrialConfig(),
        widths=(24, 48),
        parametrizations=(Scaling.mup, Scaling.standard),
        seeds=(0, 1),
        search=search,
        design=design,
    )


def tree_of(sweep: SweepConfig) -> dict[str, Any]:
    """Return what a sweep file holds of these."""
    return {
        "name": sweep.name,
        "model": {"base_width": 24},
        "search": {name: axis_entry(axis) for name, axis in sweep.search},
        "verdict": {"max_regret": None},
        "sweep": {
            "widths": list(sweep.widths),
            "parametrizations": [scaling.value for scaling in sweep.parametrizations],
            "seeds": list(sweep.seeds),
            "target": {},
            "design": {"method": sweep.design.method.value},
        },
    }


def row_of(config: TrialConfig, sweep: SweepConfig, loss: float | None = 0.5) -> dict[str, Any]:
    place = {"width": config.model.width, "parametrization": arm_of(config), "seed": config.seed}
    found = {"config": canonical(config), "hps": hps(config, sweep.axes), "loss": loss}
    return {**place, **found}


def test_a_grid_is_the_product_of_its_axes() -> None:
    sweep = sweep_of(LR, CLIP, design=DesignConfig())
    assert points(sweep) == grid(sweep.search) and len(points(sweep)) == 8 * 6


def test_sobol_points_fill_the_box_evenly() -> None:
    sweep = sweep_of(LR, CLIP, design=DesignConfig(Method.sobol, 32))
    found = points(sweep)
    for axis, low, high in (("log2_lr", -10, -3), ("log2_clip_norm", -4, 1)):
        shares = sorted((p[axis] - low) / (high - low) for p in found)
        assert all(i / 32 <= share <= (i + 1) / 32 for i, share in enumerate(shares))
    assert len(points(sweep_of(LR, CLIP, design=DesignConfig(Method.sobol)))) == 16


def test_a_grown_sobol_sweep_only_adds_trials() -> None:
    few, many = (
        sweep_of(LR, CLIP, design=DesignConfig(Method.sobol, count, seed=3)) for count in (5, 21)
    )
    assert points(many)[:5] == points(few)
    assert wanted(few).keys() < wanted(many).keys()
    check_same_question(few, many, FOLDER)
    other = sweep_of(LR, CLIP, design=DesignConfig(Method.sobol, 5, seed=4))
    assert points(other) != points(few)
    with pytest.raises(UserError, match=r"sweep\.design\.seed was 3 and is now 4"):
        check_same_question(few, other, FOLDER)


def test_another_method_or_box_is_another_question() -> None:
    sobol = sweep_of(LR, design=DesignConfig(Method.sobol))
    with pytest.raises(UserError, match=r"sweep\.design\.method was grid and is now sobol"):
        check_same_question(sweep_of(LR, design=DesignConfig()), sobol, FOLDER)
    wider = sweep_of(("lr", Axis(-12, -3)), design=DesignConfig(Method.sobol))
    with pytest.raises(UserError, match=r"search\.lr was -10 to -3 and is now -12 to -3"):
        check_same_question(sobol, wider, FOLDER)
    narrow, wide = (sweep_of(("lr", Axis(low, -3)), design=DesignConfig()) for low in (-10, -12))
    check_same_question(narrow, wide, FOLDER)


def test_the_weight_of_a_learned_variance_is_searchable() -> None:
    sweep = sweep_of(("vlb_weight", Axis(-12, -8)), design=DesignConfig(), base=DDPM)
    configs = list(wanted(sweep).values())
    found = {c.objective.vlb_weight for c in configs if isinstance(c.objective, DDPMConfig)}
    assert found == {2.0**x for x in range(-12, -7)}
    assert {hps(c, sweep.axes)["log2_vlb_weight"] for c in configs} == set(range(-12, -7))
    assert len(by_shape(configs)) == 3  # a weight is each member's own
    other = dataclasses.replace(
        DDPM, objective=DDPMConfig(vlb_weight=0.5, deciding_vlb_weight=1e-3)
    )
    check_same_question(sweep, dataclasses.replace(sweep, base=other), FOLDER)


def test_weights_are_compared_under_one_deciding_loss_only() -> None:
    unequal = dataclasses.replace(DDPM, objective=DDPMConfig())
    with pytest.raises(UserError, match=r"deciding_vlb_weight is null\. Set it"):
        sweep_of(("vlb_weight", Axis(-12, -8)), design=DesignConfig(), base=unequal)


def test_a_weight_of_nothing_is_not_searched() -> None:
    without = dataclasses.replace(DDPM, model=DiTConfig())
    with pytest.raises(UserError, match=r"Set model\.learn_sigma=true"):
        sweep_of(("vlb_weight", Axis(-12, -8)), design=DesignConfig(), base=without)


@pytest.mark.parametrize("name", ["vlb_weight", "logit_std", "logit_mean"])
def test_scalars_that_change_the_deciding_loss_are_not_searched(name: str) -> None:
    with pytest.raises(UserError, match=rf"`search\.{name}` is not a hyperparameter"):
        sweep_of((name, Axis(-12, -8)), design=DesignConfig())
    usual = TrialConfig()
    plain = searchable(usual.objective, usual.optimizer).keys()
    assert searchable(DDPM.objective, usual.optimizer).keys() - plain == {"vlb_weight"}


@pytest.mark.parametrize(
    ("design", "search", "match"),
    [
        (DesignConfig(Method.refine), (LR, CLIP), "must hold one entry"),
        (DesignConfig(Method.cmaes), (LR,), "two hyperparameters or more"),
        (DesignConfig(Method.grid, points=5), (LR,), r"design\.points. must be null for a grid"),
        (DesignConfig(Method.sobol, round=5), (LR,), r"design\.round. must be null"),
    ],
)
def test_designs_that_make_no_sense_are_refused(
    design: DesignConfig, search: tuple[tuple[str, Axis], ...], match: str
) -> None:
    with pytest.raises(UserError, match=match):
        sweep_of(*search, design=design)


def test_the_record_of_the_points_says_which_rows_are_wanted(tmp_path: Path) -> None:
    sweep = sweep_of(LR, CLIP, design=DesignConfig(Method.sobol, 6))
    folder, trials = ResultsFolder(tmp_path), wanted(sweep)
    assert read_design(folder, tree_of(sweep)) is not None  # no file yet: nothing is wanted
    write_asked_points(folder, sweep, [tuple(trials.values())])
    facts = facts_of(tree_of(sweep), name="s", design=read_design(folder, tree_of(sweep)))
    assert facts.is_scattered and facts.wanted_count() == len(trials) == 6 * 2 * 3
    assert all(facts.wants(row_of(config, sweep)) for config in trials.values())
    more = wanted(dataclasses.replace(sweep, design=DesignConfig(Method.sobol, 8)))
    outside = [config for key, config in more.items() if key not in trials]
    assert outside and not any(facts.wants(row_of(config, sweep)) for config in outside)
    seed = dataclasses.replace(next(iter(trials.values())), seed=7)
    assert not facts.wants(row_of(seed, sweep)) and trial_key(seed) not in trials


def test_a_sweep_file_without_a_design_is_a_grid(tmp_path: Path) -> None:
    tree = tree_of(sweep_of(LR, design=DesignConfig()))
    del tree["sweep"]["design"]
    assert read_design(ResultsFolder(tmp_path), tree) is None
    facts = facts_of(tree, name="s")
    assert facts.wanted_count() == 8 * 2 * 3 and not facts.is_scattered


@pytest.mark.parametrize("text", ['{"asked": [{"width": 24}]}', '{"asked": 3}', "[]", "{"])
def test_a_damaged_record_is_refused(tmp_path: Path, text: str) -> None:
    folder = ResultsFolder(tmp_path)
    folder.design_file.write_text(text)
    with pytest.raises(UserError, match=r"design\.json is not as hptransfer wrote it"):
        read_design(folder, tree_of(sweep_of(LR, design=DesignConfig(Method.sobol))))


def test_the_record_is_strict_json_in_the_order_asked(tmp_path: Path) -> None:
    sweep = sweep_of(LR, design=DesignConfig(Method.sobol, 3))
    write_asked_points(ResultsFolder(tmp_path), sweep, [tuple(wanted(sweep).values())])
    record = json.loads((tmp_path / "design.json").read_text())
    assert record["method"] == "sobol" and record["rounds"] == 1
    assert [entry["points"] for entry in record["asked"]] == [points(sweep)] * 3


def test_best_points_never_average_survivors() -> None:
    def row(lr: float, seed: int, loss: float | None) -> dict[str, Any]:
        place = {"parametrization": "mup", "width": 48, "seed": seed}
        return {**place, "hps": {"log2_lr": lr}, "loss": loss}

    rows = [row(-5, 0, 0.5), row(-5, 1, 0.7), row(-4, 0, 0.1), row(-4, 1, None), row(-6, 0, 0.2)]
    (best,) = best_points(rows, ["log2_lr"])
    assert best["hps"] == {"log2_lr": -5} and best["n_seeds"] == 2
    assert best["loss"] == pytest.approx(0.6)
    assert best_points(rows[3:4], ["log2_lr"]) == []
