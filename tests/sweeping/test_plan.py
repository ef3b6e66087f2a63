"""What a sweep will cost, against hand computation on a tiny sweep whose packs have known costs."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from hptransfer.cli.main import main
from hptransfer.config import TrialConfig
from hptransfer.config.compose.compose import compose_file, shipped_folder, sweep_config
from hptransfer.config.hyperparameters import hps
from hptransfer.config.identity import trial_key
from hptransfer.config.sweep import SweepConfig
from hptransfer.execution.measure import cache_file
from hptransfer.execution.pack_sizes import MeasuredPack, PackCost, by_shape
from hptransfer.results.ledger_rows import ledger_row
from hptransfer.results.ledger_writer import LedgerWriter
from hptransfer.sweeping.design.trials import wanted
from hptransfer.sweeping.plan import plan as costs
from hptransfer.system.text import rounded
from hptransfer.training.flops import step_flops, trial_flops
from tests.support.pack_costs import remember, remember_of_gpu
from tests.support.tiny import completed

MIB = 2.0**20
COST = PackCost(
    tuple(MeasuredPack(size, taken, size * MIB) for size, taken in ((1, 1.0), (2, 1.5), (4, 2.0))),
    warmup=3.0,
    spread=0.25,
)
STEPS = 12
FULL = 3.0 + STEPS * 2.0  # seconds of the training of a pack of four
MEASURED = "runtime.pack_size=null"
TWO_PLACES = ("--workers", "2")


@pytest.fixture(autouse=True)
def empty_cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))


@pytest.fixture
def cached(tiny_sweep: Path) -> None:
    """Put a known cost of every shape of the tiny sweep into the cache."""
    remember(question(tiny_sweep).base, (8, 16, 32), lambda _: COST)


@pytest.fixture
def planned(tiny_sweep: Path, capsys: pytest.CaptureFixture[str]):
    """Plan the tiny sweep, with overrides; return the strict JSON."""

    def plan(*words: str) -> dict[str, Any]:
        assert main(["plan", str(tiny_sweep), *words, "--json"]) == 0
        return json.loads(capsys.readouterr().out, parse_constant=pytest.fail)

    return plan


def question(path: Path) -> SweepConfig:
    return sweep_config(compose_file(path, []))


def record(path: Path, keys: set[str] | None = None, *, seconds: float = 10.0) -> list[str]:
    """Record trials of the tiny sweep as if they had run; all of them, or those of some keys."""
    sweep = question(path)
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
    return next(c for c in wanted(question(path)).values() if c.model.width == width)


def groups_of(path: Path) -> dict[str, Any]:
    """Return the tiny sweep's trials by shape."""
    return by_shape(wanted(question(path)).values())


@pytest.mark.usefixtures("cached")
def test_a_sweep_is_reckoned_as_by_hand(planned, tiny_sweep: Path) -> None:
    """Five shapes of 2 seeds x 6 rates, in packs of four: fifteen packs on two places."""
    answer = planned("executor.price_per_hour=7.2", *TWO_PLACES)
    assert answer["total"]["trials"] == {"wanted": 60, "recorded": 0, "to_run": 60}
    assert answer["total"]["packs_to_run"] == 15
    config = of_width(tiny_sweep, 32)
    forward, both = step_flops(config.model, config.data.layout, 8)
    share = forward * (16 / 8) * (2 + 1) / (STEPS * both)
    shape = shape_of(answer, "mup", 32)
    assert shape["evaluation_share"] == pytest.approx(share, rel=1e-5)
    assert 0.1 < share < 0.3
    packs = shape["packs"]
    assert (packs["to_run"], packs["size"], packs["bytes"]) == (3, 4, 4 * MIB)
    assert (packs["source"], packs["interval_from"]["basis"]) == ("cached", "probe")
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


@pytest.mark.usefixtures("cached")
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
    assert answer["target"]["hours_from"] == "scaled by FLOPs from packs of width 32"
    pack = shape_of(answer, "mup", 32)["packs"]["seconds"]["estimate"]
    hours = pack / 4 / 3600 * target / flops[32]
    assert answer["target"]["hours"] == pytest.approx(hours, rel=1e-4)


