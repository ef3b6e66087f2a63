"""What a sweep will cost, against hand computation on a tiny sweep and a probe of known cost."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest

from hptransfer.cli.main import main
from hptransfer.config.compose.compose import compose_file, sweep_config
from hptransfer.config.hyperparameters import hps
from hptransfer.config.identity import trial_key
from hptransfer.execution.pack_cost import MeasuredPack, PackCost
from hptransfer.execution.pack_sizes import Measurement, by_shape
from hptransfer.results.ledger_rows import ledger_row
from hptransfer.results.ledger_writer import LedgerWriter
from hptransfer.sweeping.design.trials import wanted
from hptransfer.sweeping.plan import costs
from hptransfer.training.flops import step_flops, trial_flops
from tests.support.tiny import completed

GIB = 2.0**30
COST = PackCost(
    tuple(MeasuredPack(size, taken, size * GIB) for size, taken in ((1, 1.0), (2, 1.5), (4, 2.0))),
    warmup=3.0,
    spread=0.25,
)
STEPS = 12
FULL = 3.0 + STEPS * 2.0  # seconds of the training of a pack of four
MEASURED = "runtime.pack_size=null"


@pytest.fixture
def asked(monkeypatch: pytest.MonkeyPatch) -> list[int]:
    """Put a known cost in the place of the probe; return the numbers of trials asked for."""
    sizes: list[int] = []

    def measure_packs(groups: Sequence[Any], runtime: Any, executor: Any) -> Measurement:
        sizes.extend(len(group) for group in groups)
        return Measurement([COST] * len(groups), 2)

    monkeypatch.setattr("hptransfer.sweeping.plan.plan.measure_packs", measure_packs)
    return sizes


@pytest.fixture
def planned(tiny_sweep: Path, asked: list[int], capsys: pytest.CaptureFixture[str]):
    """Plan the tiny sweep, with overrides; return the strict JSON."""

    def plan(*words: str) -> dict[str, Any]:
        assert main(["plan", str(tiny_sweep), *words, "--json"]) == 0
        return json.loads(capsys.readouterr().out, parse_constant=pytest.fail)

    return plan


def record(path: Path, keys: set[str] | None = None, *, seconds: float = 10.0) -> list[str]:
    """Record trials of the tiny sweep as if they had run; all of them, or those of some keys."""
    sweep = sweep_config(compose_file(path, []))
    trials = [c for key, c in wanted(sweep).items() if keys is None or key in keys]
    results = [completed(config, flops=trial_flops(config), seconds=seconds) for config in trials]
    with LedgerWriter(Path("results/tiny")) as writer:
        writer.append([ledger_row(r, hps(r.config, sweep.axes), {"commit": "x"}) for r in results])
    return [trial_key(config) for config in trials]


def shape_of(answer: dict[str, Any], arm: str, width: int) -> dict[str, Any]:
    (found,) = (s for s in answer["shapes"] if (s["parametrization"], s["width"]) == (arm, width))
    return found


def of_width(path: Path, width: int) -> Any:
    """Return a trial of the tiny sweep at a width."""
    trials = wanted(sweep_config(compose_file(path, []))).values()
    return next(config for config in trials if config.model.width == width)


def groups_of(path: Path) -> dict[str, Any]:
    """Return the tiny sweep's trials by shape."""
    return by_shape(wanted(sweep_config(compose_file(path, []))).values())


def test_a_sweep_is_reckoned_as_by_hand(planned, tiny_sweep: Path) -> None:
    """Five shapes of 2 seeds x 6 rates, in packs of four: fifteen packs on two places."""
    answer = planned("executor.price_per_hour=7.2")
    assert answer["total"]["trials"] == {"wanted": 60, "recorded": 0, "to_run": 60}
    assert answer["total"]["packs_to_run"] == 15
    config = of_width(tiny_sweep, 32)
    forward, both = step_flops(config.model, config.data.layout, 8)
    share = forward * (16 / 8) * (2 + 1) / (STEPS * both)
    shape = shape_of(answer, "mup", 32)
    assert shape["evaluation_share"] == pytest.approx(share, rel=1e-5)
    assert 0.1 < share < 0.3
    packs = shape["packs"]
    assert (packs["to_run"], packs["size"], packs["bytes"]) == (3, 4, 4 * GIB)
    assert (packs["source"], packs["interval_from"]["basis"]) == ("measured", "probe")
    taken = FULL * (1 + share)
    assert list(packs["seconds"].values()) == pytest.approx(
        [taken, 0.75 * taken, 1.25 * taken], rel=1e-4
    )
    assert shape["hours"]["estimate"] == pytest.approx(3 * taken / 3600, rel=1e-4)
    assert shape["flops"]["wanted"] == pytest.approx(12 * (STEPS * both * (1 + share)))
    assert answer["wall_seconds"]["workers"] == 2
    assert answer["wall_seconds"]["estimate"] == pytest.approx(8 * taken, rel=0.02)
    hours = answer["total"]["hours"]["estimate"]
    assert hours == pytest.approx(15 * taken / 3600, rel=0.02)
    assert answer["total"]["money"]["high"] == pytest.approx(1.25 * hours * 7.2, rel=1e-4)
    assert answer["place"] == {"unit": "core", "count": 1.0, "price_per_hour": 7.2}