@pytest.mark.usefixtures("cached")
def test_recorded_trials_are_subtracted_and_tell_how_long_packs_take(
    planned, tiny_sweep: Path
) -> None:
    (narrow, *_, wide) = groups_of(tiny_sweep).values()
    record(tiny_sweep, {trial_key(config) for config in (*narrow, *wide[:5])}, seconds=10.0)
    answer = planned()
    assert answer["total"]["trials"] == {"wanted": 60, "recorded": 17, "to_run": 43}
    assert shape_of(answer, "shared", 8)["packs"] is None
    half = shape_of(answer, "standard", 32)
    assert half["trials"]["to_run"] == 7 and half["packs"]["to_run"] == 2
    assert half["packs"]["interval_from"] == {"basis": "rows", "packs": 2}
    assert half["packs"]["seconds"]["estimate"] == pytest.approx(4 * 10.0, rel=1e-4)
    assert half["packs"]["seconds"]["low"] == pytest.approx(40.0, rel=1e-4)
    other = shape_of(answer, "mup", 32)["packs"]
    assert other["interval_from"] == {"basis": "rows of other shapes", "packs": 2}
    assert answer["target"]["hours_from"] == "scaled by FLOPs from trials of width 32"


def test_rows_alone_tell_how_long_packs_of_other_widths_take(planned, tiny_sweep: Path) -> None:
    narrow = next(iter(groups_of(tiny_sweep).values()))
    record(tiny_sweep, {trial_key(config) for config in narrow}, seconds=10.0)
    answer = planned("runtime.pack_size=1")
    flops = [step_flops_of(of_width(tiny_sweep, width)) for width in (8, 16)]
    packs = shape_of(answer, "mup", 16)["packs"]
    assert packs["source"] == "FLOPs"
    share = [shape_of(answer, a, w)["evaluation_share"] for a, w in (("shared", 8), ("mup", 16))]
    expected = 10.0 * flops[1] / flops[0] * (1 + share[1]) / (1 + share[0])
    assert packs["seconds"] == {"estimate": pytest.approx(expected), "low": None, "high": None}


def step_flops_of(config: TrialConfig) -> float:
    return step_flops(config.model, config.data.layout, config.budget.batch_size)[1]


def test_shapes_alone_tell_all_but_hours(planned, tiny_sweep: Path) -> None:
    """Nothing is recorded or cached, there is neither the device nor the data; nothing is tried."""
    words = ("runtime.device=cuda", "executor.name=ray", "data=imagenet_latents")
    answer = planned(*words, "executor.price_per_hour=3")
    assert answer["total"]["trials"] == {"wanted": 60, "recorded": 0, "to_run": 60}
    assert answer["total"]["hours"] is None and answer["total"]["money"] is None
    assert set(answer["wall_seconds"].values()) == {1, None}
    shape = shape_of(answer, "mup", 32)
    assert shape["packs"] is None and shape["hours"] is None and shape["flops"]["to_run"] > 0
    assert shape["parameters"] > 12 * 32**2
    assert answer["target"]["hours"] is None and answer["target"]["parameters"] > 0
    assert answer["search_over_target"]["arm_over_target_percent"] > 0
    assert "--measure" in answer["notes"][0]
    assert not cache_file().exists()


def test_only_with_measure_packs_are_measured_and_it_is_said(
    planned, tiny_sweep: Path, capsys
) -> None:
    words = ["plan", str(tiny_sweep), "sweep.widths=[8,16]", "--json"]
    assert main([*words, "--measure"]) == 0
    said = capsys.readouterr()
    assert [line for line in said.err.splitlines() if "measuring" in line] == [
        "measuring how long packs of trials take: width 8, 1 of 3 shapes",
        "measuring how long packs of trials take: width 16, 2 of 3 shapes",
    ]  # the third is the second's arm, known by then
    sources = [shape["packs"]["source"] for shape in json.loads(said.out)["shapes"]]
    assert sources == ["measured", "measured", "cached"]
    again = planned("sweep.widths=[8,16]")
    assert {shape["packs"]["source"] for shape in again["shapes"]} == {"cached"}


# Of models of many blocks: counting their FLOPs takes seconds.
DEEP = ("dit_imagenet", "dit_imagenet_conditions", "mmdit_captioned", "uvit_imagenet")
SHIPPED = [
    pytest.param(name, marks=pytest.mark.slow if name in DEEP else ())
    for name in sorted(path.stem for path in shipped_folder("sweeps").glob("*.yaml"))
]


@pytest.mark.parametrize("name", SHIPPED)
def test_every_shipped_sweep_is_planned_without_data_or_device(name: str, capsys) -> None:
    assert main(["plan", name, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out, parse_constant=pytest.fail)
    assert answer["total"]["flops"]["to_run"] > 0 and answer["total"]["hours"] is None
    assert all(shape["parameters"] > 0 for shape in answer["shapes"])
    header = (shipped_folder("sweeps") / f"{name}.yaml").read_text().replace(",", "")
    if told := re.search(r"GPU-hours .*: (\d+) for the (\d+) trials (\d+) for one run", header):
        hours, reckoned = told.groups(), answer["reckoned"]
        assert rounded(reckoned["gpu_hours_to_run"]) == hours[0]
        assert str(answer["total"]["trials"]["wanted"]) == hours[1]
        assert rounded(reckoned["target_gpu_hours"]) == hours[2]


@pytest.mark.parametrize(
    ("name", "by_size", "flops"),
    [
        ("pixart_sa1b", 5.35, 5.9),
        pytest.param("mmdit_captioned", 12.3, 13.6, marks=pytest.mark.slow),
        pytest.param("dit_imagenet", 13.7, 14.5, marks=pytest.mark.slow),
    ],
)
def test_the_papers_searches_cost_what_their_files_say(
    name: str, by_size: float, flops: float, capsys
) -> None:
    assert main(["plan", name, "--json"]) == 0
    answer = json.loads(capsys.readouterr().out)
    assert answer["search_over_target_by_size"]["arm_percent"] == pytest.approx(by_size, abs=0.05)
    assert answer["search_over_target"]["arm_over_target_percent"] == pytest.approx(flops, abs=0.05)
    header = (shipped_folder("sweeps") / f"{name}.yaml").read_text()
    assert f"{by_size:g} %" in header and f"{flops:g} %" in header


def test_gpu_hours_are_reckoned_from_flops_and_an_assumed_speed(planned) -> None:
    assert planned()["reckoned"] is None  # trials run on the CPU
    words = ("runtime.device=cuda", "plan.gpu=a100", "plan.utilisation=0.5")
    answer = planned(*words)
    reckoned, flops = answer["reckoned"], answer["total"]["flops"]["to_run"]
    assert reckoned["gpu_hours_to_run"] == pytest.approx(flops / (0.5 * 156e12) / 3600, rel=1e-4)
    of_target = answer["target"]["flops"] / (0.5 * 156e12) / 3600
    assert reckoned["target_gpu_hours"] == pytest.approx(of_target, rel=1e-4)
    assert (reckoned["gpu"], reckoned["peak_tflops"]) == ("a100", 156.0)  # in TF32
    assert planned(*words, "precision=bf16")["reckoned"]["peak_tflops"] == 312.0


def test_the_search_is_set_beside_the_target_by_parameters_and_samples_too(planned) -> None:
    answer = planned("sweep.target.budget.steps=24", "sweep.target.budget.batch_size=32")
    parameters = {
        shape["width"]: shape["parameters"]
        for shape in answer["shapes"]
        if shape["parametrization"] in ("mup", "shared")
    }
    one = answer["target"]["parameters"] * 24 * 32
    arm = 100 * 12 * 12 * 8 * sum(parameters.values()) / one
    found = answer["search_over_target_by_size"]
    assert found["arm_percent"] == pytest.approx(arm, rel=1e-3)
    narrowest = 100 * 12 * 12 * 8 * parameters[8] / one
    assert found["narrowest_percent"] == pytest.approx(narrowest, rel=1e-3)


def test_the_text_tabulates_the_ratios_and_says_what_is_assumed(tiny_sweep: Path, capsys) -> None:
    assert main(["plan", str(tiny_sweep), "runtime.device=cuda"]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert "less than 0.1 GPU-hours on h100" in text and "and not measured" in text
    for words in ("parameters x samples of one", "FLOPs of one", "FLOPs of the same search"):
        assert re.search(rf"{words}.*? [\d.]+ % [\d.]+ %", text), words
    assert main(["plan", str(tiny_sweep), "sweep.widths=[8]"]) == 0
    assert "narrowest" not in capsys.readouterr().out  # which is the only one


@pytest.mark.usefixtures("cached")
def test_a_finished_sweep_costs_nothing(planned, tiny_sweep) -> None:
    record(tiny_sweep)
    answer = planned("--workers", "3")
    assert answer["wall_seconds"] == {"workers": 3, "estimate": 0.0, "low": 0.0, "high": 0.0}
    assert answer["total"]["flops"]["to_run"] == 0 and answer["total"]["packs_to_run"] == 0
    assert answer["search_over_target"]["arm_over_target_percent"] > 0


def test_sizes_that_the_folder_records_are_used(planned, tiny_sweep: Path) -> None:
    groups = groups_of(tiny_sweep)
    chosen = {
        key: {"width": group[0].model.width, "size": 3, "seconds": 5.0, "warmup": 1.0}
        for key, group in groups.items()
    }
    packs = Path("results/tiny/packs.json")
    packs.parent.mkdir(parents=True)
    packs.write_text(json.dumps({"packs": chosen}))
    answer = planned(MEASURED, "--workers", "1")
    shape = shape_of(answer, "mup", 16)
    assert (shape["packs"]["size"], shape["packs"]["to_run"]) == (3, 4)
    assert shape["packs"]["source"] == "recorded" and shape["packs"]["bytes"] is None
    taken = (1.0 + STEPS * 5.0) * (1 + shape["evaluation_share"])
    assert shape["packs"]["seconds"]["estimate"] == pytest.approx(taken, rel=1e-4)
    assert shape["packs"]["seconds"]["high"] is None  # nothing says


@pytest.mark.usefixtures("cached")
def test_more_places_end_sooner(planned) -> None:
    few, many = planned(MEASURED, *TWO_PLACES), planned(MEASURED, "--workers", "64")
    assert many["wall_seconds"]["estimate"] < few["wall_seconds"]["estimate"]
    # 60 packs of one end sooner on 64 places than packs of four
    assert many["total"]["packs_to_run"] == 60


def test_a_gpus_hours_are_planned_without_one_from_what_was_measured_on_another_machine(
    planned, tiny_sweep: Path
) -> None:
    remember_of_gpu(question(tiny_sweep).base, (8, 16, 32), COST, "NVIDIA H200")
    words = ("runtime.device=cuda", "executor.gpus=0.5", "executor.name=ray")
    gpu = planned(*words, "executor.price_per_hour=3")  # of what a pack occupies: half a GPU
    assert gpu["place"] == {"unit": "GPU", "count": 0.5, "price_per_hour": 3.0}
    assert shape_of(gpu, "mup", 32)["packs"]["source"] == "cached"
    hours = gpu["total"]["hours"]["estimate"]
    assert gpu["total"]["money"]["estimate"] == pytest.approx(hours / 0.5 * 3, rel=1e-4)
    assert hours == pytest.approx(0.5 * 15 * FULL * 1.2 / 3600, rel=0.1)
    assert "NVIDIA H200" in gpu["notes"][0] and "one pack at a time" in gpu["notes"][1]


@pytest.mark.usefixtures("cached")
def test_a_search_in_rounds_counts_its_points_and_cuts_its_rounds(
    planned, tiny_sweep: Path
) -> None:
    words = ("sweep.design.method=refine", "sweep.design.points=10", "sweep.design.round=2")
    answer = planned(*words)
    assert answer["total"]["trials"]["wanted"] == 5 * 10 * 2
    assert shape_of(answer, "mup", 16)["packs"]["to_run"] == 5
    assert "rounds of 2" in answer["notes"][-1]
    (narrow, *_) = groups_of(tiny_sweep).values()
    record(tiny_sweep, {trial_key(config) for config in narrow}, seconds=10.0)
    shape = shape_of(planned(*words), "shared", 8)
    assert shape["trials"]["recorded"] == 12 and shape["packs"]["to_run"] == 2
    assert shape["packs"]["interval_from"]["basis"] == "rows"


@pytest.mark.usefixtures("cached")
def test_nothing_is_written_and_the_text_ends_with_the_next_command(
    tiny_sweep: Path, capsys
) -> None:
    before = sorted(Path().rglob("*"))
    assert main(["plan", str(tiny_sweep), "executor.price_per_hour=2"]) == 0
    text = capsys.readouterr().out
    assert sorted(Path().rglob("*")) == before
    assert max(len(line) for line in text.splitlines()[:-1]) <= 100
    assert text.splitlines()[-1] == (
        f"next: hptransfer sweep {tiny_sweep} executor.price_per_hour=2"
    )
    for words in ("train in 15 packs", "core-hours", "money", "of one target run", "measurements"):
        assert words in text
    shares = re.findall(r"([\d.]+) %", text)
    assert len(shares) > 3 and all(rounded(float(share), 3) == share for share in shares)
    assert main(["plan", str(tiny_sweep), "--print-config"]) == 0
    assert "widths" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["data=features"], "data=features is read from a folder, but none is named."),
        (
            ["data=image_folder", "runtime.data_folder=gone"],
            "data=image_folder is read from a folder, but gone is none.",
        ),
        (["data=fashion_mnist"], "data=fashion_mnist is read from a folder, but none is named."),
    ],
)
def test_data_that_are_not_there_are_told_beside_the_plan(
    tiny_sweep: Path, capsys, words: list[str], said: str
) -> None:
    assert main(["plan", "quickstart", *words]) == 0
    text = " ".join(capsys.readouterr().out.split())
    assert f"This sweep cannot be run yet: {said}" in text and "next: hptransfer sweep" in text