def test_ratios_have_the_denominators_that_they_name(planned, tiny_sweep: Path) -> None:
    answer = planned()
    flops = {width: trial_flops(of_width(tiny_sweep, width)) for width in (8, 16, 32)}
    target, ratios = answer["target"]["flops"], answer["search_over_target"]
    arm = 12 * sum(flops.values())
    assert ratios["sweep_flops"] == pytest.approx(12 * (flops[8] + 2 * flops[16] + 2 * flops[32]))
    assert ratios["arm_over_target_percent"] == pytest.approx(100 * arm / target, rel=1e-3)
    narrowest = 100 * 12 * flops[8] / target
    assert ratios["narrowest_over_target_percent"] == pytest.approx(narrowest, rel=1e-3)
    direct = 100 * arm / (12 * target)
    assert ratios["over_direct_search_percent"] == pytest.approx(direct, rel=1e-3)
    assert answer["target"]["hours_from"] == "FLOPs, from packs of width 32"
    pack = shape_of(answer, "mup", 32)["packs"]["seconds"]["estimate"]
    hours = pack / 4 / 3600 * target / flops[32]
    assert answer["target"]["hours"] == pytest.approx(hours, rel=1e-4)


def test_recorded_trials_are_subtracted_and_tell_how_long_packs_take(
    planned, tiny_sweep: Path, asked: list[int]
) -> None:
    (narrow, *_, wide) = by_shape(
        wanted(sweep_config(compose_file(tiny_sweep, []))).values()
    ).values()
    keys = {trial_key(config) for config in (*narrow, *wide[:5])}
    record(tiny_sweep, keys, seconds=10.0)
    answer = planned()
    assert answer["total"]["trials"] == {"wanted": 60, "recorded": 17, "to_run": 43}
    assert shape_of(answer, "shared", 8)["packs"] is None
    assert asked == [12] * 4  # nothing is measured for what is done
    half = shape_of(answer, "standard", 32)
    assert half["trials"]["to_run"] == 7 and half["packs"]["to_run"] == 2
    assert half["packs"]["interval_from"] == {"basis": "rows", "packs": 2}
    assert half["packs"]["seconds"]["estimate"] == pytest.approx(4 * 10.0, rel=1e-4)
    assert half["packs"]["seconds"]["low"] == pytest.approx(40.0, rel=1e-4)
    other = shape_of(answer, "mup", 32)["packs"]
    assert other["interval_from"] == {"basis": "rows of other shapes", "packs": 2}
    assert answer["target"]["hours_from"] == "FLOPs, from rows of width 32"


def test_a_finished_sweep_costs_nothing_and_measures_nothing(planned, tiny_sweep, asked) -> None:
    record(tiny_sweep)
    answer = planned("--workers", "3")
    assert asked == [] and answer["wall_seconds"] == {
        "workers": 3,
        "estimate": 0.0,
        "low": 0.0,
        "high": 0.0,
    }
    assert answer["total"]["flops"]["to_run"] == 0 and answer["total"]["packs_to_run"] == 0
    assert answer["search_over_target"]["arm_over_target_percent"] > 0


def test_sizes_that_the_folder_records_are_used(planned, tiny_sweep: Path, asked) -> None:
    groups = groups_of(tiny_sweep)
    chosen = {
        key: {"width": group[0].model.width, "size": 3, "seconds": 5.0, "warmup": 1.0}
        for key, group in groups.items()
    }
    packs = Path("results/tiny/packs.json")
    packs.parent.mkdir(parents=True)
    packs.write_text(json.dumps({"packs": chosen}))
    answer = planned(MEASURED, "--workers", "1")
    assert asked == []
    shape = shape_of(answer, "mup", 16)
    assert (shape["packs"]["size"], shape["packs"]["to_run"]) == (3, 4)
    assert shape["packs"]["source"] == "recorded" and shape["packs"]["bytes"] is None
    taken = (1.0 + STEPS * 5.0) * (1 + shape["evaluation_share"])
    assert shape["packs"]["seconds"]["estimate"] == pytest.approx(taken, rel=1e-4)
    assert shape["packs"]["seconds"]["high"] is None  # nothing says


def test_more_places_end_sooner_and_gpus_are_counted_apart(planned) -> None:
    few, many = planned(MEASURED), planned(MEASURED, "--workers", "64")
    assert many["wall_seconds"]["estimate"] < few["wall_seconds"]["estimate"]
    # 60 packs of one end sooner on 64 places than packs of four
    assert many["total"]["packs_to_run"] == 60
    words = ("runtime.device=cuda", "executor.gpus=0.5", "executor.name=ray")
    gpu = planned(*words, "executor.price_per_hour=3")  # of what a pack occupies: half a GPU
    assert gpu["place"] == {"unit": "GPU", "count": 0.5, "price_per_hour": 3.0}
    hours = gpu["total"]["hours"]["estimate"]
    assert gpu["total"]["money"]["estimate"] == pytest.approx(hours / 0.5 * 3, rel=1e-4)
    assert gpu["total"]["hours"]["estimate"] == pytest.approx(
        0.5 * few["total"]["hours"]["estimate"], rel=0.05
    )


def test_a_search_in_rounds_counts_its_points_and_cuts_its_rounds(planned, asked) -> None:
    answer = planned("sweep.design.method=refine", "sweep.design.points=10", "sweep.design.round=2")
    assert answer["total"]["trials"]["wanted"] == 5 * 10 * 2
    assert asked == [2 * 2] * 5  # the trials of a round
    assert shape_of(answer, "mup", 16)["packs"]["to_run"] == 5
    assert "rounds of 2 points" in answer["notes"][-1]


def test_nothing_is_written_and_the_text_ends_with_the_next_command(
    tiny_sweep: Path, asked, capsys
) -> None:
    before = sorted(Path().rglob("*"))
    assert main(["plan", str(tiny_sweep), "executor.price_per_hour=2"]) == 0
    text = capsys.readouterr().out
    assert sorted(Path().rglob("*")) == before
    assert max(len(line) for line in text.splitlines()[:-1]) <= 100
    assert text.splitlines()[-1] == (
        f"next: hptransfer sweep {tiny_sweep} executor.price_per_hour=2"
    )
    for words in ("60 to run in 15 packs", "core-hours", "money", "of one target run", "probe's"):
        assert words in text
    assert main(["plan", str(tiny_sweep), "--print-config"]) == 0
    assert "widths" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--workers", "0"], "--workers must be positive, but got 0"),
        (["sweep.widths=[8,20]", "model.head_dim=8"], "multiple of the head dimension"),
        (["sweep.target.model.width=16"], "at least as wide as the widest proxy"),
        (["executor.price_per_hour=-1"], "`executor.price_per_hour` must not be negative"),
    ],
)
def test_bad_input_is_one_sentence(tiny_sweep: Path, asked, capsys, words, sentence) -> None:
    assert main(["plan", str(tiny_sweep), *words]) == 2
    error = capsys.readouterr().err
    assert sentence in error and len(error.splitlines()) == 1


def test_another_question_under_the_same_name_is_refused(tiny_sweep: Path, asked, capsys) -> None:
    folder = Path("results/tiny")
    folder.mkdir(parents=True)
    from hptransfer.config.compose.compose import resolved_yaml

    (folder / "sweep.yaml").write_text(resolved_yaml(compose_file(tiny_sweep, []), name="tiny"))
    assert main(["plan", str(tiny_sweep), "budget.steps=13"]) == 2
    assert "another question" in capsys.readouterr().err


def test_intervals_add_up_as_if_all_were_late(planned) -> None:
    one = costs.Interval(1.0, 0.5, 2.0)
    assert costs.added([one, one.times(2.0)]) == costs.Interval(3.0, 1.5, 6.0)
    assert costs.added([]) == costs.NOTHING