@pytest.mark.parametrize(
    ("words", "sentence"),
    [
        (["--workers", "0"], "--workers must be positive, but got 0"),
        (["sweep.widths=[8,20]", "model.head_dim=8"], "multiple of the head dimension"),
        (["sweep.target.model.width=16"], "at least as wide as the widest swept model"),
        (["plan.gpu=voodoo"], "`plan.gpu` must be one of a100, h100, h200, b200, l40s"),
        (["plan.utilisation=0"], "`plan.utilisation` must be above 0"),
        (["executor.price_per_hour=-1"], "`executor.price_per_hour` must not be negative"),
    ],
)
def test_bad_input_is_one_sentence(tiny_sweep: Path, capsys, words, sentence) -> None:
    assert main(["plan", str(tiny_sweep), *words]) == 2
    error = capsys.readouterr().err
    assert sentence in error and len(error.splitlines()) == 1


def test_another_question_under_the_same_name_is_refused(tiny_sweep: Path, capsys) -> None:
    folder = Path("results/tiny")
    folder.mkdir(parents=True)
    from hptransfer.config.compose.compose import resolved_yaml

    (folder / "sweep.yaml").write_text(resolved_yaml(compose_file(tiny_sweep, []), name="tiny"))
    assert main(["plan", str(tiny_sweep), "budget.steps=13"]) == 2
    assert "another question" in capsys.readouterr().err


def test_intervals_add_up_as_if_all_were_late() -> None:
    one = costs.Interval(1.0, 0.5, 2.0)
    assert costs.sum_intervals([one, one.times(2.0)]) == costs.Interval(3.0, 1.5, 6.0)
    assert costs.sum_intervals([]) == costs.NOTHING
